"""What writing and reading an array takes in the mean, measured on small arrays of the same card.

Pulses, verify reads and the joules of the cells depend on what the cells hold. Where no weights are known they are
taken from *samples*: real arrays of normal weights (as wide as the array in question, a part of its rows, column
scales of its full length), programmed by published statistics and driven with normal vectors.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, fsum

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from crossbar_sim.array import ProgrammedArray
from crossbar_sim.chip import Chip
from crossbar_sim.ledger import PHYSICAL, Ledger
from crossbar_sim.mapping import Placement
from crossbar_sim.periphery import Ranges
from crossbar_sim.presets import Preset

Array = NDArray[np.float64]
WEIGHTS, MOST_OUTPUTS, MOST_ARRAYS = 2**14, 4096, 16
"""Weights of a sample, at most so many outputs wide; a sample of small matrices is made of several arrays."""
VECTORS = 64
"""Normal vectors that drive a sample."""
DAC_RANGE = float(ndtri(0.5 + 0.9999 / 2))
"""Full scale of the DAC in standard deviations of its inputs: the 99.99th percentile of |x| (Chip.calibrate)."""


@dataclass(frozen=True)
class Write:
    """What is written over what.

    Attributes:
        kind: first - normal weights into fresh cells; again - over other normal weights; changed - a `share` of the weights has
            moved by one level (by the accepted window, where levels are not discrete) and only cells whose target changed are
            touched; verified - the same move, every cell verified; refresh - the same weights, written once, after drift.
        share: of the weights that moved (`changed`, `verified`).
        age: seconds since the last programming (`refresh`).
    """

    kind: str = "first"
    share: float = 1.0
    age: float = 0.0


@dataclass(frozen=True)
class Means:
    """Events and joules by action per cell in use, and row-parallel slots per word line of one [tile, slice, sign, copy] array."""

    counts: Mapping[str, float]
    joules: Mapping[str, float]
    row_slots: Mapping[str, float]


class Expected:
    """The means of one card, each measured when it is first asked for."""

    def __init__(self, card: Preset) -> None:
        self.card = card
        self._written: dict[tuple[int, int, Write], Means] = {}
        self._read: dict[tuple[int, int], tuple[float, float]] = {}

    def writing(self, placement: Placement, write: Write) -> Means:
        """What one programming of such an array takes."""
        asked = (placement.outputs, placement.inputs, write)
        if asked not in self._written:
            sample = _Sample(self.card, placement.outputs, placement.inputs)
            self._written[asked] = _means(sample.written(write), sample.arrays)
        return self._written[asked]

    def read_joules(self, placement: Placement, *, transposed: bool) -> float:
        """Energy (J) that one vector leaves in one cell in use; 0 where no DAC says what voltage a line sees."""
        asked = (placement.outputs, placement.inputs)
        if asked not in self._read:
            sample = _Sample(self.card, *asked)
            self._read[asked] = sample.joules(transposed=False), sample.joules(transposed=True)
        return self._read[asked][transposed]


class _Sample:
    """A few programmed arrays that stand for part of an [outputs, inputs] matrix."""

    def __init__(self, card: Preset, outputs: int, inputs: int) -> None:
        loop = card.open_loop is not None  # pulse by pulse: worth what compiled code takes to load
        self._chip = Chip(card, backend="auto" if loop else "reference", statistical=True)
        self._normal = np.random.Generator(np.random.Philox(0))
        self._size = (outputs, inputs)
        m = min(outputs, MOST_OUTPUTS)
        n = min(inputs, max(8, WEIGHTS // m))
        repeats = min(MOST_ARRAYS, ceil(WEIGHTS / (m * n)))
        self.weights = [self._normal.standard_normal((m, n)) for _ in range(repeats)]
        self.scales = [self._scale(weight) for weight in self.weights]
        self.arrays = [
            self._chip.program(weight, name=f"sample {k}", scale=scale)
            for k, (weight, scale) in enumerate(zip(self.weights, self.scales, strict=True))
        ]

    def _scale(self, weight: Array) -> Array:
        """Full scale of each output: the largest of its weights, of which only some are in the sample.

        The largest of k absolute normal values is distributed as Phi^-1((1 + U^(1/k)) / 2), U uniform.
        """
        m, n = weight.shape
        seen: Array = np.abs(weight).max(axis=1)
        unseen = self._size[1] - n
        if self._chip.preset.mapping.scale == "matrix":
            seen = np.full(m, seen.max())
            unseen = self._size[0] * self._size[1] - weight.size
        if unseen < 1:
            return seen
        u = self._normal.random(m if self._chip.preset.mapping.scale != "matrix" else 1)
        return np.asarray(np.maximum(seen, ndtri((1.0 + u ** (1.0 / unseen)) / 2.0)))

    def written(self, write: Write) -> Ledger:
        """What the write of every array booked."""
        if write.kind != "first":
            self._chip.ledger = Ledger()
        self._chip.advance(write.age)
        for array, weight in zip(self.arrays, self.weights, strict=True):
            if write.kind == "again":
                other = self._normal.standard_normal(weight.shape)
                array.reprogram(np.clip(other, -array.scale[:, None], array.scale[:, None]))
            elif write.kind in ("changed", "verified"):
                moved = self._moved(weight, array.scale[:, None], write.share)
                array.reprogram(moved, changed_only=write.kind == "changed")
            elif write.kind == "refresh":
                array.refresh()
        return self._chip.ledger

    def _moved(self, weight: Array, scale: Array, share: float) -> Array:
        """The weights, a share of them one level up or down."""
        step = scale * _level(self._chip.preset) * self._normal.choice((-1.0, 1.0), weight.shape)
        chosen = self._normal.random(weight.shape) < share
        return np.where(chosen, np.clip(weight + step, -scale, scale), weight)

    def joules(self, *, transposed: bool) -> float:
        """Energy (J) per cell in use and vector, of normal vectors.

        A gradient is driven times the column scale. Its full scale is the power of two above its largest value, so the energy depends on where
        between two powers of two that value lies: the vectors' magnitudes are spread evenly over an octave.
        """
        octave = 2.0 ** (np.arange(VECTORS)[:, None] / VECTORS)
        self._chip.ledger = Ledger()
        for array in self.arrays:
            reader = array.readers[transposed]
            vectors = self._normal.standard_normal((VECTORS, reader.inputs))
            array.ranges = Ranges(DAC_RANGE, -1.0, 1.0)
            squares = reader.squares_of(octave * vectors * array.scale if transposed else vectors)
            if squares is None:
                return 0.0
            reader.book_drive(squares)
        energy = fsum(entry.joules() for entry in self._chip.ledger.reads.values())
        return energy / (VECTORS * sum(array.placement.cells for array in self.arrays))


def _level(card: Preset) -> float:
    """One level as a share of full scale; the accepted window at half scale where levels are not discrete."""
    if card.device.levels:
        return 1.0 / (card.device.levels - 1)
    law = card.programming
    if law is None:
        return 0.0
    middle = (card.device.g_min + card.device.g_max) / 2
    return (law.window_abs + law.window_rel * middle) / card.device.span


def _means(ledger: Ledger, arrays: list[ProgrammedArray]) -> Means:
    cells = sum(array.placement.cells for array in arrays)
    lines = sum(word_lines(array.placement) for array in arrays)
    counts, joules, slots = (defaultdict[str, float](float) for _ in range(3))
    for key, count in ledger.counts.items():
        counts[key.action] += count / cells
        if key.action in PHYSICAL:
            joules[key.action] += fsum(ledger.joules.get(key, ())) / cells
            slots[key.action] += ledger.row_slots.get(key, 0) / lines
    return Means(counts, joules, slots)


def word_lines(placement: Placement) -> int:
    """Word lines with a cell in use, over all [tile, slice, sign, copy] arrays."""
    p = placement
    return p.inputs * p.col_tiles * p.slices * p.signs * p.copies
