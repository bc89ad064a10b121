"""What happened on a chip and what it cost, by task, phase, layer, matrix and action.

Counts are exact integers and are priced afterwards. Physics that depends on the state of the cells (V^2 G t) is
booked beside them: programming as joules, reading as exact integers (per word line the sum of squared DAC codes), which are
multiplied by that word line's summed conductance when the ledger is priced.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import fsum, nan
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels import Kernels
from crossbar_sim.errors import LedgerError, nearest
from crossbar_sim.prices import ADC, PriceTable

ACTIONS = (
    "set_pulse",
    "reset_pulse",
    "verify_read",
    "cell_write",
    "array_read",
    "dac_drive",
    "adc_conversion",
    "sample_hold",
    "shift_add",
    "digital_mul",
    "digital_add",
    "digital_function",
    "opt_update",
    "sram_read_bit",
    "sram_write_bit",
    "dram_read_bit",
    "dram_write_bit",
    "activation_read_bit",
    "activation_write_bit",
    "half_select",
    "wl_charge",
    "bl_charge",
    "bus_bit",
    "noc_bit",
    "leak_s",
)
REST = "rest"
MATRICES = ("base", "A", "B", "own", REST)
"""What a row belongs to: the base weights, the two factors of an adapter, a method's own digital work, and `rest`, the digital
work of the model itself (attention products, softmax, normalisation, activation functions, head), the same for every method."""
TASK_PHASES = ("switch", "calibrate", "forward", "backward", "update")
"""Phases of bringing a task onto the chip; evaluation is inference."""
PHASES = ("deploy", "calibrate", "switch", "forward", "backward", "update", "refresh", "eval")
WRITING = frozenset({"set_pulse", "reset_pulse", "verify_read", "cell_write"})
"""What writing cells takes, its conversions apart."""
PHYSICAL = WRITING | {"array_read"}
"""Actions whose energy is physics of the cells, booked as it happens and never taken from a price.

A cell_write's energy is that of its pulses and verify reads."""

MOST_WAITING = 4096
"""Tuples of entries whose multiples wait to be added."""
State = tuple[str, str]
"""What was read: the array's name (".T": its transposed read), and a digest of its lines' conductances."""


class Key(NamedTuple):
    """The address of an entry."""

    task: str
    phase: str
    layer: str
    matrix: str
    action: str
    precision: str


class Entry(NamedTuple):
    """What one vector, or whatever repeats, adds to an account: a number of events, and the sequential time they take."""

    key: Key
    events: int
    slots: int


class ReadEnergy:
    """sum_i S_i G_i * unit: squared DAC codes per word line, times its conductance (S), times V^2 t / K^2.

    Codes are squared and summed where they are, a device perhaps, and the sums brought here when somebody asks for them.
    """

    def __init__(self, squares: NDArray[np.int64], conductance: NDArray[np.float64], unit: float) -> None:
        self.conductance, self.unit = conductance, unit
        self._squares = squares
        self._waiting: tuple[Kernels, Any] | None = None

    @property
    def squares(self) -> NDArray[np.int64]:
        """Sum of squared codes per word line."""
        if self._waiting is not None:
            kernels, sums = self._waiting
            self._waiting = None
            self._squares += kernels.to_host(sums)[: self._squares.size]
        return self._squares

    @squares.setter
    def squares(self, squares: NDArray[np.int64]) -> None:
        self._squares, self._waiting = squares, None

    def add(self, codes: NDArray[Any], kernels: Kernels) -> None:
        """Add the squares of codes [..., lines] of these kernels, padded with zeros beyond the word lines; waits for nothing."""
        if self._waiting is None or self._waiting[0] is not kernels:
            self._squares = self.squares
            self._waiting = kernels, kernels.asarray(np.zeros(codes.shape[-1], np.int64))
        kernels.add_squares(codes, self._waiting[1])

    def __getstate__(self) -> dict[str, Any]:
        """Everything, on the host."""
        return {**self.__dict__, "_squares": self.squares, "_waiting": None}

    def joules(self) -> float:
        """The energy in J."""
        return fsum((self.squares * self.conductance).tolist()) * self.unit


