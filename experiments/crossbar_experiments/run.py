"""One cell: attach a method, train it, test it, and say what it cost."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from crossbar_experiments import store, tasks
from crossbar_experiments.assets import asset
from crossbar_experiments.chips import ChipConfig
from crossbar_experiments.config import Cell, ModelConfig, PoolConfig
from crossbar_experiments.deploy import Deployment, calibrate, deploy
from crossbar_experiments.errors import BenchError
from crossbar_experiments.metrics import costs
from crossbar_experiments.model import Tokens, minilm_folder, weights_digest
from crossbar_experiments.pool import shuffled_batches
from lorafusion.estimate import ranged_in
from lorafusion.methods import Adaptation
from lorafusion.module import LoraLibrary
from lorafusion.train import keep_state, train

EVAL_BATCH = 64
SHIPPED_POOL = "minilm-l6-r16"
Progress = Callable[[int, int, str], None]
"""Called with steps done, steps in all, and what is being done."""


def model_folder(config: ModelConfig) -> Path:
    """The base model's folder."""
    return minilm_folder() if config.base == "minilm" else Path(config.base)


@lru_cache(maxsize=2)
def load_library(config: PoolConfig) -> LoraLibrary:
    """The pool's modules.

    Raises:
        PeftFormatError: a folder that holds no adapter that can be read.
    """
    folder = asset("pool") / SHIPPED_POOL if config.folder == "shipped" else Path(config.folder)
    library = LoraLibrary.load(folder)
    return library.select(config.modules) if config.modules else library


def identity(cell: Cell) -> str:
    """The cell's id, from its description and the content of everything it names."""
    library = load_library(cell.pool)
    data = {"train": cell.data.train, "validation": cell.data.validation, "test": cell.data.test}
    digests = {
        "base": weights_digest(model_folder(cell.model)),
        "card": cell.chip.card().sha256,
        "split": tasks.digest(cell.task, seed=cell.seed, **data),
        **{f"module {m.name}": m.sha256 for m in library.modules},
    }
    return cell.identity(digests)


@dataclass
class Bench:
    """Keeps the deployed chip from one cell to the next, as long as they name the same chip."""

    _key: tuple[ChipConfig, ModelConfig, PoolConfig] | None = None
    _deployment: Deployment | None = None

    def deployment(self, cell: Cell) -> Deployment:
        """The cell's chip as it is after deployment."""
        chip = cell.chip
        key = (chip, cell.model, cell.pool)
        if self._deployment is None or self._key != key:
            self._deployment = None  # let the old chip go before the new one is made
            self._deployment = deploy(
                chip, model_folder(cell.model), load_library(cell.pool), max_tokens=cell.model.max_tokens
            )
            self._key = key
        return self._deployment


def run_cell(cell: Cell, bench: Bench, root: Path, *, progress: Progress | None = None) -> str:
    """Run a cell into its folder under `root` unless it is there already; returns its id.

    Raises:
        StoreError: the folder cannot be written.
    """
    cell_id = identity(cell)
    if store.done(root, cell.experiment, cell_id):
        return cell_id
    folder = store.begin(root, cell.experiment, cell_id, cell.description())
    try:
        started = time.perf_counter()
        outcome = adapt(cell, bench.deployment(cell), folder.log, progress or (lambda *_: None))
        outcome.metrics["wall_s"] = time.perf_counter() - started
        if outcome.state:
            folder.adapter.mkdir(exist_ok=True)
            save_file(outcome.state, folder.adapter / "state.safetensors")
        folder.finish(outcome.metrics, outcome.ledger, outcome.predictions, environment())
    except BaseException:
        folder.discard()
        raise
    return cell_id


@dataclass
class Outcome:
    """What a cell gives."""

    metrics: dict[str, Any]
    ledger: list[dict[str, Any]]
    predictions: list[dict[str, Any]]
    state: dict[str, torch.Tensor]
    """What the chip must keep to come back to the task: the trained parameters by group."""


