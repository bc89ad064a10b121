"""Several cells per weight: parallel copies average, slices carry digits."""

import numpy as np
import pytest

from crossbar_sim import Chip, MappingError, Ranges
from crossbar_sim.device import Device

RNG = np.random.default_rng(0)
WEIGHT = RNG.uniform(-1, 1, (40, 60))
X = RNG.uniform(-1, 1, (5, 60))
FOUR = Device(1e-6, 40e-6, levels=4)


def error_variance(card, copies, **options):
    chip = Chip(card(mapping={"copies": copies}, **options), statistical=True)
    array = chip.program(WEIGHT, name="w")
    chip.advance(1e5)
    return ((array.read_weights() - array.target_weights()) / array.scale[:, None]).var()


@pytest.mark.parametrize("relaxation", [False, True])
def test_the_programming_error_of_k_copies_has_one_kth_of_the_variance(card, relaxation):
    one, four = (error_variance(card, k, relaxation=relaxation) for k in (1, 4))
    assert four * 4 == pytest.approx(one, rel=5 * np.sqrt(2 * 2 / WEIGHT.size))


@pytest.mark.parametrize("grid", ["int15", "exact"])
def test_the_read_noise_of_k_copies_has_exactly_one_kth_of_the_variance(card, grid):
    noise = {}
    for copies in (1, 3, 8):
        products = []
        for noisy in (True, False):
            preset = card(
                programming=None, noise=noisy, mapping={"copies": copies}, periphery={"adc_bits": 0}
            )
            array = Chip(preset, grid=grid).program(WEIGHT, name="w", ranges=Ranges(1.0, -60, 60))
            products.append(array.mvm(X))
        noise[copies] = products[0] - products[1]
    for copies in (3, 8):
        ratio = noise[1] ** 2 / noise[copies] ** 2
        np.testing.assert_allclose(ratio, copies, rtol=1e-6 if grid == "exact" else 2e-3)


def test_k_copies_take_k_times_the_cells_the_bit_lines_and_the_pulses(card):
    arrays = {}
    for copies in (1, 4):
        chip = Chip(card(mapping={"copies": copies}))
        arrays[copies] = chip.program(WEIGHT, name="w", ranges=Ranges(1.0, -20, 20))
        arrays[copies].mvm(X)
    one, four = (arrays[k].placement for k in (1, 4))
    assert (four.cells, four.bit_lines) == (4 * one.cells, 4 * one.bit_lines)
    totals = {
        action: [arrays[k].chip.ledger.total(action) for k in (1, 4)]
        for action in ("cell_write", "array_read", "verify_read", "set_pulse", "dac_drive", "adc_conversion")
    }
    assert totals["array_read"][1] == 4 * totals["array_read"][0]
    assert totals["dac_drive"][1] == totals["dac_drive"][0]
    for action in ("cell_write", "verify_read", "set_pulse"):
        assert totals[action][1] == pytest.approx(4 * totals[action][0], rel=0.02)


def test_copies_without_errors_change_no_product(card):
    products = []
    for copies in (1, 5):
        preset = card(programming=None, mapping={"copies": copies})
        array = Chip(preset, grid="exact").program(WEIGHT, name="w", ranges=Ranges(1.0, -20, 20))
        products.append(array.mvm(X))
    np.testing.assert_allclose(products[0], products[1], atol=1e-12)


CODINGS = [("one_sided", "columns"), ("two_sided", "columns"), ("one_sided", "rows"), ("offset", "columns")]


def sliced(card, coding, pair, slices, **how):
    preset = card(
        programming=None,
        device=FOUR,
        mapping={"coding": coding, "pair": pair, "slices": slices, **how},
        periphery={"adc_bits": 0},
    )
    return Chip(preset, grid="exact").program(WEIGHT, name="w", ranges=Ranges(1.0, -99, 99))


