"""Converters: the signed DAC and the ADC, and how their ranges are set."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossbar_sim.errors import CalibrationError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ranges:
    """Full scales of one array's converters.

    `dac`: the input that drives the largest code. `adc_low`, `adc_high`: the ADC's ends, in units of a
    full-scale input times a full-scale weight.
    """

    dac: float
    adc_low: float
    adc_high: float

    def __post_init__(self) -> None:
        if not (self.dac > 0 and np.isfinite(self.dac)):
            raise CalibrationError(f"Ranges.dac: must be positive and finite (got {self.dac:g})")
        if not self.adc_low < self.adc_high:
            raise CalibrationError(
                f"Ranges.adc_high: must exceed adc_low (got {self.adc_high:g} <= {self.adc_low:g})"
            )


def dac_codes(x: Array, full_scale: float, scale: int) -> NDArray[np.int8]:
    """Signed DAC codes: rint((clip(x/full_scale, -1, 1) + 1) K) - K, half to even, in [-K, K]."""
    return (np.rint((np.clip(x / full_scale, -1.0, 1.0) + 1.0) * scale) - scale).astype(np.int8)


def zero_centred(low: float, high: float, bits: int) -> tuple[float, float]:
    """An ADC range that covers [low, high] and has 0 among its 2^bits codes.

    hi = k D, lo = -(2^bits - 1 - k) D with integer k and the smallest such step D.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if low == high == 0.0:
        low, high = -1.0, 1.0
    top = 2**bits - 1
    ideal = top * high / (high - low)
    fewest, most = (1 if high > 0 else 0), (top - 1 if low < 0 else top)
    step, k = min(
        (max(high / k if k else 0.0, -low / (top - k) if k < top else 0.0), k)
        for k in (min(max(round_(ideal), fewest), most) for round_ in (math.floor, math.ceil))
    )
    return -(top - k) * step, k * step


def adc_codes(low: float, high: float, bits: int) -> tuple[float, float, float]:
    """Ends and step of an ADC on [low, high]; where 0 is a code (within rounding), lo + code * step is exactly 0 there."""
    steps = 2**bits - 1
    step = (high - low) / steps
    below = -low / step
    if abs(below - round(below)) < 1e-9 * steps:
        below = round(below)
    return -below * step, (steps - below) * step, step


def power_of_two(size: float) -> float:
    """The smallest power of two that is at least `size` (1 for a size that is 0 or not finite)."""
    if not math.isfinite(size) or size <= 0:
        return 1.0
    return 2.0 ** math.ceil(math.log2(size))
