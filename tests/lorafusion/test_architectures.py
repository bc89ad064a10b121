"""Architectures without weights: published sizes, and which layers the targets select."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lorafusion.architectures import ARCHITECTURES, adapted_layers, architecture, block_of
from lorafusion.errors import LoraFusionError

# parameters of the published checkpoints (heads included for T5 and SmolLM2), adapted linears, blocks
PUBLISHED = [
    ("flan-t5-small", 76_961_152, 48, 16),
    ("flan-t5-base", 247_577_856, 72, 24),
    ("flan-t5-large", 783_150_080, 144, 48),
    ("flan-t5-xl", 2_849_757_184, 144, 48),
    ("minilm-l6", 22_713_216 - 385 * 384, 36, 6),  # without a pooler
    ("bert-base", 109_482_240, 24, 12),
    ("roberta-base", 124_645_632, 24, 12),
    ("mpnet-base", 109_486_464, 24, 12),
    ("smollm2-135m", 134_515_008, 60, 30),
]


def test_the_table_below_covers_every_architecture() -> None:
    assert {row[0] for row in PUBLISHED} == set(ARCHITECTURES)
    assert all(ARCHITECTURES[name].name == name for name in ARCHITECTURES)


@pytest.mark.parametrize(("name", "parameters", "linears", "blocks"), PUBLISHED)
def test_sizes_are_the_published_ones_and_no_weight_is_allocated(name, parameters, linears, blocks) -> None:
    chosen = architecture(name)
    model = chosen.build()
    layers = adapted_layers(model, chosen.targets)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert (len(layers), len({block_of(layer) for layer in layers})) == (linears, blocks)


def test_lora_on_roberta_counts_what_its_paper_counts() -> None:
    model = architecture("roberta-base").build()
    layers = [model.get_submodule(name) for name in adapted_layers(model, ("query", "value"))]
    assert sum(8 * (layer.in_features + layer.out_features) for layer in layers) == 294_912


def test_the_embeddings_do_not_share_flan_t5s_head() -> None:
    model = architecture("flan-t5-small").build()
    assert model.lm_head.weight is not model.shared.weight
    assert model.config.scale_decoder_outputs is False


@pytest.mark.parametrize(("wrong", "right"), [("flan-t5-larg", "flan-t5-large"), ("minilm", "minilm-l6")])
def test_a_wrong_name_is_answered_with_the_nearest(wrong, right) -> None:
    with pytest.raises(LoraFusionError, match=rf"{wrong!r} is not known; did you mean {right!r}\?"):
        architecture(wrong)


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):
            self.layer = nn.ModuleList(
                nn.ModuleDict({"qx": nn.Linear(2, 2), "q": nn.Linear(2, 2)}) for _ in "ab"
            )
            self.norm = nn.ModuleList([nn.LayerNorm(2)])
            self.q = nn.Linear(2, 2)


def test_targets_match_at_a_dot_inside_blocks_in_model_order() -> None:
    assert adapted_layers(Toy(), ["q"]) == ("layer.0.q", "layer.1.q")
    assert adapted_layers(Toy(), ["layer.1.q", "qx"]) == ("layer.0.qx", "layer.1.qx", "layer.1.q")


def test_the_pooler_is_not_adapted() -> None:
    model = architecture("bert-base").build()
    assert model.get_submodule("pooler.dense") is not None
    layers = adapted_layers(model, ("dense",))
    assert len(layers) == 36
    assert "pooler.dense" not in layers


@pytest.mark.parametrize("targets", [["norm"], ["norm.0"], ["x"], [], "q", ["q", "nothing"]])
def test_targets_that_select_nothing_are_refused(targets) -> None:
    with pytest.raises(LoraFusionError, match="targets"):
        adapted_layers(Toy(), targets)


def test_a_misspelt_target_is_answered_with_the_nearest() -> None:
    with pytest.raises(LoraFusionError, match=r"did you mean 'attention\.self\.query'"):
        adapted_layers(architecture("minilm-l6").build(), ["attention.self.querry"])


@pytest.mark.parametrize(
    ("layer", "block"),
    [
        ("encoder.layer.3.attention.self.query", "encoder.layer.3"),
        ("decoder.block.11.layer.1.EncDecAttention.v", "decoder.block.11"),
        ("0.weight", "0"),
    ],
)
def test_block_of(layer, block) -> None:
    assert block_of(layer) == block


@pytest.mark.parametrize("layer", ["pooler.dense", "", "layer3.q"])
def test_block_of_refuses_names_without_a_block(layer) -> None:
    with pytest.raises(LoraFusionError, match="no numbered block"):
        block_of(layer)