@pytest.mark.parametrize(("coding", "pair"), CODINGS)
@pytest.mark.parametrize("slices", [1, 2, 3])
def test_slices_hold_the_integer_weight_exactly(card, coding, pair, slices):
    array = sliced(card, coding, pair, slices)
    d = WEIGHT / array.scale[:, None]
    top = 4**slices - 1
    if coding == "offset":
        half = 4**slices // 2
        expected = np.rint((half - 1) * d) / (half - 1)
    elif coding == "two_sided":
        expected = 2 * np.rint((1 + d) / 2 * top) / top - 1
    else:
        expected = np.rint(d * top) / top
    np.testing.assert_allclose(array.read_weights() / array.scale[:, None], expected, atol=1e-12)
    codes = np.rint(X * 127) / 127
    np.testing.assert_allclose(array.mvm(X), codes @ (expected * array.scale[:, None]).T, atol=1e-10)


@pytest.mark.parametrize(("coding", "pair"), CODINGS)
@pytest.mark.parametrize("slices", [2, 3])
def test_the_cells_of_a_slice_are_digits_of_its_place(card, coding, pair, slices):
    array = sliced(card, coding, pair, slices)
    digits = (array.conductance() - FOUR.g_min) / FOUR.span * 3
    np.testing.assert_allclose(digits, np.rint(digits), atol=1e-9)
    integers = sum(np.rint(digits[:, s, 0, 0]) * 4**s for s in range(slices))
    assert integers.min() >= 0
    assert integers.max() == 4**slices - 1


def test_fewer_weight_bits_than_the_slices_hold_leave_the_top_digits_small(card):
    # 4 bits, pairs: magnitudes to 7 = 13 to the base 4: the upper digit is 0 or 1
    array = sliced(card, "one_sided", "columns", 2, weight_bits=4)
    d = WEIGHT / array.scale[:, None]
    np.testing.assert_allclose(array.read_weights() / array.scale[:, None], np.rint(7 * d) / 7, atol=1e-12)
    upper = (array.conductance()[:, 1] - FOUR.g_min) / FOUR.span * 3
    assert np.unique(np.rint(upper)).tolist() == [0, 1]
    with pytest.raises(
        MappingError, match=r"weight_bits: 8 bits need integers to 127, but 2 .* hold 15; use more"
    ):
        sliced(card, "one_sided", "columns", 2, weight_bits=8)


def test_an_error_counts_by_the_place_of_its_slice(card):
    weight = np.zeros((1, 3))
    weight[0, 0] = 1.0
    preset = card(
        programming=None, device=FOUR, mapping={"pair": "columns", "slices": 3}, periphery={"adc_bits": 0}
    )
    moved = []
    for s in range(3):
        stuck = np.full((1, 3, 2, 1, 3, 1), np.nan)
        stuck[0, s, 0, 0, 1, 0] = FOUR.g_max  # the weight of input 1 should be 0
        array = Chip(preset, grid="exact").program(weight, name="w", stuck=stuck, ranges=Ranges(1.0, -9, 9))
        moved.append(array.mvm(np.eye(3)[1:2])[0, 0])
    np.testing.assert_allclose(moved, np.array([3, 12, 48]) / 63, rtol=1e-9)


def test_read_noise_is_that_of_the_most_significant_slices(card):
    # each slice is read with noise of its own: variance sum_s u_s^2 sigma^2, u_s = 3 4^s / 63
    preset = card(programming=None, noise=True, device=FOUR, mapping={"slices": 3}, periphery={"adc_bits": 0})
    array = Chip(preset).program(WEIGHT, name="w", ranges=Ranges(1.0, -99, 99))
    y = array.mvm(np.tile(X[0], (8000, 1))) / array.scale
    squares = (np.rint(X[0] * 127) ** 2).sum() / 127**2
    places = (3 * 4.0 ** np.arange(3) / 63) ** 2
    expected = squares * 2 * (0.4e-6 / FOUR.span) ** 2 * places.sum()
    np.testing.assert_allclose(y.var(0), expected, rtol=5 * np.sqrt(2 / 8000))
    assert places[2] / places.sum() > 0.9
