"""Read noise of products: exact variance, exact distribution."""

import numpy as np
import pytest

from crossbar_kernels import get_kernels
from crossbar_kernels.philox import Purpose, stream
from crossbar_sim import Chip, Ranges, mapping
from crossbar_sim.device import ReadNoise
from crossbar_sim.noise import read_sigma

WEIGHT = np.random.default_rng(0).uniform(-1, 1, (13, 60))
INPUTS = {
    "random": np.random.default_rng(1).uniform(-1, 1, (8, 60)),
    "one-hot": np.eye(60)[:8],
    "negative": -np.eye(60)[20:28],
}


def cell_variance(array, age):
    """Variance of one read of each column pair, S^2, [m, n], from the laws of the sources."""
    g = array.conductance()
    pair = []
    for sign in (0, 1):
        plane = mapping.from_cells(g[:, 0, sign, 0], array.placement)
        if array.chip.preset.name == "hfo2_neurram":
            pair.append(np.full(plane.shape, 0.4e-6) ** 2)
        else:
            growth = np.sqrt(np.log((age + 1e-6) / 2e-6))
            pair.append((0.0277316e-6 * np.log10(plane / 1e-6) * growth) ** 2)
    return pair[0] + pair[1]


@pytest.mark.parametrize("name", ["hfo2_neurram", "cmo_hfox"])
@pytest.mark.parametrize("kind", sorted(INPUTS))
@pytest.mark.parametrize(("grid", "tolerance"), [("int15", 2e-3), ("exact", 1e-6)])
def test_the_variance_is_the_sum_over_the_cells(card, name, kind, grid, tolerance):
    """Noisy minus noise-free product, divided by the draw, is the standard deviation."""
    x = INPUTS[kind]
    products, arrays = [], []
    for noise in (True, False):
        preset = card(name, relaxation=True, noise=noise, periphery={"adc_bits": 0})
        chip = Chip(preset, grid=grid, statistical=True)
        arrays.append(chip.program(WEIGHT, name="w", ranges=Ranges(1.0, -60, 60)))
        chip.advance(3600.0)
        chip.event = 3
        products.append(arrays[-1].mvm(x))
    array = arrays[0]
    z = get_kernels().normals(
        np.arange(8, dtype=np.uint32) * 4096, 13, key=array.key, stream=stream(Purpose.READ), event=3
    )
    sigma = (products[0] - products[1]) / z
    codes = np.rint(x * 127) / 127
    expected = codes**2 @ cell_variance(array, 3601.0).T / array.chip.preset.device.span**2 * array.scale**2
    np.testing.assert_allclose(sigma**2, expected, rtol=tolerance)


def test_over_several_tiles_and_many_draws(card):
    preset = card(noise=True, tiles={"rows": 16, "cols": 10}, periphery={"adc_bits": 0})
    chip = Chip(preset, statistical=True)
    array = chip.program(WEIGHT, name="w", ranges=Ranges(1.0, -60, 60))
    x = np.random.default_rng(5).uniform(-1, 1, 60)
    y = array.mvm(np.tile(x, (20_000, 1)))
    z = (y - y.mean(0)) / array.scale * preset.device.span
    expected = np.full(13, (np.rint(127 * x) ** 2).sum() / 127**2 * 2 * 0.4e-6**2)
    np.testing.assert_allclose(z.var(0), expected, rtol=4 * np.sqrt(2 / 20_000))
    correlation = np.corrcoef(z.T) - np.eye(13)
    assert np.abs(correlation).max() < 4.5 / np.sqrt(20_000)
    assert abs(np.corrcoef(z[1:, 0], z[:-1, 0])[0, 1]) < 4.5 / np.sqrt(20_000)


def test_the_published_figure_of_the_law(card):
    law = card("cmo_hfox", noise=True).read_noise
    for age, micro in ((1.0, 0.1707), (3600.0, 0.2175), (86400.0, 0.2332), (604800.0, 0.2422)):
        assert 1e6 * read_sigma(np.array([50e-6]), age, law)[0] == pytest.approx(micro, abs=6e-5)
    assert read_sigma(np.array([1e-6, 0.2e-6]), 1.0, law).tolist() == [0.0, 0.0]
    assert read_sigma(np.array([7e-6]), 1.0, ReadNoise(constant=3e-7))[0] == 3e-7


