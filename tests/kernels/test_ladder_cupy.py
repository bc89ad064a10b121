"""Wires on a device: the same equations, here done by NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from crossbar_kernels import ladder, ladder_cupy, ladder_join

SHAPES = [(1, 1), (1, 9), (7, 1), (5, 13), (16, 16), (24, 17), (9, 31)]


def conductances(rows, cols, tiles=3):
    random = np.random.default_rng(rows * 100 + cols)
    return random.uniform(1e-6, 1e-4, (tiles, rows, cols)) * (random.random((tiles, rows, cols)) < 0.9)


@pytest.mark.parametrize("segments", [(1.0, 1.5), (0.0, 2.0), (3.0, 0.0), (40.0, 70.0), (0.0, 0.0)])
@pytest.mark.parametrize("shape", SHAPES)
def test_batched_blocks_give_the_currents_of_the_dense_solution(shape, segments):
    g = conductances(*shape)
    found = ladder_cupy.transfer(g, *segments, xp=np)
    expected = np.stack([ladder.transfer(tile, *segments) for tile in g])
    assert found.shape == g.shape
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * g.max())


def test_a_large_array_agrees_with_the_compiled_blocks():
    g = conductances(128, 100, tiles=2)
    np.testing.assert_allclose(
        ladder_cupy.transfer(g, 1.0, 1.5, xp=np), ladder_join.transfer(g, 1.0, 1.5), rtol=1e-9
    )


def test_wires_without_resistance_change_nothing_and_wires_with_it_do():
    g = conductances(24, 17)
    np.testing.assert_allclose(ladder_cupy.transfer(g, 0.0, 0.0, xp=np), g, rtol=1e-12)
    assert (ladder_cupy.transfer(g, 1.0, 1.0, xp=np).sum() < 0.999 * g.sum()).all()
