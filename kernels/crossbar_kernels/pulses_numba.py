"""Numba twin of `crossbar_kernels.pulses`: the same operations in the same order, hence the same bits."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from crossbar_kernels.philox_numba import box_muller, compiled, inlined, philox4x32


class Numbers(NamedTuple):
    """A PulseTrain's scalars."""

    bottom: float
    top: float
    spread: float
    width: float
    verify: float
    most: int


class Words(NamedTuple):
    """Draws as uint32 words."""

    k0: np.uint32
    k1: np.uint32
    stream: np.uint32
    plane: np.uint32
    event: np.uint32


@inlined
def _four(column: Any, row: Any, pulse: Any, words: Any) -> Any:
    """The normals of the four pulses that share a counter."""
    stream = np.uint32(words.stream + words.plane * np.uint32(pulse // 4))
    w0, w1, w2, w3 = philox4x32(np.uint32(column), np.uint32(row), stream, words.event, words.k0, words.k1)
    z0, z1 = box_muller(w0, w1)
    z2, z3 = box_muller(w2, w3)
    return np.float64(z0), np.float64(z1), np.float64(z2), np.float64(z3)


@compiled
def pulse_rows(
    x: Any, target: Any, tolerance: Any, strength: Any, counts: Any, energies: Any, first: Any, ramps: Any, n: Any, words: Any
) -> None:  # fmt: skip
    """Pulse rows `first`, first + 1, ... of an array; counts [2, rows, cols], energies [3, rows] are filled."""
    last_step = ramps.shape[1] - 1
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            g, goal, window, s = x[i, j], target[i, j], tolerance[i, j], strength[i, j]
            run, last, up, down, pulse = 0, 0, 0, 0, 0
            z1 = z2 = z3 = 0.0
            heat_up, heat_down, checks = 0.0, 0.0, n.verify * g
            while pulse < n.most and abs(g - goal) > window:
                rising = g < goal
                polarity = 1 if rising else -1
                run = min(run + 1, last_step) if polarity == last else 0
                last = polarity
                side = 0 if rising else 2
                if pulse % 4 == 0:
                    z, z1, z2, z3 = _four(j, first + i, pulse, words)
                else:
                    z, z1, z2 = z1, z2, z3
                a = ramps[side + 1, run] * s * max(0.0, 1.0 + n.spread * z)
                step = a / (1.0 + a)
                moved = g + (n.top - g) * step if rising else g - (g - n.bottom) * step
                drive = ramps[side, run]
                heat = drive * drive * n.width * (0.5 * (g + moved))
                if rising:
                    heat_up += heat
                    up += 1
                else:
                    heat_down += heat
                    down += 1
                g = moved
                checks += n.verify * g
                pulse += 1
            x[i, j] = g
            counts[0, i, j] = up
            counts[1, i, j] = down
            energies[0, i] += heat_up
            energies[1, i] += heat_down
            energies[2, i] += checks + n.verify * g
