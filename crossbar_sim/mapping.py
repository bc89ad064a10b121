"""Weights to cells: codings, bit slices, parallel cells, tiles, and where each sits in the physical arrays."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from crossbar_sim.circuit import Tiles, WeightMapping
from crossbar_sim.device import Device
from crossbar_sim.errors import MappingError

Array = NDArray[np.float64]
S = TypeVar("S", bound=np.generic)


@dataclass(frozen=True)
class Placement:
    """Where a matrix of m outputs and n inputs sits.

    Tile index = row tile * col_tiles + column tile; a tile holds `rows_per_tile` inputs and `cols_per_tile` outputs, each weight in
    slices x signs x copies cells. After a tile's outputs come its unit column (`unit`) and its `spare` columns.
    """

    outputs: int
    inputs: int
    row_tiles: int
    col_tiles: int
    rows_per_tile: int
    cols_per_tile: int
    slices: int = 1
    signs: int = 2
    copies: int = 1
    pair: str = "columns"
    unit: bool = False
    spare: int = 0

    @property
    def tiles(self) -> int:
        """Blocks of the matrix, row_tiles * col_tiles."""
        return self.row_tiles * self.col_tiles

    @property
    def arrays(self) -> int:
        """Physical arrays: as many as tiles, twice as many where the two cells of a pair sit in two arrays."""
        return self.tiles * (2 if self.pair == "arrays" and self.signs == 2 else 1)

    @property
    def weight_cells(self) -> int:
        """Cells that hold weights: m n slices signs copies."""
        return self.outputs * self.inputs * self.slices * self.copies * self.signs

    @property
    def cells(self) -> int:
        """Cells in use: those of the weights, and n slices copies per column tile for a unit column."""
        return self.weight_cells + self.inputs * self.col_tiles * self.slices * self.copies * self.unit

    @property
    def columns(self) -> int:
        """Columns per tile as `shape` counts them: outputs, unit column, spare columns."""
        return self.cols_per_tile + self.unit + self.spare

    @property
    def shape(self) -> tuple[int, int, int, int, int, int]:
        """[tile, slice, sign, copy, rows, cols] of every array that describes the cells."""
        return (self.tiles, self.slices, self.signs, self.copies, self.rows_per_tile, self.columns)

    @property
    def tile_column(self) -> NDArray[np.intp]:
        """Column of tiles in which each output sits, [outputs]."""
        return np.arange(self.outputs) // self.cols_per_tile

    @property
    def word_lines(self) -> int:
        """Physical word lines per input: 2 for row pairs."""
        return 2 if self.pair == "rows" and self.signs == 2 else 1

    @property
    def bit_lines(self) -> int:
        """Physical bit lines per output of one array."""
        return self.slices * self.copies * (2 if self.pair == "columns" and self.signs == 2 else 1)


def place(outputs: int, inputs: int, tiles: Tiles, mapping: WeightMapping | None = None) -> Placement:
    """Spread an [outputs, inputs] matrix over tiles of R word lines and C bit lines.

    A tile takes n_t = floor(R / word lines per input) inputs and m_t = floor(C / bit lines per output) columns, unit and spare
    columns among them; N_r = ceil(n/n_t), N_c = ceil(m/m_t). "equal" then fills the tiles evenly, "full" to the brim.

    Raises:
        MappingError: a dimension is not positive, or a tile is too small for one weight.
    """
    if outputs < 1 or inputs < 1:
        raise MappingError(f"weight: must have at least one output and one input (got {outputs} x {inputs})")
    how = WeightMapping() if mapping is None else mapping
    unit = how.coding == "offset" and how.offset == "unit_column"
    one = Placement(1, 1, 1, 1, 1, 1, how.slices, how.signs, how.copies, how.pair, unit, how.spare_columns)
    rows, cols = tiles.rows // one.word_lines, tiles.cols // one.bit_lines - unit - how.spare_columns
    if rows < 1 or cols < 1:
        raise MappingError(
            f"Tiles: {tiles.rows} x {tiles.cols} cells do not hold one weight with {one.bit_lines} bit lines per output, "
            f"{int(unit)} unit and {how.spare_columns} spare columns; use larger tiles, fewer slices or copies"
        )
    row_tiles, col_tiles = ceil(inputs / rows), ceil(outputs / cols)
    if how.split == "equal":
        rows, cols = ceil(inputs / row_tiles), ceil(outputs / col_tiles)
    else:
        rows, cols = min(rows, inputs), min(cols, outputs)
    return Placement(
        outputs,
        inputs,
        row_tiles,
        col_tiles,
        rows,
        cols,
        how.slices,
        how.signs,
        how.copies,
        how.pair,
        unit,
        how.spare_columns,
    )


def full_scale(weight: Array, scale: str) -> Array:
    """Scale per output [m]: max_i |W_oi| ("column") or max |W| ("matrix"); 1 where all is zero."""
    largest = np.abs(weight).max(axis=1)
    if scale == "matrix":
        largest = np.full_like(largest, largest.max())
    return np.where(largest > 0, largest, 1.0)


# -- the logical layout --------------------------------------------------------------------------------------------


def to_cells(matrix: NDArray[S], placement: Placement) -> NDArray[S]:
    """[m, n] spread over the tiles: [tile, rows, outputs of the tile], zero where no weight sits."""
    p = placement
    padded = np.zeros((p.row_tiles * p.rows_per_tile, p.col_tiles * p.cols_per_tile), matrix.dtype)
    padded[: p.inputs, : p.outputs] = matrix.T
    blocks = padded.reshape(p.row_tiles, p.rows_per_tile, p.col_tiles, p.cols_per_tile)
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3)).reshape(
        p.tiles, p.rows_per_tile, p.cols_per_tile
    )


def by_row_tile(cells: NDArray[S], placement: Placement) -> NDArray[S]:
    """[..., tile, rows, outputs] -> [..., row tile, rows, m]: the columns of one word line side by side."""
    p = placement
    blocks = cells.reshape(*cells.shape[:-3], p.row_tiles, p.col_tiles, p.rows_per_tile, p.cols_per_tile)
    side = np.ascontiguousarray(np.swapaxes(blocks, -3, -2))
    return side.reshape(*cells.shape[:-3], p.row_tiles, p.rows_per_tile, -1)[..., : p.outputs]


def by_col_tile(cells: NDArray[S], placement: Placement) -> NDArray[S]:
    """[..., tile, rows, outputs] -> [..., col tile, outputs, n]: the matrix as bit lines drive it."""
    p = placement
    blocks = cells.reshape(*cells.shape[:-3], p.row_tiles, p.col_tiles, p.rows_per_tile, p.cols_per_tile)
    side = np.ascontiguousarray(np.moveaxis(blocks, (-3, -1, -4, -2), (-4, -3, -2, -1)))
    return side.reshape(*cells.shape[:-3], p.col_tiles, p.cols_per_tile, -1)[..., : p.inputs]


def from_cells(cells: NDArray[S], placement: Placement) -> NDArray[S]:
    """Inverse of to_cells: [tile, rows, outputs] -> [m, n]."""
    p = placement
    rows = by_row_tile(cells, p).reshape(p.row_tiles * p.rows_per_tile, p.outputs)
    return np.ascontiguousarray(rows[: p.inputs].T)


def straight(placement: Placement) -> NDArray[np.intp]:
    """The order in which no spare column is used: column of each output of each tile, [tile, outputs]."""
    return np.broadcast_to(
        np.arange(placement.cols_per_tile), (placement.tiles, placement.cols_per_tile)
    ).copy()


def outputs_of(cells: NDArray[S], placement: Placement, order: NDArray[np.intp]) -> NDArray[S]:
    """[tile, ..., rows, columns] -> [tile, ..., rows, outputs]: each output's column, wherever it moved."""
    if not placement.spare:
        return cells[..., : placement.cols_per_tile]
    index = order.reshape(placement.tiles, *(1,) * (cells.ndim - 2), placement.cols_per_tile)
    return np.take_along_axis(cells, index, axis=-1)


