"""Placements of trained matrices, alike for every method that has some."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from crossbar_sim.chip import Chip
from crossbar_sim.conversion import convert
from crossbar_sim.expected import Expected
from crossbar_sim.layers import CrossbarProduct, DigitalProduct
from crossbar_sim.plan import PlannedChip
from crossbar_sim.presets import preset
from lorafusion.architectures import ENCODER_LINEARS, adapted_layers
from lorafusion.layers import AdapterPool
from lorafusion.methods import METHODS, Adaptation, Context
from lorafusion.placement import EVERY_STEP, PLACEMENTS, Slot, column_scale, rewrite
from lorafusion.train import Training, train

SMALL = {
    "lora": {"rank": 2},
    "dora": {"rank": 2},
    "sequential_adapter": {"rank": 2},
    "parallel_adapter": {"rank": 2},
    "scaled_parallel_adapter": {"rank": 2},
    "full_finetuning": {"rest": False},
}
"""Methods with trained matrices, and settings that keep them small."""
MATRICES = {"lora": 24, "dora": 24, "sequential_adapter": 8, "parallel_adapter": 4, "full_finetuning": 12}
PULSES = ("set_pulse", "reset_pulse", "cell_write")
MakeBed = Callable[..., Any]


def written(chip: Chip, **where: str) -> int:
    return sum(chip.ledger.total(action, **where) for action in PULSES)


def run(name: str, placement: str, here: Any, *, steps: int = 2) -> Adaptation:
    """Attach, calibrate what came without ranges, and train."""
    with here.chip.ledger.scope(task="t", phase="switch"):
        adaptation = METHODS[name](placement=placement, **SMALL[name]).attach(here.encoder, here.context())
        here.calibrate()
        train(adaptation, range(steps), here.loss, training=Training(steps=steps, batch=8), chip=here.chip)
        if adaptation.after_training is not None:
            adaptation.after_training()
    return adaptation


def test_every_method_with_a_placement_is_tried_here() -> None:
    trained = {
        name for name, config in METHODS.items() if getattr(config(), "placement", "") and name != "vera"
    }
    assert trained == set(SMALL)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("name", MATRICES)
def test_cells_are_written_where_and_when_the_placement_says(name, placement, bed) -> None:
    here = bed(Chip("cmo_hfox", statistical=True))
    chip, before = here.chip, set(here.chip.arrays)
    deployed = written(chip)
    adaptation = run(name, placement, here)
    phases = {
        p for p in ("switch", "forward", "backward", "update", "eval") if written(chip, task="t", phase=p)
    }
    verified = chip.ledger.total("verify_read", task="t", phase="update")
    cells = sum(array.placement.cells for array in adaptation.arrays)
    assert {a.name for a in adaptation.arrays} == set(chip.arrays) - before
    assert len(adaptation.arrays) == (0 if placement == "sram" else MATRICES[name])
    if placement == "sram":
        assert written(chip) == deployed
        assert phases == set()
    elif placement == "reram_once":
        assert phases == {"switch"}
        assert verified == 0
    else:
        assert "switch" in phases
        reads = chip.ledger.total("sram_read_bit", task="t", phase="update")
        weights = sum(a.placement.outputs * a.placement.inputs for a in adaptation.arrays)
        assert reads >= 2 * 32 * weights  # each step fetches every master
        assert verified > 0
        if placement == "reram_every_step_dense":
            assert verified >= 2 * 2 * cells  # twice each cell at each step (docs/energy.md)
    with_products = {m for m in here.encoder.modules() if isinstance(m, DigitalProduct)}
    assert bool(with_products) == (placement == "sram")


def test_the_sparse_placement_leaves_cells_alone_that_the_dense_one_verifies(bed) -> None:
    verified = []
    for placement in EVERY_STEP:
        here = bed(Chip("cmo_hfox", statistical=True))
        run("lora", placement, here)
        verified.append(here.chip.ledger.total("verify_read", task="t", phase="update"))
    assert 0 < verified[0] < 0.5 * verified[1]


def losses(name: str, placement: str, here: Any, *, steps: int, **settings: Any) -> list[float]:
    """Of every step, and of what stays when the training is over."""
    adaptation = METHODS[name](placement=placement, **settings).attach(here.encoder, here.context())
    here.calibrate()
    training = Training(steps=steps, batch=8)
    found = train(adaptation, range(steps), here.loss, training=training, chip=here.chip)
    if adaptation.after_training is not None:
        adaptation.after_training()
        here.calibrate()
    with torch.no_grad():
        return [*found, float(here.loss())]


@pytest.mark.parametrize("name", MATRICES)
def test_on_cells_without_errors_every_placement_learns_the_same(name, bed) -> None:
    in_sram, *on_cells = (
        losses(name, placement, bed(Chip("ideal")), steps=4, learning_rate=0.01, **SMALL[name])
        for placement in PLACEMENTS
    )
    assert in_sram[-1] < in_sram[0] - 0.01
    for found in on_cells:
        assert found == pytest.approx(in_sram, rel=1e-4)


@pytest.mark.parametrize("name", ["sequential_adapter", "scaled_parallel_adapter"])
def test_what_grows_on_cells_from_a_start_near_0_has_converters_with_room(name, bed) -> None:
    """Ranges that fit the start alone would clip what is learnt: less than half of what is learnt in SRAM would be."""
    in_sram, on_cells = (
        losses(name, where, bed(Chip("cmo_hfox", statistical=True)), steps=8, learning_rate=0.01, rank=16)
        for where in ("sram", "reram_every_step")
    )
    assert on_cells[0] - on_cells[-1] > 0.8 * (in_sram[0] - in_sram[-1]) > 0.2


@pytest.mark.parametrize("start", ["normal", "lora"])
def test_an_adapters_two_matrices_share_a_scale_of_twice_their_start(start, bed) -> None:
    here = bed(Chip("cmo_hfox", statistical=True))
    config = METHODS["sequential_adapter"](rank=2, start=start, placement="reram_every_step")
    adaptation = config.attach(here.encoder, here.context())
    down, up, *_ = adaptation.parameters()
    largest = max(float(down.detach().abs().max()), float(up.detach().abs().max()))
    for array in adaptation.arrays[:2]:
        assert array.scale == pytest.approx(2 * largest)


@pytest.mark.parametrize("name", ["lora", "full_finetuning"])
def test_detaching_gives_the_tiles_back_and_the_next_task_gets_the_same_worn_cells(name, bed) -> None:
    here = bed(Chip("cmo_hfox", statistical=True))
    chip, deployed = here.chip, dict(here.chip.arrays)
    worn = []
    for _ in range(2):
        adaptation = run(name, "reram_once", here, steps=1)
        assert set(chip.arrays) > set(deployed)
        adaptation.detach()
        assert chip.arrays == deployed
        worn.append(sum(float(array.wear.sum()) for array in adaptation.arrays))
    assert worn[1] > 1.2 * worn[0] > 0
    chip.forget()
    fresh = run(name, "reram_once", here, steps=1)
    assert sum(float(array.wear.sum()) for array in fresh.arrays) < worn[1]


def test_the_dense_rewrite_ends_where_the_sparse_one_ends_and_reads_more(bed) -> None:
    ends, reads = [], []
    for changed_only in (True, False):
        here = bed(Chip("cmo_hfox", statistical=True))
        config = METHODS["lora"](rank=2, placement="reram_every_step", targets=("query",))
        with here.chip.ledger.scope(task="t", phase="update"):
            adaptation = config.attach(here.encoder, here.context())
            lora = here.encoder.get_submodule(here.layers[0])
            generator = torch.Generator().manual_seed(4)
            before = here.chip.ledger.total("verify_read", task="t")
            for master in adaptation.parameters():
                master.data.add_(0.01 * torch.randn(master.shape, generator=generator))
            rewrite([lora.a, lora.b], changed_only=changed_only)
        ends.append(lora.b.array.target_conductance())
        reads.append(here.chip.ledger.total("verify_read", task="t") - before)
    assert np.array_equal(*ends)
    assert reads[1] > reads[0] > 0


def test_a_scale_that_only_the_start_gives_leaves_room_and_a_known_one_stays() -> None:
    start = np.array([[0.1, -0.2], [0.0, 0.0], [0.4, 0.1]])
    assert column_scale(start, None) == pytest.approx([0.4, 0.8, 0.8])
    assert column_scale(start, 0.3) == pytest.approx([0.3, 0.3, 0.8])
    assert column_scale(start, np.array([1.0, 0.1, 2.0])) == pytest.approx([1.0, 0.1, 2.0])
    assert column_scale(np.zeros((2, 3)), None) == pytest.approx([2.0, 2.0])


def test_a_slot_follows_what_its_owner_holds() -> None:
    owner = nn.Module()
    owner.a = DigitalProduct(torch.zeros(2, 3))
    slot = Slot(owner, "a", "layer", "A", "layer.lora.A")
    first = slot.product
    owner.a = DigitalProduct(torch.zeros(2, 3))
    assert slot.product is owner.a is not first


# -- on shapes alone -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def expected() -> Expected:
    """The card's means, sampled once for all tests."""
    return Expected(preset("cmo_hfox"))


