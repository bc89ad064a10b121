"""DoRA against an independent dense formula, and what its norm costs."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from crossbar_sim import cost
from crossbar_sim.chip import Chip
from lorafusion.methods import Context
from lorafusion.methods.dora import DoraConfig, DoraLinear
from lorafusion.train import Training, train

INPUTS, OUTPUTS, RANK, ALPHA = 5, 7, 3, 6.0
NAME = "layer.0.lin"


def model() -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    linear = nn.Linear(INPUTS, OUTPUTS).double()
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return nn.ModuleDict({"layer": nn.ModuleList([nn.ModuleDict({"lin": linear})])})


def attached() -> tuple[DoraLinear, nn.Linear]:
    net = model()
    base = net.get_submodule(NAME)
    DoraConfig(rank=RANK, alpha=ALPHA).attach(net, Context((NAME,), torch.Generator().manual_seed(2)))
    layer = net.get_submodule(NAME)
    assert isinstance(layer, DoraLinear)
    assert isinstance(base, nn.Linear)
    return layer, base


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(base: nn.Linear, a: Tensor, b: Tensor, m: Tensor, x: Tensor) -> Tensor:
    v = base.weight.detach() + ALPHA / RANK * b @ a
    n = v.detach().square().sum(1).sqrt()
    return torch.einsum("o,oi,...i->...o", m / n, v, x) + base.bias.detach()


def test_forward_and_gradients_equal_the_dense_formula() -> None:
    layer, base = attached()
    trained = [*layer.masters, layer.magnitude.weight]
    with torch.no_grad():
        for seed, parameter in enumerate(trained):
            parameter.copy_(normal(*parameter.shape, seed=seed))
    x, weights = normal(4, 2, INPUTS, seed=7).requires_grad_(), normal(4, 2, OUTPUTS, seed=8)
    own = [p.detach().clone().requires_grad_() for p in (*trained, x)]
    y, expected = layer(x), dense(base, *own)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    got = torch.autograd.grad((weights * y).sum(), [*trained, x])
    wanted = torch.autograd.grad((weights * expected).sum(), own)
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    attached_norm = torch.autograd.grad(
        (weights * dense_with_gradient_through_the_norm(base, *own)).sum(), own[0]
    )[0]
    assert (got[0] - attached_norm).abs().max() > 1e-3  # a guard: the norm is detached


def dense_with_gradient_through_the_norm(
    base: nn.Linear, a: Tensor, b: Tensor, m: Tensor, x: Tensor
) -> Tensor:
    v = base.weight.detach() + ALPHA / RANK * b @ a
    return x @ ((m / v.norm(dim=1))[:, None] * v).T


def test_a_fresh_dora_changes_nothing() -> None:
    layer, base = attached()
    x = normal(3, INPUTS, seed=0)
    torch.testing.assert_close(layer(x), base(x), rtol=1e-12, atol=1e-12)


def test_the_norm_follows_the_matrices_however_they_are_set() -> None:
    layer, base = attached()
    x = normal(3, INPUTS, seed=0)
    layer(x)
    for seed, matrix in enumerate(layer.masters):
        matrix.data.copy_(normal(*matrix.shape, seed=seed))  # as a stored task is brought back
    a, b = (matrix.detach() for matrix in layer.masters)
    expected = dense(base, a, b, layer.magnitude.weight.detach(), x)
    torch.testing.assert_close(layer(x).detach(), expected, rtol=1e-10, atol=1e-10)


def counted_norm(w0: Tensor, a: Tensor, b: Tensor, scale: float) -> tuple[dict[str, int], list[float]]:
    """One event per operation: what a digital unit does for one evaluation of the norm, and its result."""
    events = {"digital_mul": 0, "digital_add": 0, "digital_function": 0, "dram_read_bit": 0}
    outputs, inputs, rank = len(w0), len(a[0]), len(a)

    def dot(left: list[float], right: list[float]) -> float:
        total = 0.0
        for x, y in zip(left, right, strict=True):
            events["digital_mul"] += 1
            events["digital_add"] += 1
            total += x * y
        return total

    for _ in range(outputs * inputs):
        events["dram_read_bit"] += 16
    rows = [row.tolist() for row in a]
    gram = [[dot(rows[i], rows[j]) for j in range(rank)] for i in range(rank)]
    norms = []
    for o in range(outputs):
        own, weights = b[o].tolist(), w0[o].tolist()
        u = [dot(weights, rows[k]) for k in range(rank)]
        through = [dot(own, gram[k]) for k in range(rank)]
        squared = sum(w * w for w in weights)  # constant: counted once per layer, dora_setup
        for term, factor in ((dot(own, u), 2 * scale), (dot(through, own), scale**2)):
            events["digital_mul"] += 1
            events["digital_add"] += 1
            squared += factor * term
        events["digital_function"] += 1
        norms.append(squared**0.5)
        events["digital_mul"] += 1  # times m
    return events, norms


@pytest.mark.parametrize(("outputs", "inputs", "rank"), [(4, 3, 2), (2, 6, 1), (5, 5, 4)])
def test_the_norm_costs_what_evaluating_it_takes(outputs, inputs, rank) -> None:
    w0, a, b = normal(outputs, inputs, seed=0), normal(rank, inputs, seed=1), normal(outputs, rank, seed=2)
    events, norms = counted_norm(w0, a, b, 0.5)
    counts = cost.dora_norm(outputs, inputs, rank)
    assert {action: counts[action] for action in events} == events
    torch.testing.assert_close(torch.tensor(norms, dtype=torch.float64), (w0 + 0.5 * b @ a).norm(dim=1))


def test_the_work_between_the_matrices_is_counted_event_by_event(bed) -> None:
    here = bed(Chip("ideal"))
    chip, vectors = here.chip, int(here.mask.sum())
    config = DoraConfig(rank=2, targets=("layer.0.attention.self.query", "layer.1.attention.self.query"))
    with chip.ledger.scope(task="t", phase="switch"):
        adaptation = config.attach(here.encoder, here.context())
        for parameter in adaptation.parameters():
            parameter.requires_grad_(True)
        with chip.ledger.scope(phase="forward"):
            loss = here.loss()
        with chip.ledger.scope(phase="backward"):
            loss.backward()
    first, second = Counter(), Counter()  # the first layer's input needs no gradient
    for _ in range(vectors * 32):
        for layer in (first, second):
            layer["forward", "digital_add"] += 1  # W0 x + s B A x
            layer["forward", "digital_mul"] += 1  # times m / n
            layer["forward", "activation_write_bit"] += 16  # z, for dm
            layer["backward", "activation_read_bit"] += 16
            layer["backward", "digital_mul"] += 2  # g z, (m / n) g
            layer["backward", "digital_add"] += 1  # dm += g z
        second["backward", "digital_add"] += 1  # both paths' gradients of the input
    for name, events in zip(adaptation.replaced, (first, second), strict=True):
        booked = {
            (key.phase, key.action): count
            for key, count in chip.ledger.counts.items()
            if (key.layer, key.matrix) == (name, "own") and key.phase in ("forward", "backward") and count
        }
        assert booked == events


def test_the_norm_is_booked_at_the_start_and_after_every_step(bed) -> None:
    here = bed(Chip("ideal"))
    config = DoraConfig(rank=2, targets=("query",))
    with here.chip.ledger.scope(task="t", phase="switch"):
        adaptation = config.attach(here.encoder, here.context())
        train(adaptation, range(3), here.loss, training=Training(steps=3, batch=8), chip=here.chip)
    total, layers = here.chip.ledger.total, 2
    one = cost.dora_norm(32, 32, 2)
    for phase, times in (("switch", 1), ("update", 3)):
        assert total("digital_function", task="t", phase=phase, matrix="own") == layers * times * 32
        assert total("dram_read_bit", task="t", phase=phase) == layers * times * one["dram_read_bit"]
    assert total("dram_read_bit", task="t", phase="deploy") == layers * 16 * 32 * 32
    assert adaptation.digital_words == layers * (32 * 32 + 32)
    assert adaptation.trainable == layers * (2 * 64 + 32)