def test_cells_written_later_are_read_as_the_younger_cells_they_are(card):
    preset = card("cmo_hfox", noise=True, periphery={"adc_bits": 0})
    weight = np.array([[1.0, 1.0]])
    chip = Chip(preset, grid="exact", statistical=True)
    array = chip.program(weight, name="w", scale=np.ones(1), ranges=Ranges(1.0, -9, 9))
    chip.advance(1e6)
    array.reprogram(np.array([[1.0, 0.5]]))
    z = get_kernels().normals(np.zeros(1, np.uint32), 1, key=array.key, stream=stream(Purpose.READ), event=0)
    noisy = array.mvm(np.array([[0.0, 1.0]]))[0, 0]
    sigma = abs((noisy - array.read_weights()[0, 1]) / z[0, 0]) * preset.device.span
    g = array.conductance()[0, 0, :, 0, 1, 0]
    pair = [read_sigma(g[i : i + 1], age, preset.read_noise)[0] for i, age in ((0, 1.0), (1, 1e6 + 1))]
    assert sigma == pytest.approx(np.hypot(*pair), rel=1e-6)


def test_a_noise_free_card_works_on_every_grid(card):
    y = []
    for grid in ("exact", "int15"):
        array = Chip(card(periphery={"adc_bits": 0}), grid=grid).program(
            WEIGHT, name="w", ranges=Ranges(1.0, -60, 60)
        )
        y.append(array.mvm(INPUTS["random"]))
    np.testing.assert_allclose(y[0], y[1], atol=60 * 1e-4)


# -- planes, slices and signs: every read has words of its own --------------------------------------------------------

READS = {
    "planes added in analog": {"plane_bits": 1},
    "planes of three bits in analog": {"plane_bits": 3},
    "planes converted one by one": {"plane_bits": 2, "accumulate": "digital"},
    "pairs converted apart": {"subtract": "digital"},
    "pairs apart, planes one by one": {"subtract": "digital", "plane_bits": 3, "accumulate": "digital"},
}


