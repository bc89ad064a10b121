"""Converters: codes, planes and the ADC, and how their ranges are set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels import AdcRange, AdcTable, Kernels
from crossbar_sim.circuit import Periphery
from crossbar_sim.errors import CalibrationError, MappingError

Array = NDArray[np.float64]
Codes = NDArray[np.signedinteger[Any]]


@dataclass(frozen=True, eq=False)
class Ranges:
    """Full scales of one array's converters.

    `dac`: the input that drives the largest code. `adc_low`, `adc_high`: the ADC's ends, in units of a full-scale drive (largest
    code, or largest digit of a plane that is converted by itself) times a full-scale cell (g_max - g_min): one number,
    or an array that broadcasts to [slice, sign, tile, column]. Symmetric ends (-a, a) make a mid-rise ADC, which has no code 0.
    """

    dac: float
    adc_low: float | Array
    adc_high: float | Array

    def __post_init__(self) -> None:
        if not (self.dac > 0 and np.isfinite(self.dac)):
            raise CalibrationError(f"Ranges.dac: must be positive and finite (got {self.dac:g})")
        if not np.all(np.less(self.adc_low, self.adc_high)):
            raise CalibrationError(
                f"Ranges.adc_high: must exceed adc_low (got {np.min(self.adc_high):g} <= {np.max(self.adc_low):g})"
            )

    def widened(self, inputs: float, sums: float) -> Ranges:
        """The ranges for inputs, and for sums of full-scale inputs, so many times larger; 0 stays a code."""
        return Ranges(self.dac * inputs, self.adc_low * sums, self.adc_high * sums)

    def at(self, slice_: int, sign: int, tiles: int, columns: int) -> tuple[Array, Array]:
        """The ends at each tile and column, [tiles, columns], or one number each, [1, 1]."""
        low, high = (np.asarray(end, np.float64) for end in (self.adc_low, self.adc_high))
        if not low.ndim and not high.ndim:
            return low.reshape(1, 1), high.reshape(1, 1)
        low, high = np.broadcast_arrays(low, high)
        low, high = (end.reshape((1,) * (4 - end.ndim) + end.shape) for end in (low, high))
        chosen = (end[slice_ if len(end) > 1 else 0] for end in (low, high))
        low, high = (end[sign if len(end) > 1 else 0] for end in chosen)
        return tuple(np.broadcast_to(end, (tiles, columns)) for end in (low, high))  # type: ignore[return-value]


def finite(x: NDArray[Any], name: str) -> NDArray[np.floating[Any]]:
    """Vectors [v, n] for the array called `name`: float32 as they are, others as float64.

    Raises:
        MappingError: a value is not finite; a DAC has no code for it.
    """
    if not np.isfinite(x).all():
        first = int(np.flatnonzero(~np.isfinite(x).all(axis=1))[0])
        raise MappingError(
            f"array {name!r}: inputs hold values that are not finite (vector {first}); the DAC has no code for them"
        )
    return x if x.dtype == np.float32 else x.astype(np.float64, copy=False)


def dac_codes(
    x: NDArray[np.floating[Any]],
    full_scale: float | Array,
    converters: Periphery,
    kernels: Kernels,
    *,
    width: int | None = None,
) -> Codes:
    """DAC codes of vectors [v, n], padded with zeros to [v, width] (kernels' `encode` gives the formula).

    Args:
        x: inputs.
        full_scale: what the largest code stands for, one number or one per vector [v, 1].
        converters: the periphery.
        kernels: the arithmetic.
        width: lines to drive; default: n.
    """
    return kernels.encode(
        x,
        np.full(len(x), full_scale) if isinstance(full_scale, int | float) else full_scale.reshape(-1),
        largest=converters.dac_scale,
        signed=converters.signed,
        width=x.shape[1] if width is None else width,
    )


def planes(codes: Codes, converters: Periphery, kernels: Kernels) -> Codes:
    """The digits of the codes' magnitudes with the codes' signs, least significant plane first, [planes, v, width]."""
    if not converters.plane_bits:
        return codes[None]
    return kernels.planes(codes, bits=converters.plane_bits, count=converters.planes)


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


def adc_table(low: Array, high: Array, bits: int, *, offset: Array | float, gain: Array | float) -> AdcTable:
    """Converters on [low, high], each [tiles, columns], with an offset (codes) and a relative gain error.

    A converter with errors sees (1 + gain) a + offset * step and reports codes as if it had none.
    """
    top = 2**bits - 1
    step = (high - low) / top
    below = -low / step
    below = np.where(np.abs(below - np.rint(below)) < 1e-9 * top, np.rint(below), below)
    base = (-below - offset) * step / (1.0 + gain)
    seen = step / (1.0 + gain)
    shape = np.broadcast_shapes(base.shape, seen.shape)
    columns = (base, base + top * seen, base, seen, -below * step, step)
    return AdcTable(*(np.ascontiguousarray(np.broadcast_to(c, shape), np.float64) for c in columns))


def clipped(adc: AdcTable, limit: float) -> AdcTable:
    """The same converters behind a column that delivers at most `limit` in either direction."""
    low, high = (np.clip(np.clip(end, -limit, limit), adc.lo, adc.hi) for end in (adc.lo, adc.hi))
    return adc._replace(lo=low, hi=high)


def one_range(low: Array, high: Array, bits: int) -> AdcRange:
    """One converter for all tiles and columns."""
    return AdcRange(*adc_codes(float(low[0, 0]), float(high[0, 0]), bits))
