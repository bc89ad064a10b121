"""Convolutions on arrays."""

from itertools import product as combinations

import numpy as np
import pytest
import torch
from torch import nn

from crossbar_sim import Chip, ConfigError, Ranges, convert, revert
from crossbar_sim.conv import CrossbarConv2d
from crossbar_sim.layers import split

GEOMETRIES = {
    "plain": {},
    "stride": {"stride": (2, 1)},
    "padding": {"padding": (1, 2), "stride": 2},
    "same, even kernel": {"kernel_size": (2, 4), "padding": "same"},
    "dilation": {"dilation": (1, 2), "padding": 2},
    "groups": {"groups": 2, "padding": 1},
    "depthwise": {"groups": 4, "bias": False},
    "pointwise": {"kernel_size": 1},
    "reflect": {"padding": 1, "padding_mode": "reflect"},
    "circular": {"padding": (2, 1), "padding_mode": "circular"},
}


def geometry(name):
    torch.manual_seed(1)
    options = {"kernel_size": 3, **GEOMETRIES[name]}
    return nn.Conv2d(4, 6 if options.get("groups") != 4 else 8, dtype=torch.float64, **options)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", GEOMETRIES)
def test_on_the_ideal_card_it_is_the_convolution(name):
    conv = geometry(name)
    images = torch.randn(3, 4, 7, 9, dtype=torch.float64)
    expected, single = conv(images), conv(images[0])
    model = convert(nn.Sequential(conv), Chip("ideal"))
    assert isinstance(model[0], CrossbarConv2d)
    torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(model(images[0]), single, rtol=0, atol=1e-10)
    assert revert(model)[0] is conv


@pytest.mark.parametrize("name", ["padding", "groups", "dilation"])
def test_gradients_are_those_of_the_products(name):
    conv = geometry(name)
    images = torch.randn(1, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    conv(images).square().sum().backward()
    expected, bias = images.grad, conv.bias.grad
    images.grad = conv.bias.grad = None
    model = convert(nn.Sequential(conv), Chip("ideal", backward="oracle"))
    model(images).square().sum().backward()
    torch.testing.assert_close(images.grad, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(model[0].bias.grad, bias, rtol=0, atol=1e-10)
    assert torch.autograd.gradcheck(model, images)


def test_every_group_has_its_array_and_one_line_in_the_ledger(card):
    chip = Chip(card(), statistical=True)
    convert(nn.Sequential(geometry("groups")), chip)
    assert sorted(chip.arrays) == ["0.0", "0.1"]
    assert {a.placement.inputs for a in chip.arrays.values()} == {2 * 9}
    assert {key.layer for key in chip.ledger.counts} == {"0"}


def test_vectors_are_images_times_output_positions(card):
    chip = Chip(card(), statistical=True)
    model = convert(nn.Sequential(nn.Conv2d(3, 5, 3, stride=2)), chip)
    array = chip.arrays["0"]
    array.ranges = Ranges(3.0, -9, 9)
    with chip.ledger.scope(phase="eval"):
        out = model(torch.randn(4, 3, 9, 7))
    assert out.shape == (4, 5, 4, 3)
    assert chip.ledger.total("adc_conversion", phase="eval") == 4 * 4 * 3 * 5
    assert chip.ledger.total("array_read", phase="eval") == 4 * 4 * 3 * array.placement.cells


@pytest.mark.parametrize("backward", ["transposed", "nominal"])
def test_a_noisy_card_calibrates_runs_and_trains_what_stands_before_it(card, backward):
    torch.manual_seed(0)
    chip = Chip(card(noise=True, relaxation=True), statistical=True, backward=backward)
    conv = nn.Conv2d(3, 5, 3, padding=1)
    images = torch.randn(4, 3, 6, 6)
    clean = conv(images)
    model = convert(nn.Sequential(conv), chip)
    chip.calibrate(model, [{"input": images}])
    inputs = images.clone().requires_grad_()
    out = model(inputs)
    error = (out - clean).std() / clean.std()
    assert 0.01 < error < 0.5
    out.square().sum().backward()
    assert torch.isfinite(inputs.grad).all()
    assert inputs.grad.abs().max() > 0


def test_an_images_noise_does_not_depend_on_its_batch(card):
    chip = Chip(card(noise=True), statistical=True)
    model = convert(nn.Sequential(nn.Conv2d(2, 3, 1)), chip)
    chip.arrays["0"].ranges = Ranges(3.0, -3, 3)
    images = torch.ones(3, 2, 66, 66)  # more positions than 4096
    together = model(images)
    parts = []
    for first, part in enumerate(images.split(1)):
        with chip.samples_from(first):
            parts.append(model(part))
    torch.testing.assert_close(torch.cat(parts), together, rtol=0, atol=0)
    flat = together[:, 0].detach().numpy().reshape(3, -1)
    assert not np.array_equal(flat[0, 4096:], flat[1, : flat.shape[1] - 4096])
    for a, b in combinations(range(3), repeat=2):
        assert a == b or not np.array_equal(flat[a], flat[b])


def test_a_convolution_is_no_layer_for_adapters():
    model = convert(nn.Sequential(nn.Conv2d(2, 3, 1)), Chip("ideal"))
    with pytest.raises(ConfigError, match="cannot adapt a CrossbarConv2d"):
        split(model[0])


def test_a_convolution_says_what_it_is():
    model = convert(nn.Sequential(nn.Conv2d(2, 4, 3, groups=2)), Chip("ideal"))
    assert "2 -> 4, kernel_size=(3, 3), stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=2" in repr(
        model
    )
