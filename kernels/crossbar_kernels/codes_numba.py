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


def sum_squares(codes: NDArray[Any]) -> NDArray[np.int64]:
    """Sum over the batch of the squared codes; as `codes.sum_squares`."""
    out = np.zeros(codes.shape[1], np.int64)
    _sum_squares(codes, out)
    return out


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
def _sum_squares(codes: Any, out: Any) -> None:
    for b in range(codes.shape[0]):
        for n in range(codes.shape[1]):
            code = np.int64(codes[b, n])
            out[n] += code * code
