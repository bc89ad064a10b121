"""The bench's one figure: times over the best plain product, beside their goals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from crossbar_experiments import style
from crossbar_experiments.bench import DRAWN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = dict[str, Any]


def rows_drawn(reports: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """The rows that get a bar: those with a goal, and the peers; without any goal (tiny shapes), all that have a ratio."""
    rows = [{**row, "part": part} for part in DRAWN if part in reports for row in reports[part]["rows"]]
    rows = [row for row in rows if row.get("ratio") is not None]
    chosen = [row for row in rows if row["goal"] is not None or (row["part"] == "peers" and not row["plain"])]
    return chosen if any(row["goal"] is not None for row in rows) else rows


def ratios(reports: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Horizontal bars of ratios (median, with the span of all runs), a tick at each goal, on a logarithmic axis.

    Args:
        reports: by part, as `bench.run_bench` gives them.
    """
    from matplotlib.figure import Figure

    rows = rows_drawn(reports)
    with style.applied():
        figure = Figure(figsize=(10.5, 1.6 + 0.23 * max(len(rows), 3)))
        ax = figure.subplots()
        _bars(ax, rows)
        _goals(ax, rows)
        ax.axvline(1.0, color=style.INK, linewidth=1.0)
        ax.set_xscale("log")
        ax.set_xlabel("time over the best plain product of the same run (left of 1: faster)")
        ax.set_yticks(range(len(rows)), [f"{row['name']}   {row['shape']}" for row in rows])
        ax.invert_yaxis()
        ax.margins(y=0.01)
        ax.grid(visible=False, axis="y")
        figure.legend(loc="outside upper right", ncols=len(DRAWN) + 1)
    return figure


def _bars(ax: Axes, rows: list[Row]) -> None:
    """One colour per part; a line from the quickest to the slowest run."""
    for part, colour in zip(DRAWN, style.CYCLE, strict=False):
        at = [k for k, row in enumerate(rows) if row["part"] == part]
        if not at:
            continue
        own = [rows[k] for k in at]
        values = [row["ratio"] for row in own]
        low = [row["ratio"] * (1 - row["min_ms"] / row["median_ms"]) for row in own]
        high = [row["ratio"] * (row["max_ms"] / row["median_ms"] - 1) for row in own]
        ax.barh(at, values, xerr=[low, high], height=0.7, color=colour, ecolor=style.INK, label=part)


def _goals(ax: Axes, rows: list[Row]) -> None:
    at = [k for k, row in enumerate(rows) if row["goal"] is not None]
    if at:
        goals = [rows[k]["goal"] for k in at]
        ax.plot(goals, at, "|", color=style.CYCLE[5], markersize=12, markeredgewidth=2.5, label="goal")
