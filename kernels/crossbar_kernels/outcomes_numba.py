"""Numba twin of `crossbar_kernels.outcomes`: the same operations in the same order, hence the same bits."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels.outcomes import UNIT, ArrayDraws, Bounds, Outcomes, Settled
from crossbar_kernels.philox_numba import compiled, inlined, philox4x32
from crossbar_kernels.threads import share_rows

Array = NDArray[np.float64]
BAND = 16
"""Rows that threads take at a time, in the unit of `share_rows`."""
_UNBOUNDED, _FREE = np.empty((0, 0)), np.empty((0, 0), np.bool_)
_UNIT = UNIT
_SQRT3 = float(np.sqrt(3.0))


class _Numbers(NamedTuple):
    """Scalars of a table and of the draws."""

    first: float
    inverse: float
    finer: float
    window: float
    relative: float
    most_up: int
    most_down: int
    event: np.uint32
    k0: np.uint32
    k1: np.uint32


def settle(
    start: Array,
    target: Array,
    stuck: NDArray[np.bool_] | None = None,
    bounds: Bounds | None = None,
    *,
    table: Outcomes,
    draws: ArrayDraws,
) -> Settled:
    """Bring elements near their targets by drawn outcomes; as `outcomes.settle`, the same bits."""
    arrays, rows, cols = start.shape
    flat = (arrays * rows, cols)
    x, goal = (np.ascontiguousarray(a, np.float64).reshape(flat) for a in (start, target))
    low, high = (_UNBOUNDED,) * 2 if bounds is None else (np.asarray(b).reshape(flat) for b in bounds)
    held = _FREE if stuck is None else stuck.reshape(flat)
    kinds: tuple[type[Any], ...] = (np.float64, np.float32, np.float32, np.bool_)
    value, spread, pulses, accepted = (np.empty(flat, kind) for kind in kinds)
    kept, slots = np.zeros(flat[0]), np.zeros((flat[0], 2), np.int32)
    vain_count, vain_sum = np.zeros((flat[0], 2), np.int64), np.zeros((flat[0], 2))
    numbers, streams = _numbers(table, draws), draws.streams.astype(np.uint32)
    moves: list[NDArray[np.int64]] = []

    def work(part: slice) -> None:
        r = slice(part.start * BAND, min(part.stop * BAND, flat[0]))
        mine = np.zeros(table.pulses.shape, np.int64)
        elements = (x[r], goal[r], held[r], low[r], high[r], value[r], spread[r], pulses[r], accepted[r])
        per_row = (kept[r], slots[r], vain_count[r], vain_sum[r])
        lookup = (table.pulses, table.failure, table.miss, table.up, table.down, table.residual)
        settle_rows(*elements, *per_row, mine, *lookup, streams, r.start, rows, numbers)
        moves.append(mine)

    share_rows(work, -(-flat[0] // BAND), x.size)
    per_row, shape = (arrays, rows, 2), start.shape
    return Settled(
        value.reshape(shape),
        spread.reshape(shape),
        pulses.reshape(shape),
        accepted.reshape(shape),
        sum(moves, np.zeros(table.pulses.shape, np.int64)),
        kept.reshape(arrays, rows),
        slots.reshape(per_row),
        vain_count.reshape(per_row),
        vain_sum.reshape(per_row),
    )


def _numbers(table: Outcomes, draws: ArrayDraws) -> _Numbers:
    words = (np.uint32(w) for w in (draws.event, *draws.key))
    window, relative = (float(w) for w in table.window)
    most = (int(table.most_up), int(table.most_down))
    return _Numbers(
        float(table.first),
        1.0 / table.spacing,
        1.0 / table.spacing * table.fine,
        window,
        relative,
        *most,
        *words,
    )


@inlined
def _step(value: Any, first: Any, inverse: Any, count: Any) -> Any:
    return np.int64(min(max(np.floor((value - first) * inverse + 0.5), 0.0), count - 1.0))


@inlined
def _size(sd: Any, tolerance: Any) -> Any:
    """Hole and size of the error (outcomes.error_shape)."""
    square = (sd * sd) / (tolerance * tolerance)
    edged = (3.0 * square > 1.0) and (square < 1.0)
    hole = (np.sqrt(max(12.0 * square - 3.0, 1.0)) - 1.0) * 0.5 if edged else 0.0
    return hole, tolerance if edged else sd * _SQRT3


@inlined
def _error(word: Any, sd: Any, tolerance: Any, depth: Any, failure: Any, miss: Any) -> Any:
    """Error of an element that may go `depth` down, and whether it is given up."""
    v = (np.float64(word) + 0.5) * _UNIT
    missed = v < failure
    share = v / failure if missed else (v - failure) / (1.0 - failure)
    u = 2.0 * share - 1.0
    hole, size = _size(sd, tolerance)
    magnitude = miss * tolerance if missed else (hole + (1.0 - hole) * abs(u)) * size
    below = u < 0 and not (missed and magnitude > depth)
    return -magnitude if below else magnitude, missed


@compiled
def settle_rows(
    x: Any, target: Any, stuck: Any, low: Any, high: Any, value: Any, spread: Any, pulses: Any, accepted: Any,
    kept: Any, slots: Any, vain_count: Any, vain_sum: Any, moves: Any,
    mean: Any, failure: Any, miss: Any, up: Any, down: Any, residual: Any, streams: Any, first: Any, rows: Any, n: Any
) -> None:  # fmt: skip
    """Settle rows `first`, first + 1, ... of all arrays laid on top of each other."""
    before, after, samples = mean.shape[0], mean.shape[1], np.uint32(up.shape[2] - 1)
    bounded, holding = low.size > 0, stuck.size > 0
    for a in range(x.shape[0]):
        row, stream = np.uint32((first + a) % rows), streams[(first + a) // rows]
        group, words = -1, (np.uint32(0), np.uint32(0), np.uint32(0), np.uint32(0))
        most_up = most_down = np.int64(0)
        for b in range(x.shape[1]):
            g, goal = x[a, b], target[a, b]
            tolerance = n.window + n.relative * goal
            value[a, b], spread[a, b], pulses[a, b], accepted[a, b] = g, 0.0, 0.0, True
            if abs(g - goal) <= tolerance:
                kept[a] += g
                continue
            rising = g < goal
            least = low[a, b] if bounded else 0.0
            largest = high[a, b] if bounded else np.inf
            held = holding and stuck[a, b]
            if held or goal + tolerance < least or goal - tolerance > largest:
                side, most = (0, n.most_up) if rising else (1, n.most_down)
                edge = g if held else min(max(goal, least), largest)
                value[a, b], pulses[a, b], accepted[a, b] = edge, most, False
                vain_count[a, side] += 1
                vain_sum[a, side] += edge
                if rising:
                    most_up = max(most_up, np.int64(most))
                else:
                    most_down = max(most_down, np.int64(most))
                continue
            if group != b // 4:
                group = b // 4
                words = philox4x32(np.uint32(group), row, stream, n.event, n.k0, n.k1)
            word = words[b % 4]
            i, j = _step(g, n.first, n.finer, before), _step(goal, n.first, n.inverse, after)
            k = word & samples
            sd = 0.0
            for c in range(residual.size - 1, -1, -1):
                sd = sd * goal + residual[c]
            depth = goal - max(least, 0.0)
            error, missed = _error(word, sd, tolerance, depth, failure[i, j], miss[i, j])
            value[a, b] = min(max(goal + error, 0.0, least), largest)
            spread[a, b], pulses[a, b], accepted[a, b] = sd, mean[i, j], not missed
            moves[i, j] += 1
            most_up = max(most_up, np.int64(up[i, j, k]))
            most_down = max(most_down, np.int64(down[i, j, k]))
        slots[a, 0] = most_up
        slots[a, 1] = most_down
