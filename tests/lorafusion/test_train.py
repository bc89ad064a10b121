"""The training loop: rates, schedule, seeds, events and bookings."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crossbar_sim.chip import Chip
from lorafusion.errors import LoraFusionError
from lorafusion.methods import Adaptation, ParameterGroup
from lorafusion.methods.fusion import FusionConfig, PublishedFusionConfig
from lorafusion.train import Training, keep_state, train


def two_groups(*, decay: float = 0.0) -> tuple[Adaptation, nn.Parameter, nn.Parameter]:
    fast, slow = (nn.Parameter(torch.tensor([v, v])) for v in (1.0, 2.0))
    groups = (ParameterGroup("fast", (fast,), 0.1), ParameterGroup("slow", (slow,), 0.01, decay))
    return Adaptation(nn.Identity(), groups=groups), fast, slow


def test_each_group_has_its_own_rate_and_all_decay_linearly_to_zero() -> None:
    """With a constant gradient every Adam step is the learning rate: the path is the schedule."""
    adaptation, fast, slow = two_groups()
    path: list[tuple[float, float]] = [(1.0, 2.0)]
    train(
        adaptation,
        range(4),
        lambda *_: fast.sum() + 5 * slow.sum(),
        training=Training(steps=4, batch=1),
        on_step=lambda *_: path.append((float(fast.detach()[0]), float(slow.detach()[0]))),
    )
    for which, rate in ((0, 0.1), (1, 0.01)):
        moves = [a[which] - b[which] for a, b in pairwise(path)]
        assert moves == pytest.approx([rate, 0.75 * rate, 0.5 * rate, 0.25 * rate], rel=1e-3)


def test_weight_decay_is_decoupled_and_only_the_group_s_own() -> None:
    """Loshchilov and Hutter 2019: w <- w (1 - lr wd), without a gradient nothing else moves."""
    adaptation, fast, slow = two_groups(decay=0.5)
    train(adaptation, range(2), lambda *_: 0 * (fast.sum() + slow.sum()), training=Training(steps=2, batch=1))
    assert torch.equal(fast.detach(), torch.ones(2))
    assert slow.detach()[0] == pytest.approx(2 * (1 - 0.01 * 0.5) * (1 - 0.005 * 0.5))


def test_the_optimiser_is_adam() -> None:
    """Two steps of a quadratic by hand (Kingma and Ba 2015)."""
    weight = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    adaptation = Adaptation(nn.Identity(), groups=(ParameterGroup("w", (weight,), 0.1),))
    w, mean, square = 1.0, 0.0, 0.0
    for step, rate in ((1, 0.1), (2, 0.05)):
        g = 2 * w
        mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g * g
        w -= rate * (mean / (1 - 0.9**step)) / (math.sqrt(square / (1 - 0.999**step)) + 1e-8)
    train(adaptation, range(2), lambda *_: weight.square().sum(), training=Training(steps=2, batch=1))
    assert float(weight.detach()) == pytest.approx(w, rel=1e-12)


def test_batches_reach_the_loss_in_order_and_losses_come_back() -> None:
    adaptation, fast, slow = two_groups()
    batches = iter(range(10))

    def loss(model: nn.Module, batch: int) -> Tensor:
        assert model is adaptation.model
        return batch + 0 * (fast.sum() + slow.sum())

    steps: list[tuple[int, float]] = []
    losses = train(
        adaptation,
        batches,
        loss,
        training=Training(steps=3, batch=1),
        on_step=lambda *step: steps.append(step),
    )
    assert losses == [0.0, 1.0, 2.0]
    assert steps == list(enumerate(losses))
    assert next(batches) == 3  # no batch is taken and thrown away


def test_the_penalty_is_trained_on_and_not_reported() -> None:
    adaptation, fast, slow = two_groups()
    adaptation.penalty = fast.sum
    losses = train(adaptation, range(1), lambda *_: 0 * slow.sum(), training=Training(steps=1, batch=1))
    assert losses == [0.0]
    assert fast.detach()[0] == pytest.approx(0.9)


def test_without_trained_parameters_nothing_runs() -> None:
    chip = Chip("ideal")

    def never(*_: Any) -> Tensor:
        raise AssertionError

    empty = (ParameterGroup("bias", (), 0.1),)
    for groups in ((), empty):
        adaptation = Adaptation(nn.Identity(), groups=groups)
        assert train(adaptation, range(3), never, training=Training(steps=3), chip=chip) == []
    assert chip.event == 0
    assert not chip.ledger.counts


def test_too_few_batches_are_an_error() -> None:
    adaptation, fast, _ = two_groups()
    with pytest.raises(LoraFusionError, match="ran out after 2 of 3 steps"):
        train(adaptation, range(2), lambda *_: fast.sum(), training=Training(steps=3))


@pytest.mark.parametrize("field", ["steps", "batch"])
def test_training_without_steps_or_texts_is_refused(field) -> None:
    with pytest.raises(LoraFusionError, match=rf"Training\.{field}: must be at least 1 \(got 0\)"):
        Training(**{field: 0})


def run(bed: Any, config: Any, *, card: str | None, seed: int = 0, steps: int = 4) -> tuple[Any, Any]:
    here = bed(None if card is None else Chip(card, statistical=True, seed=seed))
    with here.chip.ledger.scope(task="t", phase="switch") if here.chip else torch.enable_grad():
        adaptation = config.attach(here.encoder, here.context())
        training = Training(steps=steps, batch=8)
        losses = train(adaptation, range(steps), here.loss, training=training, chip=here.chip)
    return here, (losses, adaptation.state())


@pytest.mark.parametrize("card", [None, "ideal", "cmo_hfox"])
def test_one_seed_gives_the_same_bits(card, bed) -> None:
    (_, (losses, state)), (_, (again, state_again)) = (
        run(bed, PublishedFusionConfig(), card=card) for _ in range(2)
    )
    assert losses == again
    assert all(torch.equal(state[n], state_again[n]) for n in state)
    assert losses[-1] < losses[0]


def test_another_chip_seed_gives_other_noise(bed) -> None:
    (_, (losses, _)), (_, (other, _)) = (run(bed, FusionConfig(), card="cmo_hfox", seed=s) for s in (0, 1))
    assert losses != other


def test_events_advance_once_per_step_and_phases_are_booked(bed) -> None:
    here, _ = run(bed, FusionConfig(), card="cmo_hfox", steps=3)
    chip = here.chip
    assert chip.event == 3
    vectors = 3 * int(here.mask.sum())
    for layer in here.layers:
        m, n = here.weights[layer].shape
        reads = chip.ledger.total("array_read", task="t", phase="forward", layer=layer, matrix="base")
        assert reads == 2 * m * n * vectors
    # first-block queries, keys and values have no trained parameter before them; all others pass a gradient on
    cells = 2 * sum(here.weights[layer].numel() for layer in here.layers[3:])
    assert chip.ledger.total("array_read", task="t", phase="backward", matrix="base") == cells * vectors
    assert chip.ledger.total("dram_read_bit", task="t", phase="backward") == 0
    assert {key.phase for key in chip.ledger.counts if key.task == "t"} == {"forward", "backward", "update"}
    assert chip.ledger.phase == "deploy"


def test_a_chip_books_updates_by_trained_parameter() -> None:
    adaptation, fast, slow = two_groups()
    chip, called = Chip("ideal"), []

    def after() -> None:
        called.append((chip.ledger.phase, float(fast.detach()[0])))

    adaptation.after_step = after
    train(
        adaptation,
        range(2),
        lambda *_: fast.sum() + slow.sum(),
        training=Training(steps=2, batch=1),
        chip=chip,
    )
    assert chip.ledger.total("opt_update", phase="update", layer="optimiser", matrix="own") == 2 * 4
    assert [phase for phase, _ in called] == ["update", "update"]
    assert called[0][1] == pytest.approx(0.9)  # after the optimiser's step


def test_a_task_keeps_and_fetches_32_bits_per_trained_number() -> None:
    chip, (adaptation, *_) = Chip("ideal"), two_groups()
    keep_state(adaptation, chip)
    booked = {(k.layer, k.matrix, k.action): n for k, n in chip.ledger.counts.items()}
    assert booked == {("task state", "own", f"sram_{way}_bit"): 32 * 4 for way in ("write", "read")}
    keep_state(Adaptation(nn.Identity()), chip)  # nothing was trained
    assert sum(chip.ledger.counts.values()) == 2 * 32 * 4
