"""Which modules of a pool a trained task needs; the array columns and rows of the others are switched off."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crossbar_sim import cost
from crossbar_sim.chip import Site
from lorafusion.errors import LoraFusionError
from lorafusion.layers import FusedLoraLinear


@dataclass(frozen=True)
class Pruning:
    """What is negligible: all but the `keep` largest |c_i| of a coefficient vector, or every |c_i| under `threshold`; 0: nothing."""

    keep: int = 0
    threshold: float = 0.0

    @property
    def present(self) -> bool:
        """Whether anything can be switched off."""
        return bool(self.keep or self.threshold)

    def check(self, method: str) -> None:
        """Refuse what has no meaning; the text starts with the method's name.

        Raises:
            LoraFusionError: a number is negative or not finite, or both are given.
        """
        if self.keep < 0:
            raise LoraFusionError(
                f"{method}.keep: must not be negative (got {self.keep}); 0 keeps all modules"
            )
        if not (math.isfinite(self.threshold) and self.threshold >= 0):
            raise LoraFusionError(
                f"{method}.threshold: must be finite and not negative (got {self.threshold:g}); 0 keeps all modules"
            )
        if self.keep and self.threshold:
            raise LoraFusionError(
                f"{method}.threshold: {self.threshold:g} and keep {self.keep} are two rules; give one of them"
            )

    def on(self, coefficients: Tensor) -> Tensor:
        """Which of the modules [N] stay on; of equal |c_i| the first ones do.

        Without values (meta tensors) `keep` modules stay on, and every one where there is only a threshold.
        """
        if coefficients.is_meta:
            count = coefficients.numel()
            return torch.arange(count) < (self.keep or count)
        size = coefficients.detach().abs().cpu()
        if not self.keep:
            return size >= self.threshold
        on = torch.zeros(size.shape, dtype=torch.bool)
        on[torch.sort(size, descending=True, stable=True).indices[: self.keep]] = True
        return on


def prune(
    rule: Pruning,
    coefficients: Mapping[str, nn.Parameter],
    layers: Mapping[str, Sequence[FusedLoraLinear]],
    *,
    site: Site | None = None,
) -> float:
    """Set negligible coefficients to 0 and switch their modules off in every layer of the group.

    Args:
        rule: what is negligible.
        coefficients: the vector [N] of each group.
        layers: the layers that share it.
        site: where the selection is booked (crossbar_sim.cost.selection).

    Returns:
        The modules that stay on, on average over the layers.
    """
    counts = []
    for group, c in coefficients.items():
        on = rule.on(c)
        with torch.no_grad():
            c.copy_(torch.where(on.to(c.device), c, 0.0))
        for layer in layers[group]:
            layer.gate(on)
            counts.append(layer.modules_on)
        if site is not None:
            site.book(cost.selection(c.numel(), rule.keep))
    return sum(counts) / len(counts)


def opener(layers: Mapping[str, Sequence[FusedLoraLinear]]) -> Callable[[], None]:
    """What switches every module of these layers on again."""

    def restore() -> None:
        for group in layers.values():
            for layer in group:
                layer.gate(None)

    return restore
