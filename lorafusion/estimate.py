"""What a deployment and a task cost, from the architecture alone: the program of a simulation, run on shapes.

The model is built on the meta device, converted onto a chip without cells (crossbar_sim.plan), calibrated, adapted, trained for a
step and read for a text, by the functions that do so in a simulation; what repeats is multiplied. So every count that follows
from shapes equals the simulated one, and what depends on weights is the mean over normal ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import fsum, isfinite
from typing import Any

import torch
from torch import Tensor, nn

from crossbar_sim.array import ProgrammedArray
from crossbar_sim.conversion import convert, get_layer
from crossbar_sim.expected import Expected
from crossbar_sim.ledger import Ledger
from crossbar_sim.plan import PlannedChip
from crossbar_sim.presets import Preset
from crossbar_sim.prices import PriceTable
from crossbar_sim.pricing import sampled_joules
from crossbar_sim.shapes import QuickShapes
from lorafusion.architectures import Architecture, adapted_layers, architecture
from lorafusion.errors import LoraFusionError
from lorafusion.layers import AdapterPool, program_pool
from lorafusion.methods import Adaptation, Context, Method
from lorafusion.methods.base import freeze, nominal_weight
from lorafusion.methods.fusion import FusionConfig
from lorafusion.train import begin, end, keep_state, train_step

DEPLOY_BASE = "(deploy base)"
DEPLOY_POOL = "(deploy pool)"
DEPLOY_METHOD = "(deploy method)"
"""Calibration of arrays that a method leaves on the chip for all its tasks, as VeRA's frozen pair."""
DEPLOYMENTS = (DEPLOY_BASE, DEPLOY_POOL, DEPLOY_METHOD)
TASK = "task"
WEEK = 7 * 86400.0


@dataclass(frozen=True)
class Workload:
    """What is asked of a chip for one task.

    Attributes:
        length: tokens of a text.
        target_length: tokens that the decoder of an encoder-decoder model sees per text.
        steps, batch: optimiser steps, and texts in each.
        tokens: tokens read by the adapted model after the training; whole texts and one that is shorter.
        calibration_texts: texts that set the converters' ranges, at deployment and again where a task writes arrays.
        changed: share of a matrix's weights that move by one level between two writes of `reram_every_step` (in this project's runs
            of MiniLM on cmo_hfox about 2 %).
        refresh_period: seconds from programming to the refresh that is booked.
        fresh_cells: a task's arrays are written into cells that nothing was written to before, as in a single simulated task;
            else over another task's weights.
    """

    length: int = 64
    target_length: int = 8
    steps: int = 125
    batch: int = 16
    tokens: int = 200_000
    calibration_texts: int = 128
    changed: float = 0.02
    refresh_period: float = WEEK
    fresh_cells: bool = False

    def __post_init__(self) -> None:
        for name in ("length", "target_length", "steps", "batch", "calibration_texts"):
            if getattr(self, name) < 1:
                raise LoraFusionError(f"Workload.{name}: must be at least 1 (got {getattr(self, name)})")
        if self.tokens < 0:
            raise LoraFusionError(f"Workload.tokens: must not be negative (got {self.tokens})")
        if not 0.0 <= self.changed <= 1.0:
            raise LoraFusionError(f"Workload.changed: must be a share, 0 to 1 (got {self.changed:g})")
        if not (isfinite(self.refresh_period) and self.refresh_period >= 0):
            raise LoraFusionError(
                f"Workload.refresh_period: must be finite and not negative (got {self.refresh_period:g})"
            )


@dataclass(frozen=True)
class Estimate:
    """A deployment and one task, priced without weights.

    Attributes:
        arch, method, backward: what was asked.
        workload: what a task is.
        ledger: tasks DEPLOYMENTS and TASK, phases as in a simulation; base and pool also hold one refresh each
            (phase `refresh`) after `workload.refresh_period`, to be multiplied by how often it happens.
        weights_programmed_base, weights_programmed_pool: weights written at deployment.
        weights_rewritten: weights that a task writes onto arrays (at every step for `reram_every_step`).
        cells, tiles, chips_needed: what base, pool and the task's own arrays fill.
        cells_rewritten: cells that hold the task's own arrays.
        cells_refreshed: cells of base and pool, which the booked refresh renews.
        trainable: trained parameters.
        digital_words: these and further words of digital state.
        modules_active: modules of the pool that inference reads, on average over the layers; None: no pool, or all.
        assumptions: what the state-dependent rows rest on.
    """

    arch: str
    method: str
    backward: str
    workload: Workload
    ledger: Ledger = field(repr=False)
    weights_programmed_base: int
    weights_programmed_pool: int
    weights_rewritten: int
    cells: int
    tiles: int
    chips_needed: int
    cells_rewritten: int
    cells_refreshed: int
    trainable: int
    digital_words: int
    modules_active: float | None
    assumptions: tuple[str, ...] = field(repr=False)

    def sampled_share(self, prices: PriceTable | None, **where: str) -> float:
        """Share of the energy whose amount rests on normal weights and inputs (pricing.sampled_joules); NaN where nothing is known."""
        rows = [r for r in self.ledger.rows(prices) if all(r[k] == v for k, v in where.items())]
        total = fsum(r["energy_J"] for r in rows)
        return fsum(sampled_joules(rows, prices)) / total if total > 0 else float("nan")


