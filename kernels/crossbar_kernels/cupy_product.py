"""Products on the device: digits in, integer sums by tensor cores, one kernel for all that happens to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels import AdcRange, AdcTable, NoiseStream, reference
from crossbar_kernels.checks import check_inputs, check_table, check_weights, start
from crossbar_kernels.cupy_device import (
    NULL,
    as_array,
    empty,
    is_on_device,
    launch,
    numbers,
    on_stream,
    tensor,
    to_host,
    upload,
)
from crossbar_kernels.cupy_gemm import integer_product, multiply, padded, padded_rows
from crossbar_kernels.digits import halves, signed

SCRATCH = 2**28
"""Bytes of partial sums that one launch works on; larger batches are cut."""
ONE_DIGIT = 11
"""The largest code whose square fits a digit of 7 bits."""
PRODUCTS = {
    (2, 2): ((0, 0, 16512), (1, 1, 129), (2, 2, -128)),
    (2, 1): ((0, 0, 128), (1, 0, 1)),
    (1, 2): ((0, 0, 128), (0, 1, 1)),
    (1, 1): ((0, 0, 1),),
}
"""By digits of squares and of variances: which digit of either is multiplied, and the weight of that product in their sum.

Two digits each, q = 128 h + l and v = 128 H + L, need three products (Karatsuba and Ofman 1962) with the third digit h - l:
q v = 16384 h H + 128 (h L + l H) + l L, and h L + l H = h H + l L - (h - l)(H - L).
"""


@dataclass(frozen=True)
class Prepared(reference.Prepared):
    """Weights and variances on the host and, where they are integers, their digits on the device.

    Digits are stored column by column and padded with zeros: `digits` [tiles, (high | low) columns, depth], w = 128 high + low, high left out
    where |w| <= 127; `variance_digits` [digits, tiles, columns, depth]: high, low, high - low of v = 128 high + low, or v alone where v <= 127.
    """

    digits: Any
    variance_digits: Any

    @cached_property
    def real_weights(self) -> Any:
        """The weights as float64 on the device, for inputs that are not integers."""
        return upload(self.weights, np.float64)

    @cached_property
    def real_variance(self) -> Any:
        """The variances as float64 on the device."""
        return None if self.variance is None else upload(self.variance, np.float64)


def prepare(weights: Any, variance: Any = None) -> Prepared:
    """Weights w and read variances v [tiles, rows, cols]: int16 with |w| <= 16383, 0 <= v <= 16383, or float64.

    Raises:
        ValueError: shapes, kinds or values do not fit.
    """
    weights = to_host(weights).copy()
    variance = None if variance is None else to_host(variance).copy()
    check_weights(weights, variance)
    if weights.dtype != np.int16:
        return Prepared(weights, variance, None, None)
    integer_product()  # its check waits for the device; products must not
    found = np.concatenate([_columns(digit) for digit in signed(weights)], axis=1)
    with on_stream():
        squares = None if variance is None else upload(np.stack([_columns(d) for d in halves(variance)]))
        return Prepared(weights, variance, upload(found), squares)


def _columns(digit: NDArray[Any]) -> NDArray[np.int8]:
    """Digits [tiles, rows, cols] in columns, padded: [tiles, cols, rows]."""
    tiles, rows, cols = digit.shape
    found = np.zeros((tiles, padded(cols), padded(rows)), np.int8)
    found[:, :cols, :rows] = digit.transpose(0, 2, 1)
    return found


def mvm(
    inputs: Any,
    prepared: Prepared,
    *,
    adc: AdcRange | AdcTable | None,
    noise: NoiseStream | None,
    weights: Sequence[float] = (1.0,),
    out: Any = None,
    largest: int | None = None,
) -> Any:
    """y_bj = out_bj + sum over tiles t, planes k of w_k ADC(sum_i x_kbi w_tij + s_kbtj z_kbtj), [batch, cols].

    As `reference.mvm`: the same bits for int8 inputs and int16 weights; for float64, sums in the order of the BLAS. A host `out` is
    changed in place too, which waits for the device.

    Args:
        inputs: int8 codes or float64, [planes, batch, tiles * rows], or one plane without the first axis; may be a CUDA tensor.
        prepared: from `prepare`.
        adc: the converter; the arrays of a table lie on the device best.
        noise: read noise; its arrays lie on the device best.
        weights: what a plane's results count, [planes].
        out: what the result is added to, in place.
        largest: a bound on |x| that the caller knows: up to 11, squares have one digit and read noise costs less. None finds it where
            the inputs lie on the host, and takes 127 where they do not.

    Raises:
        ValueError: shapes do not fit, or noise is asked for and no variance was prepared.
    """
    inputs, out = as_array(inputs), as_array(out)
    stacked = check_inputs(inputs, prepared, noise, weights)
    check_table(adc, prepared)
    job = _job(stacked, prepared, noise, largest)
    with on_stream():
        y = _target(out, stacked.shape[1], prepared.cols)
        x = upload(stacked)
        squares = None if noise is None or noise.squares is None else upload(noise.squares)
        after = _After(adding=out is not None, weights=numbers(weights), noise=noise, adc=adc, job=job)
        for first in range(0, len(y), job.rows_at_once):
            part = slice(first, min(first + job.rows_at_once, len(y)))
            name, sums = (_digit_sums if job.integers else _real_sums)(job, x, squares, part)
            after.finish(name, sums, y[part], part)
    if out is not None and y is not out:
        out[...] = y if is_on_device(out) else to_host(y)
    return y


@dataclass(frozen=True)
class _Job:
    """A product's kind: how its sums are made and how many rows of a batch fit into the scratch memory."""

    prepared: Prepared
    planes: int
    integers: bool
    noisy: bool
    square_digits: int

    @property
    def products(self) -> tuple[tuple[int, int, int], ...]:
        """Products of digits of squares and variances."""
        if not (self.integers and self.noisy):
            return ()
        return PRODUCTS[self.square_digits, min(len(self.prepared.variance_digits), 2)]

    @property
    def weight_digits(self) -> int:
        """Digits of the weights."""
        return int(self.prepared.digits.shape[1]) // padded(self.prepared.cols)

    @property
    def rows_at_once(self) -> int:
        """Rows of a batch whose partial sums fit into SCRATCH, at least one."""
        at_tile = 16 * self.prepared.cols
        if self.integers:
            at_tile = 4 * padded(self.prepared.cols) * (self.weight_digits + len(self.products))
        return max(1, SCRATCH // max(1, self.prepared.tiles * self.planes * at_tile))


def _job(stacked: Any, prepared: Prepared, noise: NoiseStream | None, largest: int | None) -> _Job:
    """What kind of product this is."""
    squares = None if noise is None else noise.squares
    integers = stacked.dtype == np.int8 and prepared.digits is not None
    integers = integers and (squares is None or squares.dtype == np.int16)
    noisy = noise is not None and prepared.variance is not None
    digits = 2
    if integers and noisy and squares is None:
        digits = 1 if _bound(stacked, largest) <= ONE_DIGIT else 2
    return _Job(prepared, len(stacked), integers, noisy, digits)


def _bound(codes: Any, largest: int | None) -> int:
    """A bound of the codes' magnitude: as given, as found on the host, or the largest there is."""
    if largest is not None:
        return largest
    return 127 if is_on_device(codes) else max(int(codes.max(initial=0)), -int(codes.min(initial=0)))


def _target(out: Any, batch: int, cols: int) -> Any:
    """The array on the device that results are added to: `out` itself if it can be."""
    return empty((batch, cols), np.float64) if out is None else upload(start(out, batch, cols))


# -- partial sums of some rows of a batch with all tiles ---------------------------------------------------------------


def _digit_sums(job: _Job, x: Any, squares: Any, part: slice) -> tuple[str, tuple[Any, ...]]:
    """Sums of digit products in int32: the kernel that goes on with them, and its arguments."""
    prepared = job.prepared
    count, stride = part.stop - part.start, padded(prepared.cols)
    rows, depth = padded_rows(job.planes * count), padded(prepared.rows)
    place = (x.shape[1], part.start, count, job.planes, prepared.tiles, prepared.rows, rows, depth)
    codes = empty((prepared.tiles, rows, depth), np.int8)
    launch("pack_codes", codes.size // 4, x, codes, *place)
    p = empty((prepared.tiles, rows, job.weight_digits * stride), np.int32)
    q = empty((len(job.products), prepared.tiles, rows, stride), np.int32)
    for t in range(prepared.tiles):
        multiply(codes[t], prepared.digits[t], p[t])
    if job.products:
        _variance_sums(job, x if squares is None else squares, squares is not None, place, q)
    weights = [weight for _, _, weight in job.products] + [0] * (3 - len(job.products))
    return "finish_digits", (p, q, rows, job.weight_digits, stride, len(job.products), *weights)


def _variance_sums(job: _Job, x: Any, given: bool, place: tuple[int, ...], q: Any) -> None:
    """Fill q [products, tiles, rows, cols] with products of the digits of squares and of variances."""
    variances = job.prepared.variance_digits
    digits = 1 + max(square for square, _, _ in job.products)
    squares = empty((digits, len(q[0]), *place[-2:]), np.int8)
    launch("pack_squares", squares[0].size // 4, x, given, squares, np.int32(digits), *place)
    for n, (square, variance, _) in enumerate(job.products):
        for t in range(len(q[n])):
            multiply(squares[square, t], variances[variance, t], q[n, t])


def _real_sums(job: _Job, x: Any, squares: Any, part: slice) -> tuple[str, tuple[Any, ...]]:
    """Sums in float64: the kernel that goes on with them, and its arguments."""
    import torch

    prepared = job.prepared
    rows = job.planes * (part.stop - part.start)
    shape = prepared.tiles, rows, prepared.cols
    p, q = empty(shape, np.float64), empty(shape if job.noisy else (0, 0, 0), np.float64)

    def tiled(array: Any) -> Any:
        """[planes, batch, tiles * rows] as [tiles, planes * rows of this part, rows of a tile]."""
        some = tensor(array)[:, part].to(torch.float64)
        return some.reshape(rows, prepared.tiles, prepared.rows).transpose(0, 1)

    torch.bmm(tiled(x), tensor(prepared.real_weights), out=tensor(p))
    if job.noisy:
        given = tiled(x).square() if squares is None else tiled(squares[None])
        torch.bmm(given, tensor(prepared.real_variance), out=tensor(q))
    return "finish_reals", (p, q, rows)


# -- what happens to them ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _After:
    """Noise, converter, weights and sum over planes and tiles, by one launch."""

    adding: bool
    weights: Any
    noise: NoiseStream | None
    adc: AdcRange | AdcTable | None
    job: _Job

    def finish(self, name: str, sums: tuple[Any, ...], y: Any, part: slice) -> None:
        """Write the rows y of a part of the batch, by the kernel for these sums, this noise and this converter."""
        batch, cols = y.shape
        noise_kind, noise = self._noise
        rows, words = self._rows_and_words
        adc_kind, adc = self._converter
        to = (y, self.adding, self.weights, batch, cols, self.job.prepared.tiles, self.job.planes)
        noise = (*noise, rows if rows is NULL else rows[part], *words)
        launch(f"{name}_{noise_kind}{adc_kind}", batch * -(-cols // 4), *sums, *to, *noise, *adc)

    @cached_property
    def _noise(self) -> tuple[int, tuple[Any, ...]]:
        """Kind (0 none, 1 of cells, 2 of converters, 3 of both), its scale and the converters' own."""
        if self.noise is None:
            return 0, (0.0, NULL)
        own = self.noise.sigma
        kind = int(self.job.noisy) + 2 * int(own is not None)
        return kind, (float(self.noise.scale), NULL if own is None else upload(own, np.float64))

    @cached_property
    def _rows_and_words(self) -> tuple[Any, tuple[np.uint32, ...]]:
        """Row numbers; stream word, its steps over tiles and planes, event and key."""
        noise, tiles, planes = self.noise, self.job.prepared.tiles, self.job.planes
        if noise is None:
            return NULL, (np.uint32(0),) * 6
        noise.word(tiles - 1, planes - 1)  # refuses what does not fit a word's bits
        word = noise.word(0)
        steps = noise.word(min(1, tiles - 1)) - word, noise.word(0, min(1, planes - 1)) - word
        numbers = (word, *steps, noise.event, *noise.key)
        return upload(noise.rows, np.uint32), tuple(np.uint32(n) for n in numbers)

    @cached_property
    def _converter(self) -> tuple[int, tuple[Any, ...]]:
        """Kind (0 none, 1 one for all, 2 a table), the numbers of one and the arrays of a table."""
        if isinstance(self.adc, AdcTable):
            return 2, (0.0, 0.0, 1.0, *(upload(column, np.float64) for column in self.adc))
        lo, hi, step = self.adc or (0.0, 0.0, 1.0)
        return int(self.adc is not None), (float(lo), float(hi), float(step), *(NULL,) * 6)
