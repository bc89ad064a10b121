"""What every backend refuses: shapes, kinds and values that the contract does not know, each with a remedy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels import AdcRange, AdcTable, NoiseStream

LARGEST = 2**14 - 1
"""Largest integer of the weight and variance grids."""
MOST_ROWS = 2**17
"""Word lines whose products of digits, 127 x 127 at most, add within int32."""


def start(out: NDArray[np.float64] | None, batch: int, cols: int) -> NDArray[np.float64]:
    """What results are added to.

    Raises:
        ValueError: `out` is not float64 [batch, cols].
    """
    if out is None:
        return np.zeros((batch, cols))
    if out.shape != (batch, cols) or out.dtype != np.float64:
        raise ValueError(f"out: must be float64 {(batch, cols)} (got {out.dtype} {out.shape})")
    return out


def check_weights(weights: NDArray[Any], variance: NDArray[Any] | None) -> None:
    """Raise ValueError unless weights and variance are what `prepare` documents."""
    if weights.ndim != 3:
        raise ValueError(
            f"weights: must be [tiles, rows, cols] (got shape {weights.shape}); add the tile axis"
        )
    if 0 in weights.shape:
        raise ValueError(
            f"weights: must have a tile, a row and a column at least (got shape {weights.shape})"
        )
    if weights.dtype not in (np.int16, np.float64):
        raise ValueError(f"weights: must be int16 or float64 (got {weights.dtype}); convert them first")
    if weights.dtype == np.int16 and weights.shape[1] > MOST_ROWS:
        raise ValueError(
            f"weights: integer tiles have at most {MOST_ROWS} rows (got {weights.shape[1]}); split them, or use float64"
        )
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


def check_inputs(
    inputs: NDArray[Any], prepared: Any, noise: NoiseStream | None, weights: Sequence[float]
) -> NDArray[Any]:
    """The inputs with their planes' axis; raise ValueError unless inputs, weights and noise are what `mvm` documents."""
    stacked = inputs[None] if inputs.ndim == 2 else inputs
    expected = prepared.tiles * prepared.rows
    if stacked.ndim != 3 or stacked.shape[2] != expected:
        raise ValueError(
            f"inputs: must be [batch, {expected}] or [planes, batch, {expected}] (got shape {inputs.shape}); pad them with zeros"
        )
    if inputs.dtype not in (np.int8, np.float64):
        raise ValueError(f"inputs: must be int8 or float64 (got {inputs.dtype}); convert them first")
    if inputs.dtype == np.int8 and inputs.size and _at_hand(inputs) and inputs.min() == -128:
        raise ValueError("inputs: codes must lie in [-127, 127] (got -128); a DAC is symmetric")
    if len(weights) != len(stacked):
        raise ValueError(
            f"weights: must be one per plane (got {len(weights)} for {len(stacked)}); give [planes] numbers"
        )
    if noise is not None:
        _check_noise(noise, stacked, prepared)
    return stacked


def _at_hand(array: Any) -> bool:
    """Whether values may be looked at: not where that would wait for a device."""
    return not hasattr(array, "__cuda_array_interface__")


def _check_noise(noise: NoiseStream, stacked: NDArray[Any], prepared: Any) -> None:
    if prepared.variance is None and noise.sigma is None:
        raise ValueError("noise: needs variances, from prepare(weights, variance), or sigma")
    at_tiles = prepared.tiles, prepared.cols
    if noise.sigma is not None and (noise.sigma.shape != at_tiles or noise.sigma.dtype != np.float64):
        raise ValueError(
            f"noise.sigma: must be float64 {at_tiles} (got {noise.sigma.dtype} {noise.sigma.shape})"
        )
    squares = noise.squares
    if squares is not None and (
        squares.shape != stacked.shape[1:]
        or len(stacked) > 1
        or squares.dtype not in (np.int16, np.float64)
        or (_at_hand(squares) and not _are_squares(squares))
    ):
        raise ValueError(
            f"noise.squares: must be int16 up to {LARGEST} or float64, >= 0, {stacked.shape[1:]}, for one plane of inputs (got {squares.dtype} "
            f"{squares.shape} for {len(stacked)})"
        )
    if noise.rows.shape != (stacked.shape[1],) or noise.rows.dtype != np.uint32:
        raise ValueError(
            f"noise.rows: must be [{stacked.shape[1]}] uint32, one per input row (got {noise.rows.dtype} {noise.rows.shape})"
        )


def _are_squares(values: NDArray[Any]) -> bool:
    return bool(values.min(initial=0) >= 0 and (values.dtype != np.int16 or values.max(initial=0) <= LARGEST))
