"""Full fine-tuning: every weight of the adapted blocks trains, and the whole matrices are written for the task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from crossbar_sim.conversion import get_layer
from crossbar_sim.layers import CrossbarLinear, CrossbarProduct, DigitalProduct, split
from lorafusion.architectures import linears_of
from lorafusion.layers import FusedLoraLinear
from lorafusion.methods.base import Adaptation, Context, ParameterGroup, freeze, nominal_weight
from lorafusion.placement import Placing, Reference, check_placement


@dataclass(frozen=True)
class FullFinetuningConfig:
    """The matrices W [out, in] of all linears of the adapted blocks, and (`rest`) everything else that the model has.

    Attributes:
        learning_rate, weight_decay: Adam's.
        rest: whether biases, normalisation, embeddings and a head train, too; of them what sits on arrays is rewritten.
        placement: of the matrices, one of lorafusion.placement.PLACEMENTS. On ReRAM the task has arrays of its own, as many
            cells as the layers'. A matrix that trains on cells takes twice its start for column scale (per output), and the
            converter ranges of the layer's own array.
    """

    name: ClassVar[str] = "full_finetuning"
    needs_pool: ClassVar[bool] = False

    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    rest: bool = True
    placement: str = "sram"

    def __post_init__(self) -> None:
        check_placement(self.name, self.placement)

    def attach(self, model: nn.Module, context: Context) -> Adaptation:
        """Give every linear of the blocks a trained matrix of its own, from the nominal weights."""
        freeze(model)
        placing = Placing(self.name, self.placement, context)
        adaptation = Adaptation(model)
        masters = tuple(self._adapt(adaptation, layer, placing) for layer in self._layers(model, context))
        adaptation.groups = (self._group("matrices", masters),)
        if self.rest:
            taken = {id(master) for master in masters}
            rest = tuple(p for p in model.parameters() if id(p) not in taken)
            adaptation.groups += (self._group("rest", rest),)
            adaptation.restore = _restorer(rest)
        for parameter in adaptation.parameters():
            parameter.requires_grad_(True)
        placing.finish(adaptation)
        return adaptation

    def _layers(self, model: nn.Module, context: Context) -> list[str]:
        """The blocks' linears and, where everything trains, what else sits on arrays (a head)."""
        inside = set(linears_of(model, context.layers))
        return [
            name
            for name, layer in model.named_modules()
            if name in inside or (self.rest and isinstance(layer, CrossbarLinear))
        ]

    def _group(self, name: str, parameters: tuple[nn.Parameter, ...]) -> ParameterGroup:
        return ParameterGroup(name, parameters, self.learning_rate, self.weight_decay)

    def _adapt(self, adaptation: Adaptation, layer: str, placing: Placing) -> nn.Parameter:
        """The trained matrix put in the place of a layer's own."""
        base, context = get_layer(adaptation.model, layer), placing.context
        held, bias = split(base)
        weight = context.weights[layer] if layer in context.weights else nominal_weight(base)
        master = nn.Parameter(weight.clone())
        product = placing.product(layer, "base", master, lambda: _reference(held))
        tuned = FusedLoraLinear(
            product, bias, pool=None, coefficients=None, magnitude=None, site=context.site(layer, "own")
        )
        placing.seat(tuned, layer, product="base")
        adaptation.install(layer, tuned)
        return master


def _reference(held: CrossbarProduct | DigitalProduct) -> Reference:
    return Reference(ranges=held.array.ranges if isinstance(held, CrossbarProduct) else None)


def _restorer(parameters: tuple[nn.Parameter, ...]) -> Callable[[], None]:
    """What gives parameters their present values back."""
    starts = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def restore() -> None:
        for parameter, start in zip(parameters, starts, strict=True):
            parameter.copy_(start)

    return restore