def planned(expected: Expected) -> tuple[nn.Module, Context, dict[str, torch.Tensor]]:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=40,
        max_position_embeddings=16, attn_implementation="eager",
    )  # fmt: skip
    with torch.device("meta"):
        model = BertModel(config).eval()
    chip = PlannedChip("cmo_hfox", statistical=True)
    chip.expected = expected
    layers = adapted_layers(model, ENCODER_LINEARS)
    convert(model, chip, where=layers)
    batch = {"input_ids": torch.zeros(2, 6, dtype=torch.long, device="meta")}
    with torch.no_grad():
        chip.calibrate(model, [batch])
    pool: dict[str, AdapterPool] = {}
    stacks: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for layer in layers:
        product = model.get_submodule(layer).product
        a, b = (torch.empty(s, device="meta") for s in ((6, product.in_features), (product.out_features, 6)))
        stacks[layer], pool[layer] = (a, b), AdapterPool(DigitalProduct(a), DigitalProduct(b), 3)
    context = Context(layers, torch.Generator().manual_seed(0), chip, pool, pool_weights=stacks)
    return model, context, batch


ON_SHAPES = [(name, place) for name in MATRICES for place in PLACEMENTS if place != "reram_every_step_dense"]
ON_SHAPES += [("lora", "reram_every_step_dense"), ("vera", "sram"), ("vera", "reram")]


