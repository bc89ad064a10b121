"""Targets to conductances: write-verify pulse by pulse, counted pulses without verify, and the statistical shortcut.

All functions are pure; arrays of cells are [tile, slice, sign, copy, rows, cols].
"""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels import Kernels
from crossbar_kernels.outcomes import ArrayDraws
from crossbar_kernels.philox import Purpose, stream
from crossbar_kernels.pulses import PLANES, Draws, OpenTrain
from crossbar_sim import noise
from crossbar_sim.device import Device, OpenLoop, Programming
from crossbar_sim.draws import Key, cell_normals
from crossbar_sim.pulse_table import pulse_table, pulse_train

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
PLANE = stream(Purpose.PROGRAM, plane=1) - stream(Purpose.PROGRAM)
"""Stride of a plane in a stream word."""


@dataclass(frozen=True)
class Source:
    """Where the random numbers of one programming come from: a backend, the array's key, the number of the programming."""

    kernels: Kernels
    key: Key
    event: int


@dataclass(frozen=True)
class Traits:
    """What sets cells apart from the nominal one; None: nothing does.

    `strength`: pulse strength relative to the nominal cell's. `stuck`: cells that take pulses and do not move. `low`, `high`: each
    cell's own range in S (both or neither). `used`: cells that hold a weight; the others take no pulse, no read and cost nothing.
    """

    strength: Array | None = None
    stuck: Mask | None = None
    low: Array | None = None
    high: Array | None = None
    used: Mask | None = None

    @property
    def bounds(self) -> tuple[Array, Array] | None:
        """Each cell's own range, or None."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def occupied(self, values: Array) -> Array:
        """The values, 0 where no weight sits: an unused cell is at its target already and conducts nothing."""
        return values if self.used is None else np.where(self.used, values, 0.0)

    def cells(self, shape: tuple[int, ...]) -> int:
        """Cells in use."""
        return int(np.prod(shape)) if self.used is None else int(np.count_nonzero(self.used))

    def word_lines(self, shape: tuple[int, ...]) -> int:
        """Rows of arrays with a cell in use."""
        return int(np.prod(shape[:-1])) if self.used is None else int(np.count_nonzero(self.used.any(-1)))


@dataclass(frozen=True, repr=False)
class Programmed:
    """What programming left and took.

    `written` in S; `settled`: standard deviation (S) that the write left (0 for cells that took no pulse); pulses per cell (expected
    values in the statistical mode); `accepted`: the last verify found the cell inside its window (open loop: its train
    was long enough). Energies in J. `set_slots`, `reset_slots`: pulse slots of row-parallel writing, for each word line of each
    [tile, slice, sign, copy] array the most pulses of that polarity that any of its cells takes; `read_slots`: its verify reads.
    """

    written: Array
    settled: NDArray[np.float32]
    pulses: NDArray[np.float32]
    accepted: Mask
    set_pulses: int
    reset_pulses: int
    verify_reads: int
    unconverged: int
    set_energy: float
    reset_energy: float
    verify_energy: float
    set_slots: int
    reset_slots: int
    read_slots: int

    def __repr__(self) -> str:
        """Programmed(12,288 cells: 77,832 set and 65,424 reset pulses, 11 unconverged)."""
        pulses = f"{self.set_pulses:,} set and {self.reset_pulses:,} reset pulses"
        return f"Programmed({self.written.size:,} cells: {pulses}, {self.unconverged:,} unconverged)"

    def serial_time(self, programming: Programming | OpenLoop) -> float:
        """Seconds when one cell is written after the other: sum N_p (t_p + t_r) + 2 t_r per cell."""
        set_width, reset_width, read_width = _widths(programming)
        return self.set_pulses * set_width + self.reset_pulses * reset_width + self.verify_reads * read_width

    def row_parallel_time(self, programming: Programming | OpenLoop, *, arrays_at_once: int = 1) -> float:
        """Seconds when the cells of a word line are written together, SET and RESET in passes of their own.

        A pass takes as many slots of one pulse and one read as the slowest of its cells; two more reads per word line. Arrays
        [tile, slice, sign, copy] follow one another, or `arrays_at_once` work side by side (an even share, the best case).
        In the statistical mode the slowest cell of a word line is found among pulse counts sampled from the pulse loop.
        """
        set_width, reset_width, read_width = _widths(programming)
        total = self.set_slots * set_width + self.reset_slots * reset_width + self.read_slots * read_width
        return total / arrays_at_once


def _widths(programming: Programming | OpenLoop) -> tuple[float, float, float]:
    """Widths of a SET pulse, a RESET pulse and a verify read, s."""
    if isinstance(programming, OpenLoop):
        return programming.set_width, programming.reset_width, 0.0
    return programming.pulse_width, programming.pulse_width, programming.verify_width


def combined(first: Programmed, second: Programmed) -> Programmed:
    """Two programmings of the same cells, one after the other: counts and energies add, the later state holds where it pulsed."""
    later = second.pulses > 0
    added = ("set_pulses", "reset_pulses", "verify_reads", "set_energy", "reset_energy", "verify_energy")
    slots = ("set_slots", "reset_slots", "read_slots")
    return Programmed(
        written=np.where(later, second.written, first.written),
        settled=np.where(later, second.settled, first.settled),
        pulses=first.pulses + second.pulses,
        accepted=second.accepted,
        unconverged=second.unconverged,
        **{name: getattr(first, name) + getattr(second, name) for name in added + slots},
    )


def strengths(shape: tuple[int, ...], device: Device, *, kernels: Kernels, key: Key) -> Array:
    """Pulse strength of each cell, exp(strength_spread z): a property of the cell, drawn once for all time."""
    z = cell_normals(shape, Purpose.D2D, kernels=kernels, key=key, event=0)
    return np.exp(device.strength_spread * z.astype(np.float64))


class _Tally(NamedTuple):
    """Sums over the arrays of one programming."""

    energies: list[tuple[float, ...]]
    counts: list[tuple[int, ...]]

    def add(self, energies: tuple[Array, ...], up: NDArray[np.integer], down: NDArray[np.integer]) -> None:
        """One array's energies per row (J) and its pulses per cell."""
        self.energies.append(tuple(fsum(e) for e in energies))
        slots = (int(side.max(axis=1).sum(dtype=np.int64)) for side in (up, down))
        self.counts.append((int(up.sum(dtype=np.int64)), int(down.sum(dtype=np.int64)), *slots))

    def totals(self) -> tuple[list[float], list[int]]:
        """Energies, and SET pulses, RESET pulses, SET slots, RESET slots."""
        return [fsum(c) for c in zip(*self.energies, strict=True)], [
            sum(c) for c in zip(*self.counts, strict=True)
        ]


