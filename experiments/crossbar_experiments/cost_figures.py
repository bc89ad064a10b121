"""Figures of what things cost: stacked bars, a stream of tasks, and who is cheapest where."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from crossbar_experiments import style
from crossbar_experiments.crossover import TASKS, Costs, Life, regions
from crossbar_experiments.figures import stack
from crossbar_experiments.tables import engineering

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import NDArray

COLOURS = (*style.CYCLE, style.INK)
DASHES = ("-", "--", "-.", ":")
POINTS = 41
"""Points per axis of a map."""
LETTERS_PER_INCH = 15.0
"""Letters of a caption that stand in an inch."""
HALF_LETTER = 0.009
"""Half of a letter's width in a map, of the map's."""
TOKEN_AXIS = (1e2, 1e9)
TASK_AXIS = (1.0, 1e5)


def cost_figure(
    frame: pd.DataFrame, streams: Mapping[str, tuple[float, Sequence[float]]], *, caption: str
) -> Figure:
    """Joules of a task in stacked bars, by component and by phase, above joules spent over a stream of tasks.

    Args:
        frame: rows with `bar`, `component`, `phase`, `part` and `energy_J` (costs.cost_frame); one bar per value of `bar`, of the
            part adaptation alone, whose energies are added.
        streams: by name, joules of deployment and of each task in turn.
        caption: preset, pricing and marks, written below.
    """
    from matplotlib.figure import Figure

    rows = frame[(frame["part"] == "adaptation") & frame["energy_J"].notna()]
    order = rows.groupby("bar")["energy_J"].sum().sort_values(ascending=False, kind="stable").index
    height = 1.8 + 0.34 * max(len(order), 3)
    with style.applied():
        figure = Figure(figsize=(10.5, height + 3.6))
        above, below = _halves(figure, height, 3.6)
        axes = above.subplots(1, 2, sharey=True)
        for ax, split in zip(axes, ("component", "phase"), strict=True):
            ax.set_title(f"Energy of a task by {split}")
            stack(ax, rows.groupby(["bar", split])["energy_J"].sum().unstack(split, fill_value=0).loc[order])
        axes[0].invert_yaxis()
        _stream(below.subplots(), streams)
        _caption(below, caption)
    return figure


def _halves(figure: Figure, above: float, below: float) -> tuple[SubFigure, SubFigure]:
    """Two parts of a figure, one above the other, of these heights."""
    parts: Any = figure.subfigures(2, 1, height_ratios=(above, below))
    return parts[0], parts[1]


def _stream(ax: Axes, streams: Mapping[str, tuple[float, Sequence[float]]]) -> None:
    """Joules since the first deployment against the number of tasks."""
    from matplotlib.ticker import MaxNLocator

    for number, (name, (deploy, tasks)) in enumerate(streams.items()):
        spent = list(accumulate(tasks, initial=deploy))
        ax.plot(range(len(spent)), spent, marker=".", label=name, **_line(number))
    ax.set_title("Energy since deployment, inference included")
    ax.set_xlabel("tasks brought onto the chip")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _engineering(ax, "J")
    ax.legend()


def crossover_figure(
    priced: Mapping[str, Sequence[Costs]],
    *,
    life: Life,
    endurance: float,
    heading: str,
    caption: str,
) -> Figure:
    """Who is cheapest, for each price of writing: curves over tokens per task, and a map over tasks; then write time and wear.

    Args:
        priced: the contenders' costs by price of writing; the contenders are the same in each.
        life: its tasks are those of the curves over tokens.
        endurance: cycles a cell stands (0: not known), drawn where wear is.
        heading: what is compared on what.
        caption: preset, pricing, life and marks.
    """
    from matplotlib.figure import Figure

    names = [each.label for each in next(iter(priced.values()))]
    tasks, dates = life.tasks, life.dates
    with style.applied():
        figure = Figure(figsize=(4.0 * len(priced), 11.2))
        figure.suptitle(heading, x=0.01, ha="left", fontweight="bold")
        top, below = _halves(figure, 2.0, 1.2)
        grid = top.subplots(2, len(priced), squeeze=False, sharey="row")
        for column, (write, costs) in enumerate(priced.items()):
            _curves(grid[0][column], costs, write=write, tasks=tasks, dates=dates)
            _map(grid[1][column], costs, names=names, dates=dates)
        grid[0][0].set_ylabel(f"energy per task, {tasks:,} tasks")
        grid[1][0].set_ylabel("tasks per life (colour: the cheapest)")
        _life(below, next(iter(priced.values())), dates=dates, endurance=endurance)
        handles = [_handle(name, number) for number, name in enumerate(names)]
        below.legend(handles=handles, loc="outside upper left", ncols=min(len(names), 5))
        _caption(below, f"{caption}\ndotted lines upright: where another contender becomes the cheapest")
    return figure


def _curves(ax: Axes, costs: Sequence[Costs], *, write: str, tasks: int, dates: int) -> None:
    """Joules per task against tokens per task, and where fusion meets the cheapest rival."""
    import numpy as np

    tokens = np.geomspace(*TOKEN_AXIS, 200)
    ax.set_title(f"writes {write}")
    for number, each in enumerate(costs):
        ax.loglog(tokens, [each.total(tasks, t, dates) / tasks for t in tokens], **_line(number))
    for point in _meetings(costs, tasks=tasks, dates=dates):
        ax.axvline(point, color=style.CYCLE[7], linestyle=":", linewidth=1.0, zorder=0)
    _decades(ax.xaxis)
    _decades(ax.yaxis, "J")
    ax.set_xlabel("tokens inferred per task")


def _meetings(costs: Sequence[Costs], *, tasks: int, dates: int) -> list[float]:
    """Tokens per task at which the cheapest of all changes."""
    return [region.low for region in regions(costs, tasks=tasks, refreshes=dates)][1:]


def cheapest_map(
    costs: Sequence[Costs], *, dates: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Tokens per task [T], tasks per life [K], and the index [K, T] of the cheapest contender there."""
    import numpy as np

    tokens, tasks = np.geomspace(*TOKEN_AXIS, POINTS), np.geomspace(*TASK_AXIS, POINTS)
    energy = np.array([[[each.total(k, t, dates) for t in tokens] for k in tasks] for each in costs])
    return tokens, tasks, energy.argmin(axis=0)


