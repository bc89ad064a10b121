"""What the pulse loop costs and leaves in the mean, by where a cell starts and where it goes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, exp, fsum

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels import get_kernels
from crossbar_kernels.outcomes import Outcomes, Settled
from crossbar_kernels.philox import Purpose, stream
from crossbar_kernels.pulses import Draws, PulseResult, PulseTrain, end_steps
from crossbar_sim.device import Device, Programming

Array = NDArray[np.float64]
SAMPLES = 128
"""Cells per (from, to) pair of ladder steps."""
LADDER = 32
"""Most steps of the ladder of targets; devices with more levels, or with none, use this many conductances."""
FINE = 4
"""How much denser the ladder of conductances before a write is: cells that relaxed are seldom on a level."""


def pulse_train(programming: Programming) -> PulseTrain:
    """The voltage ramps of both polarities as the kernels take them."""
    p = programming
    polarities = ((p.set_start, p.set_end, p.set_rate), (p.reset_start, p.reset_end, p.reset_rate))
    steps = max(ceil((end - start) / p.voltage_step - 1e-9) for start, end, _ in polarities)
    ramps = []
    for start, end, rate in polarities:
        volts = np.minimum(start + p.voltage_step * np.arange(max(steps, 0) + 1), max(start, end))
        ramps.append((volts, np.array([rate * exp((v - start) / p.slope) for v in volts])))
    (up, up_growth), (down, down_growth) = ramps
    return PulseTrain(
        up_drive=up,
        down_drive=down,
        up_growth=up_growth,
        down_growth=down_growth,
        bottom=p.bottom,
        top=p.top,
        spread=p.cycle_spread,
        width=p.pulse_width,
        verify=p.verify_voltage**2 * p.verify_width,
        max_pulses=p.max_pulses,
        compliance=p.compliance,
        max_reversals=p.max_reversals,
        max_end_pulses=p.max_end_pulses,
        harmonic=p.pulse_energy == "harmonic",
    )


@dataclass(frozen=True)
class PulseTable:
    """Means over cells that go from step i of the dense ladder to step j of the targets', [i, j]: pulses and energies (J).

    `outcomes` is what the kernels draw from. Cells that cannot move spend all pulses of one polarity; `train` says how many.
    """

    outcomes: Outcomes
    set_pulses: Array
    reset_pulses: Array
    set_energy: Array
    reset_energy: Array
    verify_energy: Array
    train: PulseTrain

    def costs(self, done: Settled) -> tuple[int, int, tuple[float, float, float]]:
        """SET pulses, RESET pulses and the energies (J) of SET, RESET and verify that a write by this table takes.

        The pulses in vain dissipate at the mean conductance of the cells that take them (exact without compliance).
        """
        vain = done.vain_count.sum(axis=(0, 1))
        held = [fsum(done.vain_sum[..., side].ravel()) for side in (0, 1)]
        most = (self.outcomes.most_up, self.outcomes.most_down)
        pulses = [
            int(np.rint((done.moves * mean).sum())) + int(vain[side]) * most[side]
            for side, mean in enumerate((self.set_pulses, self.reset_pulses))
        ]
        heat = [
            float((done.moves * mean).sum()) + self._vain_heat(side, int(vain[side]), held[side])
            for side, mean in enumerate((self.set_energy, self.reset_energy))
        ]
        reads = 2 * fsum(done.kept.ravel()) + sum((most[side] + 2) * held[side] for side in (0, 1))
        verify = float((done.moves * self.verify_energy).sum()) + self.train.verify * reads
        return pulses[0], pulses[1], (heat[0], heat[1], verify)

    def _vain_heat(self, side: int, cells: int, held: float) -> float:
        """Dissipation (J) of all pulses of one polarity in cells that do not move; `held`: the sum of their conductances."""
        if not cells:
            return 0.0
        train, mean = self.train, held / cells
        drive = _whole_ramp(side, train)
        current = drive * mean
        if train.compliance and side == 0:
            current = np.minimum(current, train.compliance)
        return cells * float((drive * current).sum()) * train.width


def _whole_ramp(side: int, train: PulseTrain) -> Array:
    """Amplitudes (V) of every pulse that a cell takes that never moves."""
    drive = (train.up_drive, train.down_drive)[side]
    limit = end_steps(train)[side] + train.max_end_pulses if train.max_end_pulses else train.max_pulses
    return drive[np.minimum(np.arange(min(limit, train.max_pulses)), len(drive) - 1)]


def ladder(device: Device) -> Array:
    """Conductances (S) by which pulse statistics are kept: the levels where they are few enough."""
    steps = device.levels if 2 <= device.levels <= LADDER else LADDER
    return device.g_min + device.span * np.linspace(0, 1, steps)


@lru_cache(maxsize=32)
def pulse_table(device: Device, programming: Programming) -> PulseTable:
    """The pulse loop on SAMPLES cells for every pair of ladder steps; seeded, made once per card.

    This is what makes the statistical mode agree with the pulse loop in the mean.
    """
    steps, train = ladder(device), pulse_train(programming)
    shape = (FINE * (len(steps) - 1) + 1, len(steps))
    target = np.repeat(np.tile(steps, shape[0]), SAMPLES).reshape(-1, SAMPLES)
    tolerance = programming.window_abs + programming.window_rel * target
    before = device.g_min + device.span * np.linspace(0, 1, shape[0])
    start = _starts(np.repeat(before, shape[1])[:, None], target, tolerance, 0.5 * (before[1] - before[0]))
    r = _loop(start, target, tolerance, device, train)
    missed = ~r.accepted
    share = missed.mean(axis=1)
    away = (np.abs(r.value - target) / tolerance * missed).mean(axis=1)
    up, down = (np.asarray(v.mean(1), np.float64).reshape(shape) for v in (r.up, r.down))
    heat = [e.reshape(shape) / SAMPLES for e in (r.up_energy, r.down_energy, r.verify_energy)]
    outcomes = Outcomes(
        first=device.g_min,
        spacing=device.span / (shape[1] - 1),
        fine=FINE,
        pulses=(up + down).astype(np.float32),
        failure=share.reshape(shape),
        miss=np.where(share > 0, away / np.where(share > 0, share, 1.0), 1.0).reshape(shape),
        up=r.up.astype(np.uint8).reshape(*shape, SAMPLES),
        down=r.down.astype(np.uint8).reshape(*shape, SAMPLES),
        most_up=len(_whole_ramp(0, train)),
        most_down=len(_whole_ramp(1, train)),
        window=(programming.window_abs, programming.window_rel),
        residual=np.array(programming.residual, np.float64),
    )
    return PulseTable(outcomes, up, down, heat[0], heat[1], heat[2], train)


def _starts(start: Array, target: Array, tolerance: Array, half: float) -> Array:
    """Where the cells of the table start: on their step, or, where that is inside the window, beside it and outside.

    Such cells are spread evenly over the rest of their step (`half` its half-width), half of them above the target and half below.
    """
    farthest = np.maximum(half, 1.5 * tolerance)
    share = (np.arange(SAMPLES) // 2 + 0.5) / (SAMPLES // 2)
    side = np.where(np.arange(SAMPLES) % 2, 1.0, -1.0)
    beside = np.maximum(target + side * (tolerance + share * (farthest - tolerance)), 0.0)
    return np.where(np.abs(start - target) <= tolerance, beside, start)


def _loop(start: Array, target: Array, tolerance: Array, device: Device, train: PulseTrain) -> PulseResult:
    """The pulse loop on cells of nominal bounds whose strengths are spread as the card's."""
    kernels, key = get_kernels("auto"), (0, 0)
    rows, cols = start.shape
    z = kernels.normals(np.arange(rows, dtype=np.uint32), cols, key=key, stream=stream(Purpose.D2D), event=0)
    strength = np.exp(device.strength_spread * z.astype(np.float64))
    plane = stream(Purpose.PROGRAM, plane=1) - stream(Purpose.PROGRAM)
    draws = Draws(key, stream(Purpose.PROGRAM), plane, 0)
    return kernels.write_verify(start, target, tolerance, strength, train=train, draws=draws)
