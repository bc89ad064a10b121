"""Reads from the other side: bit lines driven, word lines sensed."""

from dataclasses import replace

import numpy as np
import pytest

from crossbar_kernels import get_kernels
from crossbar_kernels.philox import Purpose, stream
from crossbar_sim import Chip, ConfigError, Ranges, mapping
from crossbar_sim.reading import PROBES

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((11, 17)) * np.geomspace(0.1, 3, 11)[:, None]
G = RNG.standard_normal((6, 11)) * np.geomspace(1e-6, 10, 6)[:, None]

MAPPINGS = {
    "column pairs": {"pair": "columns"},
    "row pairs": {"pair": "rows"},
    "pairs in two arrays": {"pair": "arrays"},
    "two-sided": {"pair": "columns", "coding": "two_sided"},
    "offset": {"pair": "columns", "coding": "offset"},
    "unit column": {"pair": "columns", "coding": "offset", "offset": "unit_column"},
    "slices and copies": {"pair": "columns", "slices": 2, "copies": 2},
    "one scale": {"pair": "rows", "scale": "matrix"},
}


def programmed(
    card, *, grid="exact", mapping=None, noise=False, periphery=None, relaxation=False, tiles=None
):
    preset = card(
        programming=None,
        noise=noise,
        relaxation=relaxation,
        mapping=mapping or {"pair": "columns"},
        periphery={"adc_bits": 0} | (periphery or {}),
        tiles=tiles or {"rows": 256, "cols": 256},
    )
    chip = Chip(preset, grid=grid)
    return chip.program(WEIGHT, name="w", ranges=Ranges(1.0, -20, 20))


def driven(array, g, bits=8):
    """What drives the bit lines, by the formulas: codes per vector, full scale the power of two above max|g scale|."""
    wanted = g * array.scale
    full = 2.0 ** np.ceil(np.log2(np.abs(wanted).max(axis=1, keepdims=True)))
    k = 2 ** (bits - 1) - 1
    return (np.rint((wanted / full + 1) * k) / k - 1) * full


@pytest.mark.parametrize("name", sorted(MAPPINGS))
@pytest.mark.parametrize("planes", [{}, {"plane_bits": 2}, {"plane_bits": 3, "accumulate": "digital"}])
@pytest.mark.parametrize("tiles", [{"rows": 256, "cols": 256}, {"rows": 8, "cols": 16}])
def test_it_is_the_product_with_the_transposed_weights(card, name, planes, tiles):
    array = programmed(card, mapping=MAPPINGS[name], periphery=planes, tiles=tiles)
    expected = driven(array, G) @ (array.read_weights() / array.scale[:, None])
    got = array.mvm_t(G)
    size = np.abs(expected).max(axis=1, keepdims=True)
    np.testing.assert_allclose(got / size, expected / size, atol=1e-12)


@pytest.mark.parametrize("name", sorted(MAPPINGS))
def test_with_its_own_adc_it_stays_within_its_codes(card, name):
    array = programmed(card, mapping=MAPPINGS[name], periphery={"adc_bits": 8}, tiles={"rows": 8, "cols": 40})
    exact = G @ array.read_weights()
    error = np.abs(array.mvm_t(G) - exact) / np.abs(exact).max(axis=1, keepdims=True)
    assert 0 < error.mean() < 0.05
    assert (array.mvm_t(np.zeros((2, 11))) == 0).all()


def test_unsigned_inputs_leave_gradients_signed(card):
    for bits, plane_bits in ((4, 4), (4, 1), (1, 1)):
        array = programmed(card, periphery={"signed": False, "dac_bits": bits, "plane_bits": plane_bits})
        expected = driven(array, G, max(bits, 2)) @ (array.read_weights() / array.scale[:, None])
        np.testing.assert_allclose(array.mvm_t(G), expected, rtol=1e-9, atol=1e-12)


def test_one_vector_no_vector_and_several_axes(card):
    array = programmed(card, grid="int15", periphery={"adc_bits": 8})
    whole = array.mvm_t(G)
    np.testing.assert_array_equal(array.mvm_t(G[2]), whole[2])
    np.testing.assert_array_equal(array.mvm_t(G.reshape(3, 2, 11)), whole.reshape(3, 2, 17))
    assert array.mvm_t(np.zeros((0, 11))).shape == (0, 17)


def test_a_gradient_of_another_size_is_read_as_well(card):
    array = programmed(card, noise=True, periphery={"adc_bits": 8})
    np.testing.assert_array_equal(array.mvm_t(G * 2.0**-20), array.mvm_t(G) * 2.0**-20)


def cell_variance(array):
    """Variance of one read of each pair in units of the weight's full scale, [m, n]; every cell has 0.4 uS."""
    p, device = array.placement, array.chip.preset.device
    used = mapping.used(p, array.order)
    cells = 2 * (0.4e-6 / device.span) ** 2 * used[:, 0, 0, 0]
    return mapping.from_cells(cells, p)


