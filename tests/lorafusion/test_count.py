"""Counts from the architecture alone, against published and hand-made numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lorafusion import count as counting
from lorafusion.architectures import architecture
from lorafusion.count import count, method
from lorafusion.errors import LoraFusionError
from lorafusion.methods.fusion import FusionConfig
from lorafusion.methods.lora import LoraConfig

T5_LINEARS, D, RANK, MODULES = 144, 1024, 16, 20
BLOCKS = 48
MINILM_OUTPUTS = 6 * (4 * 384 + 1536 + 384)


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("fusion", {"coefficients": 960, "magnitude": 147_456}),  # 148,416: Guo et al. 2025
        ("lorafusion_published", {"coefficients": 960, "magnitude": 147_456}),
        ("coefficients_only", {"coefficients": 960}),
        ("magnitude_only", {"magnitude": 147_456}),
        ("lora", {"lora": 4_718_592}),
        ("bitfit", {"bias": 0}),  # T5 has no bias
        ("zero_shot", {}),
    ],
)
def test_flan_t5_large(name, groups) -> None:
    answer = count("flan-t5-large", name, modules=MODULES, rank=RANK)
    assert answer["groups"] == groups
    assert answer["trainable"] == sum(groups.values())
    with_pool = name in ("fusion", "lorafusion_published", "coefficients_only")
    assert answer["pool_weights"] == (94_371_840 if with_pool else 0)
    assert answer["adapted_layers"] == T5_LINEARS
    assert answer["adapted_weights"] == T5_LINEARS * D * D
    assert answer["model_parameters"] == 783_150_080  # Chung et al. 2022: 780M
    assert (answer["arch"], answer["method"]) == ("flan-t5-large", name)


@pytest.mark.parametrize(
    ("name", "rank", "trainable"),
    [
        ("dora", 16, 4_718_592 + 147_456),
        ("vera", 128, T5_LINEARS * (128 + D)),
        ("vera", 4, 148_032),
        ("vera", None, 184_320),  # 256
        ("sequential_adapter", 64, 15_859_200),  # 120 places of 2 r d + r + d (Houlsby et al. 2019)
        ("parallel_adapter", 64, 6_343_680),  # 48 feed-forward parts
        ("scaled_parallel_adapter", 512, 50_405_376),
        ("full_finetuning", None, 783_150_080),
    ],
)
def test_the_rivals_on_flan_t5_large(name, rank, trainable) -> None:
    assert count("flan-t5-large", name, rank=rank)["trainable"] == trainable


def test_the_hand_formulas_of_that_table() -> None:
    """Guards the numbers above: what they are made of."""
    assert BLOCKS * MODULES == 960
    assert T5_LINEARS * D == 147_456
    assert T5_LINEARS * RANK * 2 * D == 4_718_592
    assert MODULES * 4_718_592 == 94_371_840


@pytest.mark.parametrize(
    ("name", "trainable"),
    [
        ("lora", 663_552),
        ("fusion", MINILM_OUTPUTS + 60),
        ("coefficients_only", 60),
        ("magnitude_only", 20_736),
        ("bitfit", MINILM_OUTPUTS + 6 * 2 * 384),
    ],
)
def test_minilm(name, trainable) -> None:
    assert MINILM_OUTPUTS == 20_736
    assert count("minilm-l6", name, modules=10, rank=16)["trainable"] == trainable


@pytest.mark.parametrize(("granularity", "groups"), [("global", 1), ("block", 6), ("linear", 36)])
def test_coefficients_by_granularity(granularity, groups) -> None:
    answer = count("minilm-l6", "fusion", modules=10, granularity=granularity)
    assert answer["groups"]["coefficients"] == 10 * groups


def test_digital_words_hold_the_dora_norm() -> None:
    """Product of sums: U and B (2 N r) and ||W0||^2 per output, and the Gram matrix of each linear."""
    width = MODULES * RANK
    answer = count("flan-t5-large", "lorafusion_published")
    state = T5_LINEARS * (D * (2 * width + 1) + width**2)
    assert answer["digital_words"] == answer["trainable"] + state
    plain = count("flan-t5-large", "fusion")
    assert plain["digital_words"] == plain["trainable"]


def test_settings_reach_the_method() -> None:
    assert count("minilm-l6", "lora", rank=4)["trainable"] == 663_552 // 4
    some = count("minilm-l6", "lora", rank=16, targets=("query", "value"))
    assert some["trainable"] == 12 * 16 * 2 * 384
    assert some["adapted_layers"] == 12
    assert count("minilm-l6", "fusion", modules=3, magnitude="off")["groups"] == {"coefficients": 18}
    assert method("fusion", rank=8, l1=None) == FusionConfig()  # fusion has no rank; None is not given
    assert method("lora", rank=8) == LoraConfig(rank=8)


@pytest.mark.parametrize(
    ("arch", "name", "options", "message"),
    [
        ("minilm-l6", "fusoin", {}, r"method: 'fusoin' is unknown; did you mean 'fusion'"),
        ("minilm-l8", "fusion", {}, r"architecture: 'minilm-l8' is not known; did you mean 'minilm-l6'"),
        ("minilm-l6", "lora", {"targets": ("valeu",)}, "targets: 'valeu' selects no linear"),
        ("minilm-l6", "lora", {"rank": 0}, "rank: must be at least 1"),
        ("minilm-l6", "fusion", {"modules": 0}, "must be >= 1"),
        ("minilm-l6", "fusion", {"merge": "sums"}, r"fusion\.merge: 'sums' is unknown"),
    ],
)
def test_a_wrong_question_is_refused(arch, name, options, message) -> None:
    with pytest.raises(LoraFusionError, match=message):
        count(arch, name, **options)


@pytest.mark.parametrize(
    "name", ["fusion", "lorafusion_published", "lora", "dora", "vera", "full_finetuning"]
)
def test_no_weight_is_allocated(name, monkeypatch) -> None:
    """Only the coefficients, which have no layer to live beside, are real numbers."""
    models = []
    chosen = architecture("flan-t5-large")

    def build() -> torch.nn.Module:
        models.append(chosen.build())
        return models[0]

    monkeypatch.setattr(counting, "architecture", lambda _: replace(chosen, build=build))
    count("flan-t5-large", name)
    (model,) = models
    tensors = [*model.named_parameters(), *model.named_buffers()]
    real = sum(t.numel() for _, t in tensors if t.device.type != "meta")
    assert real <= 960
    assert sum(t.numel() for _, t in tensors) > 7e8
