"""Reading an array in one direction: from vectors to codes, through cells and converters, and into the ledger."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels import Kernels
from crossbar_kernels.philox import Purpose, stream
from crossbar_sim import cost, gated, mapping, wires
from crossbar_sim.active import Zeros
from crossbar_sim.circuit import Periphery
from crossbar_sim.errors import CalibrationError
from crossbar_sim.gated import Ladders
from crossbar_sim.ledger import Entry, ReadEnergy
from crossbar_sim.periphery import Ranges, dac_codes, planes, zero_centred
from crossbar_sim.product import (
    Conversion,
    Errors,
    Matrices,
    Operand,
    Reading,
    accumulated,
    analog_sums,
    conversions,
    multiply,
    operand,
)

if TYPE_CHECKING:
    from crossbar_sim.array import ProgrammedArray

Array = NDArray[np.float64]
PROBES = 64
"""Normal vectors from which the ADC of a transposed read gets its range."""
PROBE_EVENT = 2**32 - 1
ADC_ERRORS = {False: (31, 30), True: (29, 28)}
"""Planes of Purpose.D2D for the offset and the gain of forward and of transposed ADCs."""


class Reader:
    """One direction of an array: word lines driven and bit lines sensed, or the reverse (`transposed`).

    A vector's DAC range is `ranges.dac` (static, times a power of two for a B-stack), the vector's own max|x| (`per_vector_absmax`), or, transposed,
    the smallest power of two above the vector's max|g|: gradients shrink by orders of magnitude while a task is learnt, and a range per
    vector, unlike one per batch, does not depend on how a batch is split.

    A product is computed where the array's kernels compute, a device perhaps; ranges are found on the host.
    """

    def __init__(self, array: ProgrammedArray, *, transposed: bool) -> None:
        self.array, self.transposed = array, transposed
        self.ranges: Ranges | None = None
        self._zeros = Zeros(), Zeros()
        self._held: tuple[tuple[Any, ...], Operand] | None = None
        self._converting: tuple[Operand, Ranges, tuple[tuple[Conversion, ...], ...]] | None = None
        self._entries: tuple[tuple[Any, ...], tuple[Entry, ...]] | None = None
        self._account: tuple[dict[Any, ReadEnergy], str, str, Operand, ReadEnergy] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what can be computed again."""
        return {**self.__dict__, "_held": None, "_converting": None, "_entries": None, "_account": None}

    @cached_property
    def converters(self) -> Periphery:
        """The converters of this direction; gradients are signed whatever the inputs are, on codes of as many bits (2 at least)."""
        own = self.array.chip.preset.periphery
        if own.signed or not (self.transposed and own.dac_bits):
            return own
        bits = max(own.dac_bits, 2)
        return replace(own, signed=True, dac_bits=bits, plane_bits=min(own.plane_bits, bits - 1))

    @property
    def inputs(self) -> int:
        """Length of a vector."""
        p = self.array.placement
        return p.outputs if self.transposed else p.inputs

    # -- the matrix ------------------------------------------------------------------------------------------

    @property
    def operand(self) -> Operand:
        """The matrix as the kernels take it, for the present state of the cells."""
        now = self.array.moment
        if self._held is None or self._held[0] != now:
            chip, matrices = self.array.chip, self.matrices()
            kernels = chip.host if self.array.gated else chip.kernels
            base = kernels.asarray(self.array.placement.tile_column) if self._unit_columns else None
            if self.array.gated:
                ladders = self._ladders(matrices)
                noisy = float(matrices.variance is not None)
                held = Operand(ladders, 1.0, noisy, *matrices[2:], base)
            else:
                held = operand(matrices, chip.grid, kernels, base)
            self._held = (now, held)
        return self._held[1]

    def _ladders(self, matrices: Matrices) -> tuple[tuple[Ladders, ...], ...]:
        """The columns as ladders, [slice][sign]: the cells of a result that are added before conversion belong together."""
        chip, p = self.array.chip, self.array.placement
        g, card = self.array.conductance(), chip.preset
        joined = p.signs == 2 and self._analog
        columns = [
            [self._laid_out(g[:, :, sign : sign + 1, copy])[:, 0] for copy in range(p.copies)]
            for sign in range(p.signs)
        ]  # [sign][copy] of [slice, tile, rows, columns]
        share = 1.0 / (card.device.span * p.copies)

        def ladders(s: int, sign: int) -> Ladders:
            chosen = range(p.signs) if joined else [sign]
            parts = tuple((-share if k and joined else share, copy[s]) for k in chosen for copy in columns[k])
            variance = None if matrices.variance is None else matrices.variance[s, sign]
            return Ladders(parts, variance, card.wires.r_bl)

        return tuple(tuple(ladders(s, k) for k in range(matrices.weights.shape[1])) for s in range(p.slices))

    def matrices(self) -> Matrices:
        """The cells as this direction sees them, in units of the span."""
        array, span = self.array, self.array.chip.preset.device.span
        cells = array.conductance()
        seen = array.effective_conductance(cells)
        code = mapping.code(array.chip.preset.mapping, array.chip.preset.device)
        weights = self._arranged(seen.mean(axis=3) / span, signed=True)
        variance = self._variance(cells, seen)
        offset = 0.0
        if weights.shape[1] == 1 and array.placement.signs == 1 and not self._unit_columns:
            leak = array.chip.preset.device.g_min / span
            offset = code.offset + leak * float(np.sum(code.coefficients))
        return Matrices(weights, variance, code.coefficients, offset, self._lines(array.connected(cells)))

    def _variance(self, cells: Array, seen: Array) -> Array | None:
        """Variance of one read of each weight; the mean of k cells has 1/k of a cell's."""
        array = self.array
        if not array.chip.preset.read_noise.present:
            return None
        sigma = array.cells.read_sigma(array.chip.time, conductance=cells) / array.chip.preset.device.span
        variance = sigma**2
        if seen is not cells:
            variance = wires.read_variance(cells, seen, variance)
        copies = array.placement.copies
        return self._arranged(variance.sum(axis=3) / copies**2, signed=False)

    @property
    def _analog(self) -> bool:
        """Whether the currents of a pair are subtracted before conversion."""
        pair = self.array.placement.pair
        on_line = pair == ("columns" if self.transposed else "rows")
        return on_line or self.converters.subtract == "analog"

    @property
    def _unit_columns(self) -> bool:
        """Whether unit columns are read; bit lines that are driven leave them out."""
        return self.array.placement.unit and not self.transposed

    def _arranged(self, cells: Array, *, signed: bool) -> Array:
        """[tile, slice, sign, rows, columns] -> [slice, sign, tile, rows, columns], pairs joined where currents are."""
        if self.array.placement.signs == 2 and self._analog:
            plus, minus = cells[:, :, :1], cells[:, :, 1:]
            cells = plus - minus if signed else plus + minus
        return self._laid_out(cells)

    def _laid_out(self, cells: Array) -> Array:
        """[tile, slice, sign, rows, columns] -> [slice, sign, tile, rows, columns] of this direction."""
        p = self.array.placement
        held = np.moveaxis(mapping.outputs_of(cells, p, self.array.order), 0, 2)
        if self.transposed:
            return mapping.by_col_tile(held, p)
        ordinary = mapping.by_row_tile(held, p)
        if not self._unit_columns:
            return ordinary
        unit = np.moveaxis(cells[..., p.cols_per_tile], 0, 2)  # [slice, sign, tile, rows]
        unit = unit.reshape(*unit.shape[:2], p.row_tiles, p.col_tiles, p.rows_per_tile)
        return np.concatenate((ordinary, np.swapaxes(unit, -1, -2)), axis=-1)

    def _lines(self, cells: Array) -> Array:
        """Conductance of all cells on each driven line, S."""
        p = self.array.placement
        if self.transposed:
            outputs = mapping.outputs_of(cells, p, self.array.order).sum((1, 2, 3, 4))
            return np.asarray(outputs.reshape(p.row_tiles, -1).sum(0)[: p.outputs])
        rows = cells.sum((1, 2, 3, 5)).reshape(p.row_tiles, p.col_tiles, p.rows_per_tile).sum(1)
        return np.asarray(rows.reshape(-1)[: p.inputs])

    # -- products --------------------------------------------------------------------------------------------

    def product(
        self,
        x: NDArray[np.floating[Any]],
        rows: NDArray[np.uint32],
        kernels: Kernels,
        *,
        size: Any = 1.0,
        columns: float | Array = 1.0,
        dtype: Any = np.float64,
    ) -> NDArray[np.floating[Any]]:
        """X [vectors, inputs] times the normalised matrix D, through the converters, times a factor per result (`columns`); booked.

        Computed by `kernels`, those of the array, in their arrays; others are brought there.

        Raises:
            CalibrationError: the ADC or a static DAC has no range yet.
        """
        held, active = self.operand, self.array.active
        if active is not None:
            x = self._zeros[0].where_off(x, active.driven(transposed=self.transposed), kernels)
        full_scale, codes, digits = self.drive(x, size, kernels)
        purpose = Purpose.BACKWARD_READ if self.transposed else Purpose.READ
        y = multiply(
            held,
            accumulated(codes, digits, self.converters, kernels, noisy=held.noise_scale > 0),
            self._conversions(held, kernels),
            reading=Reading(rows, self.array.key, purpose, self.array.chip.event),
            arithmetic=gated if self.array.gated else kernels,
            kernels=kernels,
        )
        self.book(len(x))
        self._book_digits(digits, kernels)
        unit = held.unit / (self.converters.dac_scale or 1)
        y = kernels.decode(y, full_scale, columns, unit=unit, dtype=dtype, base=held.base)
        if active is not None:
            y = self._zeros[1].where_off(y, active.sensed(transposed=self.transposed), kernels)
        return y  # type: ignore[no-any-return]

    def _conversions(self, held: Operand, kernels: Kernels) -> tuple[tuple[Conversion, ...], ...]:
        """The converters of a matrix, for the present ranges."""
        ranges, known = self.needed_ranges(), self._converting
        if known is None or known[0] is not held or known[1] is not ranges:
            found = conversions(held, self.converters, ranges, self._adc_errors(), kernels)
            known = self._converting = (held, ranges, found)
        return known[2]

    def needed_ranges(self) -> Ranges:
        """The ranges; those of a transposed read are found when they are first needed.

        Raises:
            CalibrationError: there are none.
        """
        if self.ranges is None and self.transposed:
            with self.array.chip.ledger.scope(phase="calibrate"):
                self.ranges = self.ranges_from(self._probes(), dac=100.0, adc=99.99)
                host = self.array.chip.host
                self.book(PROBES)
                self._book_digits(self.drive(self._probes(), 1.0, host)[2], host)
        if self.ranges is None:
            raise CalibrationError(
                f"array {self.array.name!r}: its converters have no ranges; call chip.calibrate(model, batches) or set .ranges"
            )
        return self.ranges

    def drive(
        self, x: NDArray[np.floating[Any]], size: Any, kernels: Kernels, *, static: float | None = None
    ) -> tuple[float | Array, NDArray[Any], NDArray[Any]]:
        """Full scale of the input, one number or one per vector [v, 1], codes and the planes that drive the lines.

        Codes are padded to whole tiles with zeros, [v, tiles * lines of a tile], planes [planes, v, tiles * lines]. `static`: the static full scale,
        where it is not that of `ranges`.
        """
        converters, fixed = self.converters, None
        if not (self.transposed or converters.scaling == "per_vector_absmax"):
            fixed = self.needed_ranges().dac if static is None else static
        full_scale = kernels.full_scales(x, fixed=fixed, size=size, binary=self.transposed)
        if not converters.dac_bits:
            padded = kernels.normalise(x, full_scale, width=self._width)
            return full_scale, padded, padded[None]
        codes = dac_codes(x, full_scale, converters, kernels, width=self._width)
        return full_scale, codes, planes(codes, converters, kernels)

    @cached_property
    def _width(self) -> int:
        """Lines of all tiles in the driven direction."""
        p = self.array.placement
        return p.col_tiles * p.cols_per_tile if self.transposed else p.row_tiles * p.rows_per_tile

    def _adc_errors(self) -> Errors | None:
        """Offset (codes) and gain of the ADC of every tile and column; a property of the silicon, drawn once for all time."""
        c, p, array = self.converters, self.array.placement, self.array
        if not (c.adc_offset or c.adc_gain):
            return None
        tiles, per_tile = (
            (p.col_tiles, p.rows_per_tile) if self.transposed else (p.row_tiles, p.cols_per_tile)
        )
        columns = p.inputs if self.transposed else p.outputs
        index = np.arange(columns)
        converters = -(-(per_tile + self._unit_columns) // c.columns_per_adc)  # of one tile
        shared = (index // per_tile) * converters + (index % per_tile) // c.columns_per_adc
        if self._unit_columns:  # the column after a tile's outputs
            unit = np.arange(p.col_tiles) * converters + per_tile // c.columns_per_adc
            shared = np.append(shared, unit)
        offset, gain = (
            array.chip.host.normals(
                np.arange(tiles, dtype=np.uint32),
                int(shared.max()) + 1,
                key=array.key,
                stream=stream(Purpose.D2D, plane=plane),
                event=0,
            )[:, shared].astype(np.float64)
            for plane in ADC_ERRORS[self.transposed]
        )
        return Errors(c.adc_offset * offset, c.adc_gain * gain)

    # -- ranges ----------------------------------------------------------------------------------------------

    def ranges_from(self, vectors: Array, *, dac: float, adc: float) -> Ranges:
        """Ranges for vectors [v, inputs]: the `dac` percentile of |x|; of the analog sums the `adc` percentile on both sides.

        0 is a code of every ADC. The card's `adc_range` "max" takes what full-scale inputs on full-scale cells could give instead.
        """
        converters = self.converters
        full = float(np.percentile(np.abs(vectors), dac)) or 1.0
        host = self.array.chip.host
        _, codes, digits = self.drive(vectors, 1.0, host, static=full)
        matrices = self.matrices()
        slices, signs, tiles, rows, _ = matrices.weights.shape
        bits = converters.adc_bits or 16
        if converters.adc_range == "max":
            top = float(rows * np.abs(matrices.weights).max())
            both = converters.signed or (self.array.placement.signs == 2 and signs == 1)
            return Ranges(full, *zero_centred(-top if both else 0.0, top, bits))
        seen = accumulated(codes, digits, converters, host)
        sums = np.stack([part for _, _, part in analog_sums(matrices, seen, converters)])
        axes = {"array": (0, 1, 2, 3), "slice": (1, 2, 3), "tile": (0, 1, 3), "column": (0, 1, 2)}
        low, high = np.percentile(sums, [100 - adc, adc], axis=axes[converters.adc_scope])
        if converters.adc_scope == "array":
            return Ranges(full, *zero_centred(float(low), float(high), bits))
        shapes = {"slice": (slices, signs, 1, 1), "tile": (1, 1, tiles, 1), "column": (1, 1, 1, -1)}
        ends = np.array([zero_centred(float(a), float(b), bits) for a, b in zip(low, high, strict=True)])
        return Ranges(full, *(end.reshape(shapes[converters.adc_scope]) for end in ends.T))

    def _probes(self) -> Array:
        """Normal vectors: the range of a transposed read without any gradient having been seen."""
        word = stream(Purpose.BACKWARD_READ)
        rows = np.arange(PROBES, dtype=np.uint32)
        host = self.array.chip.host
        return host.normals(rows, self.inputs, key=self.array.key, stream=word, event=PROBE_EVENT).astype(
            np.float64
        )

    # -- the ledger ------------------------------------------------------------------------------------------

    def squares_of(self, vectors: Array) -> NDArray[np.int64] | None:
        """Sum of squared digits per driven line of vectors; None without a DAC."""
        if not self.converters.dac_bits:
            return None
        host = self.array.chip.host
        return host.sum_squares(self.drive(vectors, 1.0, host)[2])[: self.inputs]

    def book(self, vectors: int) -> None:
        """Book reads of `vectors` vectors, without the energy of driven lines."""
        array = self.array
        array.chip.ledger.book_times(self._per_vector(), vectors)
        if not self.converters.dac_bits and array.chip.preset.prices is not None:  # voltages are unknown
            array.site.book_physics("array_read", 0, float("nan"))

    def _per_vector(self) -> tuple[Entry, ...]:
        """What one vector books under the present scope."""
        site, ledger, active = self.array.site, self.array.chip.ledger, self.array.active
        scope = (site, ledger.task, ledger.phase, active)
        if self._entries is None or self._entries[0] != scope:
            place, converters = self.array.placement, self.converters
            read = cost.read(place, converters, 1, transposed=self.transposed, active=active)
            self._entries = (scope, site.entries(read.counts, slots=read.slots))
        return self._entries[1]

    def _book_digits(self, digits: NDArray[Any], kernels: Kernels) -> None:
        """Book the energy of lines that these planes drove."""
        if self.converters.dac_bits:
            self._energy().add(digits, kernels)

    def book_drive(self, squares: NDArray[np.int64]) -> None:
        """Book the energy of driven lines, from the sum of squared digits of each."""
        self._energy().squares += squares

    def _energy(self) -> ReadEnergy:
        """The account of driven lines: squared digits times the line's conductance times (V/digit)^2 t."""
        array, c, held, known = self.array, self.converters, self.operand, self._account
        ledger = array.chip.ledger
        fits = known is not None and known[0] is ledger.reads and known[3] is held
        if known is None or not fits or known[1:3] != (ledger.task, ledger.phase):
            largest = 2**c.plane_bits - 1 if c.plane_bits else c.dac_scale
            unit = (c.read_voltage / largest) ** 2 * c.read_width
            name = f"{array.name}.T" if self.transposed else array.name
            entry = array.site.reads((name, held.digest), held.lines, unit)
            known = self._account = ledger.reads, ledger.task, ledger.phase, held, entry
        return known[4]
