"""Weights to conductances and back."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossbar_sim import Chip, MappingError, mapping
from crossbar_sim.circuit import Tiles, WeightMapping
from crossbar_sim.device import Device

DEVICE = Device(1e-6, 40e-6, levels=16)
PLAIN = WeightMapping()
shapes = st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 17), st.integers(2, 15))


def targets(weight, scale, placement, device, how=PLAIN):
    return mapping.target_conductance(weight, scale, placement, device, how, mapping.straight(placement))


@given(shapes)
@settings(max_examples=60, deadline=None)
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
@settings(max_examples=60, deadline=None)
def test_a_placement_uses_the_fewest_tiles_fills_them_and_leaves_none_empty(shape):
    m, n, rows, cols = shape
    p = mapping.place(m, n, Tiles(rows, cols))
    assert p.rows_per_tile <= rows
    assert 2 * p.cols_per_tile <= cols
    assert p.row_tiles == -(-n // rows)
    assert p.col_tiles == -(-m // (cols // 2))
    assert (p.row_tiles - 1) * p.rows_per_tile < n <= p.row_tiles * p.rows_per_tile
    assert (p.col_tiles - 1) * p.cols_per_tile < m <= p.col_tiles * p.cols_per_tile
    used = mapping.used(p, mapping.straight(p))
    assert used.shape == p.shape
    assert used.sum() == p.cells == 2 * m * n
    assert used.any(axis=(1, 2, 3, 4, 5)).all()


@given(shapes, st.integers(2, 64), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_a_weight_comes_back_within_half_a_level(shape, levels, seed):
    m, n, rows, cols = shape
    device = Device(2e-6, 30e-6, levels=levels)
    weight = np.random.default_rng(seed).standard_normal((m, n))
    scale = mapping.full_scale(weight, "column")
    placement = mapping.place(m, n, Tiles(rows, cols))
    g = targets(weight, scale, placement, device)
    back = mapping.from_cells((g[:, 0, 0, 0] - g[:, 0, 1, 0]) / device.span, placement) * scale[:, None]
    assert (np.abs(back - weight) <= scale[:, None] * (0.5 / (levels - 1) + 1e-9)).all()
    held = g[mapping.used(placement, mapping.straight(placement))]
    steps = (held - device.g_min) / device.span * (levels - 1)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-9)


def test_a_worked_mapping():
    # ten outputs and 300 inputs on tiles of 128 x 64 with a column pair each: 3 x 1 tiles
    p = mapping.place(10, 300, Tiles(128, 64))
    assert (p.row_tiles, p.col_tiles, p.rows_per_tile, p.cols_per_tile, p.cells) == (3, 1, 100, 10, 6000)
    # levels at 0, 1/2, 1 of the span; ties go to the even level: 0.25 -> 0, 0.75 -> 1
    device = Device(1e-6, 3e-6, levels=3)
    weight = np.array([[4.0, -2.0, 1.0], [0.0, -1.0, 0.75]])
    g = targets(weight, mapping.full_scale(weight, "column"), mapping.place(2, 3, Tiles(4, 4)), device)
    micro = np.round(1e6 * g[0, 0, :, 0], 9)
    np.testing.assert_array_equal(micro[0].T, [[3, 1, 1], [1, 1, 3]])
    np.testing.assert_array_equal(micro[1].T, [[1, 2, 1], [1, 3, 1]])


def test_each_output_has_its_own_scale_and_an_empty_output_has_scale_one():
    weight = np.array([[0.1, -0.3], [0.0, 0.0], [5.0, 2.0]])
    np.testing.assert_array_equal(mapping.full_scale(weight, "column"), [0.3, 1.0, 5.0])
    np.testing.assert_array_equal(mapping.full_scale(weight, "matrix"), [5.0, 5.0, 5.0])


def test_pads_hold_no_conductance_take_no_pulse_and_are_not_booked(card):
    chip = Chip(card(tiles={"rows": 4, "cols": 6}))
    array = chip.program(np.random.default_rng(0).standard_normal((4, 5)), name="w")
    used = mapping.used(array.placement, array.order)
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
        targets(weight, scale, mapping.place(1, 2, Tiles()), DEVICE)


def test_an_empty_matrix_and_a_vector_are_errors(card):
    with pytest.raises(MappingError, match="at least one output"):
        mapping.place(0, 3, Tiles())
    with pytest.raises(ValueError, match=r"needs a matrix \[out, in\]"):
        Chip(card()).program(np.ones(3), name="v")


# -- codings, slices, copies, pairs, spare columns -------------------------------------------------------------------

codings = st.one_of(
    st.builds(
        WeightMapping,
        coding=st.sampled_from(("one_sided", "two_sided")),
        pair=st.sampled_from(("columns", "rows", "arrays")),
        slices=st.integers(1, 3),
        copies=st.integers(1, 3),
        split=st.sampled_from(("equal", "full")),
        spare_columns=st.integers(0, 2),
    ),
    st.builds(
        WeightMapping,
        coding=st.just("offset"),
        offset=st.sampled_from(("digital", "unit_column")),
        slices=st.integers(1, 3),
        copies=st.integers(1, 3),
        spare_columns=st.integers(0, 2),
    ),
)
sizes = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(2, 9), st.integers(1, 3))


def placed(how, size):
    m, n, rows, times = size
    lines = how.slices * how.copies * (2 if how.pair == "columns" and how.signs == 2 else 1)
    unit = how.coding == "offset" and how.offset == "unit_column"
    tiles = Tiles(rows, max(2, lines * (times + unit + how.spare_columns)))
    return mapping.place(m, n, tiles, how), tiles


@given(codings, sizes)
@settings(max_examples=100, deadline=None)
def test_every_mapping_fits_its_tiles_and_uses_the_cells_it_says(how, size):
    p, tiles = placed(how, size)
    m, n, _, _ = size
    assert p.rows_per_tile * p.word_lines <= tiles.rows
    assert p.columns * p.bit_lines <= tiles.cols
    assert p.row_tiles * p.rows_per_tile >= n > (p.row_tiles - 1) * p.rows_per_tile
    assert p.col_tiles * p.cols_per_tile >= m > (p.col_tiles - 1) * p.cols_per_tile
    used = mapping.used(p, mapping.straight(p))
    unit = n * p.col_tiles if how.coding == "offset" and how.offset == "unit_column" else 0
    assert used.sum() == p.cells == how.slices * how.copies * (how.signs * m * n + unit)
    assert not used[..., p.columns - p.spare :].any()


@given(codings, sizes, st.sampled_from((0, 2, 4, 7)), st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_the_code_undoes_the_mapping(how, size, levels, seed):
    if not levels:
        how = replace(how, slices=1)
    if how.coding == "offset" and levels and levels**how.slices < 4:
        how = replace(how, slices=2)
    p, _ = placed(how, size)
    device = Device(2e-6, 30e-6, levels=levels)
    weight = np.random.default_rng(seed).uniform(-1, 1, (p.outputs, p.inputs))
    g = targets(weight, np.ones(p.outputs), p, device, how)
    assert g.shape == p.shape
    assert (g[mapping.used(p, mapping.straight(p))] >= device.g_min).all()
    assert (g <= device.g_max * (1 + 1e-12)).all()
    assert (g == g[:, :, :, :1]).all()  # copies hold the same
    code = mapping.code(how, device)
    d = (g[:, :, :, 0, :, : p.cols_per_tile] - device.g_min) / device.span
    signed = d[:, :, 0] - d[:, :, 1] if how.signs == 2 else d[:, :, 0]
    total = sum(u * signed[:, s] for s, u in enumerate(code.coefficients)) - code.offset
    back = mapping.from_cells(total, p)
    states = levels**how.slices
    step = (
        0
        if not levels
        else {"one_sided": 1 / (states - 1), "two_sided": 2 / (states - 1)}.get(
            how.coding, 1 / max(states // 2 - 1, 1)
        )
    )
    assert np.abs(back - weight).max() <= step / 2 + 1e-9


@given(codings, sizes)
@settings(max_examples=80, deadline=None)
def test_assembling_into_arrays_and_back_loses_nothing(how, size):
    p, tiles = placed(how, size)
    cells = np.arange(float(np.prod(p.shape))).reshape(p.shape)
    arrays = mapping.assemble(cells, p)
    assert arrays.shape == (p.arrays, p.rows_per_tile * p.word_lines, p.columns * p.bit_lines)
    assert arrays.shape[1] <= tiles.rows
    assert arrays.shape[2] <= tiles.cols
    np.testing.assert_array_equal(mapping.disassemble(arrays, p), cells)


@pytest.mark.parametrize(("pair", "axis"), [("columns", 2), ("rows", 1), ("arrays", 0)])
def test_the_two_cells_of_a_pair_are_neighbours_where_the_mapping_says(pair, axis):
    p = mapping.place(3, 4, Tiles(8, 6), WeightMapping(pair=pair))
    first, second = (np.zeros(p.shape), np.zeros(p.shape))
    first[0, 0, 0, 0, 1, 1] = second[0, 0, 1, 0, 1, 1] = 1.0
    a, b = (np.argwhere(mapping.assemble(cells, p))[0] for cells in (first, second))
    assert (b - a).tolist() == [int(axis == k) for k in range(3)]


@pytest.mark.parametrize(
    ("how", "rows", "cols"), [({"pair": "rows"}, 1, 9), ({"copies": 5}, 9, 9), ({"spare_columns": 4}, 9, 9)]
)
def test_a_tile_that_holds_no_weight_is_an_error_that_says_what_to_change(how, rows, cols):
    with pytest.raises(
        MappingError, match=f"Tiles: {rows} x {cols} cells do not hold one weight .* use larger tiles"
    ):
        mapping.place(3, 3, Tiles(rows, cols), WeightMapping(**how))


def test_an_offset_without_steps_on_either_side_is_an_error():
    with pytest.raises(
        MappingError, match=r"'offset' needs at least 4 states per weight \(got 2\); use more levels"
    ):
        mapping.code(WeightMapping(coding="offset"), Device(1e-6, 2e-6, levels=2))


def test_a_matrix_split_to_the_brim_fills_its_first_tiles():
    p = mapping.place(5, 10, Tiles(8, 6), WeightMapping(split="full"))
    assert (p.rows_per_tile, p.cols_per_tile, p.row_tiles, p.col_tiles) == (8, 3, 2, 2)
    used = mapping.used(p, mapping.straight(p))[:, 0, 0, 0]
    assert [int(tile.any(1).sum()) for tile in used] == [8, 8, 2, 2]
    assert [int(tile.any(0).sum()) for tile in used] == [3, 2, 3, 2]
