"""Noise of the converters themselves: a Gaussian of fixed variance at the input of every conversion."""

import numpy as np
import pytest

from crossbar_kernels import get_kernels
from crossbar_kernels.philox import Purpose, stream
from crossbar_sim import Chip, ConfigError, Ranges, mapping
from crossbar_sim.circuit import Periphery
from crossbar_sim.presets import edit, only, preset

RNG = np.random.default_rng(0)
WEIGHT = RNG.uniform(-1, 1, (13, 60))
X = RNG.uniform(-1, 1, (9, 60))
LOW, HIGH = -24.0, 31.0
TILES = {"rows": 20, "cols": 16}
PLANES = {
    "one conversion": {},
    "planes one by one": {"plane_bits": 3, "accumulate": "digital"},
    "planes in analog": {"plane_bits": 2},
    "pairs apart": {"subtract": "digital"},
    "its own offset and gain": {"adc_offset": 1.5, "adc_gain": 0.1, "column_clip": 50.0},
}


def programmed(card, *, noise=False, grid="int15", tiles=TILES, slices=1, backend="auto", **periphery):
    how = {"pair": "columns", "slices": slices}
    chip = Chip(
        card(noise=noise, tiles=tiles, mapping=how, periphery=periphery),
        grid=grid,
        statistical=True,
        backend=backend,
    )
    array = chip.program(WEIGHT, name="w", ranges=Ranges(1.0, LOW, HIGH))
    array.backward_ranges = Ranges(1.0, LOW, HIGH)
    return array


# -- moments -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PLANES))
@pytest.mark.parametrize("transposed", [False, True])
def test_the_noise_of_a_result_is_that_of_all_its_conversions(card, name, transposed):
    """Zero inputs: variance (n^2 + 1/12) step^2 of each conversion (rounding is uniform), 6 standard errors of 40,000 draws (p = 2e-9)."""
    codes, bits = 20.0, 11
    array = programmed(card, adc_bits=bits, adc_noise=codes, **(PLANES[name] | {"adc_gain": 0.0}))
    step = (HIGH - LOW) / (2**bits - 1)
    c, vectors = array.chip.preset.periphery, 40_000
    x = np.zeros((vectors, 13 if transposed else 60))
    y = (array.mvm_t(x)[:, :2] if transposed else array.mvm(x)[:, :2] / array.scale[:2]).copy()
    one_by_one = c.planes if c.accumulate == "digital" else 1
    digit = (2**c.plane_bits - 1) / c.dac_scale if one_by_one > 1 else 1.0
    tiles = 13 // 8 + 1 if transposed else 3
    apart = c.subtract == "digital" and not transposed  # word lines join the two cells of a pair
    conversions = tiles * (2 if apart else 1)
    gains = sum((2.0 ** (c.plane_bits * k) * digit) ** 2 for k in range(one_by_one))
    expected = (codes**2 + 1 / 12) * step**2 * conversions * gains
    np.testing.assert_allclose(y.var(axis=0), expected, rtol=6 * np.sqrt(2 / vectors))
    assert np.corrcoef(y.T)[0, 1] == pytest.approx(0.0, abs=6 / np.sqrt(vectors))


def test_it_adds_to_the_variance_of_the_cells(card):
    """Three chips: the cells' noise, the converters', both; their variances add (6 standard errors of 40,000 draws)."""
    x = np.tile(X[0], (40_000, 1))
    cells, converters, both = (
        programmed(card, adc_bits=14, noise=noise, adc_noise=codes).mvm(x).var(axis=0)
        for noise, codes in ((True, 0.0), (False, 12.0), (True, 12.0))
    )
    assert (cells > 0.1 * converters).all()
    np.testing.assert_allclose(both, cells + converters, rtol=6 * 2 * np.sqrt(2 / 40_000))


# -- transcription -----------------------------------------------------------------------------------------------------


