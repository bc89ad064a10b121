"""What the benches share: options, a clean environment, interleaved timing, the machine, tables and JSON.

A bench calls `chosen` before it imports NumPy: libraries read their environment when they are loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

HELD_BACK = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OMP_WAIT_POLICY")
"""Variables that make the baselines slower where they are set: older instructions, sleeping threads."""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
FEWEST_RUNS = 5
TOLERANCE = 1.10
"""A goal is met up to 10 % above it (docs/definitions.md, "Kernel goals")."""
SAMPLE = 4e-3
"""Seconds that a timed sample lasts at least; quicker work is repeated in it."""
MOST_CALLS = 200
STEADY = 1.5
"""Median over least time above which the machine disturbed the runs: then no goal is judged."""
REST = 2e-3
"""Seconds over which this process must be idle before a contender is timed."""
PATIENCE = 0.5
"""Seconds after which it is timed all the same."""
BUSY = "The machine is busy: baselines whose threads wait for each other flatter us; believe --threads 1."

ALONE = ", one thread"
"""What the name of a baseline ends with that runs on one thread though there are more."""
LONG_MS = 1.0
"""A baseline that takes longer than this and is best on one thread was stalled on more."""

Work = Callable[[], Any]
Row = dict[str, Any]
Columns = Sequence[tuple[str, str, str]]
"""Key of a row, heading, format ("" for text)."""
RATIOS: Columns = (
    ("shape", "batch x in x out", ""),
    ("name", "case", ""),
    ("median_ms", "median ms", ".3f"),
    ("min_ms", "min", ".3f"),
    ("max_ms", "max", ".3f"),
    ("ratio", "ratio", ".2f"),
    ("ratio_of_minima", "of minima", ".2f"),
    ("goal", "goal", "g"),
    ("met", "verdict", ""),
)


def parser(doc: str | None, *, runs: int = 9) -> argparse.ArgumentParser:
    """The options that every bench has; a bench may add its own before `chosen`."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("--json", action="store_true", help="print one JSON object")
    made.add_argument("--save", type=Path, metavar="FILE", help="write the JSON object to a file, too")
    made.add_argument(
        "--runs", type=int, default=runs, help=f"timed runs of each (at least {FEWEST_RUNS}; default {runs})"
    )
    made.add_argument("--threads", type=int, default=os.cpu_count(), help="threads for everybody")
    made.add_argument("--quick", action="store_true", help="tiny shapes: whether it runs, not how fast")
    return made


def chosen(made: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line, in an environment that holds nobody back (the process starts again for that if it must)."""
    options = made.parse_args()
    if options.runs < FEWEST_RUNS:
        made.error(f"--runs: must be at least {FEWEST_RUNS} (got {options.runs})")
    if options.threads < 1:
        made.error(f"--threads: must be at least 1 (got {options.threads})")
    wanted = {k: v for k, v in os.environ.items() if k not in HELD_BACK}
    wanted |= dict.fromkeys(THREADS, str(options.threads))
    if wanted != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.argv], wanted)
    _find_the_project()
    return options


def _find_the_project() -> None:
    """Put a checkout's rooms on the path of an interpreter in which the project is not installed."""
    root = Path(__file__).resolve().parents[2]
    for package, room in (
        ("crossbar_kernels", "kernels"),
        ("crossbar_sim", ""),
        ("crossbar_experiments", "experiments"),
    ):
        if find_spec(package) is None and (root / room / package).is_dir():
            sys.path.insert(0, str(root / room))


# -- timing ----------------------------------------------------------------------------------------------------------


class OneThread(NamedTuple):
    """Work that NumPy and torch do on one thread."""

    work: Work

    def __call__(self) -> Any:
        """Do it."""
        return self.work()


def also_alone(baselines: Mapping[str, Work], threads: int) -> dict[str, Work]:
    """The baselines and, where there are several threads, each on one: that cannot be stalled by its own threads' barriers."""
    if threads == 1:
        return dict(baselines)
    return {**baselines, **{name + ALONE: OneThread(work) for name, work in baselines.items()}}


@contextmanager
def _threads_of(work: Work) -> Iterator[None]:
    """One thread for NumPy and torch while `OneThread` work runs, and as many as before afterwards."""
    torch = sys.modules.get("torch")
    if not isinstance(work, OneThread) or torch is None:
        yield
        return
    found = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _blas_pools().limit(limits=1, user_api="blas") if _blas_pools() else nullcontext():
            yield
    finally:
        torch.set_num_threads(found)


@cache
def _blas_pools() -> Any:
    """The BLAS libraries' thread pools, or None without threadpoolctl."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    return ThreadpoolController()


def interleaved(
    contenders: Mapping[str, Work], *, runs: int, at_most: Mapping[str, int] | None = None
) -> dict[str, list[float]]:
    """Seconds per call of every run, one contender after the other, so that other work on the machine meets all alike.

    Before each sample comes one that is not kept, which brings the contender's own threads and caches up.

    Args:
        contenders: what to time, by name; called twice first, to compile and to see how long it takes.
        runs: samples of each.
        at_most: fewer samples for slow rivals, by name; those are not called first.
    """
    few = at_most or {}
    calls = {name: 1 if name in few else _calls(work) for name, work in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for run in range(runs):
        for name, work in contenders.items():
            if run < few.get(name, runs):
                rest()
                with _threads_of(work):
                    if name not in few:
                        _sample(work, calls[name])
                    seconds[name].append(_sample(work, calls[name]))
    return seconds


def rest() -> None:
    """Wait until the threads of the last contender sleep: OpenBLAS's spin for a tenth of a second at their barrier."""
    latest = time.perf_counter() + PATIENCE
    while time.perf_counter() < latest:
        before = time.process_time()
        time.sleep(REST)
        if time.process_time() - before < REST / 10:
            return


def _calls(work: Work) -> int:
    """How many calls fill a sample."""
    with _threads_of(work):
        work()
        took = _sample(work, 1)
    return max(1, min(MOST_CALLS, round(SAMPLE / took)))


def _sample(work: Work, calls: int) -> float:
    begun = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - begun) / calls


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median, least and most of a contender's samples, in ms."""
    ordered = sorted(seconds)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else 0.5 * (ordered[middle - 1] + ordered[middle])
    return {"median_ms": 1e3 * median, "min_ms": 1e3 * ordered[0], "max_ms": 1e3 * ordered[-1]}


