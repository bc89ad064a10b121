"""A plan on shapes against the simulation that it stands for, row by row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from math import fsum
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crossbar_sim.chip import Chip
from crossbar_sim.conversion import convert, get_layer
from crossbar_sim.expected import Expected
from crossbar_sim.ledger import Ledger
from crossbar_sim.plan import PlannedChip
from crossbar_sim.presets import preset
from crossbar_sim.shapes import QuickShapes
from lorafusion.architectures import QUERY_VALUE, Architecture, adapted_layers, architecture
from lorafusion.count import method as named
from lorafusion.errors import LoraFusionError
from lorafusion.estimate import (
    DEPLOY_BASE,
    DEPLOY_METHOD,
    DEPLOY_POOL,
    TASK,
    Estimate,
    Workload,
    estimate,
    estimate_on,
)
from lorafusion.layers import program_pool
from lorafusion.methods import METHODS, Context, Method
from lorafusion.methods.base import nominal_weight
from lorafusion.methods.fusion import FusionConfig
from lorafusion.train import Training, keep_state, train

MODULES, RANK = 3, 2
WORK = Workload(length=5, target_length=3, steps=3, batch=2, tokens=12, calibration_texts=4, fresh_cells=True)
"""Two whole texts and one of two tokens."""
SAMPLED = ("set_pulse", "reset_pulse", "verify_read", "cell_write")
Rows = dict[tuple[str, ...], int]


def bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, vocab_size=40,
        max_position_embeddings=16,
    )  # fmt: skip
    return BertModel(config).eval()


def t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        d_model=16, d_kv=8, d_ff=32, num_layers=2, num_decoder_layers=2, num_heads=2, vocab_size=40,
        feed_forward_proj="gated-gelu", decoder_start_token_id=0,
    )  # fmt: skip
    return T5ForConditionalGeneration(config).eval()


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=40, max_position_embeddings=16,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return build()


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "bert": (bert, QUERY_VALUE),
    "t5": (t5, ("q", "v")),
    "llama": (llama, ("q_proj", "v_proj")),
}


@cache
def expected(card: str) -> Expected:
    return Expected(preset(card))


@cache
def planned(model: str, method: Method, card: str, *, backward: str = "transposed", **work: Any) -> Estimate:
    """As `estimate` does it."""
    build, targets = MODELS[model]
    arch = Architecture(model, model, partial(on_meta, build), targets)
    load = replace(WORK, **work)
    options = {"changed": load.changed, "expected": expected(card), "backward": backward}
    chip = PlannedChip(expected(card).card, statistical=True, **options)
    with QuickShapes():  # type: ignore[no-untyped-call]
        return estimate_on(chip, arch, method, load, modules=MODULES, rank=RANK)


class Simulation:
    """The same deployment and task with numbers: written out here, with the project's own training loop."""

    def __init__(self, model: str, card: str, backward: str) -> None:
        build, targets = MODELS[model]
        self.model, self.normal = build(), torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=self.normal))
        self.chip = Chip(card, statistical=True, backward=backward)
        self.layers = adapted_layers(self.model, targets)
        self.weights = {n: nominal_weight(get_layer(self.model, n)).clone() for n in self.layers}
        self.pool: dict[str, Any] = {}
        self.stacks: dict[str, tuple[Tensor, Tensor]] = {}

    def batch(self, texts: int, length: int = WORK.length) -> dict[str, Any]:
        given: dict[str, Any] = {"input_ids": torch.randint(1, 40, (texts, length), generator=self.normal)}
        if self.model.config.is_encoder_decoder:
            size = (texts, WORK.target_length)
            given["decoder_input_ids"] = torch.randint(1, 40, size, generator=self.normal)
        return given

    def context(self) -> Context:
        return Context(
            self.layers,
            torch.Generator().manual_seed(3),
            self.chip,
            self.pool,
            self.weights,
            self.stacks,
        )

    @torch.no_grad()
    def calibrate(self) -> None:
        if any(array.ranges is None for array in self.chip.arrays.values()) and not self.chip.exact:
            self.chip.calibrate(self.model, [self.batch(2), self.batch(2)])

    def deploy(self) -> None:
        ledger = self.chip.ledger
        with ledger.scope(task=DEPLOY_BASE, phase="deploy"):
            convert(self.model, self.chip)
            self.calibrate()
        self.base = list(self.chip.arrays.values())
        with ledger.scope(task=DEPLOY_POOL, phase="deploy"):
            for layer, weight in self.weights.items():
                m, n = weight.shape
                a = torch.randn(MODULES * RANK, n, generator=self.normal) / n**0.5
                b = torch.randn(m, MODULES * RANK, generator=self.normal) / RANK
                self.stacks[layer] = (a, b)
                self.pool[layer] = program_pool(self.chip, layer, a, b, modules=MODULES)
            fused = FusionConfig(magnitude="off").attach(self.model, self.context())
            self.calibrate()
            fused.detach()
        self.deployed = list(self.chip.arrays.values())

    def loss(self, *_: Any) -> Tensor:
        out = self.model(**self.batch(WORK.batch))
        read = [out.logits] if "logits" in out else [out.last_hidden_state, out.pooler_output]
        return torch.stack([each.square().mean() for each in read]).sum()

    def task(self, method: Method) -> None:
        chip = self.chip
        with chip.ledger.scope(task=TASK, phase="switch"):
            adaptation = method.attach(self.model, self.context())
            if getattr(method, "placement", "") == "reram":  # VeRA's pair serves all tasks: deployment pays
                with chip.ledger.scope(task=DEPLOY_METHOD):
                    self.calibrate()
            training = Training(steps=WORK.steps, batch=WORK.batch)
            train(adaptation, range(WORK.steps), self.loss, training=training, chip=chip)
            if adaptation.after_training is not None:
                adaptation.after_training()
                self.calibrate()
            keep_state(adaptation, chip)
            chip.next_event()
            with chip.ledger.scope(phase="eval"), torch.no_grad():
                for length in (WORK.length, WORK.length, WORK.tokens - 2 * WORK.length):
                    self.model(**self.batch(1, length))

    def refresh(self) -> None:
        self.chip.advance(WORK.refresh_period)
        for array in self.deployed:
            with self.chip.ledger.scope(task=DEPLOY_BASE if array in self.base else DEPLOY_POOL):
                array.refresh()


