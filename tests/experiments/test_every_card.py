"""The main job on every shipped card: deploy, train fusion for a few steps, test, price; at its ages and with its remedies."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from crossbar_experiments import store
from crossbar_experiments.config import parse_experiment
from crossbar_experiments.run import Bench, run_cell
from crossbar_sim.presets import preset, presets

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
DAY = 86400.0


def adapted(root: Path, chip: dict[str, Any], method: str = "fusion", **options: Any) -> store.Results:
    """A few steps of a method on one chip, with two modules and 24 test texts."""
    experiment = parse_experiment(
        {
            "schema": 1, "name": "short", "title": "t", "baseline": method,
            "pool": {"modules": ["deb-admin", "wn-noun-concrete"]},
            "data": {"train": 30, "validation": 10, "test": 24},
            "training": {"steps": 2, "batch": 4},
            "chips": {"one": {"statistical": True, **chip}},
            "methods": {method: options},
            "grid": [{"chips": ["one"], "methods": [method], "tasks": ["wn-pos"]}],
        },
        origin="test",
    )  # fmt: skip
    (cell,) = experiment.cells()
    run_cell(cell, Bench(), root)
    return store.load(root / "short")


def row(results: store.Results) -> pd.Series[Any]:
    return results.metrics.iloc[0]


@pytest.mark.parametrize("name", presets())
def test_fusion_runs_on_every_card(name: str, tmp_path: Path) -> None:
    found = row(adapted(tmp_path, {"preset": name}))
    assert 0.0 <= found["accuracy"] <= 1.0
    assert found["cells_rewritten"] == 0
    assert found["tiles_deployed"] > 0
    count = preset(name).tiles.count
    assert found["chips_needed"] == (math.ceil(found["tiles_deployed"] / count) if count else 1)
    priced = preset(name).prices is not None
    assert math.isnan(found["task_energy_J"]) != priced
    if priced:
        assert found["deploy_energy_J"] > 0
        assert found["inference_energy_J"] > 0


def test_a_refresh_is_booked_with_the_deployment(tmp_path: Path) -> None:
    aged = {"preset": "hfo2_neurram", "age": DAY}
    plain = adapted(tmp_path / "a", aged)
    refreshed = adapted(tmp_path / "b", aged | {"refresh": True})
    phases = refreshed.ledger[refreshed.ledger["phase"] == "refresh"]
    assert set(phases["task"]) == {"(deploy base)", "(deploy pool)"}
    assert phases[phases["action"] == "verify_read"]["count"].sum() > 0
    assert row(refreshed)["deploy_energy_J"] > row(plain)["deploy_energy_J"]


def test_time_between_training_and_test_changes_the_answer_and_costs_nothing(tmp_path: Path) -> None:
    soon = adapted(tmp_path / "a", {"preset": "hfo2_neurram"})
    late = adapted(tmp_path / "b", {"preset": "hfo2_neurram", "evaluate_age": DAY})
    assert row(late)["task_energy_J"] == pytest.approx(row(soon)["task_energy_J"], rel=1e-12)
    energies = [row(r)["inference_energy_J"] for r in (soon, late)]
    assert energies[0] != energies[1]  # the cells have other conductances by then


def test_four_copies_take_four_times_the_cells(tmp_path: Path) -> None:
    one = adapted(tmp_path / "a", {"preset": "cmo_hfox"}, "zero_shot")
    four = adapted(tmp_path / "b", {"preset": "cmo_hfox", "set": {"mapping.copies": 4}}, "zero_shot")
    assert row(four)["cells_deployed"] == 4 * row(one)["cells_deployed"]
    assert row(four)["deploy_energy_J"] > 3 * row(one)["deploy_energy_J"]
