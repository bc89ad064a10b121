"""Repair by spare columns: the outputs with the worst errors move, where that helps (pure choices: crossbar_sim.repair)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from crossbar_sim import mapping, repair
from crossbar_sim.programming import Programmed

if TYPE_CHECKING:
    from crossbar_sim.array import ProgrammedArray

Array = NDArray[np.float64]


def free(array: ProgrammedArray) -> NDArray[np.bool_]:
    """Spare columns that hold nothing and were not found worse than what they should replace, [tile, columns]."""
    p = array.placement
    return repair.free_columns(array.order, array._tried, p.cols_per_tile + p.unit)


def tried(array: ProgrammedArray, target: Array, statistical: bool | None) -> tuple[Array, Programmed]:
    """Program the worst outputs of each tile into its spare columns too, and keep the better column of each.

    Gives the targets where the outputs are now, and what programming the spares took.
    """
    p, old = array.placement, array.order
    error = repair.column_error(array.cells.unconverged, array._present(), target)
    new = repair.reassigned(old, error, free(array))
    held, both = mapping.outputs_of(target, p, old), target.copy()
    where = np.broadcast_to(new[:, None, None, None, None, :], held.shape)
    np.put_along_axis(both, where, held, axis=-1)
    before, after = mapping.used(p, old), mapping.used(p, new)
    array.cells.use(before | after)
    done = array._program(both, statistical, where=after & ~before)
    error = repair.column_error(array.cells.unconverged, array._present(), both)
    better = np.take_along_axis(error, new, 1) < np.take_along_axis(error, old, 1)
    np.put_along_axis(array._tried, np.where(new != old, new, 0), True, axis=1)
    array.order = np.where(better, new, old)
    kept = mapping.used(p, array.order)
    array.cells.use(kept)
    return both * kept, done
