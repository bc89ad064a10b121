"""Figures of a comparison: pure functions from a frame to a matplotlib Figure, and from that to SVG text."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from crossbar_experiments import style
from crossbar_experiments.tables import engineering

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = (("task_energy_J", "All energy of a task"), ("write_energy_J", "Writing cells only"))
APART = ("deploy", "eval")
"""Phases that are not part of learning a task: paid once, and inference."""
MOST_CHIPS = 4
"""Chips that a scatter can tell apart; results of more are drawn chip by chip."""
LABEL_GAP = 0.062
"""Smallest distance of two labels, in axes heights."""


def energy_against_accuracy(table: pd.DataFrame) -> Figure:
    """Accuracy (%) over energy per task (J, log): one panel for all of it, one for the writes.

    Methods that spend nothing stand on a dotted line at the left edge, so that zero can be seen on a
    logarithmic axis. Rows whose energy is not known (the ideal chip) have no place and are left out.

    Args:
        table: what `tables.compare` makes.
    """
    from matplotlib.figure import Figure

    chips = sorted(table.loc[table["task_energy_J"].notna(), "chip"].unique())
    with style.applied():
        figure = Figure(figsize=(10.5, 4.6))
        axes = figure.subplots(1, 2, sharey=True)
        for ax, (column, title) in zip(axes, PANELS, strict=True):
            ax.set_title(title)
            _scatter(ax, table[table[column].notna()], column, chips)
        axes[0].set_ylabel("accuracy, mean of the tasks, %")
        if len(chips) > 1:
            _chip_legend(figure, chips)
    return figure


def accuracy_by_chip(table: pd.DataFrame) -> Figure:
    """Accuracy (%) of every label, one line per chip and one mark per label.

    Args:
        table: what `tables.compare` makes; the chips stand in the order of their first rows.
    """
    from matplotlib.figure import Figure

    chips = list(dict.fromkeys(table["chip"]))
    labels = sorted(set(table["label"]))
    with style.applied():
        figure = Figure(figsize=(10.5, 1.4 + 0.3 * len(chips)))
        ax = figure.subplots()
        for number, label in enumerate(labels):
            rows = table[table["label"] == label]
            heights = [chips.index(chip) for chip in rows["chip"]]
            marker, colour = (styles[number % len(styles)] for styles in (style.MARKERS, style.CYCLE))
            ax.plot(rows["accuracy"], heights, marker, color=colour, label=label, markersize=7)
        ax.set_yticks(range(len(chips)), chips)
        ax.set_ylim(len(chips) - 0.5, -0.5)
        ax.set_xlabel("accuracy, mean of the tasks, %")
        figure.legend(loc="outside upper right", ncols=len(labels))
    return figure


def energy_by_phase(ledger: pd.DataFrame) -> Figure:
    """Energy of a task (J) in stacked bars, split by phase and by action; mean of the cells of a bar.

    The phases deploy, which would hide the rest, and eval are left out.

    Args:
        ledger: rows of a ledger with a column `cell`; one bar per chip and label where it has those columns
            too, else one per cell. The largest bars come first.
    """
    from matplotlib.figure import Figure

    keys = [name for name in ("chip", "label") if name in ledger.columns] or ["cell"]
    cells = ledger.groupby(keys)["cell"].nunique()
    rows = ledger[~ledger["phase"].isin(APART) & ledger["energy_J"].notna()]
    totals = rows.groupby(keys)["energy_J"].sum() / cells
    bars = totals.dropna().sort_values(ascending=False, kind="stable").index
    with style.applied():
        figure = Figure(figsize=(10.5, 1.6 + 0.34 * max(len(bars), 3)))
        axes = figure.subplots(1, 2, sharey=True)
        for ax, split in zip(axes, ("phase", "action"), strict=True):
            ax.set_title(f"By {split}")
            sums = rows.groupby([*keys, split])["energy_J"].sum().unstack(split, fill_value=0)
            stack(ax, sums.loc[bars].div(cells.loc[bars], axis=0))
        axes[0].invert_yaxis()
    return figure


def svg(figure: Figure, *, prefix: str = "") -> str:
    """The figure as an <svg> element, the same for the same figure, its text in the colour of the page's.

    Args:
        figure: what one of the functions above made.
        prefix: put before every id, so that several figures can stand in one page.
    """
    out = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with style.applied():
        figure.savefig(out, format="svg", metadata=nothing)
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(style.INK, "currentColor")
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", text)


def _scatter(ax: Axes, rows: pd.DataFrame, column: str, chips: Sequence[str]) -> None:
    spent = rows.loc[rows[column] > 0, column]
    if rows.empty:
        ax.text(0.5, 0.5, "no energy is known", ha="center", transform=ax.transAxes)
        return
    low, high = (spent.min(), spent.max()) if len(spent) else (1.0, 1.0)
    free = rows[column] <= 0
    edge = low / max(4.0, (high / low) ** 0.2)
    ax.set_xscale("log")
    ax.set_xlim((edge if free.any() else low) / 1.6, high * max(3.0, (high / low) ** 0.2))
    ax.set_ylim(*_room(rows["accuracy"]))
    x = rows[column].where(~free, edge)
    for place, row in zip(x, rows.to_dict("records"), strict=True):
        marker = style.MARKERS[chips.index(row["chip"]) % len(style.MARKERS)]
        ax.plot(place, row["accuracy"], marker, color=style.family_colour(row["method"]), markersize=8)
    _label_points(ax, list(x), rows)
    _energy_axis(ax, low, high, edge if free.any() else None)


def _label_points(ax: Axes, x: Sequence[float], rows: pd.DataFrame) -> None:
    """Write each point's name beside it, moved up or down where names would meet, with a line to it."""
    bottom, top = ax.get_ylim()
    left, right = ax.get_xlim()
    heights = [(value - bottom) / (top - bottom) for value in rows["accuracy"]]
    for place, row, height in zip(x, rows.to_dict("records"), _spread(heights, LABEL_GAP), strict=True):
        inward = math.log(place / left) < 0.6 * math.log(right / left)
        aside = (right / left) ** (0.035 if inward else -0.035)
        ax.annotate(
            str(row["label"]),
            (place, row["accuracy"]),
            xytext=(place * aside, bottom + height * (top - bottom)),
            ha="left" if inward else "right",
            va="center",
            fontsize=9,
            color=style.INK,
            arrowprops={"arrowstyle": "-", "color": style.CYCLE[7], "linewidth": 0.6, "shrinkB": 4},
        )


