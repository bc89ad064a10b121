"""The order in which blocks of a resistance grid are joined; arithmetic: crossbar_kernels.ladder_numba.

Joining blocks of k x k costs of the order of k^3, so a square grid of side n costs n^3 in all; eliminating
row after row costs n^4.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels.ladder_numba import gated_rows, join, leaves
from crossbar_kernels.threads import share_rows

Array = NDArray[np.float64]
Index = NDArray[np.int64]

LEFT, RIGHT, BOTTOM, TOP = range(4)
LEAF = 4
"""Least side of the blocks that are condensed cell by cell."""


class Blocks(NamedTuple):
    """Condensed blocks [down, across, outputs, inputs]; outputs and inputs of each edge (LEFT..TOP)."""

    values: Array
    outputs: tuple[int, int, int, int]
    inputs: tuple[int, int, int, int]


def transfer(conductance: Array, row_segment: float, column_segment: float) -> Array:
    """Drained current [tiles, rows, cols] per unit of drive (ladder.transfer); threads share the tiles."""
    tiles, rows, cols = conductance.shape
    found = np.empty((tiles, rows, cols))

    def work(part: slice) -> None:
        for t in range(part.start, min(part.stop, tiles)):
            found[t] = _transfer(conductance[t], row_segment, column_segment)

    share_rows(work, tiles, conductance.size)
    return found


def gated(conductance: Array, active: NDArray[np.bool_], segment: float) -> Array:
    """Drained current [inputs, cols] (ladder.gated); threads share the inputs."""
    found = np.empty((len(active), conductance.shape[1]))

    def work(part: slice) -> None:
        gated_rows(conductance, active[part], segment, found[part])

    share_rows(work, len(active), active.size * conductance.shape[1])
    return found


def _transfer(g: Array, row_segment: float, column_segment: float) -> Array:
    """One tile: open cells added above and to the right carry nothing; then blocks are joined to one."""
    rows, cols = g.shape
    (down, high), (across, wide) = division(rows), division(cols)
    padded = np.zeros((down * high, across * wide))
    padded[down * high - rows :, :cols] = g
    values = leaves(padded, high, wide, row_segment, column_segment)
    edges = (high, high, wide, wide)
    blocks = Blocks(values, edges, edges)
    while blocks.values.shape[:2] != (1, 1):
        down, across = blocks.values.shape[:2]
        sideways = across > 1 and (down == 1 or rows // down >= cols // across)
        blocks = _join(blocks, sideways)
    start, left = sum(blocks.outputs[:BOTTOM]), blocks.inputs[LEFT]
    drained = blocks.values[0, 0, start : start + blocks.outputs[BOTTOM], :left].T
    return np.ascontiguousarray(drained[left - rows :, :cols])


def division(size: int) -> tuple[int, int]:
    """Number of blocks (a power of two) and cells per block that cover `size` with few cells to spare."""
    blocks = 1
    while size >= 2 * LEAF * blocks:
        blocks *= 2
    return blocks, -(-size // blocks)


class Meeting(NamedTuple):
    """The edges of two blocks that meet, and those that are left out of the outputs and of the inputs when they are joined."""

    edges: tuple[int, int]
    drop: tuple[tuple[int, ...], tuple[int, ...]]


def meeting(sideways: bool, last: bool) -> Meeting:
    """Neighbours in a row of blocks meet at the right and left edges, those in a column at the bottom and top edges.

    When a row of blocks becomes one, its right end is open and nobody asks for the drivers' currents. When a column of blocks becomes one,
    its top end is open and its bottom end lies at 0.
    """
    if sideways:
        return Meeting((RIGHT, LEFT), ((LEFT, RIGHT), (RIGHT,)) if last else ((), ()))
    return Meeting((BOTTOM, TOP), ((TOP,), (BOTTOM, TOP)) if last else ((), ()))


def _join(blocks: Blocks, sideways: bool) -> Blocks:
    """Join neighbouring blocks in pairs, sideways or upwards."""
    between = (slice(None),) if sideways else ()
    one, two = (*between, slice(0, None, 2)), (*between, slice(1, None, 2))
    edges, drop = meeting(sideways, last=blocks.values.shape[1 if sideways else 0] == 2)
    a, b = (np.ascontiguousarray(blocks.values[part]) for part in (one, two))
    outs, ins = (
        remaining(sizes, edges, dropped)
        for sizes, dropped in zip((blocks.outputs, blocks.inputs), drop, strict=True)
    )
    first, second = (
        (nodes(blocks.outputs, edge), nodes(blocks.inputs, edge), outs.kept[n], ins.kept[n])
        for n, edge in enumerate(edges)
    )
    found = np.empty((*a.shape[:2], sum(outs.sizes), sum(ins.sizes)))
    flat, x, y = (h.reshape(-1, *h.shape[2:]) for h in (found, a, b))
    join(x, y, first, second, (*outs.placed, *ins.placed), flat)
    return Blocks(found, outs.sizes, ins.sizes)


class Remaining(NamedTuple):
    """Nodes that stay when two blocks are joined: how many per edge, their old and their new numbers."""

    sizes: tuple[int, int, int, int]
    kept: tuple[Index, Index]
    placed: tuple[Index, Index]


def remaining(sizes: tuple[int, int, int, int], edges: tuple[int, int], drop: tuple[int, ...]) -> Remaining:
    """Edge by edge, first block before second, without the edges that meet or are dropped."""
    old: tuple[list[Index], list[Index]] = ([], [])
    new: tuple[list[Index], list[Index]] = ([], [])
    counts, end = [0, 0, 0, 0], 0
    for edge, size in enumerate(sizes):
        for block in (0, 1):
            if edge not in (*drop, edges[block]):
                old[block].append(nodes(sizes, edge))
                new[block].append(np.arange(end, end + size))
                counts[edge] += size
                end += size
    kept, placed = ((np.concatenate(n[0]), np.concatenate(n[1])) for n in (old, new))
    return Remaining((counts[LEFT], counts[RIGHT], counts[BOTTOM], counts[TOP]), kept, placed)


def nodes(sizes: tuple[int, int, int, int], edge: int) -> Index:
    """Numbers of an edge's nodes."""
    start = sum(sizes[:edge])
    return np.arange(start, start + sizes[edge])
