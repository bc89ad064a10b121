"""Converters: codes against the formulas of docs/design.md, section 4."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossbar_kernels import get_kernels
from crossbar_kernels.vectors import power_of_two
from crossbar_sim import CalibrationError, Chip, Ranges
from crossbar_sim.circuit import Periphery
from crossbar_sim.periphery import adc_codes, dac_codes, planes, zero_centred


def codes_of(values, full_scale, converters):
    """Codes of one vector."""
    return dac_codes(np.array([values]), full_scale, converters, get_kernels("auto"))[0]


ends = st.floats(0, 1e3, allow_subnormal=False).filter(lambda v: v == 0 or v > 1e-6)


@pytest.mark.parametrize(
    ("x", "code"),
    # K = 7 (4 bits): (x + 1) 7 is half-way between codes at odd multiples of 1/14, and goes to the even one
    [(-9.0, -7), (-1.0, -7), (-0.5 / 7, -1), (0.0, 0), (0.5 / 7, 1), (1.5 / 7, 1), (-1.5 / 7, -1), (3 / 7, 3), (1.0, 7), (9.0, 7)],
)  # fmt: skip
def test_dac_codes_of_a_table(x, code):
    assert codes_of([2 * x], 2.0, Periphery(dac_bits=4))[0] == code


@given(st.integers(2, 8), st.floats(-3, 3))
def test_dac_codes_are_the_formula(bits, x):
    k = 2 ** (bits - 1) - 1
    value = np.rint((np.clip(x, -1, 1) + 1) * k) / k - 1
    assert codes_of([x], 1.0, Periphery(dac_bits=bits))[0] == pytest.approx(value * k, abs=1e-9)


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


@given(
    st.integers(2, 8), st.booleans(), st.integers(1, 7), st.lists(st.floats(-2, 2), min_size=1, max_size=20)
)
def test_planes_are_the_digits_of_the_magnitude_with_the_codes_sign(bits, signed, plane_bits, values):
    converters = Periphery(dac_bits=bits, signed=signed, plane_bits=min(plane_bits, bits - signed))
    codes = codes_of(values, 1.0, converters).astype(int)
    digits = planes(codes[None], converters, get_kernels("auto"))[:, 0]
    base = 2**converters.plane_bits
    assert len(digits) == converters.planes == -(-(bits - signed) // converters.plane_bits)
    assert all((np.abs(plane) < base).all() and (plane * codes >= 0).all() for plane in digits)
    np.testing.assert_array_equal(sum(base**k * plane.astype(int) for k, plane in enumerate(digits)), codes)


# -- ranges from data --------------------------------------------------------------------------------------------------

SHAPES = {"array": (), "slice": (2, 2, 1, 1), "tile": (1, 1, 3, 1), "column": (1, 1, 1, 7)}


def calibrated(card, scope, **periphery):
    """Two slices, pairs converted apart, three row tiles; and what its ADCs would see, [vectors, slice, sign, tile, column]."""
    preset = card(
        programming=None,
        mapping={"pair": "columns", "slices": 2},
        tiles={"rows": 4, "cols": 28},
        periphery={"subtract": "digital", "adc_scope": scope} | periphery,
    )
    rng = np.random.default_rng(5)
    weight = rng.standard_normal((7, 10)) * np.geomspace(0.1, 1, 7)[:, None]
    chip = Chip(preset, grid="exact")
    array = chip.program(weight, name="w", scale=np.full(7, np.abs(weight).max()))
    x = rng.uniform(-1, 1, (50, 10))
    array.ranges = array.readers[0].ranges_from(x, dac=100.0, adc=100.0)
    codes = np.rint(x / array.ranges.dac * 127) / 127
    padded = np.zeros((50, 12))
    padded[:, :10] = codes
    g = array.conductance()[:, :, :, 0] / preset.device.span  # [tile, slice, sign, rows, cols]
    return array, x, np.einsum("vtr,tsgrc->vsgtc", padded.reshape(50, 3, 4), g)


@pytest.mark.parametrize("scope", sorted(SHAPES))
def test_a_range_is_found_for_every_array_slice_tile_or_column(card, scope):
    array, _, sums = calibrated(card, scope)
    low, high = np.asarray(array.ranges.adc_low), np.asarray(array.ranges.adc_high)
    assert low.shape == high.shape == SHAPES[scope]
    over = {"array": (0, 1, 2, 3, 4), "slice": (0, 3, 4), "tile": (0, 1, 2, 4), "column": (0, 1, 2, 3)}[scope]
    for end, least, most in zip(*(np.ravel(a) for a in (low, sums.min(over), sums.max(over))), strict=True):
        assert end <= least * (1 - 1e-12)
        assert most > 0
    assert (high.ravel() >= sums.max(over).ravel() * (1 - 1e-12)).all()
    codes = -low * 255 / (high - low)
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-6)  # 0 is a code of each


@pytest.mark.parametrize("scope", sorted(SHAPES))
def test_each_conversion_uses_the_range_of_its_place(card, scope):
    array, x, sums = calibrated(card, scope)
    ends = (
        np.broadcast_to(np.asarray(e), (2, 2, 3, 7)) for e in (array.ranges.adc_low, array.ranges.adc_high)
    )
    low, high = ends
    step = (high - low) / 255
    converted = low + np.rint((np.clip(sums, low, high) - low) / step) * step
    places = np.array([15.0, 240.0]) / 255
    signed = (converted[:, :, 0] - converted[:, :, 1]).sum(2)  # over tiles: [vectors, slice, column]
    expected = np.einsum("vsc,s->vc", signed, places) * array.ranges.dac * array.scale
    np.testing.assert_allclose(array.mvm(x), expected, atol=1e-9)


def test_finer_scopes_leave_smaller_errors(card):
    left = {}
    for scope in SHAPES:
        array, x, _ = calibrated(card, scope, adc_bits=4)
        codes = np.rint(x / array.ranges.dac * 127) / 127 * array.ranges.dac
        left[scope] = np.sqrt(((array.mvm(x) - codes @ array.target_weights().T) ** 2).mean())
    assert left["column"] < left["array"]
    assert left["slice"] <= left["array"] * 1.01


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("subtract", ["analog", "digital"])
def test_the_largest_range_holds_whatever_comes(card, signed, subtract):
    preset = card(
        programming=None,
        mapping={"pair": "columns"},
        periphery={"adc_range": "max", "adc_bits": 12, "signed": signed, "subtract": subtract},
    )
    weight = np.sign(np.random.default_rng(0).standard_normal((5, 20)))
    array = Chip(preset, grid="exact").program(weight, name="w")
    array.ranges = array.readers[0].ranges_from(np.full((1, 20), 2.0), dac=100.0, adc=50.0)
    x = 2 * np.vstack([weight, -weight, np.ones((1, 20))])
    x = x if signed else np.maximum(x, 0)
    step = 20 * (41 / 39) * 2 * 2 / 4095 * (1 if subtract == "analog" else 2)
    np.testing.assert_allclose(array.mvm(x), x @ weight.T, atol=step)


def test_a_range_per_vector_follows_each_vector_alone(card):
    preset = card(programming=None, periphery={"scaling": "per_vector_absmax", "adc_bits": 0})
    weight = np.random.default_rng(0).standard_normal((5, 20))
    array = Chip(preset, grid="exact").program(weight, name="w", ranges=Ranges(1e-3, -20, 20))
    x = np.random.default_rng(1).standard_normal((6, 20)) * np.geomspace(1e-5, 1e3, 6)[:, None]
    full = np.abs(x).max(1, keepdims=True)
    codes = np.rint(x / full * 127) / 127 * full
    got = array.mvm(x)
    np.testing.assert_allclose(got, codes @ array.read_weights().T, rtol=1e-9)
    for i in range(6):
        np.testing.assert_allclose(array.mvm(x[i]), got[i], rtol=1e-12)
    np.testing.assert_allclose(array.mvm(1000 * x), 1000 * got, rtol=1e-9)
    assert (array.mvm(np.zeros((1, 20))) == 0).all()


def test_a_product_without_ranges_is_an_error_that_says_how_to_get_them(card):
    array = Chip(card(programming=None)).program(np.ones((2, 3)), name="w")
    with pytest.raises(
        CalibrationError, match=r"array 'w': its converters have no ranges; call chip\.calibrate"
    ):
        array.mvm(np.ones(3))
