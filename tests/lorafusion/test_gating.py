"""Modules whose coefficients are negligible: which they are, what they no longer cost, and that they come back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from crossbar_sim import cost
from crossbar_sim.chip import Chip
from lorafusion.errors import LoraFusionError
from lorafusion.methods import METHODS
from lorafusion.methods.fusion import FusionConfig, PublishedFusionConfig
from lorafusion.pruning import Pruning
from lorafusion.train import Training, train

MODULES, RANK, STEPS = 5, 2, 2


def chip_of(card: str | None) -> Chip | None:
    return None if card is None else Chip(card, statistical=True)


def learn(method, bed):
    adaptation = method.attach(bed.encoder, bed.context())
    train(adaptation, range(STEPS), bed.loss, training=Training(steps=STEPS, batch=8), chip=bed.chip)
    return adaptation


def fused(bed):
    return {name: bed.encoder.get_submodule(name) for name in bed.layers}


@torch.no_grad()
def infer(bed, task):
    """One evaluation of all texts, booked under a task of its own."""
    if bed.chip is None:
        return bed.embed()
    bed.chip.event = 100  # the same read noise each time
    with bed.chip.ledger.scope(task=task, phase="eval"):
        return bed.embed()


def read_of(chip, task, matrix):
    return {
        action: chip.ledger.total(action, task=task, phase="eval", matrix=matrix)
        for action in ("array_read", "adc_conversion", "dac_drive", "digital_mul", "digital_add")
    }


# -- the rule ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "on"),
    [
        (Pruning(keep=1), [False, True, False, False]),
        (Pruning(keep=2), [True, True, False, False]),  # of equal ones the first
        (Pruning(keep=3), [True, True, False, True]),
        (Pruning(keep=4), [True] * 4),
        (Pruning(threshold=0.5), [True, True, False, True]),  # not under it
        (Pruning(threshold=0.51), [False, True, False, False]),
        (Pruning(threshold=9.0), [False] * 4),
        (Pruning(), [True] * 4),
    ],
)
def test_the_largest_stay_or_those_that_reach_the_threshold(rule, on):
    assert rule.on(torch.tensor([0.5, -2.0, 0.1, -0.5])).tolist() == on


def test_without_values_a_plan_keeps_as_many_as_were_asked_for():
    c = torch.empty(4, device="meta")
    assert Pruning(keep=3).on(c).sum() == 3
    assert Pruning(threshold=0.3).on(c).sum() == 4


@pytest.mark.parametrize("modules", [1, 2, 7])
@pytest.mark.parametrize("keep", [0, 1, 2, 7])
def test_the_selection_is_counted_comparison_by_comparison(modules, keep):
    compared, left = 0, list(range(modules))
    for _ in range(min(keep, modules)):
        best = left[0]
        for other in left[1:]:
            compared += 1
            best = max(best, other)
        left.remove(best)
    if not keep:
        compared = len(left)
    counts = cost.selection(modules, keep)
    assert counts["digital_add"] == compared
    assert counts["sram_read_bit"] == 32 * modules
    assert counts["sram_write_bit"] == 33 * modules


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": -1}, r"fusion.keep: must not be negative \(got -1\)"),
        ({"threshold": -0.1}, r"fusion.threshold: must be finite and not negative \(got -0.1\)"),
        ({"threshold": math.nan}, r"fusion.threshold: must be finite"),
        ({"keep": 2, "threshold": 0.1}, r"two rules; give one of them"),
        ({"keep": 1, "fuse": False}, r"fusion.fuse: false leaves no modules to switch off"),
        ({"coefficient_lr": -0.05}, r"fusion.coefficient_lr: must be finite and not negative \(got -0.05\)"),
        ({"magnitude_lr": -1.0}, r"fusion.magnitude_lr: must be"),
        ({"magnitude_lr": math.inf}, r"fusion.magnitude_lr: must be"),
        ({"l1": -1e-3}, r"fusion.l1: must be"),
        ({"weight_decay": -1e-3}, r"fusion.weight_decay: must be"),
    ],
)
def test_settings_without_meaning_are_refused(settings, message):
    with pytest.raises(LoraFusionError, match=message):
        FusionConfig(**settings)


def test_the_error_names_the_method_that_was_configured():
    with pytest.raises(LoraFusionError, match=r"lorafusion_published\.keep"):
        METHODS["lorafusion_published"](keep=-2)


def test_more_modules_than_the_pool_has_are_refused(bed):
    here = bed(modules=MODULES)
    with pytest.raises(LoraFusionError, match=r"fusion\.keep: 6 modules, but the pool has 5"):
        FusionConfig(keep=6).attach(here.encoder, here.context())


# -- a task --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "granularity"), [(None, "global"), (None, "block"), (None, "linear"), ("cmo_hfox", "block")]
)
def test_after_training_only_the_kept_modules_of_each_group_have_a_coefficient(card, granularity, bed):
    here = bed(chip_of(card), modules=MODULES, rank=RANK)
    plain = learn(FusionConfig(granularity=granularity), here)
    trained = [c.detach().clone() for c in plain.groups[0].parameters]
    plain.detach()
    if here.chip is not None:
        here.chip.event = 0
    pruned = learn(FusionConfig(granularity=granularity, keep=2), here)
    assert pruned.modules_active == 2
    for before, after in zip(trained, pruned.groups[0].parameters, strict=True):
        largest = sorted(range(MODULES), key=lambda i: -abs(float(before[i])))[:2]
        want = [float(before[i]) if i in largest else 0.0 for i in range(MODULES)]
        assert after.tolist() == want  # the training before was the same
    for layer in fused(here).values():
        assert layer.modules_on == 2
        on = np.repeat(layer.coefficients.detach().numpy() != 0, RANK)
        if card is not None:
            assert (layer.a.array.active.outputs == on).all()
            assert (layer.b.array.active.inputs == on).all()


@pytest.mark.parametrize("merge", ["sum_of_products", "product_of_sums"])
def test_an_ideal_chip_computes_what_zeros_for_the_coefficients_give(merge, bed):
    results = []
    for card in (None, "ideal"):
        here = bed(chip_of(card), modules=MODULES, rank=RANK)
        learn(FusionConfig(merge=merge, keep=2), here)
        results.append(infer(here, "eval"))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("merge", "keep"), [("sum_of_products", 3), ("product_of_sums", 2)])
def test_inference_reads_what_a_pool_of_the_kept_modules_would(merge, keep, bed):
    chip = chip_of("cmo_hfox")
    here = bed(chip, modules=MODULES, rank=RANK)
    adaptation = FusionConfig(merge=merge, keep=keep).attach(here.encoder, here.context())
    infer(here, "whole")  # what a layer has booked before does not count after
    training = Training(steps=STEPS, batch=8)
    train(adaptation, range(STEPS), here.loss, training=training, chip=chip)
    infer(here, "pruned")
    small_chip = chip_of("cmo_hfox")
    small = bed(small_chip, modules=keep, rank=RANK)
    learn(FusionConfig(merge=merge), small)
    infer(small, "small")
    for matrix in ("A", "B", "own"):
        assert read_of(chip, "pruned", matrix) == read_of(small_chip, "small", matrix)
    assert read_of(chip, "pruned", "A")["array_read"] > 0
    assert read_of(chip, "whole", "own")["digital_mul"] > read_of(chip, "pruned", "own")["digital_mul"]


def test_the_fewer_stay_the_less_energy_a_text_takes(bed):
    chip = chip_of("cmo_hfox")
    here = bed(chip, modules=MODULES, rank=RANK)
    joules = []
    for keep in (1, 3, 0):
        adaptation = learn(FusionConfig(keep=keep), here)
        infer(here, f"keep {keep}")
        adaptation.detach()
        rows = chip.ledger.rows(chip.preset.prices)
        joules.append(
            sum(r["energy_J"] for r in rows if r["task"] == f"keep {keep}" and r["phase"] == "eval")
        )
    assert joules == sorted(joules)
    assert joules[0] < joules[-1]


def test_a_threshold_over_all_coefficients_leaves_the_magnitudes_alone(bed):
    chip = chip_of("cmo_hfox")
    here = bed(chip, modules=MODULES, rank=RANK)
    adaptation = learn(FusionConfig(threshold=100.0), here)
    assert adaptation.modules_active == 0
    infer(here, "pruned")
    for matrix in ("A", "B"):
        assert set(read_of(chip, "pruned", matrix).values()) == {0}
    products = [layer.product for layer in fused(here).values()]
    outputs, tokens = sum(p.out_features for p in products), int(here.mask.sum())
    assert read_of(chip, "pruned", "own") | {"digital_add": 0} == {
        "array_read": 0,
        "adc_conversion": 0,
        "dac_drive": 0,
        "digital_mul": outputs * tokens,
        "digital_add": 0,
    }


def test_leaving_the_model_switches_everything_on_again(bed):
    chip = chip_of("cmo_hfox")
    here = bed(chip, modules=MODULES, rank=RANK)
    arrays = [p.array for pool in here.pool.values() for p in (pool.a, pool.b)]
    for method in (FusionConfig(keep=1), FusionConfig(threshold=0.19)):
        adaptation = learn(method, here)
        assert any(array.active is not None for array in arrays)
        adaptation.detach()
        assert all(array.active is None for array in arrays)
    adaptation = learn(FusionConfig(), here)
    infer(here, "all")
    assert all(layer.width_on == MODULES * RANK for layer in fused(here).values())


def test_training_on_after_the_pruning_moves_no_coefficient_that_is_off(bed):
    chip = chip_of("cmo_hfox")
    here = bed(chip, modules=MODULES, rank=RANK)
    adaptation = learn(FusionConfig(keep=2), here)
    for c in adaptation.groups[0].parameters:
        c.grad = None
    here.loss().backward()
    for c in adaptation.groups[0].parameters:
        off = c.detach() == 0
        assert off.sum() == MODULES - 2
        assert (c.grad[off] == 0).all()
        assert (c.grad[~off] != 0).all()


def test_the_norm_of_what_is_left_is_booked_and_used(bed):
    chip = chip_of("cmo_hfox")
    here = bed(chip, modules=MODULES, rank=RANK)
    with chip.ledger.scope(task="t", phase="switch"):
        learn(PublishedFusionConfig(keep=2), here)
    name, layer = next(iter(fused(here).items()))
    rank, outputs = RANK, layer.product.out_features

    def macs(width):  # the Gram form of a product of sums
        return outputs * (2 * width + rank * (rank + 2)) + width * width

    wanted = (STEPS * macs(MODULES * rank), macs(2 * rank))
    assert chip.ledger.total("digital_mul", task="t", phase="update", layer=name) == sum(wanted)
    weight, (a, b) = here.weights[name], here.stacks[name]
    spread = layer.coefficients.detach().repeat_interleave(rank)
    merged = (b * spread).unflatten(-1, (MODULES, rank)).sum(1) @ (a * spread[:, None]).unflatten(
        0, (MODULES, rank)
    ).sum(0)
    norms = layer.magnitude.norms(layer.coefficients)
    torch.testing.assert_close(norms, (weight + merged).norm(dim=1), rtol=1e-4, atol=1e-5)


def test_the_selection_is_booked_once_when_the_training_ends(bed):
    chip = chip_of("cmo_hfox")
    here = bed(chip, modules=MODULES, rank=RANK)
    booked = []
    for task, keep in (("plain", 0), ("pruned", 2)):
        with chip.ledger.scope(task=task, phase="switch"):
            learn(FusionConfig(keep=keep), here).detach()
        booked.append(chip.ledger.total("digital_add", task=task, phase="update", layer="optimiser"))
    groups = 2  # a coefficient vector per block
    assert booked == [0, groups * (4 + 3)]


def test_a_layer_without_a_pool_has_nothing_to_switch_off(bed):
    here = bed()
    adaptation = METHODS["magnitude_only"]().attach(here.encoder, here.context())
    layer: nn.Module = next(iter(fused(here).values()))
    layer.gate(torch.zeros(3, dtype=torch.bool))
    assert layer.modules_on == 0
    adaptation.detach()
