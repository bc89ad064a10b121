"""The one engine of analog products: planes, conversions, shift-add; for every mapping and both directions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels import AdcRange, AdcTable, Kernels, Multiplier, NoiseStream
from crossbar_kernels.philox import Purpose
from crossbar_sim.circuit import Periphery
from crossbar_sim.periphery import Ranges, adc_table, clipped, one_range

Array = NDArray[np.float64]
GRID = {"int15": 2**14 - 1, "int8": 127}
"""Largest integer of the conductance grid (two digits, 128 hi + lo, or one); `exact` has none."""
VARIANCE_STEPS = 2**14 - 1
"""Largest integer of the grid of read variances."""


class Matrices(NamedTuple):
    """A matrix as it is read in one direction, in units of the span g_max - g_min.

    Attributes:
        weights: [slice, sign, tile, rows, columns]; one sign where a pair's currents are subtracted before conversion.
        variance: of one read, the same shape; None without read noise.
        coefficients: what a slice's result counts, per slice; the second sign counts negatively.
        offset: subtracted per unit of the summed inputs, digitally.
        lines: conductance of all cells on a driven line, S, [inputs].
    """

    weights: Array
    variance: Array | None
    coefficients: tuple[float, ...]
    offset: float
    lines: Array


@dataclass(frozen=True)
class Operand:
    """Matrices on the chip's grid, handed to the kernels; the other fields as in Matrices.

    `prepared` [slice][sign]; one integer stands for `unit`, and `noise_scale` turns the root of the variance grid into such integers. `base`: which
    unit column belongs to each output, [outputs]; None without unit columns.
    """

    prepared: tuple[tuple[Any, ...], ...]
    unit: float
    noise_scale: float
    coefficients: tuple[float, ...]
    offset: float
    lines: Array
    base: NDArray[np.intp] | None = None

    @cached_property
    def digest(self) -> str:
        """Tells the lines' conductances from any others."""
        return blake2b(self.lines.tobytes(), digest_size=16).hexdigest()


class Reading(NamedTuple):
    """What identifies the draws of a read: absolute row per vector, key, purpose, event."""

    rows: NDArray[np.uint32]
    key: tuple[int, int]
    purpose: Purpose
    event: int


class Errors(NamedTuple):
    """Offset (codes) and relative gain of every column's ADC, each [tiles, columns]."""

    offset: Array
    gain: Array


class Conversion(NamedTuple):
    """The converters of one slice and sign, in units of one code times one integer of the grid (None: ideal), and their own noise.

    `sigma`: standard deviation [tiles, columns] in the same units; None: no noise.
    """

    adc: AdcRange | AdcTable | None
    sigma: Array | None


class Driven(NamedTuple):
    """What drives the lines and is converted by itself.

    Attributes:
        inputs: [planes, vectors, tiles * lines].
        weights: what a plane's results count.
        squares: sums of squared digits that multiply the read variances [vectors, tiles * lines]; None: the squared inputs.
    """

    inputs: NDArray[Any]
    weights: tuple[float, ...]
    squares: NDArray[Any] | None


def operand(matrices: Matrices, grid: str, kernels: Kernels, base: NDArray[np.intp] | None = None) -> Operand:
    """Put a matrix and its read variances on the chip's grid, one unit for all slices and signs.

    The kernels take weights of several slices one by one; without a grid (`exact`) the unit is 1.
    """
    steps = GRID.get(grid)
    weights, variance = matrices.weights, matrices.variance
    unit = variance_unit = 1.0
    if steps is not None:
        unit = float(np.abs(weights).max()) / steps or 1.0
        weights = np.rint(weights / unit).astype(np.int16)
        if variance is not None:
            variance_unit = float(variance.max()) / VARIANCE_STEPS or 1.0
            variance = np.rint(variance / variance_unit).astype(np.int16)
    prepared = tuple(
        tuple(
            kernels.prepare(w, None if variance is None else variance[s, sign])
            for sign, w in enumerate(per_slice)
        )
        for s, per_slice in enumerate(weights)
    )
    scale = 0.0 if variance is None else float(np.sqrt(variance_unit)) / unit
    return Operand(prepared, unit, scale, matrices.coefficients, matrices.offset, matrices.lines, base)


