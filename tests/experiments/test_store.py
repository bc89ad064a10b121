"""Run folders survive kills, races, rot and full disks, and give back what was put in."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tomllib

import pytest

from crossbar_experiments import store
from crossbar_experiments.records import METRICS
from crossbar_experiments.store import StoreError

LEDGER = {
    "task": "t",
    "phase": "forward",
    "layer": "l",
    "matrix": "base",
    "action": "array_read",
    "precision": "",
}
PREDICTIONS = [{"index": 0, "label": 1, "predicted": 1}, {"index": 1, "label": 0, "predicted": 1}]
DEAD = 4_000_000  # above the kernel's largest pid


def metric(**given):
    return {**{name: "" if kind is str else 0 for name, kind in METRICS.items()}, **given}


def finish(folder, **given):
    rows = [{**LEDGER, "count": 7, "energy_J": 0.1 + 0.2, "time_s": 1e-300}]
    return folder.finish(metric(task="t", **given), rows, PREDICTIONS, {"python": "3.11"})


def begin(root, cell="c1"):
    return store.begin(root, "exp", cell, {"task": "t", "seed": 3})


def test_a_finished_cell_comes_back_bit_for_bit(tmp_path):
    folder = begin(tmp_path)
    folder.log("step", loss=0.5)
    (folder.adapter / "w.bin").write_bytes(b"\0\1")
    final = finish(folder, accuracy=1 / 3, seed=3, label='a, "b"\nNA', stratum="NA", write_energy_J=None)
    assert final == tmp_path / "exp" / "c1"
    assert not folder.path.exists()
    assert store.done(tmp_path, "exp", "c1")
    assert tomllib.loads((final / "cell.toml").read_text()) == {"task": "t", "seed": 3}
    assert json.loads((final / "log.jsonl").read_text()) == {"event": "step", "loss": 0.5}
    results = store.load(tmp_path / "exp")
    row = results.metrics.iloc[0]
    assert (row["cell"], row["accuracy"], row["seed"]) == ("c1", 1 / 3, 3)
    assert (row["label"], row["stratum"]) == ('a, "b"\nNA', "NA")
    assert math.isnan(row["write_energy_J"])
    assert results.ledger.iloc[0]["energy_J"] == 0.1 + 0.2
    assert results.ledger.iloc[0]["time_s"] == 1e-300
    assert list(results.predictions["predicted"]) == [1, 1]
    assert results.environments == {"c1": {"python": "3.11"}}


def test_columns_have_a_fixed_order(tmp_path):
    final = finish(begin(tmp_path))
    assert (final / "ledger.csv").read_text().splitlines()[0] == (
        "task,phase,layer,matrix,action,precision,count,energy_J,time_s"
    )
    assert (final / "predictions.csv").read_text() == "index,label,predicted\n0,1,1\n1,0,1\n"


def test_nothing_is_done_before_finish_and_done_seals_every_file(tmp_path):
    folder = begin(tmp_path)
    assert not store.done(tmp_path, "exp", "c1")
    assert not (tmp_path / "exp" / "c1").exists()
    final = finish(folder)
    sealed = set(json.loads((final / "DONE").read_text())["sha256"])
    assert sealed == {p.relative_to(final).as_posix() for p in final.rglob("*") if p.is_file()} - {"DONE"}


def test_done_is_the_last_file_written(tmp_path, monkeypatch):
    seen = []

    def rename(path, final):
        seen.append(max(path.iterdir(), key=lambda p: p.stat().st_mtime_ns).name)
        assert store.is_sealed(path)

    monkeypatch.setattr(store, "_move_into_place", rename)
    finish(begin(tmp_path))
    assert seen == ["DONE"]


@pytest.mark.parametrize("name", ["metrics.csv", "adapter/w.bin", "log.jsonl", "DONE"])
@pytest.mark.parametrize("harm", ["change", "remove"])
def test_a_changed_or_missing_file_is_noticed_and_the_cell_redone(tmp_path, name, harm):
    folder = begin(tmp_path)
    (folder.adapter / "w.bin").write_bytes(b"\0\1")
    final = finish(folder)
    if harm == "remove":
        (final / name).unlink()
    else:
        (final / name).write_bytes(b"rot" + (final / name).read_bytes())
    assert not store.done(tmp_path, "exp", "c1")
    with pytest.raises(StoreError, match="no finished cell"):
        store.load(tmp_path / "exp")
    finish(begin(tmp_path, "c2"))
    assert store.load(tmp_path / "exp").rejected == ("c1",)
    finish(begin(tmp_path))
    assert store.done(tmp_path, "exp", "c1")
    assert (tmp_path / "exp" / "c1.corrupt-0").is_dir()
    results = store.load(tmp_path / "exp")
    assert list(results.metrics["cell"]) == ["c1", "c2"]
    assert results.rejected == ()


KILLED = """
import os, signal, sys
from crossbar_experiments import store
folder = store.begin(sys.argv[1], "exp", "c1", {})
(folder.adapter / "w.bin").write_bytes(bytes(1000))
def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(store, sys.argv[2], kill)
folder.finish({"experiment": "e", **{n: "" for n in ("task", "stratum", "chip", "label", "method", "placement",
    "backward")}, **{n: 0 for n in ("seed", "chip_seed", "n_test", "n_train", "trainable", "modules")}}, [], [], {})
