"""Random numbers of cells: one per cell of an array [tile, slice, sign, copy, rows, cols], from logical counters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels import Kernels
from crossbar_kernels.philox import Purpose, philox4x32, stream

Key = tuple[int, int]


def cell_normals(
    shape: tuple[int, ...], purpose: Purpose, *, kernels: Kernels, key: Key, event: int, plane: int = 0
) -> NDArray[np.float32]:
    """One standard normal per cell, [tile, slice, sign, copy, rows, cols]; planes are independent."""
    out = np.empty(shape, np.float32)
    rows = np.arange(shape[-2], dtype=np.uint32)
    for t, s, sign, copy in np.ndindex(shape[:4]):
        word = stream(purpose, sign=sign, slice_=s, plane=plane, copy=copy, tile=t)
        out[t, s, sign, copy] = kernels.normals(rows, shape[-1], key=key, stream=word, event=event)
    return out


def cell_uniforms(
    shape: tuple[int, ...], purpose: Purpose, *, key: Key, event: int, plane: int = 0
) -> NDArray[np.float64]:
    """One number per cell, uniform in (0, 1): (w + 1/2) 2^-32 of the cell's word w, the layout of cell_normals."""
    out = np.empty(shape)
    rows = np.arange(shape[-2], dtype=np.uint32)[:, None]
    groups = np.arange(-(-shape[-1] // 4), dtype=np.uint32)[None, :]
    for t, s, sign, copy in np.ndindex(shape[:4]):
        counter = stream(purpose, sign=sign, slice_=s, plane=plane, copy=copy, tile=t)
        words = np.stack(philox4x32(groups, rows, counter, event, *key), axis=-1)
        out[t, s, sign, copy] = (words.reshape(shape[-2], -1)[:, : shape[-1]] + 0.5) * 2.0**-32
    return out
