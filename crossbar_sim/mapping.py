"""Weights to target conductances: differential pairs, column scales, tiles."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from crossbar_sim.circuit import Tiles
from crossbar_sim.device import Device
from crossbar_sim.errors import MappingError

Array = NDArray[np.float64]
S = TypeVar("S", bound=np.generic)


@dataclass(frozen=True)
class Placement:
    """Where a matrix of m outputs and n inputs sits.

    A weight takes a column pair (G+, G-) of one word line. Tiles are filled evenly: `rows_per_tile` inputs and
    `cols_per_tile` outputs each, tile index = row tile * col_tiles + column tile. One slice per weight.
    """

    outputs: int
    inputs: int
    row_tiles: int
    col_tiles: int
    rows_per_tile: int
    cols_per_tile: int

    @property
    def tiles(self) -> int:
        """Tiles the matrix occupies."""
        return self.row_tiles * self.col_tiles

    @property
    def cells(self) -> int:
        """Cells in use, 2 m n."""
        return 2 * self.outputs * self.inputs

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """[tile, slice, sign, rows, cols] of every array that describes the cells."""
        return (self.tiles, 1, 2, self.rows_per_tile, self.cols_per_tile)


def place(outputs: int, inputs: int, tiles: Tiles) -> Placement:
    """Spread an [outputs, inputs] matrix evenly over the fewest tiles that hold it.

    N_r = ceil(n/R), N_c = ceil(m/(C/2)), since a weight's pair never straddles tiles.

    Raises:
        MappingError: a dimension is not positive.
    """
    if outputs < 1 or inputs < 1:
        raise MappingError(f"weight: must have at least one output and one input (got {outputs} x {inputs})")
    row_tiles = ceil(inputs / tiles.rows)
    col_tiles = ceil(outputs / (tiles.cols // 2))
    return Placement(
        outputs, inputs, row_tiles, col_tiles, ceil(inputs / row_tiles), ceil(outputs / col_tiles)
    )


def column_scale(weight: Array) -> Array:
    """Scale per output [m]: max_i |W_oi|, 1 for an all-zero row."""
    scale = np.abs(weight).max(axis=1)
    return np.where(scale > 0, scale, 1.0)


def to_cells(matrix: NDArray[S], placement: Placement) -> NDArray[S]:
    """[m, n] spread over the tiles: [tile, rows, cols], zero where no weight sits."""
    p = placement
    padded = np.zeros((p.row_tiles * p.rows_per_tile, p.col_tiles * p.cols_per_tile), matrix.dtype)
    padded[: p.inputs, : p.outputs] = matrix.T
    blocks = padded.reshape(p.row_tiles, p.rows_per_tile, p.col_tiles, p.cols_per_tile)
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3)).reshape(
        p.tiles, p.rows_per_tile, p.cols_per_tile
    )


def by_row_tile(cells: NDArray[S], placement: Placement) -> NDArray[S]:
    """[tile, rows, cols] -> [row tile, rows, m]: the columns of one word line side by side."""
    p = placement
    blocks = cells.reshape(p.row_tiles, p.col_tiles, p.rows_per_tile, p.cols_per_tile).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(blocks.reshape(p.row_tiles, p.rows_per_tile, -1)[:, :, : p.outputs])


def from_cells(cells: NDArray[S], placement: Placement) -> NDArray[S]:
    """Inverse of to_cells: [tile, rows, cols] -> [m, n]."""
    p = placement
    rows = by_row_tile(cells, p).reshape(p.row_tiles * p.rows_per_tile, p.outputs)
    return np.ascontiguousarray(rows[: p.inputs].T)


def used(placement: Placement) -> NDArray[np.bool_]:
    """Which cells hold a weight, [tile, slice, sign, rows, cols]."""
    ones = to_cells(np.ones((placement.outputs, placement.inputs), dtype=bool), placement)
    return np.broadcast_to(ones[:, None, None], placement.shape).astype(bool)


def target_conductance(weight: Array, scale: Array, placement: Placement, device: Device) -> Array:
    """Target conductances in S, [tile, slice, sign, rows, cols].

    D = W / scale in [-1, 1]; G+ = g_min + span max(D, 0), G- = g_min + span max(-D, 0), rounded (half to
    even) to the device's levels where it has any. Unused cells stay at g_min.

    Raises:
        MappingError: the weight is not finite or exceeds its column scale, or the scale is not one positive number per output.
    """
    if scale.shape != weight.shape[:1] or not (np.isfinite(scale).all() and (scale > 0).all()):
        raise MappingError(
            f"scale: must hold one positive, finite number per output (got shape {scale.shape}, least {scale.min():g})"
        )
    if not np.isfinite(weight).all():
        raise MappingError("weight: holds values that are not finite; nothing was programmed")
    normalised = weight / scale[:, None]
    if np.abs(normalised).max() > 1 + 1e-12:
        raise MappingError(
            f"weight: exceeds its column scale by {np.abs(normalised).max():.3g}; raise the scale first"
        )
    d = to_cells(normalised, placement)
    pair = np.stack([np.clip(d, 0, 1), np.clip(-d, 0, 1)], axis=1)[:, None]
    if device.levels:
        steps = device.levels - 1
        pair = np.rint(pair * steps) / steps
    return device.g_min + device.span * pair


def levels_of(target: Array, device: Device) -> NDArray[np.uint8]:
    """Level index of each target conductance (0 where the device is continuous)."""
    if not device.levels:
        return np.zeros(target.shape, np.uint8)
    return np.rint((target - device.g_min) / device.span * (device.levels - 1)).astype(np.uint8)
