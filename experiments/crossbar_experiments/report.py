"""The report of an experiment: one HTML file that needs no network and says where each number is from."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossbar_experiments import ablation, figures, style, tables
from crossbar_experiments.chips import ChipConfig
from crossbar_experiments.errors import BenchError
from crossbar_experiments.paired import Difference, paired_difference
from crossbar_experiments.store import StoreError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from crossbar_experiments.store import Results

METHOD = "fusion"
SOURCE_FIELDS = ("chip", "name", "value", "mark", "source", "low", "high", "note")


@dataclass(frozen=True)
class Claim:
    """What the headline says of one rival: `ours` minus `rival`, both rows of the comparison."""

    chip: str
    ours: tables.Row
    rival: tables.Row
    difference: Difference
    verdict: str
    cheapest: bool

    @property
    def sentence(self) -> str:
        """The claim in words."""
        gap = self.difference
        interval = tables.signed_interval(gap.mean, gap.low, gap.high)
        who = f"{self.rival['label']}{', the cheapest rival' if self.cheapest else ''}"
        text = f"{self.ours['label']} minus {who}: {interval} points"
        energies = [tables.engineering(row["task_energy_J"], "J") for row in (self.ours, self.rival)]
        if tables.MISSING in energies:
            return text
        return f"{text}; {energies[0]} against {energies[1]} per task; {self._break_even}"

    @property
    def _break_even(self) -> str:
        tasks = tables.break_even_tasks(self.ours, self.rival)
        if math.isnan(tasks):
            return "break-even not known"
        if math.isinf(tasks):
            return "deployment included, never cheaper for good"
        since = f"from {tables.count(tasks)} tasks on" if tasks else "from the start"
        return f"deployment included, no dearer {since}"


def claims(results: Results, table: pd.DataFrame, *, goal: float) -> list[Claim]:
    """Fusion against every LoRA placement and against the cheapest trained rival, on each chip.

    The cheapest rival is the method outside the fusion family that trains something and spends the least
    energy per task; zero-shot trains nothing and is no rival. Cheap rivals come first.

    Args:
        results: the cells.
        table: their comparison.
        goal: what the difference must reach, in points.
    """
    found = []
    for chip, part in table.groupby("chip"):
        rows = tables.rows_of(part)
        rivals = [row for row in rows if row["method"] not in style.FUSION and row["trainable"] > 0]
        rivals.sort(key=lambda row: row["task_energy_J"])
        priced = [row for row in rivals if not math.isnan(row["task_energy_J"])]
        cheapest = priced[0]["label"] if priced else None
        for ours in (row for row in rows if row["method"] == METHOD):
            for rival in rivals:
                if rival["method"] != style.RIVAL and rival["label"] != cheapest:
                    continue
                gap = paired_difference(results, chip=str(chip), label=ours["label"], baseline=rival["label"])
                judged = tables.verdict(gap.mean, gap.low, goal)
                found.append(Claim(str(chip), ours, rival, gap, judged, rival["label"] == cheapest))
    return found


def write_report(
    results: Results,
    path: str | Path,
    *,
    title: str,
    command: str,
    sources: Sequence[Mapping[str, object]],
    not_modelled: Sequence[str] = (),
    goal: float = 0.0,
) -> Path:
    """Write the report of an experiment as one self-contained HTML file.

    Args:
        results: what `store.load` gives.
        path: the file to write.
        title: heading of the page.
        command: the command line that made the results.
        sources: the numbers of the chips, each with the keys of SOURCE_FIELDS (what is absent stays empty).
        not_modelled: what the simulation leaves out, one sentence each.
        goal: points that fusion minus LoRA must reach.

    Raises:
        BenchError: results that are empty or cannot be compared.
        StoreError: the file cannot be written.
    """
    html = render(
        results,
        title=title,
        command=command,
        sources=sources,
        not_modelled=not_modelled,
        goal=goal,
    )
    path = Path(path)
    aside = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(html, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise StoreError(f"report: cannot write {path} ({error.strerror}); choose another place") from None
    return path


def render(
    results: Results,
    *,
    title: str,
    command: str,
    sources: Sequence[Mapping[str, object]],
    not_modelled: Sequence[str] = (),
    goal: float = 0.0,
) -> str:
    """The report as HTML text. See `write_report`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    baseline = strongest_lora(results)
    table = tables.compare(results, baseline)
    runs = results.metrics[["cell", "chip", "label", "task"]]
    by_task = tables.task_table(results)
    ledger = results.ledger.merge(runs, on="cell", suffixes=("", "_of_run"))
    own = ledger[ledger["task"] == ledger["task_of_run"]]
    drawn = {"scatter": overview(table), "phases": figures.energy_by_phase(own)}
    loader = PackageLoader("crossbar_experiments", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template("report.html.jinja").render(
        title=title,
        command=command,
        baseline=baseline,
        goal=goal,
        claims=claims(results, table, goal=goal),
        many_chips=table["chip"].nunique() > figures.MOST_CHIPS,
        main=_block(table, tables.columns_of(table)),
        chips=_chips(results.settings()),
        beside=_beside(results, table),
        tasks=_block(by_task, tables.columns_of(by_task)),
        pivot=_pivot(table, results.metrics),
        figures={name: Markup(figures.svg(f, prefix=f"{name}-")) for name, f in drawn.items()},
        ledger=_ledger_totals(ledger),
        cells=tables.rows_of(results.metrics.sort_values(["chip", "label", "task", "seed", "chip_seed"])),
        rejected=results.rejected,
        settings=_settings(results.environments.values()),
        sources=[{name: _shown(row.get(name)) for name in SOURCE_FIELDS} for row in sources],
        shares=_shares(table),
        not_modelled=not_modelled,
        engineering=tables.engineering,
        count=tables.count,
    )


def strongest_lora(results: Results) -> str:
    """The label of the most accurate LoRA, or of the most accurate method where there is no LoRA."""
    metrics = results.metrics
    if metrics.empty:
        raise BenchError("report: there are no finished cells; run the experiment first")
    lora = metrics[metrics["method"] == style.RIVAL]
    means = (metrics if lora.empty else lora).groupby("label")["accuracy"].mean()
    return str(means.idxmax())


def overview(table: pd.DataFrame) -> Figure:
    """Accuracy against energy; chip by chip where a scatter would hold too many."""
    if table["chip"].nunique() > figures.MOST_CHIPS:
        return figures.accuracy_by_chip(table)
    return figures.energy_against_accuracy(table)


def _beside(results: Results, table: pd.DataFrame) -> dict[str, Any] | None:
    """The chips side by side, where there are several."""
    if table["chip"].nunique() < 2:
        return None
    priced = ablation.priced_label(results)
    frame = ablation.side_by_side(table, priced=priced)
    return {"priced": priced, **_block(frame, ablation.columns_of(frame, priced))}


def _chips(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A row per chip with everything in which chips can differ."""
    names = [f.name for f in fields(ChipConfig)]
    rows = [[label, *(_setting(chip, name) for name in names)] for label, chip in settings.items()]
    return {"names": names, "rows": sorted(rows)}


def _setting(chip: Mapping[str, Any], name: str) -> str:
    if name == "effects" and name not in chip:
        return "all" if chip.get("ir_drop") else "all but ir_drop"
    if name == "effects" and not chip[name]:
        return "none"
    return _shown(chip.get(name))


def _block(table: pd.DataFrame, columns: Sequence[tables.Column]) -> dict[str, Any]:
    """A table for the template: widths of the groups, columns, and rows of (text, sort key, column)."""
    spans: list[list[Any]] = []
    for column in columns:
        if spans and spans[-1][0] == column.group:
            spans[-1][1] += 1
        else:
            spans.append([column.group, 1])
    rows = [
        {
            "cells": str(row["cells"]).split(),
            "emphasis": row["method"] in style.FUSION,
            "entries": [(column.text(row), row[column.name], column) for column in columns],
        }
        for row in tables.rows_of(table)
    ]
    return {"spans": spans, "columns": columns, "rows": rows}


def _pivot(table: pd.DataFrame, metrics: pd.DataFrame) -> dict[str, Any]:
    """Accuracy (%) with a column per task, the tasks ordered by stratum."""
    order = metrics[["stratum", "task"]].drop_duplicates().sort_values(["stratum", "task"])
    groups: dict[str, list[str]] = {}
    for stratum, task in order.itertuples(index=False):
        groups.setdefault(stratum, []).append(task)
    names = [tables.TASK_ACCURACY + task for tasks in groups.values() for task in tasks]
    rows = [
        {"chip": row["chip"], "label": row["label"], "values": [row[name] for name in names]}
        for row in tables.rows_of(table)
    ]
    return {"groups": groups, "rows": rows}


def _ledger_totals(ledger: pd.DataFrame) -> list[dict[str, Any]]:
    """Per chip and label: count, energy and time by phase and action, mean of the cells."""
    numbers = ["count", "energy_J", "time_s"]
    sections = []
    for (chip, label), part in ledger.groupby(["chip", "label"]):
        cells = part["cell"].nunique()
        grouped = part.groupby(["phase", "action"], as_index=False)
        sums = grouped[numbers].agg(_total)
        sums[numbers] /= cells
        sections.append({"chip": chip, "label": label, "cells": cells, "rows": tables.rows_of(sums)})
    return sections


def _total(column: pd.Series[float]) -> float:
    return float(column.sum(skipna=False))


def _settings(environments: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What the cells ran on: every setting with its values, several where the cells differ."""
    values: dict[str, dict[str, None]] = {}
    for environment in environments:
        for name, value in environment.items():
            values.setdefault(name, {})[_shown(value)] = None
    return [(name, "; ".join(shown)) for name, shown in sorted(values.items())]


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_shown(part) for part in value)
    return str(value)


def _shares(table: pd.DataFrame) -> list[tuple[str, float, float]]:
    """Chip, smallest and largest share (%) of a total energy that rests on assumed numbers."""
    known = table[table["assumed_share"].notna()]
    ends = known.groupby("chip")["assumed_share"].agg(["min", "max"])
    return [(str(chip), 100.0 * low, 100.0 * high) for chip, low, high in ends.itertuples()]
