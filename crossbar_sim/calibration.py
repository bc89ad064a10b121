"""Converter ranges from data: what the inputs and the partial sums of an array really are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crossbar_sim import mapping
from crossbar_sim.errors import CalibrationError
from crossbar_sim.periphery import Ranges, zero_centred

if TYPE_CHECKING:
    from crossbar_sim.array import ProgrammedArray
    from crossbar_sim.chip import Chip

Array = NDArray[np.float64]
KEPT = 50_000
"""Values kept per observation, evenly spaced over the data, so that the ranges are deterministic."""


@dataclass
class Recorder:
    """Samples of one array's inputs and partial sums (full-scale weights, input units)."""

    inputs: list[Array] = field(default_factory=list)
    sums: list[Array] = field(default_factory=list)
    squares: Array | float = 0.0
    """Sum of the squared inputs per word line."""
    _weights: Array | None = None

    def product(self, x: Array, array: ProgrammedArray, size: float) -> Array:
        """W x without converters and noise; inputs [vectors, n] over `size` and every row tile's sums are recorded."""
        p = array.placement
        if self._weights is None:
            normalised = array.read_weights() / array.scale[:, None]
            self._weights = mapping.by_row_tile(mapping.to_cells(normalised, p), p)
        rows = np.zeros((len(x), p.row_tiles * p.rows_per_tile))
        rows[:, : p.inputs] = x / size
        self.inputs.append(_thin(rows[:, : p.inputs]))
        self.squares = self.squares + (rows * rows).sum(0)[: p.inputs]
        total = np.zeros((len(x), p.outputs))
        for t, weights in enumerate(self._weights):
            part = rows[:, t * p.rows_per_tile : (t + 1) * p.rows_per_tile] @ weights
            self.sums.append(_thin(part))
            total += part
        return total * (size * array.scale)

    def ranges(self, bits: int, *, dac_percentile: float, adc_percentile: float) -> Ranges:
        """Full scales: percentiles of |x| and, two-sided, of the partial sums, 0 on an ADC code.

        Raises:
            CalibrationError: nothing was recorded.
        """
        if not self.inputs:
            raise CalibrationError(
                "calibrate: an array saw no input; the batches must run through every array"
            )
        dac = float(np.percentile(np.abs(np.concatenate(self.inputs)), dac_percentile)) or 1.0
        sums = np.concatenate(self.sums) / dac
        low, high = np.percentile(sums, [100 - adc_percentile, adc_percentile])
        low, high = zero_centred(float(low), float(high), bits or 16)
        return Ranges(dac, low, high)


def _thin(values: Array) -> Array:
    flat = values.ravel()
    return flat[:: max(1, flat.size // KEPT)].copy()


def calibrate(
    chip: Chip,
    model: Any,
    batches: Iterable[Mapping[str, Any]],
    *,
    arrays: Iterable[ProgrammedArray] | None = None,
    dac_percentile: float = 99.99,
    adc_percentile: float = 99.99,
) -> None:
    """Set the converter ranges of `arrays` (default: those that have none) from batches run through the model.

    While it runs, these arrays compute without converters and noise; the reads are booked in phase `calibrate`.

    The energy of the driven word lines follows from the ranges that were found. A chip with ideal converters has nothing to set.

    Args:
        chip: the chip.
        model: called as model(**batch).
        batches: keyword arguments of the model, one mapping per batch; texts of the source tasks.
        arrays: which arrays.
        dac_percentile: where the DAC ranges are cut, in percent of |x|.
        adc_percentile: where the ADC ranges are cut, on both sides.

    Raises:
        CalibrationError: an array saw no input; no range was changed then.
    """
    if chip.exact:
        return
    chosen = [a for a in chip.arrays.values() if a.ranges is None] if arrays is None else list(arrays)
    recorders = {array.name: Recorder() for array in chosen}
    with chip.ledger.scope(phase="calibrate"):
        try:
            for array in chosen:
                array.recorder = recorders[array.name]
            for batch in batches:
                model(**batch)
        finally:
            for array in chosen:
                array.recorder = None
    bits = chip.preset.periphery.adc_bits
    found = {
        a.name: recorders[a.name].ranges(bits, dac_percentile=dac_percentile, adc_percentile=adc_percentile)
        for a in chosen
    }
    for array in chosen:
        array.ranges = found[array.name]
    if not chip.preset.periphery.dac_bits:
        return
    with chip.ledger.scope(phase="calibrate"):
        for array in chosen:
            codes_per_unit = chip.preset.periphery.dac_scale / found[array.name].dac
            codes = np.rint(recorders[array.name].squares * codes_per_unit**2)
            array.book_drive(np.asarray(codes, np.int64))