def estimate(  # noqa: PLR0913 - what is asked for: an architecture, a method, a card, a workload and a pool
    arch: str,
    method: Method,
    *,
    card: Preset | str,
    workload: Workload | None = None,
    modules: int = 20,
    rank: int = 16,
    targets: tuple[str, ...] = (),
    backward: str = "transposed",
    expected: Expected | None = None,
) -> Estimate:
    """Price a deployment and one task of a named architecture.

    Args:
        arch: one of lorafusion.architectures.ARCHITECTURES.
        method: how the task is learnt.
        card: the chip's card.
        workload: what a task is.
        modules: modules of the pool.
        rank: of the pool's modules.
        targets: endings of the adapted layers' names; empty: the architecture's usual ones.
        backward: "transposed" | "nominal" | "oracle".
        expected: what writing and reading the card's arrays takes in the mean, where several estimates share it.

    Raises:
        LoraFusionError: an unknown architecture, targets that select nothing, numbers below 1, or texts too long for the model.
        ConfigError: an unknown card or backward mode.
    """
    chosen = architecture(arch)
    asked = workload or Workload()
    for name, number in (("modules", modules), ("rank", rank)):
        if number < 1:
            raise LoraFusionError(f"estimate.{name}: must be at least 1 (got {number})")
    chip = PlannedChip(card, changed=asked.changed, expected=expected, backward=backward, statistical=True)
    with QuickShapes():  # type: ignore[no-untyped-call]  # torch's base class has no types
        return estimate_on(chip, chosen, method, asked, modules=modules, rank=rank, targets=targets)


