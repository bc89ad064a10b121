"""Integers of the grids as int8 digits, for products in int32."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def signed(weights: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Digits of integers |w| <= 16383: (high, low) with w = 128 high + low, or w alone where |w| <= 127."""
    if np.abs(weights).max(initial=0) <= 127:
        return (weights.astype(np.int8),)
    high = np.minimum((weights + np.int16(64)) >> 7, 127)
    return high.astype(np.int8), (weights - 128 * high).astype(np.int8)


def halves(variance: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Digits of integers 0 <= v <= 16383: (high, low, high - low) with v = 128 high + low, or v alone where v <= 127.

    (128 a + b)(128 c + d) = 16512 ac + 129 bd - 128 (a - b)(c - d): with the third digit three products do the work of four (Karatsuba and
    Ofman 1962).
    """
    if variance.max(initial=0) <= 127:
        return (variance.astype(np.int8),)
    high, low = variance >> 7, variance & 127
    return high.astype(np.int8), low.astype(np.int8), (high - low).astype(np.int8)
