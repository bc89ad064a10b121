"""A matrix on the chip: the cells' state, and products with it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels import Kernels, host_name
from crossbar_kernels.philox import key
from crossbar_sim import checks, compensation, mapping, repair, spares, wires
from crossbar_sim.active import Active, active
from crossbar_sim.calibration import Recorder
from crossbar_sim.cells import Cells
from crossbar_sim.errors import ConfigError, MappingError
from crossbar_sim.flow import Rows, Vectors, through
from crossbar_sim.periphery import Ranges
from crossbar_sim.programming import Programmed, combined
from crossbar_sim.reading import Reader

if TYPE_CHECKING:
    from crossbar_sim.chip import Chip, Site

Array = NDArray[np.float64]


class ProgrammedArray:
    """A programmed matrix W [m, n]; y = W x. Made by Chip.program.

    The truth is G+ and G-, [tile, slice, sign, copy, rows, cols] in S, kept by `cells`: `conductance()` gives them as they
    are at the chip's present time. Products need converter ranges: `ranges`, set by Chip.calibrate.

    Attributes:
        cells: the state of the cells.
        order: column of each output of each tile, [tile, outputs]; differs from the straight order after a repair.
        report: what the last programming left and took.
        changes: how often something else than programming or time changed the products (a restored state, a compensation, a gate).
        active: which outputs and inputs take part in products (`gate`); None: all.
        room: how much larger than at calibration inputs, and the sums of full-scale inputs, are to become: (1, 1) unless the matrix trains.
    """

    def __init__(
        self,
        chip: Chip,
        site: Site,
        name: str,
        placement: mapping.Placement,
        scale: Array,
        *,
        stuck: Array | None = None,
    ) -> None:
        self._stand(chip, site, name, placement, scale)
        self.order = mapping.straight(placement)
        self.cells = Cells(
            mapping.used(placement, self.order),
            preset=chip.preset,
            key=self.key,
            kernels_name=host_name(chip.backend),
            now=chip.time,
            stuck=stuck,
        )
        self._tried = np.zeros((placement.tiles, placement.columns), bool)
        self._asked = self.cells.target

    def _stand(self, chip: Chip, site: Site, name: str, placement: mapping.Placement, scale: Array) -> None:
        """Everything but the cells: the address, how the array is read and what that remembers."""
        self.chip, self.site, self.name, self.placement, self.scale = chip, site, name, placement, scale
        self.key = key(chip.seed, name)
        self._forward, self._transposed = (Reader(self, transposed=t) for t in (False, True))
        self._compensation: float | Array = 1.0
        self.report: Programmed | None = None
        self.recorder: Recorder | None = None
        self.changes, self.room = 0, (1.0, 1.0)
        self.active: Active | None = None
        self._effective: tuple[tuple[Any, ...], Array] | None = None
        self._factors: tuple[Any, ...] | None = None
        checks.wiring(chip.preset.mapping, chip.preset.periphery, gated=self.gated)

    def __deepcopy__(self, memo: dict[int, Any]) -> ProgrammedArray:
        """A copied layer still sits on the same cells."""
        return self

    def __repr__(self) -> str:
        p = self.placement
        return (
            f"ProgrammedArray({self.name!r}, {p.outputs} x {p.inputs}, {p.arrays} tiles, {p.cells:,} cells)"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what can be computed again."""
        return {**self.__dict__, "_effective": None, "_factors": None}

    # -- programming -----------------------------------------------------------------------------------------

    def reprogram(
        self,
        weight: NDArray[np.floating[Any]],
        *,
        statistical: bool | None = None,
        changed_only: bool = False,
    ) -> Programmed:
        """Bring the cells to new weights [m, n]; cells already inside their window take no pulse.

        Args:
            weight: the new weights; |W_oi| <= scale_o.
            statistical: published statistics instead of the pulse loop; default: the chip's setting.
            changed_only: leave cells alone whose target stays the same, instead of verifying them too.

        Returns:
            pulses by polarity, verify reads, energies, times, unconverged cells.

        Raises:
            MappingError: wrong shape, values that are not finite, or a weight beyond its column scale. Nothing
                is changed then.
        """
        expected, weight = (self.placement.outputs, self.placement.inputs), np.asarray(weight)
        if weight.shape != expected:
            raise MappingError(f"weight: array {self.name!r} holds {expected}, got {weight.shape}")
        card = self.chip.preset
        target = mapping.target_conductance(
            weight.astype(np.float64), self.scale, self.placement, card.device, card.mapping, self.order
        )
        where = self.cells.used & (target != self._asked) if changed_only else None
        return self._bring_to(target, statistical, where)

    def refresh(self, *, statistical: bool | None = None) -> Programmed:
        """Bring drifted cells back to their targets; booked under phase `refresh`.

        Cells on the verify-fail list are left alone: they would take a whole train of pulses in vain.
        """
        with self.chip.ledger.scope(phase="refresh"):
            steady = self.cells.used & ~self.cells.unconverged
            return self._remedied(self._program(self.cells.target, statistical, steady), statistical)

    def _bring_to(
        self, target: Array, statistical: bool | None, where: NDArray[np.bool_] | None = None
    ) -> Programmed:
        done = self._program(target, statistical, where)
        if spares.free(self).any() and self.cells.unconverged.any():
            target, tried = spares.tried(self, target, statistical)
            done = combined(done, tried)
        self._asked = target
        return self._remedied(done, statistical)

    def _remedied(self, done: Programmed, statistical: bool | None) -> Programmed:
        """Ask the partners of failed cells for what the remedy wants of them; the report of all of it."""
        failed, card = self.cells.unconverged, self.chip.preset
        if card.mapping.remedy != "none":
            wanted = repair.partner_targets(
                failed, self._present(), self._asked, device=card.device, remedy=card.mapping.remedy
            )
            new = self.cells.used & ~failed & (wanted != self.cells.target)
            if new.any():
                done = combined(done, self._program(wanted, statistical, new))
        self.report = replace(
            done,
            written=self.cells.written,
            accepted=self.cells.used & ~self.cells.unconverged,
            unconverged=self.unconverged,
        )
        return self.report

    def _program(
        self, target: Array, statistical: bool | None, where: NDArray[np.bool_] | None = None
    ) -> Programmed:
        self.compensation = 1.0  # it was measured on what the cells held before
        use_statistics = self.chip.statistical if statistical is None else statistical
        done = self.cells.program(target, now=self.chip.time, statistical=use_statistics, where=where)
        physics = self.site.book_physics
        at_once = self.chip.preset.writes_at_once
        if not at_once:
            physics("set_pulse", done.set_pulses, done.set_energy, row_slots=done.set_slots)
            physics("reset_pulse", done.reset_pulses, done.reset_energy, row_slots=done.reset_slots)
        if done.verify_reads:
            physics("verify_read", done.verify_reads, done.verify_energy, row_slots=done.read_slots)
            self.site.book({"adc_conversion": done.verify_reads})
        chosen = self.cells.used if where is None else self.cells.used & where
        self.site.book({"cell_write": int((chosen if at_once else done.pulses > 0).sum())})
        return done

    def _present(self) -> Array:
        """The cells' own conductances, whatever noise-aware training shows."""
        return self.cells.conductance(self.chip.time)

    def restore(self, asked: Array) -> None:
        """Go on from a saved state: the caller has given back the cells, `order`, scale, ranges and compensation.

        Args:
            asked: the conductances asked for, S.
        """
        self._asked = asked
        self.changes += 1

    def gate(self, *, outputs: Any = None, inputs: Any = None) -> None:
        """Say which outputs [m] and inputs [n] take part in products from now on (truth values; None: all of them).

        Results that are off are exactly 0, inputs that are off count as 0; neither is driven, sampled, converted or booked, and their cells
        carry no current and give no noise. What the cells hold does not change, and programming does not ask.

        Raises:
            ConfigError: a mask does not fit.
        """
        self.active = active(self.placement, outputs, inputs)
        self.changes += 1

    def kept(self, weights: Array) -> Array:
        """Weights [m, n] with zeros where `gate` has switched an output or an input off."""
        return weights if self.active is None else self.active.weights(weights)

    def connected(self, cells: Array) -> Array:
        """Conductances with zeros, open cells, where `gate` has switched a line off."""
        return cells if self.active is None else self.active.cells(cells, self.placement, self.order)

    # -- state -----------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """How often the cells were programmed."""
        return self.cells.version

    @property
    def wear(self) -> NDArray[np.float32]:
        """Pulses that each cell has taken; two make an endurance cycle."""
        return self.cells.wear

    @property
    def unconverged(self) -> int:
        """Cells outside their window after the last programming."""
        return int(self.cells.unconverged.sum())

    @property
    def moment(self) -> tuple[Any, ...]:
        """What products depend on: the state of the cells, the chip's time and settings, a redraw's event."""
        chip = self.chip
        return (self.version, self.changes, chip.time, self._redraw, chip.ir_drop, chip.grid)

    @property
    def gated(self) -> bool:
        """Whether columns are read as gated ladders, which are no fixed matrix (crossbar_sim.gated)."""
        card = self.chip.preset
        return self.chip.ir_drop and card.wires.present and card.wires.ladder == "gated"

    @property
    def _redraw(self) -> int | None:
        return self.chip.event if self.chip.redraw_programming else None

    @property
    def ranges(self) -> Ranges | None:
        """Full scales of the converters; None until they are calibrated or given."""
        return self._forward.ranges

    @ranges.setter
    def ranges(self, ranges: Ranges | None) -> None:
        self._forward.ranges = ranges

    @property
    def backward_ranges(self) -> Ranges | None:
        """Full scales of a transposed read's ADC; None until the first one."""
        return self._transposed.ranges

    @backward_ranges.setter
    def backward_ranges(self, ranges: Ranges | None) -> None:
        self._transposed.ranges = ranges

    @property
    def compensation(self) -> float | Array:
        """Factor(s) on the results against drift (Chip.compensate)."""
        return self._compensation

    @compensation.setter
    def compensation(self, factors: float | Array) -> None:
        self._compensation = factors
        self.changes += 1

    @property
    def readers(self) -> tuple[Reader, Reader]:
        """How the array is read, forward and transposed."""
        return self._forward, self._transposed

    def target_conductance(self) -> Array:
        """The conductances asked for, S."""
        return self._asked

    def conductance(self) -> Array:
        """G+ and G- at the chip's present time, S."""
        return self.cells.conductance(self.chip.time, redraw=self._redraw)

    def effective_conductance(self, cells: Array | None = None) -> Array:
        """What the ends of the wires see of the cells (IR drop), S.

        The conductance itself where wires are ideal, or gated (then no fixed matrix exists: crossbar_sim.gated).
        """
        card = self.chip.preset
        cells = self.conductance() if cells is None else cells
        if not (self.chip.ir_drop and card.wires.present) or self.gated:
            return cells
        if self._effective is None or self._effective[0] != self.moment:
            arrays = mapping.assemble(self.connected(cells), self.placement)
            seen = wires.effective(arrays, r_wl=card.wires.r_wl, r_bl=card.wires.r_bl)
            self._effective = (self.moment, mapping.disassemble(seen, self.placement))
        return self._effective[1]

    def read_weights(self) -> Array:
        """The weights [m, n] that the cells hold now, as the ends of the wires see them, read without noise."""
        return self._weights(self.effective_conductance())

    def present_weights(self) -> Array:
        """What a product without converters and noise multiplies with: `read_weights` times the drift compensation, 0 where `gate` says off."""
        return self.kept(np.reshape(self.compensation, (-1, 1)) * self.read_weights())

    def target_weights(self) -> Array:
        """The weights [m, n] that the target conductances stand for."""
        return self._weights(self._asked)

    def _weights(self, conductance: Array) -> Array:
        card = self.chip.preset
        d = mapping.weights(conductance, self.placement, card.device, card.mapping, self.order)
        return d * self.scale[:, None]

    # -- products --------------------------------------------------------------------------------------------

    def mvm(self, x: Any, *, size: Any = 1.0, dtype: Any = np.float64) -> NDArray[Any]:
        """X [..., n] -> W x [..., m] through DAC, cells and ADC; booked in the ledger.

        Vectors that the chip's current batch marks as padding are neither driven nor booked; their result is 0. A chip whose backend computes on a
        device takes that device's arrays too, CUDA tensors among them: the result lies there, and nothing waits for it. A vector of theirs with a
        value that is not finite gives NaN, as looking at the values would wait.

        Args:
            x: inputs.
            size: how much larger than at calibration x may be (the largest coefficient, for a B-stack); the DAC's
                range follows it by a power of two. An array of one number on a device is not looked at.
            dtype: float64 or float32, of the result; computed in float64.

        Raises:
            CalibrationError: the converters have no ranges yet (Chip.calibrate, or set `ranges`).
            MappingError: the vectors have another length than n, or values that are not finite.
        """
        shape = self.placement.outputs, self.placement.inputs
        return through(self, x, shape, lambda v, rows, k: self._forward_product(v, rows, k, size, dtype))

    def mvm_t(self, g: Any, *, dtype: Any = np.float64) -> NDArray[Any]:
        """G [..., m] -> W^T g [..., n] through the same cells, bit lines driven and word lines sensed; booked.

        With its own converters: signed codes per vector (Reader) and an ADC whose range comes from calibration. What
        drives the bit lines is g times the column scale. `dtype` as in `mvm`.

        Raises:
            ConfigError: gated columns cannot be read from their sum lines.
            MappingError: the vectors have another length than m, or values that are not finite.
        """
        if self.gated:
            raise ConfigError(
                "mvm_t: gated columns (Wires.ladder) have no transposed read; use backward 'nominal' or 'oracle'"
            )
        shape = self.placement.inputs, self.placement.outputs
        return through(self, g, shape, lambda v, rows, k: self._transposed_product(v, rows, k, dtype))

    @property
    def kernels(self) -> Kernels:
        """What products are computed with: the chip's, but the host's where no device can (gated columns) or needs to (plain products)."""
        chip = self.chip
        on_host = chip.exact or self.recorder is not None or self.gated
        return chip.host if on_host else chip.kernels

    def _columns(self, kernels: Kernels) -> Any:
        """The factor of each result, scale times compensation, where these kernels compute."""
        known, now = self._factors, (self.scale, self._compensation, kernels)
        if known is None or not (known[0] is now[0] and known[1] is now[1] and known[2] is kernels):
            known = self._factors = *now, kernels.asarray(self.scale * self._compensation)
        return known[3]

    def _forward_product(
        self, x: Vectors, rows: Rows, kernels: Kernels, size: Any, dtype: Any
    ) -> NDArray[Any]:
        if self.recorder is not None:
            self.book_reads(len(x))
            return self.recorder.product(x.astype(np.float64, copy=False), self, size).astype(dtype)
        if self.chip.exact:
            self.book_reads(len(x))
            return np.asarray(x.astype(np.float64, copy=False) @ self.present_weights().T, dtype)
        return self._forward.product(x, rows, kernels, size=size, columns=self._columns(kernels), dtype=dtype)

    def _transposed_product(self, g: Vectors, rows: Rows, kernels: Kernels, dtype: Any) -> NDArray[Any]:
        if self.chip.exact or self.recorder is not None:
            self._transposed.book(len(g))
            return np.asarray(g.astype(np.float64, copy=False) @ self.present_weights(), dtype)
        driven = kernels.decode(g, 1.0, self._columns(kernels), unit=1.0, dtype=np.float64)
        return self._transposed.product(driven, rows, kernels, dtype=dtype)

    def book_reads(self, vectors: int) -> None:
        """Book `vectors` products without the energy of their drives (an ideal chip's has none)."""
        self._forward.book(vectors)

    def compensate(self, kind: str) -> None:
        """Measure what drift has done to the results and correct it by digital factors (Chip.compensate)."""
        self.compensation = 1.0
        self.compensation = compensation.factors(self, kind)