def write_verify(
    start: Array, target: Array, traits: Traits, programming: Programming, *, source: Source
) -> Programmed:
    """Program every cell pulse by pulse (Programming's docstring gives the law).

    Verify reads per cell: one before, one after each pulse, one to confirm (N_p + 2; Wan 2022, software). A cell already inside
    its window costs two reads and no pulse.

    Args:
        start: conductances before, S.
        target: conductances asked for, S.
        traits: how the cells differ.
        programming: the card's write-verify.
        source: random numbers.
    """
    start, target = traits.occupied(start), traits.occupied(target)
    train, tally = pulse_train(programming), _Tally([], [])
    written, shape = np.empty_like(target), target.shape
    pulses, settled = np.empty((2, *shape), np.float32)
    accepted = np.empty(shape, np.bool_)
    for at in np.ndindex(shape[:4]):
        goal = target[at]
        tolerance = programming.window_abs + programming.window_rel * goal
        bounds = None if traits.bounds is None else (traits.bounds[0][at], traits.bounds[1][at])
        strength, moves = _strength(traits, at, shape[4:])
        given = (start[at], goal, tolerance, strength, bounds)
        r = source.kernels.write_verify(*given, train=train, draws=_draws(source, at))
        written[at], accepted[at], pulses[at] = r.value, r.accepted, r.up + r.down
        settled[at] = np.where((pulses[at] > 0) & moves, noise.residual_sigma(goal, programming), 0.0)
        tally.add((r.up_energy, r.down_energy, r.verify_energy), r.up, r.down)
    (up_heat, down_heat, verify_heat), (up, down, up_slots, down_slots) = tally.totals()
    return Programmed(
        written,
        settled,
        pulses,
        accepted,
        up,
        down,
        up + down + 2 * traits.cells(shape),
        int(np.count_nonzero(~accepted)),
        up_heat,
        down_heat,
        verify_heat,
        up_slots,
        down_slots,
        up_slots + down_slots + 2 * traits.word_lines(shape),
    )


