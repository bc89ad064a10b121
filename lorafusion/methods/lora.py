"""LoRA (Hu et al. 2021), trained from scratch for a task, in three placements of its matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from crossbar_sim.array import ProgrammedArray
from crossbar_sim.chip import Chip
from crossbar_sim.conversion import get_layer
from crossbar_sim.cost import MASTER_BITS
from crossbar_sim.errors import nearest
from crossbar_sim.layers import CrossbarProduct, DigitalProduct
from crossbar_sim.periphery import Ranges
from lorafusion.architectures import selects
from lorafusion.errors import LoraFusionError
from lorafusion.layers import LoraLinear
from lorafusion.methods.base import Adaptation, Context, ParameterGroup, freeze

PLACEMENTS = ("sram", "reram_once", "reram_every_step")


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank matrices A [r, in] and B [out, r] per adapted layer, y = W0 x + (alpha/r) B A x.

    Attributes:
        rank, alpha: r and the numerator of the scale.
        learning_rate: Adam's.
        targets: names that the adapted layers must end with; empty: all layers of the context.
        placement: sram - A and B stay in SRAM and digital logic; reram_once - trained there, then written onto arrays
            once per task; reram_every_step - on arrays from the start, fp32 masters in digital, and the
            cells whose target level changed are rewritten after every optimiser step.
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
        if self.placement not in PLACEMENTS:
            raise LoraFusionError(
                f"lora.placement: {self.placement!r} is unknown{nearest(self.placement, PLACEMENTS)}"
            )
        if self.rank < 1:
            raise LoraFusionError(f"lora.rank: must be at least 1 (got {self.rank})")

    def attach(self, model: nn.Module, context: Context) -> Adaptation:
        """Add A (Kaiming-uniform, a = sqrt 5) and B (zero) to the adapted layers."""
        freeze(model)
        if self.placement != "sram" and context.chip is None:
            raise LoraFusionError(f"lora.placement: {self.placement!r} needs a chip; use 'sram' without one")
        adaptation = Adaptation(model)
        masters: list[nn.Parameter] = []
        wrapped: dict[str, LoraLinear] = {}
        for layer in self._layers(context):
            base = get_layer(model, layer)
            a, b = self._start(base, context.generator)
            a_product, b_product = self._products(layer, a, b, context)
            site = context.site(layer, "own")
            lora = LoraLinear(base, a_product, b_product, self.alpha / self.rank, site=site)
            adaptation.install(layer, lora)
            wrapped[layer] = lora
            masters += [a, b]
        adaptation.groups = (ParameterGroup("lora", tuple(masters), self.learning_rate, self.weight_decay),)
        if self.placement == "reram_every_step":
            adaptation.after_step = lambda: rewrite(wrapped)
        if self.placement == "reram_once" and context.chip is not None:
            chip = context.chip
            adaptation.after_training = lambda: write(wrapped, chip)
        return adaptation

    def _layers(self, context: Context) -> tuple[str, ...]:
        if not self.targets:
            return context.layers
        chosen: set[str] = set()
        for target in self.targets:
            found = {name for name in context.layers if selects(target, name)}
            if not found:
                raise LoraFusionError(
                    f"lora.targets: no adapted layer ends with {target!r}{nearest(target, context.layers)}"
                )
            chosen |= found
        return tuple(n for n in context.layers if n in chosen)

    def _start(self, base: nn.Module, generator: torch.Generator) -> tuple[nn.Parameter, nn.Parameter]:
        inputs, outputs = int(base.in_features), int(base.out_features)  # type: ignore[arg-type]
        like = next(base.parameters(), torch.empty(0))
        a = like.new_empty(self.rank, inputs)
        if a.device.type != "meta":
            nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
        return nn.Parameter(a), nn.Parameter(like.new_zeros(outputs, self.rank))

    def _products(
        self, layer: str, a: nn.Parameter, b: nn.Parameter, context: Context
    ) -> tuple[nn.Module, nn.Module]:
        if self.placement != "reram_every_step":
            sites = context.site(layer, "A"), context.site(layer, "B")
            return DigitalProduct(a, site=sites[0]), DigitalProduct(b, site=sites[1])
        assert context.chip is not None  # attach looked
        return tuple(  # type: ignore[return-value]
            CrossbarProduct(_program(context, layer, matrix, master), master=master)
            for matrix, master in (("A", a), ("B", b))
        )


def _program(context: Context, layer: str, matrix: str, master: nn.Parameter) -> ProgrammedArray:
    """An array for a matrix that trains on it: column scale and converter ranges from the pool's.

    Raises:
        LoraFusionError: there is no pool on the chip to take them from.
    """
    chip = context.chip
    pool = (context.pool or {}).get(layer)
    if chip is None or pool is None or layer not in context.pool_weights:
        raise LoraFusionError(
            "lora.placement: 'reram_every_step' takes its column scales and converter ranges from a pool; "
            "give Context.pool and Context.pool_weights"
        )
    reference = pool.a if matrix == "A" else pool.b
    stack = context.pool_weights[layer][0 if matrix == "A" else 1]
    values = master.detach().double().numpy()
    full = max(float(stack.abs().max()), float(abs(values).max()))
    ranges: Ranges | None = reference.array.ranges if isinstance(reference, CrossbarProduct) else None
    scale = torch.full((values.shape[0],), full, dtype=torch.float64).numpy()
    return chip.program(
        values, name=f"{layer}.lora.{matrix}", layer=layer, matrix=matrix, scale=scale, ranges=ranges
    )


def rewrite(layers: dict[str, LoraLinear]) -> None:
    """Bring the cells to the masters, by published pulse statistics; an outgrown column scale is doubled first."""
    for lora in layers.values():
        for product in (lora.a, lora.b):
            assert isinstance(product, CrossbarProduct)
            assert product.master is not None
            values = product.master.detach().double().numpy()
            while abs(values).max() > product.array.scale.min():
                product.array.scale = product.array.scale * 2
            product.array.site.book({"sram_read_bit": MASTER_BITS * values.size})
            product.array.reprogram(values, statistical=True, changed_only=True)


def write(layers: dict[str, LoraLinear], chip: Chip) -> None:
    """Write trained matrices onto arrays; their converters have no ranges until Chip.calibrate."""
    for name, lora in layers.items():
        for matrix in ("a", "b"):
            product = getattr(lora, matrix)
            values: Tensor = product.weight.detach().double()
            array = chip.program(
                values.numpy(), name=f"{name}.lora.{matrix.upper()}", layer=name, matrix=matrix.upper()
            )
            setattr(lora, matrix, CrossbarProduct(array))
