"""Targets to conductances: write-verify pulse by pulse, and its statistical shortcut."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import exp, fsum

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels import Kernels, get_kernels
from crossbar_kernels.philox import Purpose, stream
from crossbar_kernels.pulses import Draws, PulseTrain
from crossbar_sim import noise
from crossbar_sim.device import Device, Programming

Array = NDArray[np.float64]
Key = tuple[int, int]
SAMPLES = 128
"""Cells per (from, to) pair of levels in the table behind the statistical mode."""
_PLANE = stream(Purpose.PROGRAM, plane=1) - stream(Purpose.PROGRAM)


@dataclass(frozen=True)
class Programmed:
    """What programming left and took. Arrays are [tile, slice, sign, rows, cols].

    `written` in S; `settled`: standard deviation (S) that write-verify left (0 for cells that took no pulse);
    pulses per cell (expected values in the statistical mode); energies in J summed over the cells.
    """

    written: Array
    settled: NDArray[np.float32]
    pulses: NDArray[np.float32]
    set_pulses: int
    reset_pulses: int
    unconverged: int
    set_energy: float
    reset_energy: float
    verify_energy: float


def pulse_train(programming: Programming) -> PulseTrain:
    """The voltage ramps of both polarities as the kernels take them."""
    p = programming
    polarities = ((p.set_start, p.set_end, p.set_rate), (p.reset_start, p.reset_end, p.reset_rate))
    count = max(round((end - start) / p.voltage_step) for start, end, _ in polarities) + 1
    ramps = []
    for start, end, rate in polarities:
        volts = np.minimum(start + p.voltage_step * np.arange(max(count, 1)), max(start, end))
        ramps.append((volts, np.array([rate * exp((v - start) / p.slope) for v in volts])))
    (up, up_growth), (down, down_growth) = ramps
    verify = p.verify_voltage**2 * p.verify_width
    return PulseTrain(
        up, down, up_growth, down_growth, p.bottom, p.top, p.cycle_spread, p.pulse_width, verify, p.max_pulses
    )


def strengths(shape: tuple[int, ...], device: Device, kernels: Kernels, key: Key) -> Array:
    """Pulse strength of each cell, exp(strength_spread z): a property of the cell, drawn once for all time."""
    return np.exp(
        device.strength_spread * cell_normals(shape, Purpose.D2D, kernels, key, event=0).astype(np.float64)
    )


def cell_normals(
    shape: tuple[int, ...], purpose: Purpose, kernels: Kernels, key: Key, *, event: int
) -> NDArray[np.float32]:
    """One standard normal per cell, [tile, slice, sign, rows, cols], from counters of logical indices."""
    tiles, slices, signs, rows, cols = shape
    out = np.empty(shape, np.float32)
    index = np.arange(rows, dtype=np.uint32)
    for t in range(tiles):
        for s in range(slices):
            for sign in range(signs):
                word = stream(purpose, sign=sign, slice_=s, tile=t)
                out[t, s, sign] = kernels.normals(index, cols, key=key, stream=word, event=event)
    return out


def write_verify(
    start: Array,
    target: Array,
    strength: Array,
    programming: Programming,
    *,
    kernels: Kernels,
    key: Key,
    event: int,
) -> Programmed:
    """Program every cell pulse by pulse (Programming's docstring gives the law).

    Verify reads per cell: one before, one after each pulse, one to confirm (N_p + 2; Wan 2022, software). A cell already inside its
    window costs two reads and no pulse.
    """
    train = pulse_train(programming)
    tolerance = programming.window_abs + programming.window_rel * target
    written, pulses = np.empty_like(target), np.empty(target.shape, np.float32)
    totals = np.zeros(3, np.int64)
    energies: list[tuple[float, float, float]] = []
    for t, s, sign in np.ndindex(target.shape[:3]):
        draws = Draws(key, stream(Purpose.PROGRAM, sign=sign, slice_=s, tile=t), _PLANE, event)
        at = (t, s, sign)
        r = kernels.write_verify(start[at], target[at], tolerance[at], strength[at], train=train, draws=draws)
        written[at], pulses[at] = r.value, r.up + r.down
        totals += (int(r.up.sum()), int(r.down.sum()), int((~r.accepted).sum()))
        energies.append((fsum(r.up_energy), fsum(r.down_energy), fsum(r.verify_energy)))
    settled = np.where(pulses > 0, noise.residual_sigma(target, programming), 0.0)
    up, down, missed = (int(v) for v in totals)
    return Programmed(
        written,
        settled.astype(np.float32),
        pulses,
        up,
        down,
        missed,
        *(fsum(column) for column in zip(*energies, strict=True)),
    )


@dataclass(frozen=True)
class PulseStatistics:
    """Means over cells that go from level i to level j, [levels, levels]: pulses, energies (J), failure rate."""

    set_pulses: Array
    reset_pulses: Array
    set_energy: Array
    reset_energy: Array
    verify_energy: Array
    unconverged: Array


@lru_cache(maxsize=32)
def pulse_statistics(device: Device, programming: Programming) -> PulseStatistics:
    """Means of the pulse loop for every pair of levels, from SAMPLES cells each; seeded, made once per card.

    This is what makes the statistical mode agree with the pulse loop in the mean.
    """
    kernels, key = get_kernels("auto"), (0, 0)
    levels = device.g_min + device.span * np.linspace(0, 1, device.levels)
    source, goal = (np.repeat(g.ravel(), SAMPLES) for g in np.meshgrid(levels, levels, indexing="ij"))
    shape = (device.levels**2, SAMPLES)
    start, target = source.reshape(shape), goal.reshape(shape)
    strength = strengths((1, 1, 1, *shape), device, kernels, key)[0, 0, 0]
    tolerance = programming.window_abs + programming.window_rel * target
    draws = Draws(key, stream(Purpose.PROGRAM), _PLANE, 0)
    r = kernels.write_verify(start, target, tolerance, strength, train=pulse_train(programming), draws=draws)
    per_cell = (r.up.mean(1), r.down.mean(1), r.up_energy / SAMPLES, r.down_energy / SAMPLES)
    table = (*per_cell, r.verify_energy / SAMPLES, (~r.accepted).mean(1))
    return PulseStatistics(*(np.asarray(v, np.float64).reshape(device.levels, -1) for v in table))


def statistical(
    levels: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    current: Array,
    target: Array,
    z: NDArray[np.float32],
    *,
    device: Device,
    programming: Programming,
) -> Programmed:
    """Published residual and mean pulse statistics instead of the pulse loop.

    Cells whose level changes get G = target + sigma_residual z and their share of the table's means; cells whose level stays
    cost two verify reads and keep their conductance.

    Args:
        levels: level of each cell before and after.
        current: conductance before, S.
        target: target conductance, S.
        z: one standard normal per cell.
        device: the card's cells.
        programming: the card's write-verify.
    """
    before, after = levels
    changed = before != after
    sigma = noise.residual_sigma(target, programming)
    written = np.where(changed, np.maximum(target + sigma * z, 0.0), current)
    table = pulse_statistics(device, programming)
    pairs = np.bincount(
        before.ravel().astype(np.int64) * device.levels + after.ravel(), minlength=device.levels**2
    ).reshape(device.levels, device.levels)
    moved = pairs - np.diag(np.diag(pairs))
    up, down, missed = (
        int(np.rint((moved * t).sum())) for t in (table.set_pulses, table.reset_pulses, table.unconverged)
    )
    still = 2 * programming.verify_voltage**2 * programming.verify_width * float(current[~changed].sum())
    mean_pulses = (table.set_pulses + table.reset_pulses).astype(np.float32)
    return Programmed(
        written,
        np.where(changed, sigma, 0.0).astype(np.float32),
        np.where(changed, mean_pulses[before, after], np.float32(0)),
        up,
        down,
        missed,
        float((moved * table.set_energy).sum()),
        float((moved * table.reset_energy).sum()),
        float((moved * table.verify_energy).sum()) + still,
    )
