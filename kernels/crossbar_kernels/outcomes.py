"""Writes by drawn outcomes instead of pulses: the NumPy specification and the shared types."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels.philox import philox4x32

Array = NDArray[np.float64]
Bounds = tuple[Array, Array]
"""Lowest and highest value of each element."""
UNIT = 2.0**-32


class Outcomes(NamedTuple):
    """What writes come to, by the ladder steps nearest to an element's value before (i) and to its target (j).

    Step k of the ladder of targets is first + spacing k; that of values before is `fine` times as dense: first + spacing k / fine.
    `pulses` [i, j]: mean pulses. `failure` [i, j]: share of elements given up; they end `miss` [i, j] tolerances from the
    target. `up`, `down` [i, j, samples]: sampled pulse counts (a power of two of them). `most_up`, `most_down`: pulses an
    element takes that does not move. Tolerance = window[0] + window[1] * target; `residual` [order]: polynomial in the target,
    standard deviation of accepted elements.
    """

    first: float
    spacing: float
    fine: int
    pulses: NDArray[np.float32]
    failure: Array
    miss: Array
    up: NDArray[np.uint8]
    down: NDArray[np.uint8]
    most_up: int
    most_down: int
    window: tuple[float, float]
    residual: Array


class Settled(NamedTuple):
    """What `settle` did. Elements [arrays, rows, cols]; per row [arrays, rows, 2] with up and down last.

    `spread`: standard deviation given to elements that were written. `moves` [i, j]: written elements by ladder steps. `kept`
    [arrays, rows]: sum of the values that were inside their window. `slots`: most pulses of any element of the row.
    `vain_count`, `vain_sum`: elements that could not reach their window, and the sum of their values.
    """

    value: Array
    spread: NDArray[np.float32]
    pulses: NDArray[np.float32]
    accepted: NDArray[np.bool_]
    moves: NDArray[np.int64]
    kept: Array
    slots: NDArray[np.int32]
    vain_count: NDArray[np.int64]
    vain_sum: Array


class ArrayDraws(NamedTuple):
    """Where the random words come from: key, one stream word per array, event."""

    key: tuple[int, int]
    streams: NDArray[np.uint32]
    event: int


def settle(
    start: Array,
    target: Array,
    stuck: NDArray[np.bool_] | None = None,
    bounds: Bounds | None = None,
    *,
    table: Outcomes,
    draws: ArrayDraws,
) -> Settled:
    """Bring elements [arrays, rows, cols] that are outside their window near their target, by the table.

    Uniform v = (word + 1/2) 2^-32 of each element: below failure[i, j] the element is given up, otherwise the rest of v, as u
    uniform in (-1, 1), gives the error sign(u) (hole + (1 - hole)|u|) size with the residual's standard deviation inside the window
    (`error_shape`). Stuck elements stay; elements whose bounds keep them from their window go to the bound. Both take their
    pulses in vain. Word j % 4 of counter (j // 4, row, stream, event) belongs to column j.
    """
    low, high = (np.zeros_like(target), np.full_like(target, np.inf)) if bounds is None else bounds
    still = np.zeros(start.shape, np.bool_) if stuck is None else stuck
    tolerance = table.window[0] + table.window[1] * target
    inside = np.abs(start - target) <= tolerance
    vain = ~inside & (still | (target + tolerance < low) | (target - tolerance > high))
    written = ~inside & ~vain
    i, j = ladder_steps(start, target, table)
    words = _words(start.shape, draws)
    error, sd, missed = _errors(target, tolerance, np.maximum(low, 0.0), words, table, i, j)
    reached = np.minimum(np.maximum(np.maximum(target + error, 0.0), low), high)
    edge = np.where(still, start, np.minimum(np.maximum(target, low), high))
    value = np.where(written, reached, np.where(vain, edge, start))
    rising = start < target
    counts = _pulse_counts(table, i, j, words, written, vain, rising)
    most = np.where(rising, table.most_up, table.most_down)
    pulses = np.where(written, table.pulses[i, j], np.where(vain, most, 0)).astype(np.float32)
    before, after = table.pulses.shape
    moves = np.bincount((i * after + j)[written], minlength=before * after).reshape(before, after)
    sides = (vain & rising, vain & ~rising)
    return Settled(
        value,
        np.where(written, sd, 0.0).astype(np.float32),
        pulses,
        inside | (written & ~missed),
        moves,
        _sums(np.where(inside, start, 0.0)),
        np.stack([c.max(axis=2) for c in counts], axis=-1).astype(np.int32),
        np.stack([side.sum(axis=2) for side in sides], axis=-1),
        np.stack([_sums(np.where(side, edge, 0.0)) for side in sides], axis=-1),
    )


def ladder_steps(start: Array, target: Array, table: Outcomes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Nearest steps of the two ladders."""
    before, after = table.pulses.shape
    inverse = 1.0 / table.spacing
    i = np.floor((start - table.first) * (inverse * table.fine) + 0.5)
    j = np.floor((target - table.first) * inverse + 0.5)
    steps = [np.minimum(np.maximum(k, 0.0), n - 1.0).astype(np.int64) for k, n in ((i, before), (j, after))]
    return steps[0], steps[1]


def error_shape(sd: Array, tolerance: Array) -> tuple[Array, Array]:
    """Hole and size of an error sign(u)(hole + (1 - hole)|u|) size with standard deviation sd, u uniform in (-1, 1).

    A uniform error of half-width sqrt(3) sd while that is within the tolerance w. A larger sd < w: the error keeps out of the middle,
    |error| uniform in (hole w, w) with (1 + hole + hole^2)/3 = (sd/w)^2. An sd that no error within w has
    (sd >= w): uniform again, beyond the window.
    """
    square = (sd * sd) / (tolerance * tolerance)
    edged = (3.0 * square > 1.0) & (square < 1.0)
    hole = np.where(edged, (np.sqrt(np.maximum(12.0 * square - 3.0, 1.0)) - 1.0) * 0.5, 0.0)
    return hole, np.where(edged, tolerance, sd * np.sqrt(3.0))


def _errors(
    target: Array, tolerance: Array, low: Array, words: NDArray[np.uint32], table: Outcomes, i: NDArray[np.int64], j: NDArray[np.int64]
) -> tuple[Array, Array, NDArray[np.bool_]]:  # fmt: skip
    """Error of each element, the standard deviation it was drawn with, and whether the element is given up."""
    sd = np.zeros_like(target)
    for coefficient in table.residual[::-1]:
        sd = sd * target + coefficient
    v, p = (words + 0.5) * UNIT, table.failure[i, j]
    missed = v < p
    share = np.where(missed, v, v - p) / np.where(missed, p, 1.0 - p)
    u = 2.0 * share - 1.0
    with np.errstate(invalid="ignore", divide="ignore"):
        hole, size = error_shape(sd, tolerance)
    magnitude = np.where(missed, table.miss[i, j] * tolerance, (hole + (1.0 - hole) * np.abs(u)) * size)
    below = (u < 0) & ~(missed & (magnitude > target - low))  # what is given up stays outside its window
    return np.where(below, -magnitude, magnitude), sd, missed


def _pulse_counts(
    table: Outcomes,
    i: NDArray[np.int64],
    j: NDArray[np.int64],
    words: NDArray[np.uint32],
    written: NDArray[np.bool_],
    vain: NDArray[np.bool_],
    rising: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sampled pulses of each element, up and down."""
    k = words & np.uint32(table.up.shape[2] - 1)
    up = np.where(written, table.up[i, j, k], np.where(vain & rising, table.most_up, 0))
    down = np.where(written, table.down[i, j, k], np.where(vain & ~rising, table.most_down, 0))
    return up, down


def _words(shape: tuple[int, ...], draws: ArrayDraws) -> NDArray[np.uint32]:
    group = np.arange(-(-shape[2] // 4), dtype=np.uint32)[None, None, :]
    row = np.arange(shape[1], dtype=np.uint32)[None, :, None]
    stream = draws.streams.astype(np.uint32)[:, None, None]
    words = np.stack(philox4x32(group, row, stream, np.uint32(draws.event), *draws.key), axis=-1)
    return words.reshape(*shape[:2], -1)[:, :, : shape[2]]


def _sums(values: Array) -> Array:
    """Sums over the columns from left to right (the order every backend keeps)."""
    return np.cumsum(values, axis=2)[:, :, -1]
