"""LoRA fusion: frozen modules, trained coefficients and magnitudes (LoRAFusion, GLSVLSI 2025), and its ablations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from crossbar_sim import cost
from crossbar_sim.conversion import get_layer
from crossbar_sim.errors import nearest
from crossbar_sim.layers import split
from lorafusion.architectures import block_of
from lorafusion.errors import LoraFusionError
from lorafusion.layers import MERGES, AdapterPool, FusedLoraLinear, Magnitude, Norm, gram_norm
from lorafusion.methods.base import Adaptation, Context, ParameterGroup, freeze, nominal_weight
from lorafusion.pruning import Pruning, opener, prune

GRANULARITIES = ("global", "block", "linear")
MAGNITUDES = ("off", "gain", "dora")
STARTS = ("uniform", "xavier")


@dataclass(frozen=True)
class FusionConfig:
    """Coefficients over a pool of LoRA modules, and a magnitude vector per adapted layer.

    Attributes:
        merge: sum_of_products | product_of_sums.
        granularity: one coefficient vector for the whole network, for each block or for each linear.
        magnitude: off | gain (from 1) | dora (norm detached, from the row norms of W0).
        start: coefficients from 1/N (`uniform`) or Glorot-uniform over [N, blocks] (`xavier`); never 0, which
            is a stationary point of the product of sums.
        fuse: whether the pool takes part at all (False: magnitude only).
        l1: weight of mean |c| in the loss.
        coefficient_lr, magnitude_lr: Adam's learning rates.
        keep: modules of each coefficient vector, those of largest |c|, that stay on after training; 0: all.
        threshold: |c_i| under which a module is switched off after training; 0: none.
    """

    name: ClassVar[str] = "fusion"
    needs_pool: ClassVar[bool] = True

    merge: str = "sum_of_products"
    granularity: str = "block"
    magnitude: str = "gain"
    start: str = "uniform"
    fuse: bool = True
    l1: float = 0.0
    coefficient_lr: float = 0.05
    magnitude_lr: float = 0.02
    weight_decay: float = 0.0
    keep: int = 0
    threshold: float = 0.0

    def __post_init__(self) -> None:
        for field, known in (
            ("merge", MERGES),
            ("granularity", GRANULARITIES),
            ("magnitude", MAGNITUDES),
            ("start", STARTS),
        ):
            value = getattr(self, field)
            if value not in known:
                raise LoraFusionError(
                    f"{self.name}.{field}: {value!r} is unknown{nearest(str(value), known)}"
                )
        if not self.fuse and self.magnitude == "off":
            raise LoraFusionError(f"{self.name}.fuse: false with magnitude 'off' leaves nothing to train")
        for field in ("l1", "coefficient_lr", "magnitude_lr", "weight_decay"):
            value = getattr(self, field)
            if not (math.isfinite(value) and value >= 0):
                raise LoraFusionError(f"{self.name}.{field}: must be finite and not negative (got {value:g})")
        self._pruning.check(self.name)
        if self._pruning.present and not self.fuse:
            raise LoraFusionError(
                f"{self.name}.fuse: false leaves no modules to switch off; leave keep and threshold at 0"
            )

    @property
    def _pruning(self) -> Pruning:
        return Pruning(self.keep, self.threshold)

    def attach(self, model: nn.Module, context: Context) -> Adaptation:
        """Wrap every adapted layer; train coefficients and magnitudes only."""
        freeze(model)
        pool = self._pool(context)
        coefficients = self._coefficients(context, pool)
        adaptation = Adaptation(model)
        magnitudes: list[nn.Parameter] = []
        updates: list[Callable[[], None]] = []
        wrapped: dict[str, list[FusedLoraLinear]] = {group: [] for group in coefficients}
        for layer in context.layers:
            fused, norm_books = self._wrap(model, context, layer, pool.get(layer), coefficients)
            adaptation.install(layer, fused)
            if coefficients:
                wrapped[self._group(layer)].append(fused)
            if fused.magnitude is not None:
                magnitudes.append(fused.magnitude.weight)
                adaptation.digital_words += self._norm_words(fused)
            updates.extend(norm_books)
        self._finish(adaptation, coefficients, magnitudes, updates)
        if self._pruning.present:
            self._prune_later(adaptation, coefficients, wrapped, context)
        return adaptation

    def _pool(self, context: Context) -> dict[str, AdapterPool]:
        if not self.fuse:
            return {}
        if not context.pool:
            raise LoraFusionError(f"{self.name}: needs a pool of LoRA modules; give Context.pool")
        missing = [layer for layer in context.layers if layer not in context.pool]
        if missing:
            raise LoraFusionError(f"{self.name}: the pool does not adapt layer {missing[0]!r}")
        return dict(context.pool)

    def _prune_later(
        self,
        adaptation: Adaptation,
        coefficients: dict[str, nn.Parameter],
        wrapped: dict[str, list[FusedLoraLinear]],
        context: Context,
    ) -> None:
        """Switch negligible modules off when the training is over, and all on again when the method leaves the model."""
        count = next(iter(coefficients.values())).numel()
        if self.keep > count:
            raise LoraFusionError(f"{self.name}.keep: {self.keep} modules, but the pool has {count}")
        after_step, site = adaptation.after_step, context.site("optimiser", "own")

        def switch_off() -> None:
            adaptation.modules_active = prune(self._pruning, coefficients, wrapped, site=site)
            if after_step is not None:  # the norm that goes with the coefficients that are left
                after_step()

        adaptation.prune, adaptation.restore = switch_off, opener(wrapped)

    def _coefficients(self, context: Context, pool: dict[str, AdapterPool]) -> dict[str, nn.Parameter]:
        """One parameter [N] per group of layers, by group name."""
        if not pool:
            return {}
        count = pool[context.layers[0]].modules
        groups = list(dict.fromkeys(self._group(layer) for layer in context.layers))
        if self.start == "uniform":
            start = torch.full((len(groups), count), 1.0 / count)
        else:
            bound = math.sqrt(6.0 / (count + len(groups)))
            start = (torch.rand(len(groups), count, generator=context.generator) * 2 - 1) * bound
        if context.chip is not None and context.chip.planned:
            start = start.to("meta")
        return {group: nn.Parameter(row.clone()) for group, row in zip(groups, start, strict=True)}

    def _group(self, layer: str) -> str:
        return {"global": "all", "block": block_of(layer), "linear": layer}[self.granularity]

    def _wrap(
        self,
        model: nn.Module,
        context: Context,
        layer: str,
        pool: AdapterPool | None,
        coefficients: dict[str, nn.Parameter],
    ) -> tuple[FusedLoraLinear, list[Callable[[], None]]]:
        base = get_layer(model, layer)
        product, bias = split(base, site=context.site(layer, "rest"))
        site = context.site(layer, "own")
        c = coefficients.get(self._group(layer)) if pool is not None else None
        magnitude, books = None, []
        if self.magnitude != "off":
            weight = context.weights[layer] if layer in context.weights else nominal_weight(base)
            magnitude = self._magnitude(context, layer, weight, pool)
        fused = FusedLoraLinear(
            product, bias, pool=pool, coefficients=c, magnitude=magnitude, merge=self.merge, site=site
        )
        if site is not None and self.magnitude == "dora" and pool is not None:
            shape = fused.width, fused.modules_count, product.out_features
            sums = fused.merge.product_of_sums
            books.append(
                lambda: site.book(
                    cost.norm_update(fused.width_on, fused.modules_on, shape[2], product_of_sums=sums)
                )
            )
            with site.chip.ledger.scope(phase="deploy"):
                site.book(cost.norm_setup(*shape, product.in_features, product_of_sums=sums))
        return fused, books

    def _magnitude(self, context: Context, layer: str, weight: Tensor, pool: AdapterPool | None) -> Magnitude:
        outputs = int(weight.shape[0])
        if self.magnitude == "gain":
            return Magnitude(outputs, start=weight.new_ones(outputs))
        norms = weight.norm(dim=1)
        if pool is None:
            return Magnitude(outputs, norm=lambda _: norms, start=norms)
        if layer not in context.pool_weights:
            raise LoraFusionError(
                f"FusionConfig.magnitude: 'dora' needs the pool's matrices for its norm; give Context.pool_weights (layer {layer!r})"
            )
        a, b = context.pool_weights[layer]
        norm: Norm = gram_norm(weight, a, b, pool.modules, product_of_sums=self.merge == "product_of_sums")
        return Magnitude(outputs, norm=norm, start=norms)

    def _norm_words(self, fused: FusedLoraLinear) -> int:
        if self.magnitude != "dora":
            return 0
        outputs, sums = fused.product.out_features, fused.merge.product_of_sums
        return cost.norm_words(fused.width, fused.modules_count, outputs, product_of_sums=sums)

    def _finish(
        self,
        adaptation: Adaptation,
        coefficients: dict[str, nn.Parameter],
        magnitudes: list[nn.Parameter],
        updates: list[Callable[[], None]],
    ) -> None:
        groups = []
        if coefficients:
            c = tuple(coefficients.values())
            groups.append(ParameterGroup("coefficients", c, self.coefficient_lr, self.weight_decay))
            if self.l1:
                adaptation.penalty = lambda: self.l1 * torch.cat(c).abs().mean()
        if magnitudes:
            groups.append(ParameterGroup("magnitude", tuple(magnitudes), self.magnitude_lr))
        adaptation.groups = tuple(groups)
        if updates:

            def book_norms() -> None:
                for update in updates:
                    update()

            adaptation.after_step = book_norms
            book_norms()  # the norm that the first step uses


@dataclass(frozen=True)
class PublishedFusionConfig(FusionConfig):
    """LoRAFusion as published: product of sums, DoRA norm, Glorot start, L1 0.0005, Adam 0.01 and 0.005."""

    name: ClassVar[str] = "lorafusion_published"

    merge: str = "product_of_sums"
    magnitude: str = "dora"
    start: str = "xavier"
    l1: float = 0.0005
    coefficient_lr: float = 0.01
    magnitude_lr: float = 0.005


@dataclass(frozen=True)
class CoefficientsOnlyConfig(FusionConfig):
    """Ablation: the fusion coefficients without a magnitude."""

    name: ClassVar[str] = "coefficients_only"

    magnitude: str = "off"


@dataclass(frozen=True)
class MagnitudeOnlyConfig(FusionConfig):
    """Ablation: the magnitudes without a pool."""

    name: ClassVar[str] = "magnitude_only"
    needs_pool: ClassVar[bool] = False

    fuse: bool = False
