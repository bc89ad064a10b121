"""A deployed chip: base model and pool programmed once and calibrated, ready for any number of tasks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossbar_experiments import tasks
from crossbar_experiments.chips import ChipConfig
from crossbar_experiments.model import Classifier, Tokens, load_classifier
from crossbar_experiments.task_table import TASKS
from crossbar_sim.array import ProgrammedArray
from crossbar_sim.chip import Chip
from crossbar_sim.conversion import convert, get_layer
from crossbar_sim.layers import CrossbarProduct
from crossbar_sim.ledger import Ledger
from lorafusion.architectures import adapted_layers, architecture
from lorafusion.errors import LoraFusionError
from lorafusion.estimate import DEPLOY_BASE, DEPLOY_POOL
from lorafusion.layers import AdapterPool, program_pool
from lorafusion.methods import Context
from lorafusion.methods.base import nominal_weight
from lorafusion.methods.fusion import FusionConfig
from lorafusion.module import LoraLibrary

CALIBRATION_TEXTS = 16
"""Texts per vendored source task that set the converters' ranges."""
CALIBRATION_BATCH = 64


@dataclass
class Deployment:
    """What every cell of one chip shares. `reset` brings it back to the moment after deployment."""

    classifier: Classifier
    chip: Chip
    layers: tuple[str, ...]
    pool: dict[str, AdapterPool]
    weights: dict[str, Tensor]
    pool_weights: dict[str, tuple[Tensor, Tensor]]
    modules: int
    arrays: dict[str, ProgrammedArray] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    compensations: dict[str, Any] = field(default_factory=dict)
    """Factors against drift, by array, as they were after deployment."""
    texts: Tokens | None = None
    """Of the source tasks, which set the converters' ranges; those of later arrays too that serve every task."""

    def context(self, generator: torch.Generator) -> Context:
        """What a method is attached with."""
        return Context(self.layers, generator, self.chip, self.pool, self.weights, self.pool_weights)

    def reset(self, *, with_pool: bool, age: float) -> None:
        """Back to the moment after deployment, `age` s later; the ledger keeps what this deployment needed.

        Args:
            with_pool: whether the pool's programming and calibration count (a method without a pool has none).
            age: seconds since deployment.
        """
        chip = self.chip
        chip.arrays = dict(self.arrays)
        chip.forget()  # a task that ran before left its cells there
        for name, factors in self.compensations.items():
            self.arrays[name].compensation = factors
        chip.time, chip.event = age, 0
        chip.ledger = self.ledger.copy()
        if not with_pool:
            chip.ledger.drop(task=DEPLOY_POOL)

    def wait(self, config: ChipConfig) -> None:
        """Let time pass between the training and the test, where the configuration asks for it."""
        if config.evaluate_age is not None:
            self.chip.advance(config.evaluate_age - self.chip.time)
            self.chip.compensate(config.compensation)

    def kept(self, *, with_pool: bool) -> list[ProgrammedArray]:
        """The arrays of the base model, and of the pool."""
        pool = self.pool_names()
        return [array for name, array in self.arrays.items() if with_pool or name not in pool]

    def pool_names(self) -> set[str]:
        """Names of the pool's arrays."""
        products = [p for pool in self.pool.values() for p in (pool.a, pool.b)]
        return {p.array.name for p in products if isinstance(p, CrossbarProduct)}

    def cells(self, *, with_pool: bool) -> int:
        """Cells in use after deployment."""
        return sum(array.placement.cells for array in self.kept(with_pool=with_pool))

    def tiles(self, *, with_pool: bool) -> int:
        """Tiles (physical arrays) in use after deployment."""
        return sum(array.placement.arrays for array in self.kept(with_pool=with_pool))


def deploy(config: ChipConfig, folder: Path, library: LoraLibrary, *, max_tokens: int) -> Deployment:
    """Program the base model's linears and the pool's stacks onto a new chip and calibrate the converters.

    Raises:
        ConfigError, MappingError, ModuleMismatchError: card, model or modules that do not fit together.
    """
    classifier = load_classifier(folder, max_tokens=max_tokens)
    encoder = classifier.encoder
    library.check(encoder)
    shape = architecture("minilm-l6")
    layers = tuple(n for n in adapted_layers(encoder, shape.targets) if n in library.layers)
    weights = {name: nominal_weight(get_layer(encoder, name)).clone() for name in layers}
    chip = classifier.chip = make_chip(config)
    texts = calibration_texts(classifier)
    with chip.ledger.scope(task=DEPLOY_BASE, phase="deploy"):
        convert(encoder, chip, where=shape.chip_layers(encoder))
        calibrate(classifier, chip, texts)
    deployment = Deployment(classifier, chip, layers, {}, weights, {}, len(library.modules), texts=texts)
    with chip.ledger.scope(task=DEPLOY_POOL, phase="deploy"):
        _program_pool(deployment, library)
        fused = FusionConfig(magnitude="off").attach(encoder, deployment.context(torch.Generator()))
        calibrate(classifier, chip, texts)
        fused.detach()
    deployment.arrays = dict(chip.arrays)
    if config.age:
        _grow_old(deployment, config)
    deployment.ledger = chip.ledger.copy()
    deployment.compensations = {name: array.compensation for name, array in chip.arrays.items()}
    return deployment


def _grow_old(deployment: Deployment, config: ChipConfig) -> None:
    """Let the deployed chip age; then refresh and compensate what is asked for, base and pool booked apart."""
    chip, pool = deployment.chip, deployment.pool_names()
    chip.advance(config.age)
    for name, array in deployment.arrays.items():
        with chip.ledger.scope(task=DEPLOY_POOL if name in pool else DEPLOY_BASE):
            if config.refresh:
                array.refresh()
            array.compensate(config.compensation)


def make_chip(config: ChipConfig) -> Chip:
    """An empty chip."""
    return Chip(
        config.card(),
        backend=config.backend,
        seed=config.seed,
        grid=config.grid,
        statistical=config.statistical,
        backward=config.backward,
        ir_drop=config.ir_drop,
    )


def _program_pool(deployment: Deployment, library: LoraLibrary) -> None:
    chip = deployment.chip
    for layer in deployment.layers:
        a, b, ranks = library.stack(layer)
        if len(set(ranks)) > 1:  # the layers split N r evenly
            raise LoraFusionError(f"pool: fusion needs modules of one rank (got {ranks} in layer {layer!r})")
        deployment.pool_weights[layer] = (a, b)
        modules = len(library.modules)
        deployment.pool[layer] = program_pool(chip, layer, a, b, modules=modules)


def calibration_texts(classifier: Classifier) -> Tokens:
    """A few training texts of every vendored source task."""
    names = [name for name, t in TASKS.items() if t.role == "source" and t.vendored]
    texts = [example.text for name in names for example in tasks.texts(name)[:CALIBRATION_TEXTS]]
    return classifier.tokens(texts)


@torch.no_grad()
def calibrate(classifier: Classifier, chip: Chip, tokens: Tokens) -> None:
    """Set the ranges of every array that has none; a chip with ideal converters needs none."""
    if chip.exact or all(array.ranges is not None for array in chip.arrays.values()):
        return
    batches = ({"tokens": batch} for batch in tokens.batches(CALIBRATION_BATCH))
    chip.calibrate(classifier.embed, batches)
