"""Exact products of int8 matrices on the device, through torch: cuBLASLt where it is right, else floating point."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from crossbar_kernels.cupy_device import on_stream, tensor, to_host, upload

ALIGNED = 16
"""Depth and columns are padded to multiples of this: cuBLASLt wants 8, its fastest kernels 16-byte rows."""
FEWEST = 32
"""Least number of rows: torch refuses 16 and fewer."""
Product = Callable[[Any, Any, Any], None]


def padded(size: int) -> int:
    """The next multiple of ALIGNED."""
    return -(-size // ALIGNED) * ALIGNED


def padded_rows(rows: int) -> int:
    """Rows of a matrix of inputs: at least FEWEST, in whole eights."""
    return max(FEWEST, -(-rows // 8) * 8)


def multiply(a: Any, b: Any, out: Any) -> None:
    """Out [m, n] = a [m, k] b.T with b [n, k]: int8 matrices, int32 sums; sizes are padded."""
    integer_product()(tensor(a), tensor(b), tensor(out))


@cache
def integer_product() -> Product:
    """`torch._int_mm` where it is right also for extreme digits (it is private to PyTorch), else `by_floats`.

    The check looks at values, once for a process; `prepare` asks for it, so that products do not wait.
    """
    return by_integers if is_exact(by_integers) else by_floats


def by_integers(a: Any, b: Any, out: Any) -> None:
    """Tensor cores: the second matrix in columns is the order that they read."""
    import torch

    torch._int_mm(a, b.t(), out=out)


def by_floats(a: Any, b: Any, out: Any) -> None:
    """Floating point while it holds every partial sum: float32 below 2^24, float64 beyond.

    TF32 keeps eleven bits of a factor, so that 8-bit digits pass it unharmed.
    """
    import torch

    real = torch.float32 if a.shape[1] * 2**14 <= 2**24 else torch.float64
    out.copy_(a.to(real) @ b.to(real).t())


def is_exact(product: Product) -> bool:
    """Whether a product of int8 matrices is that of int64, on extreme digits and several shapes."""
    pattern = np.array([127, -128, 127, 127, -127, 5, -128], np.int8)
    for m, k, n in ((FEWEST, ALIGNED, ALIGNED), (40, 272, 48), (FEWEST, 4096, 64)):
        a, b = np.resize(pattern, (m, k)), np.resize(pattern[::-1], (n, k))
        with on_stream():
            out = upload(np.zeros((m, n), np.int32))
            try:
                product(tensor(upload(a)), tensor(upload(b)), tensor(out))
            except (AttributeError, RuntimeError):
                return False
        if not np.array_equal(to_host(out), a.astype(np.int64) @ b.T.astype(np.int64)):
            return False
    return True
