"""The specification: NumPy, float64, to be read beside the equations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels import NUMERICS, AdcRange, AdcTable, NoiseStream, philox
from crossbar_kernels.checks import check_inputs, check_table, check_weights, start
from crossbar_kernels.codes import encode, planes, sum_squares
from crossbar_kernels.outcomes import settle
from crossbar_kernels.pulses import apply_pulses, write_verify
from crossbar_kernels.vectors import (
    add_squares,
    asarray,
    decode,
    full_scales,
    joint_squares,
    like,
    normalise,
    put,
    reals,
    subtract_sums,
    take,
)

__all__ = [
    "DEVICE",
    "NUMERICS",
    "Prepared",
    "add_squares",
    "apply_pulses",
    "asarray",
    "convert",
    "decode",
    "deviation",
    "encode",
    "full_scales",
    "joint_squares",
    "like",
    "mvm",
    "normalise",
    "normals",
    "planes",
    "prepare",
    "put",
    "reals",
    "settle",
    "subtract_sums",
    "sum_squares",
    "take",
    "to_host",
    "write_verify",
]

DEVICE = "cpu"

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Prepared:
    """Weights and variances [tiles, rows, cols]; other backends add what they multiply with."""

    weights: NDArray[Any]
    variance: NDArray[Any] | None

    @property
    def tiles(self) -> int:
        """Row tiles, each with its own conversion."""
        return int(self.weights.shape[0])

    @property
    def rows(self) -> int:
        """Rows per tile."""
        return int(self.weights.shape[1])

    @property
    def cols(self) -> int:
        """Columns."""
        return int(self.weights.shape[2])


def to_host(array: NDArray[Any]) -> NDArray[Any]:
    """A result itself: it is a NumPy array."""
    return array


def normals(
    rows: NDArray[np.uint32], cols: int, *, key: tuple[int, int], stream: int, event: int
) -> NDArray[np.float32]:
    """Standard normals [len(rows), cols]; number j % 4 of counter (j // 4, row, stream, event) stands in column j."""
    groups = np.arange(-(-cols // 4), dtype=np.uint32)[None, :]
    words = philox.philox4x32(groups, rows[:, None], stream, event, *key)
    return np.stack(philox.normals(words), axis=-1).reshape(len(rows), 4 * groups.size)[:, :cols]


def prepare(weights: NDArray[Any], variance: NDArray[Any] | None = None) -> Prepared:
    """Weights w and read variances v, [tiles, rows, cols].

    Args:
        weights: int16 with |w| <= 16383, or float64.
        variance: >= 0, of the same shape and kind, in units of its own; None without noise.

    Raises:
        ValueError: shapes, kinds or values do not fit.
    """
    check_weights(weights, variance)
    return Prepared(weights.astype(np.float64), None if variance is None else variance.astype(np.float64))


def mvm(
    inputs: NDArray[Any],
    prepared: Prepared,
    *,
    adc: AdcRange | AdcTable | None,
    noise: NoiseStream | None,
    weights: Sequence[float] = (1.0,),
    out: Array | None = None,
) -> Array:
    """y_bj = sum over tiles t, planes k of w_k ADC(sum_i x_kbi w_tij + s_kbtj z_kbtj), [batch, cols].

    s = scale sqrt(sum_i x_kbi^2 v_tij): independent Gaussian noise of every cell gives exactly this Gaussian (sums of normals are
    normal); a converter's own noise adds its variance. ADC(a) = lo + rint((clip(a, lo, hi) - lo) / step) step, half to even. All steps are
    float64, in the order written, tiles before planes; with int8 inputs and int16 weights the sums over i are exact integers.

    Args:
        inputs: int8 DAC codes or digits with |x| <= 127, or float64; [planes, batch, tiles * rows], or one plane without the first axis.
        prepared: from `prepare`.
        adc: the converter at every column and tile; None converts nothing.
        noise: read noise; None reads without.
        weights: what a plane's results count, [planes].
        out: what the result is added to, in place.

    Raises:
        ValueError: shapes do not fit, or noise is asked for and no variance was prepared.
    """
    stacked = check_inputs(inputs, prepared, noise, weights)
    check_table(adc, prepared)
    x = stacked.astype(np.float64).reshape(*stacked.shape[:2], prepared.tiles, prepared.rows)
    squares = x**2
    if noise is not None and noise.squares is not None:
        squares = noise.squares.reshape(x.shape).astype(np.float64)
    y = start(out, stacked.shape[1], prepared.cols)
    for t, k in np.ndindex(prepared.tiles, len(x)):
        a = x[k, :, t] @ prepared.weights[t]
        if noise is not None:
            v = None if prepared.variance is None else squares[k, :, t] @ prepared.variance[t]
            z = normals(noise.rows, prepared.cols, key=noise.key, stream=noise.word(t, k), event=noise.event)
            a = a + deviation(v, noise, t) * z
        if adc is not None:
            a = convert(a, adc, t)
        y += weights[k] * a
    return y


def deviation(v: Array | None, noise: NoiseStream, tile: int) -> Array:
    """Standard deviation of a tile's noise from the variances v [batch, cols] of its cells (None: they have none)."""
    if v is None:
        return np.zeros(1) if noise.sigma is None else noise.sigma[tile]
    cells = noise.scale * np.sqrt(v)
    return np.asarray(cells if noise.sigma is None else np.sqrt(cells * cells + noise.sigma[tile] ** 2))


def convert(a: Array, adc: AdcRange | AdcTable, tile: int) -> Array:
    """The values that a converter gives; its codes count from the lower end, or as its table says."""
    if isinstance(adc, AdcTable):
        lo, hi, base, step, value, unit = (column[tile] for column in adc)
    else:
        (lo, hi, step), base, value, unit = adc, adc.lo, adc.lo, adc.step
    code = np.rint((np.clip(a, lo, hi) - base) / step)
    return np.asarray(value + code * unit)