def multiply(
    held: Operand,
    driven: Driven,
    conversions: Sequence[Sequence[Conversion]],
    *,
    reading: Reading,
    arithmetic: Multiplier,
    kernels: Kernels,
) -> Array:
    """X D of padded codes X, in units of one code times one integer of the grid (`held.unit` full-scale weights): [vectors, columns].

    sum over slices s and signs, in each over tiles and planes k, of +-u_s 2^(d k) ADC(sum_i digit_i g_i + noise), summed digitally.

    Args:
        held: the matrix.
        driven: what drives the lines.
        conversions: the converters, [slice][sign].
        reading: which draws.
        arithmetic: what multiplies, converts and sums over tiles and planes.
        kernels: what does the rest, where the arrays lie.
    """
    total: Array | None = None
    for s, (per_sign, u) in enumerate(zip(held.prepared, held.coefficients, strict=True)):
        for sign, prepared in enumerate(per_sign):
            adc, sigma = conversions[s][sign]
            noise = None
            if held.noise_scale or sigma is not None:
                noise = NoiseStream(held.noise_scale, *reading, driven.squares, sign, s, 0, sigma)
            weights = [-u * weight if sign else u * weight for weight in driven.weights]
            total = arithmetic.mvm(driven.inputs, prepared, adc=adc, noise=noise, weights=weights, out=total)
    assert total is not None  # there is a slice
    if held.offset:
        kernels.subtract_sums(total, driven.inputs, driven.weights, held.offset / held.unit)
    return total


def accumulated(
    codes: NDArray[Any], digits: NDArray[Any], converters: Periphery, kernels: Kernels, *, noisy: bool = False
) -> Driven:
    """What is converted by itself of codes [vectors, lines] with the planes `digits` [planes, vectors, lines].

    Planes that are accumulated in analog (acc <- (acc + part)/2^d) make one conversion of the whole code whose noise is that of all
    plane reads: variance sum_k 4^(d k) sum_i digit_ik^2 sigma_i^2.
    """
    places = [converters.plane_bits * k for k in range(len(digits))]
    if len(digits) == 1 or converters.accumulate == "digital":
        return Driven(kernels.reals(digits), tuple(float(2**place) for place in places), None)
    squares = None
    if noisy:
        squares = kernels.joint_squares(digits, bits=converters.plane_bits, largest=converters.dac_scale)
    return Driven(kernels.reals(codes)[None], (1.0,), squares)


def _drive(converters: Periphery) -> float:
    """The largest input of one conversion: the digit of a plane, the code, or 1 without a DAC."""
    if not converters.dac_bits:
        return 1.0
    digital_planes = converters.plane_bits and converters.accumulate == "digital"
    return float(2**converters.plane_bits - 1 if digital_planes else converters.dac_scale)


def conversions(
    held: Operand, converters: Periphery, ranges: Ranges, errors: Errors | None, kernels: Kernels
) -> tuple[tuple[Conversion, ...], ...]:
    """The converters of a matrix, [slice][sign], from the ADC's ends and its offset and gain errors (None: none); arrays for `kernels`."""
    per_step = _drive(converters) / held.unit

    def conversion(s: int, sign: int, shape: tuple[int, int]) -> Conversion:
        adc = _adc(converters, ranges.at(s, sign, *shape), errors, per_step, shape)
        sigma = None
        if adc is not None and converters.adc_noise:
            sigma = kernels.asarray(np.full(shape, converters.adc_noise) * adc.step)
        if isinstance(adc, AdcTable):
            adc = AdcTable(*(kernels.asarray(column) for column in adc))
        return Conversion(adc, sigma)

    return tuple(
        tuple(conversion(s, k, (prepared.tiles, prepared.cols)) for k, prepared in enumerate(per_sign))
        for s, per_sign in enumerate(held.prepared)
    )


def _adc(
    converters: Periphery,
    ends: tuple[Array, Array],
    errors: Errors | None,
    per_step: float,
    shape: tuple[int, int],
) -> AdcRange | AdcTable | None:
    if not converters.adc_bits:
        return None
    low, high = ends[0] * per_step, ends[1] * per_step
    if low.size == 1 and errors is None and not converters.column_clip:
        return one_range(low, high, converters.adc_bits)
    offset, gain = (np.zeros(shape), 0.0) if errors is None else errors
    table = adc_table(low, high, converters.adc_bits, offset=offset, gain=gain)
    return clipped(table, converters.column_clip * per_step) if converters.column_clip else table


def analog_sums(
    matrices: Matrices, driven: Driven, converters: Periphery
) -> Iterator[tuple[int, int, Array]]:
    """What the converters would see without noise, in the units of `Ranges`: (slice, sign, [vectors, tile, column])."""
    slices, signs, tiles, rows, _ = matrices.weights.shape
    x = driven.inputs.astype(np.float64).reshape(-1, tiles, rows) / _drive(converters)
    for s, sign in np.ndindex(slices, signs):
        yield s, sign, np.einsum("vtr,trc->vtc", x, matrices.weights[s, sign], optimize=True)
