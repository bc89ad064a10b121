"""What distinguishes one cell from the next, drawn once for all time: ranges, faults, lives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels import get_kernels
from crossbar_kernels.philox import Purpose
from crossbar_sim import noise
from crossbar_sim.device import Device, Faults
from crossbar_sim.draws import Key, cell_normals, cell_uniforms
from crossbar_sim.errors import ConfigError

Array = NDArray[np.float64]
LOW, HIGH, LIFE = 1, 2, 3
"""Planes of Purpose.D2D; plane 0 is the pulse strength (programming.strengths)."""
SMALLEST_Z = -6.0
"""No drawn normal is below this (24-bit Box-Muller ends at -5.89): the weakest cell there can be."""


@dataclass(frozen=True)
class Origin:
    """Where an array's numbers come from: shape [tile, slice, sign, copy, rows, cols], key, backend by name."""

    shape: tuple[int, ...]
    key: Key
    kernels_name: str

    def normals(self, purpose: Purpose, *, event: int = 0, plane: int = 0) -> NDArray[np.float32]:
        """One standard normal per cell."""
        kernels = get_kernels(self.kernels_name)
        return cell_normals(self.shape, purpose, kernels=kernels, key=self.key, event=event, plane=plane)

    def uniforms(self, purpose: Purpose, *, plane: int = 0) -> Array:
        """One number in (0, 1) per cell."""
        return cell_uniforms(self.shape, purpose, key=self.key, event=0, plane=plane)


def ranges(device: Device, origin: Origin) -> tuple[Array, Array] | None:
    """Lowest and highest conductance (S) of each cell; None where all have the device's."""
    if not (device.low_spread or device.high_spread):
        return None
    low, high = (origin.normals(Purpose.D2D, plane=plane) for plane in (LOW, HIGH))
    return noise.own_range(low, high, device)


def faults(rates: Faults, device: Device, origin: Origin) -> Array | None:
    """Conductance (S) of stuck cells, NaN for healthy ones; None where no cell is stuck."""
    if not rates.rate:
        return None
    decides, undefined = (origin.uniforms(Purpose.FAULT, plane=plane) for plane in (0, 1))
    return noise.stuck_conductance(decides, undefined, rates, device)


def fault_map(stuck: Array, shape: tuple[int, ...]) -> Array:
    """An explicit map of faults, checked.

    Raises:
        ConfigError: the map has another shape than the cells, or conductances that cannot be.
    """
    if stuck.shape != shape:
        raise ConfigError(f"stuck: the map must have the cells' shape {shape} (got {stuck.shape})")
    if (stuck < 0).any() or np.isinf(stuck).any():
        raise ConfigError(
            f"stuck: conductances must be finite and not negative, NaN where healthy (got {np.nanmin(stuck):g} to {np.nanmax(stuck):g} S)"
        )
    return stuck.astype(np.float64)


def worn_out(wear: NDArray[np.float32], device: Device, origin: Origin) -> NDArray[np.bool_] | None:
    """Cells that have taken more pulses than their life holds; None where there can be none."""
    shortest = 2 * device.endurance * 10.0 ** (SMALLEST_Z * device.endurance_decades)
    if not device.endurance or float(wear.max()) <= shortest:
        return None
    return np.asarray(wear > noise.lives(origin.normals(Purpose.D2D, plane=LIFE), device))
