"""Moving a model onto a chip and back."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import crossbar_sim
from crossbar_sim import Chip, ConfigError, MappingError, Ranges, convert, revert
from crossbar_sim.conversion import get_layer
from crossbar_sim.layers import CrossbarLinear


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2, bias=False))
    )


class Compilable(nn.Module):
    """Two layers, what stands between them, and a mask."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)
        with torch.no_grad():
            for value in self.parameters():
                value.copy_(torch.linspace(-0.5, 0.6, value.numel()).reshape(value.shape))

    def forward(self, x, attention_mask=None):
        hidden = torch.relu(self.first(x))
        return self.second(hidden if attention_mask is None else hidden * attention_mask[..., None])


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
    with pytest.raises(ConfigError, match=r"no linear or convolution layer '2\.2'; did you mean '2"):
        convert(model, chip, where=["0", "2.2"])
    with pytest.raises(ConfigError, match="no linear or convolution layer '1'"):
        convert(model, chip, where=["1"])
    with pytest.raises(ConfigError, match=r"selects no .*nn\.MultiheadAttention stay digital"):
        convert(model, chip, where=lambda *_: False)
    with pytest.raises(ConfigError, match=r'convert: where is a list of layer names: \["2\.0"\]'):
        convert(model, chip, where="2.0")
    with pytest.raises(ConfigError, match=r"chip must be a Chip \(got str\); Chip\('ideal'\)"):
        convert(model, "ideal")
    with pytest.raises(ConfigError, match=r"chip must be a Chip \(got Preset\); Chip\(card\)"):
        convert(model, chip.preset)
    with pytest.raises(ConfigError, match="not on a chip"):
        revert(model)
    assert not chip.arrays
    convert(model, chip)
    with pytest.raises(ConfigError, match="on a chip already"):
        convert(model, chip)
    with pytest.raises(ConfigError, match=r"layer '2\.00' is not in the model; did you mean '2\.0'"):
        get_layer(model, "2.00")


@pytest.mark.parametrize("layer", [nn.Linear(3, 4), nn.Conv2d(1, 2, 3)])
def test_a_model_that_is_itself_a_layer_is_told_to_be_wrapped(layer):
    chip = Chip("ideal")
    with pytest.raises(
        ConfigError, match=rf"itself a {type(layer).__name__} layer, .*nn\.Sequential\(layer\)"
    ):
        convert(layer, chip)
    assert not chip.arrays
    convert(nn.Sequential(layer), chip)
    assert list(chip.arrays) == ["0"]


def test_what_is_no_linear_layer_that_its_model_calls_stays_digital():
    model = nn.ModuleDict(
        {"attention": nn.MultiheadAttention(8, 2), "conv": nn.Conv1d(2, 3, 3), "head": nn.Linear(8, 2)}
    )
    chip = Chip("ideal")
    convert(model, chip)
    assert list(chip.arrays) == ["head"]


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler looks at tensors that are no leaves
def test_a_compiled_model_computes_draws_and_books_what_the_model_does(card):
    results = []
    for compiled in (False, True):
        chip = Chip(card(noise=True), statistical=True)
        model = convert(Compilable(), chip)
        for array in chip.arrays.values():
            array.ranges = Ranges(2.0, -5.0, 6.0)
        called = torch.compile(model, backend="eager") if compiled else model
        x = torch.linspace(-1, 1, 24).reshape(2, 3, 4).requires_grad_()
        for _ in range(2):
            out = called(x, attention_mask=torch.tensor([[1, 1, 0], [1, 0, 0]]))
            out.square().sum().backward()
            chip.next_event()
        results.append((out.detach(), x.grad, chip.ledger.rows(chip.preset.prices)))
    torch._dynamo.reset()
    (out, grad, rows), (other, other_grad, other_rows) = results
    assert torch.equal(out, other)
    assert torch.equal(grad, other_grad)
    assert rows == other_rows


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
    assert chip.tiles_used == 2 + 4 + 4  # a weight's two cells sit in two rows: two inputs per tile
    assert chip.chips_needed == 4
    chip.remove("2.0")
    assert chip.chips_needed == 2


class Checkpointed(nn.Module):
    """Two linears, recomputed in the backward pass; several outputs, nested."""

    def __init__(self, reentrant):
        super().__init__()
        self.first, self.second, self.reentrant = nn.Linear(4, 5), nn.Linear(5, 3), reentrant

    def block(self, x):
        return self.second(self.first(x).tanh()).tanh()

    def forward(self, x, attention_mask=None):
        if self.reentrant is None:
            y = self.block(x)
        else:
            y = checkpoint(self.block, x, use_reentrant=self.reentrant)
        return {"y": y, "more": (y.sum(), [attention_mask])}


MASK = torch.tensor([[1, 1, 0], [1, 0, 0]])


