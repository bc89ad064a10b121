"""Products through gated columns (1T1R): one-bit inputs connect rows of cells to the column's supply line.

The columns are ladders whose currents depend on the pattern of inputs, so there is no matrix to multiply with: each pattern is
solved (crossbar_sim.wires.gated). `mvm` stands where the kernels' does and converts like the reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels import AdcRange, AdcTable, NoiseStream
from crossbar_kernels.reference import convert, normals
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
    inputs: NDArray[Any], prepared: Ladders, *, adc: AdcRange | AdcTable | None, noise: NoiseStream | None
) -> Array:
    """Product of integer codes [vectors, tiles * rows] with the ladders, converted and summed over the tiles.

    Positive and negative bits are driven one after the other and subtracted, planes are added with their weights. Read noise is not
    attenuated by the wires (an upper bound: a cell's current cannot exceed what it has without them).
    """
    x = inputs.astype(np.int64).reshape(len(inputs), prepared.tiles, prepared.rows)
    y = np.zeros((len(inputs), prepared.cols))
    for t in range(prepared.tiles):
        a = sum(
            factor * sum(2.0**k * _signed(g[t], x[:, t], k, prepared.segment) for k in _bits(x))
            for factor, g in prepared.parts
        )
        if noise is not None and prepared.variance is not None:
            squares = x[:, t] ** 2 if noise.squares is None else noise.squares.reshape(x.shape)[:, t]
            z = normals(noise.rows, prepared.cols, key=noise.key, stream=noise.word(t), event=noise.event)
            a = a + noise.scale * np.sqrt(squares @ prepared.variance[t]) * z
        y += np.asarray(a) if adc is None else convert(np.asarray(a), adc, t)
    return y


def _bits(codes: NDArray[np.int64]) -> range:
    return range(max(int(np.abs(codes).max(initial=0)).bit_length(), 1))


def _signed(g: Array, codes: NDArray[np.int64], bit: int, segment: float) -> Array:
    """Currents of the positive minus those of the negative codes that have this bit, A at 1 V."""
    driven = (np.abs(codes) >> bit & 1).astype(bool)
    plus, minus = (wires.gated(g, driven & side, segment=segment) for side in (codes > 0, codes < 0))
    return np.asarray(plus - minus)
