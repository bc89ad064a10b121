"""Pulse trains, with a verify after each pulse and without: the NumPy specification and the shared types."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels.philox import normals, philox4x32

Array = NDArray[np.float64]
Bounds = tuple[Array, Array]
"""Lowest and highest value of each element, [rows, cols] each."""
PLANES = 31
"""Planes of a stream that `apply_pulses` uses; the last of the 32 is left to its caller."""
WIDE = 2**16
"""`apply_pulses` takes fewer columns than this: the column word of its counter holds more than the column."""


class PulseTrain(NamedTuple):
    """Numbers of one train, the same for all elements.

    Pulse k of a run of one polarity has drive[k] (its square times width weighs the dissipation) and strength
    rate * growth[k]; up = towards `top`, down = towards `bottom`. `verify` weighs one check. `compliance` caps drive * value
    in the dissipation of upward pulses; an element is given up when it needs more than `max_reversals` changes of polarity, or more
    than `max_end_pulses` pulses in a row at the last drive (0: no cap, no limit). `harmonic`: a pulse dissipates at the harmonic mean
    of the values before and after it, not at the arithmetic one (`middle`).
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
    compliance: float = 0.0
    max_reversals: int = 0
    max_end_pulses: int = 0
    harmonic: bool = False


class PulseResult(NamedTuple):
    """What a train left: values and counts [rows, cols], dissipation per row [rows]."""

    value: Array
    up: NDArray[np.uint16]
    down: NDArray[np.uint16]
    accepted: NDArray[np.bool_]
    up_energy: Array
    down_energy: Array
    verify_energy: Array


class OpenTrain(NamedTuple):
    """Numbers of counted pulses of one amplitude, the same for all elements.

    A pulse moves a value by d = up_rate (top - x) s up, or d = down_rate (x - bottom) s down, times (1 + spread z), plus noise z'.
    `harmonic` as in PulseTrain.
    """

    up_drive: float
    down_drive: float
    up_width: float
    down_width: float
    up_rate: float
    down_rate: float
    bottom: float
    top: float
    spread: float
    noise: float
    harmonic: bool = False


class OpenResult(NamedTuple):
    """What counted pulses left: values [rows, cols], dissipation per row [rows]."""

    value: Array
    up_energy: Array
    down_energy: Array


class Draws(NamedTuple):
    """Where the random numbers come from: key, stream word of plane 0, event, and the stride of a plane."""

    key: tuple[int, int]
    stream: int
    plane: int
    event: int


def middle(before: Array, after: Array, *, harmonic: bool) -> Array:
    """What a pulse dissipates at: (a + b)/2, or 2 a b/(a + b), the inverse of the mean resistance (0 for two zeros)."""
    if not harmonic:
        return 0.5 * (before + after)
    total = before + after
    return np.where(total > 0.0, 2.0 * before * after / np.where(total > 0.0, total, 1.0), 0.0)


def end_steps(train: PulseTrain) -> tuple[int, int]:
    """First step of each polarity, up and down, that has the last drive."""
    up, down = (int(np.argmax(drive >= drive[-1])) for drive in (train.up_drive, train.down_drive))
    return up, down


def write_verify(
    start: Array,
    target: Array,
    tolerance: Array,
    strength: Array,
    bounds: Bounds | None = None,
    *,
    train: PulseTrain,
    draws: Draws,
) -> PulseResult:
    """Pulse every element [rows, cols] until |value - target| <= tolerance, or until it is given up.

    A pulse of strength a = growth[k] s max(0, 1 + spread z) moves a value by (top - x) a/(1 + a) up or
    (x - bottom) a/(1 + a) down, and no further than its own bounds; a change of polarity restarts k at 0. One check comes first,
    one after every pulse and one at the end. Dissipation: drive^2 width `middle`(before, after) per pulse (upwards at most
    drive compliance width), verify * x per check. Pulse p of the element in (row, col) takes word p % 4 of
    counter (col, row, stream + plane * (p // 4), event). An element of strength 0 takes pulses and stays.
    """
    x, shape = start.copy(), start.shape
    up, down = np.zeros((2, *shape), np.uint16)
    energy_up, energy_down = np.zeros((2, *shape))
    checks = train.verify * x
    run, last, turns = np.zeros((3, *shape), np.int64)
    for pulse in range(train.max_pulses):
        rising = x < target
        polarity = np.where(rising, 1, -1)
        turning = polarity == -last
        step = np.where(polarity == last, run + 1, 0)
        active = (np.abs(x - target) > tolerance) & ~_given_up(step, turns + turning, rising, train)
        if not active.any():
            break
        moved, heat = _pulsed(x, strength, bounds, step, rising, train, _normal(pulse, shape, draws))
        energy_up += np.where(active & rising, heat, 0.0)
        energy_down += np.where(active & ~rising, heat, 0.0)
        up += active & rising
        down += active & ~rising
        run, last, turns = (
            np.where(active, new, old)
            for new, old in ((step, run), (polarity, last), (turns + turning, turns))
        )
        x = np.where(active, moved, x)
        checks += np.where(active, train.verify * x, 0.0)
    accepted = np.abs(x - target) <= tolerance
    checks += train.verify * x
    return PulseResult(x, up, down, accepted, _row_sums(energy_up), _row_sums(energy_down), _row_sums(checks))