@cache
def simulated(model: str, method: Method, card: str, *, backward: str = "transposed") -> Ledger:
    simulation = Simulation(model, card, backward)
    simulation.deploy()
    simulation.task(method)
    simulation.refresh()
    if not method.needs_pool:
        simulation.chip.ledger.drop(task=DEPLOY_POOL)
    return simulation.chip.ledger


def of_shapes(ledger: Ledger) -> Rows:
    """Counts that no state of a cell can change: conversions without those of verify reads."""
    counts = {tuple(key): n for key, n in ledger.counts.items() if n and key.action not in SAMPLED}
    for key, verified in ledger.counts.items():
        if key.action == "verify_read" and verified:
            at = next(k for k in counts if k[:4] == key[:4] and k[4] == "adc_conversion")
            counts[at] -= verified
    return {key: n for key, n in counts.items() if n}


def sampled(ledger: Ledger) -> dict[tuple[str, str, str], float]:
    sums: dict[tuple[str, str, str], float] = defaultdict(float)
    for key, n in ledger.counts.items():
        if key.action in SAMPLED:
            sums[key.task, key.phase, key.action] += n
    return sums


FUSIONS = [
    FusionConfig(merge=merge, magnitude=magnitude)
    for merge in ("sum_of_products", "product_of_sums")
    for magnitude in ("gain", "dora")
]
LORAS = [named("lora", rank=RANK, placement=p) for p in ("sram", "reram_once", "reram_every_step")]
OTHERS = [named(name) for name in METHODS if name not in ("fusion", "lora", "lorafusion_published")]
QUICK = [
    *(("bert", method, "transposed") for method in (FUSIONS[0], FUSIONS[3], LORAS[1], LORAS[2])),
    ("bert", named("bitfit"), "transposed"),
    ("t5", FUSIONS[0], "transposed"),
    ("llama", LORAS[1], "transposed"),
    ("bert", FUSIONS[1], "nominal"),
    ("bert", FusionConfig(keep=2), "transposed"),
    ("bert", named("vera", rank=RANK, placement="reram"), "transposed"),
]
REST = [
    *(("bert", method, "transposed") for method in (FUSIONS[1], FUSIONS[2], LORAS[0], *OTHERS)),
    ("t5", LORAS[1], "transposed"),
    ("llama", FUSIONS[0], "transposed"),
    ("bert", LORAS[0], "nominal"),
]
CASES = [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in REST)]