@pytest.mark.parametrize(("name", "placement"), ON_SHAPES)
def test_a_method_runs_on_shapes_alone(name, placement, expected) -> None:
    model, context, batch = planned(expected)
    chip = context.chip
    assert chip is not None
    with chip.ledger.scope(task="t", phase="switch"):
        adaptation = METHODS[name](placement=placement, **SMALL.get(name, {})).attach(model, context)
        with torch.no_grad():
            if any(array.ranges is None for array in chip.arrays.values()):
                chip.calibrate(model, [batch])
        assert all(p.is_meta for p in adaptation.parameters())
        model(**batch).last_hidden_state.sum().backward()
        with chip.ledger.scope(phase="update"):
            if adaptation.after_step is not None:
                adaptation.after_step()
        if adaptation.after_training is not None:
            adaptation.after_training()
    rewritten = sum(a.placement.outputs * a.placement.inputs for a in adaptation.arrays)
    matrices = sum(p.numel() for p in adaptation.parameters() if p.ndim == 2)
    assert rewritten == (0 if placement in ("sram", "reram") else matrices)
    updated = chip.ledger.total("verify_read", task="t", phase="update")
    assert (updated > 0) == placement.startswith("reram_every_step")
    assert all(p.is_meta for p in model.parameters())


def test_products_follow_their_placement(bed) -> None:
    here = bed(Chip("ideal"))
    adaptation = METHODS["dora"](placement="reram_once", rank=2).attach(here.encoder, here.context())
    layer = here.encoder.get_submodule(here.layers[0])
    assert isinstance(layer.a, DigitalProduct)
    before = here.embed().detach()
    assert adaptation.after_training is not None
    adaptation.after_training()
    assert isinstance(layer.a, CrossbarProduct)
    assert layer.a.array is here.chip.arrays[f"{here.layers[0]}.dora.A"]
    torch.testing.assert_close(here.embed().detach(), before, rtol=1e-4, atol=1e-5)
