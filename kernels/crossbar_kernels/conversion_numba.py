"""The pass over partial sums: digits put together, noise, converter, weight, sum; row by row through buffers in the first cache.

Arguments that are None leave their step out when a variant is compiled. Indices are unsigned, so that nothing but addition finds an
element, and no slices are taken, whose counted references would cost as much as a row: thus the loops vectorise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels.philox_numba import compiled, fill_normals

Array = NDArray[np.float64]
u = np.uint64
ROUND = 1.5 * 2.0**52


@compiled
def add_converted(
    y: Any, block: Any, share: float, p: Any, digits: int, one: Any, tables: Any, tile: Any
) -> None:
    """Y += share * ADC(sums), without noise; arguments as in `add_noisy`."""
    for b in range(block[1] - block[0]):
        if digits == 2:
            _add_row(y, block, u(b), share, p, True, None, None, one, tables, tile)
        else:
            _add_row(y, block, u(b), share, p, None, None, None, one, tables, tile)


@compiled
def add_noisy(
    y: Any,
    block: Any,
    share: float,
    p: Any,
    digits: int,
    q: Any,
    parts: int,
    noise: Any,
    room: Any,
    word: Any,
    one: Any,
    tables: Any,
    tile: Any,
) -> None:
    """Y += share * ADC(sums + noise) in one block of y.

    Args:
        y: [batch, cols].
        block: first row, end of the rows, first column (a multiple of four), end of the columns.
        share: weight of the results.
        p: the block's sums as digits [1 or 2, rows, at least columns].
        digits: how many: high and low, or the sums themselves.
        q: products that make the cells' variances (`_deviate`) [3, rows, at least columns].
        parts: how many of them there are; 0 without cells' noise.
        noise: scale of the variance's root; the converters' own sigma [tiles, cols] or [tiles, 0]; row numbers [batch], event, key, key.
        room: `noise_room` of at least the block's columns.
        word: stream of the draws.
        one: ends and step of one converter for all tiles and columns, or None.
        tables: those of every tile and column [tiles, 6, cols] (AdcTable), or None.
        tile: which tile.
    """
    scale, sigma, rows, event, k0, k1 = noise
    z, words, deviation = room
    cols = block[3] - block[2]
    groups = (cols + 3) // 4
    if parts == 0:
        _take(deviation, u(cols), sigma, u(tile), u(block[2]))
    for b in range(block[1] - block[0]):
        fill_normals(z, words, groups, block[2] // 4, rows[block[0] + b], word, event, k0, k1)
        if parts:
            _deviate(deviation, u(cols), q, parts, u(b), scale)
            _widen(deviation, u(cols), sigma, u(tile), u(block[2]))
        if digits == 2:
            _add_row(y, block, u(b), share, p, True, deviation, z, one, tables, tile)
        else:
            _add_row(y, block, u(b), share, p, None, deviation, z, one, tables, tile)


@compiled
def noise_room(cols: int) -> Any:
    """Room for the draws of a row of at most `cols` columns: normals, random words, standard deviations."""
    groups = (cols + 3) // 4
    return np.empty(4 * groups, np.float32), np.empty((4, groups), np.uint32), np.empty(cols)


@compiled
def _deviate(deviation: Array, cols: Any, q: Any, parts: int, b: Any, scale: float) -> None:
    """Standard deviations of a row from the products of the squares' and the variances' digits.

    (128 a + b)(128 c + d) = 16512 ac + 129 bd - 128 (a - b)(c - d): three products do the work of four (Karatsuba and Ofman
    1962), and a square or a variance of one digit leaves two or one.
    """
    if parts == 1:
        for j in range(cols):
            deviation[j] = scale * np.sqrt(np.float64(q[u(0), b, j]))
    elif parts == 2:
        for j in range(cols):
            deviation[j] = scale * np.sqrt(128.0 * q[u(0), b, j] + q[u(1), b, j])
    else:
        for j in range(cols):
            v = 16512.0 * q[u(0), b, j] + 129.0 * q[u(1), b, j] - 128.0 * q[u(2), b, j]
            deviation[j] = scale * np.sqrt(v)


@compiled
def _take(deviation: Array, cols: Any, sigma: Array, tile: Any, first: Any) -> None:
    """Standard deviations of converters whose cells have no noise; 0 where they have none either."""
    for j in range(cols):
        deviation[j] = sigma[tile, first + j] if sigma.size else 0.0


@compiled
def _widen(deviation: Array, cols: Any, sigma: Array, tile: Any, first: Any) -> None:
    """Add the variance of the converters' own noise, where there is any."""
    if sigma.size == 0:
        return
    for j in range(cols):
        own = sigma[tile, first + j]
        deviation[j] = np.sqrt(deviation[j] * deviation[j] + own * own)


@compiled
def _add_row(
    y: Any,
    block: Any,
    b: Any,
    share: float,
    p: Any,
    two: Any,
    deviation: Any,
    z: Any,
    one: Any,
    tables: Any,
    tile: Any,
) -> None:
    """One row of it: y += share * ADC(128 high + low + deviation z), or without what is None.

    Adding and subtracting 1.5 x 2^52 rounds numbers up to 2^51 half to even, in vector registers.
    """
    row, first, t = u(block[0]) + b, u(block[2]), u(tile)
    for j in range(u(block[3] - block[2])):
        a = np.float64(p[u(0), b, j])
        if two is not None:
            a = 128.0 * a + p[u(1), b, j]
        if deviation is not None:
            a += deviation[j] * z[j]
        if one is not None:
            x = min(max(a, one[0]), one[1])
            a = one[0] + (((x - one[0]) / one[2] + ROUND) - ROUND) * one[2]
        if tables is not None:
            n = first + j
            x = min(max(a, tables[t, u(0), n]), tables[t, u(1), n])
            code = ((x - tables[t, u(2), n]) / tables[t, u(3), n] + ROUND) - ROUND
            a = tables[t, u(4), n] + code * tables[t, u(5), n]
        y[row, first + j] += share * a
