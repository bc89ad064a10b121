"""Twins of `vectors` for CUDA devices: the same float64 operations in the same order, hence the same bits.

Arrays may be CuPy's or CUDA tensors; host arrays are uploaded. Nothing here waits for the device but `like`, where it brings a result to the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from crossbar_kernels.checks import LARGEST
from crossbar_kernels.cupy_device import (
    NULL,
    empty,
    is_on_device,
    launch,
    numbers,
    on_stream,
    tensor,
    to_host,
    upload,
)
from crossbar_kernels.vectors import power_of_two

SQUARED_ROWS = 64
"""Rows of codes that one thread squares and adds."""


def asarray(values: Any) -> Any:
    """A contiguous array on the device; a tensor's own memory, where it is contiguous."""
    with on_stream():
        return upload(values)


def like(result: Any, given: Any) -> Any:
    """A result where `given` lies; bringing it to the host waits."""
    return asarray(result) if is_on_device(given) else to_host(result)


def take(x: Any, index: Any) -> Any:
    """The rows of x [rows, n] at `index`."""
    with on_stream():
        return upload(tensor(upload(x)).index_select(0, tensor(upload(index))))


def put(y: Any, index: Any, count: int) -> Any:
    """The rows y at `index` of [count, n] that is zero elsewhere; the inverse of `take`."""
    with on_stream():
        rows = tensor(upload(y))
        full = rows.new_zeros((count, rows.shape[1]))
        return upload(full.index_copy_(0, tensor(upload(index)), rows))


def full_scales(x: Any, *, fixed: float | None = None, size: Any = 1.0, binary: bool = False) -> Any:
    """As `vectors.full_scales`, but [batch, 1] always, and NaN for a vector with values that are not finite."""
    with on_stream():
        largest = tensor(upload(x)).abs().amax(1, keepdim=True).double()
        if fixed is not None:
            return upload(
                0.0 * largest + fixed * (_power_of_two(size) if is_on_device(size) else power_of_two(size))
            )
        full = largest.where(largest != 0, 1.0)
        return upload(0.0 * largest + (_whole(full) if binary else full))


def _power_of_two(size: Any) -> Any:
    """The smallest power of two that is at least `size`, one number on the device (1 where that is 0 or not finite)."""
    real = tensor(upload(size)).double()
    usable = real.isfinite() & (real > 0)
    return _whole(real.where(usable, 1.0))


def _whole(full: Any) -> Any:
    """The smallest power of two that is at least as large; full / mantissa is one, exactly."""
    mantissa = full.frexp().mantissa
    return full.where(mantissa == 0.5, full / mantissa)


def normalise(x: Any, full_scale: Any, *, width: int) -> Any:
    """Vectors x [batch, n] over their full scale in float64, padded with zeros: [batch, width]."""
    with on_stream():
        real = tensor(upload(x)).double()
        scale = full_scale if isinstance(full_scale, int | float) else tensor(upload(full_scale))
        padded = real.new_zeros((len(real), width))
        padded[:, : real.shape[1]] = real / scale
        return upload(padded)


def reals(codes: Any) -> Any:
    """Codes as products take them: int16 becomes float64."""
    with on_stream():
        return upload(codes, np.float64) if codes.dtype == np.int16 else codes


def joint_squares(digits: Any, *, bits: int, largest: int) -> Any:
    """As `vectors.joint_squares`."""
    import torch

    with on_stream():
        planes = tensor(upload(digits)).to(torch.int32).square()
        total = sum(plane << 2 * bits * k for k, plane in enumerate(planes))
        return upload(torch.as_tensor(total).to(torch.int16 if largest**2 <= LARGEST else torch.float64))


def add_squares(codes: Any, sums: Any) -> None:
    """Add the squared codes [..., width], summed over everything but the last axis, to `sums` [width] on the device."""
    with on_stream():
        codes = upload(codes)
        width = codes.shape[-1]
        rows = codes.size // max(width, 1)
        threads = width * -(-rows // SQUARED_ROWS)
        launch("sum_squares", threads, codes, is_wide(codes), sums, rows, width, SQUARED_ROWS)


def subtract_sums(total: Any, inputs: Any, weights: Sequence[float], factor: float) -> None:
    """total_b -= factor sum_k w_k sum_i inputs_kbi, in place; total [batch, cols], inputs [planes, batch, n]."""
    import torch

    with on_stream():
        sums = tensor(numbers(weights)) @ tensor(upload(inputs)).sum(2, dtype=torch.float64)
        tensor(total).sub_((factor * sums)[:, None])


def decode(sums: Any, full_scale: Any, columns: Any, *, unit: float, dtype: Any, base: Any = None) -> Any:
    """As `vectors.decode`, in one launch."""
    with on_stream():
        sums, (full, fixed), (factors, factor) = upload(sums), _where(full_scale), _where(columns)
        sums = sums if sums.dtype == np.float32 else upload(sums, np.float64)
        batch, width = sums.shape
        m = width if base is None else len(base)
        y = empty((batch, m), dtype)
        subtracted = NULL if base is None else upload(base, np.int64)
        scale = (full, fixed, float(unit), factors, factor, subtracted)
        launch("decode", y.size, sums, _real(sums), *scale, y, _real(y), batch, m, width)
    return y


def _where(factor: Any) -> tuple[Any, float]:
    """A factor as an array or nothing, and as the number that counts then."""
    if isinstance(factor, int | float):
        return NULL, float(factor)
    return upload(factor, np.float64), 1.0


def _real(array: Any) -> bool:
    """Whether numbers are float64, not float32."""
    return bool(array.dtype == np.float64)


def is_wide(codes: Any) -> bool:
    """Whether codes are int16, not int8.

    Raises:
        ValueError: they are neither.
    """
    if codes.dtype not in (np.int8, np.int16):
        raise ValueError(f"codes: must be int8 or int16 (got {codes.dtype}); encode numbers first")
    return bool(codes.dtype == np.int16)
