"""Bottleneck adapters against independent dense formulas, where they sit, and what they book."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from crossbar_sim import cost
from crossbar_sim.chip import Chip
from lorafusion.architectures import ARCHITECTURES, Sublayer, sublayers_of
from lorafusion.errors import LoraFusionError
from lorafusion.methods import METHODS, Context
from lorafusion.methods.adapter import (
    AdapterLinear,
    ParallelAdapterConfig,
    ScaledParallelAdapterConfig,
    SequentialAdapterConfig,
    Tap,
)
from lorafusion.train import Training, train

D, F, RANK = 5, 8, 3


class Block(nn.Module):
    """A feed-forward part with its residual sum, named as BERT's."""

    def __init__(self) -> None:
        super().__init__()
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(D, F)})
        self.output = nn.ModuleDict({"dense": nn.Linear(F, D)})

    def forward(self, x: Tensor) -> Tensor:
        """X [..., D] -> [..., D]."""
        out: Tensor = x + self.output["dense"](torch.tanh(self.intermediate["dense"](x)))
        return out


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def block() -> tuple[nn.Module, list[Tensor]]:
    net = nn.ModuleDict({"layer": nn.ModuleList([Block().double()])})
    with torch.no_grad():
        for seed, parameter in enumerate(net.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=seed))
    return net, [p.detach().clone() for p in net.parameters()]


def dense(weights: list[Tensor], trained: list[Tensor], x: Tensor, *, parallel: bool, scale: float) -> Tensor:
    """The block and its adapter, unit by unit."""
    w1, b1, w2, b2 = weights
    down, up, b_down, b_up = trained
    h = torch.tanh(x @ w1.T + b1) @ w2.T + b2
    taken = x if parallel else h
    hidden = taken @ down.T + b_down
    hidden = torch.where(hidden > 0, hidden, torch.zeros_like(hidden))
    return x + h + scale * (hidden @ up.T + b_up)


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("config", [SequentialAdapterConfig, ParallelAdapterConfig])
def test_forward_and_gradients_equal_the_dense_formula(config, scale) -> None:
    net, weights = block()
    context = Context(("layer.0.output.dense",), torch.Generator().manual_seed(0))
    adaptation = config(rank=RANK, places="feed_forward", scale=scale).attach(net, context)
    trained = list(adaptation.parameters())
    with torch.no_grad():
        for seed, parameter in enumerate(trained):
            parameter.copy_(normal(*parameter.shape, seed=20 + seed))
    x, factors = normal(4, 2, D, seed=7).requires_grad_(), normal(4, 2, D, seed=8)
    own = [p.detach().clone().requires_grad_() for p in (*trained, x)]
    y = net["layer"][0](x)
    expected = dense(weights, own[:4], own[4], parallel=config.parallel, scale=scale)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    got = torch.autograd.grad((factors * y).sum(), [*trained, x])
    for ours, theirs in zip(got, torch.autograd.grad((factors * expected).sum(), own), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    other = dense(weights, own[:4], own[4], parallel=not config.parallel, scale=scale)
    assert (other - expected).abs().max() > 0.1  # a guard: the two kinds differ


def test_the_normal_start_is_near_the_identity_and_the_lora_start_is_it(bed) -> None:
    here = bed()
    before = here.embed()
    for name, far in (("sequential_adapter", 0.2), ("parallel_adapter", 0.2), ("scaled_parallel_adapter", 0)):
        adaptation = METHODS[name]().attach(here.encoder, here.context())
        distance = float((here.embed() - before).abs().max().detach())
        assert (distance > 1e-4) == (far > 0)
        assert distance <= far
        adaptation.detach()


@pytest.mark.parametrize(
    ("arch", "attention", "feed_forward"),
    [
        ("flan-t5-small", 24, 16),  # encoder 8, decoder 8 + 8 crossed
        ("minilm-l6", 6, 6),
        ("roberta-base", 12, 12),
        ("mpnet-base", 12, 12),
        ("smollm2-135m", 30, 30),
    ],
)
def test_sublayers_are_found_by_name(arch, attention, feed_forward) -> None:
    chosen = ARCHITECTURES[arch]
    model = chosen.build()
    blocks = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.endswith(chosen.targets)]
    found = sublayers_of(model, blocks)
    assert sum(part.first is None for part in found) == attention
    assert sum(part.first is not None for part in found) == feed_forward


