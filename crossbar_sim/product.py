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

    `prepared` [slice][sign]; one integer stands for `unit`, and `noise_scale` turns the root of the variance grid into such integers.
    """

    prepared: tuple[tuple[Any, ...], ...]
    unit: float
    noise_scale: float
    coefficients: tuple[float, ...]
    offset: float
    lines: Array

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


def operand(matrices: Matrices, grid: str, kernels: Kernels) -> Operand:
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
    return Operand(prepared, unit, scale, matrices.coefficients, matrices.offset, matrices.lines)


def multiply(
    held: Operand,
    planes: Sequence[NDArray[Any]],
    *,
    converters: Periphery,
    ranges: Ranges,
    errors: Errors | None,
    reading: Reading,
    arithmetic: Multiplier,
) -> Array:
    """X D of padded codes X, in units of one code times a full-scale weight: [vectors, columns].

    sum over slices s, signs and planes k of +-u_s 2^(d k) ADC(sum_i digit_i g_i + noise), each per tile and summed digitally; planes that
    are accumulated in analog (acc <- (acc + part)/2^d) make one conversion of the whole code whose noise is that of all
    plane reads: variance sum_k 4^(d k) sum_i digit_ik^2 sigma_i^2.

    Args:
        held: the matrix.
        planes: digits [vectors, tiles * rows], least significant first; one plane: the codes themselves.
        converters: the chip's periphery.
        ranges: the ADC's ends.
        errors: its offset and gain errors; None: none.
        reading: which draws.
        arithmetic: what multiplies, converts and sums over the tiles.
    """
    parts = list(_parts(planes, converters))
    total: float | Array = 0.0
    for s, (per_sign, u) in enumerate(zip(held.prepared, held.coefficients, strict=True)):
        for sign, prepared in enumerate(per_sign):
            tiles, columns = prepared.tiles, prepared.cols
            ends = ranges.at(s, sign, tiles, columns)
            adc = _adc(converters, ends, errors, _drive(converters) / held.unit, (tiles, columns))
            for k, (weight, inputs, squares) in enumerate(parts):
                noise = _noise(held, reading, squares)
                if noise is not None:
                    noise = noise._replace(sign=sign, slice_=s, plane=k)
                y = arithmetic.mvm(inputs, prepared, adc=adc, noise=noise)
                total = total + y * (u * weight if sign == 0 else -u * weight)
    result = np.asarray(total) * held.unit
    if held.offset:
        sums = sum(weight * inputs.sum(1, dtype=np.float64) for weight, inputs, _ in parts)
        result -= held.offset * np.asarray(sums)[:, None]
    return result


def _parts(
    planes: Sequence[NDArray[Any]], converters: Periphery
) -> Iterator[tuple[float, NDArray[Any], NDArray[Any] | None]]:
    """What is converted by itself: (weight, inputs, squares that multiply the read variances or None)."""
    d = converters.plane_bits
    if len(planes) == 1:
        yield 1.0, _narrow(planes[0]), None
    elif converters.accumulate == "digital":
        for k, plane in enumerate(planes):
            yield float(2 ** (d * k)), _narrow(plane), None
    else:
        code = sum(plane.astype(np.int32) << (d * k) for k, plane in enumerate(planes))
        squares = sum(plane.astype(np.int64) ** 2 << (2 * d * k) for k, plane in enumerate(planes))
        yield 1.0, _narrow(np.asarray(code)), _fitting(np.asarray(squares))


def _narrow(codes: NDArray[Any]) -> NDArray[Any]:
    """Codes as the kernels take them: int8 where they fit, else float64."""
    if codes.dtype in (np.int8, np.float64):
        return codes
    fits = not codes.size or np.abs(codes).max() <= 127
    return codes.astype(np.int8 if fits else np.float64)


def _fitting(squares: NDArray[Any]) -> NDArray[Any]:
    return squares.astype(np.int16 if not squares.size or squares.max() <= VARIANCE_STEPS else np.float64)


def _drive(converters: Periphery) -> float:
    """The largest input of one conversion: the digit of a plane, the code, or 1 without a DAC."""
    if not converters.dac_bits:
        return 1.0
    digital_planes = converters.plane_bits and converters.accumulate == "digital"
    return float(2**converters.plane_bits - 1 if digital_planes else converters.dac_scale)


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


def _noise(held: Operand, reading: Reading, squares: NDArray[Any] | None) -> NoiseStream | None:
    if held.noise_scale == 0.0:
        return None
    return NoiseStream(held.noise_scale, *reading, squares)


def analog_sums(
    matrices: Matrices, planes: Sequence[NDArray[Any]], converters: Periphery
) -> Iterator[tuple[int, int, Array]]:
    """What the converters would see without noise, in the units of `Ranges`: (slice, sign, [vectors, tile, column])."""
    slices, signs, tiles, rows, _ = matrices.weights.shape
    parts = [inputs for _, inputs, _ in _parts(planes, converters)]
    x = np.concatenate(parts).astype(np.float64).reshape(-1, tiles, rows) / _drive(converters)
    for s, sign in np.ndindex(slices, signs):
        yield s, sign, np.einsum("vtr,trc->vtc", x, matrices.weights[s, sign], optimize=True)
