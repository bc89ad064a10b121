"""The chip: the only maker of arrays, with its own clock, seed and ledger."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import ceil, isfinite, prod
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels import Kernels, get_kernels, host_name
from crossbar_sim import calibration, compensation, mapping
from crossbar_sim.array import ProgrammedArray
from crossbar_sim.checks import weights_of
from crossbar_sim.cost import Counts, precision
from crossbar_sim.errors import ConfigError, nearest
from crossbar_sim.ledger import Entry, Ledger, ReadEnergy, State
from crossbar_sim.periphery import Ranges
from crossbar_sim.presets import Preset, as_card
from crossbar_sim.product import GRID

GRIDS = ("exact", *GRID)
BACKWARD_MODES = ("transposed", "nominal", "oracle")
SEEDS = 2**32
"""Chips that differ by their seed: it is one word of the random numbers' keys."""
KEPT_SAMPLES = 16
"""Shapes of inputs, batches and places whose row numbers are kept."""
ROW_STRIDE = 4096
"""Sample rows are sample * ROW_STRIDE + position, so a text's noise does not depend on its neighbours; the stride of an
image with more positions is their number."""


@dataclass(frozen=True)
class Site:
    """A matrix's address in the ledger: chip, layer, matrix (crossbar_sim.ledger.MATRICES)."""

    chip: Chip
    layer: str
    matrix: str

    def book(self, counts: Counts) -> None:
        """Book counts by action; digital and converter actions carry their precision."""
        for key, count, _ in self.entries(counts, slots={}):
            self.chip.ledger.book(key, count)

    def entries(self, counts: Counts, *, slots: Mapping[str, int]) -> tuple[Entry, ...]:
        """Counts by action, and the sequential time they take, as the ledger's present scope addresses them."""
        key, precision = self.chip.ledger.key, self.chip.precision
        return tuple(
            Entry(key(self.layer, self.matrix, action, precision(action)), count, slots.get(action, 0))
            for action, count in counts.items()
        )

    def book_physics(self, action: str, count: int, joules: float, *, row_slots: int = 0) -> None:
        """Book events whose energy is physics of the cells; they follow one another, or word lines are written at once (`row_slots`)."""
        key = self.chip.ledger.key(self.layer, self.matrix, action)
        self.chip.ledger.book(key, count, slots=count, row_slots=row_slots, joules=joules)

    def reads(self, state: State, conductance: NDArray[np.float64], unit: float) -> ReadEnergy:
        """The account of the state-dependent part of array reads, under the ledger's present scope."""
        key = self.chip.ledger.key(self.layer, self.matrix, "array_read")
        return self.chip.ledger.read(key, state, conductance, unit)


def _seed(seed: int) -> int:
    if not (isinstance(seed, Integral) and 0 <= seed < SEEDS):
        raise ConfigError(f"Chip.seed: must be a whole number in [0, 2**32) (got {seed!r})")
    return int(seed)


@dataclass(frozen=True, eq=False)
class _Batch:
    """Which vectors of the running batch are real."""

    mask: NDArray[np.bool_]

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """How many of each sample."""
        return np.asarray(self.mask.sum(1), np.int64)


