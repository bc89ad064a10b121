"""The fast backend for CPUs: int8 digit products and one fused Numba pass for noise, converter and sum over planes and tiles.

Every integer w is split into int8 digits; a product of digits fits int32 exactly and float64 holds the integers that the digits
are put together to, so the sums are those of the reference bit for bit, whatever multiplies the digits and on however many threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels import NUMERICS, AdcRange, AdcTable, NoiseStream, reference
from crossbar_kernels.checks import check_inputs, check_table, check_weights, start
from crossbar_kernels.chunk_sums import IntegerSums, RealSums
from crossbar_kernels.codes_numba import encode, planes, sum_squares
from crossbar_kernels.conversion_numba import add_converted, add_noisy, noise_room
from crossbar_kernels.digits import halves, signed
from crossbar_kernels.outcomes_numba import settle
from crossbar_kernels.packed_numba import add_products, can_pack
from crossbar_kernels.philox_numba import compiled, fill_normals
from crossbar_kernels.pulses_numba import apply_pulses, write_verify
from crossbar_kernels.reference import to_host
from crossbar_kernels.threads import share_rows
from crossbar_kernels.vectors import (
    asarray,
    decode,
    full_scales,
    joint_squares,
    like,
    normalise,
    put,
    reals,
    subtract_sums,
    take,
)
from crossbar_kernels.vnni_numba import pack

__all__ = [
    "DEVICE",
    "NUMERICS",
    "Prepared",
    "add_squares",
    "apply_pulses",
    "asarray",
    "decode",
    "encode",
    "full_scales",
    "joint_squares",
    "like",
    "mvm",
    "normalise",
    "normals",
    "planes",
    "prepare",
    "put",
    "reals",
    "settle",
    "subtract_sums",
    "sum_squares",
    "take",
    "to_host",
    "write_verify",
]

DEVICE = "cpu"
Array = NDArray[np.float64]
Int8 = NDArray[np.int8]
NO_SQUARES = np.empty((0, 0), np.int16)
NO_DIGITS = np.empty((0, 0, 0, 0), np.uint8)


@dataclass(frozen=True)
class Prepared(reference.Prepared):
    """Weights and variances [tiles, rows, cols] and, where they are integers, their int8 digits in the order they are read.

    w = 128 high + low: `digits` (high, low), high left out where |w| <= 127; v = 128 high + low: `variance_digits`
    (high, low, high - low), low alone where v <= 127. Both [tiles, digit, cols, rows], or as `vnni_numba.pack` lays them out (`packed`).
    """

    digits: NDArray[Any] | None
    variance_digits: NDArray[Any] | None
    packed: bool

    @cached_property
    def real_weights(self) -> Array:
        """The weights as float64, for inputs that are not integers."""
        return self.weights.astype(np.float64)

    @cached_property
    def real_variance(self) -> Array | None:
        """The variances as float64."""
        return None if self.variance is None else self.variance.astype(np.float64)


def normals(
    rows: NDArray[np.uint32], cols: int, *, key: tuple[int, int], stream: int, event: int
) -> NDArray[np.float32]:
    """Standard normals [len(rows), cols]; number j % 4 of counter (j // 4, row, stream, event) stands in column j."""
    z = np.empty((len(rows), 4 * -(-cols // 4)), np.float32)
    words = [np.uint32(n) for n in (stream, event, *key)]
    share_rows(lambda part: _normals(z[part], rows[part], *words), len(rows), z.size)
    return z[:, :cols]


def add_squares(codes: NDArray[Any], sums: NDArray[np.int64]) -> None:
    """Add the squared codes [..., width], summed over everything but the last axis, to `sums` [width], in place."""
    sums += sum_squares(codes)


def prepare(weights: NDArray[Any], variance: NDArray[Any] | None = None) -> Prepared:
    """Weights w and read variances v [tiles, rows, cols]: int16 with |w| <= 16383, 0 <= v <= 16383, or float64.

    Raises:
        ValueError: shapes, kinds or values do not fit.
    """
    check_weights(weights, variance)
    held, packed = None if variance is None else variance.copy(), can_pack()
    if weights.dtype != np.int16:
        return Prepared(weights.copy(), held, None, None, packed)
    store = pack if packed else _by_columns
    of_variance = None if variance is None else store(np.stack(halves(variance), 1))
    return Prepared(weights.copy(), held, store(np.stack(signed(weights), 1)), of_variance, packed)


def _by_columns(digits: Int8) -> Int8:
    """Digits [tiles, digit, rows, cols] as a product with one vector reads them, [tiles, digit, cols, rows]."""
    return np.ascontiguousarray(digits.swapaxes(2, 3))


def mvm(
    inputs: NDArray[Any],
    prepared: Prepared,
    *,
    adc: AdcRange | AdcTable | None,
    noise: NoiseStream | None,
    weights: Sequence[float] = (1.0,),
    out: Array | None = None,
) -> Array:
    """y_bj = sum over tiles t, planes k of w_k ADC(sum_i x_kbi w_tij + s_kbtj z_kbtj), [batch, cols].

    As `reference.mvm`: the same bits for int8 inputs and int16 weights; for float64, sums in the order of the BLAS.

    Raises:
        ValueError: shapes do not fit, or noise is asked for and no variance was prepared.
    """
    stacked = check_inputs(inputs, prepared, noise, weights)
    check_table(adc, prepared)
    y = start(out, stacked.shape[1], prepared.cols)
    squares = None if noise is None else noise.squares
    whole = prepared.digits is not None and inputs.dtype == np.int8
    whole = whole and (squares is None or squares.dtype == np.int16)
    work = _Work(
        np.asarray(weights, np.float64),
        tuple(adc) if isinstance(adc, AdcRange) else None,
        np.stack(adc, 1) if isinstance(adc, AdcTable) else None,
        None if noise is None else _drawn(noise, prepared.tiles, len(stacked)),
    )
    if whole and prepared.packed:
        finish = _packed(y, np.ascontiguousarray(stacked), prepared, work)
    else:
        finish = _tile_by_tile(y, stacked, prepared, work, whole=whole)
    share_rows(finish, len(y), y.size * prepared.tiles * len(stacked))
    return y


class _Work(NamedTuple):
    """A product's weights of planes, converters and noise, as the compiled passes take them (packed_numba.add_products)."""

    shares: Array
    one: tuple[float, ...] | None
    tables: Array | None
    noise: tuple[Any, ...] | None


def _drawn(noise: NoiseStream, tiles: int, planes: int) -> tuple[Any, ...]:
    sigma = np.empty((tiles, 0)) if noise.sigma is None else np.ascontiguousarray(noise.sigma)
    squares = NO_SQUARES if noise.squares is None else np.ascontiguousarray(noise.squares)
    words = np.array([[noise.word(t, k) for k in range(planes)] for t in range(tiles)], np.uint32)
    rows = np.ascontiguousarray(noise.rows, np.uint32)
    return float(noise.scale), sigma, squares, rows, words, *(np.uint32(n) for n in (noise.event, *noise.key))


def _packed(y: Array, codes: Int8, prepared: Prepared, work: _Work) -> Callable[[slice], None]:
    """Integers on packed weights: one compiled pass per chunk of rows."""
    digits = prepared.digits, NO_DIGITS if prepared.variance_digits is None else prepared.variance_digits
    shares, one, tables, noise = work

    def finish(part: slice) -> None:
        rows = part.start, part.stop
        add_products(y, rows, shares, codes, *digits, prepared.rows, noise, one, tables)

    return finish


def _tile_by_tile(
    y: Array, planes: NDArray[Any], prepared: Prepared, work: _Work, *, whole: bool
) -> Callable[[slice], None]:
    """Other processors and real numbers: a product per tile and plane by a library, then the compiled pass over its sums."""
    shares, one, tables, noise = work
    squares = NO_SQUARES if noise is None else noise[2]

    def finish(part: slice) -> None:
        sums_of = IntegerSums if whole else RealSums
        sums = sums_of(planes[:, part], prepared, squares[part])
        block, room = (part.start, part.stop, 0, y.shape[1]), noise_room(y.shape[1])
        for t, k in np.ndindex(prepared.tiles, len(planes)):
            p = sums.of_weights(t, k)
            if noise is None:
                add_converted(y, block, float(shares[k]), p, len(p), one, tables, t)
                continue
            scale, sigma, _, rows, words, *counter = noise
            own, q = (scale, sigma, rows, *counter), sums.of_variance(t, k)
            add_noisy(
                y, block, float(shares[k]), p, len(p), q, len(q), own, room, words[t, k], one, tables, t
            )

    return finish


@compiled
def _normals(z: Any, rows: Any, stream: Any, event: Any, k0: Any, k1: Any) -> None:
    words = np.empty((4, z.shape[1] // 4), np.uint32)
    for b in range(rows.size):
        fill_normals(z[b], words, words.shape[1], 0, rows[b], stream, event, k0, k1)