def adapt(cell: Cell, deployment: Deployment, log: Callable[..., None], progress: Progress) -> Outcome:
    """Bring one task onto a deployed chip by one method, test it, and price what happened."""
    deployment.reset(with_pool=cell.method.needs_pool, age=cell.chip.age)
    classifier, chip = deployment.classifier, deployment.chip
    log("deployed", tiles=chip.tiles_used, chips_needed=chip.chips_needed)
    split = tasks.load(
        cell.task,
        seed=cell.seed,
        train=cell.data.train,
        validation=cell.data.validation,
        test=cell.data.test,
    )
    part: tasks.Part = "validation" if cell.data.evaluate == "validation" else "test"
    held = classifier.tokens([e.text for e in split.part(part)], split.labels(part))
    given = classifier.tokens([e.text for e in split.train], split.labels("train"))
    generator = torch.Generator().manual_seed(cell.seed)
    with chip.ledger.scope(task=cell.task, phase="switch"):
        classifier.set_classes(split.classes)
        adaptation = cell.method.attach(classifier.encoder, deployment.context(generator))
        try:
            task = ranged_in(adaptation, cell.task)
            with chip.ledger.scope(task=task):  # arrays that the method brought without ranges
                calibrate(classifier, chip, given if task == cell.task else deployment.texts or given)
            _train(cell, deployment, adaptation, given, log, progress)
            deployment.wait(cell.chip)
            predicted = _evaluate(deployment, held, progress)
            state = adaptation.state()
        finally:
            adaptation.detach()
    hits = [int(p == label) for p, label in zip(predicted, held.labels.tolist(), strict=True)]
    log("tested", accuracy=sum(hits) / len(hits))
    rows = chip.ledger.rows(chip.preset.prices)
    predictions = [
        {"index": i, "label": label, "predicted": p}
        for i, (p, label) in enumerate(zip(predicted, held.labels.tolist(), strict=True))
    ]
    metrics = {**_about(cell, deployment, adaptation), "accuracy": sum(hits) / len(hits), "n_test": len(hits)}
    spent = costs(
        deployment, rows, adaptation.arrays, task=cell.task, with_pool=cell.method.needs_pool, texts=len(held)
    )
    return Outcome({**metrics, **spent}, rows, predictions, state)


def _train(
    cell: Cell,
    deployment: Deployment,
    adaptation: Adaptation,
    given: Tokens,
    log: Callable[..., None],
    progress: Progress,
) -> None:
    """Train; then put the result where it stays: on new arrays, calibrated on the training texts, or in memory."""
    classifier, chip = deployment.classifier, deployment.chip
    batches = shuffled_batches(given, cell.training, torch.Generator().manual_seed(cell.seed))

    def on_step(step: int, loss: float) -> None:
        log("step", step=step, loss=loss)
        progress(step + 1, cell.training.steps, "training")

    train(
        adaptation,
        batches,
        lambda _, batch: classifier.loss(batch),
        training=cell.training,
        chip=chip,
        on_step=on_step,
    )
    if adaptation.after_training is not None:
        adaptation.after_training()
        calibrate(classifier, chip, given)
    keep_state(adaptation, chip)


@torch.no_grad()
def _evaluate(deployment: Deployment, held: Tokens, progress: Progress) -> list[int]:
    """Predicted classes; one read event, and every text its own rows, so that the batch size changes nothing."""
    classifier, chip = deployment.classifier, deployment.chip
    chip.next_event()
    predicted: list[int] = []
    with chip.ledger.scope(phase="eval"):
        for batch in held.batches(EVAL_BATCH):
            with chip.samples_from(len(predicted)):
                predicted += classifier(batch).argmax(1).tolist()
            progress(len(predicted), len(held), "testing")
    return predicted


def _about(cell: Cell, deployment: Deployment, adaptation: Adaptation) -> dict[str, Any]:
    """What the cell is and how large its task's state is."""
    modules = deployment.modules if cell.method.needs_pool else 0
    return {
        "experiment": cell.experiment,
        "task": cell.task,
        "stratum": tasks.task(cell.task).stratum or "",
        "chip": cell.chip_label,
        "label": cell.label,
        "method": cell.method.name,
        "placement": getattr(cell.method, "placement", "digital" if adaptation.trainable else ""),
        "backward": cell.chip.backward,
        "seed": cell.seed,
        "chip_seed": cell.chip.seed,
        "n_train": cell.data.train,
        "trainable": adaptation.trainable,
        "modules": modules,
        "modules_active": modules if adaptation.modules_active is None else adaptation.modules_active,
        "digital_words": adaptation.trainable + adaptation.digital_words,
    }


def environment() -> dict[str, str]:
    """What the numbers were made with (not part of a cell's identity)."""
    packages = ("lorafusion-reram", "torch", "numpy", "numba", "transformers")
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{p: _version(p) for p in packages},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:
        return "not installed"


def run(
    cells: list[Cell], root: Path, *, progress: Callable[[Cell], Progress] | None = None
) -> Iterator[tuple[Cell, str]]:
    """Run cells one after another, chip by chip; yields each with its id. Finished ones are not run again.

    Raises:
        BenchError: there is nothing to run.
    """
    if not cells:
        raise BenchError("run: the configuration names no cell; give it a [[grid]]")
    bench = Bench()
    for cell in cells:
        yield cell, run_cell(cell, bench, root, progress=progress(cell) if progress else None)
