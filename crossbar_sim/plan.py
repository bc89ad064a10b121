"""A chip that books and holds no cells: the same program, run on the meta device, prices itself from shapes alone.

Every count that follows from shapes comes from the very code that books a simulation (Reader, Site, crossbar_sim.cost). What
depends on the cells' state (pulses, verify reads, their joules and slots, the joules of reads) is booked at the
mean of small sampled arrays (crossbar_sim.expected), which rests on the assumption that weights, inputs and gradients are normal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossbar_sim.array import ProgrammedArray
from crossbar_sim.calibration import Recorder, run_batches
from crossbar_sim.chip import Chip, Site
from crossbar_sim.errors import CalibrationError, ConfigError
from crossbar_sim.expected import Expected, Write, word_lines
from crossbar_sim.ledger import PHYSICAL, Ledger
from crossbar_sim.mapping import Placement
from crossbar_sim.periphery import Ranges
from crossbar_sim.presets import Preset
from crossbar_sim.programming import Programmed
from crossbar_sim.reading import PROBES, Reader

CELLS = frozenset({"cells", "order", "_asked", "_tried"})
"""What a programmed array has and a planned one has not."""
CALIBRATED = Ranges(1.0, -1.0, 1.0)
"""Stands for ranges that were found; no planned product looks at them."""


class PlannedArray(ProgrammedArray):
    """An array that books like a programmed one. Made by PlannedChip.program.

    Products take tensors on the meta device and give such tensors.
    """

    def __init__(self, chip: PlannedChip, site: Site, name: str, placement: Placement) -> None:
        self._stand(chip, site, name, placement, np.ones(placement.outputs))
        self._plan = chip
        self._since = chip.time

    def __getattr__(self, name: str) -> Any:
        """Only called for what is not there: the cells.

        Raises:
            ConfigError: somebody asks for what only cells know.
        """
        if name in CELLS:
            raise ConfigError(
                f"array {self.name!r}: a planned array has no cells to ask; program the weights on a Chip"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        return super().__repr__().replace("ProgrammedArray", "PlannedArray")

    def target_weights(self) -> Any:
        """The weights [m, n] asked for, as far as they are known: their shape."""
        return torch.empty(self.placement.outputs, self.placement.inputs, dtype=torch.float64, device="meta")

    # -- writing ---------------------------------------------------------------------------------------------

    def reprogram(
        self, weight: Any, *, statistical: bool | None = None, changed_only: bool = False
    ) -> Programmed:
        """Book other weights of the same shape, a share of them one level away; all cells are verified unless `changed_only`.

        Raises:
            ConfigError: another shape.
        """
        expected = (self.placement.outputs, self.placement.inputs)
        if tuple(weight.shape) != expected:
            raise ConfigError(f"weight: array {self.name!r} holds {expected}, got {tuple(weight.shape)}")
        return self.write(Write("changed" if changed_only else "verified", share=self._plan.changed))

    def refresh(self, *, statistical: bool | None = None) -> Programmed:
        """Book bringing the cells back to their targets after what time has passed; phase `refresh`."""
        with self.chip.ledger.scope(phase="refresh"):
            return self.write(Write("refresh", age=self.chip.time - self._since))

    def write(self, write: Write) -> Programmed:
        """Book the mean of a write, rounded to whole events; its report has no cells."""
        means, p = self._plan.expected.writing(self.placement, write), self.placement
        booked = {action: round(mean * p.cells) for action, mean in means.counts.items()}
        slots = {action: round(mean * word_lines(p)) for action, mean in means.row_slots.items()}
        joules = {action: mean * p.cells for action, mean in means.joules.items()}
        for action, count in booked.items():
            if action in PHYSICAL and action != "cell_write":
                self.site.book_physics(action, count, joules[action], row_slots=slots[action])
            else:
                self.site.book({action: count})
        self._since = self.chip.time
        self.report = _report(booked, slots, joules)
        return self.report

    def compensate(self, kind: str) -> None:
        """Refused: the factors are measured on cells.

        Raises:
            ConfigError: a correction is asked for.
        """
        if kind != "none":
            raise ConfigError(
                f"compensate: a planned chip has no drift to measure (asked for {kind!r}); use 'none'"
            )

    # -- products --------------------------------------------------------------------------------------------

    def mvm(self, x: Any, *, size: Any = 1.0, dtype: Any = np.float64) -> Any:
        """X [..., n] -> [..., m], booked.

        Raises:
            CalibrationError: the converters have no ranges yet, as on a real chip.
            ConfigError: the vectors have values, or another length.
        """
        vectors = self._vectors(x, self.placement.inputs)
        if self.recorder is not None:
            self.recorder.seen += vectors
        elif not self.chip.exact:
            self.readers[0].needed_ranges()
        self._book(self.readers[0], vectors)
        return x.new_empty(*x.shape[:-1], self.placement.outputs)

    def mvm_t(self, g: Any, *, dtype: Any = np.float64) -> Any:
        """G [..., m] -> [..., n] through the same cells, booked.

        Raises:
            ConfigError: the vectors have values, or another length; gated columns cannot be read from their sum lines.
        """
        if self.gated:
            raise ConfigError(
                "mvm_t: gated columns (Wires.ladder) have no transposed read; use backward 'nominal' or 'oracle'"
            )
        vectors = self._vectors(g, self.placement.outputs)
        self.probe()
        self._book(self.readers[1], vectors)
        return g.new_empty(*g.shape[:-1], self.placement.inputs)

    def probe(self) -> None:
        """Book the normal vectors from which a transposed read gets its ADC range, where it has none yet."""
        if self.backward_ranges is None and not self.chip.exact:
            with self._plan.once(), self.chip.ledger.scope(phase="calibrate"):
                self._book(self.readers[1], PROBES)
            self.backward_ranges = CALIBRATED

    def _vectors(self, x: Any, width: int) -> int:
        """How many real vectors a tensor holds."""
        if not (isinstance(x, Tensor) and x.is_meta):
            raise ConfigError(
                f"array {self.name!r}: a planned array multiplies shapes, tensors on the meta device; for values use a Chip"
            )
        if x.ndim < 1 or x.shape[-1] != width:
            raise ConfigError(
                f"array {self.name!r}: takes vectors of {width} numbers (got shape {tuple(x.shape)})"
            )
        return self.chip.valid_vectors(tuple(x.shape[:-1]))

    def _book(self, reader: Reader, vectors: int) -> None:
        """Book reads, and the mean energy of the lines they drive."""
        reader.book(vectors)
        if reader.converters.dac_bits and not self.chip.exact:
            mean = self._plan.expected.read_joules(self.placement, transposed=reader.transposed)
            driven = self.placement if self.active is None else self.active.within(self.placement)
            self.site.book_physics("array_read", 0, mean * driven.cells * vectors)


class PlannedChip(Chip):
    """A chip without cells, for models on the meta device.

    Args:
        preset: a card's name, a path to one, or a Preset.
        changed: share of the weights that move by one level between two writes of one array.
        expected: means of the same card, from another planned chip; default: measured when they are needed.
        options: those of Chip.

    Attributes:
        expected: means of the card's writes and reads.
        reused: arrays programmed from now on, outside phase `deploy`, take cells that held other weights before.
    """

    planned = True

    def __init__(
        self,
        preset: Preset | str | Path,
        *,
        changed: float = 0.02,
        expected: Expected | None = None,
        **options: Any,
    ) -> None:
        super().__init__(preset, **{"backend": "reference", **options})
        if not 0.0 <= changed <= 1.0:
            raise ConfigError(f"PlannedChip.changed: must be a share, 0 to 1 (got {changed:g})")
        self.changed, self.reused = changed, False
        if expected is not None and expected.card is not self.preset:
            raise ConfigError(
                f"PlannedChip.expected: means of another card (got {expected.card.name!r}); give those of {self.preset.name!r}"
            )
        self.expected = Expected(self.preset) if expected is None else expected
        self._outer: Ledger | None = None

    def program(
        self,
        weight: Any,
        *,
        name: str,
        layer: str | None = None,
        matrix: str = "base",
        scale: NDArray[np.float64] | None = None,
        ranges: Ranges | None = None,
        stuck: NDArray[np.float64] | None = None,
    ) -> PlannedArray:
        """Book a matrix [m, n] on new tiles; of the weight only its shape counts, and scale and stuck cells do not.

        Raises:
            ConfigError: the name is taken, or the weight is no matrix.
            MappingError: the weight cannot be placed.
        """
        if name in self.arrays:
            raise ConfigError(f"program: the array {name!r} exists; use .reprogram, or another name")
        shape = tuple(weight.shape)
        if len(shape) != 2:
            raise ConfigError(f"weight: array {name!r} needs a matrix [out, in] (got shape {shape})")
        array = PlannedArray(self, Site(self, layer or name, matrix), name, self._place(shape))
        reused = self.reused and self.ledger.phase != "deploy"  # what stays for all tasks takes fresh cells
        array.write(Write("again" if reused or name in self._retired else "first"))
        array.ranges = ranges
        self._retired.pop(name, None)
        self.arrays[name] = array
        return array

    def calibrate(
        self,
        model: Any,
        batches: Iterable[Mapping[str, Any]],
        *,
        arrays: Iterable[ProgrammedArray] | None = None,
        **percentiles: Any,
    ) -> None:
        """Book what Chip.calibrate books: the batches' reads and the probes of transposed reads, in phase `calibrate`.

        Raises:
            CalibrationError: an array saw no input; no range was set then.
            ConfigError: a batch is no mapping.
        """
        if self.exact:
            return
        chosen = [a for a in self.arrays.values() if a.ranges is None] if arrays is None else list(arrays)
        recorders = [Recorder() for _ in chosen]
        with self.ledger.scope(phase="calibrate"):
            try:
                for array, recorder in zip(chosen, recorders, strict=True):
                    array.recorder = recorder
                run_batches(model, batches)
            finally:
                for array in chosen:
                    array.recorder = None
            if not all(recorder.seen for recorder in recorders):
                raise CalibrationError(
                    "calibrate: an array saw no input; the batches must run through every array"
                )
            for array in chosen:
                array.ranges = CALIBRATED
                if self.backward == "transposed" and not array.gated and isinstance(array, PlannedArray):
                    array.probe()

    @contextmanager
    def repeated(self, times: int) -> Iterator[None]:
        """What is booked inside counts `times` times: it would be the same every time."""
        outer, inner, around = self.ledger, Ledger(self.ledger.task, self.ledger.phase), self._outer
        self.ledger, self._outer = inner, around or outer
        try:
            yield
        finally:
            self.ledger, self._outer = outer, around
        outer.add(inner, times)

    @contextmanager
    def once(self) -> Iterator[None]:
        """What is booked inside counts once, whatever is being repeated: only the first time would need it."""
        inner, outer = self.ledger, self._outer or self.ledger
        with outer.scope(task=inner.task, phase=inner.phase):
            self.ledger = outer
            try:
                yield
            finally:
                self.ledger = inner


def _report(booked: Mapping[str, int], slots: Mapping[str, int], joules: Mapping[str, float]) -> Programmed:
    """The report of a planned write: counts, energies and slots, and no cells."""
    of_cells = np.empty(0)
    return Programmed(
        written=of_cells,
        settled=of_cells.astype(np.float32),
        pulses=of_cells.astype(np.float32),
        accepted=of_cells.astype(np.bool_),
        set_pulses=booked.get("set_pulse", 0),
        reset_pulses=booked.get("reset_pulse", 0),
        verify_reads=booked.get("verify_read", 0),
        unconverged=0,
        set_energy=joules.get("set_pulse", 0.0),
        reset_energy=joules.get("reset_pulse", 0.0),
        verify_energy=joules.get("verify_read", 0.0),
        set_slots=slots.get("set_pulse", 0),
        reset_slots=slots.get("reset_pulse", 0),
        read_slots=slots.get("verify_read", 0),
    )
