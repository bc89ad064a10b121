"""Converters: codes against the formulas of docs/design.md, section 4."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossbar_sim import CalibrationError, Chip, Ranges
from crossbar_sim.periphery import adc_codes, dac_codes, power_of_two, zero_centred

ends = st.floats(0, 1e3, allow_subnormal=False).filter(lambda v: v == 0 or v > 1e-6)


@pytest.mark.parametrize(
    ("x", "code"),
    # K = 7 (4 bits): (x + 1) 7 is half-way between codes at odd multiples of 1/14, and goes to the even one
    [(-9.0, -7), (-1.0, -7), (-0.5 / 7, -1), (0.0, 0), (0.5 / 7, 1), (1.5 / 7, 1), (-1.5 / 7, -1), (3 / 7, 3), (1.0, 7), (9.0, 7)],
)  # fmt: skip
def test_dac_codes_of_a_table(x, code):
    assert dac_codes(np.array([2 * x]), 2.0, 7)[0] == code


@given(st.integers(2, 8), st.floats(-3, 3))
def test_dac_codes_are_the_formula(bits, x):
    k = 2 ** (bits - 1) - 1
    value = np.rint((np.clip(x, -1, 1) + 1) * k) / k - 1
    assert dac_codes(np.array([x]), 1.0, k)[0] == pytest.approx(value * k, abs=1e-9)


@given(ends, ends, st.integers(2, 16))
@settings(max_examples=300)
def test_a_zero_centred_range_covers_the_data_and_holds_the_code_zero(below, above, bits):
    low, high = zero_centred(-below, above, bits)
    assert low <= -below * (1 - 1e-12)
    assert high >= above * (1 - 1e-12)
    steps = 2**bits - 1
    codes = high / ((high - low) / steps)
    assert codes == pytest.approx(round(codes), abs=1e-9 * steps)


@given(ends.filter(bool), ends.filter(bool), st.integers(2, 8))
@settings(max_examples=200)
def test_no_smaller_step_would_do(below, above, bits):
    low, high = zero_centred(-below, above, bits)
    steps = 2**bits - 1
    best = min(max(above / k, below / (steps - k)) for k in range(1, steps))
    assert (high - low) / steps == pytest.approx(best, rel=1e-12)


@given(ends, ends, st.integers(2, 10), st.floats(1e-3, 1e7))
@settings(max_examples=300)
def test_zero_goes_through_the_converter_as_exactly_zero(below, above, bits, unit):
    low, high = zero_centred(-below, above, bits)
    lo, hi, step = adc_codes(low * unit, high * unit, bits)
    assert lo + np.rint((np.clip(0.0, lo, hi) - lo) / step) * step == 0.0
    assert lo == pytest.approx(low * unit)
    assert hi == pytest.approx(high * unit)


def test_an_explicit_symmetric_range_is_mid_rise():
    lo, hi, step = adc_codes(-1.0, 1.0, 3)
    assert (lo, hi) == (pytest.approx(-1.0), pytest.approx(1.0))
    assert abs(lo + np.rint(-lo / step) * step) == pytest.approx(step / 2)


@pytest.mark.parametrize("grid", ["int15", "exact"])
def test_a_product_is_dac_sum_adc_by_the_formulas(card, grid):
    # an independent transcription, tile by tile, with the conductances as they are
    preset = card(tiles={"rows": 4, "cols": 6}, periphery={"adc_bits": 6, "dac_bits": 5})
    rng = np.random.default_rng(3)
    chip = Chip(preset, grid=grid)
    array = chip.program(rng.standard_normal((5, 10)), name="w", ranges=Ranges(1.5, -2.0, 3.0))
    x = rng.standard_normal((20, 10))
    expected = np.zeros((20, 5))
    weights = array.read_weights() / array.scale[:, None]
    codes = np.rint((np.clip(x / 1.5, -1, 1) + 1) * 15) / 15 - 1
    height = array.placement.rows_per_tile
    for start in range(0, 10, height):
        y = codes[:, start : start + height] @ weights[:, start : start + height].T
        expected += -2.0 + np.rint((np.clip(y, -2.0, 3.0) + 2.0) * 63 / 5) * 5 / 63
    got = array.mvm(x)
    step = 1.5 * array.scale * 5 / 63
    wrong = np.abs(got - 1.5 * expected * array.scale)
    # the 15 bit grid may move a sum across the edge between two codes, and nothing else
    flipped = wrong > 1e-9
    assert flipped.mean() <= (0.02 if grid == "int15" else 0)
    assert (wrong <= step * (1 + 1e-9)).all()


@pytest.mark.parametrize("tiles", [(256, 256), (3, 4), (2, 2), (7, 6)])
@pytest.mark.parametrize("grid", ["int15", "int8", "exact"])
def test_zero_input_gives_exactly_zero_without_noise(card, tiles, grid):
    rng = np.random.default_rng(1)
    for low, high in ((-0.37, 0.91), (-1.3, 0.001), (-0.7, 0.0)):
        ranges = Ranges(0.7, *zero_centred(low, high, 8))
        chip = Chip(card(tiles={"rows": tiles[0], "cols": tiles[1]}), grid=grid)
        array = chip.program(rng.standard_normal((6, 11)), name="w", ranges=ranges)
        assert (array.mvm(np.zeros((3, 11))) == 0).all()


@pytest.mark.parametrize(
    ("size", "power"),
    [(1.0, 1.0), (0.3, 0.5), (0.25, 0.25), (1.01, 2.0), (5, 8.0), (0.0, 1.0), (np.nan, 1.0)],
)
def test_power_of_two(size, power):
    assert power_of_two(size) == power


def test_a_larger_input_is_driven_with_a_range_that_follows_by_a_power_of_two(card):
    rng = np.random.default_rng(0)
    array = Chip(card(periphery={"adc_bits": 0})).program(
        rng.standard_normal((3, 8)), name="w", ranges=Ranges(1.0, -9, 9)
    )
    x = rng.uniform(-1, 1, (4, 8))
    np.testing.assert_array_equal(array.mvm(4 * x, size=3.0), 4 * array.mvm(x))


@pytest.mark.parametrize("values", [(0.0, -1, 1), (np.nan, -1, 1), (1.0, 1, 1), (1.0, np.nan, 1)])
def test_impossible_ranges_are_errors(values):
    with pytest.raises(CalibrationError, match=r"Ranges\."):
        Ranges(*values)