def _given_up(
    step: NDArray[np.int64], turns: NDArray[np.int64], rising: NDArray[np.bool_], train: PulseTrain
) -> NDArray[np.bool_]:
    """Whether the next pulse, `step` of its run after `turns` changes of polarity, is one too many."""
    beyond = np.zeros(step.shape, np.bool_)
    if train.max_reversals:
        beyond |= turns > train.max_reversals
    if train.max_end_pulses:
        beyond |= step - np.where(rising, *end_steps(train)) >= train.max_end_pulses
    return beyond


def _pulsed(
    x: Array,
    strength: Array,
    bounds: Bounds | None,
    step: NDArray[np.int64],
    rising: NDArray[np.bool_],
    train: PulseTrain,
    z: Array,
) -> tuple[Array, Array]:
    """Values after one pulse of everybody, and its dissipation."""
    k = np.minimum(step, len(train.up_drive) - 1)
    growth = np.where(rising, train.up_growth[k], train.down_growth[k])
    a = growth * strength * np.maximum(0.0, 1.0 + train.spread * z)
    moved = np.where(rising, x + (train.top - x) * (a / (1.0 + a)), x - (x - train.bottom) * (a / (1.0 + a)))
    if bounds is not None:
        moved = np.minimum(np.maximum(moved, bounds[0]), bounds[1])
    drive = np.where(rising, train.up_drive[k], train.down_drive[k])
    mean = middle(x, moved, harmonic=train.harmonic)
    heat = drive * drive * train.width * mean
    if train.compliance:
        capped = rising & (drive * mean > train.compliance)
        heat = np.where(capped, drive * train.compliance * train.width, heat)
    return moved, heat


def apply_pulses(
    start: Array,
    pulses: NDArray[np.int16],
    strength: Array,
    bounds: Bounds,
    *,
    train: OpenTrain,
    draws: Draws,
) -> OpenResult:
    """Give every element [rows, cols] its number of pulses, positive up, negative down, without looking.

    OpenTrain has the law. z and z' of one pulse are drawn as one: d + sqrt((spread d)^2 + noise^2) z has the same distribution.
    After each pulse a value is put back within its own bounds. Dissipation: drive^2 width `middle`(before, after) per pulse.
    Pulse p of the element in (row, col) takes word p % 4 of counter (col + WIDE * (b // PLANES), row,
    stream + plane * (b % PLANES), event), b = p // 4.

    Raises:
        ValueError: more than WIDE - 1 columns.
    """
    check_width(start)
    x, shape = start.copy(), start.shape
    energy_up, energy_down = np.zeros((2, *shape))
    rising, left = pulses > 0, np.abs(pulses.astype(np.int64))
    drive = np.where(rising, train.up_drive, train.down_drive)
    width = np.where(rising, train.up_width, train.down_width)
    for pulse in range(int(left.max(initial=0))):
        active = pulse < left
        z = _open_normal(pulse, shape, draws)
        d = np.where(rising, train.up_rate * (train.top - x), -(train.down_rate * (x - train.bottom)))
        d = d * strength
        moved = x + d + np.sqrt((train.spread * d) * (train.spread * d) + train.noise * train.noise) * z
        moved = np.minimum(np.maximum(moved, bounds[0]), bounds[1])
        heat = drive * drive * width * middle(x, moved, harmonic=train.harmonic)
        energy_up += np.where(active & rising, heat, 0.0)
        energy_down += np.where(active & ~rising, heat, 0.0)
        x = np.where(active, moved, x)
    return OpenResult(x, _row_sums(energy_up), _row_sums(energy_down))


def check_width(start: Array) -> None:
    """Raise ValueError for arrays whose columns do not fit into the counter of `apply_pulses`."""
    if start.shape[1] >= WIDE:
        raise ValueError(f"start: at most {WIDE - 1} columns (got {start.shape[1]}); split the array")


def _normal(pulse: int, shape: tuple[int, ...], draws: Draws) -> Array:
    return _drawn(0, draws.stream + draws.plane * (pulse // 4), shape, draws)[pulse % 4].astype(np.float64)


def _open_normal(pulse: int, shape: tuple[int, ...], draws: Draws) -> Array:
    high, plane = divmod(pulse // 4, PLANES)
    return _drawn(WIDE * high, draws.stream + draws.plane * plane, shape, draws)[pulse % 4].astype(np.float64)


def _drawn(first: int, stream: int, shape: tuple[int, ...], draws: Draws) -> tuple[NDArray[np.float32], ...]:
    """Four normals per element from counters (first + column, row, stream, event)."""
    column = np.arange(first, first + shape[1], dtype=np.uint32)[None, :]
    row = np.arange(shape[0], dtype=np.uint32)[:, None]
    return normals(philox4x32(column, row, np.uint32(stream), np.uint32(draws.event), *draws.key))


def _row_sums(values: Array) -> Array:
    """Sums over the columns from left to right (the order every backend keeps)."""
    return np.cumsum(values, axis=1)[:, -1]
