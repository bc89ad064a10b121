"""VeRA (Kopiczko et al. 2024): random frozen matrices that all layers share, and two trained vectors per layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from crossbar_sim import cost
from crossbar_sim.chip import Site
from crossbar_sim.conversion import get_layer
from crossbar_sim.errors import nearest
from crossbar_sim.layers import CrossbarProduct, DigitalProduct, Size
from lorafusion.errors import LoraFusionError
from lorafusion.layers import Work
from lorafusion.methods.base import Adaptation, Context, ParameterGroup, freeze, like_weight, shape
from lorafusion.placement import numbers

PLACEMENTS = ("sram", "reram")
SHARING = ("shared", "replicated")
Shapes = dict[str, tuple[int, int]]
"""Outputs and inputs by layer."""


class VeraLinear(nn.Module):
    """y = W0 x + bias + b * (B (d * (A x))): A [r, in] and B [out, r] frozen, d [r] and b [out] trained."""

    weight = None  # as CrossbarLinear's

    def __init__(
        self,
        base: nn.Module,
        a: nn.Module,
        b: nn.Module,
        *,
        d: nn.Parameter,
        scale: nn.Parameter,
        site: Site | None,
    ) -> None:
        super().__init__()
        self.base, self.a, self.b, self.d, self.scale, self.site = base, a, b, d, scale, site
        rank, outputs = len(d), len(scale)
        self.work = Work(
            lambda vectors: cost.vera_forward(rank, outputs, vectors),
            lambda vectors: cost.vera_backward(rank, outputs, vectors),
            kept=rank + outputs,
        )

    def forward(self, x: Tensor) -> Tensor:
        """X [..., in] -> [..., out]."""
        out: Tensor = self.base(x) + self.scale * self.b(self.d * self.a(x), self._size())
        self.work.book(self.site, x, out)
        return out

    def _size(self) -> Size:
        """How large d makes the drives of B, whose DAC range follows it; on a device it is not looked at."""
        largest = self.d.detach().abs().max()
        return float(largest) if largest.is_cpu else largest


@dataclass(frozen=True)
class VeraConfig:
    """Vectors d and b per adapted layer beside one frozen random pair of matrices; no cell is written for a task.

    Attributes:
        rank: r of the random pair.
        start: of d (b starts at 0, so that nothing changes at first).
        learning_rate: Adam's.
        placement: of the frozen matrices: sram - in SRAM and digital logic; reram - on arrays, programmed once, phase `deploy`.
        sharing: shared - layers of one width take turns at one array (or one copy in SRAM), so that a token reads it once
            per layer, one layer after another; replicated - every layer has arrays of its own with the same weights.
        seed: of the random pair, which belongs to the chip and not to a task.
    """

    name: ClassVar[str] = "vera"
    needs_pool: ClassVar[bool] = False

    rank: int = 256
    start: float = 0.1
    learning_rate: float = 1e-2
    weight_decay: float = 0.0
    placement: str = "sram"
    sharing: str = "shared"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("placement", PLACEMENTS), ("sharing", SHARING)):
            value = getattr(self, name)
            if value not in known:
                raise LoraFusionError(f"vera.{name}: {value!r} is unknown{nearest(value, known)}")
        if self.rank < 1:
            raise LoraFusionError(f"vera.rank: must be at least 1 (got {self.rank})")
        if self.start == 0:
            raise LoraFusionError("vera.start: must not be 0: with b = 0 nothing would ever train; use 0.1")

    def attach(self, model: nn.Module, context: Context) -> Adaptation:
        """Draw the pair, wide enough for every layer; a narrower layer takes its first columns or rows."""
        freeze(model)
        if self.placement == "reram" and context.chip is None:
            raise LoraFusionError("vera.placement: 'reram' needs a chip; use 'sram' without one")
        shapes = {layer: shape(get_layer(model, layer)) for layer in context.layers}
        frozen = self._draw(shapes, like_weight(get_layer(model, context.layers[0]), context), context)
        adaptation = Adaptation(model, digital_words=self._words(shapes))
        trained: list[nn.Parameter] = []
        for layer, (outputs, inputs) in shapes.items():
            products = frozen.product(layer, "A", inputs), frozen.product(layer, "B", outputs)
            d = nn.Parameter(frozen.a.new_full((self.rank,), self.start))
            scale = nn.Parameter(frozen.a.new_zeros(outputs))
            base, site = get_layer(model, layer), context.site(layer, "own")
            adaptation.install(layer, VeraLinear(base, *products, d=d, scale=scale, site=site))
            trained += [d, scale]
        adaptation.groups = (ParameterGroup("vera", tuple(trained), self.learning_rate, self.weight_decay),)
        return adaptation

    def _draw(self, shapes: Shapes, like: Tensor, context: Context) -> _Frozen:
        """A and B of the widest layer, U(-sqrt(6/n), sqrt(6/n)) of n inputs (He et al. 2015), by the pair's own seed: tasks share them."""
        outputs, inputs = (max(each) for each in zip(*shapes.values(), strict=True))
        generator = torch.Generator().manual_seed(self.seed)
        a, b = like.new_empty(self.rank, inputs), like.new_empty(outputs, self.rank)
        for matrix in (a, b):
            if not matrix.is_meta:
                nn.init.kaiming_uniform_(matrix, generator=generator)
        return _Frozen(self, context, a, b)

    def _words(self, shapes: Shapes) -> int:
        """Words of digital memory that hold the frozen pair, or every layer's copy."""
        if self.placement == "reram":
            return 0
        widths = list(zip(*shapes.values(), strict=True))
        return self.rank * sum(max(each) if self.sharing == "shared" else sum(each) for each in widths)


@dataclass(frozen=True)
class _Frozen:
    """The random pair, and what multiplies with it."""

    config: VeraConfig
    context: Context
    a: Tensor
    b: Tensor

    def product(self, layer: str, matrix: str, width: int) -> CrossbarProduct | DigitalProduct:
        """What multiplies with the first `width` columns of A, or rows of B, for a layer."""
        weight = self.a[:, :width] if matrix == "A" else self.b[:width]
        if self.config.placement == "sram":
            return DigitalProduct(weight, site=self.context.site(layer, matrix))
        chip = self.context.chip
        assert chip is not None  # attach looked
        widest = f"{len(self.b)}x{self.a.shape[1]}"  # another widest layer is another pair
        pair = f"vera.{self.config.rank}.{widest}.{self.config.seed}"
        shared = self.config.sharing == "shared"
        name = f"{pair}.{matrix}.{width}" if shared else f"{layer}.{pair}.{matrix}"
        if name not in chip.arrays:  # else an earlier layer, or an earlier task, has programmed it
            with chip.ledger.scope(phase="deploy"):
                chip.program(numbers(weight), name=name, layer=pair if shared else layer, matrix=matrix)
        return CrossbarProduct(chip.arrays[name])
