"""Products of integer codes with packed weights: sums, noise, converter and addition in one compiled pass, without Python in between."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from crossbar_kernels.codes_numba import count_products, split_digits, square_digits
from crossbar_kernels.conversion_numba import add_converted, add_noisy, noise_room
from crossbar_kernels.philox_numba import compiled
from crossbar_kernels.vnni_numba import DEPTH, HEIGHT, WIDTH, at, has_vnni, one_row, pack, six_rows

STRIP = 6 * WIDTH
"""Columns whose packed weights, sums and results stay in the second cache together."""


@cache
def can_pack() -> bool:
    """Whether this processor multiplies packed weights, and rightly so (tried once on extreme digits)."""
    if not has_vnni():
        return False
    pattern = np.array([127, -127, 127, 127, -127, 5, -3], np.int8)
    x, w = np.resize(pattern, (1, 7, 2 * 67)), np.resize(pattern[::-1], (2, 1, 67, 70))
    y = np.zeros((7, 70))
    try:
        none = np.empty((0, 0, 0, 0), np.uint8)
        add_products(y, (0, 7), np.ones(1), x, pack(w), none, 67, None, None, None)
    except RuntimeError:  # this LLVM has no such instruction
        return False
    return np.array_equal(y, x[0].astype(np.float64) @ w.reshape(-1, 70))


@compiled
def add_products(
    y: Any,
    part: Any,
    shares: Any,
    codes: Any,
    weights: Any,
    variances: Any,
    rows: int,
    noise: Any,
    one: Any,
    tables: Any,
) -> None:
    """Y += products of some rows of a batch, as `reference.mvm`.

    Args:
        y: [batch, cols].
        part: the first of the rows, and their end.
        shares: weight of each plane's results [planes].
        codes: int8 [planes, batch, tiles * rows].
        weights: packed digits [tiles, 1 or 2, blocks, bytes].
        variances: packed digits [tiles, 0, 1 or 3, blocks, bytes].
        rows: word lines of a tile.
        noise: None, or (scale, sigma [tiles, cols] or [tiles, 0], squares [batch, tiles * rows] or empty, row numbers [batch], words
            [tiles, planes], event, key, key).
        one: ends and step of one converter for all columns, or None.
        tables: those of every tile and column [tiles, 6, cols], or None.
    """
    begin, end = part
    height = 1 if end - begin < HEIGHT // 2 else HEIGHT
    p, q = np.empty((2, height, STRIP), np.int32), np.empty((3, height, STRIP), np.int32)
    room = noise_room(STRIP)
    x = _padded(codes, part, weights.shape[0], rows, height)
    squares, two = _squares(codes, part, noise, variances.shape[1], x, rows)
    x_start, s_start = _start(x), _start(squares)
    for first in range(0, y.shape[1], STRIP):
        for t in range(weights.shape[0]):
            for top in range(begin, end, height):
                block = top, min(top + height, end), first, min(first + STRIP, y.shape[1])
                for k in range(shares.size):
                    plane, row = k * weights.shape[0] + t, top - begin
                    for d in range(weights.shape[1]):
                        _strip(p, d, x, x_start, plane, weights, t * weights.shape[1] + d, block, row)
                    if noise is None:
                        add_converted(y, block, shares[k], p, weights.shape[1], one, tables, t)
                    if noise is not None:
                        high = two[k, t]
                        parts = _variances(q, squares, s_start, plane, high, variances, t, block, row)
                        own = noise[0], noise[1], noise[3], noise[5], noise[6], noise[7]
                        digits, word = weights.shape[1], noise[4][t, k]
                        add_noisy(y, block, shares[k], p, digits, q, parts, own, room, word, one, tables, t)


@compiled
def _padded(codes: Any, part: Any, tiles: int, rows: int, height: int) -> Any:
    """Codes [planes, tiles, batch in whole groups, rows in whole words]."""
    depth = (rows + DEPTH - 1) // DEPTH * DEPTH
    batch = (part[1] - part[0] + height - 1) // height * height
    x = np.zeros((codes.shape[0], tiles, batch, depth), np.int8)
    for k in range(codes.shape[0]):
        for t in range(tiles):
            for b in range(part[1] - part[0]):
                _copy(codes[k, part[0] + b, t * rows : (t + 1) * rows], x[k, t, b])
    return x


@compiled
def _copy(codes: Any, out: Any) -> None:
    for i in range(codes.size):
        out[i] = codes[i]


@compiled
def _start(x: Any) -> Any:
    """-128 times the sum of each row, from which its sums begin: packed weights are 128 too large."""
    flat = x.reshape(-1, x.shape[-1])
    start = np.empty(flat.shape[0], np.int32)
    for b in range(flat.shape[0]):
        total = np.int32(0)
        for i in range(flat.shape[1]):
            total = np.int32(total + np.int32(flat[b, i]))
        start[b] = np.int32(-128 * total)
    return start.reshape(x.shape[:-1])


@compiled
def _squares(codes: Any, part: Any, noise: Any, digits: int, x: Any, rows: int) -> Any:
    """Digits of the squares [planes, tiles, (high, low, high - low), ...] as `x`, and which planes and tiles have high ones."""
    two = np.zeros(x.shape[:2], np.bool_)
    kinds = 0
    if noise is not None:
        kinds = 3 if digits else 0
    out = np.zeros((x.shape[0], x.shape[1], kinds, x.shape[2], x.shape[3]), np.int8)
    if noise is not None and kinds:
        for k in range(x.shape[0]):
            for t in range(x.shape[1]):
                if noise[2].size:
                    given = noise[2][part[0] : part[1]]
                    two[k, t] = split_digits(given, t * rows, rows, out[k, t])
                else:
                    two[k, t] = square_digits(codes[k, part[0] : part[1]], t * rows, rows, out[k, t])
    return out, two


@compiled
def _variances(
    q: Any, squares: Any, start: Any, plane: int, two: bool, packed: Any, tile: int, block: Any, row: int
) -> int:
    """Products of the squares' digits with the variances' in a block; how many (conversion_numba has the sum of them)."""
    kinds = packed.shape[1]
    if kinds == 0:
        return 0
    parts = count_products(kinds, two)
    for d in range(parts):
        square = d if two else 1
        digit = d if kinds == 3 else 0
        _strip(q, d, squares, start, 3 * plane + square, packed, tile * kinds + digit, block, row)
    return parts


@compiled
def _strip(
    out: Any, digit: int, x: Any, start: Any, matrix: int, packed: Any, weights: int, block: Any, row: int
) -> None:
    """Sums of the group of rows from `row` on of matrix number `matrix` of x with the columns of a block of a packed matrix.

    They go to out [digit]; pointers, since a slice would cost as much as a short sum.
    """
    height, depth = out.shape[1], x.shape[-1]
    line = matrix * x.shape[-2] + row
    blocks, size = packed.shape[2], packed.shape[3]
    for n in range(block[2] // WIDTH, (block[3] + WIDTH - 1) // WIDTH):
        place = at(out, digit * height * STRIP + n * WIDTH - block[2])
        read = at(packed, (weights * blocks + n) * size)
        if height == 1:
            one_row(at(x, line * depth), depth, read, depth // DEPTH, place, STRIP, at(start, line))
        else:
            six_rows(at(x, line * depth), depth, read, depth // DEPTH, place, STRIP, at(start, line))
