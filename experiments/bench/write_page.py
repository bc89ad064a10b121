"""Put a bench's figures into docs/performance.md, between its two marks.

lorafusion bench --json --figure docs/performance.svg > bench.json
python experiments/bench/write_page.py bench.json docs/performance.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

BEGIN, END = "<!-- figures begin -->", "<!-- figures end -->"
RATIO = (
    ("shape", "batch x in x out", ""), ("name", "case", ""), ("median_ms", "ms", ".3f"), ("spread", "min to max", ""),
    ("ratio", "ratio", ".2f"), ("ratio_of_minima", "of minima", ".2f"), ("goal", "goal", "g"), ("met", "verdict", ""),
)  # fmt: skip
COLUMNS = {
    "memory": (
        ("name", "case", ""), ("bytes_per_weight", "bytes per weight", ".2f"), ("result_MiB", "result, MiB", ".2f"),
        ("scratch_MiB", "scratch, MiB", ".2f"), ("kept_MiB", "of it kept, MiB", ".2f"),
    ),
    "wires": (*RATIO[:4], ("ratio", "of sparse LU", ".4f"), ("largest_difference", "difference", ".1e")),
    "programming": (*RATIO[1:4], ("ns_per_cell", "ns/cell", ".1f"), ("ratio", "of NumPy", ".3f"), ("goal_ms", "goal, ms", ".0f"), RATIO[-1]),
}  # fmt: skip


def section(part, report):
    """A heading, what it was measured on, and the table."""
    about = "; ".join(f"{key} {value}" for key, value in report["machine"].items())
    columns = COLUMNS.get(part, RATIO)
    lines = [f"### {part}", "", f"{report['date']}, {report['runs']} runs. {about}.", *report["notes"], ""]
    lines += ["| " + " | ".join(heading for _, heading, _ in columns) + " |", "|" + "---|" * len(columns)]
    for row in report["rows"]:
        if "min_ms" in row:
            row["spread"] = f"{row['min_ms']:.3f} to {row['max_ms']:.3f}"
        lines.append("| " + " | ".join(cell(row.get(key), form) for key, _, form in columns) + " |")
    return "\n".join(lines)


STEPS = (
    ("sums of one digit, 256 word lines", "L0 int15, no noise", "L0 int8, no noise", 0),
    ("converter, weight, sum", "L0 int8, no noise", None, 1),
    ("a normal number and its use", "L0 int8, fixed noise", "L0 int8, no noise", 0),
    (
        "exact variance: three products of digits, a root",
        "L0 int8, exact variance",
        "L0 int8, fixed noise",
        0,
    ),
)
"""What a step costs: the time of one case less that of another, less so many digits."""
SHAPE, CONVERSIONS = "256x1024x1024", 4 * 256 * 1024


def costs(rows):
    """Nanoseconds per conversion of each step, from the differences between cases."""
    ms = {row["name"]: row["min_ms"] for row in rows if row["shape"] == SHAPE}
    if not {case for _, *cases, _ in STEPS for case in cases if case} <= ms.keys():
        return ""
    lines = [
        f"Nanoseconds per conversion, {SHAPE}, from differences between least times:",
        "",
        "| step | from | ns |",
        "|---|---|---|",
    ]
    digit = None
    for step, case, less, digits in STEPS:
        ns = 1e6 * (ms[case] - ms.get(less, 0.0)) / CONVERSIONS - digits * (digit or 0.0)
        digit = ns if digit is None else digit
        told = f"{case}, less " + (less or "one digit")
        lines.append(f"| {step} | {told} | {ns:.2f} |")
    return "\n".join(lines)


def cell(value, form):
    """A number in its format, text as it is, nothing for what is missing."""
    return "" if value is None else format(value, "" if isinstance(value, str) else form)


def main():
    """Replace what stands between the marks."""
    if len(sys.argv) != 3:
        raise SystemExit(f"write_page: needs a report and a page\n\n{__doc__}")
    reports, page = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2])
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"write_page: {page} has no marks {BEGIN} and {END}; put them where the figures go")
    figures = "\n\n".join(section(part, report) for part, report in reports.items())
    figures += "\n\n" + costs(reports["mvm"]["rows"]) if "mvm" in reports else ""
    page.write_text(f"{before}{BEGIN}\n\n{figures}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