class Chip:
    """A simulated ReRAM in-memory-computing chip.

    Args:
        preset: a card's name, a path to one, or a Preset.
        backend: "reference" | "numba" | "auto", or "cupy" for products on a CUDA device (docs/gpu.md); the results are the same.
        seed: everything random on this chip follows from it and from names and indices; a whole number in [0, 2^32).
        grid: "int15" | "int8" | "exact": the integer grid on which conductances enter products.
        statistical: program by published statistics instead of the pulse loop.
        backward: "transposed" | "nominal" | "oracle" (docs/definitions.md, "Backward modes").
        ir_drop: whether the card's wire resistance acts.

    Raises:
        ConfigError: an argument is unknown or out of bounds, the card is wrong, or IR drop is asked of a card whose wires
            have no resistance.

    Attributes:
        ledger: what happened here.
        time: the chip's clock in s.
        event: number of the current read event (optimiser or evaluation step); draws depend on it.
        arrays: programmed arrays by name.
        outside: where the chip was before a running backward pass (crossbar_sim.conversion).
        planned: whether it only books and holds no cells (crossbar_sim.plan).
        redraw_programming: noise-aware training: every event sees the cells as another programming would have left them.
    """

    planned = False

    def __init__(
        self,
        preset: Preset | str | Path,
        *,
        backend: str = "auto",
        seed: int = 0,
        grid: str = "int15",
        statistical: bool = False,
        backward: str = "transposed",
        ir_drop: bool = False,
    ) -> None:
        self.preset = as_card(preset)
        for field, value, known in (("grid", grid, GRIDS), ("backward", backward, BACKWARD_MODES)):
            if value not in known:
                raise ConfigError(f"Chip.{field}: {value!r} is unknown{nearest(value, known)}")
        if ir_drop and not self.preset.wires.present:
            raise ConfigError(
                f"Chip.ir_drop: the card {self.preset.name!r} has no wire resistance; edit wires.r_wl, wires.r_bl"
            )
        self.backend = backend
        self.seed, self.statistical, self.backward, self.ir_drop = _seed(seed), statistical, backward, ir_drop
        self.redraw_programming = False
        converters = self.preset.periphery
        self.grid = grid if converters.dac_bits else "exact"
        self.ledger = Ledger()
        self.time = 0.0
        self.event = 0
        self.arrays: dict[str, ProgrammedArray] = {}
        self._batch: _Batch | None = None
        self._first_sample = 0
        self._samples: dict[Any, tuple[NDArray[np.intp] | None, NDArray[np.uint32]]] = {}
        self._retired: dict[str, ProgrammedArray] = {}
        self.outside: tuple[Any, Any] | None = None
        _ = self.kernels  # a wrong or missing backend is an error here, not at the first product

    def __deepcopy__(self, memo: dict[int, Any]) -> Chip:
        """A copied layer still sits on the same silicon."""
        return self

    def __repr__(self) -> str:
        """Chip('hfo2_neurram', seed=0, arrays: 2, tiles: 3, at 3600 s)."""
        held = f"arrays: {len(self.arrays):,}, tiles: {self.tiles_used:,}"
        return f"Chip({self.preset.name!r}, seed={self.seed}, {held}, at {self.time:g} s)"

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what can be computed again, perhaps on a device."""
        return {**self.__dict__, "_samples": {}}

    @property
    def kernels(self) -> Kernels:
        """The arithmetic (resolved by name, so that a chip can be pickled).

        Raises:
            ConfigError: there is no such backend, or this installation cannot run it.
        """
        try:
            return get_kernels(self.backend)
        except ValueError as error:
            raise ConfigError(f"Chip.{error}") from None

    @property
    def host(self) -> Kernels:
        """What computes on the host, in NumPy arrays: programming, calibration and whatever else needs no device."""
        return get_kernels(host_name(self.backend))

    @cached_property
    def exact(self) -> bool:
        """Whether products are plain products in the input's own dtype (the ideal card)."""
        p = self.preset
        return not (p.periphery.dac_bits or p.periphery.adc_bits or p.read_noise.present)

    # -- programming and time --------------------------------------------------------------------------------

    def program(
        self,
        weight: NDArray[np.floating[Any]],
        *,
        name: str,
        layer: str | None = None,
        matrix: str = "base",
        scale: NDArray[np.float64] | None = None,
        ranges: Ranges | None = None,
        stuck: NDArray[np.float64] | None = None,
    ) -> ProgrammedArray:
        """Place a matrix W [m, n] on new tiles and program it.

        Args:
            weight: the weights.
            name: unique on this chip; the array's random numbers follow from it.
            layer: its layer in the ledger; default: the name.
            matrix: base | A | B | own.
            scale: weight that stands for full-scale conductance, per output [m]; default max_i |W_oi|.
            ranges: converter ranges, where they are known.
            stuck: map of stuck cells, their conductance (S) or NaN, of the placement's shape; default: drawn from the card's rates.

        Raises:
            ConfigError: the name is taken, or retired with another shape.
            MappingError: the weight cannot be placed; nothing was programmed then.
        """
        if name in self.arrays:
            raise ConfigError(f"program: the array {name!r} exists; use .reprogram, or another name")
        values = weights_of(weight, name)
        column_scale = mapping.full_scale(values, self.preset.mapping.scale) if scale is None else scale
        site = Site(self, layer or name, matrix)
        mapping.checked(values, column_scale)  # a weight that cannot be programmed changes nothing
        array = self._again(name, values.shape, stuck)
        if array is None:
            array = self.blank(values.shape, site, name=name, scale=column_scale, stuck=stuck)
        array.site, array.scale = site, column_scale
        array.reprogram(values)
        array.ranges = ranges
        self._retired.pop(name, None)
        self.arrays[name] = array
        return array

    def _again(
        self, name: str, shape: tuple[int, ...], stuck: NDArray[np.float64] | None
    ) -> ProgrammedArray | None:
        """The retired cells of that name, if there are any; others than these would forget wear and repeat draws."""
        array = self._retired.get(name)
        if array is None:
            return None
        if array.placement != self._place(shape) or stuck is not None:
            held = (array.placement.outputs, array.placement.inputs)
            raise ConfigError(
                f"program: the cells of {name!r}, retired on this chip, hold {held} and keep their faults; use another name"
            )
        array.compensation, array.backward_ranges, array.room = 1.0, None, (1.0, 1.0)
        array.gate()
        return array

    def _place(self, shape: tuple[int, ...]) -> mapping.Placement:
        outputs, inputs = shape
        return mapping.place(outputs, inputs, self.preset.tiles, self.preset.mapping)

    def blank(
        self,
        shape: tuple[int, int],
        site: Site,
        *,
        name: str,
        scale: NDArray[np.float64],
        stuck: NDArray[np.float64] | None = None,
    ) -> ProgrammedArray:
        """Fresh cells for an [outputs, inputs] matrix, not programmed and not among `arrays`."""
        return ProgrammedArray(self, site, name, self._place(shape), scale, stuck=stuck)

    def retire(self, name: str) -> None:
        """Give an array's tiles back but remember its cells: a matrix of the same name and shape gets them again.

        They keep their wear and draw new numbers then; their converters have no ranges.

        Raises:
            ConfigError: there is no such array.
        """
        self._retired[name] = self._taken("retire", name)

    def forget(self) -> None:
        """Forget the cells of all retired arrays, as `remove` would have."""
        self._retired.clear()

    def remove(self, name: str) -> None:
        """Give an array's tiles back and forget it; a new one of this name is another array of the same silicon.

        Raises:
            ConfigError: there is no such array.
        """
        self._taken("remove", name)

    def _taken(self, action: str, name: str) -> ProgrammedArray:
        if name not in self.arrays:
            raise ConfigError(f"{action}: no array {name!r} on this chip{nearest(name, self.arrays)}")
        return self.arrays.pop(name)

    def advance(self, seconds: float) -> None:
        """Let time pass; conductances relax.

        Raises:
            ConfigError: the time is negative or not finite.
        """
        if not (isfinite(seconds) and seconds >= 0):
            raise ConfigError(f"advance: seconds must be finite and not negative (got {seconds:g})")
        self.time += seconds

    @property
    def tiles_used(self) -> int:
        """Physical arrays (tiles) that hold matrices."""
        return sum(a.placement.arrays for a in self.arrays.values())

    @property
    def chips_needed(self) -> int:
        """Chips of the card's tile count that the arrays fill (1 where the card states no count)."""
        count = self.preset.tiles.count
        return ceil(self.tiles_used / count) if count else 1

    def allocation(self) -> list[dict[str, Any]]:
        """Which cells of which tile hold what: one dict per tile, with the share of its cells in use."""
        first = accumulate((array.placement.arrays for array in self.arrays.values()), initial=0)
        return [
            {"tile": tile + k, **block}
            for tile, array in zip(first, self.arrays.values(), strict=False)
            for k, block in enumerate(mapping.blocks(array.name, array.placement, self.preset.tiles))
        ]

    def refresh(self) -> None:
        """Bring every array's cells back to what they were asked for, now; booked under phase `refresh`."""
        for array in self.arrays.values():
            array.refresh()

    def compensate(self, kind: str) -> None:
        """Correct what drift has done to the products by digital factors, one per array ("global") or output ("column").

        Each array reads known vectors (booked in phase `calibrate`) and takes the factor that brings the results nearest to those of
        its target weights in the least-squares sense; "none" takes the factors away.

        Raises:
            ConfigError: the kind is unknown.
        """
        if kind not in compensation.KINDS:
            raise ConfigError(f"compensate: {kind!r} is unknown{nearest(kind, compensation.KINDS)}")
        for array in self.arrays.values():
            array.compensate(kind)

    def calibrate(self, model: Any, batches: Iterable[Mapping[str, Any]], **options: Any) -> None:
        """Set converter ranges from data (crossbar_sim.calibration.calibrate)."""
        calibration.calibrate(self, model, batches, **options)

    # -- reading ---------------------------------------------------------------------------------------------

    def next_event(self) -> None:
        """Begin a new optimiser or evaluation step: later reads draw fresh noise."""
        self.event += 1

    @contextmanager
    def samples_from(self, first: int) -> Iterator[None]:
        """Number the samples of the batches inside from `first`, so that splitting a batch changes nothing."""
        before, self._first_sample = self._first_sample, first
        try:
            yield
        finally:
            self._first_sample = before

    def begin_batch(self, mask: NDArray[np.bool_] | None) -> None:
        """Tell which positions [samples, positions] of the running batch are real (None: all)."""
        self._batch = None if mask is None else _Batch(mask)

    def samples(
        self, lead: tuple[int, ...], kernels: Kernels | None = None
    ) -> tuple[NDArray[np.intp] | None, NDArray[np.uint32]]:
        """Which vectors of an input of leading shape `lead` are real, by their flat indices (None: all), and their row numbers.

        As NumPy arrays, or as arrays of `kernels`; the last few are kept, so that a mask is brought to a device once.
        """
        asked = (lead, self._first_sample, self._batch, kernels)
        found = self._samples.get(asked)
        if found is None:
            if len(self._samples) >= KEPT_SAMPLES:
                self._samples.clear()
            rows, valid = self._rows(lead), None
            if self._batch is not None and lead == self._batch.mask.shape:
                valid = np.flatnonzero(self._batch.mask)
                rows = rows[valid]
            if kernels is not None:
                valid, rows = None if valid is None else kernels.asarray(valid), kernels.asarray(rows)
            found = self._samples[asked] = valid, rows
        return found

    def _rows(self, lead: tuple[int, ...]) -> NDArray[np.uint32]:
        """Row number of every vector: the first axis counts samples, the others count positions."""
        samples = lead[0] if lead else 1
        positions = prod(lead[1:])
        rows = (self._first_sample + np.arange(samples))[:, None] * max(ROW_STRIDE, positions) + np.arange(
            positions
        )
        return rows.ravel().astype(np.uint32)

    def valid_vectors(self, lead: tuple[int, ...]) -> int:
        """How many vectors of an input of leading shape `lead` are real."""
        return len(self.samples(lead)[1])

    def precision(self, action: str) -> str:
        """The precision tag of an action on this chip."""
        return precision(action, adc_bits=self.preset.periphery.adc_bits)
