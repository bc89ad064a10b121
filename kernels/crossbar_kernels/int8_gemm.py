"""The exact product of int8 matrices into int32, by whatever does it fastest here."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels.threads import torch_or_none


class Gemm(NamedTuple):
    """A product of int8 matrices a [m, k] and b [k, n] into int32 out [m, n], exactly.

    Attributes:
        view: an array as `multiply` takes it, without a copy.
        multiply: (a, b, out) of such views. b may be stored by columns.
    """

    view: Callable[[NDArray[Any]], Any]
    multiply: Callable[[Any, Any, Any], None]


@cache
def integer_gemm() -> Gemm:
    """The fastest exact one that works here.

    `torch._int_mm` where it is right also for the largest digits (it is private to PyTorch, and processors without
    VNNI have instructions that saturate); else float32, or float64 beyond 2^24.
    """
    torch = torch_or_none()
    if not hasattr(torch, "_int_mm"):
        return FLOAT_GEMM

    def multiply(a: Any, b: Any, out: Any) -> None:
        torch._int_mm(a, b, out=out)

    gemm = Gemm(torch.from_numpy, multiply)
    return gemm if _is_exact(gemm) else FLOAT_GEMM


def _is_exact(gemm: Gemm) -> bool:
    """Compare with NumPy on extreme digits and on odd shapes, strided as tiles are, stored by rows and by columns."""
    pattern = np.array([127, -128, 127, 127, -127, 5, -128], np.int8)
    for m, k, n in ((1, 1, 1), (1, 64, 40), (5, 67, 9), (32, 256, 64)):
        wide = np.resize(pattern, (m, 2 * k))
        b = np.resize(pattern[::-1], (k, n)).copy()
        expected = wide[:, k:].astype(np.int64) @ b.astype(np.int64)
        for stored in (b, np.asfortranarray(b)):
            out = np.empty((m, n), np.int32)
            try:
                gemm.multiply(gemm.view(wide[:, k:]), gemm.view(stored), gemm.view(out))
            except RuntimeError:
                return False
            if not np.array_equal(out, expected):
                return False
    return True


def _float_multiply(a: NDArray[Any], b: NDArray[Any], out: NDArray[Any]) -> None:
    """By float32 while every partial sum is below 2^24, which float32 holds exactly."""
    real = np.float32 if a.shape[1] * 2**14 <= 2**24 else np.float64
    out[...] = a.astype(real) @ b.astype(real)


FLOAT_GEMM = Gemm(lambda array: array, _float_multiply)
