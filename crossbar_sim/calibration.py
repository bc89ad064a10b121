"""Converter ranges from data: what the inputs and the partial sums of an array really are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crossbar_sim.errors import CalibrationError, ConfigError

if TYPE_CHECKING:
    from crossbar_sim.array import ProgrammedArray
    from crossbar_sim.chip import Chip

Array = NDArray[np.float64]
KEPT = 64
"""Vectors kept per product, evenly spaced over the data, so that the ranges are deterministic."""


@dataclass
class Recorder:
    """A sample of the vectors that drive one array, how many there were, and the weights that answered them."""

    vectors: list[Array] = field(default_factory=list)
    seen: int = 0
    weights: Array | None = None

    def product(self, x: Array, array: ProgrammedArray, size: Any) -> Array:
        """W x of vectors [v, n] without converters and noise; some of them are kept, in units of `size`."""
        if self.weights is None:
            self.weights = array.present_weights()
        self.vectors.append(x[:: max(1, -(-len(x) // KEPT))] / float(size))
        self.seen += len(x)
        return np.asarray(x @ self.weights.T)

    def sample(self) -> Array:
        """The vectors kept, [v, n].

        Raises:
            CalibrationError: there are none.
        """
        if not self.seen:
            raise CalibrationError(
                "calibrate: an array saw no input; the batches must run through every array"
            )
        return np.concatenate(self.vectors)


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

    While it runs, these arrays compute without converters and noise; the reads are booked in phase `calibrate`, the energy of the
    driven lines from the vectors that were kept. A chip with ideal converters has nothing to set. Where gradients are read
    through the arrays (backward "transposed"), their ADCs get their range from normal vectors: no gradient is
    needed, and none of a later task is known at deployment.

    Args:
        chip: the chip.
        model: called as model(**batch).
        batches: keyword arguments of the model, one mapping per batch; texts of the source tasks.
        arrays: which arrays.
        dac_percentile: where the DAC ranges are cut, in percent of |x|.
        adc_percentile: where the ADC ranges are cut, on both sides.

    Raises:
        CalibrationError: an array saw no input; no range was changed then.
        ConfigError: a batch is no mapping; no range was changed then.
    """
    if chip.exact:
        return
    chosen = [a for a in chip.arrays.values() if a.ranges is None] if arrays is None else list(arrays)
    recorders = {array.name: Recorder() for array in chosen}
    with chip.ledger.scope(phase="calibrate"):
        try:
            for array in chosen:
                array.recorder = recorders[array.name]
            run_batches(model, batches)
        finally:
            for array in chosen:
                array.recorder = None
        samples = {name: recorder.sample() for name, recorder in recorders.items()}
        for array in chosen:
            forward, transposed = array.readers
            sample = samples[array.name]
            found = forward.ranges_from(sample, dac=dac_percentile, adc=adc_percentile)
            forward.ranges = found.widened(*array.room)
            squares = forward.squares_of(sample)
            if squares is not None:
                share = recorders[array.name].seen / len(sample)
                forward.book_drive(np.rint(squares * share).astype(np.int64))
            if chip.backward == "transposed" and not array.gated:
                transposed.needed_ranges()


def run_batches(model: Any, batches: Iterable[Mapping[str, Any]]) -> None:
    """Call the model on every batch.

    Raises:
        ConfigError: a batch is no mapping.
    """
    for number, batch in enumerate(batches):
        if not hasattr(batch, "keys"):
            raise ConfigError(
                f"calibrate: batch {number} is a {type(batch).__name__}; give the model's arguments by name: "
                f'{{"{_first_argument(model)}": x}}'
            )
        model(**batch)


def _first_argument(model: Any) -> str:
    return next(iter(signature(getattr(model, "forward", model)).parameters), "input")
