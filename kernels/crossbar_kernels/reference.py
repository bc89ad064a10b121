"""The specification: NumPy, float64, to be read beside the equations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels import NUMERICS, AdcRange, AdcTable, NoiseStream, philox
from crossbar_kernels.codes import encode, sum_squares
from crossbar_kernels.outcomes import settle
from crossbar_kernels.pulses import apply_pulses, write_verify

__all__ = [
    "NUMERICS",
    "Prepared",
    "apply_pulses",
    "check_inputs",
    "check_table",
    "check_weights",
    "convert",
    "encode",
    "mvm",
    "normals",
    "prepare",
    "settle",
    "sum_squares",
    "write_verify",
]

Array = NDArray[np.float64]
LARGEST = 2**14 - 1
"""Largest integer of the weight and variance grids."""


@dataclass(frozen=True)
class Prepared:
    """Weights and variances [tiles, rows, cols]."""

    weights: Array
    variance: Array | None

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


def normals(
    rows: NDArray[np.uint32], cols: int, *, key: tuple[int, int], stream: int, event: int
) -> NDArray[np.float32]:
    """Standard normals [len(rows), cols]; number j % 4 of counter (j // 4, row, stream, event) stands in column j."""
    groups = np.arange(-(-cols // 4), dtype=np.uint32)[None, :]
    words = philox.philox4x32(groups, rows[:, None], stream, event, *key)
    return np.stack(philox.normals(words), axis=-1).reshape(len(rows), -1)[:, :cols]


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
    inputs: NDArray[Any], prepared: Prepared, *, adc: AdcRange | AdcTable | None, noise: NoiseStream | None
) -> Array:
    """y_bj = sum over tiles t of ADC(sum_i x_bi w_tij + scale sqrt(sum_i x_bi^2 v_tij) z_btj), [batch, cols].

    Independent Gaussian noise of every cell gives exactly this Gaussian (sums of normals are normal). ADC(a) = lo + rint((clip(a, lo,
    hi) - lo) / step) step, half to even. All steps are float64, in the order written; with int8 inputs and int16
    weights the sums over i are exact integers.

    Args:
        inputs: int8 DAC codes with |x| <= 127, or float64; [batch, tiles * rows].
        prepared: from `prepare`.
        adc: the converter at every column and tile; None converts nothing.
        noise: read noise; None reads without.

    Raises:
        ValueError: shapes do not fit, or noise is asked for and no variance was prepared.
    """
    check_inputs(inputs, prepared, noise, prepared.variance is not None)
    check_table(adc, prepared)
    batch = len(inputs)
    x = inputs.astype(np.float64).reshape(batch, prepared.tiles, prepared.rows)
    squares = x**2 if noise is None or noise.squares is None else noise.squares.reshape(x.shape).astype(float)
    y = np.zeros((batch, prepared.cols))
    for t in range(prepared.tiles):
        a = x[:, t] @ prepared.weights[t]
        if noise is not None and prepared.variance is not None:
            v = squares[:, t] @ prepared.variance[t]
            z = normals(noise.rows, prepared.cols, key=noise.key, stream=noise.word(t), event=noise.event)
            a = a + noise.scale * np.sqrt(v) * z
        if adc is not None:
            a = convert(a, adc, t)
        y += a
    return y


def convert(a: Array, adc: AdcRange | AdcTable, tile: int) -> Array:
    """The values that a converter gives; its codes count from the lower end, or as its table says."""
    if isinstance(adc, AdcTable):
        lo, hi, base, step, value, unit = (column[tile] for column in adc)
    else:
        (lo, hi, step), base, value, unit = adc, adc.lo, adc.lo, adc.step
    code = np.rint((np.clip(a, lo, hi) - base) / step)
    return np.asarray(value + code * unit)


def check_weights(weights: NDArray[Any], variance: NDArray[Any] | None) -> None:
    """Raise ValueError unless weights and variance are what `prepare` documents."""
    if weights.ndim != 3:
        raise ValueError(
            f"weights: must be [tiles, rows, cols] (got shape {weights.shape}); add the tile axis"
        )
    if weights.dtype not in (np.int16, np.float64):
        raise ValueError(f"weights: must be int16 or float64 (got {weights.dtype}); convert them first")
    _check_grid("weights", weights, -LARGEST)
    if variance is None:
        return
    if variance.shape != weights.shape or variance.dtype != weights.dtype:
        raise ValueError(
            f"variance: must match the weights' {weights.dtype} {weights.shape} "
            f"(got {variance.dtype} {variance.shape})"
        )
    _check_grid("variance", variance, 0)
    if variance.size and variance.min() < 0:
        raise ValueError(f"variance: must not be negative (got {variance.min()})")


def _check_grid(name: str, values: NDArray[Any], lowest: int) -> None:
    if values.dtype != np.int16 or not values.size:
        return
    low, high = int(values.min()), int(values.max())
    if low < lowest or high > LARGEST:
        raise ValueError(
            f"{name}: must lie in [{lowest}, {LARGEST}] (got {low} to {high}); use a coarser unit"
        )


def check_table(adc: AdcRange | AdcTable | None, prepared: Any) -> None:
    """Raise ValueError unless a table of converters has a row per tile and an entry per column."""
    expected = (prepared.tiles, prepared.cols)
    if isinstance(adc, AdcTable) and any(column.shape != expected for column in adc):
        shapes = sorted({column.shape for column in adc})
        raise ValueError(
            f"adc: every array of a table must be {expected} (got {shapes}); broadcast them first"
        )


def check_inputs(inputs: NDArray[Any], prepared: Any, noise: NoiseStream | None, has_variance: bool) -> None:
    """Raise ValueError unless inputs and noise are what `mvm` documents."""
    expected = prepared.tiles * prepared.rows
    if inputs.ndim != 2 or inputs.shape[1] != expected:
        raise ValueError(
            f"inputs: must be [batch, {expected}] (got shape {inputs.shape}); pad them with zeros"
        )
    if inputs.dtype not in (np.int8, np.float64):
        raise ValueError(f"inputs: must be int8 or float64 (got {inputs.dtype}); convert them first")
    if inputs.dtype == np.int8 and inputs.size and inputs.min() == -128:
        raise ValueError("inputs: codes must lie in [-127, 127] (got -128); a DAC is symmetric")
    if noise is None:
        return
    if not has_variance:
        raise ValueError("noise: needs variances; give them to prepare(weights, variance)")
    squares = noise.squares
    if squares is not None and (
        squares.shape != inputs.shape
        or squares.dtype not in (np.int16, np.float64)
        or squares.min(initial=0) < 0
    ):
        raise ValueError(
            f"noise.squares: must be int16 or float64 >= 0, {inputs.shape} (got {squares.dtype} {squares.shape})"
        )
    if noise.rows.shape != (len(inputs),):
        raise ValueError(
            f"noise.rows: must be [{len(inputs)}], one per input row (got shape {noise.rows.shape})"
        )
