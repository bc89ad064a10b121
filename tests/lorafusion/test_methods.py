"""Every method on a tiny encoder: what it trains, that it learns, that it leaves no trace, and what it writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import crossbar_sim
from crossbar_sim.chip import Chip
from crossbar_sim.errors import CalibrationError
from crossbar_sim.layers import CrossbarProduct, DigitalProduct
from lorafusion.errors import LoraFusionError
from lorafusion.layers import FusedLoraLinear, LoraLinear
from lorafusion.methods import METHODS, Adaptation, Context, Method
from lorafusion.methods.fusion import FusionConfig, PublishedFusionConfig
from lorafusion.methods.lora import LoraConfig
from lorafusion.placement import rewrite
from lorafusion.train import Training, train

BLOCKS, LINEARS, RANK, MODULES = 2, 12, 2, 3
OUTPUTS = BLOCKS * (4 * 32 + 64 + 32)
"""Outputs of all adapted layers: query, key, value, attention output, and the two of the feed-forward part."""
BIASES = OUTPUTS + BLOCKS * 2 * 32
"""Those of the linears and of the two normalisation layers of each block."""
LORA = 16 * BLOCKS * (4 * (32 + 32) + 2 * (32 + 64))
MATRICES = BLOCKS * (4 * 32 * 32 + 2 * 32 * 64)
EMBEDDINGS, POOLER = (40 + 16 + 2) * 32 + 2 * 32, 32 * 32 + 32
TRAINABLE = {
    "zero_shot": 0,
    "lora": LORA,
    "dora": LORA + OUTPUTS,
    "vera": 256 * LINEARS + OUTPUTS,
    "sequential_adapter": 2 * BLOCKS * (2 * 64 * 32 + 64 + 32),
    "parallel_adapter": BLOCKS * (2 * 64 * 32 + 64 + 32),
    "scaled_parallel_adapter": BLOCKS * (2 * 512 * 32 + 512 + 32),
    "full_finetuning": MATRICES + BIASES + BLOCKS * 2 * 32 + EMBEDDINGS + POOLER,
    "bitfit": BIASES,
    "fusion": BLOCKS * MODULES + OUTPUTS,
    "lorafusion_published": BLOCKS * MODULES + OUTPUTS,
    "coefficients_only": BLOCKS * MODULES,
    "magnitude_only": OUTPUTS,
}
MakeBed = Callable[..., Any]
PULSES = ("set_pulse", "reset_pulse", "cell_write")


def places(layers: dict[str, LoraLinear]) -> list[nn.Module]:
    return [product for lora in layers.values() for product in (lora.a, lora.b)]


def chip_of(card: str | None) -> Chip | None:
    return None if card is None else Chip(card, statistical=True)


def learn(method: Method, bed: Any, *, steps: int = 4) -> tuple[Adaptation, list[float]]:
    adaptation = method.attach(bed.encoder, bed.context())
    training = Training(steps=steps, batch=8)
    return adaptation, train(adaptation, range(steps), bed.loss, training=training, chip=bed.chip)


@torch.no_grad()
def outputs(bed: Any) -> Tensor:
    return bed.encoder(input_ids=bed.ids, attention_mask=bed.mask).last_hidden_state


def written(chip: Chip, **where: str) -> int:
    return sum(chip.ledger.total(action, **where) for action in PULSES)


# -- all methods ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_what_its_formula_says(name, bed) -> None:
    here = bed()
    adaptation = METHODS[name]().attach(here.encoder, here.context())
    assert adaptation.trainable == TRAINABLE[name]
    trained = {id(p) for p in adaptation.parameters()}
    requiring = [p for p in here.encoder.parameters() if p.requires_grad]
    assert {id(p) for p in requiring} == trained  # nothing else takes a gradient
    assert sum(t.numel() for t in adaptation.state().values()) == TRAINABLE[name]


@pytest.mark.parametrize("card", [None, "ideal", "cmo_hfox"])
@pytest.mark.parametrize("name", METHODS)
def test_a_method_learns_and_leaves_no_trace(name, card, bed) -> None:
    here = bed(chip_of(card))
    before, layers = outputs(here), [here.encoder.get_submodule(n) for n in here.layers]
    weights = {n: p.detach().clone() for n, p in here.encoder.named_parameters()}
    adaptation, losses = learn(METHODS[name](), here)
    with torch.no_grad():
        final = float(here.loss())
    if TRAINABLE[name]:
        assert final < losses[0]
        if here.chip is not None:
            here.chip.event = 0  # the same read noise as before
        assert not torch.equal(outputs(here), before)
    else:
        assert losses == []
    adaptation.detach()
    if here.chip is not None:
        here.chip.event = 0
    assert all(here.encoder.get_submodule(n) is old for n, old in zip(here.layers, layers, strict=True))
    assert torch.equal(outputs(here), before)
    assert all(torch.equal(p, weights[n]) for n, p in here.encoder.named_parameters())
    assert not any(p.requires_grad for p in here.encoder.parameters())


@pytest.mark.parametrize("name", [n for n in METHODS if n != "lora"])
def test_methods_with_digital_state_write_no_cell(name, bed) -> None:
    chip = chip_of("cmo_hfox")
    here = bed(chip)
    deployed = written(chip)
    assert written(chip, phase="deploy") == deployed > 0
    with chip.ledger.scope(task="t", phase="switch"):
        adaptation, _ = learn(METHODS[name](), here, steps=2)
        with chip.ledger.scope(phase="eval"):
            outputs(here)
        adaptation.detach()
    assert written(chip) == deployed
    assert chip.ledger.total("verify_read", task="t") == 0


def test_a_chip_gives_the_bookings_of_every_phase(bed) -> None:
    chip = chip_of("ideal")
    here = bed(chip)
    with chip.ledger.scope(task="t"):
        learn(FusionConfig(), here, steps=3)
    assert chip.ledger.total("opt_update", task="t", phase="update") == 3 * TRAINABLE["fusion"]
    for phase in ("forward", "backward"):
        assert chip.ledger.total("digital_mul", task="t", phase=phase, matrix="own") > 0
        assert chip.ledger.total("opt_update", task="t", phase=phase) == 0
    # gradients come back through the arrays, as far as the first trained parameter
    assert chip.ledger.total("array_read", task="t", phase="backward") > 0
    assert chip.ledger.total("dram_read_bit", task="t", phase="backward") == 0


def test_the_fused_model_on_the_ideal_chip_equals_the_one_in_plain_torch(bed) -> None:
    plain, ideal = bed(), bed(Chip("ideal"))
    for config in (FusionConfig(), PublishedFusionConfig()):
        results = [learn(config, here, steps=3)[1] for here in (plain, ideal)]
        assert results[0] == pytest.approx(results[1], rel=1e-4)
        for here in (plain, ideal):
            assert isinstance(here.encoder.get_submodule(here.layers[0]), FusedLoraLinear)
        plain, ideal = bed(), bed(Chip("ideal"))


# -- fusion --------------------------------------------------------------------------------------------------


def coefficients(adaptation: Adaptation) -> Tensor:
    (group,) = (g for g in adaptation.groups if g.name == "coefficients")
    return torch.stack([p.detach() for p in group.parameters])


@pytest.mark.parametrize(("granularity", "groups"), [("global", 1), ("block", BLOCKS), ("linear", LINEARS)])
def test_the_uniform_start_is_one_over_n(granularity, groups, bed) -> None:
    here = bed()
    c = coefficients(FusionConfig(granularity=granularity).attach(here.encoder, here.context()))
    assert torch.equal(c, torch.full((groups, MODULES), 1 / MODULES))


def test_the_xavier_start_is_bounded_and_seeded(bed) -> None:
    here = bed(modules=7)
    settings = {"start": "xavier", "granularity": "linear"}

    def start(seed: int) -> Tensor:
        context = here.context(generator=torch.Generator().manual_seed(seed))
        adaptation = FusionConfig(**settings).attach(here.encoder, context)
        adaptation.detach()
        return coefficients(adaptation)

    first = start(0)
    bound = (6 / (7 + LINEARS)) ** 0.5
    assert 0.9 * bound < first.abs().max() <= bound
    assert (first < 0).any()
    assert (first > 0).any()
    assert torch.equal(first, start(0))
    assert not torch.equal(first, start(1))


@pytest.mark.parametrize("granularity", ["global", "block", "linear"])
@pytest.mark.parametrize("start", ["uniform", "xavier"])
@pytest.mark.parametrize("merge", ["sum_of_products", "product_of_sums"])
def test_no_configuration_starts_at_a_stationary_point(merge, start, granularity, bed) -> None:
    here = bed()
    adaptation = FusionConfig(merge=merge, start=start, granularity=granularity).attach(
        here.encoder, here.context()
    )
    assert (coefficients(adaptation) != 0).all()
    here.loss().backward()
    (group,) = (g for g in adaptation.groups if g.name == "coefficients")
    assert all((p.grad != 0).all() for p in group.parameters)


def test_published_is_product_of_sums_with_dora_norm_glorot_start_l1_and_its_rates(bed) -> None:
    here = bed()
    config = METHODS["lorafusion_published"]()
    assert isinstance(config, FusionConfig)
    assert (config.merge, config.magnitude, config.start) == ("product_of_sums", "dora", "xavier")
    assert METHODS["fusion"]() == FusionConfig(
        merge="sum_of_products", granularity="block", magnitude="gain", start="uniform"
    )
    adaptation = config.attach(here.encoder, here.context())
    rates = {g.name: g.learning_rate for g in adaptation.groups}
    assert rates == {"coefficients": 0.01, "magnitude": 0.005}
    assert adaptation.penalty is not None
    assert float(adaptation.penalty().detach()) == pytest.approx(
        0.0005 * float(coefficients(adaptation).abs().mean())
    )
    layer = here.encoder.get_submodule(here.layers[0])
    assert torch.equal(layer.magnitude.weight, here.weights[here.layers[0]].norm(dim=1))


@pytest.mark.parametrize("fuse", [True, False])
def test_the_dora_norm_on_a_chip_is_that_of_the_nominal_weights(fuse, bed) -> None:
    here = bed(chip_of("cmo_hfox"))
    config = FusionConfig(magnitude="dora", fuse=fuse)
    config.attach(here.encoder, here.context())
    layer = here.encoder.get_submodule(here.layers[0])
    a, b = here.stacks[here.layers[0]]
    v = here.weights[here.layers[0]] + (b @ a / MODULES if fuse else 0)
    torch.testing.assert_close(layer.magnitude.norm(layer.coefficients), v.norm(dim=1), rtol=1e-5, atol=1e-6)


def test_the_dora_norm_says_what_it_lacks(bed) -> None:
    here = bed(Chip("ideal"))
    with pytest.raises(LoraFusionError, match=r"give Context\.pool_weights"):
        FusionConfig(magnitude="dora").attach(here.encoder, replace(here.context(), pool_weights={}))


def test_the_dora_norm_books_its_arithmetic_and_its_storage(bed) -> None:
    n, width = MODULES, MODULES * RANK
    words = {
        "sum_of_products": OUTPUTS * (n * n + n + 1),
        "product_of_sums": OUTPUTS * (2 * width + 1) + LINEARS * width * width,
    }
    macs = {
        "sum_of_products": OUTPUTS * (n + n * n),
        "product_of_sums": OUTPUTS * (2 * width + RANK * (RANK + 2)) + LINEARS * width * width,
    }
    for merge, stored in words.items():
        here = bed(Chip("ideal"))
        config = FusionConfig(merge=merge, magnitude="dora")
        with here.chip.ledger.scope(task="t", phase="switch"):
            adaptation, _ = learn(config, here, steps=2)
        assert adaptation.digital_words == stored
        # the norm of the start, and one after each step
        assert here.chip.ledger.total("digital_mul", task="t", phase="switch") == macs[merge]
        assert here.chip.ledger.total("digital_mul", task="t", phase="update") == 2 * macs[merge]
    for config in (FusionConfig(), FusionConfig(magnitude="off")):
        here = bed()
        assert config.attach(here.encoder, here.context()).digital_words == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"merge": "sum_of_product"}, r"fusion\.merge: .*did you mean 'sum_of_products'"),
        ({"granularity": "layer"}, r"fusion\.granularity: 'layer' is unknown"),
        ({"magnitude": "dorra"}, r"fusion\.magnitude: .*did you mean 'dora'"),
        ({"start": "zeros"}, r"fusion\.start: 'zeros' is unknown"),
        ({"fuse": False, "magnitude": "off"}, "leaves nothing to train"),
    ],
)
def test_wrong_fusion_settings_are_refused(settings, message) -> None:
    with pytest.raises(LoraFusionError, match=message):
        FusionConfig(**settings)


def test_fusion_needs_a_pool_that_adapts_its_layers(bed) -> None:
    here = bed()
    for name in ("fusion", "lorafusion_published", "coefficients_only"):
        with pytest.raises(LoraFusionError, match=f"{name}: needs a pool"):
            METHODS[name]().attach(here.encoder, here.context(pool=None))
    partial = {n: p for n, p in here.pool.items() if n != here.layers[3]}
    with pytest.raises(LoraFusionError, match=rf"does not adapt layer '{here.layers[3]}'"):
        FusionConfig().attach(here.encoder, here.context(pool=partial))
    assert METHODS["magnitude_only"]().attach(here.encoder, here.context(pool=None)).trainable == OUTPUTS


# -- LoRA ----------------------------------------------------------------------------------------------------


def test_lora_adapts_the_targets_it_is_given(bed) -> None:
    here = bed()
    config = LoraConfig(rank=3, targets=("query", "intermediate.dense"))
    adaptation = config.attach(here.encoder, here.context())
    assert adaptation.trainable == 3 * BLOCKS * ((32 + 32) + (32 + 64))
    adapted = [n for n in here.layers if isinstance(here.encoder.get_submodule(n), LoraLinear)]
    assert adapted == [n for n in here.layers if n.endswith(("query", "intermediate.dense"))]


def test_lora_equals_the_dense_formula_and_starts_as_published() -> None:
    """A uniform up to 1/sqrt(inputs) (Kaiming, a = sqrt 5) and B = 0; then y = (W0 + (alpha / r) B A) x."""
    generator, name = torch.Generator().manual_seed(5), "layer.0.lin"
    linear = nn.Linear(50, 7).double()
    net = nn.ModuleDict({"layer": nn.ModuleList([nn.ModuleDict({"lin": linear})])})
    adaptation = LoraConfig(rank=3, alpha=12.0).attach(net, Context((name,), generator))
    a, b = adaptation.parameters()
    assert 0.9 * 50**-0.5 < float(a.detach().abs().max()) <= 50**-0.5
    assert not b.any()
    values = [torch.randn(s, generator=generator, dtype=torch.float64) for s in (a.shape, b.shape, (4, 50))]
    a.data.copy_(values[0])
    b.data.copy_(values[1])
    own = [v.clone().requires_grad_() for v in values]
    x = values[2].requires_grad_()
    y = net.get_submodule(name)(x)
    expected = own[2] @ (linear.weight.detach() + 4.0 * own[1] @ own[0]).T + linear.bias.detach()
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    got, wanted = (
        torch.autograd.grad(out.square().sum(), of) for out, of in ((y, [a, b, x]), (expected, own))
    )
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_a_fresh_lora_changes_nothing_and_is_seeded(bed) -> None:
    here = bed()
    before = outputs(here)
    states = []
    for seed in (0, 0, 1):
        context = here.context(generator=torch.Generator().manual_seed(seed))
        adaptation = LoraConfig().attach(here.encoder, context)
        assert torch.equal(outputs(here), before)
        states.append(torch.cat([t.flatten() for t in adaptation.state().values()]))
        adaptation.detach()
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize("name", ["lora", "fusion", "lorafusion_published", "magnitude_only"])
def test_methods_take_the_precision_of_the_model(name, bed) -> None:
    here = bed()
    here.encoder.double()
    here.prototypes = here.prototypes.double()
    here.weights = {n: w.double() for n, w in here.weights.items()}
    here.stacks = {n: (a.double(), b.double()) for n, (a, b) in here.stacks.items()}
    for pool in here.pool.values():
        pool.a.double()
        pool.b.double()
    _, losses = learn(METHODS[name](), here, steps=2)
    assert losses[1] < losses[0]
    assert outputs(here).dtype == torch.float64


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"placement": "reram_ones"}, r"lora\.placement: .*did you mean 'reram_once'"),
        ({"rank": 0}, r"lora\.rank: must be at least 1"),
    ],
)
def test_wrong_lora_settings_are_refused(settings, message) -> None:
    with pytest.raises(LoraFusionError, match=message):
        LoraConfig(**settings)


def test_lora_says_what_it_lacks(bed) -> None:
    here = bed()
    for placement in ("reram_once", "reram_every_step"):
        with pytest.raises(LoraFusionError, match="needs a chip"):
            LoraConfig(placement=placement).attach(here.encoder, here.context())
    with pytest.raises(LoraFusionError, match=r"lora\.targets: .*'valeu'"):  # though 'query' selects some
        LoraConfig(targets=("query", "valeu")).attach(here.encoder, here.context())
    chip = bed(Chip("ideal"))
    with pytest.raises(LoraFusionError, match="from a pool"):
        LoraConfig(placement="reram_every_step").attach(chip.encoder, chip.context(pool=None))


def test_lora_in_sram_writes_no_cell_and_books_its_products(bed) -> None:
    chip = chip_of("cmo_hfox")
    here = bed(chip)
    deployed = written(chip)
    with chip.ledger.scope(task="t"):
        adaptation, _ = learn(LoraConfig(rank=2), here, steps=2)
    assert written(chip) == deployed
    assert adaptation.after_step is None
    assert adaptation.after_training is None
    vectors = 2 * int(here.mask.sum())
    macs = {"A": 2 * BLOCKS * (5 * 32 + 64) * vectors, "B": 2 * OUTPUTS * vectors}
    for matrix, count in macs.items():
        assert chip.ledger.total("digital_mul", task="t", phase="forward", matrix=matrix) == count


def test_lora_written_once_writes_each_cell_after_training_and_needs_calibration(bed) -> None:
    chip = chip_of("cmo_hfox")
    here = bed(chip)
    deployed, arrays = written(chip), set(chip.arrays)
    with chip.ledger.scope(task="t", phase="switch"):
        adaptation, losses = learn(LoraConfig(rank=2, placement="reram_once"), here, steps=6)
        assert written(chip) == deployed  # training is digital
        assert adaptation.after_training is not None
        masters = adaptation.state()
        adaptation.after_training()
    new = set(chip.arrays) - arrays
    assert len(new) == 2 * LINEARS
    # cells that start in their window take no pulse; every other one is written once
    cells = sum(chip.arrays[n].placement.cells for n in new)
    assert cells == 2 * adaptation.trainable
    rewritten = chip.ledger.total("cell_write", task="t")
    assert rewritten == chip.ledger.total("cell_write", task="t", phase="switch")
    # the smaller cell of every pair stays at g_min, where cells start: 48 % to 52 % are pulsed
    assert 0.4 * cells < rewritten <= 0.5 * cells
    assert rewritten == sum(int((chip.arrays[n].wear > 0).sum()) for n in new)
    with pytest.raises(CalibrationError, match=r"lora\.[AB]"):
        here.loss()
    here.calibrate()
    with torch.no_grad():
        assert float(here.loss()) < losses[0]
    lora = here.encoder.get_submodule(here.layers[0])
    assert isinstance(lora.a, CrossbarProduct)
    step = float(masters["lora.0"].abs().max()) / 31  # 32 levels
    assert np.abs(lora.a.array.target_weights() - masters["lora.0"].numpy()).max() < 0.51 * step


def every_step(bed: MakeBed, **settings: Any) -> tuple[Any, Adaptation, dict[str, LoraLinear]]:
    here = bed(chip_of("cmo_hfox"))
    config = LoraConfig(rank=2, placement="reram_every_step", targets=("query", "value"), **settings)
    with here.chip.ledger.scope(task="t", phase="switch"):
        # as with trained modules, the pool's A reaches further than the fresh one that starts here
        wide = {n: (4 * a, b) for n, (a, b) in here.stacks.items()}
        adaptation = config.attach(here.encoder, here.context(pool_weights=wide))
    layers = {n: here.encoder.get_submodule(n) for n in here.layers if n.endswith(("query", "value"))}
    return here, adaptation, layers


def test_lora_at_every_step_rewrites_only_cells_whose_level_changed(bed) -> None:
    here, adaptation, layers = every_step(bed, learning_rate=0.02)
    arrays = [p.array for lora in layers.values() for p in (lora.a, lora.b)]
    assert all(a.ranges is not None for a in arrays)
    levels = [a.target_conductance() for a in arrays]
    steps = []

    def after() -> None:
        before = here.chip.ledger.total("cell_write", task="t", phase="update")
        rewrite(places(layers))
        now = [a.target_conductance() for a in arrays]
        moved = sum(int((x != y).sum()) for x, y in zip(levels, now, strict=True))
        steps.append((moved, here.chip.ledger.total("cell_write", task="t", phase="update") - before))
        levels[:] = now

    adaptation.after_step = after
    with here.chip.ledger.scope(task="t"):
        training = Training(steps=6, batch=8)
        losses = train(adaptation, range(6), here.loss, training=training, chip=here.chip)
    # a cell whose target moved by less than its window may be inside the new one already
    assert all(0.9 * moved <= booked <= moved for moved, booked in steps)
    assert sum(moved for moved, _ in steps) > 0
    cells = sum(a.placement.cells for a in arrays)
    assert all(moved < cells / 2 for moved, _ in steps)
    assert losses[-1] < losses[0]


def test_lora_at_every_step_keeps_masters_in_full_precision(bed) -> None:
    here, adaptation, layers = every_step(bed, learning_rate=1e-6)
    lora = layers[here.layers[0]]
    assert {p.dtype for p in adaptation.parameters()} == {torch.float32}
    start, held = adaptation.state(), lora.a.array.target_weights()
    before = here.chip.ledger.total("cell_write", task="t")
    with here.chip.ledger.scope(task="t"):
        train(adaptation, range(2), here.loss, training=Training(steps=2, batch=8), chip=here.chip)
    end = adaptation.state()
    assert all(not torch.equal(end[n], start[n]) for n in start)
    # they moved by far less than a level: hardly a cell is written (a weight may sit at the edge of its level)
    assert np.mean(lora.a.array.target_weights() != held) < 0.05
    assert here.chip.ledger.total("cell_write", task="t") - before < 5
    trained = 2 * adaptation.trainable
    assert here.chip.ledger.total("opt_update", task="t", phase="update") == trained


def test_an_outgrown_column_scale_is_doubled_and_the_rewriting_booked(bed) -> None:
    here, _, layers = every_step(bed)
    name = here.layers[0]
    lora = layers[name]
    scale = lora.b.array.scale.copy()
    stack = here.stacks[name][1]
    assert scale == pytest.approx(float(stack.abs().max()))  # the pool's, although B starts at 0
    half = torch.full_like(lora.b.master, float(scale[0]) / 2)
    lora.b.master.data.copy_(half)
    with here.chip.ledger.scope(task="t", phase="update"):
        rewrite([lora.a, lora.b])
        first = here.chip.ledger.total("cell_write", task="t", phase="update")
        lora.b.master.data[0, 0] = 1.5 * float(scale[0])
        rewrite([lora.a, lora.b])
    assert np.array_equal(lora.b.array.scale, 2 * scale)
    got = torch.from_numpy(lora.b.array.target_weights()).float()
    assert (got - lora.b.master.detach()).abs().max() < 0.51 * 2 * scale[0] / 31
    assert first == 32 * RANK
    # the untouched weights stand for another level now: the positive cell of every pair is written anew
    assert here.chip.ledger.total("cell_write", task="t", phase="update") == 2 * 32 * RANK


def test_a_pool_in_digital_logic_gives_no_converter_ranges(bed) -> None:
    """Column scales alone come from the nominal stacks; products then ask for calibration."""
    here = bed(chip_of("cmo_hfox"))
    digital = {
        n: replace(p, a=DigitalProduct(here.stacks[n][0]), b=DigitalProduct(here.stacks[n][1]))
        for n, p in here.pool.items()
    }
    config = LoraConfig(rank=2, placement="reram_every_step", targets=("query",))
    config.attach(here.encoder, here.context(pool=digital))
    with pytest.raises(CalibrationError):
        here.loss()


# -- the package ---------------------------------------------------------------------------------------------


def test_convert_is_a_function_of_the_package_after_its_module_was_imported() -> None:
    assert not isinstance(crossbar_sim.convert, type(nn))
    assert callable(crossbar_sim.convert)
