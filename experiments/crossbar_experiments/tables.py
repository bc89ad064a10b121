"""Results as tables: methods compared on each chip, and task by task; as frame, Markdown or terminal text."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from crossbar_experiments.paired import REPLICATE, check_label, one_cell_per_run, paired_difference
from crossbar_sim.ledger import TASK_PHASES

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from crossbar_experiments.store import Results

MISSING = "\u2013"
NO_LIMIT = "no limit"
PREFIXES = {-18: "a", -15: "f", -12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T"}
TASK_ACCURACY = "accuracy: "
"""Columns of `compare` that hold one task's accuracy are named so, followed by the task."""
ALLOWANCE = 1.0
"""How far below a goal the interval's lower end may lie, in points."""
PHASE_ENERGIES = tuple(f"{phase}_energy_J" for phase in TASK_PHASES)
LEAST = ("tasks_until_wear_out", "refreshes_left")
"""Columns of which the worst run counts."""
MEANS = (
    "trainable",
    "trainable_fraction_of_lora",
    "modules",
    "cells_deployed",
    "tiles_deployed",
    "chips_needed",
    "deploy_energy_J",
    "cells_rewritten",
    "write_energy_J",
    *PHASE_ENERGIES,
    "task_energy_J",
    "rest_energy_J",
    "write_time_s",
    "write_time_rows_s",
    "task_time_s",
    "inference_time_s",
    "mean_wear_cycles",
    "digital_words",
    "text_energy_J",
)
Row = Mapping[Hashable, Any]


def compare(results: Results, baseline: str) -> pd.DataFrame:
    """One row per chip and label, against the label `baseline` on the same chip.

    Accuracies are in percent and differences in points; every mean is taken over the seeds of a task and then
    over the tasks. `sd` is the standard deviation over seeds of the mean over tasks; `difference`, `low` and
    `high` are those of `paired.paired_difference`; the worst cell's wear, and what it leaves, are those of the worst run; `assumed_share` is of a
    task's energy; `cells` are the ids behind the row. A mean over anything unknown is NaN.

    Raises:
        BenchError: no cell has the label, or two cells answer for one run.
    """
    import pandas as pd

    metrics = _per_text(results.metrics)
    check_label(metrics, baseline, "baseline")
    one_cell_per_run(metrics)
    rows = []
    for (chip, label), group in metrics.groupby(["chip", "label"]):
        difference = paired_difference(results, chip=str(chip), label=str(label), baseline=baseline)
        by_task = group.groupby("task")["accuracy"].mean()
        rows.append(
            {
                **_summary(group),
                "difference": difference.mean,
                "low": difference.low,
                "high": difference.high,
                **{TASK_ACCURACY + str(task): 100.0 * value for task, value in by_task.items()},
            }
        )
    table = pd.DataFrame(rows).sort_values(["chip", "accuracy", "label"], ascending=[True, False, True])
    return table.reset_index(drop=True)


def task_table(results: Results) -> pd.DataFrame:
    """One row per chip, task and label: accuracy in percent, and costs; means over the seeds."""
    import pandas as pd

    one_cell_per_run(results.metrics)
    rows = [
        {**_summary(group), "stratum": stratum, "task": task, "n_test": group["n_test"].max()}
        for (_, stratum, task, _), group in _per_text(results.metrics).groupby(
            ["chip", "stratum", "task", "label"]
        )
    ]
    table = pd.DataFrame(rows)
    keys = ["chip", "stratum", "task", "accuracy", "label"]
    table = table.sort_values(keys, ascending=[True, True, True, False, True]).reset_index(drop=True)
    first = ["chip", "stratum", "task", "label"]
    return table[first + [name for name in table.columns if name not in first]]


def _per_text(metrics: pd.DataFrame) -> pd.DataFrame:
    """The cells with the energy of one inference beside that of all test texts."""
    return metrics.assign(text_energy_J=metrics["inference_energy_J"] / metrics["n_test"])


def _summary(group: pd.DataFrame) -> dict[str, Any]:
    """What the runs of one label come to."""
    accuracy = _mean(group, "accuracy")
    first = group.iloc[0]
    return {
        **{name: first[name] for name in ("chip", "backward", "label", "method", "placement")},
        "tasks": group["task"].nunique(),
        "seeds": len(group[REPLICATE].drop_duplicates()),
        "accuracy": 100.0 * accuracy,
        "sd": 100.0 * group.groupby(REPLICATE)["accuracy"].mean().std(ddof=1),
        **{name: _mean(group, name) for name in MEANS},
        "worst_wear_cycles": group["worst_wear_cycles"].max(skipna=False),
        **{name: group[name].min(skipna=False) for name in LEAST},
        "assumed_share": _assumed_share(group),
        "cells": " ".join(sorted(group["cell"])),
    }


def _mean(group: pd.DataFrame, name: str) -> float:
    means = group.groupby("task")[name].agg(lambda column: column.mean(skipna=False))
    return float(means.mean(skipna=False))


