"""Moving a model onto a chip and back."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import crossbar_sim
from crossbar_sim import Chip, ConfigError, MappingError, convert, revert
from crossbar_sim.conversion import get_layer
from crossbar_sim.layers import CrossbarLinear


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2, bias=False))
    )


def on_chip(model):
    return [name for name, module in model.named_modules() if isinstance(module, CrossbarLinear)]


def test_there_and_back_is_the_same_model():
    model = network()
    layers, state, x = list(model.modules()), model.state_dict(), torch.randn(3, 4)
    before = model(x)
    assert convert(model, Chip("ideal")) is model
    assert on_chip(model) == ["0", "2.0", "2.1"]
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-6)
    assert revert(model) is model
    assert all(a is b for a, b in zip(model.modules(), layers, strict=True))
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    convert(model, Chip("ideal"))


@pytest.mark.parametrize(
    ("where", "names"),
    [
        (None, ["0", "2.0", "2.1"]),
        (["2.1", "0", "0"], ["0", "2.1"]),
        (("2.0",), ["2.0"]),
        (lambda name, layer: layer.out_features == 8, ["0", "2.0"]),
    ],
)
def test_where_selects_layers(where, names):
    chip = Chip("ideal")
    model = convert(network(), chip, where=where)
    assert on_chip(model) == names
    assert sorted(chip.arrays) == names


def test_wrong_requests_are_errors():
    model, chip = network(), Chip("ideal")
    with pytest.raises(ConfigError, match=r"no linear layer '2\.2'; did you mean '2"):
        convert(model, chip, where=["0", "2.2"])
    with pytest.raises(ConfigError, match="no linear layer '1'"):
        convert(model, chip, where=["1"])
    with pytest.raises(ConfigError, match="selects no"):
        convert(model, chip, where=lambda *_: False)
    with pytest.raises(ConfigError, match="not on a chip"):
        revert(model)
    assert not chip.arrays
    convert(model, chip)
    with pytest.raises(ConfigError, match="on a chip already"):
        convert(model, chip)
    with pytest.raises(ConfigError, match=r"layer '2\.00' is not in the model; did you mean '2\.0'"):
        get_layer(model, "2.00")


def test_a_weight_that_cannot_be_programmed_leaves_the_model_whole():
    model = network()
    with torch.no_grad():
        model[2][1].weight[0, 0] = torch.nan
    with pytest.raises(MappingError, match="not finite"):
        convert(model, Chip("ideal"))
    assert on_chip(model) == []


def test_the_name_convert_is_the_function_however_often_it_is_imported():
    from crossbar_sim import convert as first
    from crossbar_sim import convert as second

    assert first is second is crossbar_sim.convert is convert
    assert callable(crossbar_sim.revert)


class Masked(nn.Module):
    """A model that is called with an attention mask."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x, attention_mask=None):
        return self.linear(x)


def test_the_mask_is_followed_and_forgotten(card):
    chip = Chip(card())
    model = convert(Masked(), chip)
    chip.calibrate(model, [{"x": torch.randn(2, 5, 4)}])
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    x = torch.randn(2, 5, 4)
    with chip.ledger.scope(phase="eval"):
        masked = model(x, attention_mask=mask)
    assert chip.ledger.total("adc_conversion", phase="eval") == 4 * 3
    with chip.ledger.scope(phase="eval"):
        full = model(x)
    assert chip.ledger.total("adc_conversion", phase="eval") == (4 + 10) * 3
    torch.testing.assert_close(masked[mask.bool()], full[mask.bool()], rtol=0, atol=0)
    torch.testing.assert_close(masked[~mask.bool()], model.linear.bias.expand(6, 3), rtol=0, atol=0)


def test_a_mask_is_followed_wherever_it_stands_among_the_arguments(card):
    chip = Chip(card())
    model = convert(Masked(), chip)
    chip.calibrate(model, [{"x": torch.randn(2, 5, 4)}])
    with chip.ledger.scope(phase="eval"):
        model(torch.randn(1, 3, 4), torch.tensor([[1, 1, 0]]))
    assert chip.ledger.total("adc_conversion", phase="eval") == 2 * 3


def test_the_mask_is_forgotten_when_the_model_fails(card):
    chip = Chip(card())
    model = convert(Masked(), chip)
    with pytest.raises(ValueError, match="calibrate"):
        model(torch.randn(1, 3, 4), attention_mask=torch.tensor([[1, 1, 0]]))
    assert chip.valid_vectors((1, 3)) == 3


@pytest.mark.parametrize(
    ("field", "value", "hint"), [("grid", "int16", "int15"), ("backward", "oracel", "oracle")]
)
def test_a_chip_knows_its_options(field, value, hint):
    with pytest.raises(ConfigError, match=rf"Chip\.{field}: '{value}' is unknown; did you mean '{hint}'"):
        Chip("ideal", **{field: value})
    with pytest.raises(ValueError, match="did you mean 'numba'"):
        Chip("ideal", backend="nunba")


def test_tiles_and_chips_are_counted(card):
    chip = Chip(card(tiles={"rows": 4, "cols": 8, "count": 3}), statistical=True)
    convert(network(), chip)
    assert chip.tiles_used == 2 + 4 + 2
    assert chip.chips_needed == 3
    chip.remove("2.0")
    assert chip.chips_needed == 2


class Checkpointed(Masked):
    """The same, recomputed in the backward pass."""

    def forward(self, x, attention_mask=None):
        return checkpoint(self.linear, x, use_reentrant=False)


@pytest.mark.xfail(
    strict=True,
    reason="the mask is forgotten when the model's forward ends, so a recomputation in the backward pass drives and "
    "books the pads",
)
def test_a_recomputation_inside_the_model_follows_the_mask(card):
    chip = Chip(card())
    model = convert(Checkpointed(), chip)
    chip.calibrate(model, [{"x": torch.randn(2, 5, 4)}])
    x = torch.randn(1, 3, 4, requires_grad=True)
    y = model(x, attention_mask=torch.tensor([[1, 1, 0]])).sum()
    with chip.ledger.scope(phase="backward"):
        y.backward()
    assert chip.ledger.total("adc_conversion", phase="backward") == 2 * 3