def test_sublayers_of_unknown_names_are_refused(bed) -> None:
    net = nn.ModuleDict({"layer": nn.ModuleList([nn.ModuleDict({"lin": nn.Linear(2, 2)})])})
    with pytest.raises(LoraFusionError, match="no attention or feed-forward output of a known name"):
        sublayers_of(net, ("layer.0.lin",))
    here = bed()
    layer = "encoder.layer.1"
    assert sublayers_of(here.encoder, (f"{layer}.output.dense",)) == (
        Sublayer(None, f"{layer}.attention.output.dense"),
        Sublayer(f"{layer}.intermediate.dense", f"{layer}.output.dense"),
    )


@pytest.mark.parametrize("places", ["both", "attention", "feed_forward"])
def test_places_select_sublayers(places, bed) -> None:
    here = bed()
    SequentialAdapterConfig(rank=2, places=places).attach(here.encoder, here.context())
    adapted = {n for n in here.layers if isinstance(here.encoder.get_submodule(n), AdapterLinear)}
    ends = {"attention": ("attention.output.dense",), "feed_forward": (".output.dense",)}
    wanted = {n for n in here.layers if n.endswith("output.dense")}
    if places != "both":
        wanted = {n for n in wanted if ("attention" in n) == (places == "attention")}
    assert adapted == wanted
    assert ends
    assert not any(isinstance(m, Tap) for m in here.encoder.modules())


@pytest.mark.parametrize("config", [SequentialAdapterConfig, ParallelAdapterConfig])
def test_an_adapter_books_its_matrices_and_the_work_between_them(config, bed) -> None:
    chip = Chip("ideal")
    here, rank = bed(chip), 3
    with chip.ledger.scope(task="t", phase="switch"):
        adaptation = config(rank=rank, places="feed_forward").attach(here.encoder, here.context())
        train(adaptation, range(1), here.loss, training=Training(steps=1, batch=8), chip=chip)
    vectors, total = 2 * int(here.mask.sum()), chip.ledger.total  # two blocks
    for matrix in ("A", "B"):
        assert total("digital_mul", task="t", phase="forward", matrix=matrix) == 32 * rank * vectors
    assert total("digital_add", task="t", phase="forward", matrix="own") == 2 * (rank + 32) * vectors
    assert total("digital_mul", task="t", phase="backward", matrix="own") == rank * vectors
    # the parallel adapter of the first block sees an input that nothing trained before it: no gradient of it is asked for
    sums = int(here.mask.sum()) if config.parallel else vectors
    adds = total("digital_add", task="t", phase="backward", matrix="own")
    assert adds == (rank + 32) * vectors + 32 * (sums if config.parallel else int(here.mask.sum()))
    assert chip.ledger.total("cell_write", task="t") == 0


@pytest.mark.parametrize(("width", "outputs", "vectors"), [(2, 5, 3), (4, 1, 2)])
def test_the_work_between_the_matrices_is_counted_event_by_event(width, outputs, vectors) -> None:
    adds, back_adds, back_muls = 0, 0, 0
    for _ in range(vectors):
        for _ in range(width):
            adds += 2  # the bias, the comparison of the ReLU
            back_muls += 1  # its mask
            back_adds += 1  # db_down += t
        for _ in range(outputs):
            adds += 2  # the bias, the sum with the sub-layer's output
            back_adds += 1  # db_up += g
    assert cost.bottleneck_forward(width, outputs, vectors) == {"digital_add": adds}
    assert cost.bottleneck_backward(width, outputs, vectors) == {
        "digital_mul": back_muls,
        "digital_add": back_adds,
    }


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (SequentialAdapterConfig, {"places": "ffn"}, r"sequential_adapter\.places: 'ffn' is unknown"),
        (SequentialAdapterConfig, {"start": "normale"}, r"start: .*did you mean 'normal'"),
        (ParallelAdapterConfig, {"rank": 0}, r"parallel_adapter\.rank: must be at least 1"),
        (ParallelAdapterConfig, {"places": "both"}, "use 'feed_forward'"),
        (ScaledParallelAdapterConfig, {"placement": "sramm"}, r"placement: .*did you mean 'sram'"),
    ],
)
def test_wrong_settings_are_refused(config, settings, message) -> None:
    with pytest.raises(LoraFusionError, match=message):
        config(**settings)
