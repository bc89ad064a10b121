"""Numba twins of `crossbar_kernels.pulses`: the same operations in the same order, hence the same bits."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels.philox_numba import box_muller, compiled, inlined, philox4x32
from crossbar_kernels.pulses import (
    PLANES,
    WIDE,
    Bounds,
    Draws,
    OpenResult,
    OpenTrain,
    PulseResult,
    PulseTrain,
    check_width,
    end_steps,
)
from crossbar_kernels.threads import share_rows

Array = NDArray[np.float64]
_UNBOUNDED = np.empty((0, 0))
_PLANES, _WIDE = np.uint32(PLANES), np.uint32(WIDE)


class Numbers(NamedTuple):
    """A PulseTrain's scalars."""

    bottom: float
    top: float
    spread: float
    width: float
    verify: float
    most: int
    compliance: float
    max_turns: int
    up_limit: int
    down_limit: int
    harmonic: bool


class Words(NamedTuple):
    """Draws as uint32 words."""

    k0: np.uint32
    k1: np.uint32
    stream: np.uint32
    plane: np.uint32
    event: np.uint32


def words_of(draws: Draws) -> Words:
    """Draws as the compiled loops take them."""
    return Words(*(np.uint32(w) for w in (*draws.key, draws.stream, draws.plane, draws.event)))


def _numbers(train: PulseTrain) -> Numbers:
    """Scalars of a train; where there is no limit, the largest number of pulses does as one."""
    bottom, top, spread, width, verify = (float(number) for number in train[4:9])
    most = train.max_pulses
    up_limit, down_limit = (e + (train.max_end_pulses or most + 1) for e in end_steps(train))
    return Numbers(
        bottom,
        top,
        spread,
        width,
        verify,
        most,
        float(train.compliance),
        train.max_reversals or most,
        up_limit,
        down_limit,
        bool(train.harmonic),
    )


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
    """Pulse every element until it is accepted or given up; as `pulses.write_verify`, the same bits."""
    x = np.array(start, np.float64)
    counts = np.zeros((2, *x.shape), np.uint16)
    energies = np.zeros((3, len(x)))
    low, high = (_UNBOUNDED, _UNBOUNDED) if bounds is None else bounds
    ramps = np.stack([train.up_drive, train.up_growth, train.down_drive, train.down_growth])
    numbers, words = _numbers(train), words_of(draws)

    def pulse(part: slice) -> None:
        given = (x[part], target[part], tolerance[part], strength[part], low[part], high[part])
        pulse_rows(*given, counts[:, part], energies[:, part], part.start, ramps, numbers, words)

    share_rows(pulse, len(x), 16 * x.size)
    return PulseResult(x, counts[0], counts[1], np.abs(x - target) <= tolerance, *energies)


def apply_pulses(
    start: Array,
    pulses: NDArray[np.int16],
    strength: Array,
    bounds: Bounds,
    *,
    train: OpenTrain,
    draws: Draws,
) -> OpenResult:
    """Give every element its number of pulses; as `pulses.apply_pulses`, the same bits."""
    check_width(start)
    x = np.array(start, np.float64)
    energies = np.zeros((2, len(x)))
    numbers = OpenTrain._make((*map(float, train[:-1]), bool(train.harmonic)))
    words = words_of(draws)

    def pulse(part: slice) -> None:
        given = (x[part], pulses[part], strength[part], bounds[0][part], bounds[1][part])
        open_rows(*given, energies[:, part], part.start, numbers, words)

    share_rows(pulse, len(x), 16 * x.size)
    return OpenResult(x, *energies)


@inlined
def _four(column: Any, row: Any, stream: Any, words: Any) -> Any:
    """The normals of the four pulses that share a counter."""
    w0, w1, w2, w3 = philox4x32(np.uint32(column), np.uint32(row), stream, words.event, words.k0, words.k1)
    z0, z1 = box_muller(w0, w1)
    z2, z3 = box_muller(w2, w3)
    return np.float64(z0), np.float64(z1), np.float64(z2), np.float64(z3)


