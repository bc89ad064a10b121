"""What the verify-fail list is good for: other targets for the partners of failed cells, and columns that move.

Pure functions on arrays [tile, slice, sign, copy, rows, cols]. Both remedies cost pulses, and spare columns cost cells;
the caller programs what comes out of here and books it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crossbar_sim.checks import one_of
from crossbar_sim.circuit import REMEDIES
from crossbar_sim.device import Device

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


def on_grid(conductance: Array, device: Device) -> Array:
    """The nearest conductance (S) that the device is ever asked for: clipped to its range, on its levels if it has any."""
    part = np.clip((conductance - device.g_min) / device.span, 0.0, 1.0)
    if device.levels:
        part = np.rint(part * (device.levels - 1)) / (device.levels - 1)
    return np.asarray(device.g_min + device.span * part)


def partners(unconverged: Mask) -> Mask:
    """Cells that converged while the other cell of their pair did not: the ones that can still help."""
    return np.asarray(~unconverged & unconverged[:, :, ::-1])


def partner_targets(
    unconverged: Mask, present: Array, target: Array, *, device: Device, remedy: str
) -> Array:
    """Targets (S) after a remedy; they differ from `target` in the cells that `partners` names.

    "mask": the partner is asked for the failed cell's conductance, so that G+ - G- is 0. "compensate": it is asked for what
    restores G+ - G- = T+ - T-, that is G_failed + (T_own - T_failed), as far as the range reaches, on the level grid. "none": no change.
    A pair of which both cells failed is beyond repair and keeps its targets.

    Args:
        unconverged: the verify-fail list, sign axis of length 2.
        present: conductances as read after programming, S.
        target: conductances asked for, S.
        device: range and levels.
        remedy: none | mask | compensate.

    Raises:
        ConfigError: there is no such remedy.
    """
    one_of("WeightMapping.remedy", remedy, REMEDIES)
    if remedy == "none":
        return target
    failed = present[:, :, ::-1]
    if remedy == "mask":
        wanted = np.clip(failed, device.g_min, device.g_max)
    else:
        wanted = on_grid(failed + (target - target[:, :, ::-1]), device)
    return np.where(partners(unconverged), wanted, target)


def column_error(unconverged: Mask, present: Array, target: Array) -> Array:
    """Summed |G - G_target| (S) of the unconverged cells behind each logical column, [tile, cols]."""
    return np.asarray(np.where(unconverged, np.abs(present - target), 0.0).sum((1, 2, 3, 4)))


def spare_assignment(error: Array, spares: int) -> NDArray[np.int64]:
    """Which logical column of each tile moves to each of its spare columns, [tile, spares]; -1: the spare stays free.

    The column with the largest error moves first, of equal ones the first; columns without error stay.

    Args:
        error: summed |error| of the unconverged cells of each column, [tile, cols] (`column_error`).
        spares: spare columns per tile.
    """
    order = np.argsort(-error, axis=1, kind="stable")[:, :spares]
    worst = np.take_along_axis(error, order, axis=1)
    chosen = np.full((len(error), spares), -1, np.int64)
    chosen[:, : order.shape[1]] = np.where(worst > 0, order, -1)
    return chosen


def free_columns(order: NDArray[np.intp], tried: Mask, first_spare: int) -> Mask:
    """Spare columns, from `first_spare` on, that no output uses and none was `tried` in, [tile, cols]."""
    free = ~tried
    free[:, :first_spare] = False
    np.put_along_axis(free, order, False, axis=1)
    return free


def reassigned(order: NDArray[np.intp], error: Array, free: Mask) -> NDArray[np.intp]:
    """The column of each output after the worst ones have moved to free spare columns, [tile, outputs].

    Args:
        order: column of each output so far, [tile, outputs].
        error: `column_error` of every column, spares included, [tile, cols].
        free: columns that an output may move to, [tile, cols].
    """
    new = order.copy()
    for tile, columns in enumerate(order):
        spares = np.flatnonzero(free[tile])
        moved = spare_assignment(error[tile, columns][None], len(spares))[0]
        for output, spare in zip(moved, spares, strict=True):
            if output >= 0:
                new[tile, output] = spare
    return new