@dataclass(eq=False)  # two ledgers are the same account only when they are the same object
class Ledger:
    """An account that adds: `a + b` holds what both hold. `scope` names the task and the phase of what follows.

    `slots` is time one event after the other; `row_slots` what writing takes when the cells of a word line are written together.
    """

    task: str = ""
    phase: str = "deploy"
    _counts: dict[Key, int] = field(default_factory=lambda: defaultdict(int))
    _slots: dict[Key, int] = field(default_factory=lambda: defaultdict(int))
    _waiting: dict[int, tuple[tuple[Entry, ...], list[int]]] = field(default_factory=dict)
    row_slots: dict[Key, int] = field(default_factory=lambda: defaultdict(int))
    joules: dict[Key, list[float]] = field(default_factory=lambda: defaultdict(list))
    reads: dict[tuple[Key, State], ReadEnergy] = field(default_factory=dict)

    @property
    def counts(self) -> dict[Key, int]:
        """Events by address."""
        self._settle()
        return self._counts

    @property
    def slots(self) -> dict[Key, int]:
        """Sequential time by address, one event after the other."""
        self._settle()
        return self._slots

    @contextmanager
    def scope(self, *, task: str | None = None, phase: str | None = None) -> Iterator[Ledger]:
        """Book what follows under this task and phase (either may be left as it is).

        Raises:
            LedgerError: the phase is not one of PHASES.
        """
        if phase is not None and phase not in PHASES:
            raise LedgerError(f"phase: {phase!r} is unknown{nearest(phase, PHASES)}")
        before = self.task, self.phase
        self.task = self.task if task is None else task
        self.phase = self.phase if phase is None else phase
        try:
            yield self
        finally:
            self.task, self.phase = before

    def key(self, layer: str, matrix: str, action: str, precision: str = "") -> Key:
        """The address of an action under the present scope."""
        if action not in ACTIONS:
            raise LedgerError(f"action: {action!r} is unknown{nearest(action, ACTIONS)}")
        return Key(self.task, self.phase, layer, matrix, action, precision)

    def book(
        self, key: Key, count: int, *, slots: int = 0, row_slots: int = 0, joules: float | None = None
    ) -> None:
        """Add `count` events, the sequential time they take, and the joules of state-dependent physics.

        `slots` is one event after the other, `row_slots` whole word lines written at once.

        Raises:
            LedgerError: the count is negative or not an integer.
        """
        if count != int(count) or count < 0:
            raise LedgerError(f"{key.action}: a count must be a non-negative integer (got {count!r})")
        self._counts[key] += int(count)
        if slots:
            self._slots[key] += int(slots)
        if row_slots:
            self.row_slots[key] += int(row_slots)
        if joules is not None:
            self.joules[key].append(joules)

    def book_times(self, entries: tuple[Entry, ...], times: int) -> None:
        """Add `times` times what the entries say; the same tuple is added up first and multiplied when somebody asks."""
        held = self._waiting.get(id(entries))
        if held is None:
            if len(self._waiting) >= MOST_WAITING:
                self._settle()
            held = self._waiting[id(entries)] = entries, [0]
        held[1][0] += times

    def __getstate__(self) -> dict[str, Any]:
        """Everything, with nothing waiting: another process gives other tuples the same identities."""
        self._settle()
        return self.__dict__.copy()

    def _settle(self) -> None:
        """Multiply what was added up."""
        for entries, (times,) in self._waiting.values():
            for key, events, slots in entries:
                self._counts[key] += events * times
                if slots * times:
                    self._slots[key] += slots * times
        self._waiting.clear()

    def read(self, key: Key, state: State, conductance: NDArray[np.float64], unit: float) -> ReadEnergy:
        """The account of reads under this key; other conductances open a new one."""
        entry = self.reads.get((key, state))
        if entry is None:
            entry = self.reads[key, state] = ReadEnergy(
                np.zeros(conductance.shape, np.int64), conductance, unit
            )
        return entry

    def rows(self, prices: PriceTable | None) -> list[dict[str, Any]]:
        """One dict per entry: task, phase, layer, matrix, action, precision, count, energy_J, time_s.

        Without prices (an ideal chip has none) energy and time are NaN: not zero, and not known.
        """
        physics = self._physics()
        keys = sorted(self.counts)
        rows = [
            {**key._asdict(), "count": self.counts[key], "energy_J": fsum(physics[key]), "time_s": 0.0}
            for key in keys
        ]
        if prices is None:
            return [{**row, "energy_J": nan, "time_s": nan} for row in rows]
        joules = energies(rows, prices)
        seconds = [self._seconds(key, prices) for key in keys]
        return [
            {**row, "energy_J": energy, "time_s": time}
            for row, energy, time in zip(rows, joules, seconds, strict=True)
        ]

    def _seconds(self, key: Key, prices: PriceTable) -> float:
        """The time of an entry's sequential slots."""
        slots = self.slots.get(key, 0)
        return slots * prices.seconds(key.action, key.precision) if slots else 0.0

    def _physics(self) -> dict[Key, list[float]]:
        """Joules of the cells by entry: programming as booked, reads as squares times conductance."""
        parts: dict[Key, list[float]] = defaultdict(list)
        for key, joules in self.joules.items():
            parts[key].extend(joules)
        for (key, _), entry in self.reads.items():
            parts[key].append(entry.joules())
        return parts

    def total(self, action: str, **where: str) -> int:
        """Sum of an action's counts over the entries whose fields are as given (phase="switch", for example)."""
        return sum(n for key, n in self.counts.items() if key.action == action and matches(key, where))

    def drop(self, **where: str) -> None:
        """Forget the entries whose fields are as given (task="a", for example).

        Raises:
            LedgerError: nothing is given.
        """
        if not where:
            raise LedgerError('drop: say which entries, by task, phase, layer or matrix: drop(task="a")')
        for entries in (self.counts, self.slots, self.row_slots, self.joules):
            for key in [key for key in entries if matches(key, where)]:
                del entries[key]
        self.reads = {at: entry for at, entry in self.reads.items() if not matches(at[0], where)}

    def add(self, other: Ledger, times: int = 1) -> None:
        """Book `times` times what another ledger holds, under its own tasks and phases."""
        for key, count in other.counts.items():
            self._counts[key] += count * times
        for key, slots in other.slots.items():
            self._slots[key] += slots * times
        for key, slots in other.row_slots.items():
            self.row_slots[key] += slots * times
        for key, joules in other.joules.items():
            self.joules[key].extend(joules if times == 1 else [fsum(joules) * times])
        for (key, state), entry in other.reads.items():
            self.read(key, state, entry.conductance, entry.unit).squares += entry.squares * times

    def __add__(self, other: Ledger) -> Ledger:
        merged = Ledger(self.task, self.phase)
        merged.add(self)
        merged.add(other)
        return merged

    def copy(self) -> Ledger:
        """An independent ledger with the same entries."""
        return self + Ledger()