@inlined
def _middle(before: Any, after: Any, harmonic: Any) -> Any:
    """`pulses.middle` of one element."""
    if not harmonic:
        return 0.5 * (before + after)
    total = before + after
    return 2.0 * before * after / total if total > 0.0 else 0.0


@compiled
def pulse_rows(
    x: Any, target: Any, tolerance: Any, strength: Any, low: Any, high: Any, counts: Any, energies: Any, first: Any, ramps: Any, n: Any, words: Any
) -> None:  # fmt: skip
    """Pulse rows `first`, first + 1, ... of an array; counts [2, rows, cols], energies [3, rows] are filled."""
    last_step, bounded = ramps.shape[1] - 1, low.size > 0
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            g, goal, window, s = x[i, j], target[i, j], tolerance[i, j], strength[i, j]
            run, last, up, down, turns, pulse = 0, 0, 0, 0, 0, 0
            z1 = z2 = z3 = 0.0
            heat_up, heat_down, checks = 0.0, 0.0, n.verify * g
            while pulse < n.most and abs(g - goal) > window:
                rising = g < goal
                polarity = 1 if rising else -1
                run = run + 1 if polarity == last else 0
                turns += 1 if polarity == -last else 0
                if turns > n.max_turns or run >= (n.up_limit if rising else n.down_limit):
                    break
                last, k, side = polarity, min(run, last_step), 0 if rising else 2
                if pulse % 4 == 0:
                    stream = np.uint32(words.stream + words.plane * np.uint32(pulse // 4))
                    z, z1, z2, z3 = _four(j, first + i, stream, words)
                else:
                    z, z1, z2 = z1, z2, z3
                a = ramps[side + 1, k] * s * max(0.0, 1.0 + n.spread * z)
                step = a / (1.0 + a)
                moved = g + (n.top - g) * step if rising else g - (g - n.bottom) * step
                if bounded:
                    moved = min(max(moved, low[i, j]), high[i, j])
                drive, mean = ramps[side, k], _middle(g, moved, n.harmonic)
                heat = drive * drive * n.width * mean
                if rising:
                    if n.compliance > 0.0 and drive * mean > n.compliance:
                        heat = drive * n.compliance * n.width
                    heat_up += heat
                    up += 1
                else:
                    heat_down += heat
                    down += 1
                g = moved
                checks += n.verify * g
                pulse += 1
            x[i, j] = g
            counts[0, i, j] = up
            counts[1, i, j] = down
            energies[0, i] += heat_up
            energies[1, i] += heat_down
            energies[2, i] += checks + n.verify * g


@compiled
def open_rows(
    x: Any, pulses: Any, strength: Any, low: Any, high: Any, energies: Any, first: Any, n: Any, words: Any
) -> None:  # fmt: skip
    """Give the elements of rows `first`, first + 1, ... their pulses; energies [2, rows] are filled."""
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            g, s, count = x[i, j], strength[i, j], np.int64(pulses[i, j])
            rising = count > 0
            side = 0 if rising else 1
            drive, width = (n.up_drive, n.up_width) if rising else (n.down_drive, n.down_width)
            z1 = z2 = z3 = heat = 0.0
            for pulse in range(abs(count)):
                if pulse % 4 == 0:
                    block = np.uint32(pulse // 4)
                    column = np.uint32(np.uint32(j) + _WIDE * np.uint32(block // _PLANES))
                    stream = np.uint32(words.stream + words.plane * np.uint32(block % _PLANES))
                    z, z1, z2, z3 = _four(column, first + i, stream, words)
                else:
                    z, z1, z2 = z1, z2, z3
                d = n.up_rate * (n.top - g) if rising else -(n.down_rate * (g - n.bottom))
                d = d * s
                moved = g + d + np.sqrt((n.spread * d) * (n.spread * d) + n.noise * n.noise) * z
                moved = min(max(moved, low[i, j]), high[i, j])
                heat += drive * drive * width * _middle(g, moved, n.harmonic)
                g = moved
            x[i, j] = g
            energies[side, i] += heat