def digits_of(codes, bits):
    """Planes of 7 bit magnitudes with the codes' signs, least significant first."""
    return [np.abs(codes) // 2 ** (bits * k) % 2**bits * np.sign(codes) for k in range(-(-7 // bits))]


def predicted(array, x, event):
    """The noise of a product of one tile: for every conversion its word's z times the root of its variance."""
    p, c = array.placement, array.chip.preset.periphery
    codes, age = np.rint(x * 127), 3601.0
    planes = digits_of(codes, c.plane_bits) if c.plane_bits else [codes]
    weights = [2.0 ** (c.plane_bits * k) for k in range(len(planes))]
    squares = [plane**2 for plane in planes]
    if c.accumulate == "analog":
        squares, weights = [sum(w**2 * q for w, q in zip(weights, squares, strict=True))], [1.0]
    levels = array.chip.preset.device.levels
    places = [levels**s * (levels - 1) / (levels**p.slices - 1) for s in range(p.slices)]
    noise = np.zeros((len(x), p.outputs))
    for s, place in enumerate(places):
        g = array.conductance()[:, s]
        cells = [mapping.from_cells(law(array, g[:, sign, 0], age), p) ** 2 for sign in (0, 1)]
        for sign, variance in enumerate([cells[0] + cells[1]] if c.subtract == "analog" else cells):
            for k, (weight, square) in enumerate(zip(weights, squares, strict=True)):
                word = stream(Purpose.READ, slice_=s, sign=sign, plane=k)
                rows = np.arange(len(x), dtype=np.uint32) * 4096
                z = get_kernels().normals(rows, p.outputs, key=array.key, stream=word, event=event)
                noise += (-1) ** sign * place * weight * np.sqrt(square @ variance.T) * z
    return noise / 127 * array.scale / array.chip.preset.device.span


def law(array, g, age):
    """Standard deviation of one read of each cell, S, from the laws of the sources."""
    if array.chip.preset.name == "hfo2_neurram":
        return np.full(g.shape, 0.4e-6)
    return 0.0277316e-6 * np.log10(np.maximum(g, 1e-6) / 1e-6) * np.sqrt(np.log((age + 1e-6) / 2e-6))


@pytest.mark.parametrize("name", ["hfo2_neurram", "cmo_hfox"])
@pytest.mark.parametrize("reads", sorted(READS))
@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize(("grid", "tolerance"), [("int15", 1e-3), ("exact", 1e-6)])
def test_every_conversion_has_the_noise_of_its_own_digits(card, name, reads, slices, grid, tolerance):
    """Noisy minus noise-free product is the sum over slices, signs and planes of what each conversion draws.

    A tolerance of 0.1 % of the standard deviation is one of 0.2 % of the variance.
    """
    products, how = [], {"pair": "columns", "slices": slices}
    for noise in (True, False):
        periphery = {"adc_bits": 0} | READS[reads]
        preset = card(name, relaxation=True, noise=noise, periphery=periphery, mapping=how)
        chip = Chip(preset, grid=grid, statistical=True)
        array = chip.program(WEIGHT, name="w", ranges=Ranges(1.0, -60, 60))
        chip.advance(3600.0)
        chip.event = 3
        products.append([array.mvm(x) for _, x in sorted(INPUTS.items())])
    for (_, x), noisy, clean in zip(sorted(INPUTS.items()), *products, strict=True):
        expected = predicted(array, x, 3)
        size = np.sqrt((expected**2).mean())
        np.testing.assert_allclose(noisy - clean, expected, rtol=tolerance, atol=tolerance * size / 10)


@pytest.mark.parametrize("planes", [{}, {"plane_bits": 1}, {"plane_bits": 4}])
@pytest.mark.parametrize("kind", sorted(INPUTS))
def test_the_variance_of_accumulated_planes_is_exact(card, planes, kind):
    """Analog accumulation: sum_k 4^(d k) sum_i digit_ik^2 sigma_i^2, within 0.2 %."""
    x = INPUTS[kind]
    products = []
    for noise in (True, False):
        preset = card("cmo_hfox", noise=noise, periphery={"adc_bits": 0} | planes, mapping={"slices": 1})
        array = Chip(preset, statistical=True).program(WEIGHT, name="w", ranges=Ranges(1.0, -60, 60))
        products.append(array.mvm(x))
    rows = np.arange(8, dtype=np.uint32) * 4096
    z = get_kernels().normals(rows, 13, key=array.key, stream=stream(Purpose.READ), event=0)
    sigma = (products[0] - products[1]) / z
    codes, bits = np.rint(x * 127), planes.get("plane_bits", 7)
    squares = sum(4.0 ** (bits * k) * digit**2 for k, digit in enumerate(digits_of(codes, bits)))
    expected = (
        squares @ cell_variance(array, 1.0).T / (127 * array.chip.preset.device.span) ** 2 * array.scale**2
    )
    np.testing.assert_allclose(sigma**2, expected, rtol=2e-3)


def test_the_integer_grid_of_variances_is_half_a_step_fine(card):
    """The flicker law spans decades: a one-hot read of a cell far quieter than the noisiest is off by half a step of 1/16383."""
    products = {}
    for grid in ("int15", "exact"):
        for noise in (True, False):
            preset = card("pcm_joshi", noise=noise, periphery={"adc_bits": 0})
            array = Chip(preset, grid=grid, statistical=True).program(
                WEIGHT, name="w", ranges=Ranges(1.0, -60, 60)
            )
            products[grid, noise] = array.mvm(np.eye(60))
    z = get_kernels().normals(
        np.arange(60, dtype=np.uint32) * 4096, 13, key=array.key, stream=stream(Purpose.READ), event=0
    )
    gridded, exact = (
        ((products[g, True] - products[g, False]) / z / array.scale) ** 2 for g in ("int15", "exact")
    )
    assert (np.abs(gridded - exact) <= 2e-3 * exact + 0.51 * exact.max() / 16383).all()
    loud = exact > exact.max() / 64
    np.testing.assert_allclose(gridded[loud], exact[loud], rtol=2e-3)
    assert loud.mean() > 0.9