def digits_of(codes, bits):
    return [np.abs(codes) // 2 ** (bits * k) % 2**bits * np.sign(codes) for k in range(-(-7 // bits))]


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("name", ["one conversion", "planes one by one", "planes in analog"])
def test_a_product_is_what_its_words_and_its_converters_make_of_it(card, adc, name, noise):
    codes, bits, event = 1.7, 6, 3
    array = programmed(
        card,
        grid="exact",
        noise=noise,
        tiles={"rows": 60, "cols": 32},
        adc_bits=bits,
        adc_noise=codes,
        **PLANES[name],
    )
    array.chip.event = event
    c, span = array.chip.preset.periphery, array.chip.preset.device.span
    sides = [mapping.from_cells(array.conductance()[:, 0, k, 0], array.placement) / span for k in (0, 1)]
    d = c.plane_bits
    planes = digits_of(np.rint(X * 127), d) if d else [np.rint(X * 127)]
    squares = [plane**2 for plane in planes]
    drive, places = 127, [2.0 ** (d * k) for k in range(len(planes))]
    if c.accumulate == "digital" and d:
        drive = 2**d - 1
    else:
        squares = [sum(w**2 * q for w, q in zip(places, squares, strict=True))]
        planes, places = [np.rint(X * 127)], [1.0]
    step, y = (HIGH - LOW) * drive / (2**bits - 1), 0.0
    variance = 2 * (0.4e-6 / span) ** 2 * noise
    for k, (plane, square, place) in enumerate(zip(planes, squares, places, strict=True)):
        z = get_kernels("reference").normals(
            np.arange(9, dtype=np.uint32) * 4096,
            13,
            key=array.key,
            stream=stream(Purpose.READ, plane=k),
            event=event,
        )
        sigma = np.sqrt(variance * square.sum(axis=1, keepdims=True) + (codes * step) ** 2)
        y = y + place * adc(plane @ (sides[0] - sides[1]).T + sigma * z, LOW * drive, HIGH * drive, bits)
    np.testing.assert_allclose(array.mvm(X), y / 127 * array.scale, atol=1e-6)


def test_gated_columns_are_converted_with_it_too(card, adc):
    """Noisy minus noise-free currents before a converter of many codes are the words times the deviation."""
    found = []
    for codes in (0.0, 50.0):
        chip = Chip(
            card(
                mapping={"pair": "columns"},
                wires={"r_bl": 40.0, "ladder": "gated"},
                periphery={"plane_bits": 1, "adc_bits": 16, "adc_noise": codes},
            ),
            ir_drop=True,
            grid="exact",
            statistical=True,
        )
        array = chip.program(WEIGHT[:5, :12], name="w", ranges=Ranges(1.0, LOW, HIGH))
        found.append(array.mvm(X[:, :12]) / array.scale)
    step = (HIGH - LOW) / (2**16 - 1)
    z = get_kernels("reference").normals(
        np.arange(9, dtype=np.uint32) * 4096, 5, key=array.key, stream=stream(Purpose.READ), event=0
    )
    np.testing.assert_allclose(found[1] - found[0], 50.0 * step * z, atol=1.01 * step)


# -- determinism -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("name", sorted(PLANES))
def test_a_batch_may_be_split_and_computed_by_any_backend(card, name, noise):
    array, other = (
        programmed(card, noise=noise, slices=2, backend=backend, adc_bits=7, adc_noise=0.8, **PLANES[name])
        for backend in ("auto", "reference")
    )
    y, g = array.mvm(X), array.mvm_t(X[:, :13])
    np.testing.assert_array_equal(other.mvm(X), y)
    np.testing.assert_array_equal(other.mvm_t(X[:, :13]), g)
    for first in (0, 4, 8):
        part = slice(first, first + 4)
        with array.chip.samples_from(first):
            np.testing.assert_array_equal(array.mvm(X[part]), y[part])
            np.testing.assert_array_equal(array.mvm_t(X[part, :13]), g[part])
    array.chip.next_event()
    assert (array.mvm(X) != y).any()
    assert (array.mvm_t(X[:, :13]) != g).any()


def test_new_ranges_bring_a_new_step(card):
    array = programmed(card, adc_bits=8, adc_noise=1.0)
    x = np.zeros((2000, 60))
    before = array.mvm(x).std()
    array.ranges = Ranges(1.0, 4 * LOW, 4 * HIGH)
    assert array.mvm(x).std() == pytest.approx(4 * before, rel=0.1)


# -- what cards and descriptions say -----------------------------------------------------------------------------------


def test_it_is_refused_without_codes_and_below_zero():
    with pytest.raises(
        ConfigError, match=r"Periphery\.adc_noise: needs an ADC with codes \(adc_bits is 0, adc_noise 0\.5\)"
    ):
        Periphery(dac_bits=4, adc_noise=0.5)
    with pytest.raises(ConfigError, match=r"Periphery\.adc_noise: must not be negative"):
        Periphery(adc_bits=4, adc_noise=-0.5)


def test_it_goes_with_the_converters_and_makes_a_chip_inexact():
    card = edit(preset("ideal"), {"periphery.adc_bits": 8, "periphery.adc_noise": 0.64})
    assert not Chip(card).exact
    assert only(card, ["converters"]).periphery.adc_noise == 0.64
    bare = only(card, ["read_noise"])
    assert (bare.periphery.adc_noise, bare.periphery.adc_bits) == (0.0, 0)
    assert Chip(bare).exact


def test_a_card_file_may_state_it(tmp_path):
    file = tmp_path / "noisy.toml"
    file.write_text(
        'name = "noisy"\ntitle = "noisy converters"\nbase = "hfo2_neurram"\n\n[sources]\nown = "measured here"\n\n'
        '[periphery]\nadc_noise = { value = 0.4, mark = "published", source = "own" }\n'
    )
    assert preset(file).periphery.adc_noise == 0.4