def _strength(traits: Traits, at: tuple[int, ...], shape: tuple[int, ...]) -> tuple[Array, Array | Mask]:
    """Pulse strength of one array's cells, and which of them move at all."""
    strength = np.ones(shape) if traits.strength is None else traits.strength[at]
    if traits.stuck is None:
        return strength, strength > 0
    return np.where(traits.stuck[at], 0.0, strength), ~traits.stuck[at]


def _draws(source: Source, at: tuple[int, ...]) -> Draws:
    return Draws(source.key, _word(at), PLANE, source.event)


def _word(at: tuple[int, ...], plane: int = 0) -> int:
    """Stream word of array [tile, slice, sign, copy]."""
    tile, slice_, sign, copy = at
    return stream(Purpose.PROGRAM, sign=sign, slice_=slice_, plane=plane, copy=copy, tile=tile)


# -- counted pulses --------------------------------------------------------------------------------------------------


def on_curve(nominal: Array, pulses: NDArray[np.integer], loop: OpenLoop) -> Array:
    """Conductance (S) of the nominal cell after signed pulses: G_n = top - (top - G_0)(1 - rate)^n up, its mirror down."""
    n = np.abs(pulses.astype(np.int64))
    up = loop.top - (loop.top - nominal) * (1.0 - loop.set_rate) ** n
    down = loop.bottom + (nominal - loop.bottom) * (1.0 - loop.reset_rate) ** n
    return np.where(pulses > 0, up, down)


def counted_pulses(nominal: Array, target: Array, loop: OpenLoop) -> tuple[NDArray[np.int16], Mask]:
    """Signed pulses that bring the nominal cell nearest to its target, and whether `max_pulses` are enough.

    n = ln((top - G_target)/(top - G))/ln(1 - rate) up, its mirror down, one of the two whole numbers beside it.
    """
    rising = target > nominal
    goal = np.where(rising, loop.top - target, target - loop.bottom)
    distance = np.where(rising, loop.top - nominal, nominal - loop.bottom)
    rate = np.where(rising, loop.set_rate, loop.reset_rate)
    with np.errstate(divide="ignore", invalid="ignore"):
        exact = np.log(np.maximum(goal, 0.0) / distance) / np.log1p(-rate)
    exact = np.where(rate == 1.0, 0.0, np.nan_to_num(exact, nan=0.0))
    below = np.floor(np.clip(exact, 0.0, loop.max_pulses)).astype(np.int64)
    sign = np.where(rising, 1, -1)
    one, two = (np.abs(on_curve(nominal, sign * (below + n), loop) - target) for n in (0, 1))
    wanted = np.where(target == nominal, 0, below + (two < one))
    enough = exact < loop.max_pulses + 0.5
    return (sign * np.minimum(wanted, loop.max_pulses)).astype(np.int16), enough


def open_loop(
    start: Array, nominal: Array, target: Array, traits: Traits, device: Device, loop: OpenLoop, *, source: Source
) -> Programmed:  # fmt: skip
    """Write with counted pulses and without looking (OpenLoop's docstring gives the law).

    There is no verify, hence no read; a cell whose nominal conductance is the target takes no pulse.

    Args:
        start: conductances before, S.
        nominal: conductances that the controller takes the cells to have, S (`on_curve` of the last write, or the last target).
        target: conductances asked for, S.
        traits: how the cells differ; without bounds of their own they stay between g_min and g_max.
        device: the card's cells.
        loop: the card's pulses.
        source: random numbers.
    """
    start, nominal, target = (traits.occupied(a) for a in (start, nominal, target))
    pulses, enough = counted_pulses(nominal, target, loop)
    if traits.used is not None:
        pulses = np.where(traits.used, pulses, np.int16(0))
    written, shape, tally = np.empty_like(target), target.shape, _Tally([], [])
    for at in np.ndindex(shape[:4]):
        bounds = _range(traits, at, shape[4:], device)
        strength, moves = _strength(traits, at, shape[4:])
        given = (start[at], pulses[at], strength, bounds)
        r = source.kernels.apply_pulses(*given, train=_open_train(loop), draws=_draws(source, at))
        noisy = (pulses[at] != 0) & moves
        written[at] = np.where(noisy, _write_noise(r.value, bounds, loop, at, source), r.value)
        tally.add((r.up_energy, r.down_energy), np.maximum(pulses[at], 0), np.maximum(-pulses[at], 0))
    (up_heat, down_heat), (up, down, up_slots, down_slots) = tally.totals()
    moved = (pulses != 0) & ~(np.False_ if traits.stuck is None else traits.stuck)
    settled = np.where(moved, np.float32(loop.write_noise), np.float32(0))
    accepted = enough if traits.used is None else enough | ~traits.used
    missed = int(np.count_nonzero(~accepted))
    heat = (up_heat, down_heat, 0.0)
    counts = (up, down, 0, missed)
    per_cell = (written, settled, np.abs(pulses).astype(np.float32), accepted)
    return Programmed(*per_cell, *counts, *heat, up_slots, down_slots, 0)