def energies(rows: Sequence[Mapping[str, Any]], prices: PriceTable) -> list[float]:
    """Joules of each row of a ledger: count times price; of what is physics of the cells, the `energy_J` that the row has.

    Where the table has a price per write, a cell_write costs that, and pulses, verify reads and the verify reads' conversions
    (one each, under the same task, phase, layer and matrix) cost nothing beside it.

    Raises:
        LedgerError: a counted action without a price; verify reads without their conversions.
    """
    spent = {} if prices.write is None else verify_conversions(rows)
    return [_energy(row, prices, spent.get(at, 0)) for at, row in enumerate(rows)]


def _energy(row: Mapping[str, Any], prices: PriceTable, covered: int) -> float:
    """Joules of one row; `covered` of its events are paid by the price of a write."""
    action, count = row["action"], row["count"]
    if action in WRITING and prices.write is not None:
        return count * prices.write.value if action == "cell_write" else 0.0
    if action in PHYSICAL:
        return float(row["energy_J"])
    if covered and covered == count:
        return 0.0
    return float((count - covered) * prices.energy(action, row["precision"]))


def verify_conversions(rows: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """How many of a row's conversions belong to verify reads, by the row's place."""
    reads: dict[tuple[str, ...], int] = defaultdict(int)
    for row in rows:
        if row["action"] == "verify_read":
            reads[_place(row)] += row["count"]
    spent = {}
    for at, row in enumerate(rows):
        if row["action"] == ADC:
            spent[at] = min(row["count"], reads[_place(row)])
            reads[_place(row)] -= spent[at]
    for place, left in reads.items():
        if left:
            raise LedgerError(f"{' / '.join(place)}: {left} verify reads have no adc_conversion of their own")
    return spent


def _place(row: Mapping[str, Any]) -> tuple[str, ...]:
    return row["task"], row["phase"], row["layer"], row["matrix"]


def matches(key: Key, where: Mapping[str, str]) -> bool:
    """Whether the fields of an address are as given."""
    return all(getattr(key, name) == value for name, value in where.items())