def _assumed_share(group: pd.DataFrame) -> float:
    energy = group["task_energy_J"]
    total = float(energy.sum(skipna=False))
    return float((group["assumed_share"] * energy).sum(skipna=False)) / total if total else math.nan


def verdict(difference: float, low: float, goal: float) -> str:
    """Whether a difference meets a goal, all in points.

    "met": the mean is >= the goal and the interval's lower end is >= the goal - 1 point. "not met": the mean
    is below the goal. "not shown": the mean reaches the goal but the interval reaches too far below it, or a
    number is unknown.
    """
    slack = 1e-9  # a sum of rounded parts may miss the goal that it equals
    if math.isnan(difference):
        return "not shown"
    if difference < goal - slack:
        return "not met"
    return "met" if low >= goal - ALLOWANCE - slack else "not shown"


def break_even_tasks(ours: Row, rival: Row) -> float:
    """Number of tasks from which on deploy + tasks * per task (J) is never above the rival's; inf: none."""
    extra = ours["deploy_energy_J"] - rival["deploy_energy_J"]
    saved = rival["task_energy_J"] - ours["task_energy_J"]
    if math.isnan(extra) or math.isnan(saved):
        return math.nan
    if saved < 0 or (saved == 0 and extra > 0):
        return math.inf
    return max(0, math.ceil(extra / saved)) if saved > 0 else 0


def engineering(value: float, unit: str) -> str:
    """A number with an SI prefix: "4.9 mJ", "49 mJ", "0 J"; "–" where it is not known."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return f"0 {unit}".rstrip()
    power = min(max(3 * math.floor(math.log10(abs(value)) / 3), min(PREFIXES)), max(PREFIXES))
    text = _mantissa(value / 10.0**power)
    if abs(float(text)) >= 1000 and power < max(PREFIXES):
        power += 3
        text = _mantissa(value / 10.0**power)
    return f"{text} {PREFIXES[power]}{unit}".rstrip()


def _mantissa(value: float) -> str:
    return f"{value:.1f}" if abs(value) < 9.95 else f"{value:.0f}"


def count(value: float) -> str:
    """A whole number with thousands set apart: "786,432"; "–" where it is not known."""
    return MISSING if value is None or not math.isfinite(value) else f"{round(value):,}"


def limit(value: float) -> str:
    """How often something can be done: a whole number, or "no limit"."""
    return NO_LIMIT if value == math.inf else count(value)


def signed_interval(mean: float, low: float, high: float) -> str:
    """A difference and its interval: "+1.2 [−0.3, +2.7]"."""
    if math.isnan(mean):
        return MISSING
    ends = MISSING if math.isnan(low) else f"[{low:+.1f}, {high:+.1f}]"
    return f"{mean:+.1f} {ends}".replace("-", "\u2212")


def _percent(value: float) -> str:
    return MISSING if math.isnan(value) else f"{value:.1f}"


@dataclass(frozen=True)
class Column:
    """How a column is shown: its title, the group it stands in, and a row's text."""

    name: str
    title: str
    group: str
    text: Callable[[Row], str]
    numeric: bool = True

    @property
    def heading(self) -> str:
        """Title and group in one."""
        return f"{self.group}: {self.title}" if self.group else self.title


def _column(name: str, title: str, group: str, text: Callable[[Any], str]) -> Column:
    return Column(name, title, group, lambda row: text(row[name]), numeric=text is not str)


def percent_column(name: str, title: str, group: str) -> Column:
    """A column of percentages."""
    return _column(name, title, group, _percent)


def regrouped(column: Column, group: str) -> Column:
    """The column under a group of its own: "deploy: cells" becomes the column "deploy cells" of `group`."""
    return replace(column, title=f"{column.group} {column.title}".strip(), group=group)


def _energy(name: str, title: str, group: str) -> Column:
    return _column(name, title, group, lambda value: engineering(value, "J"))


def _time(name: str, title: str, group: str) -> Column:
    return _column(name, title, group, lambda value: engineering(value, "s"))


def _cycles(value: float) -> str:
    return MISSING if math.isnan(value) else f"{value:.1f}" if value < 100 else count(value)


