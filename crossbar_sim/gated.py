"""Products through gated columns (1T1R): one-bit inputs connect rows of cells to the column's supply line.

The columns are ladders whose currents depend on the pattern of inputs, so there is no matrix to multiply with: each pattern is
solved (crossbar_sim.wires.gated). `mvm` stands where the kernels' does and converts like the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels import AdcRange, AdcTable, NoiseStream
from crossbar_kernels.checks import check_inputs, start
from crossbar_kernels.reference import convert, deviation, normals
from crossbar_sim import wires

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ladders:
    """Columns whose currents are added before conversion: (factor in 1/S, conductances in S [tile, rows, columns]) each.

    `variance` of one read of the sum of a row's cells, in squared units of the span, and the segment of both lines in ohm.
    """

    parts: tuple[tuple[float, Array], ...]
    variance: Array | None
    segment: float

    @property
    def tiles(self) -> int:
        """Row tiles, each with its own conversion."""
        return int(self.parts[0][1].shape[0])

    @property
    def rows(self) -> int:
        """Rows per tile."""
        return int(self.parts[0][1].shape[1])

    @property
    def cols(self) -> int:
        """Columns."""
        return int(self.parts[0][1].shape[2])


def mvm(
    inputs: NDArray[Any],
    prepared: Ladders,
    *,
    adc: AdcRange | AdcTable | None,
    noise: NoiseStream | None,
    weights: Sequence[float] = (1.0,),
    out: Array | None = None,
) -> Array:
    """Converted products of planes of integer codes [planes, vectors, tiles * rows] with the ladders, weighted and summed.

    Positive and negative bits are driven one after the other and subtracted, the bits of a code are added with their weights. Read noise is not
    attenuated by the wires (an upper bound: a cell's current cannot exceed what it has without them).
    """
    stacked = check_inputs(inputs, prepared, noise, weights)
    x = stacked.astype(np.int64).reshape(*stacked.shape[:2], prepared.tiles, prepared.rows)
    y = start(out, stacked.shape[1], prepared.cols)
    for t, k in np.ndindex(prepared.tiles, len(x)):
        a = _currents(x[k, :, t], prepared, t)
        if noise is not None:
            a = a + _noise(x[k], prepared, noise, t, k)
        y += weights[k] * (a if adc is None else convert(a, adc, t))
    return y


def _currents(codes: NDArray[np.int64], prepared: Ladders, tile: int) -> Array:
    """What one tile's converters see of codes [vectors, rows], without noise."""
    return np.asarray(
        sum(
            factor * sum(2.0**bit * _signed(g[tile], codes, bit, prepared.segment) for bit in _bits(codes))
            for factor, g in prepared.parts
        )
    )


def _noise(x: NDArray[np.int64], prepared: Ladders, noise: NoiseStream, tile: int, plane: int) -> Array:
    """The noise of one tile's conversions of codes [vectors, tiles, rows]."""
    squares = x[:, tile] ** 2 if noise.squares is None else noise.squares.reshape(x.shape)[:, tile]
    v = None if prepared.variance is None else squares @ prepared.variance[tile]
    word = noise.word(tile, plane)
    z = normals(noise.rows, prepared.cols, key=noise.key, stream=word, event=noise.event)
    return np.asarray(deviation(v, noise, tile) * z)


def _bits(codes: NDArray[np.int64]) -> range:
    return range(max(int(np.abs(codes).max(initial=0)).bit_length(), 1))


def _signed(g: Array, codes: NDArray[np.int64], bit: int, segment: float) -> Array:
    """Currents of the positive minus those of the negative codes that have this bit, A at 1 V."""
    driven = (np.abs(codes) >> bit & 1).astype(bool)
    plus, minus = (wires.gated(g, driven & side, segment=segment) for side in (codes > 0, codes < 0))
    return np.asarray(plus - minus)
