"""Effective conductances on a device: the blocks of crossbar_kernels.ladder_join, all blocks of all tiles at once.

The equations are those of crossbar_kernels.ladder_numba; `xp` is the library of arrays that does them, cupy or numpy. Batched products and
solutions take the order of their library, so results agree to rounding and not to the bit.
"""

from __future__ import annotations

from typing import Any

from crossbar_kernels.ladder_join import BOTTOM, LEFT, division, meeting, nodes, remaining

Sizes = tuple[int, int, int, int]


def transfer(conductance: Any, row_segment: float, column_segment: float, *, xp: Any) -> Any:
    """Drained current per unit of drive (ladder.transfer) of every tile: [tiles, rows, cols] to the same shape.

    Args:
        conductance: float64 >= 0 [tiles, rows, cols], an array of `xp`.
        row_segment: resistance of one segment of a driven line.
        column_segment: of a drained line.
        xp: cupy or numpy.
    """
    tiles, rows, cols = conductance.shape
    (down, high), (across, wide) = division(rows), division(cols)
    padded = xp.zeros((tiles, down * high, across * wide))
    padded[:, down * high - rows :, :cols] = conductance
    cells = padded.reshape(tiles, down, high, across, wide).transpose(0, 1, 3, 2, 4)
    values = _leaves(cells, row_segment, column_segment, xp)
    outputs: Sizes = (high, high, wide, wide)
    inputs = outputs
    while values.shape[1:3] != (1, 1):
        down, across = values.shape[1:3]
        sideways = across > 1 and (down == 1 or rows // down >= cols // across)
        values, outputs, inputs = _join_neighbours(values, outputs, inputs, sideways, xp)
    start, left = sum(outputs[:BOTTOM]), inputs[LEFT]
    drained = values[:, 0, 0, start : start + outputs[BOTTOM], :left].transpose(0, 2, 1)
    return xp.ascontiguousarray(drained[:, left - rows :, :cols])


def _leaves(cells: Any, row_segment: float, column_segment: float, xp: Any) -> Any:
    """Blocks [.., outputs, inputs] of cells [.., rows, cols]; edges: left, right, bottom, top."""
    rows, cols = cells.shape[-2:]
    size = 2 * (rows + cols)
    h = xp.zeros((*cells.shape[:-2], size, size))
    for i in range(rows):
        h[..., i, rows + i] = h[..., rows + i, i] = 1.0
    for j in range(cols):
        bottom, top = 2 * rows + j, 2 * rows + cols + j
        h[..., bottom, top] = h[..., top, bottom] = 1.0
    for i in range(rows):
        for j in range(cols):
            _add_cell(h, cells[..., i, j], (rows + i, 2 * rows + j), (row_segment, column_segment))
    return h


def _add_cell(h: Any, value: Any, edges: tuple[int, int], segments: tuple[float, float]) -> None:
    """Lengthen a row by a segment and a value, and the column below that value by a segment (ladder_numba)."""
    (right, bottom), (row_segment, column_segment) = edges, segments
    h[..., right, right] -= row_segment
    scale = value / (1.0 - value * h[..., right, right])
    weight = h[..., :, right] * scale[..., None]
    weight[..., bottom] += scale
    row = h[..., right, :].copy()
    row[..., bottom] -= 1.0
    h += weight[..., :, None] * row[..., None, :]
    scale = column_segment / (1.0 - column_segment * h[..., bottom, bottom])
    weight = h[..., :, bottom] * scale[..., None]
    h += weight[..., :, None] * h[..., bottom, None, :].copy()


def _join_neighbours(
    values: Any, outputs: Sizes, inputs: Sizes, sideways: bool, xp: Any
) -> tuple[Any, Sizes, Sizes]:
    """Blocks [tiles, down, across, outputs, inputs] joined in pairs, sideways or upwards, and what their edges then have."""
    between = (slice(None),) * (2 if sideways else 1)
    one, two = values[*between, 0::2], values[*between, 1::2]
    edges, drop = meeting(sideways, last=values.shape[len(between)] == 2)
    outs, ins = remaining(outputs, edges, drop[0]), remaining(inputs, edges, drop[1])
    first, second = (
        (nodes(outputs, edge), nodes(inputs, edge), outs.kept[n], ins.kept[n]) for n, edge in enumerate(edges)
    )
    parts = _joined(one, two, first, second, xp)
    found = xp.empty((*one.shape[:3], sum(outs.sizes), sum(ins.sizes)))
    for n, m in ((0, 0), (0, 1), (1, 0), (1, 1)):
        found[..., xp.asarray(outs.placed[n])[:, None], xp.asarray(ins.placed[m])] = parts[n][m]
    return found, outs.sizes, ins.sizes


def _joined(one: Any, two: Any, first: tuple[Any, ...], second: tuple[Any, ...], xp: Any) -> Any:
    """Answers of the outputs that remain of either block to the inputs that remain of either.

    At the common edge x = A u1 + Z y and y = B u2 + Y x, hence (1 - Z Y) x = A u1 + Z B u2.
    """

    def of(h: Any, rows: Any, cols: Any) -> Any:
        return h[..., xp.asarray(rows)[:, None], xp.asarray(cols)]

    z, y = of(one, first[0], first[1]), of(two, second[0], second[1])
    fed, split = of(two, second[0], second[3]), len(first[3])
    right = xp.concatenate((of(one, first[0], first[3]), z @ fed), axis=-1)
    x = xp.linalg.solve(xp.eye(len(first[0])) - z @ y, right)
    x1, x2 = x[..., :split], x[..., split:]
    through1, through2 = of(one, first[2], first[1]), of(two, second[2], second[1])
    return (
        (of(one, first[2], first[3]) + through1 @ (y @ x1), through1 @ (fed + y @ x2)),
        (through2 @ x1, of(two, second[2], second[3]) + through2 @ x2),
    )