COLUMNS = (
    _column("chip", "chip", "", str),
    _column("backward", "backward", "", str),
    _column("stratum", "stratum", "", str),
    _column("task", "task", "", str),
    _column("label", "method", "", str),
    _column("tasks", "tasks", "", count),
    _column("n_test", "texts", "", count),
    _column("accuracy", "%", "accuracy", _percent),
    _column("sd", "sd over seeds", "accuracy", _percent),
    Column(
        "difference",
        "points [95 %]",
        "accuracy",
        lambda row: signed_interval(row["difference"], row["low"], row["high"]),
    ),
    _column("trainable", "trained", "", count),
    _column("cells_deployed", "cells", "deploy", count),
    _column("tiles_deployed", "tiles", "deploy", count),
    _column("chips_needed", "chips", "deploy", count),
    _energy("deploy_energy_J", "energy", "deploy"),
    _column("cells_rewritten", "cells written", "per task", count),
    *(_energy(name, name.partition("_")[0], "energy per task") for name in PHASE_ENERGIES),
    _energy("task_energy_J", "total", "energy per task"),
    _energy("write_energy_J", "its writes", "energy per task"),
    _energy("rest_energy_J", "its rest", "energy per task"),
    _time("task_time_s", "all", "time per task"),
    _time("write_time_s", "writes serial", "time per task"),
    _time("write_time_rows_s", "writes by row", "time per task"),
    _column("mean_wear_cycles", "mean cycles", "wear per task", _cycles),
    _column("worst_wear_cycles", "worst cycles", "wear per task", _cycles),
    _column("tasks_until_wear_out", "tasks left", "wear per task", limit),
    _column("refreshes_left", "rewrites left", "pool", limit),
    _energy("text_energy_J", "energy", "per text"),
    _time("inference_time_s", "time", "per text"),
    _column("digital_words", "digital state, words", "", count),
    Column(
        "assumed_share",
        "assumed share, %",
        "",
        lambda row: _percent(100.0 * row["assumed_share"]),
    ),
)


OUTCOME = (
    "label",
    "accuracy",
    "difference",
    "trainable",
    "deploy_energy_J",
    "cells_rewritten",
    "task_energy_J",
    "task_time_s",
    "text_energy_J",
    "inference_time_s",
)
"""Columns of a terminal's first table: what a method reaches, and what it costs in all. The chip and its backward mode are the title."""
PER_TASK = " per task"
"""End of the groups of a task's energy, time and wear."""
COST = (
    "label",
    *PHASE_ENERGIES,
    "write_energy_J",
    "rest_energy_J",
    "write_time_s",
    "write_time_rows_s",
    "mean_wear_cycles",
    "worst_wear_cycles",
    *LEAST,
)
"""Columns of its second table: the cost of a task by phase, what writing takes and what it wears."""


def columns_of(table: pd.DataFrame) -> tuple[Column, ...]:
    """The columns to show of what `compare` or `task_table` made; a column without a value is left out."""
    present = [column for column in COLUMNS if column.name in table.columns]
    return tuple(column for column in present if not column.numeric or table[column.name].notna().any())


def rows_of(table: pd.DataFrame) -> list[Row]:
    """The frame's rows as mappings."""
    return list(table.to_dict("records"))


def json_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The frame's rows for JSON, which has no infinity: "no limit" stands for it, null for what is not known."""
    return [{str(name): _plain_number(value) for name, value in row.items()} for row in rows_of(table)]


def _plain_number(value: Any) -> Any:
    """All digits of a number; what JSON has no word for in words."""
    if isinstance(value, float) and not math.isfinite(value):
        return NO_LIMIT if value == math.inf else None
    return value


def to_markdown(table: pd.DataFrame, columns: Sequence[Column] | None = None) -> str:
    """The table in Markdown; the groups deploy and per task stand in the headings. `columns`: default columns_of(table)."""
    columns = columns_of(table) if columns is None else columns
    lines = [
        [_plain(column.heading) for column in columns],
        ["---:" if column.numeric else "---" for column in columns],
        *([_plain(column.text(row)) for column in columns] for row in rows_of(table)),
    ]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _plain(text: str) -> str:
    """Text that Markdown takes literally inside a table."""
    for mark in "\\|*_`<[":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def print_rich(table: pd.DataFrame, console: Console) -> None:
    """Print two terminal tables per chip, OUTCOME and COST; the second where anything of it is known."""
    for chip, part in table.groupby("chip"):
        title = f"{chip}, backward: {', '.join(part['backward'].unique())}"
        known = columns_of(part)
        outcome = [_task_in_all(c) for c in known if c.name in OUTCOME]
        print_table(part, outcome, console, title=title)
        costs = [replace(c, group=c.group.removesuffix(PER_TASK)) for c in known if c.name in COST]
        if len(costs) > 1:
            print_table(part, costs, console, title=f"{title}: cost of a task")


def _task_in_all(column: Column) -> Column:
    """A total of a task under the short heading that stands beside those of deployment and of a text: "per task: energy"."""
    what = column.group.removesuffix(PER_TASK)
    return column if what == column.group else replace(column, group=PER_TASK.strip(), title=what)


def print_table(table: pd.DataFrame, columns: Sequence[Column], console: Console, *, title: str = "") -> None:
    """Print one terminal table with these columns."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(
        title=Text(title) if title else None, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0)
    )
    for column in columns:
        heading = Text("\n".join(filter(None, (column.group, *column.title.split(" ", 1)))))
        shown.add_column(heading, justify="right" if column.numeric else "left", no_wrap=column.numeric)
    for row in rows_of(table):
        shown.add_row(*(Text(column.text(row)) for column in columns))
    console.print(shown)
