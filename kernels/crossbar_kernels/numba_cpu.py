"""The fast backend for CPUs: int8 digit products and one fused Numba pass for noise, converter and sum over tiles.

Every integer w is split into int8 digits; a product of digits fits int32 exactly and the digits are put together in 64-bit
integers, so the sums are those of the reference bit for bit, whatever multiplies the digits and on however many threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels import NUMERICS, AdcRange, AdcTable, NoiseStream
from crossbar_kernels.codes_numba import encode, sum_squares
from crossbar_kernels.outcomes_numba import settle
from crossbar_kernels.philox_numba import compiled, fill_normals
from crossbar_kernels.pulses_numba import apply_pulses, write_verify
from crossbar_kernels.reference import check_inputs, check_table, check_weights
from crossbar_kernels.threads import share_rows, torch_or_none

__all__ = [
    "NUMERICS",
    "Prepared",
    "apply_pulses",
    "encode",
    "mvm",
    "normals",
    "prepare",
    "settle",
    "sum_squares",
    "write_verify",
]

Array = NDArray[np.float64]
Int8 = NDArray[np.int8]
Gemm = Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], None]


@dataclass(frozen=True)
class Prepared:
    """Weights and variances [tiles, rows, cols] and, where they are integers, their digits side by side.

    w = 128 high + low: `digits` [tiles, rows, (high | low) cols], high left out where |w| <= 127;
    v = 128 high + low: `variance_digits` [tiles, rows, (high | low) cols].
    """

    weights: NDArray[Any]
    variance: NDArray[Any] | None
    digits: Int8 | None
    variance_digits: Int8 | None

    @property
    def tiles(self) -> int:
        """Row tiles, each with its own conversion."""
        return int(self.weights.shape[0])

    @property
    def rows(self) -> int:
        """Rows per tile."""
        return int(self.weights.shape[1])

    @property
    def cols(self) -> int:
        """Columns."""
        return int(self.weights.shape[2])

    @cached_property
    def real_weights(self) -> Array:
        """The weights as float64, for inputs that are not integers."""
        return self.weights.astype(np.float64)

    @cached_property
    def real_variance(self) -> Array | None:
        """The variances as float64."""
        return None if self.variance is None else self.variance.astype(np.float64)


class _Step(NamedTuple):
    """What happens to a tile's partial sums: read noise if `noisy`, conversion if `converting`."""

    noisy: bool
    scale: float
    word: np.uint32
    event: np.uint32
    k0: np.uint32
    k1: np.uint32
    converting: bool
    lo: float
    hi: float
    step: float


