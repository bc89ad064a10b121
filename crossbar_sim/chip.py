"""The chip: the only maker of arrays, with its own clock, seed and ledger."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels import Kernels, get_kernels
from crossbar_sim import calibration, mapping
from crossbar_sim.array import GRID, ProgrammedArray
from crossbar_sim.cost import MASTER_BITS, WORD_BITS, Counts
from crossbar_sim.errors import ConfigError, nearest
from crossbar_sim.ledger import Ledger, ReadEnergy, State
from crossbar_sim.periphery import Ranges
from crossbar_sim.presets import Preset, preset

GRIDS = ("exact", *GRID)
BACKWARD_MODES = ("nominal", "oracle")
ROW_STRIDE = 4096
"""Sample rows are sample * ROW_STRIDE + position, so a text's noise does not depend on its neighbours."""


@dataclass(frozen=True)
class Site:
    """A matrix's address in the ledger: chip, layer, matrix (base | A | B | own)."""

    chip: Chip
    layer: str
    matrix: str

    def book(self, counts: Counts, *, slots: Mapping[str, int] | None = None) -> None:
        """Book counts by action; digital and converter actions carry their precision."""
        for action, count in counts.items():
            key = self.chip.ledger.key(self.layer, self.matrix, action, self.chip.precision(action))
            self.chip.ledger.book(key, count, slots=(slots or {}).get(action, 0))

    def book_physics(self, action: str, count: int, joules: float) -> None:
        """Book events whose energy is physics of the cells; they follow one another."""
        self.chip.ledger.book(
            self.chip.ledger.key(self.layer, self.matrix, action), count, slots=count, joules=joules
        )

    def book_read(self, state: State, squares: NDArray[np.int64], energy: ReadEnergy) -> None:
        """Book the state-dependent part of array reads."""
        key = self.chip.ledger.key(self.layer, self.matrix, "array_read")
        self.chip.ledger.book_read(key, state, squares, energy)


@dataclass(frozen=True)
class _Batch:
    """Which vectors of the running batch are real, and where its samples start."""

    mask: NDArray[np.bool_]


class Chip:
    """A simulated ReRAM in-memory-computing chip.

    Args:
        preset: a card's name, a path to one, or a Preset.
        backend: "reference" | "numba" | "auto"; the results are the same.
        seed: everything random on this chip follows from it and from names and indices.
        grid: "int15" | "int8" | "exact": the integer grid on which conductances enter products.
        statistical: program by published statistics instead of the pulse loop.
        backward: "nominal" | "oracle" (docs/definitions.md, "Backward modes").

    Attributes:
        ledger: what happened here.
        time: the chip's clock in s.
        event: number of the current read event (optimiser or evaluation step); draws depend on it.
        arrays: programmed arrays by name.
    """

    def __init__(
        self,
        preset_or_name: Preset | str,
        *,
        backend: str = "auto",
        seed: int = 0,
        grid: str = "int15",
        statistical: bool = False,
        backward: str = "nominal",
    ) -> None:
        self.preset = preset_or_name if isinstance(preset_or_name, Preset) else preset(preset_or_name)
        for field, value, known in (("grid", grid, GRIDS), ("backward", backward, BACKWARD_MODES)):
            if value not in known:
                raise ConfigError(f"Chip.{field}: {value!r} is unknown{nearest(value, known)}")
        self.backend = backend
        self.seed, self.statistical, self.backward = seed, statistical, backward
        converters = self.preset.periphery
        self.grid = grid if converters.dac_bits else "exact"
        self.ledger = Ledger()
        self.time = 0.0
        self.event = 0
        self.arrays: dict[str, ProgrammedArray] = {}
        self._batch: _Batch | None = None
        self._first_sample = 0
        _ = self.kernels  # a wrong or missing backend is an error here, not at the first product

    def __deepcopy__(self, memo: dict[int, Any]) -> Chip:
        """A copied layer still sits on the same silicon."""
        return self

    @property
    def kernels(self) -> Kernels:
        """The arithmetic (resolved by name, so that a chip can be pickled)."""
        return get_kernels(self.backend)

    @property
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
    ) -> ProgrammedArray:
        """Place a matrix W [m, n] on new tiles and program it.

        Args:
            weight: the weights.
            name: unique on this chip; the array's random numbers follow from it.
            layer: its layer in the ledger; default: the name.
            matrix: base | A | B | own.
            scale: weight that stands for full-scale conductance, per output [m]; default max_i |W_oi|.
            ranges: converter ranges, where they are known.

        Raises:
            ConfigError: the name is taken.
            MappingError: the weight cannot be placed; nothing was programmed then.
        """
        if name in self.arrays:
            raise ConfigError(f"program: the array {name!r} exists; use .reprogram, or another name")
        values = np.asarray(weight, np.float64)
        if values.ndim != 2:
            raise ConfigError(f"weight: array {name!r} needs a matrix [out, in] (got shape {values.shape})")
        outputs, inputs = values.shape
        placement = mapping.place(outputs, inputs, self.preset.tiles)
        column_scale = mapping.column_scale(values) if scale is None else scale
        array = ProgrammedArray(self, Site(self, layer or name, matrix), name, placement, column_scale)
        array.reprogram(values)
        array.ranges = ranges
        self.arrays[name] = array
        return array

    def remove(self, name: str) -> None:
        """Give an array's tiles back."""
        del self.arrays[name]

    def advance(self, seconds: float) -> None:
        """Let time pass; conductances relax.

        Raises:
            ConfigError: the time is negative.
        """
        if seconds < 0:
            raise ConfigError(f"advance: seconds must not be negative (got {seconds:g})")
        self.time += seconds

    @property
    def tiles_used(self) -> int:
        """Tiles that hold arrays."""
        return sum(a.placement.tiles for a in self.arrays.values())

    @property
    def chips_needed(self) -> int:
        """Chips of the card's tile count that the arrays fill (1 where the card states no count)."""
        count = self.preset.tiles.count
        return ceil(self.tiles_used / count) if count else 1

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

    def samples(self, lead: tuple[int, ...]) -> tuple[NDArray[np.bool_] | None, NDArray[np.uint32]]:
        """Which vectors of an input of leading shape `lead` are real, flat (None: all), and their row numbers."""
        if self._batch is not None and tuple(lead) == self._batch.mask.shape:
            valid = self._batch.mask.ravel()
            return valid, self._rows(lead)[valid]
        return None, self._rows(lead)

    def _rows(self, lead: tuple[int, ...]) -> NDArray[np.uint32]:
        """Row number of every vector: the first axis counts samples, the others count positions."""
        samples = lead[0] if lead else 1
        positions = int(np.prod(lead[1:], dtype=np.int64))
        rows = (self._first_sample + np.arange(samples))[:, None] * ROW_STRIDE + np.arange(positions)
        return rows.ravel().astype(np.uint32)

    def valid_vectors(self, lead: tuple[int, ...]) -> int:
        """How many vectors of an input of leading shape `lead` are real."""
        if self._batch is not None and tuple(lead) == self._batch.mask.shape:
            return int(self._batch.mask.sum())
        return int(np.prod(lead, dtype=np.int64))

    def precision(self, action: str) -> str:
        """The precision tag of an action on this chip."""
        if action == "adc_conversion":
            return f"{self.preset.periphery.adc_bits}b"
        if action in ("digital_mul", "digital_add"):
            return f"fp{WORD_BITS}"
        if action == "opt_update":
            return f"fp{MASTER_BITS}"
        return ""
