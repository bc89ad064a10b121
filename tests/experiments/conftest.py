"""Made-up results with the shape of real ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from crossbar_experiments.records import METRICS
from crossbar_experiments.store import Results

NAN = float("nan")
TASKS = (("role", "same data set"), ("verbs", "same kind"), ("topics", "unrelated"))
METHODS = {  # label: method, placement, chance to be right, trained, cells rewritten, writes J, task J
    "zero-shot": ("zero_shot", "", 0.55, 0, 0, 0.0, 0.0),
    "fusion": ("fusion", "", 0.79, 4680, 0, 0.0, 2.1e-3),
    "LoRA (SRAM)": ("lora", "sram", 0.78, 147456, 0, 0.0, 5.9e-3),
    "LoRA (ReRAM once)": ("lora", "reram_once", 0.77, 147456, 294912, 1.5e-4, 6.1e-3),
    "LoRA (ReRAM every step)": ("lora", "reram_every_step", 0.74, 147456, 9000000, 4.7e-2, 5.5e-2),
    "BitFit": ("bitfit", "", 0.72, 9216, 0, 0.0, 1.8e-3),
}


def metric(**given: Any) -> dict[str, Any]:
    """One row of metrics, with values that do not matter where none is given."""
    row: dict[str, Any] = {name: {str: "", int: 0, float: NAN}[kind] for name, kind in METRICS.items()}
    return {**row, "experiment": "e", "stratum": "unrelated", "chip": "card", "accuracy": 0.5, **given}


def ledger_rows(task: str, writes: float, energy: float) -> list[dict[str, Any]]:
    """A deployment, and a task's energy over a few phases and actions."""
    parts = [
        ("deploy", "cell_write", 1000000, 4.2e-3),
        ("switch", "cell_write", 294912, writes),
        ("forward", "adc_conversion", 5000000, 0.6 * (energy - writes)),
        ("backward", "dram_read_bit", 7000000, 0.4 * (energy - writes)),
    ]
    return [
        {"task": task, "phase": phase, "layer": "l0", "matrix": "base", "action": action, "precision": "",
         "count": count, "energy_J": joules, "time_s": 1e-3}
        for phase, action, count, joules in parts
    ]  # fmt: skip


@pytest.fixture
def make_results() -> Callable[..., Results]:
    """A function that makes Results for tasks, chips ("ideal" has no energy), labels and seeds."""

    def make(
        *,
        tasks: Sequence[tuple[str, str]] = TASKS,
        chips: Sequence[str] = ("hfo2_neurram", "ideal"),
        labels: Sequence[str] = tuple(METHODS),
        seeds: Sequence[int] = (0, 1),
        texts: int = 60,
    ) -> Results:
        metrics, ledgers, predictions = [], [], []
        for chip in chips:
            for label in labels:
                for task, stratum in tasks:
                    for seed in seeds:
                        cell = f"c{len(metrics):04d}"
                        row, texts_frame = _run(chip, label, (task, stratum), seed, texts)
                        metrics.append({"cell": cell, **row})
                        predictions.append(texts_frame.assign(cell=cell))
                        entries = pd.DataFrame(ledger_rows(task, row["write_energy_J"], row["task_energy_J"]))
                        ledgers.append(entries.assign(cell=cell))
        environments = {row["cell"]: {"python": "3.11", "torch": "2.13.0"} for row in metrics}
        frames = (pd.DataFrame(metrics), pd.concat(ledgers), pd.concat(predictions))
        return Results(*(frame.reset_index(drop=True) for frame in frames), environments)

    return make


def _run(
    chip: str, label: str, task: tuple[str, str], seed: int, texts: int
) -> tuple[dict[str, Any], pd.DataFrame]:
    method, placement, chance, trained, rewritten, writes, energy = METHODS[label]
    rng = np.random.default_rng([seed, len(task[0]), trained % 997, rewritten % 997, int(100 * chance)])
    truth = np.arange(texts) % 3
    predicted = np.where(rng.random(texts) < chance, truth, (truth + 1) % 3)
    known = NAN if chip == "ideal" else 1.0
    row = metric(
        task=task[0], stratum=task[1], chip=chip, label=label, method=method, placement=placement, seed=seed,
        chip_seed=seed, accuracy=float((truth == predicted).mean()), n_test=texts, trainable=trained,
        cells_deployed=1000000.0, cells_rewritten=float(rewritten), deploy_energy_J=4.2e-3 * known,
        write_energy_J=writes * known, task_energy_J=energy * known, write_time_s=1e-3 * known,
        switch_energy_J=writes * known, calibrate_energy_J=0.0 * known, forward_energy_J=0.6 * (energy - writes) * known,
        backward_energy_J=0.4 * (energy - writes) * known, update_energy_J=0.0 * known, rest_energy_J=0.1 * energy * known,
        write_time_rows_s=1e-5 * known, task_time_s=2e-3 * known, inference_time_s=1e-6 * known,
        mean_wear_cycles=1.5 * known, worst_wear_cycles=3.0 * known,
        tasks_until_wear_out=(33333.0 if rewritten else float("inf")) * known, refreshes_left=(23473.0 if method == "fusion" else NAN) * known,
        digital_words=0.0, assumed_share=0.4 * known, wall_s=12.0,
    )  # fmt: skip
    return row, pd.DataFrame({"index": np.arange(texts), "label": truth, "predicted": predicted})
