"""Small models, pools and chips for the tests of fusion and of the methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crossbar_sim.chip import Chip
from crossbar_sim.conversion import convert
from crossbar_sim.layers import CrossbarProduct, DigitalProduct
from lorafusion.architectures import ENCODER_LINEARS, adapted_layers
from lorafusion.layers import AdapterPool
from lorafusion.methods import Context
from lorafusion.methods.base import nominal_weight
from lorafusion.methods.fusion import FusionConfig
from lorafusion.module import LoraLibrary

TEXTS, POSITIONS = 8, 6


@dataclass
class Bed:
    """A tiny encoder, in plain torch or deployed on a chip, with a pool and a separable two-class task."""

    encoder: nn.Module
    layers: tuple[str, ...]
    ids: Tensor
    mask: Tensor
    labels: Tensor
    prototypes: Tensor
    chip: Chip | None = None
    pool: dict[str, AdapterPool] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    stacks: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def context(self, **changes: Any) -> Context:
        """What a method is attached with."""
        settings = {
            "generator": torch.Generator().manual_seed(3),
            "pool": self.pool,
            "weights": self.weights,
            "pool_weights": self.stacks,
        }
        return Context(self.layers, chip=self.chip, **{**settings, **changes})

    def embed(self, first: int = 0, last: int = TEXTS) -> Tensor:
        """Mean-pooled states of some of the texts."""
        mask = self.mask[first:last]
        out = self.encoder(input_ids=self.ids[first:last], attention_mask=mask).last_hidden_state
        return (out * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    def loss(self, *_: Any) -> Tensor:
        """Cross-entropy of the cosine with fixed prototypes."""
        scores = 5 * nn.functional.normalize(self.embed(), dim=-1) @ self.prototypes.T
        return nn.functional.cross_entropy(scores, self.labels)

    @torch.no_grad()
    def calibrate(self) -> None:
        """Converter ranges from the task's own texts, for the arrays that have none."""
        if self.chip is not None and not self.chip.exact:
            self.chip.calibrate(self.encoder, [{"input_ids": self.ids, "attention_mask": self.mask}])


def _bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=40,
        max_position_embeddings=16, attn_implementation="eager",
    )  # fmt: skip
    return BertModel(config).eval()


def _random(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Seeded numbers of its own, so that no test depends on torch's global generator."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            wide = 0.2 if name.endswith("weight") and parameter.ndim == 2 else 0.05
            noise = wide * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise + 1.0 if "LayerNorm.weight" in name else noise)
    return model


def _products(bed: Bed, layer: str, a: Tensor, b: Tensor) -> tuple[nn.Module, nn.Module]:
    if bed.chip is None:
        return DigitalProduct(a), DigitalProduct(b)
    names = ((a, "A"), (b, "B"))
    return tuple(  # type: ignore[return-value]
        CrossbarProduct(bed.chip.program(w.numpy(), name=f"{layer}.pool.{m}", layer=layer, matrix=m))
        for w, m in names
    )


def make_bed(chip: Chip | None = None, *, modules: int = 3, rank: int = 2) -> Bed:
    """A bed; with a chip everything is programmed and calibrated, phase `deploy`."""
    generator = torch.Generator().manual_seed(11)
    encoder = _random(_bert(), generator)
    layers = adapted_layers(encoder, ENCODER_LINEARS)
    library = LoraLibrary.random(encoder, count=modules, rank=rank, targets=ENCODER_LINEARS)
    ids = torch.randint(0, 40, (TEXTS, POSITIONS), generator=generator)
    labels = torch.arange(TEXTS) % 2
    ids[:, 0] = 5 + labels
    mask = torch.ones(TEXTS, POSITIONS, dtype=torch.long)
    mask[1, 4:] = 0
    mask[6, 2:] = 0
    prototypes = nn.functional.normalize(torch.randn(2, 32, generator=generator), dim=-1)
    bed = Bed(encoder, layers, ids, mask, labels, prototypes, chip)
    bed.weights = {n: nominal_weight(encoder.get_submodule(n)).clone() for n in layers}
    if chip is not None:
        convert(encoder, chip, where=layers)
        bed.calibrate()
    for layer in layers:
        a, b, _ = library.stack(layer)
        bed.stacks[layer] = (0.5 * a, 0.5 * b)
        bed.pool[layer] = AdapterPool(*_products(bed, layer, 0.5 * a, 0.5 * b), modules)
    if chip is not None:
        fused = FusionConfig(magnitude="off").attach(encoder, bed.context())
        bed.calibrate()
        fused.detach()
    return bed


@pytest.fixture
def bed() -> Callable[..., Bed]:
    """The maker of beds."""
    return make_bed
