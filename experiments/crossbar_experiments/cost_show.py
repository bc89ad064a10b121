"""`lorafusion cost`: a finished run under other prices, or an architecture's bill, as text, data and figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from crossbar_experiments import cost_figures, costs, figures, tables
from crossbar_experiments.crossover_show import finite
from crossbar_experiments.outputs import writing
from crossbar_experiments.show import wide_console
from crossbar_experiments.tables import Column, engineering
from crossbar_sim.ledger import PHASES
from crossbar_sim.pricing import Pricing

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from rich.console import Console

    from crossbar_experiments.bill import Bill


@dataclass(frozen=True)
class Files:
    """Files that were asked for."""

    csv: Path | None = None
    parquet: Path | None = None
    figure: Path | None = None


def of_run(
    directory: Path, pricing: Pricing, files: Files, *, chip_only: bool, as_json: bool
) -> dict[str, Any]:
    """Re-price a folder of finished cells, or one cell; print it unless JSON is wanted, which is returned."""
    results = costs.load(directory)
    run = costs.priced_run(results, pricing, chip_only=chip_only)
    _save(run.ledger, files, lambda: run_figure(run, results.metrics))
    if not as_json:
        _show_run(run, wide_console())
    return {"run": str(directory), "pricing": run.pricing, "table": finite(run.summary.to_dict("records"))}


def of_bill(found: Bill, files: Files, *, as_json: bool) -> dict[str, Any]:
    """Print a method's bill on an architecture unless JSON is wanted, which is returned."""
    _save(found.frame, files, lambda: arch_figure(found))
    if not as_json:
        _show_bill(found, wide_console())
    plain: dict[str, Any] = finite(found.plain())
    return plain


def run_figure(run: costs.PricedRun, metrics: pd.DataFrame) -> Figure:
    """Bars of every chip and method, and the energy of its tasks in the order they came."""
    several = run.summary["chip"].nunique() > 1
    cells = metrics.set_index("cell")
    named = run.ledger["label"] + (", " + run.ledger["chip"] if several else "")
    frame = run.ledger.assign(
        bar=named, stream=run.ledger["cell"].map(cells["task"]), seed=run.ledger["cell"].map(cells["seed"])
    )
    cells_of = frame.groupby("bar")["cell"].nunique()
    bars = frame.assign(energy_J=frame["energy_J"] / frame["bar"].map(cells_of))
    return cost_figures.cost_figure(bars, _streams(frame), caption=_run_caption(run))


def _streams(frame: pd.DataFrame) -> dict[str, tuple[float, list[float]]]:
    """By bar: joules of deployment, and of every task in turn, inference included; means over seeds."""
    found = {}
    for name, rows in frame.groupby("bar", sort=False):
        seeds = rows.groupby("stream")["cell"].nunique()
        deploy = rows[rows["part"].isin(("deploy", "refresh"))]
        once = deploy["energy_J"].sum(skipna=False) / rows["cell"].nunique()
        tasks = (
            rows[~rows["part"].isin(("deploy", "refresh"))].groupby("stream", sort=False)["energy_J"].sum()
        )
        found[str(name)] = (float(once), (tasks / seeds.loc[tasks.index]).tolist())
    return found


def _run_caption(run: costs.PricedRun) -> str:
    chips = ", ".join(
        dict.fromkeys(
            f"{c} (backward {b})" for c, b in zip(run.summary["chip"], run.summary["backward"], strict=True)
        )
    )
    several = run.summary["chip"].nunique() > 1
    shares = ", ".join(
        f"{row['label']}{' on ' + row['chip'] if several else ''} {100 * row['assumed_share']:.0f} %"
        for row in run.summary.to_dict("records")
        if row["assumed_share"] == row["assumed_share"]
    )
    return f"{chips}; {run.pricing}\nresting on assumed numbers: {shares or 'not known'}"


def arch_figure(found: Bill) -> Figure:
    """Bars of one method, and its energy over the stream of tasks."""
    stream = {found.method: (found.parts["deploy"], [found.per_task] * found.tasks)}
    return cost_figures.cost_figure(found.frame.assign(bar=found.method), stream, caption=found.caption)


def _save(frame: pd.DataFrame, files: Files, draw: Callable[[], Figure]) -> None:
    for path in costs.export(frame, csv=files.csv, parquet=files.parquet):
        typer.echo(path, err=True)
    if files.figure is not None:
        drawn = figures.svg(draw())
        with writing("figure", files.figure):
            files.figure.write_text(drawn, encoding="utf-8")
        typer.echo(files.figure, err=True)


# -- text ------------------------------------------------------------------------------------------------------------


def _joules(name: str, title: str, group: str = "") -> Column:
    return Column(name, title, group, lambda row: engineering(row[name], "J"))


def _share(row: tables.Row) -> str:
    share = float(row["assumed_share"])
    return tables.MISSING if isnan(share) else f"{100 * share:.1f}"


def _label() -> Column:
    return Column("label", "method", "", lambda row: str(row["label"]), numeric=False)


def _show_run(run: costs.PricedRun, console: Console) -> None:
    """Two tables per chip: what a task costs, by phase and by component."""
    for (chip, backward), part in run.summary.groupby(["chip", "backward"], sort=False):
        title = f"{chip}, backward: {backward}; {run.pricing}"
        tables.print_table(part, [_label(), *_totals(), *_split(part, "phase")], console, title=title)
        tables.print_table(part, [_label(), *_split(part, "component")], console, title="energy of a task")


def _totals() -> Sequence[Column]:
    return (
        _joules("deploy_energy_J", "energy", "deploy"),
        _joules("task_energy_J", "energy", "task"),
        Column("write_time_s", "writing", "task", lambda row: engineering(row["write_time_s"], "s")),
        Column(
            "worst_wear_cycles", "worst cycles", "wear,", lambda row: tables.count(row["worst_wear_cycles"])
        ),
        Column("assumed_share", "assumed %", "task", _share),
        _joules("text_energy_J", "text", "per"),
    )


def _split(part: pd.DataFrame, by: str) -> list[Column]:
    names = PHASES if by == "phase" else costs.COMPONENTS
    found = [name for name in names if f"{by}: {name}" in part and part[f"{by}: {name}"].any()]
    return [_joules(f"{by}: {name}", name, "") for name in found]


def _show_bill(found: Bill, console: Console) -> None:
    """What one method needs and costs on an architecture."""
    console.print(found.title, style="bold", soft_wrap=True)
    for line in found.lines():
        console.print(line, soft_wrap=True)