def name_of(value: Any) -> str:
    if isinstance(value, str):
        return value
    settings = (getattr(value, key, "") for key in ("merge", "magnitude", "placement", "keep"))
    return "-".join([value.name, *(str(s) for s in settings if s)])


@pytest.mark.parametrize(("model", "method", "backward"), CASES, ids=name_of)
def test_a_plan_counts_what_the_simulation_counts(model, method, backward) -> None:
    plan = of_shapes(planned(model, method, "cmo_hfox", backward=backward).ledger)
    real = of_shapes(simulated(model, method, "cmo_hfox", backward=backward))
    assert {
        key: (plan.get(key), real.get(key))
        for key in plan.keys() | real.keys()
        if plan.get(key) != real.get(key)
    } == {}
    assert {key[1] for key in plan} >= {"calibrate", "eval"}  # both are not empty
    assert {key[3] for key in plan} >= {"base", "rest"}


@pytest.mark.parametrize("card", ["hfo2_neurram", "agasi_neurosim", "ideal"])
def test_a_plan_counts_right_on_other_cards(card) -> None:
    method = LORAS[1]
    assert of_shapes(planned("bert", method, card).ledger) == of_shapes(simulated("bert", method, card))


@pytest.mark.parametrize("card", ["cmo_hfox", "hfo2_neurram"])
def test_pulses_agree_where_weights_are_normal(card) -> None:
    """LoRA's matrices are not normal (A is uniform, B begins at 0), so only what is deployed is compared."""
    plan, real = planned("bert", FUSIONS[0], card).ledger, simulated("bert", FUSIONS[0], card)
    foreseen, found = sampled(plan), sampled(real)
    assert foreseen.keys() == found.keys()
    assert {key[1] for key in found} == {"deploy", "refresh"}
    for key, count in found.items():
        assert foreseen[key] == pytest.approx(count, rel=0.1), key
    for phase in ("deploy", "refresh"):
        joules = [
            fsum(fsum(j) for key, j in ledger.joules.items() if key.phase == phase and key.action in SAMPLED)
            for ledger in (plan, real)
        ]
        assert joules[0] == pytest.approx(joules[1], rel=0.1)


def test_what_is_kept_for_the_backward_pass_is_fetched_there() -> None:
    """Nothing that the loss does not depend on is computed: the pooler's output is an output, MiniLM has none."""
    for plan in (planned("bert", named("bitfit"), "cmo_hfox"), planned("t5", FUSIONS[0], "cmo_hfox")):
        kept = plan.ledger.total("activation_write_bit", matrix="rest")
        assert kept == plan.ledger.total("activation_read_bit", matrix="rest") > 0
    assert not [n for n, _ in architecture("minilm-l6").build().named_modules() if "pooler" in n]


def test_flan_t5_large() -> None:
    """The numbers of the paper: 144 linears of 1024 x 1024, rank 16, 20 modules (Guo et al. 2025)."""
    card = {"card": expected("hfo2_neurram").card, "expected": expected("hfo2_neurram")}
    fused = estimate("flan-t5-large", named("fusion"), **card)
    assert fused.weights_programmed_pool == 94_371_840
    assert fused.weights_rewritten == fused.cells_rewritten == 0
    assert fused.trainable == 148_416
    # 24 x (4 d^2 + 3 d f) in the encoder, 24 x (8 d^2 + 3 d f) in the decoder, and the head
    d, f = 1024, 2816
    assert fused.weights_programmed_base == 24 * (12 * d * d + 6 * d * f) + 32128 * d
    assert fused.ledger.total("cell_write", task=TASK) == 0
    programmed = fused.weights_programmed_base + fused.weights_programmed_pool
    assert fused.cells == fused.cells_refreshed == 2 * programmed  # a differential pair each
    per_chip = preset("hfo2_neurram").tiles.count
    assert (fused.chips_needed - 1) * per_chip < fused.tiles <= fused.chips_needed * per_chip
    assert planned("bert", FUSIONS[0], "hfo2_neurram").chips_needed == 1  # one chip that is not full
    assert 2 * programmed < fused.tiles * 256 * 256 < 2.2 * programmed
    lora = estimate("flan-t5-large", named("lora", rank=16, placement="reram_once"), **card)
    assert (lora.weights_rewritten, lora.weights_programmed_pool) == (4_718_592, 0)
    assert lora.cells_rewritten == 2 * 4_718_592
    assert lora.cells_refreshed == 2 * lora.weights_programmed_base == lora.cells - lora.cells_rewritten
    assert lora.ledger.total("cell_write", task=TASK) > 0.5 * lora.cells_rewritten
    assert lora.ledger.total("array_read", task=DEPLOY_POOL) == 0
    assert "another task's weights" in " ".join(lora.assumptions)


