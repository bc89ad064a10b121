"""A matrix on the chip: the cells' state, and products with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels import AdcRange, NoiseStream
from crossbar_kernels.philox import Purpose, key
from crossbar_sim import cost, mapping, noise
from crossbar_sim import programming as program
from crossbar_sim.calibration import Recorder
from crossbar_sim.device import Relaxation
from crossbar_sim.errors import CalibrationError, MappingError
from crossbar_sim.ledger import ReadEnergy
from crossbar_sim.periphery import Ranges, adc_codes, dac_codes, power_of_two

if TYPE_CHECKING:
    from crossbar_sim.chip import Chip, Site

Array = NDArray[np.float64]
GRID = {"int15": 2**14 - 1, "int8": 127}
"""Largest integer of the conductance grid (two digits, 128 hi + lo, or one); `exact` has none."""
VARIANCE_STEPS = 2**14 - 1
"""Largest integer of the grid of read variances."""


@dataclass(frozen=True)
class _State:
    """What products need, for one version of the cells at one time."""

    prepared: Any
    weight_unit: float
    noise_scale: float
    row_conductance: Array


class ProgrammedArray:
    """A programmed matrix W [m, n]; y = W x. Made by Chip.program.

    The truth is G+ and G-, [tile, slice, sign, rows, cols] in S: `conductance()` gives them as they are at the chip's
    present time. `wear` counts pulses per cell. Products need converter ranges: `ranges`, set by Chip.calibrate.
    """

    def __init__(self, chip: Chip, site: Site, name: str, placement: mapping.Placement, scale: Array) -> None:
        self.chip, self.site, self.name = chip, site, name
        self.placement, self.scale = placement, scale
        self.key = key(chip.seed, name)
        self.ranges: Ranges | None = None
        self.version = 0
        self.unconverged = 0
        device = chip.preset.device
        self._used = mapping.used(placement)
        self._levels = np.zeros(placement.shape, np.uint8)
        self._written: Array = device.g_min * self._used.astype(np.float64)
        self._settled: NDArray[np.float32] = np.zeros(placement.shape, np.float32)
        self._z: NDArray[np.float32] = np.zeros(placement.shape, np.float32)
        self._written_at = np.array(chip.time)
        self.wear = np.zeros(placement.shape, np.float32)
        self._cached: tuple[tuple[int, float], _State] | None = None
        self.recorder: Recorder | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> ProgrammedArray:
        """A copied layer still sits on the same cells."""
        return self

    # -- programming -----------------------------------------------------------------------------------------

    def reprogram(self, weight: NDArray[np.floating[Any]], *, statistical: bool | None = None) -> None:
        """Bring the cells to new weights [m, n]; cells already inside their window take no pulse.

        Args:
            weight: the new weights; |W_oi| <= scale_o.
            statistical: published statistics instead of the pulse loop; default: the chip's setting.

        Raises:
            MappingError: wrong shape, values that are not finite, or a weight beyond its column scale. Nothing
                is changed then.
        """
        expected = (self.placement.outputs, self.placement.inputs)
        if weight.shape != expected:
            raise MappingError(f"weight: array {self.name!r} holds {expected}, got {weight.shape}")
        device = self.chip.preset.device
        target = mapping.target_conductance(weight.astype(np.float64), self.scale, self.placement, device)
        target = np.where(self._used, target, 0.0)
        if self.chip.preset.programming is None:
            self._written, touched = target, self._used
            self.site.book({"cell_write": self.placement.cells})
        else:
            touched = self._program(target, statistical)
        self._levels = mapping.levels_of(np.maximum(target, device.g_min), device)
        self._stamp(touched)
        self.version += 1

    def _program(self, target: Array, statistical: bool | None) -> NDArray[np.bool_]:
        """Run write-verify or its statistics, book it, and return which cells were pulsed."""
        chip = self.chip
        preset, kernels = chip.preset, chip.kernels
        assert preset.programming is not None  # the caller looked
        use_statistics = chip.statistical if statistical is None else statistical
        if use_statistics:
            z = self._normals(Purpose.PROGRAM)
            levels = (self._levels, mapping.levels_of(np.maximum(target, preset.device.g_min), preset.device))
            done = program.statistical(
                levels, self.conductance(), target, z, device=preset.device, programming=preset.programming
            )
        else:
            strength = program.strengths(self.placement.shape, preset.device, kernels, self.key)
            done = program.write_verify(
                self.conductance(),
                target,
                strength,
                preset.programming,
                kernels=kernels,
                key=self.key,
                event=self.version,
            )
        touched: NDArray[np.bool_] = done.pulses > 0
        self._written = np.where(touched, done.written, self._written)
        self._settled = np.where(touched, done.settled, self._settled)
        self.wear += done.pulses
        self.unconverged = done.unconverged
        self._book_programming(done, int(touched.sum()))
        return touched

    def _book_programming(self, done: program.Programmed, cells: int) -> None:
        book = self.site.book_physics
        reads = done.set_pulses + done.reset_pulses + 2 * self.placement.cells
        book("set_pulse", done.set_pulses, done.set_energy)
        book("reset_pulse", done.reset_pulses, done.reset_energy)
        book("verify_read", reads, done.verify_energy)
        self.site.book({"cell_write": cells})
        codes = {"adc_conversion": reads}
        self.site.book(codes)

    def _stamp(self, touched: NDArray[np.bool_]) -> None:
        """Pulsed cells get a new deviation and the present time; the others keep theirs."""
        self._z = np.where(touched, self._normals(Purpose.RELAX), self._z)
        now = self.chip.time
        if self.version == 0:
            self._z = np.where(self._used, self._normals(Purpose.RELAX), 0)
            self._written_at = np.array(now)
        elif not (self._written_at.ndim == 0 and float(self._written_at) == now):
            self._written_at = np.where(touched, now, self._written_at)

    def _normals(self, purpose: Purpose) -> NDArray[np.float32]:
        return program.cell_normals(
            self.placement.shape, purpose, self.chip.kernels, self.key, event=self.version
        )

    # -- state -----------------------------------------------------------------------------------------------

    def target_conductance(self) -> Array:
        """The conductances asked for, S."""
        device = self.chip.preset.device
        if not device.levels:
            return self._written
        return np.where(self._used, device.g_min + device.span * (self._levels / (device.levels - 1)), 0.0)

    def conductance(self) -> Array:
        """G+ and G- at the chip's present time, S."""
        law = self.chip.preset.relaxation
        if not law.times or self.version == 0:
            return self._written
        total, mean = np.zeros((2, *self.placement.shape))
        for moment in np.unique(self._written_at):
            age = self.chip.time - float(moment) + 1.0
            written_then = self._written_at == moment
            for out, statistic in ((total, noise.total_sigma), (mean, noise.mean_shift)):
                np.copyto(out, self._at_targets(statistic, age), where=written_then)
        return noise.relaxed(self._written, self._z, self._settled, total, mean) * self._used

    def _at_targets(self, statistic: Callable[[Array, float, Relaxation], Array], age: float) -> Array:
        """A statistic of relaxation for every cell; evaluated once per level where there are levels."""
        device, law = self.chip.preset.device, self.chip.preset.relaxation
        if not device.levels:
            return statistic(self.target_conductance(), age, law)
        ladder = device.g_min + device.span * (np.arange(device.levels) / (device.levels - 1))
        return statistic(ladder, age, law)[self._levels]

    def read_weights(self) -> Array:
        """The weights [m, n] that the cells hold now, read without noise."""
        return self._weights(self.conductance())

    def target_weights(self) -> Array:
        """The weights [m, n] that the target conductances stand for."""
        return self._weights(self.target_conductance())

    def _weights(self, conductance: Array) -> Array:
        pair = (conductance[:, 0, 0] - conductance[:, 0, 1]) / self.chip.preset.device.span
        matrix: Array = mapping.from_cells(pair, self.placement)
        return matrix * self.scale[:, None]

    def _state(self) -> _State:
        moment = (self.version, self.chip.time)
        if self._cached is None or self._cached[0] != moment:
            self._cached = (moment, self._prepare())
        return self._cached[1]

    def _prepare(self) -> _State:
        """Put the present conductances and read variances on the chip's grid and hand them to the kernels."""
        chip, device = self.chip, self.chip.preset.device
        g = self.conductance()
        pair = mapping.by_row_tile((g[:, 0, 0] - g[:, 0, 1]) / device.span, self.placement)
        total = mapping.by_row_tile(g[:, 0, 0] + g[:, 0, 1], self.placement)
        rows = total.sum(2).reshape(-1)[: self.placement.inputs]
        variance = self._variance(g)
        steps = GRID.get(chip.grid)
        if steps is None:
            return _State(chip.kernels.prepare(pair, variance), 1.0, float(variance is not None), rows)
        unit = float(np.abs(pair).max()) / steps or 1.0
        grid = np.rint(pair / unit).astype(np.int16)
        if variance is None:
            return _State(chip.kernels.prepare(grid, None), unit, 0.0, rows)
        variance_unit = float(variance.max()) / VARIANCE_STEPS
        variance_grid = np.rint(variance / variance_unit).astype(np.int16)
        return _State(
            chip.kernels.prepare(grid, variance_grid), unit, float(np.sqrt(variance_unit)) / unit, rows
        )

    def _variance(self, g: Array) -> Array | None:
        """Variance of one read of each pair in units of span^2, [row tile, rows, m]; None without read noise."""
        law = self.chip.preset.read_noise
        if not law.present:
            return None
        age = self.chip.time - self._written_at + 1.0
        squared = (noise.read_sigma(g, age, law) / self.chip.preset.device.span * self._used) ** 2
        return mapping.by_row_tile(squared[:, 0, 0] + squared[:, 0, 1], self.placement)

    # -- products --------------------------------------------------------------------------------------------

    def mvm(self, x: NDArray[np.floating[Any]], *, size: float = 1.0) -> Array:
        """X [..., n] -> W x [..., m] through DAC, cells and ADC; booked in the ledger.

        Vectors that the chip's current batch marks as padding are neither driven nor booked; their result is 0.

        Args:
            x: inputs.
            size: how much larger than at calibration x may be (the largest coefficient, for a B-stack); the DAC's
                range follows it by a power of two.

        Raises:
            CalibrationError: the converters have no ranges yet (Chip.calibrate, or set `ranges`).
        """
        lead = x.shape[:-1]
        flat = x.reshape(-1, self.placement.inputs)
        valid, rows = self.chip.samples(lead)
        if valid is not None:
            flat = flat[valid]
        y = self._products(flat.astype(np.float64), rows, size)
        if valid is not None:
            full = np.zeros((valid.size, self.placement.outputs))
            full[valid] = y
            y = full
        return y.reshape(*lead, self.placement.outputs)

    def _products(self, x: Array, rows: NDArray[np.uint32], size: float) -> Array:
        if self.chip.exact or self.recorder is not None:
            self.book_reads(len(x), None)
            if self.recorder is not None:
                return self.recorder.product(x, self, size)
            return np.asarray(x @ self.read_weights().T)
        state, converters = self._state(), self.chip.preset.periphery
        full_scale, inputs, k = self._drive(x, size)
        padded = np.zeros((len(x), self.placement.row_tiles * self.placement.rows_per_tile), inputs.dtype)
        padded[:, : self.placement.inputs] = inputs
        per_step = k / state.weight_unit
        y = self.chip.kernels.mvm(
            padded, state.prepared, adc=self._adc(per_step), noise=self._noise(state, rows)
        )
        squares = (inputs.astype(np.int64) ** 2).sum(0) if converters.dac_bits else None
        self.book_reads(len(x), squares)
        return np.asarray(y * (full_scale / per_step) * self.scale)

    def _drive(self, x: Array, size: float) -> tuple[float, NDArray[Any], float]:
        """Full scale of the input, what drives the word lines, and the largest code K."""
        converters = self.chip.preset.periphery
        if self.ranges is None:
            raise CalibrationError(
                f"array {self.name!r}: its converters have no ranges; call chip.calibrate(model, batches) or set .ranges"
            )
        full_scale = self.ranges.dac * power_of_two(size)
        if not converters.dac_bits:
            return full_scale, x / full_scale, 1.0
        k = converters.dac_scale
        return full_scale, dac_codes(x, full_scale, k), float(k)

    def _adc(self, per_step: float) -> AdcRange | None:
        bits = self.chip.preset.periphery.adc_bits
        if not bits or self.ranges is None:
            return None
        return AdcRange(*adc_codes(self.ranges.adc_low * per_step, self.ranges.adc_high * per_step, bits))

    def _noise(self, state: _State, rows: NDArray[np.uint32]) -> NoiseStream | None:
        if state.noise_scale == 0.0:
            return None
        return NoiseStream(state.noise_scale, rows, self.key, Purpose.READ, self.chip.event)

    def book_reads(self, vectors: int, squares: NDArray[np.int64] | None) -> None:
        """Book `vectors` products; `squares`: sum of squared DAC codes per word line."""
        converters = self.chip.preset.periphery
        read = cost.forward(self.placement, converters, vectors)
        self.site.book(read.counts, slots=read.slots)
        if squares is not None:
            self.book_drive(squares)

    def book_drive(self, squares: NDArray[np.int64]) -> None:
        """Book the energy of driven word lines; `squares`: sum of squared DAC codes per word line."""
        converters = self.chip.preset.periphery
        k = converters.dac_scale
        unit = (converters.read_voltage / k) ** 2 * converters.read_width
        energy = ReadEnergy(squares, self._state().row_conductance, unit)
        self.site.book_read((self.name, self.version, self.chip.time), squares, energy)
