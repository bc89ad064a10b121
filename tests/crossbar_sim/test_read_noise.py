"""Read noise of products: exact variance, exact distribution."""

import numpy as np
import pytest

from crossbar_kernels import get_kernels
from crossbar_kernels.philox import Purpose, stream
from crossbar_sim import Chip, Ranges
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
        plane = g[:, 0, sign].transpose(0, 2, 1).reshape(-1, g.shape[3])
        if array.chip.preset.name == "hfo2_neurram":
            pair.append(np.full(plane.shape, 0.4e-6) ** 2)
        else:
            growth = np.sqrt(np.log((age + 1e-6) / 2e-6))
            pair.append((0.0277316e-6 * np.log10(plane / 1e-6) * growth) ** 2)
    return (pair[0] + pair[1])[: array.placement.outputs, : array.placement.inputs]


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
    g = array.conductance()[0, 0, :, 1, 0]
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