def normals(
    rows: NDArray[np.uint32], cols: int, *, key: tuple[int, int], stream: int, event: int
) -> NDArray[np.float32]:
    """Standard normals [len(rows), cols]; number j % 4 of counter (j // 4, row, stream, event) stands in column j."""
    z = np.empty((len(rows), 4 * -(-cols // 4)), np.float32)
    words = [np.uint32(n) for n in (stream, event, *key)]
    share_rows(lambda part: _normals(z[part], rows[part], *words), len(rows), z.size)
    return z[:, :cols]


def prepare(weights: NDArray[Any], variance: NDArray[Any] | None = None) -> Prepared:
    """Weights w and read variances v [tiles, rows, cols]: int16 with |w| <= 16383, 0 <= v <= 16383, or float64.

    Raises:
        ValueError: shapes, kinds or values do not fit.
    """
    check_weights(weights, variance)
    if weights.dtype != np.int16:
        return Prepared(weights.copy(), None if variance is None else variance.copy(), None, None)
    if variance is None:
        return Prepared(weights.copy(), None, _signed_digits(weights), None)
    halves = np.concatenate((variance >> 7, variance & 127), axis=2).astype(np.int8)
    return Prepared(weights.copy(), variance.copy(), _signed_digits(weights), halves)


def _signed_digits(weights: NDArray[Any]) -> Int8:
    if not weights.size or np.abs(weights).max() <= 127:
        return weights.astype(np.int8)
    high = np.minimum((weights + np.int16(64)) >> 7, 127)
    return np.concatenate((high, weights - 128 * high), axis=2).astype(np.int8)


def mvm(
    inputs: NDArray[Any], prepared: Prepared, *, adc: AdcRange | AdcTable | None, noise: NoiseStream | None
) -> Array:
    """y_bj = sum over tiles t of ADC(sum_i x_bi w_tij + scale sqrt(sum_i x_bi^2 v_tij) z_btj), [batch, cols].

    As `reference.mvm`: the same bits for int8 inputs and int16 weights; for float64, sums in the order of the BLAS.

    Raises:
        ValueError: shapes do not fit, or noise is asked for and no variance was prepared.
    """
    check_inputs(inputs, prepared, noise, prepared.variance is not None)
    check_table(adc, prepared)
    y = np.zeros((len(inputs), prepared.cols))
    squares = None if noise is None else noise.squares
    whole = squares is None or squares.dtype == np.int16
    integers = inputs.dtype == np.int8 and prepared.digits is not None and whole
    products = _IntegerProducts if integers else _RealProducts

    def finish(part: slice) -> None:
        sums = products(inputs[part], prepared, noise is not None, None if squares is None else squares[part])
        drawn = np.zeros(0, np.uint32) if noise is None else np.asarray(noise.rows[part], np.uint32)
        for t in range(prepared.tiles):
            p, q = sums.tile(t)
            _accumulate(y[part], p, q, drawn, _step(t, adc, noise), _table(t, adc))

    share_rows(finish, len(inputs), y.size * prepared.tiles)
    return y


def _table(tile: int, adc: AdcRange | AdcTable | None) -> Array:
    """An AdcTable's numbers for one tile, [6, cols]; empty for one converter for all."""
    return np.stack([column[tile] for column in adc]) if isinstance(adc, AdcTable) else np.empty((0, 0))


def _step(tile: int, adc: AdcRange | AdcTable | None, noise: NoiseStream | None) -> _Step:
    """The pass after a tile's product, as plain numbers."""
    word, event, k0, k1 = (
        (0, 0, 0, 0) if noise is None else (noise.word(tile), noise.event, noise.key[0], noise.key[1])
    )
    lo, hi, step = adc if isinstance(adc, AdcRange) else (0.0, 0.0, 1.0)
    return _Step(
        noisy=noise is not None,
        scale=0.0 if noise is None else float(noise.scale),
        word=np.uint32(word),
        event=np.uint32(event),
        k0=np.uint32(k0),
        k1=np.uint32(k1),
        converting=adc is not None,
        lo=float(lo),
        hi=float(hi),
        step=float(step),
    )


# -- products of one chunk with one tile ---------------------------------------------------------------------------


class _IntegerProducts:
    """Digit products in int32: p = x @ digits; q = (high and low digits of x^2) @ variance digits, stacked."""

    def __init__(self, x: Int8, prepared: Prepared, noisy: bool, squares: NDArray[Any] | None) -> None:
        self._x, self._prepared = _writable(x), prepared
        batch, cols = len(x), prepared.cols
        assert prepared.digits is not None  # the caller looked
        self._p = np.empty((batch, prepared.digits.shape[2]), np.int32)
        self._q = np.empty((2 * batch if noisy else 0, 2 * cols), np.int32)
        self._squares = np.empty((2 * batch if noisy else 0, x.shape[1]), np.int8)
        if squares is not None:
            self._squares[:batch], self._squares[batch:] = squares >> 7, squares & 127
        elif noisy:
            _square_digits(self._x, self._squares)

    def tile(self, t: int) -> tuple[NDArray[Any], NDArray[Any]]:
        gemm, prepared = integer_gemm(), self._prepared
        rows = slice(t * prepared.rows, (t + 1) * prepared.rows)
        assert prepared.digits is not None
        gemm(self._x[:, rows], prepared.digits[t], self._p)
        if self._q.size and prepared.variance_digits is not None:
            gemm(self._squares[:, rows], prepared.variance_digits[t], self._q)
        return self._p, self._q


class _RealProducts:
    """Products in float64."""

    def __init__(
        self, x: NDArray[Any], prepared: Prepared, noisy: bool, squares: NDArray[Any] | None
    ) -> None:
        self._x, self._prepared, self._noisy = x.astype(np.float64), prepared, noisy
        self._squares = self._x**2 if squares is None else squares.astype(np.float64)
        self._none = np.empty((0, prepared.cols))

    def tile(self, t: int) -> tuple[NDArray[Any], NDArray[Any]]:
        prepared, variance = self._prepared, self._prepared.real_variance
        rows = slice(t * prepared.rows, (t + 1) * prepared.rows)
        q = self._squares[:, rows] @ variance[t] if self._noisy and variance is not None else self._none
        return self._x[:, rows] @ prepared.real_weights[t], q


def _writable(x: Int8) -> Int8:
    """Torch warns about arrays that it may not write to, and cannot take reversed ones."""
    return x if x.flags.writeable and x.flags.c_contiguous else x.copy()


@cache
def integer_gemm() -> Gemm:
    """The fastest exact product of int8 matrices into int32 that works here.

    `torch._int_mm` where it is right also for the largest digits (it is private to PyTorch, and processors without
    VNNI have instructions that saturate); else float32, or float64 beyond 2^24.
    """
    torch = torch_or_none()
    if not hasattr(torch, "_int_mm"):
        return float_gemm

    def gemm(a: NDArray[Any], b: NDArray[Any], out: NDArray[Any]) -> None:
        torch._int_mm(torch.from_numpy(a), torch.from_numpy(b), out=torch.from_numpy(out))

    return gemm if _is_exact(gemm) else float_gemm


def _is_exact(gemm: Gemm) -> bool:
    """Compare with NumPy on extreme digits and on odd shapes, strided as tiles are."""
    pattern = np.array([127, -128, 127, 127, -127, 5, -128], np.int8)
    for m, k, n in ((1, 1, 1), (5, 67, 9), (32, 256, 64)):
        wide = np.resize(pattern, (m, 2 * k))
        b = np.resize(pattern[::-1], (k, n)).copy()
        out = np.empty((m, n), np.int32)
        try:
            gemm(wide[:, k:], b, out)
        except RuntimeError:
            return False
        if not np.array_equal(out, wide[:, k:].astype(np.int64) @ b.astype(np.int64)):
            return False
    return True


def float_gemm(a: NDArray[Any], b: NDArray[Any], out: NDArray[Any]) -> None:
    """int8 @ int8 -> int32 by float32 while every partial sum is below 2^24, which float32 holds exactly."""
    real = np.float32 if a.shape[1] * 2**14 <= 2**24 else np.float64
    out[...] = a.astype(real) @ b.astype(real)


# -- the pass over partial sums ------------------------------------------------------------------------------------


@compiled
def _accumulate(y: Array, p: Any, q: Any, rows: Any, step: _Step, table: Array) -> None:
    """Y += ADC(p + noise), row by row through buffers that fit the first cache."""
    batch, cols = y.shape
    a = np.empty(cols)
    z = np.empty(4 * ((cols + 3) // 4), np.float32)
    for b in range(batch):
        _join(p[b], a)
        if step.noisy:
            fill_normals(z, rows[b], step.word, step.event, step.k0, step.k1)
            _add_noise(a, q, b, batch, step.scale, z)
        if table.size:
            _convert_columns(a, table)
        elif step.converting:
            _convert(a, step.lo, step.hi, step.step)
        for j in range(cols):
            y[b, j] += a[j]


@compiled
def _join(digits: Any, a: Array) -> None:
    """A row of partial sums from its digits (high | low), or as it is."""
    cols = a.size
    if digits.size == cols:
        for j in range(cols):
            a[j] = digits[j]
    else:
        for j in range(cols):
            a[j] = np.int64(128) * digits[j] + digits[cols + j]


@compiled
def _add_noise(a: Array, q: Any, b: int, batch: int, scale: float, z: NDArray[np.float32]) -> None:
    """A += scale sqrt(v) z; v from four digit products, or as it is."""
    cols = a.size
    if q.shape[1] == cols:
        for j in range(cols):
            a[j] += scale * np.sqrt(q[b, j]) * z[j]
    else:
        high, low = q[b], q[batch + b]
        for j in range(cols):
            cross = np.int64(high[cols + j]) + low[j]
            v = np.int64(16384) * high[j] + np.int64(128) * cross + low[cols + j]
            a[j] += scale * np.sqrt(np.float64(v)) * z[j]


@compiled
def _convert(a: Array, lo: float, hi: float, step: float) -> None:
    """A = lo + rint((clip(a) - lo) / step) step.

    Adding and subtracting 2^52 rounds numbers in [0, 2^51) half to even, in vector registers.
    """
    for j in range(a.size):
        x = min(max(a[j], lo), hi)
        code = ((x - lo) / step + 4503599627370496.0) - 4503599627370496.0
        a[j] = lo + code * step


@compiled
def _convert_columns(a: Array, table: Array) -> None:
    """A = value + rint((clip(a, lo, hi) - base) / step) unit, column by column; rows of `table` as in AdcTable."""
    for j in range(a.size):
        x = min(max(a[j], table[0, j]), table[1, j])
        code = ((x - table[2, j]) / table[3, j] + 4503599627370496.0) - 4503599627370496.0
        a[j] = table[4, j] + code * table[5, j]


@compiled
def _square_digits(codes: Int8, out: Int8) -> None:
    """codes^2 = 128 high + low: high digits in the upper half of `out`, low ones below."""
    batch = codes.shape[0]
    for b in range(batch):
        for n in range(codes.shape[1]):
            square = np.int32(codes[b, n]) * np.int32(codes[b, n])
            out[b, n] = np.int8(square >> 7)
            out[batch + b, n] = np.int8(square & 127)


@compiled
def _normals(z: Any, rows: Any, stream: Any, event: Any, k0: Any, k1: Any) -> None:
    for b in range(rows.size):
        fill_normals(z[b], rows[b], stream, event, k0, k1)
