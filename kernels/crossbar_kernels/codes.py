"""Numbers to integer codes, and the squares of codes: the NumPy specification."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def encode(
    x: NDArray[Any], full_scale: NDArray[np.float64], *, largest: int, signed: bool, width: int
) -> NDArray[Any]:
    """Codes of a uniform quantiser, half to even, padded with zeros: [batch, width].

    Signed: rint((clip(x/full_scale, -1, 1) + 1) K) - K; unsigned: rint(clip(x/full_scale, 0, 1) K); all in float64.

    Args:
        x: numbers [batch, n], float32 or float64.
        full_scale: what the largest code stands for, [batch].
        largest: K, at most 255.
        signed: whether codes go below 0.
        width: length of a row of codes, at least n.

    Returns:
        int8 where K <= 127, else int16.
    """
    check(x, full_scale, width)
    out = np.zeros((len(x), width), code_type(largest))
    share = x.astype(np.float64) / full_scale[:, None]
    if signed:
        out[:, : x.shape[1]] = np.rint((np.clip(share, -1.0, 1.0) + 1.0) * largest) - largest
    else:
        out[:, : x.shape[1]] = np.rint(np.clip(share, 0.0, 1.0) * largest)
    return out


def check(x: NDArray[Any], full_scale: NDArray[np.float64], width: int) -> None:
    """Raise ValueError unless numbers, full scales and width are what `encode` documents."""
    if x.ndim != 2 or x.shape[1] > width:
        raise ValueError(f"x: must be [batch, at most {width}] (got shape {x.shape}); widen the codes")
    if full_scale.shape != (len(x),):
        raise ValueError(f"full_scale: must be [{len(x)}], one per row (got shape {full_scale.shape})")


def code_type(largest: int) -> type[np.signedinteger[Any]]:
    """The smallest integer type that holds -K to K and that products take as codes."""
    return np.int8 if largest <= 127 else np.int16


def planes(codes: NDArray[Any], *, bits: int, count: int) -> NDArray[Any]:
    """The digits of the codes' magnitudes with the codes' signs, least significant plane first.

    Args:
        codes: [batch, width].
        bits: of a digit.
        count: how many planes.

    Returns:
        [count, batch, width], int8 where a digit fits it, else int16.
    """
    magnitude, sign = np.abs(codes.astype(np.int16)), np.sign(codes)
    digits = [sign * ((magnitude >> (bits * k)) & (2**bits - 1)) for k in range(count)]
    return np.stack(digits).astype(code_type(2**bits - 1))


def sum_squares(codes: NDArray[Any]) -> NDArray[np.int64]:
    """Sum of the squared codes [..., width] over everything but the last axis: [width]."""
    flat = codes.reshape(-1, codes.shape[-1])
    return np.asarray((flat.astype(np.int64) ** 2).sum(0))
