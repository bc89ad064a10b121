"""Pulse trains with a verify after each pulse: the NumPy specification and the shared types."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels.philox import normals, philox4x32

Array = NDArray[np.float64]


class PulseTrain(NamedTuple):
    """Numbers of one train, the same for all elements.

    Pulse k of a run of one polarity has drive[k] (its square times width weighs the dissipation) and strength
    rate * growth[k]; up = towards `top`, down = towards `bottom`. `verify` weighs one check.
    """

    up_drive: Array
    down_drive: Array
    up_growth: Array
    down_growth: Array
    bottom: float
    top: float
    spread: float
    width: float
    verify: float
    max_pulses: int


class PulseResult(NamedTuple):
    """What a train left: values and counts [rows, cols], dissipation per row [rows]."""

    value: Array
    up: NDArray[np.uint16]
    down: NDArray[np.uint16]
    accepted: NDArray[np.bool_]
    up_energy: Array
    down_energy: Array
    verify_energy: Array


class Draws(NamedTuple):
    """Where the random numbers come from: key, stream word of plane 0, event, and the stride of a plane."""

    key: tuple[int, int]
    stream: int
    plane: int
    event: int


def write_verify(
    start: Array, target: Array, tolerance: Array, strength: Array, *, train: PulseTrain, draws: Draws
) -> PulseResult:
    """Pulse every element [rows, cols] until |value - target| <= tolerance or max_pulses are spent.

    A pulse of strength a = growth[k] s max(0, 1 + spread z) moves a value by (top - x) a/(1 + a) up or
    (x - bottom) a/(1 + a) down; a change of polarity restarts k at 0. One check comes first, one after every pulse
    and one at the end. Dissipation: drive^2 width (before + after)/2 per pulse, verify * x per check. Pulse p of the
    element in (row, col) takes word p % 4 of counter (col, row, stream + plane * (p // 4), event).
    """
    rows, cols = start.shape
    x = start.copy()
    up, down = np.zeros((2, rows, cols), np.uint16)
    energy_up, energy_down = np.zeros((2, rows, cols))
    checks = train.verify * x
    run, last = np.zeros((2, rows, cols), np.int64)
    for pulse in range(train.max_pulses):
        active = np.abs(x - target) > tolerance
        if not active.any():
            break
        z = _normal(pulse, rows, cols, draws)
        rising = x < target
        polarity = np.where(rising, 1, -1)
        run = np.where(polarity == last, np.minimum(run + 1, len(train.up_drive) - 1), 0)
        last = np.where(active, polarity, last)
        growth = np.where(rising, train.up_growth[run], train.down_growth[run])
        a = growth * strength * np.maximum(0.0, 1.0 + train.spread * z)
        moved = np.where(
            rising, x + (train.top - x) * (a / (1.0 + a)), x - (x - train.bottom) * (a / (1.0 + a))
        )
        drive = np.where(rising, train.up_drive[run], train.down_drive[run])
        heat = drive * drive * train.width * (0.5 * (x + moved))
        energy_up += np.where(active & rising, heat, 0.0)
        energy_down += np.where(active & ~rising, heat, 0.0)
        up += active & rising
        down += active & ~rising
        x = np.where(active, moved, x)
        checks += np.where(active, train.verify * x, 0.0)
    accepted = np.abs(x - target) <= tolerance
    checks += train.verify * x
    return PulseResult(x, up, down, accepted, _row_sums(energy_up), _row_sums(energy_down), _row_sums(checks))


def _normal(pulse: int, rows: int, cols: int, draws: Draws) -> Array:
    column = np.arange(cols, dtype=np.uint32)[None, :]
    row = np.arange(rows, dtype=np.uint32)[:, None]
    stream = np.uint32(draws.stream + draws.plane * (pulse // 4))
    words = philox4x32(column, row, stream, np.uint32(draws.event), *draws.key)
    return normals(words)[pulse % 4].astype(np.float64)


def _row_sums(values: Array) -> Array:
    """Sums over the columns from left to right (the order every backend keeps)."""
    return np.cumsum(values, axis=1)[:, -1]
