"""Weights to conductances and back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossbar_sim import Chip, MappingError, mapping
from crossbar_sim.circuit import Tiles
from crossbar_sim.device import Device

DEVICE = Device(1e-6, 40e-6, levels=16)
shapes = st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 17), st.integers(2, 15))


@given(shapes)
@settings(max_examples=150, deadline=None)
def test_spreading_over_tiles_and_gathering_returns_the_matrix(shape):
    m, n, rows, cols = shape
    placement = mapping.place(m, n, Tiles(rows, cols))
    matrix = np.arange(1.0, m * n + 1).reshape(m, n)
    cells = mapping.to_cells(matrix, placement)
    assert cells.shape == (placement.tiles, placement.rows_per_tile, placement.cols_per_tile)
    np.testing.assert_array_equal(mapping.from_cells(cells, placement), matrix)
    assert np.count_nonzero(cells) == m * n
    word_lines = mapping.by_row_tile(cells, placement).reshape(-1, m)[:n]
    np.testing.assert_array_equal(word_lines, matrix.T)


@given(shapes)
@settings(max_examples=150, deadline=None)
def test_a_placement_uses_the_fewest_tiles_fills_them_and_leaves_none_empty(shape):
    m, n, rows, cols = shape
    p = mapping.place(m, n, Tiles(rows, cols))
    assert p.rows_per_tile <= rows
    assert 2 * p.cols_per_tile <= cols
    assert p.row_tiles == -(-n // rows)
    assert p.col_tiles == -(-m // (cols // 2))
    assert (p.row_tiles - 1) * p.rows_per_tile < n <= p.row_tiles * p.rows_per_tile
    assert (p.col_tiles - 1) * p.cols_per_tile < m <= p.col_tiles * p.cols_per_tile
    used = mapping.used(p)
    assert used.shape == p.shape
    assert used.sum() == p.cells == 2 * m * n
    assert used.any(axis=(1, 2, 3, 4)).all()


@given(shapes, st.integers(2, 64), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_a_weight_comes_back_within_half_a_level(shape, levels, seed):
    m, n, rows, cols = shape
    device = Device(2e-6, 30e-6, levels=levels)
    weight = np.random.default_rng(seed).standard_normal((m, n))
    scale = mapping.column_scale(weight)
    placement = mapping.place(m, n, Tiles(rows, cols))
    g = mapping.target_conductance(weight, scale, placement, device)
    back = mapping.from_cells((g[:, 0, 0] - g[:, 0, 1]) / device.span, placement) * scale[:, None]
    assert (np.abs(back - weight) <= scale[:, None] * (0.5 / (levels - 1) + 1e-9)).all()
    steps = (g - device.g_min) / device.span * (levels - 1)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-9)
    np.testing.assert_array_equal(mapping.levels_of(g, device), np.rint(steps))


def test_a_worked_mapping():
    # ten outputs and 300 inputs on tiles of 128 x 64 with a column pair each: 3 x 1 tiles
    p = mapping.place(10, 300, Tiles(128, 64))
    assert (p.row_tiles, p.col_tiles, p.rows_per_tile, p.cols_per_tile, p.cells) == (3, 1, 100, 10, 6000)
    # levels at 0, 1/2, 1 of the span; ties go to the even level: 0.25 -> 0, 0.75 -> 1
    device = Device(1e-6, 3e-6, levels=3)
    weight = np.array([[4.0, -2.0, 1.0], [0.0, -1.0, 0.75]])
    g = mapping.target_conductance(
        weight, mapping.column_scale(weight), mapping.place(2, 3, Tiles(4, 4)), device
    )
    micro = np.round(1e6 * g[0, 0], 9)
    np.testing.assert_array_equal(micro[0].T, [[3, 1, 1], [1, 1, 3]])
    np.testing.assert_array_equal(micro[1].T, [[1, 2, 1], [1, 3, 1]])


def test_each_output_has_its_own_scale_and_an_empty_output_has_scale_one():
    weight = np.array([[0.1, -0.3], [0.0, 0.0], [5.0, 2.0]])
    np.testing.assert_array_equal(mapping.column_scale(weight), [0.3, 1.0, 5.0])


def test_pads_hold_no_conductance_take_no_pulse_and_are_not_booked(card):
    chip = Chip(card(tiles={"rows": 4, "cols": 6}))
    array = chip.program(np.random.default_rng(0).standard_normal((4, 5)), name="w")
    used = mapping.used(array.placement)
    assert not used.all()
    assert (array.conductance()[~used] == 0).all()
    assert (array.conductance()[used] > 0).all()
    assert (array.wear[~used] == 0).all()
    pulses = chip.ledger.total("set_pulse") + chip.ledger.total("reset_pulse")
    assert pulses == array.wear.sum()
    assert chip.ledger.total("verify_read") == pulses + 2 * 2 * 4 * 5


@pytest.mark.parametrize(
    ("weight", "scale", "words"),
    [
        (np.array([[1.0, np.nan]]), np.ones(1), "not finite"),
        (np.array([[1.0, np.inf]]), np.ones(1), "not finite"),
        (np.array([[2.0, 0.0]]), np.ones(1), "exceeds its column scale by 2"),
        (np.array([[0.0, 0.0]]), np.zeros(1), "scale: must hold one positive"),
        (np.array([[0.0, 0.0]]), np.array([np.nan]), "scale: must hold one positive"),
        (np.array([[0.0, 0.0]]), np.ones(2), "got shape"),
    ],
)
def test_what_cannot_be_mapped_is_an_error_that_says_why(weight, scale, words):
    with pytest.raises(MappingError, match=words):
        mapping.target_conductance(weight, scale, mapping.place(1, 2, Tiles()), DEVICE)


def test_an_empty_matrix_and_a_vector_are_errors(card):
    with pytest.raises(MappingError, match="at least one output"):
        mapping.place(0, 3, Tiles())
    with pytest.raises(ValueError, match=r"needs a matrix \[out, in\]"):
        Chip(card()).program(np.ones(3), name="v")
