"""Full fine-tuning against plain torch, and what a full rewrite costs."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from crossbar_sim.chip import Chip
from crossbar_sim.conversion import convert
from crossbar_sim.layers import CrossbarProduct, DigitalProduct
from crossbar_sim.plan import PlannedChip
from lorafusion.architectures import architecture
from lorafusion.methods import Context
from lorafusion.methods.full_finetuning import FullFinetuningConfig
from lorafusion.train import Training, train

MATRICES = 2 * (4 * 32 * 32 + 2 * 32 * 64)


@pytest.mark.parametrize("rest", [True, False])
def test_loss_and_gradients_equal_those_of_the_plain_model(rest, bed) -> None:
    here, plain = bed(), bed()
    here.encoder.double()
    here.prototypes = here.prototypes.double()
    here.weights = {}
    plain.encoder, plain.prototypes = deepcopy(here.encoder), here.prototypes
    adaptation = FullFinetuningConfig(rest=rest).attach(here.encoder, here.context())
    loss, expected = here.loss(), plain.loss()
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    loss.backward()
    expected.backward()
    wanted = {n: p.grad for n, p in plain.encoder.named_parameters()}
    ours = {n.replace(".product.", "."): p for n, p in here.encoder.named_parameters() if p.requires_grad}
    linears = {f"{n}.weight" for n in here.layers}
    assert set(ours) == (set(wanted) if rest else linears)
    for name, parameter in ours.items():
        if wanted[name] is None:  # the pooler's
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-9, atol=1e-12)
    assert adaptation.trainable == sum(p.numel() for p in ours.values())


def test_a_full_rewrite_writes_as_many_cells_as_the_layers_have(bed) -> None:
    chip = Chip("cmo_hfox", statistical=True)
    here = bed(chip)
    arrays = set(chip.arrays)
    base = sum(chip.arrays[n].placement.cells for n in here.layers)
    with chip.ledger.scope(task="t", phase="switch"):
        adaptation = FullFinetuningConfig(placement="reram_once").attach(here.encoder, here.context())
        train(adaptation, range(2), here.loss, training=Training(steps=2, batch=8), chip=chip)
        assert adaptation.arrays == []
        assert chip.ledger.total("cell_write", task="t") == 0
        assert adaptation.after_training is not None
        adaptation.after_training()
    assert set(chip.arrays) - arrays == {f"{n}.full_finetuning.base" for n in here.layers}
    assert sum(a.placement.cells for a in adaptation.arrays) == base
    assert sum(a.placement.outputs * a.placement.inputs for a in adaptation.arrays) == MATRICES
    # the smaller cell of every pair stays at g_min, where cells start
    assert 0.4 * base < chip.ledger.total("cell_write", task="t", phase="switch", matrix="base") <= 0.5 * base
    # its digital products were booked during training, with the weights' gradients
    vectors = int(here.mask.sum())
    assert (
        chip.ledger.total("digital_mul", task="t", phase="forward", matrix="base") == 2 * MATRICES * vectors
    )
    here.calibrate()
    with torch.no_grad():
        here.loss()
    chip.arrays = {name: chip.arrays[name] for name in arrays}


def test_masters_on_cells_follow_the_steps_with_room_to_grow(bed) -> None:
    chip = Chip("cmo_hfox", statistical=True)
    here = bed(chip)
    name = here.layers[0]
    with chip.ledger.scope(task="t", phase="switch"):
        config = FullFinetuningConfig(placement="reram_every_step", rest=False)
        adaptation = config.attach(here.encoder, here.context())
        product = here.encoder.get_submodule(name).product
        assert isinstance(product, CrossbarProduct)
        scale = product.array.scale.copy()
        assert scale == pytest.approx(2 * here.weights[name].abs().amax(1).double().numpy())
        assert product.array.ranges is chip.arrays[name].ranges  # those of the layer's own array
        train(adaptation, range(2), here.loss, training=Training(steps=2, batch=8), chip=chip)
    assert (product.array.scale == scale).all()  # no doubling at step 1
    assert len(adaptation.arrays) == len(here.layers)
    step = scale[:, None] / 31
    assert product.master is not None
    off = abs(product.array.target_weights() - product.master.detach().double().numpy())
    assert (off <= 0.51 * step).all()


def test_the_model_gets_its_own_numbers_back(bed) -> None:
    here = bed()
    before = {n: p.detach().clone() for n, p in here.encoder.named_parameters()}
    deployed = {n: w.clone() for n, w in here.weights.items()}
    adaptation = FullFinetuningConfig(learning_rate=0.01).attach(here.encoder, here.context())
    assert isinstance(here.encoder.get_submodule(here.layers[0]).product, DigitalProduct)
    train(adaptation, range(1), here.loss, training=Training(steps=1, batch=8))
    moved = here.encoder.get_parameter("embeddings.word_embeddings.weight")
    assert not torch.equal(moved, before["embeddings.word_embeddings.weight"])
    assert all(torch.equal(w, deployed[n]) for n, w in here.weights.items())
    adaptation.detach()
    assert all(torch.equal(p, before[n]) for n, p in here.encoder.named_parameters())


@pytest.mark.parametrize("rest", [True, False])
def test_what_else_sits_on_arrays_is_rewritten_where_everything_trains(rest) -> None:
    chip = PlannedChip("cmo_hfox", statistical=True)
    chosen = architecture("flan-t5-small")
    model = chosen.build()
    with_head = sum(p.numel() for p in model.parameters())
    head = model.lm_head.weight.numel()
    convert(model, chip)  # the head, too
    layers = tuple(n for n in chip.arrays if n.endswith(chosen.targets) and "block" in n)
    context = Context(layers, torch.Generator(), chip)
    adaptation = FullFinetuningConfig(placement="reram_once", rest=rest).attach(model, context)
    assert adaptation.after_training is not None
    adaptation.after_training()
    matrices = sum(a.placement.outputs * a.placement.inputs for a in adaptation.arrays)
    others = 2 * 8 * 512 * (2 * 6 * 64 * 2 + 3 * 1024) + 8 * 512 * 6 * 64 * 4
    assert matrices == others + rest * head
    assert adaptation.trainable == (with_head if rest else others)
