"""LoRA (Hu et al. 2021), trained from scratch for a task, in every placement of its matrices (lorafusion.placement)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from crossbar_sim.conversion import get_layer
from crossbar_sim.errors import nearest
from lorafusion.architectures import selects
from lorafusion.errors import LoraFusionError
from lorafusion.layers import LoraLinear
from lorafusion.methods.base import Adaptation, Context, ParameterGroup, freeze, like_weight, shape
from lorafusion.placement import Placing, Reference, Trained, check_placement, pool_reference


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank matrices A [r, in] and B [out, r] per adapted layer, y = W0 x + (alpha/r) B A x.

    Attributes:
        rank, alpha: r and the numerator of the scale.
        learning_rate: Adam's.
        targets: names that the adapted layers must end with; empty: all layers of the context.
        placement: sram - A and B stay in SRAM and digital logic; reram_once - trained there, then written onto arrays
            once per task; reram_every_step - on arrays from the start, fp32 masters in digital, and the
            cells whose target level changed are rewritten after every optimiser step; reram_every_step_dense - the same
            with every cell verified and brought to its target.
    """

    name: ClassVar[str] = "lora"
    needs_pool: ClassVar[bool] = False

    rank: int = 16
    alpha: float = 32.0
    learning_rate: float = 5e-4
    weight_decay: float = 0.0
    targets: tuple[str, ...] = ()
    placement: str = "sram"

    def __post_init__(self) -> None:
        check_placement(self.name, self.placement)
        if self.rank < 1:
            raise LoraFusionError(f"{self.name}.rank: must be at least 1 (got {self.rank})")

    def attach(self, model: nn.Module, context: Context) -> Adaptation:
        """Add A (Kaiming-uniform, a = sqrt 5) and B (zero) to the adapted layers."""
        freeze(model)
        placing = Placing(self.name, self.placement, context)
        adaptation = Adaptation(model)
        masters: list[nn.Parameter] = []
        for layer in self._layers(context):
            base = get_layer(model, layer)
            a, b = self._start(base, context)
            products = (
                placing.product(layer, *each, self._reference(context, layer, each[0]))
                for each in (("A", a), ("B", b))
            )
            lora = self._wrap(base, *products, context=context, layer=layer)
            placing.seat(lora, layer, a="A", b="B")
            adaptation.install(layer, lora)
            masters += [a, b]
        adaptation.groups = (
            ParameterGroup(self.name, tuple(masters), self.learning_rate, self.weight_decay),
        )
        placing.finish(adaptation)
        return adaptation

    def _wrap(self, base: nn.Module, a: Trained, b: Trained, *, context: Context, layer: str) -> LoraLinear:
        return LoraLinear(base, a, b, self.alpha / self.rank, site=context.site(layer, "own"))

    def _reference(self, context: Context, layer: str, matrix: str) -> Callable[[], Reference]:
        return lambda: pool_reference(self.name, context, layer, matrix)

    def _layers(self, context: Context) -> tuple[str, ...]:
        if not self.targets:
            return context.layers
        chosen: set[str] = set()
        for target in self.targets:
            found = {name for name in context.layers if selects(target, name)}
            if not found:
                raise LoraFusionError(
                    f"{self.name}.targets: no adapted layer ends with {target!r}{nearest(target, context.layers)}"
                )
            chosen |= found
        return tuple(n for n in context.layers if n in chosen)

    def _start(self, base: nn.Module, context: Context) -> tuple[nn.Parameter, nn.Parameter]:
        like, (outputs, inputs) = like_weight(base, context), shape(base)
        a = like.new_empty(self.rank, inputs)
        if not a.is_meta:
            nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=context.generator)
        return nn.Parameter(a), nn.Parameter(like.new_zeros(outputs, self.rank))