def _range(
    traits: Traits, at: tuple[int, ...], shape: tuple[int, ...], device: Device
) -> tuple[Array, Array]:
    """Each cell's own range; of the nominal cell g_min to g_max."""
    if traits.bounds is not None:
        return traits.bounds[0][at], traits.bounds[1][at]
    return np.full(shape, device.g_min), np.full(shape, device.g_max)


def _open_train(loop: OpenLoop) -> OpenTrain:
    return OpenTrain(
        loop.set_voltage,
        loop.reset_voltage,
        loop.set_width,
        loop.reset_width,
        loop.set_rate,
        loop.reset_rate,
        loop.bottom,
        loop.top,
        loop.cycle_spread,
        loop.cycle_noise,
        loop.pulse_energy == "harmonic",
    )


def _write_noise(
    value: Array, bounds: tuple[Array, Array], loop: OpenLoop, at: tuple[int, ...], source: Source
) -> Array:
    """What remains of each write, added once, within the cell's range."""
    if not loop.write_noise:
        return value
    rows = np.arange(value.shape[0], dtype=np.uint32)
    word = _word(at, PLANES)
    z = source.kernels.normals(rows, value.shape[1], key=source.key, stream=word, event=source.event)
    return np.minimum(np.maximum(value + loop.write_noise * z, bounds[0]), bounds[1])


# -- statistics ------------------------------------------------------------------------------------------------------


def statistical(
    start: Array, target: Array, traits: Traits, device: Device, programming: Programming, *, source: Source
) -> Programmed:
    """Published residual and mean pulse statistics instead of the pulse loop; still a verify.

    Cells outside their window get an error with the published standard deviation, inside the window (kernels: `settle`),
    and their share of the table's means by the steps of the ladder nearest to their conductance before and after;
    cells inside cost two verify reads and stay. Stuck cells, and cells whose own range keeps them from their window, take every pulse in vain.

    Args:
        start: conductances before, S.
        target: conductances asked for, S.
        traits: how the cells differ (`strength` is in the table: its spread, not each cell's own).
        device: the card's cells.
        programming: the card's write-verify.
        source: random numbers.
    """
    shape, table = target.shape, pulse_table(device, programming)
    arrays = (-1, *shape[4:])
    start, target = (traits.occupied(a).reshape(arrays) for a in (start, target))
    stuck = None if traits.stuck is None else traits.stuck.reshape(arrays)
    low, high = (None if b is None else b.reshape(arrays) for b in (traits.low, traits.high))
    bounds = None if low is None or high is None else (low, high)
    words = np.array([_word(at) for at in np.ndindex(shape[:4])], np.uint32)
    draws = ArrayDraws(source.key, words, source.event)
    r = source.kernels.settle(start, target, stuck, bounds, table=table.outcomes, draws=draws)
    up, down, heat = table.costs(r)
    up_slots, down_slots = (int(n) for n in r.slots.sum(axis=(0, 1), dtype=np.int64))
    missed = r.accepted.size - int(np.count_nonzero(r.accepted))
    return Programmed(
        r.value.reshape(shape),
        r.spread.reshape(shape),
        r.pulses.reshape(shape),
        r.accepted.reshape(shape),
        up,
        down,
        up + down + 2 * traits.cells(shape),
        missed,
        *heat,
        up_slots,
        down_slots,
        up_slots + down_slots + 2 * traits.word_lines(shape),
    )
