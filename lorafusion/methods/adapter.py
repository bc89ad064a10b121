"""Bottleneck adapters: after a sub-layer (Houlsby et al. 2019, Pfeiffer et al. 2021) or beside it (He et al. 2022)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from crossbar_sim import cost
from crossbar_sim.chip import Site
from crossbar_sim.conversion import get_layer
from crossbar_sim.errors import nearest
from lorafusion.architectures import Sublayer, sublayers_of
from lorafusion.errors import LoraFusionError
from lorafusion.layers import Work
from lorafusion.methods.base import Adaptation, Context, ParameterGroup, freeze, like_weight, shape
from lorafusion.placement import HEADROOM, Placing, Reference, check_placement

PLACES = ("both", "attention", "feed_forward")
STARTS = ("normal", "lora")
DEVIATION = 0.02
"""Of the near-identity start (BERT's, Devlin et al. 2019)."""


class Bottleneck(nn.Module):
    """s (W_up relu(W_down x + b_down) + b_up), W_down [r, n] and W_up [m, r] products, the biases digital."""

    def __init__(
        self, a: nn.Module, b: nn.Module, *, down: nn.Parameter, up: nn.Parameter, scale: float
    ) -> None:
        super().__init__()
        self.a, self.b, self.down, self.up, self.scale = a, b, down, up, scale

    def forward(self, x: Tensor) -> Tensor:
        """X [..., n] -> [..., m]."""
        hidden = torch.relu(self.a(x) + self.down)
        out: Tensor = self.scale * (self.b(hidden) + self.up)
        return out


class AdapterLinear(nn.Module):
    """The last linear of a sub-layer with an adapter: h + f(h) of its output h, or h + f(x) of the sub-layer's input x.

    Args:
        base: the linear.
        adapter: f.
        tap: what remembers x; None: the adapter follows h.
        site: the ledger's address of the digital work.
    """

    weight = None  # as CrossbarLinear's

    def __init__(
        self, base: nn.Module, adapter: Bottleneck, *, tap: Tap | None = None, site: Site | None = None
    ) -> None:
        super().__init__()
        self.base, self.adapter, self.site = base, adapter, site
        self._seen = None if tap is None else tap.seen
        width, outputs = len(adapter.down), len(adapter.up)
        self.work = Work(
            lambda vectors: cost.bottleneck_forward(width, outputs, vectors),
            lambda vectors: cost.bottleneck_backward(width, outputs, vectors),
        )

    def forward(self, x: Tensor) -> Tensor:
        """X [..., in] -> [..., out]."""
        h: Tensor = self.base(x)
        taken = h if self._seen is None else self._seen.pop()
        out: Tensor = h + self.adapter(taken)
        self.work.book(self.site, taken, out)
        return out


class Tap(nn.Module):
    """A linear that remembers its input until the adapter beside its sub-layer takes it."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """X [..., in] -> [..., out]."""
        self.seen[:] = [x]
        out: Tensor = self.base(x)
        return out


@dataclass(frozen=True)
class SequentialAdapterConfig:
    """h + W_up relu(W_down h + b_down) + b_up on the outputs h of sub-layers, before the residual sum.

    Attributes:
        rank: width r of the bottleneck.
        places: both - after attention and feed-forward parts (Houlsby); feed_forward (as Pfeiffer), attention - after one kind.
        scale: s, which multiplies the adapter's output.
        start: normal - both matrices from a normal distribution of deviation 0.02; lora - Kaiming-uniform and zero. Biases 0.
        learning_rate: Adam's.
        placement: of W_down (matrix A in the ledger) and W_up (B), one of lorafusion.placement.PLACEMENTS. A matrix that
            trains on cells takes its column scale from its start, and its converter ranges from a calibration after `attach`.
    """

    name: ClassVar[str] = "sequential_adapter"
    needs_pool: ClassVar[bool] = False
    parallel: ClassVar[bool] = False

    rank: int = 64
    places: str = "both"
    scale: float = 1.0
    start: str = "normal"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    placement: str = "sram"

    def __post_init__(self) -> None:
        check_placement(self.name, self.placement)
        for name, known in (("places", PLACES), ("start", STARTS)):
            value = getattr(self, name)
            if value not in known:
                raise LoraFusionError(f"{self.name}.{name}: {value!r} is unknown{nearest(value, known)}")
        if self.rank < 1:
            raise LoraFusionError(f"{self.name}.rank: must be at least 1 (got {self.rank})")
        if self.parallel and self.places != "feed_forward":
            raise LoraFusionError(
                f"{self.name}.places: an adapter beside an attention part is not there (got {self.places!r}); use 'feed_forward'"
            )

    def attach(self, model: nn.Module, context: Context) -> Adaptation:
        """Put an adapter on every chosen sub-layer of the blocks that hold the context's layers."""
        freeze(model)
        placing = Placing(self.name, self.placement, context)
        adaptation = Adaptation(model)
        parameters: list[nn.Parameter] = []
        for part in sublayers_of(model, context.layers):
            if self.places in ("both", "attention" if part.first is None else "feed_forward"):
                parameters += self._adapt(adaptation, part, placing)
        adaptation.groups = (
            ParameterGroup("adapter", tuple(parameters), self.learning_rate, self.weight_decay),
        )
        placing.finish(adaptation)
        return adaptation

    def _adapt(self, adaptation: Adaptation, part: Sublayer, placing: Placing) -> list[nn.Parameter]:
        """The trained parameters of the adapter put on one sub-layer."""
        model, context, layer = adaptation.model, placing.context, part.last
        base, tap = get_layer(model, layer), None
        outputs, inputs = shape(base)[0], shape(base)[0]
        if self.parallel:
            assert part.first is not None  # only feed-forward parts are taken
            tap = Tap(get_layer(model, part.first))
            inputs = shape(tap.base)[1]
            adaptation.install(part.first, tap)
        masters = self._start(like_weight(base, context), outputs, inputs, context.generator)
        down, up = (nn.Parameter(w.new_zeros(len(w))) for w in masters)
        products = (
            placing.product(layer, matrix, master, lambda: self._reference(masters))
            for matrix, master in zip("AB", masters, strict=True)
        )
        adapter = Bottleneck(*products, down=down, up=up, scale=self.scale)
        placing.seat(adapter, layer, a="A", b="B")
        adaptation.install(layer, AdapterLinear(base, adapter, tap=tap, site=context.site(layer, "own")))
        return [*masters, down, up]

    def _start(
        self, like: Tensor, outputs: int, inputs: int, generator: torch.Generator
    ) -> tuple[nn.Parameter, nn.Parameter]:
        """W_down [r, n] and W_up [m, r]."""
        down, up = like.new_empty(self.rank, inputs), like.new_zeros(outputs, self.rank)
        if not down.is_meta:
            if self.start == "lora":
                nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
            else:
                for matrix in (down, up):
                    nn.init.normal_(matrix, std=DEVIATION, generator=generator)
        return nn.Parameter(down), nn.Parameter(up)

    def _reference(self, masters: tuple[nn.Parameter, nn.Parameter]) -> Reference:
        """One scale for both matrices, as W_up may start at 0."""
        if masters[0].is_meta:
            return Reference()
        return Reference(HEADROOM * max(float(master.detach().abs().max()) for master in masters))


@dataclass(frozen=True)
class ParallelAdapterConfig(SequentialAdapterConfig):
    """h + s (W_up relu(W_down x + b_down) + b_up) with the feed-forward part's input x and output h (He et al. 2022)."""

    name: ClassVar[str] = "parallel_adapter"
    parallel: ClassVar[bool] = True

    places: str = "feed_forward"


@dataclass(frozen=True)
class ScaledParallelAdapterConfig(ParallelAdapterConfig):
    """The parallel adapter with a scale and LoRA's start (He et al. 2022: s = 4, r = 512)."""

    name: ClassVar[str] = "scaled_parallel_adapter"

    rank: int = 512
    scale: float = 4.0
    start: str = "lora"
