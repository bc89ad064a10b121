"""The bench scripts run, time against a baseline of the same run, and refuse to time wrong results."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[2] / "kernels" / "bench"
LEVELS = [
    *(f"L0 {grid}, {kind}" for grid in ("int8", "int15") for kind in ("no noise", "fixed noise", "exact variance")),
    *(f"L1 {planes}, {kind}" for planes in ("8 x 1 bit", "4 x 2 bit") for kind in ("fixed noise", "exact variance")),
    *(f"L2 4 x 2 bit x 8 planes, {kind}" for kind in ("no noise", "fixed noise")),
    "L3 IR drop, int15, fixed noise",
]  # fmt: skip
BASELINES = {"numpy sgemm", "torch sgemm"}


@pytest.fixture(scope="module")
def common() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_common", BENCH / "common.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(
    script: str, *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH / script), "--quick", "--threads", "1", *arguments]
    return subprocess.run(
        command, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> dict:
    saved = tmp_path_factory.mktemp("bench") / "mvm.json"
    held_back = {"OPENBLAS_CORETYPE": "Prescott", "OMP_WAIT_POLICY": "passive"}
    done = run("bench_mvm.py", "--runs", "5", "--json", "--save", str(saved), environment=held_back)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(saved.read_text())
    return json.loads(done.stdout)


def test_every_level_is_timed(products):
    shapes = list(dict.fromkeys(row["shape"] for row in products["rows"]))
    first = [row["name"] for row in products["rows"] if row["shape"] == shapes[0]]
    assert set(LEVELS) <= set(first)
    single = {row["name"] for row in products["rows"] if row["shape"] == shapes[1]}
    assert {name for name in LEVELS if name.startswith("L0")} <= single


def test_ratios_are_to_the_best_baseline_of_the_same_run(products):
    for shape in {row["shape"] for row in products["rows"]}:
        rows = {row["name"]: row for row in products["rows"] if row["shape"] == shape}
        best = min(rows[name]["median_ms"] for name in BASELINES)
        for row in rows.values():
            assert row["baseline"] in BASELINES
            assert row["ratio"] == pytest.approx(row["median_ms"] / best)
            assert row["min_ms"] <= row["median_ms"] <= row["max_ms"]


def test_what_holds_baselines_back_is_removed(products):
    assert "Prescott" not in products["machine"]["blas"]
    assert products["machine"]["threads"] == "1"
    assert products["machine"]["processor"]


def test_a_bench_of_wrong_results_stops(tmp_path):
    """A backend whose products are off in a late digit is found before anything is timed."""
    spoilt = f"""
import sys
sys.path.insert(0, {str(BENCH)!r})
sys.argv = ["bench_mvm.py", "--quick", "--runs", "5", "--backend", "reference"]
import common
common.os.execve = lambda *_: None
import bench_mvm
right = bench_mvm.get_kernels("reference")
class Wrong:
    def __getattr__(self, name): return getattr(right, name)
    def mvm(self, *a, out, **k):
        right.mvm(*a, out=out, **k)
        out[-1, -1] += 1
bench_mvm.contenders(bench_mvm.QUICK[1], Wrong())
"""
    path = tmp_path / "spoilt.py"
    path.write_text(spoilt)
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "differs from the reference by up to 1" in done.stderr


def test_wires_are_compared_with_a_sparse_factorisation():
    done = run("bench_wires.py", "--runs", "5", "--json", "--tiles", "2")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert {row["name"] for row in rows} == {"one", "each of many", "sparse LU"}
    assert all(row["largest_difference"] < 1e-8 for row in rows)


def test_memory_counts_what_a_prepared_matrix_holds():
    done = run("bench_memory.py", "--case", "numpy sgemm")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bytes_per_weight"] == 4.0
    exact = json.loads(run("bench_memory.py", "--case", "L0 int8, exact variance").stdout)
    fixed = json.loads(run("bench_memory.py", "--case", "L0 int8, fixed noise").stdout)
    assert exact["bytes_per_weight"] > fixed["bytes_per_weight"] >= 1.0
    assert exact["scratch_MiB"] >= exact["kept_MiB"] >= 0.0


def test_peers_that_are_not_there_are_told():
    done = run("bench_peers.py", "--runs", "5", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    for name in ("aihwkit-lightning", "aihwkit, torch tile", "CrossSim, no noise"):
        found = [row for row in report["rows"] if row["name"] == name]
        assert found
        assert found[0]["met"] == "not installed" or found[0]["ratio"] > 0


def test_fewer_than_five_runs_are_refused():
    done = run("bench_mvm.py", "--runs", "4")
    assert done.returncode == 2
    assert "--runs: must be at least 5 (got 4)" in done.stderr


def test_contenders_take_turns(common):
    calls = []
    work = {name: lambda name=name: calls.append(name) for name in "ab"}
    common.MOST_CALLS = 1
    seconds = common.interleaved(work, runs=5, at_most={"b": 2})
    assert [len(seconds[name]) for name in "ab"] == [5, 2]
    assert calls == ["a", "a", *"aab", *"aab", *"aa", *"aa", *"aa"]


def test_goals_are_judged_with_their_tolerance_and_never_on_disturbed_times(common):
    steady = {"plain": [1.0, 1.0, 1.0], "near": [1.09] * 3, "far": [1.3] * 3}
    rows = {row["name"]: row for row in common.ratios(steady, ["plain"], {"near": 1.0, "far": 1.0})}
    assert [rows[name]["met"] for name in steady] == ["", "met", "missed by 30 %"]
    stalled = common.ratios({"plain": [1.0, 2.0, 2.0], "own": [1.0] * 3}, ["plain"], {"own": 1.0})
    assert stalled[1]["met"] == "disturbed"
    shaken = common.ratios({"plain": [1.0] * 3, "own": [0.5, 2.0, 2.0]}, ["plain"], {"own": 1.0})
    assert shaken[1]["met"] == "disturbed"


def test_baselines_are_timed_on_one_thread_too(common):
    import torch

    seen = []
    plain = {"plain": lambda: seen.append(torch.get_num_threads())}
    assert list(common.also_alone(plain, 1)) == ["plain"]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        work = common.also_alone(plain, 2)
        seconds = common.interleaved(work, runs=5)
        assert set(seen) == {1, 2}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    rows = common.ratios(seconds, ["plain"], {})
    assert {row["baseline"] for row in rows} <= {"plain", "plain, one thread"}


def test_long_work_that_is_best_on_one_thread_was_stalled_on_more(common):
    seconds = {"plain": [0.016] * 5, "plain, one thread": [0.005] * 5, "own": [0.004] * 5}
    rows = {row["name"]: row for row in common.ratios(seconds, ["plain"], {"own": 0.9})}
    assert rows["own"]["ratio"] == pytest.approx(0.8)
    assert rows["own"]["met"] == "disturbed"


def test_spread_is_median_and_extremes_in_ms(common):
    assert common.spread([0.004, 0.001, 0.002]) == pytest.approx({"median_ms": 2, "min_ms": 1, "max_ms": 4})
    assert common.spread([0.004, 0.001])["median_ms"] == pytest.approx(2.5)


def test_tables_leave_out_what_is_missing(common):
    rows = [{"name": "a", "x": 1.234}, {"name": "long"}]
    assert common.table(rows, (("name", "case", ""), ("x", "x", ".1f"))) == "case    x\na     1.2\nlong"
