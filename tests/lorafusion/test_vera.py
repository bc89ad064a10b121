"""VeRA against an independent dense formula, where its matrices sit, and that no task writes a cell."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from crossbar_sim import cost
from crossbar_sim.chip import Chip
from crossbar_sim.layers import DigitalProduct
from lorafusion.errors import LoraFusionError
from lorafusion.methods.vera import VeraConfig, VeraLinear
from lorafusion.train import Training, train

LAYERS, OUTPUTS, WIDE = 12, 2 * (4 * 32 + 64 + 32), 64
PULSES = ("set_pulse", "reset_pulse", "cell_write")


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def written(chip: Chip, **where: str) -> int:
    return sum(chip.ledger.total(action, **where) for action in PULSES)


def test_forward_and_gradients_equal_the_dense_formula() -> None:
    w0, a, b, d, scale = (normal(*s, seed=k) for k, s in enumerate([(7, 5), (3, 5), (7, 3), (3,), (7,)]))
    base, x, weights = DigitalProduct(w0), normal(4, 2, 5, seed=8).requires_grad_(), normal(4, 2, 7, seed=9)
    trained = [torch.nn.Parameter(v.clone()) for v in (d, scale)]
    layer = VeraLinear(base, DigitalProduct(a), DigitalProduct(b), d=trained[0], scale=trained[1], site=None)
    own = [v.detach().clone().requires_grad_() for v in (d, scale, x)]
    dense = w0 + torch.diag(own[1]) @ b @ torch.diag(own[0]) @ a
    y, expected = layer(x), torch.einsum("oi,...i->...o", dense, own[2])
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    got = torch.autograd.grad((weights * y).sum(), [*trained, x])
    for ours, theirs in zip(got, torch.autograd.grad((weights * expected).sum(), own), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_the_pair_starts_as_published_and_no_other_width_finds_it(bed) -> None:
    """He et al. 2015: uniform up to sqrt(6 / inputs), of the widest layer."""
    here = bed(Chip("cmo_hfox", statistical=True))
    adaptation = VeraConfig(rank=16).attach(here.encoder, here.context())
    layers = [here.encoder.get_submodule(n) for n in here.layers]
    for width, matrices in ((WIDE, [x.a.weight for x in layers]), (16, [x.b.weight for x in layers])):
        bound = (6 / width) ** 0.5
        assert 0.97 * bound < max(float(m.abs().max()) for m in matrices) <= bound
    adaptation.detach()
    config, narrow = VeraConfig(rank=4, placement="reram"), here.layers[:2]  # no feed-forward part
    config.attach(here.encoder, replace(here.context(), layers=narrow)).detach()
    config.attach(here.encoder, here.context())
    for name in (narrow[0], here.layers[5]):
        array, drawn = here.encoder.get_submodule(name).a.array, VeraConfig(rank=4)
        adaptation = drawn.attach(bed().encoder, here.context())
        held = adaptation.model.get_submodule(name).a.weight.double().numpy()
        assert abs(array.target_weights() - held).max() <= 0.51 * abs(held).max() / 31


def test_a_fresh_vera_changes_nothing_and_its_layers_share_one_pair(bed) -> None:
    here = bed()
    before = here.embed()
    adaptation = VeraConfig(rank=8).attach(here.encoder, here.context())
    torch.testing.assert_close(here.embed(), before)
    layers = [here.encoder.get_submodule(n) for n in here.layers]
    (wide,) = {
        layer.a.weight.data_ptr() for layer in layers
    }  # narrow layers take the first columns of the same A
    assert wide
    assert torch.equal(layers[0].a.weight, layers[5].a.weight[:, :32])
    assert {n.split(".")[0] for n in adaptation.state()} == {"vera"}
    assert adaptation.trainable == LAYERS * 8 + OUTPUTS
    assert adaptation.digital_words == 8 * (WIDE + WIDE)
    copies = VeraConfig(rank=8, sharing="replicated")
    adaptation.detach()
    assert copies.attach(here.encoder, here.context()).digital_words == 8 * (2 * (5 * 32 + 64) + OUTPUTS)


@pytest.mark.parametrize("sharing", ["shared", "replicated"])
def test_frozen_matrices_on_arrays_are_programmed_once_for_all_tasks(sharing, bed) -> None:
    chip = Chip("cmo_hfox", statistical=True)
    here, config = bed(chip), VeraConfig(rank=4, placement="reram", sharing=sharing)
    deployed, arrays = written(chip), set(chip.arrays)
    for task in ("first", "second"):
        with chip.ledger.scope(task=task, phase="switch"):
            adaptation = config.attach(here.encoder, here.context())
            here.calibrate()
            train(adaptation, range(2), here.loss, training=Training(steps=2, batch=8), chip=chip)
        adaptation.detach()
        assert adaptation.arrays == []
        assert adaptation.digital_words == 0
    new = [chip.arrays[name] for name in set(chip.arrays) - arrays]
    weights = sum(a.placement.outputs * a.placement.inputs for a in new)
    each = 4 * (2 * (5 * 32 + 64) + OUTPUTS)
    assert weights == (4 * 2 * (32 + 64) if sharing == "shared" else each)
    assert written(chip) - deployed == written(chip, task="first", phase="deploy") > 0
    assert written(chip, task="second") == 0
    assert chip.ledger.total("array_read", task="second", phase="forward", matrix="A") > 0
    # one multiplication per output of A and vector, the column scale of a read, and nothing of a digital product
    scales = 2 * LAYERS * 4 * int(here.mask.sum())
    assert chip.ledger.total("digital_mul", task="second", phase="forward", matrix="A") == scales


def test_vera_in_sram_books_its_products_and_the_work_between_them(bed) -> None:
    chip = Chip("ideal")
    here = bed(chip)
    with chip.ledger.scope(task="t", phase="switch"):
        adaptation = VeraConfig(rank=4).attach(here.encoder, here.context())
        train(adaptation, range(1), here.loss, training=Training(steps=1, batch=8), chip=chip)
    vectors, rank = int(here.mask.sum()), 4
    total = chip.ledger.total
    assert total("digital_mul", task="t", phase="forward", matrix="A") == rank * 2 * (5 * 32 + 64) * vectors
    assert (
        total("digital_mul", task="t", phase="forward", matrix="own") == (LAYERS * rank + OUTPUTS) * vectors
    )
    assert (
        total("digital_mul", task="t", phase="backward", matrix="own")
        == 2 * (LAYERS * rank + OUTPUTS) * vectors
    )
    for way, phase in (("write", "forward"), ("read", "backward")):  # A x and B (d * (A x)), for dd and db
        kept = total(f"activation_{way}_bit", task="t", phase=phase, matrix="own")
        assert kept == 16 * (LAYERS * rank + OUTPUTS) * vectors
    assert written(chip, task="t") == 0


def test_the_drives_of_b_follow_d_after_calibration(bed) -> None:
    here = bed(Chip("cmo_hfox", statistical=True))
    VeraConfig(rank=8, placement="reram").attach(here.encoder, here.context())
    here.calibrate()
    layer, x = here.encoder.get_submodule(here.layers[0]), normal(8, 6, 32, seed=3).float()
    with torch.no_grad():
        base = layer(x)
        layer.scale.fill_(1.0)
        small = float((layer(x) - base).norm())
        layer.d.mul_(16.0)  # from 0.1
        assert float((layer(x) - base).norm()) == pytest.approx(16 * small, rel=0.1)


@pytest.mark.parametrize(("rank", "outputs", "vectors"), [(2, 5, 3), (4, 1, 2)])
def test_the_work_between_the_matrices_is_counted_event_by_event(rank, outputs, vectors) -> None:
    forward, backward = {"digital_mul": 0, "digital_add": 0}, {"digital_mul": 0, "digital_add": 0}
    for _ in range(vectors):
        for _ in range(rank):
            forward["digital_mul"] += 1  # d u
            backward["digital_mul"] += 2  # t u, d t
            backward["digital_add"] += 1  # dd += t u
        for _ in range(outputs):
            forward["digital_mul"] += 1  # b w
            forward["digital_add"] += 1  # W0 x + b w
            backward["digital_mul"] += 2  # g w, b g
            backward["digital_add"] += 1  # db += g w
    assert cost.vera_forward(rank, outputs, vectors) == forward
    assert cost.vera_backward(rank, outputs, vectors) == backward


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"placement": "reram_once"}, r"vera\.placement: 'reram_once' is unknown; did you mean 'reram'"),
        ({"sharing": "share"}, r"vera\.sharing: .*did you mean 'shared'"),
        ({"rank": 0}, r"vera\.rank: must be at least 1"),
        ({"start": 0.0}, r"vera\.start: must not be 0"),
    ],
)
def test_wrong_settings_are_refused(settings, message) -> None:
    with pytest.raises(LoraFusionError, match=message):
        VeraConfig(**settings)


def test_arrays_need_a_chip(bed) -> None:
    here = bed()
    with pytest.raises(LoraFusionError, match="needs a chip"):
        VeraConfig(placement="reram").attach(here.encoder, here.context())
