"""What time and reading do to conductances: pure functions, SI units."""

from __future__ import annotations

from math import log

import numpy as np
from numpy.polynomial import polynomial
from numpy.typing import NDArray

from crossbar_sim.device import Programming, ReadNoise, Relaxation

Array = NDArray[np.float64]


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


def read_sigma(conductance: Array, age: float | Array, noise: ReadNoise) -> Array:
    """Standard deviation (S) of one read of each cell, `age` s after programming (docs: ReadNoise)."""
    sigma = np.full(conductance.shape, noise.constant)
    if noise.log10_slope:
        micro = np.maximum(conductance, 1e-6) / 1e-6
        growth = np.sqrt(np.log((age + noise.read_time) / (2 * noise.read_time)))
        sigma += noise.log10_slope * np.log10(micro) * growth
    return sigma