def used(
    placement: Placement, order: NDArray[np.intp], where: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """Which cells hold a weight (of those in `where` [m, n]) or belong to a unit column, [tile, slice, sign, copy, rows, cols]."""
    p = placement
    holds = to_cells(np.ones((p.outputs, p.inputs), dtype=bool) if where is None else where, p)
    mask = np.zeros((p.tiles, p.rows_per_tile, p.columns), dtype=bool)
    np.put_along_axis(mask, order[:, None, :], holds, axis=-1)
    if p.unit:
        mask[:, :, p.cols_per_tile] = holds.any(-1)
    return np.broadcast_to(mask[:, None, None, None], p.shape).copy()


# -- weights as conductances ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Code:
    """How cells add up to a weight: D = sum_s u_s (g+_s - g-_s) - offset, g in [0, 1] of the span above g_min."""

    coefficients: tuple[float, ...]
    offset: float = 0.0


def code(mapping: WeightMapping, device: Device) -> Code:
    """The sum that `normalised` inverts.

    With L levels and S slices a cell's digit is (L - 1) g, a weight's integer M = sum_s digit_s L^s. Pairs: D = (M+ - M-)/F. Offset:
    D = (M - H)/(H - 1), H = half the range (2^(b-1) for b bits). Continuous cells: g+ - g- and 2 g - 1.

    Raises:
        MappingError: the slices do not hold the weight's bits, or leave no steps on either side of an offset.
    """
    levels = device.levels
    if not levels:
        return Code((2.0,), 1.0) if mapping.coding == "offset" else Code((1.0,))
    largest = _largest(mapping, levels)
    places = [float((levels - 1) * levels**s) for s in range(mapping.slices)]
    if mapping.coding != "offset":
        return Code(tuple(place / largest for place in places))
    half = _half(mapping, levels)
    return Code(tuple(place / (half - 1) for place in places), half / (half - 1))


def _largest(mapping: WeightMapping, levels: int) -> int:
    """F: the integer that stands for a full-scale weight."""
    capacity, bits = levels**mapping.slices - 1, mapping.weight_bits
    if not bits:
        return int(capacity)
    wanted = mapping.largest_integer
    if wanted > capacity:
        raise MappingError(
            f"WeightMapping.weight_bits: {bits} bits need integers to {wanted}, but {mapping.slices} slice(s) of {levels} levels hold "
            f"{capacity}; use more slices"
        )
    return wanted


def _half(mapping: WeightMapping, levels: int) -> int:
    """H: the integer that stands for a zero weight in offset coding."""
    half = (_largest(mapping, levels) + 1) // 2
    if half < 2:
        raise MappingError(
            f"WeightMapping.coding: 'offset' needs at least 4 states per weight (got {2 * half}); use more levels or slices"
        )
    return int(half)


def normalised(d: Array, mapping: WeightMapping, device: Device) -> Array:
    """Targets in [0, 1] of the span for D in [-1, 1], [slice, sign, *d.shape]; integers round half to even."""
    levels = device.levels
    if mapping.coding == "offset":
        if not levels:
            return np.asarray((1 + d) / 2)[None, None]
        half = _half(mapping, levels)
        return _digits(np.rint((half - 1) * d) + half, mapping, levels)[:, None]
    sides = (
        [(1 + d) / 2, (1 - d) / 2] if mapping.coding == "two_sided" else [np.clip(s, 0, 1) for s in (d, -d)]
    )
    if not levels:
        return np.stack(sides)[None]
    largest = _largest(mapping, levels)
    return np.stack([_digits(np.rint(side * largest), mapping, levels) for side in sides], axis=1)


def _digits(integers: Array, mapping: WeightMapping, levels: int) -> Array:
    """Digits to the base `levels`, least significant first, in units of the largest digit: [slice, ...]."""
    if mapping.slices == 1:
        return integers[None] / (levels - 1)
    places = [np.floor_divide(integers, levels**s) % levels for s in range(mapping.slices)]
    return np.stack(places) / (levels - 1)


def target_conductance(
    weight: Array,
    scale: Array,
    placement: Placement,
    device: Device,
    mapping: WeightMapping,
    order: NDArray[np.intp],
) -> Array:
    """Target conductances in S, [tile, slice, sign, copy, rows, cols]; 0 where no weight sits.

    Raises:
        MappingError: the weight is not finite or exceeds its column scale, or the scale is not one positive number per output.
    """
    p = placement
    d, holds = to_cells(checked(weight, scale), p), to_cells(np.ones((p.outputs, p.inputs), bool), p)
    target = np.zeros(p.shape)
    for tile, one in enumerate(target):  # tile by tile, so that the temporaries stay in the cache
        cells = device.g_min + device.span * normalised(d[tile], mapping, device)
        if not holds[tile].all():
            cells *= holds[tile]
        columns: NDArray[np.intp] | slice = order[tile] if p.spare else slice(p.cols_per_tile)
        one[..., columns] = cells[:, :, None]
        if p.unit:
            zero = device.g_min + device.span * normalised(np.zeros(1), mapping, device)  # [slice, sign, 1]
            one[..., p.cols_per_tile] = zero[..., None] * holds[tile].any(-1)
    return target


def weights(
    conductance: Array, placement: Placement, device: Device, mapping: WeightMapping, order: NDArray[np.intp]
) -> Array:
    """The normalised weights D [m, n] that conductances [tile, slice, sign, copy, rows, cols] stand for; inverse of the target.

    Copies count by their mean; a unit column is subtracted as it is, whatever it has become.
    """
    p, how = placement, code(mapping, device)
    g = (conductance.mean(axis=3) - device.g_min) / device.span
    d = g[:, :, 0] - g[:, :, 1] if p.signs == 2 else g[:, :, 0]  # [tile, slice, rows, columns]
    total = np.asarray(sum(u * d[:, s] for s, u in enumerate(how.coefficients)))
    zero = total[..., p.cols_per_tile, None] if p.unit else how.offset
    return from_cells(outputs_of(total, p, order) - zero, p)


def checked(weight: Array, scale: Array) -> Array:
    """The normalised weights D = W/scale in [-1, 1].

    Raises:
        MappingError: as `target_conductance`.
    """
    if scale.shape != weight.shape[:1] or not (np.isfinite(scale).all() and (scale > 0).all()):
        raise MappingError(
            f"scale: must hold one positive, finite number per output (got shape {scale.shape}, least {scale.min():g})"
        )
    if not np.isfinite(weight).all():
        raise MappingError("weight: holds values that are not finite; nothing was programmed")
    d = weight / scale[:, None]
    if np.abs(d).max() > 1 + 1e-12:
        raise MappingError(
            f"weight: exceeds its column scale by {np.abs(d).max():.3g}; raise the scale first"
        )
    return np.clip(d, -1, 1)


def blocks(name: str, placement: Placement, tiles: Tiles) -> list[dict[str, object]]:
    """What each physical array of a placement holds, and the share of its cells in use (`utilisation`)."""
    p = placement
    rows = [min(p.rows_per_tile, p.inputs - r * p.rows_per_tile) for r in range(p.row_tiles)]
    cols = [min(p.cols_per_tile, p.outputs - c * p.cols_per_tile) for c in range(p.col_tiles)]
    return [
        {
            "array": name,
            "inputs": (r * p.rows_per_tile, r * p.rows_per_tile + rows[r]),
            "outputs": (c * p.cols_per_tile, c * p.cols_per_tile + cols[c]),
            "utilisation": rows[r]
            * p.word_lines
            * (cols[c] + p.unit)
            * p.bit_lines
            / (tiles.rows * tiles.cols),
        }
        for r in range(p.row_tiles)
        for c in range(p.col_tiles)
        for _ in range(p.arrays // p.tiles)
    ]


# -- the physical arrays -------------------------------------------------------------------------------------------

_AXES = {
    "columns": ((0,), (4,), (5, 1, 2, 3)),
    "rows": ((0,), (4, 2), (5, 1, 3)),
    "arrays": ((0, 2), (4,), (5, 1, 3)),
}
"""Axes of [tile, slice, sign, copy, rows, cols] that make the arrays, the word lines and the bit lines."""


def assemble(cells: Array, placement: Placement) -> Array:
    """Cells as they sit in the arrays, [array, word lines, bit lines]: an output's bit lines are neighbours."""
    groups = _axes(placement)
    shape = [int(np.prod([placement.shape[a] for a in group])) for group in groups]
    return np.ascontiguousarray(cells.transpose([a for group in groups for a in group])).reshape(shape)


def disassemble(arrays: Array, placement: Placement) -> Array:
    """Inverse of assemble."""
    axes = [a for group in _axes(placement) for a in group]
    return np.ascontiguousarray(
        arrays.reshape([placement.shape[a] for a in axes]).transpose(np.argsort(axes))
    )


def _axes(placement: Placement) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    return _AXES[placement.pair]