def _energy_axis(ax: Axes, low: float, high: float, edge: float | None) -> None:
    """Ticks such as "10 mJ" at whole decades, and "0" at the edge."""
    from matplotlib.ticker import FixedLocator, NullLocator

    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    left, right = ax.get_xlim()
    clear = left if edge is None else edge * (right / left) ** 0.08
    ticks = [10.0**n for n in decades if clear <= 10.0**n <= right] or [low]
    step = max(1, math.ceil(len(ticks) / 6))
    ticks = ticks[::step]
    names = [engineering(tick, "J") for tick in ticks]
    if edge is not None:
        ax.axvline(edge, color=style.CYCLE[7], linestyle=":", linewidth=1.0, zorder=0)
        ticks, names = [edge, *ticks], ["0", *names]
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticklabels([name.replace(".0 ", " ") for name in names])
    ax.set_xlabel("energy per task")


def _room(accuracy: pd.Series[float]) -> tuple[float, float]:
    """Limits with air above and below, and never narrower than 4 points."""
    low, high = accuracy.min(), accuracy.max()
    air = max(0.12 * (high - low), 2.0 - (high - low) / 2, 0.5)
    return low - air, high + air


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """The heights, pushed up until neighbours are `gap` apart, and back down where they pass the top."""
    order = sorted(range(len(heights)), key=lambda i: (heights[i], i))
    placed = [heights[i] for i in order]
    for k in range(1, len(placed)):
        placed[k] = max(placed[k], placed[k - 1] + gap)
    ceiling = 1.0 - gap / 2
    for k in reversed(range(len(placed))):
        placed[k] = min(placed[k], ceiling)
        ceiling = placed[k] - gap
    result = [0.0] * len(heights)
    for i, height in zip(order, placed, strict=True):
        result[i] = height
    return result


def _chip_legend(figure: Figure, chips: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="", marker=marker, color=style.INK, label=chip)
        for chip, marker in zip(chips, cycle(style.MARKERS), strict=False)
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(chips))


def stack(ax: Axes, sums: pd.DataFrame) -> None:
    """Horizontal bars of the frame's columns, largest first, with the total written at the end."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    if sums.empty:
        ax.text(0.5, 0.5, "no energy is known", ha="center", transform=ax.transAxes)
        return
    order = sums.sum().sort_values(ascending=False).index
    shown = list(order[: len(style.CYCLE) - 1])
    parts = {str(name): sums[name] for name in shown}
    if len(order) > len(shown):
        parts["other"] = sums[list(order[len(shown) :])].sum(axis=1)
    places = list(range(len(sums)))
    left = sums[shown[0]] * 0.0
    for (name, part), colour in zip(parts.items(), style.CYCLE, strict=False):
        ax.barh(places, part, left=left, color=colour, label=name, height=0.7)
        left = left + part
    for place, total in zip(places, left, strict=True):
        ax.annotate(engineering(total, "J"), (total, place), (3, 0), textcoords="offset points", va="center")
    ax.set_yticks(places, _bar_names(sums.index))
    ax.set_xlim(0.0, float(left.max()) * 1.15 or 1.0)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: engineering(value, "J")))
    ax.grid(visible=False, axis="y")
    ax.legend(loc="upper left", bbox_to_anchor=(0.0, -0.12), ncols=2, fontsize=8)


def _bar_names(index: pd.Index[Any]) -> list[str]:
    """Labels; with the chip's name where there are several chips."""
    if index.nlevels == 1:
        return [str(key) for key in index]
    several = index.get_level_values(0).nunique() > 1
    return [f"{label}, {chip}" if several else str(label) for chip, label in index]
