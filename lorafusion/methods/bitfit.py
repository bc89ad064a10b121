"""BitFit (Ben Zaken et al. 2022): train the biases, nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from lorafusion.architectures import block_of
from lorafusion.methods.base import Adaptation, Context, ParameterGroup, freeze


@dataclass(frozen=True)
class BitfitConfig:
    """All bias vectors of the adapted blocks' linear and normalisation layers; they are digital on a chip."""

    name: ClassVar[str] = "bitfit"
    needs_pool: ClassVar[bool] = False

    learning_rate: float = 1e-3
    weight_decay: float = 0.0

    def attach(self, model: nn.Module, context: Context) -> Adaptation:
        """Let every bias of the numbered blocks train."""
        freeze(model)
        blocks = {block_of(layer) + "." for layer in context.layers}
        biases = tuple(
            parameter
            for name, parameter in model.named_parameters()
            if name.endswith(".bias") and any(name.startswith(block) for block in blocks)
        )
        for bias in biases:
            bias.requires_grad_(True)
        starts = [bias.detach().clone() for bias in biases]

        def restore() -> None:
            for bias, start in zip(biases, starts, strict=True):
                bias.data.copy_(start)

        return Adaptation(
            model,
            groups=(ParameterGroup("bias", biases, self.learning_rate, self.weight_decay),),
            restore=restore,
        )