def _map(ax: Axes, costs: Sequence[Costs], *, names: Sequence[str], dates: int) -> None:
    from matplotlib.colors import BoundaryNorm, ListedColormap

    tokens, tasks, best = cheapest_map(costs, dates=dates)
    colours = ListedColormap([_line(number)["color"] for number in range(len(names))])
    norm = BoundaryNorm([n - 0.5 for n in range(len(names) + 1)], len(names))
    ax.pcolormesh(
        tokens,
        tasks,
        best,
        cmap=colours,
        norm=norm,
        shading="nearest",
        alpha=0.45,
        linewidth=0,
        rasterized=True,
    )
    shown = sorted(set(best.ravel().tolist()), key=lambda number: float((best == number).nonzero()[1].mean()))
    for place, number in enumerate(shown):
        across = float((best == number).nonzero()[1].mean()) / (POINTS - 1)
        height = 1 - (place + 1) / (
            len(shown) + 1
        )  # one below the other, as narrow regions stand side by side
        half = len(names[number]) * HALF_LETTER  # a name stays inside the map
        at = min(max(across, half), 1 - half), height
        ax.annotate(names[number], at, xycoords="axes fraction", ha="center", va="center", fontsize=8)
    ax.set_xscale("log")
    ax.set_yscale("log")
    _decades(ax.xaxis)
    _decades(ax.yaxis)
    ax.grid(visible=False)
    ax.set_xlabel("tokens inferred per task")


def _life(figure: Any, costs: Sequence[Costs], *, dates: int, endurance: float) -> None:
    """Write time and wear of a life against its number of tasks."""
    axes = figure.subplots(1, 2)
    for ax, name in zip(axes, ("write_time", "wear"), strict=True):
        for number, each in enumerate(costs):
            spent = [getattr(each, name)(k, dates) for k in TASKS]
            if max(spent) > 0:
                ax.loglog(TASKS, spent, **_line(number))
        ax.set_xlabel("tasks per life")
        for axis, unit in ((ax.xaxis, ""), (ax.yaxis, "s" if name == "write_time" else "")):
            _decades(axis, unit)
    axes[0].set_title("Time spent writing after deployment, one pulse after the other")
    axes[1].set_title("Wear after deployment, SET/RESET cycles per cell")
    if endurance > 0:
        axes[1].axhline(endurance, color=style.CYCLE[7], linestyle=":", linewidth=1.0)
        axes[1].annotate("endurance", (TASKS[0], endurance), (3, 3), textcoords="offset points", fontsize=8)


def _line(number: int) -> dict[str, Any]:
    """Colour and dashes of a contender, by its place."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": DASHES[number % len(DASHES)],  # lines that lie on each other can be told apart
        "linewidth": 1.8,
    }


def _handle(name: str, number: int) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], label=name, **_line(number))


def _decades(axis: Axis, unit: str = "") -> None:
    """Names such as "10 kJ" at the ticks of a logarithmic axis; those between decades get one where decades are few."""
    from matplotlib.ticker import LogFormatter

    class Names(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            shown = super().__call__(x, pos)  # empty where a tick has no name
            return re.sub(r"\.0(?= |$)", "", engineering(x, unit)) if shown else ""

    axis.set_major_formatter(Names())
    axis.set_minor_formatter(Names())


def _engineering(ax: Axes, unit: str) -> None:
    from matplotlib.ticker import FuncFormatter

    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: engineering(value, unit).replace(".0 ", " ")))


def _caption(figure: SubFigure, text: str) -> None:
    """Small print below, in lines that fit the figure's width."""
    letters = int(LETTERS_PER_INCH * figure.get_figure(root=True).get_figwidth())
    lines = [line for told in text.splitlines() for line in wrap(told, letters)]
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=8)