@pytest.mark.parametrize(("grid", "tolerance"), [("int15", 2e-3), ("exact", 1e-6)])
@pytest.mark.parametrize("pair", ["columns", "rows", "arrays"])
@pytest.mark.parametrize("gradients", ["random", "one-hot"])
def test_the_variance_is_the_sum_over_the_cells(card, grid, tolerance, pair, gradients):
    g = G if gradients == "random" else np.eye(11)[:6]
    noisy, clean = (programmed(card, grid=grid, noise=n, mapping={"pair": pair}) for n in (True, False))
    noisy.chip.event = 5
    rows = np.arange(6, dtype=np.uint32) * 4096
    z = get_kernels().normals(rows, 17, key=noisy.key, stream=stream(Purpose.BACKWARD_READ), event=5)
    sigma = (noisy.mvm_t(g) - clean.mvm_t(g)) / z
    np.testing.assert_allclose(sigma**2, driven(noisy, g) ** 2 @ cell_variance(noisy), rtol=tolerance)


def test_over_several_tiles_the_moments_are_those_of_the_law(card):
    array = programmed(card, noise=True, mapping={"pair": "rows"}, tiles={"rows": 8, "cols": 4})
    y = array.mvm_t(np.tile(G[3], (8000, 1)))
    expected = driven(array, G[3:4]) ** 2 @ cell_variance(array)
    np.testing.assert_allclose(y.var(0), expected[0], rtol=4.5 * np.sqrt(2 / 8000))
    off_diagonal = np.corrcoef(y.T) - np.eye(17)
    assert np.abs(off_diagonal).max() < 4.5 / np.sqrt(8000)


def test_splitting_a_batch_changes_nothing(card):
    array = programmed(card, grid="int15", noise=True, relaxation=True, periphery={"adc_bits": 8})
    whole = array.mvm_t(G)
    for pieces in ([1] * 6, [2, 4], [5, 1]):
        start = 0
        for size in pieces:
            with array.chip.samples_from(start):
                part = array.mvm_t(G[start : start + size])
            np.testing.assert_array_equal(part, whole[start : start + size])
            start += size


def test_it_draws_other_words_than_a_forward_read_and_new_ones_at_every_event(card):
    symmetric = np.ones((40, 40))
    noise = []
    for noisy in (True, False):
        chip = Chip(
            card(programming=None, noise=noisy, mapping={"pair": "columns"}, periphery={"adc_bits": 0})
        )
        array = chip.program(symmetric, name="w", ranges=Ranges(1.0, -50, 50))
        x = np.ones((100, 40))
        reads = [array.mvm(x), array.mvm_t(x)]
        chip.next_event()
        noise.append([y.ravel() for y in (*reads, array.mvm_t(x))])
    differences = [a - b for a, b in zip(*noise, strict=True)]
    assert np.abs(np.corrcoef(differences) - np.eye(3)).max() < 4.5 / np.sqrt(4000)


def test_its_ranges_are_found_once_when_first_needed_and_booked_under_calibrate(card):
    array = programmed(
        card, periphery={"adc_bits": 8}, mapping={"pair": "rows"}, tiles={"rows": 8, "cols": 6}
    )
    ledger, p = array.chip.ledger, array.placement
    assert array.backward_ranges is None
    with ledger.scope(phase="backward"):
        array.mvm_t(G)
    found = array.backward_ranges
    once = PROBES * p.inputs * p.col_tiles
    assert ledger.total("adc_conversion", phase="calibrate") == once
    assert ledger.total("adc_conversion", phase="backward") == len(G) * p.inputs * p.col_tiles
    energy = {
        r["phase"]: r["energy_J"]
        for r in ledger.rows(array.chip.preset.prices)
        if r["action"] == "array_read"
    }
    assert energy["calibrate"] > 0
    assert energy["backward"] > 0
    with ledger.scope(phase="backward"):
        array.mvm_t(G)
    assert array.backward_ranges is found
    assert ledger.total("adc_conversion", phase="calibrate") == once


def test_given_ranges_are_taken_and_nothing_is_booked_for_them(card):
    array = programmed(card, periphery={"adc_bits": 8})
    array.backward_ranges = Ranges(1.0, -1e-6, 1e-6)
    array.mvm_t(G)
    assert array.chip.ledger.total("adc_conversion", phase="calibrate") == 0
    assert np.ptp(np.abs(array.mvm_t(G[:1]))) == 0  # all beyond the ends of the range


def test_gated_columns_cannot_be_read_from_the_other_side(card):
    preset = card(
        programming=None, mapping={"pair": "columns"}, wires={"ladder": "gated"}, periphery={"plane_bits": 1}
    )
    array = Chip(preset, ir_drop=True).program(WEIGHT, name="w", ranges=Ranges(1.0, -9, 9))
    with pytest.raises(ConfigError, match=r"mvm_t: gated columns .* use backward 'nominal' or 'oracle'"):
        array.mvm_t(G)


def test_the_ideal_card_multiplies_in_both_directions():
    array = Chip("ideal").program(WEIGHT, name="w")
    np.testing.assert_allclose(array.mvm_t(G), G @ WEIGHT, rtol=1e-10)
    chip = Chip(
        replace(
            array.chip.preset,
            mapping=replace(array.chip.preset.mapping, coding="offset", offset="unit_column"),
        )
    )
    np.testing.assert_allclose(chip.program(WEIGHT, name="w").mvm_t(G), G @ WEIGHT, rtol=1e-9, atol=1e-14)