def ratios(
    seconds: Mapping[str, Sequence[float]],
    baselines: Collection[str],
    goals: Mapping[str, float],
    **about: Any,
) -> list[Row]:
    """One row per contender: its time over that of the best baseline of the same run, beside its goal.

    Args:
        seconds: from `interleaved`.
        baselines: names of the contenders that count as baseline, also on one thread; the one with the least median is it.
        goals: largest ratio wanted, by name.
        about: entries that every row gets (the shape).
    """
    found = {name: spread(samples) for name, samples in seconds.items()}
    of = [name for name in found if name.removesuffix(ALONE) in baselines]
    best = min(of, key=lambda name: found[name]["median_ms"])
    least = min(found[name]["min_ms"] for name in of)
    stalled = best.endswith(ALONE) and found[best]["median_ms"] > LONG_MS
    steady = found[best]["median_ms"] <= STEADY * least and not stalled
    rows = []
    for name, figures in found.items():
        ratio, goal = figures["median_ms"] / found[best]["median_ms"], goals.get(name)
        calm = steady and figures["median_ms"] <= STEADY * figures["min_ms"]
        rows.append(
            {
                **about, "name": name, **figures, "plain": name in of, "baseline": best, "ratio": ratio,
                "ratio_of_minima": figures["min_ms"] / least, "goal": goal, "met": verdict(ratio, goal, calm=calm),
            }
        )  # fmt: skip
    return rows


def verdict(figure: float, goal: float | None, *, calm: bool = True) -> str:
    """ "met", "missed by 12 %", or nothing where there is no goal; a ratio of disturbed times decides nothing."""
    if goal is None:
        return ""
    if not calm:
        return "disturbed"
    return "met" if figure <= TOLERANCE * goal else f"missed by {100 * (figure / goal - 1):.0f} %"


# -- what is told ----------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What the figures were measured on: processor, load, threads, libraries."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "threads": os.environ["OMP_NUM_THREADS"],
        "python": platform.python_version(),
        **{package: installed(package) for package in ("numpy", "torch", "numba", "scipy")},
        "blas": _blas(),
    }


def installed(package: str) -> str:
    """A package's version, or "not installed"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    """The processor's name and the instructions that decide how fast integers are multiplied."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    about = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    known = [
        flag
        for flag in ("avx2", "avx512f", "avx512_vnni", "amx_int8")
        if flag in about.get("flags", "").split()
    ]
    return f"{about.get('model name', platform.machine())} ({', '.join(known) or 'no vector instructions listed'})"


def _blas() -> str:
    """The BLAS libraries in use and the processors they were chosen for."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return "unknown (threadpoolctl is not installed)"
    pools = (
        f"{i['internal_api']} {i.get('architecture', '')} x{i['num_threads']}" for i in threadpool_info()
    )
    return ", ".join(pools) or "none loaded"


def publish(
    name: str, rows: list[Row], columns: Columns, options: argparse.Namespace, *, notes: Sequence[str] = ()
) -> None:
    """Print the table or the JSON object, and save the latter where that is asked for."""
    about = machine()
    report = {
        "bench": name,
        "date": datetime.now(UTC).date().isoformat(),
        "runs": options.runs,
        "quick": options.quick,
        "machine": about,
        "notes": list(notes),
        "rows": rows,
    }
    text = json.dumps(report, indent=1)
    if options.save is not None:
        options.save.write_text(text, encoding="utf-8")
    if options.json:
        print(text)
        return
    print(f"{name}: {'; '.join(f'{k} {v}' for k, v in about.items())}")
    if options.threads > 1 and about["load_average"] > 0.5 * about["cores"]:
        print(BUSY)
    print(table(rows, columns))
    for note in notes:
        print(note)
    print()


def table(rows: Sequence[Row], columns: Columns) -> str:
    """Rows in columns: text to the left, numbers to the right, what is missing left out."""
    cells = [[_cell(row.get(key), form) for key, _, form in columns] for row in rows]
    lines = [[heading for _, heading, _ in columns], *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            text.rjust(width) if form else text.ljust(width)
            for text, width, (_, _, form) in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in lines
    )


def _cell(value: Any, form: str) -> str:
    return "" if value is None else format(value, form if not isinstance(value, str) else "")
