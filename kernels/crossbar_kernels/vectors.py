"""What is done to vectors before and after products: the NumPy specification.

A backend on a device has twins (`cupy_vectors`), so that what a product takes and gives never leaves the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels.checks import LARGEST
from crossbar_kernels.codes import sum_squares

Array = NDArray[np.float64]


def asarray(values: Any) -> NDArray[Any]:
    """An array where the backend computes: the same memory if it lies there."""
    return np.asarray(values)


def like(result: NDArray[Any], given: Any) -> NDArray[Any]:
    """A result where `given` lies: on a device, or on the host."""
    del given  # NumPy arrays all lie in one place
    return result


def take(x: NDArray[Any], index: NDArray[np.intp]) -> NDArray[Any]:
    """The rows of x [rows, n] at `index`."""
    return np.asarray(x[index])


def put(y: NDArray[Any], index: NDArray[np.intp], count: int) -> NDArray[Any]:
    """The rows y at `index` of [count, n] that is zero elsewhere; the inverse of `take`."""
    full = np.zeros((count, y.shape[1]), y.dtype)
    full[index] = y
    return full


def power_of_two(size: float) -> float:
    """The smallest power of two that is at least `size` (1 for a size that is 0 or not finite)."""
    if not math.isfinite(size) or size <= 0:
        return 1.0
    mantissa, exponent = math.frexp(size)  # in [1/2, 1)
    return 2.0 ** (exponent - (mantissa == 0.5))


def full_scales(
    x: NDArray[Any], *, fixed: float | None = None, size: float = 1.0, binary: bool = False
) -> float | Array:
    """What the largest code of vectors x [batch, n] stands for: a number, or one per vector [batch, 1].

    With `fixed`, fixed times `power_of_two(size)`. Without, max|x| of each vector (1 where that is 0); if `binary`, the smallest power of two
    that is at least as large. On a device `size` may be an array, and a vector with a value that is not finite has the full scale NaN, so that its
    results are NaN: nobody looks at the values.
    """
    if fixed is not None:
        return fixed * power_of_two(size)
    largest = np.maximum.reduce(np.abs(x), axis=1, initial=0.0, keepdims=True)
    if not binary:
        return np.where(largest > 0, largest, 1.0).astype(np.float64, copy=False)
    mantissa, exponent = np.frexp(largest.astype(np.float64, copy=False))  # in [1/2, 1); both are 0 for 0
    return np.asarray(np.ldexp(1.0, exponent - (mantissa == 0.5)))


def normalise(x: NDArray[Any], full_scale: float | Array, *, width: int) -> Array:
    """Vectors x [batch, n] over their full scale in float64, padded with zeros: [batch, width]."""
    padded = np.zeros((len(x), width))
    np.divide(x, full_scale, out=padded[:, : x.shape[1]], dtype=np.float64)
    return padded


def reals(codes: NDArray[Any]) -> NDArray[Any]:
    """Codes as products take them: int16 becomes float64."""
    return codes.astype(np.float64) if codes.dtype == np.int16 else codes


def joint_squares(digits: NDArray[Any], *, bits: int, largest: int) -> NDArray[Any]:
    """sum_k 4^(bits k) digit_k^2 of planes [planes, batch, width]: what the variances of all planes' reads count together.

    Returns:
        [batch, width], int16 where codes up to `largest` let it fit `NoiseStream.squares`, else float64.
    """
    total = sum(digit.astype(np.int32) ** 2 << 2 * bits * k for k, digit in enumerate(digits))
    return np.asarray(total).astype(np.int16 if largest**2 <= LARGEST else np.float64)


def add_squares(codes: NDArray[Any], sums: NDArray[np.int64]) -> None:
    """Add the squared codes [..., width], summed over everything but the last axis, to `sums` [width], in place."""
    sums += sum_squares(codes)


def subtract_sums(total: Array, inputs: NDArray[Any], weights: Sequence[float], factor: float) -> None:
    """total_b -= factor sum_k w_k sum_i inputs_kbi, in place; total [batch, cols], inputs [planes, batch, n]."""
    sums = np.asarray(weights) @ inputs.sum(2, dtype=np.float64)
    total -= factor * sums[:, None]


def decode(
    sums: NDArray[Any],
    full_scale: float | Array,
    columns: float | Array,
    *,
    unit: float,
    dtype: Any,
    base: NDArray[np.intp] | None = None,
) -> NDArray[Any]:
    """Results sums_bj ((full_scale_b unit) columns_j), computed in float64, as `dtype`.

    Args:
        sums: [batch, m], float32 or float64, or with `base` [batch, m + further columns], float64.
        full_scale: one number, or [batch, 1].
        columns: one number, or [m].
        unit: of one code.
        dtype: float32 or float64.
        base: which of the further columns is subtracted from each column first, [m].
    """
    if base is not None:
        sums = sums[:, : base.size] - sums[:, base.size :][:, base]
    scaled: NDArray[Any] = np.empty(sums.shape, dtype)
    np.multiply(sums, (full_scale * unit) * columns, out=scaled, dtype=np.float64, casting="same_kind")
    return scaled