def checkpointed(card, reentrant, *, backward="transposed"):
    torch.manual_seed(0)
    chip = Chip(card(noise=True, relaxation=True), backward=backward)
    model = convert(Checkpointed(reentrant), chip)
    chip.calibrate(model, [{"x": torch.randn(2, 5, 4, requires_grad=True)}])
    for array in chip.arrays.values():  # a transposed read finds its range when it is first needed
        array.mvm_t(torch.ones(array.placement.outputs).numpy())
    return chip, model


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("backward", ["transposed", "nominal"])
def test_a_recomputation_has_the_mask_the_samples_and_the_event_of_its_forward_pass(
    card, backward, reentrant
):
    outputs, gradients, reads = [], [], []
    for each in (None, reentrant):
        chip, model = checkpointed(card, each, backward=backward)
        x = torch.linspace(-1, 1, 24).reshape(2, 3, 4).requires_grad_()
        chip.event = 5
        with chip.samples_from(2), chip.ledger.scope(phase="forward"):
            out = model(x, attention_mask=MASK)
        chip.next_event()
        with chip.ledger.scope(phase="backward"):
            out["y"].square().sum().backward()
        assert (chip.event, chip.valid_vectors((2, 3))) == (6, 6)
        outputs.append(out["y"])
        gradients.append(x.grad)
        reads.append({p: chip.ledger.total("adc_conversion", phase=p) for p in ("forward", "backward")})
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=0)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=0)
    plain, again = reads
    assert plain["forward"] == again["forward"] == 3 * (5 + 3)
    # what is computed again is work on the chip: booked again, and the pads are not driven
    assert again["backward"] - plain["backward"] in (3 * 5, 3 * (5 + 3))


def test_two_forward_passes_in_one_backward_pass_keep_their_own_masks_and_events(card):
    gradients = []
    for reentrant in (None, False):
        chip, model = checkpointed(card, reentrant)
        x = torch.linspace(-1, 1, 24).reshape(2, 3, 4).requires_grad_()
        first = model(x, attention_mask=MASK)["more"][0]
        chip.next_event()
        second = model(2 * x, attention_mask=1 - MASK)["y"]
        chip.next_event()
        (first + second.square().sum()).backward()
        gradients.append(x.grad)
        assert (chip.event, chip.valid_vectors((2, 3))) == (2, 6)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=0)


def test_a_backward_pass_that_fails_does_not_disturb_the_next(card):
    chip, model = checkpointed(card, False)

    def fail(_):
        raise ArithmeticError("on purpose")

    def step(hook=None):
        x = torch.ones(2, 3, 4, requires_grad=True)
        out = model(x, attention_mask=MASK)["y"]
        if hook is not None:
            x.register_hook(hook)
        out.sum().backward()
        return x.grad

    expected = step()
    with pytest.raises(ArithmeticError, match="on purpose"):
        step(fail)
    chip.event = 0
    torch.testing.assert_close(step(), expected, rtol=0, atol=0)
    chip.event = 9
    step()
    assert chip.event == 9


def test_a_mask_that_was_told_to_the_chip_stays_where_the_model_gets_none(card):
    chip = Chip(card(), statistical=True)
    model = convert(Masked(), chip)
    chip.calibrate(model, [{"x": torch.randn(2, 5, 4)}])
    chip.begin_batch(MASK.numpy().astype(bool))
    with chip.ledger.scope(phase="eval"):
        model(torch.randn(2, 3, 4))
    assert chip.ledger.total("adc_conversion", phase="eval") == 3 * 3
    assert chip.valid_vectors((2, 3)) == 3


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_follows_its_masks_and_can_be_reverted(card, duplicate):
    chip = Chip(card(), statistical=True)
    model = convert(Masked(), chip)
    chip.calibrate(model, [{"x": torch.randn(2, 5, 4)}])
    twin = duplicate(model)
    there = twin.linear.product.array.chip
    with there.ledger.scope(phase="eval"):
        twin(torch.randn(2, 3, 4), attention_mask=MASK)
    assert there.ledger.total("adc_conversion", phase="eval") == 3 * 3
    assert isinstance(revert(twin).linear, nn.Linear)
    assert not twin._forward_hooks
    assert isinstance(model.linear, CrossbarLinear)


def test_reverting_gives_tiles_back_and_cells_remember(card):
    chip = Chip(card(relaxation=True, noise=True), statistical=True)
    model = convert(Masked(), chip)
    array = chip.arrays["linear"]
    wear, pulsed = array.wear.copy(), array.conductance()
    revert(model)
    assert not chip.arrays
    assert chip.tiles_used == 0
    with torch.no_grad():
        model.linear.weight.neg_()
    convert(model, chip)
    assert chip.arrays["linear"] is array
    assert array.version == 2
    assert array.ranges is None
    assert (array.wear >= wear).all()
    assert array.wear.sum() > wear.sum()
    assert not (array.conductance() == pulsed).all()
    revert(model)
    with pytest.raises(ConfigError, match=r"cells of 'linear', retired .* hold \(3, 4\).*use another name"):
        chip.program(torch.ones(2, 2).numpy(), name="linear")
    chip.program(torch.ones(2, 2).numpy(), name="other")


def test_a_layer_of_two_names_is_programmed_once():
    linear = nn.Linear(4, 4)
    model, x = nn.Sequential(linear, nn.ReLU(), linear, nn.Linear(4, 2)), torch.randn(3, 4)
    before, chip = model(x), Chip("ideal")
    convert(model, chip)
    assert sorted(chip.arrays) == ["0", "3"]
    assert model[0] is model[2]
    torch.testing.assert_close(model(x), before)
    revert(model)
    assert model[0] is model[2] is linear


def test_attention_keeps_the_layer_whose_weight_it_reads_itself():
    attention = nn.MultiheadAttention(8, 2)
    model, chip = nn.ModuleDict({"attention": attention, "head": nn.Linear(8, 2)}), Chip("ideal")
    convert(model, chip)
    assert sorted(chip.arrays) == ["head"]
    x = torch.randn(3, 1, 8)
    assert attention(x, x, x)[0].shape == x.shape


def test_embeddings_stay_digital():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4))
    convert(model, Chip("ideal"))
    assert isinstance(model[0], nn.Embedding)
    assert isinstance(model[1], CrossbarLinear)
