"""DoRA (Liu et al. 2024): LoRA for the direction of the weights, and a trained magnitude per output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from crossbar_sim import cost
from crossbar_sim.chip import Site
from crossbar_sim.layers import book_bias, split
from lorafusion.layers import LoraLinear, Magnitude, Work
from lorafusion.methods.base import Adaptation, Context, ParameterGroup, nominal_weight
from lorafusion.methods.lora import LoraConfig
from lorafusion.placement import Trained


class DoraLinear(LoraLinear):
    """y = (m / n) (W0 x + s B A x) + bias with n_o = ||W0_o + s B_o A||, detached (Liu et al. 2024, section 4.3).

    n is exact for the nominal W0 and the masters of A and B, not for what cells hold; it is evaluated anew when these moved.

    Args:
        base: the layer's own linear, on an array or not.
        a, b: products with A [r, in] and B [out, r].
        scale: s.
        magnitude: m, and n as a function of the flat masters (`row_norms`).
        masters: A and B as they train.
        site: the ledger's address of the digital work.
    """

    def __init__(
        self,
        base: nn.Module,
        a: nn.Module,
        b: nn.Module,
        scale: float,
        *,
        magnitude: Magnitude,
        masters: tuple[Tensor, Tensor],
        site: Site | None = None,
    ) -> None:
        super().__init__(base, a, b, scale, site=site)
        rest = None if site is None else Site(site.chip, site.layer, "rest")
        self.base, self.bias = split(base, site=rest)
        self.magnitude, self.masters = magnitude, masters
        (rank, inputs), outputs = masters[0].shape, len(masters[1])
        self.outputs, self.inputs, self.rank = outputs, inputs, rank
        self.work = Work(
            lambda v: {**cost.magnitude_forward(outputs, v), "digital_add": outputs * v},
            lambda v: cost.magnitude_backward(outputs, v),
            kept=outputs,
        )

    def forward(self, x: Tensor) -> Tensor:
        """X [..., in] -> [..., out]."""
        z = self.base(x) + self.scale * self.b(self.a(x))
        norm = self.magnitude.norms(torch.cat([matrix.detach().flatten() for matrix in self.masters]))
        assert norm is not None  # DoraConfig gave one
        y: Tensor = z * (self.magnitude.weight / norm).to(z.dtype)
        self.work.book(self.site, x, y)
        if self.bias is None:
            return y
        out = y + self.bias
        if self.site is not None:
            book_bias(self.site, self.bias, out)
        return out


def row_norms(weight: Tensor, rank: int, scale: float) -> Callable[[Tensor | None], Tensor]:
    """The norm n as a function of A [r, n] and B [m, r], laid out one after the other; no [m, n] temporary is formed.

    n_o^2 = ||W0_o||^2 + 2 s B_o . U_o + s^2 B_o G B_o^T with U = W0 A^T and G = A A^T.
    """
    outputs, inputs = weight.shape
    squares = weight.square().sum(1)

    def norm(masters: Tensor | None) -> Tensor:
        assert masters is not None
        flat = masters.to(weight.dtype)
        a = flat[: rank * inputs].view(rank, inputs)
        b = scale * flat[rank * inputs :].view(outputs, rank)
        squared = squares + 2 * (b * (weight @ a.T)).sum(1) + ((b @ (a @ a.T)) * b).sum(1)
        return squared.clamp_min(0).sqrt()

    return norm


@dataclass(frozen=True)
class DoraConfig(LoraConfig):
    """LoRA's matrices, in LoRA's placements, and a magnitude per output in digital registers, from ||W0_o||.

    Attributes:
        magnitude_lr: Adam's learning rate of the magnitudes.
    """

    name: ClassVar[str] = "dora"

    magnitude_lr: float = 5e-3

    def attach(self, model: nn.Module, context: Context) -> Adaptation:
        """LoRA's layers with a magnitude; the norm is booked at the start and after every step."""
        adaptation = super().attach(model, context)
        layers = [model.get_submodule(name) for name in adaptation.replaced]
        wrapped = [layer for layer in layers if isinstance(layer, DoraLinear)]
        magnitudes = tuple(layer.magnitude.weight for layer in wrapped)
        adaptation.groups += (ParameterGroup("magnitude", magnitudes, self.magnitude_lr),)
        # W0 itself, which the norm is computed from, and ||W0_o||^2
        adaptation.digital_words += sum(layer.outputs * (layer.inputs + 1) for layer in wrapped)
        rewrite = adaptation.after_step

        def after_step() -> None:
            if rewrite is not None:
                rewrite()
            _book_norms(wrapped)

        adaptation.after_step = after_step
        if context.chip is not None:
            with context.chip.ledger.scope(phase="deploy"):
                for layer in wrapped:
                    _book(layer, cost.dora_setup(layer.outputs, layer.inputs))
        _book_norms(wrapped)  # the norm that the first step uses
        return adaptation

    def _wrap(self, base: nn.Module, a: Trained, b: Trained, *, context: Context, layer: str) -> LoraLinear:
        weight = context.weights[layer] if layer in context.weights else nominal_weight(base)
        assert a.matrix is not None
        assert b.matrix is not None
        scale = self.alpha / self.rank
        norm = row_norms(weight, self.rank, scale)
        return DoraLinear(
            base,
            a,
            b,
            scale,
            magnitude=Magnitude(len(weight), norm=norm, start=weight.norm(dim=1)),
            masters=(a.matrix, b.matrix),
            site=context.site(layer, "own"),
        )


def _book_norms(layers: list[DoraLinear]) -> None:
    for layer in layers:
        _book(layer, cost.dora_norm(layer.outputs, layer.inputs, layer.rank))


def _book(layer: DoraLinear, counts: cost.Counts) -> None:
    if layer.site is not None:
        layer.site.book(counts)