def test_what_vera_leaves_on_the_chip_is_written_and_calibrated_at_deployment() -> None:
    plan = planned("bert", named("vera", rank=RANK, placement="reram"), "cmo_hfox").ledger
    assert plan.total("cell_write", task=TASK, phase="deploy") > 0
    assert plan.total("cell_write", task=TASK, phase="switch") == 0
    assert plan.total("array_read", task=TASK, phase="calibrate") == 0
    assert plan.total("array_read", task=DEPLOY_METHOD, phase="calibrate", matrix="A") > 0
    over = planned("bert", named("vera", rank=RANK, placement="reram"), "cmo_hfox", fresh_cells=False).ledger
    assert over.total("verify_read", task=TASK) == plan.total("verify_read", task=TASK)  # in fresh cells
    written = planned("bert", LORAS[1], "cmo_hfox").ledger  # a task's own arrays are calibrated with the task
    assert written.total("array_read", task=TASK, phase="calibrate", matrix="A") > 0
    assert written.total("array_read", task=DEPLOY_METHOD) == 0


def test_a_task_costs_in_proportion_to_its_steps_and_tokens() -> None:
    one = planned("bert", FUSIONS[0], "cmo_hfox", steps=1, tokens=5).ledger
    many = planned("bert", FUSIONS[0], "cmo_hfox", steps=7, tokens=35).ledger
    for phase in ("forward", "backward", "update", "eval"):
        single = {k: n for k, n in one.counts.items() if k.phase == phase}
        assert single
        assert {k: n for k, n in many.counts.items() if k.phase == phase} == {
            k: 7 * n for k, n in single.items()
        }
    joules = [fsum(fsum(j) for k, j in x.joules.items() if k.phase == "eval") for x in (one, many)]
    assert joules[1] == pytest.approx(7 * joules[0], rel=1e-12)


def test_a_step_that_moves_more_weights_writes_more_cells() -> None:
    plans = [planned("bert", LORAS[2], "cmo_hfox", changed=changed) for changed in (0.0, 0.02, 0.2)]
    written = [plan.ledger.total("cell_write", task=TASK, phase="update") for plan in plans]
    assert written[0] == 0 < written[1] < written[2] < WORK.steps * plans[0].cells_rewritten


def test_the_share_that_rests_on_samples() -> None:
    plan = planned("bert", FUSIONS[0], "cmo_hfox")
    prices = preset("cmo_hfox").prices
    assert plan.sampled_share(prices, phase="deploy") > 0.5  # pulses and verify reads
    assert plan.sampled_share(prices, phase="update") == 0
    assert 0 < plan.sampled_share(prices) < 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, r"Workload\.steps: must be at least 1 \(got 0\)"),
        ({"tokens": -1}, r"Workload\.tokens: must not be negative"),
        ({"changed": 1.5}, r"Workload\.changed: must be a share"),
        ({"refresh_period": float("inf")}, r"Workload\.refresh_period: must be finite"),
    ],
)
def test_a_workload_without_meaning_is_refused(change, message) -> None:
    with pytest.raises(LoraFusionError, match=message):
        Workload(**change)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workload": Workload(length=513)}, "513 tokens, but BertModel has 512 positions"),
        ({"arch": "roberta-base", "workload": Workload(length=513)}, "513 tokens, but RobertaModel has 512"),
        ({"modules": 0}, r"estimate\.modules: must be at least 1"),
        ({"rank": 0}, r"estimate\.rank: must be at least 1"),
        ({"targets": ("valeu",)}, "targets: 'valeu' selects no linear"),
    ],
)
def test_a_question_without_meaning_is_refused(options, message) -> None:
    with pytest.raises(LoraFusionError, match=message):
        estimate(**{"arch": "bert-base", "method": named("fusion"), "card": "cmo_hfox", **options})