def estimate_on(
    chip: PlannedChip,
    arch: Architecture,
    method: Method,
    workload: Workload,
    *,
    modules: int,
    rank: int,
    targets: tuple[str, ...] = (),
) -> Estimate:
    """`estimate` of any architecture, on an empty planned chip."""
    plan = _Plan(chip, arch, workload, modules, rank, targets)
    every_step = getattr(method, "placement", "").startswith("reram_every_step")
    plan.deploy_base()
    if method.needs_pool or every_step:  # matrices that train on cells take their ranges from a pool
        plan.deploy_pool()
    kept = plan.base + plan.pool_arrays if method.needs_pool else plan.base
    adaptation = plan.task(method)
    plan.refresh()
    if not method.needs_pool:
        chip.ledger.drop(task=DEPLOY_POOL)
    written = [array for array in adaptation.arrays if array not in kept]
    held = [a for a in chip.arrays.values() if method.needs_pool or a not in plan.pool_arrays]
    tiles, per_chip = sum(array.placement.arrays for array in held), chip.preset.tiles.count
    return Estimate(
        arch=arch.name,
        method=method.name,
        backward=chip.backward,
        workload=workload,
        ledger=chip.ledger,
        weights_programmed_base=_weights(plan.base),
        weights_programmed_pool=_weights(plan.pool_arrays) if method.needs_pool else 0,
        weights_rewritten=_weights(written),
        cells=_cells(held),
        tiles=tiles,
        chips_needed=-(-tiles // per_chip) if per_chip else 1,
        cells_rewritten=_cells(written),
        cells_refreshed=_cells(kept),
        trainable=adaptation.trainable,
        digital_words=adaptation.trainable + adaptation.digital_words,
        modules_active=adaptation.modules_active,
        assumptions=_assumptions(workload, every_step=every_step),
    )


def _weights(arrays: list[ProgrammedArray]) -> int:
    return sum(array.placement.outputs * array.placement.inputs for array in arrays)


def _cells(arrays: list[ProgrammedArray]) -> int:
    return sum(array.placement.cells for array in arrays)


def _assumptions(workload: Workload, *, every_step: bool) -> tuple[str, ...]:
    told = [
        "weights, inputs and gradients are normal: pulses, verify reads and the cells' joules are means of sampled arrays",
        f"every text has {workload.length} tokens and no padding",
    ]
    if every_step:
        told.append(f"{workload.changed:.1%} of the trained weights move by one level at every step")
    if not workload.fresh_cells:
        told.append("a task's own arrays are written over another task's weights")
    return tuple(told)


class _Plan:
    """The simulation's program on shapes: deploy, adapt, infer, refresh."""

    def __init__(
        self,
        chip: PlannedChip,
        arch: Architecture,
        workload: Workload,
        modules: int,
        rank: int,
        targets: tuple[str, ...],
    ) -> None:
        self.chip, self.workload, self.modules, self.rank = chip, workload, modules, rank
        self.model = arch.build().eval()
        freeze(self.model)
        _check_length(self.model, workload)
        self.layers = adapted_layers(self.model, targets or arch.targets)
        self._chip_layers = arch.chip_layers(self.model)
        self.weights = {name: nominal_weight(get_layer(self.model, name)) for name in self.layers}
        self.pool: dict[str, AdapterPool] = {}
        self.stacks: dict[str, tuple[Tensor, Tensor]] = {}
        self.base: list[ProgrammedArray] = []
        self.pool_arrays: list[ProgrammedArray] = []

    def context(self) -> Context:
        """What a method is attached with."""
        generator = torch.Generator().manual_seed(0)
        return Context(self.layers, generator, self.chip, self.pool, self.weights, self.stacks)

    def deploy_base(self) -> None:
        """Program and calibrate the base model."""
        with self.chip.ledger.scope(task=DEPLOY_BASE, phase="deploy"):
            convert(self.model, self.chip, where=self._chip_layers)
            self.calibrate()
        self.base = list(self.chip.arrays.values())

    def deploy_pool(self) -> None:
        """Program the stacks and calibrate them through an unscaled fusion."""
        with self.chip.ledger.scope(task=DEPLOY_POOL, phase="deploy"):
            for layer, weight in self.weights.items():
                outputs, inputs = weight.shape
                width = self.modules * self.rank
                a, b = weight.new_empty(width, inputs), weight.new_empty(outputs, width)
                self.stacks[layer] = (a, b)
                self.pool[layer] = program_pool(self.chip, layer, a, b, modules=self.modules)
            fused = FusionConfig(magnitude="off").attach(self.model, self.context())
            self.calibrate()
            fused.detach()
        self.pool_arrays = [array for array in self.chip.arrays.values() if array not in self.base]

    @torch.no_grad()
    def calibrate(self) -> None:
        """Ranges for the arrays that have none; a chip with ideal converters needs none."""
        if self.chip.exact or all(array.ranges is not None for array in self.chip.arrays.values()):
            return
        self.chip.calibrate(self.model, [self.batch(self.workload.calibration_texts)])

    def batch(self, texts: int, length: int = 0) -> dict[str, Any]:
        """The model's arguments for texts of `length` tokens (default: the workload's)."""
        given: dict[str, Any] = {"input_ids": _ids(texts, length or self.workload.length)}
        if self.model.config.is_encoder_decoder:  # type: ignore[union-attr]
            given["decoder_input_ids"] = _ids(texts, self.workload.target_length)
        return given

    def task(self, method: Method) -> Adaptation:
        """Attach, train, keep the state, infer."""
        chip, workload = self.chip, self.workload
        chip.reused = not workload.fresh_cells
        with chip.ledger.scope(task=TASK, phase="switch"):
            adaptation = method.attach(self.model, self.context())
            with chip.ledger.scope(task=ranged_in(adaptation, TASK)):
                self.calibrate()  # arrays that the method brought without ranges
            if adaptation.trainable:
                optimiser = begin(adaptation)
                with chip.repeated(workload.steps):
                    train_step(adaptation, self._loss, optimiser, chip)
                end(adaptation, chip)
            if adaptation.after_training is not None:
                adaptation.after_training()
                self.calibrate()
            keep_state(adaptation, chip)
            chip.next_event()
            with chip.ledger.scope(phase="eval"), torch.no_grad():
                texts, rest = divmod(workload.tokens, workload.length)
                if texts:
                    with chip.repeated(texts):
                        self.model(**self.batch(1))
                if rest:
                    self.model(**self.batch(1, rest))
        return adaptation

    def _loss(self) -> Tensor:
        """A number that depends on every output of a batch: its gradient has the shape of any loss's."""
        out = self.model(**self.batch(self.workload.batch))
        read = (
            [out.logits] if "logits" in out else [each for each in out.values() if isinstance(each, Tensor)]
        )
        return torch.stack([each.mean() for each in read]).sum()

    def refresh(self) -> None:
        """Refresh base and pool once, after the workload's period."""
        self.chip.advance(self.workload.refresh_period)
        for task, arrays in ((DEPLOY_BASE, self.base), (DEPLOY_POOL, self.pool_arrays)):
            with self.chip.ledger.scope(task=task):
                for array in arrays:
                    array.refresh()


def ranged_in(adaptation: Adaptation, task: str) -> str:
    """The ledger's task that the calibration after attaching a method belongs to.

    The task itself, where it calibrates arrays of its own; DEPLOY_METHOD where the arrays serve all tasks to come.
    """
    return task if any(array.ranges is None for array in adaptation.arrays) else DEPLOY_METHOD


def _ids(texts: int, length: int) -> Tensor:
    return torch.zeros(texts, length, dtype=torch.long, device="meta")


def _check_length(model: nn.Module, workload: Workload) -> None:
    """Texts must not be longer than the model's table of positions, which RoBERTa's kind begins to use after the row of padding."""
    most: int = getattr(model.config, "max_position_embeddings", 0)
    for name, table in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(table, nn.Embedding):
            most = table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    if most and workload.length > most:
        raise LoraFusionError(
            f"Workload.length: {workload.length} tokens, but {type(model).__name__} has {most} positions"
        )
