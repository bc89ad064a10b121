"""Sums over a tile's word lines for some rows of a batch, by a library's matrix product."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels.codes_numba import count_products, split_digits, square_digits
from crossbar_kernels.int8_gemm import FLOAT_GEMM, integer_gemm
from crossbar_kernels.threads import scratch

NONE = np.empty((0, 0, 0), np.int32)


class IntegerSums:
    """Products of int8 digits in int32; each result is valid until the next of its kind.

    Args:
        x: codes [planes, batch, tiles * rows].
        prepared: weights whose digits are stored by columns (numba_cpu.Prepared).
        squares: in place of the squared codes, [batch, tiles * rows], or empty.
    """

    def __init__(self, x: NDArray[np.int8], prepared: Any, squares: NDArray[np.int16]) -> None:
        self._x, self._prepared, self._given = [_writable(plane) for plane in x], prepared, squares
        self._shape = x.shape[1], prepared.cols
        # torch takes the strides of a matrix of one row, stored by columns, for those of a column
        self._gemm = integer_gemm() if prepared.rows > 1 else FLOAT_GEMM

    def of_weights(self, tile: int, plane: int) -> NDArray[Any]:
        """Inputs times weights, as digits [high, low] or as they are, [1 or 2, batch, cols]."""
        digits = self._prepared.digits[tile]
        p = scratch("weights", (len(digits), *self._shape), np.int32)
        first = tile * self._prepared.rows
        inputs = self._gemm.view(self._x[plane][:, first : first + self._prepared.rows])
        for digit, out in zip(digits, p, strict=True):
            self._multiply(inputs, digit, out)
        return p

    def of_variance(self, tile: int, plane: int) -> NDArray[Any]:
        """Products of the digits of squares and variances (conversion_numba puts them together); none without variances."""
        if self._prepared.variance_digits is None:
            return NONE
        v, rows = self._prepared.variance_digits[tile], self._prepared.rows
        squares = scratch("squares", (3, self._shape[0], rows), np.int8)
        codes, split = (self._given, split_digits) if self._given.size else (self._x[plane], square_digits)
        two = split(codes, tile * rows, rows, squares)
        kinds = len(v)
        q = scratch("variance", (count_products(kinds, two), *self._shape), np.int32)
        for d, out in enumerate(q):
            square, digit = squares[d if two else 1], v[d if kinds == 3 else 0]
            self._multiply(self._gemm.view(square), digit, out)
        return q

    def _multiply(self, inputs: Any, digit: NDArray[np.int8], out: NDArray[np.int32]) -> None:
        self._gemm.multiply(inputs, self._gemm.view(digit.T), self._gemm.view(out))


class RealSums:
    """Products in float64; arguments as for IntegerSums."""

    def __init__(self, x: NDArray[Any], prepared: Any, squares: NDArray[Any]) -> None:
        self._x, self._prepared, self._given = x.astype(np.float64), prepared, squares.astype(np.float64)

    def of_weights(self, tile: int, plane: int) -> NDArray[Any]:
        """Inputs times weights [1, batch, cols]."""
        return np.asarray(self._of(self._x[plane], tile) @ self._prepared.real_weights[tile])[None]

    def of_variance(self, tile: int, plane: int) -> NDArray[Any]:
        """Squares times variances [1, batch, cols]; none without variances."""
        variance = self._prepared.real_variance
        if variance is None:
            return NONE
        squares = self._of(self._given, tile) if self._given.size else self._of(self._x[plane], tile) ** 2
        return np.asarray(squares @ variance[tile])[None]

    def _of(self, x: NDArray[Any], tile: int) -> NDArray[Any]:
        return x[:, tile * self._prepared.rows : (tile + 1) * self._prepared.rows]


def _writable(x: NDArray[np.int8]) -> NDArray[np.int8]:
    """Torch warns about arrays that it may not write to, and cannot take reversed ones."""
    return x if x.flags.writeable and x.flags.c_contiguous else x.copy()
