"""Cells end to end on the shipped model and modules, shortened: run, resume, price, show."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from crossbar_experiments import store
from crossbar_experiments.config import Cell, Experiment, parse_experiment
from crossbar_experiments.errors import BenchError
from crossbar_experiments.metrics import TASK_PHASES
from crossbar_experiments.run import Bench, identity, run_cell
from crossbar_experiments.show import show
from crossbar_sim import preset

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore")


def short(name: str = "short", **changes: Any) -> Experiment:
    data: dict[str, Any] = {
        "schema": 1,
        "name": name,
        "title": "A short run",
        "baseline": "lora",
        "pool": {"modules": ["deb-admin", "wn-noun-concrete"]},
        "data": {"train": 30, "validation": 10, "test": 24},
        "training": {"steps": 2, "batch": 4},
        "chips": {"cmo_hfox": {"preset": "cmo_hfox", "statistical": True}, "ideal": {"preset": "ideal"}},
        "methods": {
            "zero_shot": {},
            "lora": {"rank": 2},
            "lora_written": {"method": "lora", "rank": 2, "placement": "reram_once"},
            "lora_every_step": {"method": "lora", "rank": 2, "placement": "reram_every_step"},
            "fusion": {},
        },
        "grid": [
            {
                "chips": ["cmo_hfox"],
                "methods": ["zero_shot", "lora", "lora_written", "lora_every_step", "fusion"],
                "tasks": ["wn-pos"],
            }
        ],
    }
    return parse_experiment(data | changes, origin="test")


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


@pytest.fixture(scope="module")
def finished(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Experiment, store.Results]:
    root = tmp_path_factory.mktemp("runs")
    experiment = short()
    for cell in experiment.cells():
        run_cell(cell, bench, root)
    return root, experiment, store.load(root / experiment.name)


def of(results: store.Results, label: str) -> pd.Series[Any]:
    metrics = results.metrics
    return metrics[metrics["label"] == label].iloc[0]


def test_fusion_rewrites_no_cell_and_written_lora_does(finished: Any) -> None:
    _, _, results = finished
    assert of(results, "fusion")["cells_rewritten"] == 0
    assert of(results, "fusion")["write_energy_J"] == 0
    assert of(results, "lora")["cells_rewritten"] == 0
    for label in ("lora_written", "lora_every_step"):
        row = of(results, label)
        assert row["cells_rewritten"] > 0
        assert row["write_energy_J"] > 0
        assert row["write_time_s"] > 0
        assert row["worst_wear_cycles"] > row["mean_wear_cycles"] > 0


def test_pool_is_deployed_only_for_the_method_that_uses_it(finished: Any) -> None:
    _, _, results = finished
    pool = 2 * 2 * 663_552  # two modules, a pair of cells per weight
    assert of(results, "fusion")["cells_deployed"] - of(results, "lora")["cells_deployed"] == pool
    assert of(results, "fusion")["deploy_energy_J"] > of(results, "lora")["deploy_energy_J"]


def test_totals_equal_the_sum_of_their_rows(finished: Any) -> None:
    _, _, results = finished
    for cell, ledger in results.ledger.groupby("cell"):
        metrics = results.metrics.set_index("cell").loc[cell]
        own = ledger[ledger["task"] == "wn-pos"]
        assert metrics["task_energy_J"] == math.fsum(own[own["phase"] != "eval"]["energy_J"])
        assert metrics["inference_energy_J"] == math.fsum(own[own["phase"] == "eval"]["energy_J"])
        assert metrics["deploy_energy_J"] == math.fsum(ledger[ledger["task"] != "wn-pos"]["energy_J"])


def test_phases_and_parts_of_a_task_add_up(finished: Any) -> None:
    _, _, results = finished
    for cell, ledger in results.ledger.groupby("cell"):
        metrics = results.metrics.set_index("cell").loc[cell]
        own = ledger[(ledger["task"] == "wn-pos") & (ledger["phase"] != "eval")]
        phases = [float(metrics[f"{phase}_energy_J"]) for phase in TASK_PHASES]
        assert math.fsum(phases) == pytest.approx(metrics["task_energy_J"], rel=1e-15)
        for phase, joules in zip(TASK_PHASES, phases, strict=True):
            assert joules == math.fsum(own[own["phase"] == phase]["energy_J"])
        assert metrics["rest_energy_J"] == math.fsum(own[own["matrix"] == "rest"]["energy_J"])
        assert metrics["write_time_s"] == pytest.approx(
            math.fsum(own[own["action"].isin(["set_pulse", "reset_pulse", "verify_read"])]["time_s"]),
            rel=1e-12,
        )


def test_time_and_wear_of_what_is_written_and_of_what_is_not(finished: Any) -> None:
    _, _, results = finished
    endurance = preset("cmo_hfox").device.endurance
    for label in ("lora_written", "lora_every_step"):
        row = of(results, label)
        assert 0 < row["write_time_rows_s"] < row["write_time_s"] < row["task_time_s"]
        assert row["tasks_until_wear_out"] == math.floor(endurance / row["worst_wear_cycles"])
        assert math.isnan(row["refreshes_left"])
    for label in ("fusion", "lora", "zero_shot"):
        row = of(results, label)
        assert row["write_time_s"] == row["write_time_rows_s"] == row["worst_wear_cycles"] == 0
        assert row["tasks_until_wear_out"] == math.inf
    assert of(results, "fusion")["refreshes_left"] > 100
    assert of(results, "fusion")["inference_time_s"] > of(results, "lora")["inference_time_s"] * 0.9 > 0
    assert (
        of(results, "lora_every_step")["worst_wear_cycles"] > of(results, "lora_written")["worst_wear_cycles"]
    )


def test_a_frozen_pair_is_calibrated_at_deployment_and_for_every_task_alike(
    bench: Bench, tmp_path: Path
) -> None:
    method = {"method": "vera", "rank": 2, "placement": "reram"}
    grid = [{"chips": ["cmo_hfox"], "methods": ["vera"], "tasks": ["wn-pos", "wn-verb"]}]
    experiment, found = short(methods={"vera": method}, grid=grid, baseline="vera"), []
    for cell in experiment.cells():
        run_cell(cell, bench, tmp_path)
        arrays = bench.deployment(cell).chip.arrays
        frozen = [array for name, array in arrays.items() if name.startswith("vera.")]
        found.append([(a.ranges.dac, a.ranges.adc_low, a.ranges.adc_high) for a in frozen if a.ranges])
    assert found[0] == found[1]
    assert len(found[0]) == 4  # A and B, narrow and wide
    ledger = store.load(tmp_path / experiment.name).ledger
    calibrated = ledger[(ledger["phase"] == "calibrate") & ledger["matrix"].isin(["A", "B"])]
    assert set(calibrated["task"]) == {"(deploy method)"}


def test_accuracy_is_that_of_the_predictions(finished: Any) -> None:
    _, _, results = finished
    hits = (
        results.predictions.assign(hit=lambda p: p["label"] == p["predicted"]).groupby("cell")["hit"].mean()
    )
    for cell, accuracy in results.metrics.set_index("cell")["accuracy"].items():
        assert accuracy == pytest.approx(hits[cell], abs=1e-12)


def test_order_of_cells_does_not_matter(finished: Any, bench: Bench, tmp_path: Path) -> None:
    """The same cell on a chip that has served others, one with arrays of the same names, and first on a fresh one: the same bytes."""
    root, experiment, _ = finished
    (cell,) = (c for c in experiment.cells() if c.label == "lora_every_step")
    cell_id = run_cell(cell, Bench(), tmp_path)
    for name in ("ledger.csv", "predictions.csv"):
        assert (tmp_path / "short" / cell_id / name).read_bytes() == (
            root / "short" / cell_id / name
        ).read_bytes()


def test_finished_cells_are_not_run_again(finished: Any) -> None:
    root, experiment, _ = finished

    class Refuses(Bench):
        def deployment(self, cell: Cell) -> Any:
            raise AssertionError(f"ran {cell.label} again")

    for cell in experiment.cells():
        assert run_cell(cell, Refuses(), root) == identity(cell)


def test_show_prints_the_table_and_writes_the_report(
    finished: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    root, experiment, _ = finished
    show(experiment, root, command="lorafusion run short", as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert {row["label"] for row in told["table"]} == set(experiment.methods)
    page = Path(told["report"]).read_text()
    assert "fusion" in page
    assert "http" not in page.split("</style>")[0]


def test_ideal_chip_knows_no_energy(bench: Bench, tmp_path: Path) -> None:
    grid = [{"chips": ["ideal"], "methods": ["fusion"], "tasks": ["wn-pos"]}]
    (cell,) = short("ideal", grid=grid, baseline="fusion").cells()
    run_cell(cell, bench, tmp_path)
    row = of(store.load(tmp_path / "ideal"), "fusion")
    assert math.isnan(row["task_energy_J"])
    assert math.isnan(row["write_time_s"])
    assert row["cells_rewritten"] == 0
    assert row["cells_deployed"] > 0


def test_missing_model_folder_is_told(tmp_path: Path) -> None:
    (cell, *_) = short("x", model={"base": str(tmp_path)}).cells()
    with pytest.raises(BenchError, match="not a model folder"):
        run_cell(cell, Bench(), tmp_path)


CONFIG = """
schema = 1
name = "interrupted"
title = "t"
baseline = "zero_shot"
pool = { modules = ["deb-admin"] }
data = { train = 30, validation = 10, test = 24 }
training = { steps = 12, batch = 16 }
[chips.ideal]
preset = "ideal"
[methods.zero_shot]
[methods.fusion]
[[grid]]
chips = ["ideal"]
methods = ["zero_shot", "fusion"]
tasks = ["wn-pos", "wn-verb", "deb-use"]
"""


def finished_in(folder: Path) -> dict[str, int]:
    """Finished cells and when they were sealed; a folder that is still partial is none."""
    return {d.parent.name: d.stat().st_mtime_ns for d in folder.glob("*/DONE") if "." not in d.parent.name}


def test_interrupted_run_goes_on(tmp_path: Path) -> None:
    """Ctrl-C after the first finished cell; the same command then finishes the rest and keeps what was there."""
    config = tmp_path / "interrupted.toml"
    config.write_text(CONFIG)
    path = os.pathsep.join(str(ROOT / room) for room in (".", "kernels", "experiments"))
    command = [sys.executable, "-c", "from crossbar_experiments.cli import main; main()", "run", str(config)]
    options: dict[str, Any] = {
        "cwd": tmp_path, "env": os.environ | {"PYTHONPATH": path}, "text": True,
        "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
    }  # fmt: skip
    folder = tmp_path / "runs" / "interrupted"

    def listen() -> None:
        """A background job of a shell inherits a deaf ear for Ctrl-C."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(command, start_new_session=True, preexec_fn=listen, **options) as first:  # noqa: PLW1509
        for _ in range(6000):
            if finished_in(folder):
                break
            time.sleep(0.02)
        os.killpg(first.pid, signal.SIGINT)
        _, told = first.communicate(timeout=60)
    assert first.returncode == 130
    assert "the same command goes on" in told
    assert "Traceback" not in told
    kept = finished_in(folder)
    assert 0 < len(kept) < 6
    second = subprocess.run(command, check=False, timeout=300, **options)
    assert second.returncode == 0, second.stderr
    now = finished_in(folder)
    assert len(now) == 6
    assert kept.items() <= now.items()
