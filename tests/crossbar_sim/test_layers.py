"""Crossbar layers in torch: gradients, copies, checkpoints."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from crossbar_sim import CalibrationError, Chip, ConfigError, Ranges
from crossbar_sim.circuit import WeightMapping
from crossbar_sim.layers import CrossbarLinear, CrossbarProduct, DigitalProduct, split
from crossbar_sim.periphery import dac_codes

WEIGHT = np.random.default_rng(0).standard_normal((6, 10))


def ready(preset, *, backward="nominal", **options):
    chip = Chip(preset, backward=backward, statistical=True, **options)
    array = chip.program(WEIGHT, name="w", ranges=Ranges(2.0, -9, 9))
    chip.advance(1e5)
    return chip, CrossbarLinear(CrossbarProduct(array), nn.Parameter(torch.zeros(6)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mode", ["nominal", "oracle"])
def test_the_input_gradient_is_that_of_the_modes_weights(card, mode, training, dtype):
    _, layer = ready(card(relaxation=True, noise=True), backward=mode)
    layer.train(training)
    x = torch.randn(3, 4, 10, dtype=dtype, requires_grad=True)
    g = torch.randn(3, 4, 6, dtype=dtype)
    layer(x).backward(g)
    array = layer.product.array
    if mode == "oracle":
        weights = array.read_weights()
        assert np.abs(weights - WEIGHT).max() > 0.1
    else:  # what was asked for: the levels nearest to the weights
        scale = np.abs(WEIGHT).max(1, keepdims=True)
        weights = np.sign(WEIGHT) * np.rint(np.abs(WEIGHT) / scale * 15) / 15 * scale
    expected = g.double().numpy() @ weights
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    np.testing.assert_allclose(x.grad.double().numpy(), expected, rtol=tolerance, atol=10 * tolerance)
    np.testing.assert_allclose(layer.bias.grad, g.sum((0, 1)).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_follows_a_rewritten_array(card, dtype):
    _, layer = ready(card())
    x = torch.zeros(1, 10, dtype=dtype, requires_grad=True)
    g = torch.ones(1, 6, dtype=dtype)
    layer(x).backward(g)
    before, x.grad = x.grad, None
    layer.product.array.reprogram(-WEIGHT)
    layer(x).backward(g)
    torch.testing.assert_close(x.grad, -before)


def test_the_master_gets_the_outer_product_and_gives_the_input_gradient(card):
    _, layer = ready(card())
    master = nn.Parameter(torch.from_numpy(WEIGHT))
    product = CrossbarProduct(layer.product.array, master=master)
    x = torch.randn(2, 5, 10, dtype=torch.float64, requires_grad=True)
    g = torch.randn(2, 5, 6, dtype=torch.float64)
    product(x).backward(g)
    torch.testing.assert_close(master.grad, torch.einsum("abo,abi->oi", g, x.detach()))
    torch.testing.assert_close(x.grad, g @ master.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_transposed_gradient_is_the_arrays_own_product(card, dtype):
    chip, layer = ready(card(relaxation=True, noise=True), backward="transposed")
    array = layer.product.array
    x = torch.randn(3, 4, 10, dtype=dtype, requires_grad=True)
    g = torch.randn(3, 4, 6, dtype=dtype)
    out = layer(x)
    with chip.ledger.scope(phase="backward"):
        out.backward(g)
    with chip.ledger.scope(phase="eval"):
        expected = array.mvm_t(g.numpy())
    torch.testing.assert_close(x.grad, torch.from_numpy(expected).to(dtype), rtol=0, atol=0)
    near = torch.from_numpy(g.double().numpy() @ array.read_weights())
    assert (
        0 < (x.grad - near).abs().mean() < 0.3 * near.abs().mean()
    )  # the same matrix, with noise and converters
    booked = {phase: chip.ledger.total("adc_conversion", phase=phase) for phase in ("backward", "eval")}
    assert booked["backward"] == booked["eval"] > 0
    assert chip.ledger.total("dram_read_bit") == 0
    adds = {p: chip.ledger.total("digital_add", phase=p, matrix="base") for p in ("backward", "eval")}
    assert adds["backward"] == adds["eval"] > 0
    assert (
        chip.ledger.total("digital_add", phase="backward", matrix="own") == 3 * 4 * 6
    )  # the bias's gradient


@pytest.mark.parametrize("mode", ["transposed", "nominal"])
def test_the_backward_pass_reads_at_the_forward_passes_moment(card, mode):
    """The mask, the sample numbers and the event are those of the forward pass, whatever came between."""
    chip, layer = ready(card(noise=True), backward=mode)
    mask = np.array([[True, True, False], [True, False, False]])
    g = torch.randn(2, 3, 6)

    def gradient(*, between):
        x = torch.ones(2, 3, 10, requires_grad=True)
        chip.event = 7
        chip.begin_batch(mask)
        with chip.samples_from(3):
            out = layer(x)
            if not between:
                out.backward(g)
        chip.begin_batch(None)
        if between:
            chip.next_event()
            with chip.ledger.scope(phase="backward"):
                out.backward(g)
            assert (chip.event, chip.valid_vectors((2, 3))) == (8, 6)
        return x.grad

    expected = gradient(between=False)
    torch.testing.assert_close(gradient(between=True), expected, rtol=0, atol=0)
    if mode == "transposed":
        assert (expected[torch.from_numpy(~mask)] == 0).all()
        driven = chip.ledger.total("dac_drive", phase="backward")
        layer.product.array.mvm_t(g[:1, :, :].numpy())  # three vectors
        with chip.ledger.scope(phase="eval"):
            layer.product.array.mvm_t(g[:1, :, :].numpy())
        assert driven == chip.ledger.total("dac_drive", phase="eval")


def test_a_master_keeps_its_digital_product_in_every_mode(card):
    chip, layer = ready(card(noise=True), backward="transposed")
    master = nn.Parameter(torch.from_numpy(WEIGHT))
    x = torch.randn(2, 10, dtype=torch.float64, requires_grad=True)
    g = torch.randn(2, 6, dtype=torch.float64)
    out = CrossbarProduct(layer.product.array, master=master)(x)
    with chip.ledger.scope(phase="backward"):
        out.backward(g)
    torch.testing.assert_close(x.grad, g @ master.detach())
    assert chip.ledger.total("adc_conversion", phase="backward") == 0
    assert chip.ledger.total("digital_mul", phase="backward") == 2 * (2 * 6 * 10)


@pytest.mark.parametrize("name", ["ideal", "hfo2_neurram"])
@pytest.mark.parametrize("mode", ["transposed", "nominal", "oracle"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_go_in_and_come_out(card, dtype, mode, name):
    _, layer = ready(card(name), backward=mode)
    layer.to(dtype)
    x = torch.randn(3, 10, dtype=dtype, requires_grad=True)
    out = layer(x)
    out.backward(torch.ones_like(out))
    assert out.dtype == x.grad.dtype == layer.bias.grad.dtype == dtype
    exact = x.detach().double() @ torch.from_numpy(layer.product.array.read_weights()).T
    near = 0.03 if name == "ideal" else 0.5
    torch.testing.assert_close(out.double(), exact, rtol=near, atol=near * exact.abs().max().item())


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["ideal", "hfo2_neurram"])
@pytest.mark.parametrize("mode", ["transposed", "nominal", "oracle"])
def test_inputs_of_another_device_come_back_to_it(card, mode, name):
    _, layer = ready(card(name), backward=mode)
    x = torch.randn(3, 10, requires_grad=True)
    layer(x).square().sum().backward()
    there = x.detach().cuda().requires_grad_()
    out = layer.to("cuda")(there)
    out.square().sum().backward()
    assert out.is_cuda
    torch.testing.assert_close(there.grad.cpu(), x.grad)


def test_a_second_derivative_is_refused(card):
    _, layer = ready(card(), backward="transposed")
    x = torch.randn(3, 10, requires_grad=True)
    (first,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize("mode", ["transposed", "oracle"])
def test_programming_noise_is_redrawn_at_every_event_where_that_is_asked_for(card, mode):
    chip, layer = ready(card(relaxation=True), backward=mode)

    def step():
        x = torch.ones(2, 10, requires_grad=True)
        out = layer(x)
        out.square().sum().backward()
        return out.detach(), x.grad

    own = step()
    chip.next_event()
    assert step()[0].equal(own[0])  # no read noise: the cells are as they are
    chip.redraw_programming = True
    first, again = step(), step()
    chip.next_event()
    second = step()
    for i in range(2):
        assert first[i].equal(again[i])
        assert not first[i].equal(second[i])
        assert not first[i].equal(own[i])
    chip.redraw_programming = False
    assert step()[0].equal(own[0])


def test_no_gradient_is_asked_of_frozen_cells(card):
    _, layer = ready(card())
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    out = layer.product(torch.ones(2, 10))
    assert not out.requires_grad
    with torch.no_grad():
        assert not layer.product(torch.ones(2, 10, requires_grad=True)).requires_grad


def test_a_copied_model_sits_on_the_same_chip_and_cells(card):
    chip, layer = ready(card(relaxation=True, noise=True))
    twin = copy.deepcopy(layer)
    assert twin.product.array is layer.product.array
    assert twin.product.array.chip is chip
    assert twin.bias is not layer.bias
    x = torch.randn(4, 10)
    torch.testing.assert_close(twin(x), layer(x), rtol=0, atol=0)
    layer.product.array.reprogram(-WEIGHT)
    torch.testing.assert_close(twin(x), layer(x), rtol=0, atol=0)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpoint_recomputes_the_same_bits(card, reentrant):
    _, layer = ready(card(relaxation=True, noise=True))
    seen = []

    def block(x):
        seen.append(layer(x).tanh())
        return seen[-1].square()

    x = torch.randn(4, 3, 10, requires_grad=True)
    plain = block(x)
    (expected,) = torch.autograd.grad(plain.sum(), x)
    again = checkpoint(block, x, use_reentrant=reentrant)
    again.sum().backward()
    assert len(seen) == 3
    for other in seen[1:]:
        torch.testing.assert_close(other, seen[0], rtol=0, atol=0)
    torch.testing.assert_close(again, plain, rtol=0, atol=0)
    torch.testing.assert_close(x.grad, expected, rtol=0, atol=0)


def test_products_need_ranges(card):
    chip = Chip(card())
    array = chip.program(WEIGHT, name="w")
    with pytest.raises(CalibrationError, match=r"call chip\.calibrate"):
        array.mvm(np.ones(10))
    array.ranges = Ranges(1.0, -9, 9)
    assert array.mvm(np.ones(10)).shape == (6,)


def test_calibration_sets_ranges_from_the_data_and_books_its_reads(card):
    plain = card(tiles={"rows": 5, "cols": 8}, mapping=WeightMapping(), periphery={"plane_bits": 0})
    chip = Chip(plain, statistical=True, backward="nominal")
    layer = CrossbarLinear(CrossbarProduct(chip.program(WEIGHT, name="w")), None)
    data = [{"x": torch.randn(50, 10)} for _ in range(20)]  # few enough for every vector to be kept
    with chip.ledger.scope(task="deploy"):
        chip.calibrate(layer, data)
    array = layer.product.array
    x = torch.cat([d["x"] for d in data]).double().numpy()
    assert array.ranges.dac == pytest.approx(np.percentile(np.abs(x), 99.99))
    weights = array.read_weights() / array.scale[:, None]
    p = chip.preset.periphery
    driven = dac_codes(x, array.ranges.dac, p, chip.kernels) / p.dac_scale
    sums = np.concatenate([driven[:, i : i + 5] @ weights[:, i : i + 5].T for i in (0, 5)])
    low, high = np.percentile(sums, [0.01, 99.99])
    assert array.ranges.adc_low <= low * (1 - 1e-9)
    assert array.ranges.adc_high >= high * (1 - 1e-9)
    assert array.ranges.adc_high - array.ranges.adc_low <= 1.02 * (high - low)
    rows = {r["action"]: r for r in chip.ledger.rows(chip.preset.prices) if r["phase"] == "calibrate"}
    assert {r["task"] for r in rows.values()} == {"deploy"}
    assert rows["adc_conversion"]["count"] == 1000 * 6 * 2
    # the word lines were driven: the energy is that of the codes
    cells = array.conductance().sum((1, 2, 3, 5)).reshape(2, 2, 5).sum(1).ravel()
    joules = (driven**2).sum(0) @ cells * p.read_voltage**2 * p.read_width
    assert rows["array_read"]["energy_J"] == pytest.approx(joules, rel=1e-9)
    before = array.ranges
    chip.calibrate(layer, data)
    assert array.ranges is before  # once, unless asked for


def test_calibration_finds_the_ranges_of_transposed_reads_too(card):
    booked = {}
    for mode in ("nominal", "transposed"):
        chip = Chip(card(), statistical=True, backward=mode)
        array = chip.program(WEIGHT, name="w")
        chip.calibrate(CrossbarLinear(CrossbarProduct(array), None), [{"x": torch.randn(50, 10)}])
        booked[mode] = chip.ledger.total("adc_conversion", phase="calibrate")
        assert (array.backward_ranges is not None) == (mode == "transposed")
    assert booked["transposed"] == booked["nominal"] + 64 * 10  # probes, one conversion per input


def test_calibration_of_an_array_that_sees_nothing_changes_nothing(card):
    chip = Chip(card())
    layer = CrossbarLinear(CrossbarProduct(chip.program(WEIGHT, name="w")), None)
    unseen = chip.program(WEIGHT, name="unseen")
    with pytest.raises(CalibrationError, match="saw no input"):
        chip.calibrate(layer, [{"x": torch.ones(2, 10)}])
    assert layer.product.array.ranges is None
    assert unseen.recorder is None


@pytest.mark.parametrize("data", [[torch.ones(2, 10)], torch.ones(3, 2, 10)])
def test_calibration_takes_arguments_by_name(card, data):
    chip = Chip(card())
    layer = CrossbarLinear(CrossbarProduct(chip.program(WEIGHT, name="w")), None)
    with pytest.raises(
        ConfigError, match=r"batch 0 is a Tensor; give the model's arguments by name: \{\"x\": x\}"
    ):
        chip.calibrate(layer, data)
    with pytest.raises(ConfigError, match=r"batch 0 is a str; .* \{\"x\": x\}"):
        chip.calibrate(layer.forward, {"x": torch.ones(2, 10)})
    with pytest.raises(ConfigError, match=r"batch 1 is a Tensor"):
        chip.calibrate(layer, [{"x": torch.ones(2, 10)}, torch.ones(2, 10)])
    array = layer.product.array
    assert array.ranges is None
    assert array.recorder is None


def test_digital_products_and_what_cannot_be_split():
    weight = torch.randn(3, 4)
    torch.testing.assert_close(DigitalProduct(weight)(torch.eye(4)), weight.T)
    product, bias = split(nn.Linear(4, 3))
    assert (product.in_features, product.out_features, bias.shape) == (4, 3, (3,))
    with pytest.raises(ConfigError, match="cannot adapt a ReLU"):
        split(nn.ReLU())


def test_layers_say_what_they_are(card):
    _, layer = ready(card())
    assert (layer.in_features, layer.out_features) == (10, 6)
    assert "10 -> 6, array='w'" in repr(layer)
