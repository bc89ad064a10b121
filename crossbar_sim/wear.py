"""What programming wears: endurance cycles of the mean and of the worst cell, and what they leave.

A cycle is a SET and a RESET, so a cell that took N_p pulses has spent N_p/2 cycles: pessimistic, as a partial pulse probably wears
less than a full one (assumed).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import floor, inf, isnan, nan
from typing import TYPE_CHECKING

import numpy as np

from crossbar_sim.checks import require

if TYPE_CHECKING:
    from crossbar_sim.array import ProgrammedArray

PULSES_PER_CYCLE = 2


@dataclass(frozen=True)
class Wear:
    """SET/RESET cycles that cells have spent: `mean` over the cells in use, and those of the `worst` one."""

    mean: float = 0.0
    worst: float = 0.0


def wear(arrays: Iterable[ProgrammedArray]) -> Wear:
    """Wear of the cells of some arrays; 0 where there are none."""
    worn, cells, worst = 0.0, 0, 0.0
    for array in arrays:
        pulses = array.wear[array.cells.used]
        worn += float(pulses.sum(dtype=np.float64))
        cells += pulses.size
        worst = max(worst, float(pulses.max(initial=0.0)))
    return Wear(worn / cells / PULSES_PER_CYCLE, worst / PULSES_PER_CYCLE) if cells else Wear()


def tasks_until_wear_out(endurance: float, cycles: float, *, rewrites: float = 1.0) -> float:
    """Tasks that a cell survives, N = floor(E/(w c)).

    Args:
        endurance: E, SET/RESET cycles of the card (0: it states none).
        cycles: c, cycles of one rewrite (N_p/2; of a task, where `rewrites` is 1).
        rewrites: w, rewrites of the whole matrix per task: 1 when trained elsewhere and written once, the number of steps when
            written at every step.

    Returns:
        inf where nothing is written; NaN where the card states no endurance.

    Raises:
        ConfigError: a number is negative.
    """
    for name, value in (("endurance", endurance), ("cycles", cycles), ("rewrites", rewrites)):
        require(not value < 0, f"tasks_until_wear_out: {name}", f"must not be negative (got {value:g})")
    spent = rewrites * cycles
    if spent == 0:
        return inf
    return float(floor(endurance / spent)) if endurance and not isnan(spent) else nan


def refreshes_left(endurance: float, cycles: float) -> float:
    """How often cells that were programmed once can be programmed again, floor(E/c) - 1, at least 0; inf, NaN and errors as there."""
    programmings = tasks_until_wear_out(endurance, cycles)
    return nan if isnan(programmings) else max(programmings - 1, 0.0)
