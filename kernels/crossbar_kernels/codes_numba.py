"""Numba twins of `crossbar_kernels.codes`: the same operations in the same order, hence the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels.codes import check, code_type
from crossbar_kernels.philox_numba import compiled
from crossbar_kernels.threads import share_rows


def encode(
    x: NDArray[Any], full_scale: NDArray[np.float64], *, largest: int, signed: bool, width: int
) -> NDArray[Any]:
    """Codes of a uniform quantiser; as `codes.encode`, the same bits."""
    check(x, full_scale, width)
    out = np.zeros((len(x), width), code_type(largest))
    lowest = -1.0 if signed else 0.0
    share_rows(lambda part: _encode(x[part], full_scale[part], largest, lowest, out[part]), len(x), x.size)
    return out


def planes(codes: NDArray[Any], *, bits: int, count: int) -> NDArray[Any]:
    """The digits of the codes' magnitudes with the codes' signs; as `codes.planes`."""
    out = np.empty((count, *codes.shape), code_type(2**bits - 1))
    share_rows(lambda part: _planes(codes[part], bits, out[:, part]), len(codes), out.size)
    return out


def sum_squares(codes: NDArray[Any]) -> NDArray[np.int64]:
    """Sum of the squared codes [..., width] over everything but the last axis; as `codes.sum_squares`."""
    flat = codes.reshape(-1, codes.shape[-1])
    out = np.zeros(flat.shape[1], np.int64)
    for first in range(0, len(flat), SAFE):
        out += _sum_squares(flat[first : first + SAFE])
    return out


SAFE = 2**15
"""Rows whose squares of codes up to 255 add without leaving int32."""


@compiled
def _encode(x: Any, full_scale: Any, largest: Any, lowest: Any, out: Any) -> None:
    k = np.float64(largest)
    shift = -lowest * k
    for b in range(x.shape[0]):
        full = full_scale[b]
        for n in range(x.shape[1]):
            share = min(max(np.float64(x[b, n]) / full, lowest), 1.0)
            out[b, n] = np.rint((share - lowest) * k) - shift


@compiled
def _planes(codes: Any, bits: int, out: Any) -> None:
    mask = np.int32(2**bits - 1)
    for k in range(out.shape[0]):
        shift = np.int32(bits * k)
        for b in range(codes.shape[0]):
            for n in range(codes.shape[1]):
                code = np.int32(codes[b, n])
                digit = np.int32((abs(code) >> shift) & mask)
                out[k, b, n] = -digit if code < 0 else digit


@compiled
def _sum_squares(codes: Any) -> Any:
    out = np.zeros(codes.shape[1], np.int32)
    for b in range(codes.shape[0]):
        for n in range(codes.shape[1]):
            code = np.int32(codes[b, n])
            out[n] += code * code
    return out


@compiled
def square_digits(codes: Any, first: int, count: int, out: Any) -> bool:
    """Squares of `count` codes from `first` on, of each row [batch, ...], as 128 high + low: out [(high, low, high - low), batch, ...].

    Whether any has a high digit; without, only the low ones are written.
    """
    most = np.int16(0)
    for b in range(codes.shape[0]):
        most = max(most, _low_squares(codes[b, first : first + count], out[1, b]))
    if most < 128:
        return False
    for b in range(codes.shape[0]):
        _high_squares(codes[b, first : first + count], out[0, b], out[2, b])
    return True


@compiled
def split_digits(numbers: Any, first: int, count: int, out: Any) -> bool:
    """The same for squares that are given, 0 to 16383."""
    for b in range(numbers.shape[0]):
        for n in range(count):
            square = np.int16(numbers[b, first + n])
            high, low = np.int16(square >> np.int16(7)), np.int16(square & np.int16(127))
            out[0, b, n], out[1, b, n], out[2, b, n] = np.int8(high), np.int8(low), np.int8(high - low)
    return True


@compiled
def _low_squares(codes: Any, low: Any) -> Any:
    most = np.int16(0)
    for n in range(codes.size):
        code = np.int16(codes[n])
        square = np.int16(code * code)
        most = max(most, square)
        low[n] = np.int8(square & np.int16(127))
    return most


@compiled
def _high_squares(codes: Any, high: Any, difference: Any) -> None:
    for n in range(codes.size):
        code = np.int16(codes[n])
        square = np.int16(code * code)
        top = np.int16(square >> np.int16(7))
        high[n] = np.int8(top)
        difference[n] = np.int8(top - np.int16(square & np.int16(127)))


@compiled
def count_products(kinds: int, two: bool) -> int:
    """How many products of digits make a variance, of `kinds` digits (3, or 1), with squares of two digits or one.

    Product d is that of the squares' digit d (of the low one where they have `two` false) with the variance's digit d (or its only one).
    """
    if kinds == 3 and two:
        return 3
    return 2 if kinds == 3 or two else 1
