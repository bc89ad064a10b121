"""What time, reading and faults do to conductances: pure functions, SI units (docs/physics.md has the equations)."""

from __future__ import annotations

from math import log

import numpy as np
from numpy.polynomial import polynomial
from numpy.typing import NDArray

from crossbar_sim.device import Device, Drift, Faults, Programming, ReadNoise, Relaxation

Array = NDArray[np.float64]
LEAST_RATIO = 1e-7
"""Smallest G/reference that laws in ln(G/reference) and powers of it are asked for."""


def residual_sigma(target: Array, programming: Programming) -> Array:
    """Standard deviation (S) that write-verify leaves about the target."""
    return np.asarray(polynomial.polyval(target, programming.residual), np.float64)


def _between(age: float, times: tuple[float, ...]) -> tuple[int, float]:
    """Index and weight for an interpolation linear in ln t, held outside the times."""
    x = np.log(times)
    position = np.interp(log(age), x, np.arange(len(times)))
    index = min(int(position), len(times) - 2) if len(times) > 1 else 0
    return index, float(position - index)


def relaxation_table(
    age: float, rows: tuple[tuple[float, ...], ...], u: Array, times: tuple[float, ...]
) -> Array:
    """Polynomials in u at `age` s: linear in ln t between the rows' times, held after the last."""
    index, weight = _between(age, times)
    early = polynomial.polyval(u, rows[index])
    if weight == 0.0:
        return np.asarray(early, np.float64)
    late = polynomial.polyval(u, rows[index + 1])
    return np.asarray(early + weight * (late - early), np.float64)


def total_sigma(target: Array, age: float, relaxation: Relaxation) -> Array:
    """Published standard deviation (S) of the total error about the target, `age` s after programming."""
    if not relaxation.times:
        return np.zeros_like(target)
    u = target / relaxation.reference
    return np.maximum(relaxation_table(age, relaxation.sigma, u, relaxation.times), 0.0)


def mean_shift(target: Array, age: float, relaxation: Relaxation) -> Array:
    """Published mean shift (S) `age` s after programming."""
    if not relaxation.times:
        return np.zeros_like(target)
    return relaxation_table(age, relaxation.mean, target / relaxation.reference, relaxation.times)


def relaxed(
    written: Array, z: NDArray[np.float32], settled: NDArray[np.float32], total: Array, mean: Array
) -> Array:
    """G(t) = max(0, G_written + mu(t) + sigma_rel(t) z).

    sigma_rel^2 = max(0, sigma_total^2 - sigma_residual^2): relaxation supplies what the write-verify residual
    (`settled`, its standard deviation, 0 for a cell that took no pulse) has not.
    """
    spread = np.sqrt(np.maximum(total * total - settled * settled, 0.0))
    return np.maximum(written + mean + spread * z, 0.0)


def drift_exponent(target: Array, z: NDArray[np.float32], drift: Drift) -> Array:
    """Nu = |mu(r) + sigma(r) z|, r = G_target/reference; mu and sigma are clip(a ln r + b, low, high) (Joshi 2020)."""
    ratio = np.log(np.maximum(target / drift.reference, LEAST_RATIO))
    mu, sigma = (np.clip(a * ratio + b, low, high) for a, b, low, high in (drift.mu, drift.sigma))
    return np.abs(mu + sigma * z)


def drift_factor(exponent: Array, age: float, drift: Drift) -> Array:
    """((t + t0)/t0)^-nu, `age` = t s after programming."""
    return np.exp(-exponent * log((age + drift.start) / drift.start))


def read_sigma(
    conductance: Array, age: float | Array, noise: ReadNoise, target: Array | None = None
) -> Array:
    """Standard deviation (S) of one read of each cell (device.ReadNoise has the laws).

    Args:
        conductance: present conductance, S.
        age: time since programming, s; broadcasts against the conductances.
        noise: the card's law.
        target: conductance that the cell was programmed to, S; the flicker law takes it (default: the present one).
    """
    sigma = np.full(conductance.shape, noise.constant)
    if not (noise.log10_slope or noise.flicker):
        return sigma
    growth = np.sqrt(np.log((age + noise.delay + noise.read_time) / (2 * noise.read_time)))
    if noise.log10_slope:
        micro = np.maximum(conductance, 1e-6) / 1e-6
        return np.asarray(noise.log10_slope * np.log10(micro) * growth)
    ratio = np.maximum((conductance if target is None else target) / noise.reference, LEAST_RATIO)
    share = np.minimum(noise.cap, noise.flicker / ratio**noise.exponent)
    return np.asarray(conductance * share * growth)


def stuck_conductance(decides: Array, undefined: Array, faults: Faults, device: Device) -> Array:
    """Conductance (S) of stuck cells, NaN for healthy ones.

    Args:
        decides: uniform in (0, 1): below `stuck_low` the cell is stuck at g_min, then at g_max, then undefined.
        undefined: uniform in (0, 1): where between g_min and g_max an undefined cell sits.
        faults: shares of the three kinds.
        device: the range.
    """
    low, high = faults.stuck_low, faults.stuck_low + faults.stuck_high
    stuck = np.full(decides.shape, np.nan)
    between = decides < faults.rate
    stuck[between] = device.g_min + device.span * undefined[between]
    stuck[decides < high] = device.g_max
    stuck[decides < low] = device.g_min
    return stuck


def own_range(z_low: NDArray[np.float32], z_high: NDArray[np.float32], device: Device) -> tuple[Array, Array]:
    """Lowest and highest conductance (S) of each cell: g_min, g_max plus spread x span x z.

    A bound stays on its own side of the middle of the range, and at or above 0, so that low <= high always (the same
    convention as Gong and Rasch 2022's devices in aihwkit, whose bounds never change sign on [-1, 1]).
    """
    middle = device.g_min + 0.5 * device.span
    low = device.g_min + device.low_spread * device.span * z_low.astype(np.float64)
    high = device.g_max + device.high_spread * device.span * z_high.astype(np.float64)
    return np.clip(low, 0.0, middle), np.maximum(high, middle)


def lives(z: NDArray[np.float32], device: Device) -> Array:
    """Pulses that each cell survives: two per cycle, median x 10^(decades z) cycles."""
    return np.asarray(2.0 * device.endurance * 10.0 ** (device.endurance_decades * z.astype(np.float64)))
