"""No adaptation: the deployed base model as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from lorafusion.methods.base import Adaptation, Context, freeze


@dataclass(frozen=True)
class ZeroShotConfig:
    """The base model."""

    name: ClassVar[str] = "zero_shot"
    needs_pool: ClassVar[bool] = False

    def attach(self, model: nn.Module, context: Context) -> Adaptation:
        """Train nothing."""
        del context
        freeze(model)
        return Adaptation(model)