"""


@pytest.mark.parametrize("moment", ["_seal", "_sha256", "_move_into_place"])
def test_a_kill_leaves_no_result_and_the_next_run_clears_up(tmp_path, moment):
    path = os.pathsep.join(p for p in sys.path if p)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), moment],
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert [p.name.split("-")[0] for p in (tmp_path / "exp").iterdir()] == ["c1.partial"]
    assert not store.done(tmp_path, "exp", "c1")
    finish(begin(tmp_path))
    assert [p.name for p in (tmp_path / "exp").iterdir()] == ["c1"]


def test_only_the_partials_of_dead_processes_and_of_this_cell_go(tmp_path):
    living, dead, other = f"c1.partial-{os.getppid()}", f"c1.partial-{DEAD}", f"c10.partial-{DEAD}"
    for name in (living, dead, other):
        (tmp_path / "exp" / name).mkdir(parents=True)
    finish(begin(tmp_path))
    assert {p.name for p in (tmp_path / "exp").iterdir()} == {"c1", living, other}
    assert list(store.load(tmp_path / "exp").metrics["cell"]) == ["c1"]


def test_of_two_processes_the_first_to_finish_stays(tmp_path):
    ours = begin(tmp_path)
    theirs = store.CellFolder(ours.path.with_name("c1.partial-1"), ours.final)
    theirs.adapter.mkdir(parents=True)
    for name in ("cell.toml", "log.jsonl"):
        (theirs.path / name).touch()
    finish(theirs, accuracy=0.25)
    finish(ours, accuracy=0.75)
    assert [p.name for p in (tmp_path / "exp").iterdir()] == ["c1"]
    assert store.load(tmp_path / "exp").metrics["accuracy"].item() == 0.25


def test_a_failed_cell_can_be_discarded(tmp_path):
    folder = begin(tmp_path)
    folder.discard()
    assert list((tmp_path / "exp").iterdir()) == []


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "a b", "a\n", "ü", "c.partial-1", "c.corrupt-0"]
)
def test_names_that_are_no_folder_names_are_refused(tmp_path, name):
    with pytest.raises(StoreError, match=r"^cell: .* is no folder name"):
        store.begin(tmp_path, "exp", name, {})
    with pytest.raises(StoreError, match=r"^experiment: "):
        store.done(tmp_path, name, "c1")
    assert list(tmp_path.iterdir()) == []


def test_rows_that_do_not_fit_are_refused(tmp_path):
    folder = begin(tmp_path)
    with pytest.raises(StoreError, match=r"^metrics.acuracy: unknown column; did you mean 'accuracy'"):
        finish(folder, acuracy=0.5)
    with pytest.raises(StoreError, match=r"^metrics.seed: must be a number of kind int \(got 0.5\)"):
        finish(folder, seed=0.5)
    with pytest.raises(StoreError, match=r"^ledger.task: is missing"):
        folder.finish(metric(), [{"phase": "forward"}], [], {})
    with pytest.raises(StoreError, match=r"^cell.toml: "):
        store.begin(tmp_path, "exp", "c2", {"nothing": None})


def test_a_disk_that_refuses_is_one_clear_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"^begin: cannot write .*\(Not a directory\); free space"):
        begin(tmp_path / "file")
    folder = begin(tmp_path)

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(StoreError, match=r"^finish: cannot write .*c1.partial-\d+ \(No space left") as caught:
        finish(folder)
    assert "\n" not in str(caught.value)
    assert not store.done(tmp_path, "exp", "c1")


def test_a_missing_folder_is_answered_with_the_nearest(tmp_path):
    finish(begin(tmp_path))
    with pytest.raises(StoreError, match="did you mean 'exp'"):
        store.load(tmp_path / "exq")


def test_folders_that_hold_no_cells_are_not_offered(tmp_path):
    (tmp_path / "someone" / "elses").mkdir(parents=True)
    (tmp_path / "a_file").touch()
    with pytest.raises(StoreError, match="run the experiment first") as caught:
        store.load(tmp_path / "someon")
    assert "'someone'" not in str(caught.value)
    finish(begin(tmp_path))
    with pytest.raises(StoreError, match=r"\(have: exp\)$"):
        store.load(tmp_path / "someon")
    with pytest.raises(StoreError, match="run the experiment first"):
        store.load(tmp_path / "no" / "such" / "parent")


def test_the_folder_of_all_runs_is_answered_with_those_in_it(tmp_path):
    finish(begin(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match=f"in it: {tmp_path / 'exp'}$"):
        store.load(tmp_path)
    with pytest.raises(StoreError, match=r"run the experiment first$"):
        store.load(tmp_path / "empty")


def test_the_package_imports_none_of_the_heavy_libraries():
    heavy = ("pandas", "matplotlib", "jinja2", "scipy", "rich", "numba", "torch")
    modules = "store, tables, figures, report, style, paired, records"
    code = f"import sys; from crossbar_experiments import {modules}; print([m for m in {heavy} if m in sys.modules])"
    path = os.pathsep.join(p for p in sys.path if p)
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == "[]"
