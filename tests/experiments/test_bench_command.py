"""`lorafusion bench`: parts, machine-readable reports, the figure, and one sentence for a mistake."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest

from crossbar_experiments import bench, bench_figure, figures
from crossbar_experiments.cli import BENCHES, _guarded, app

ROOT = Path(__file__).parents[2]


def call(*arguments: str) -> int:
    return _guarded(lambda **options: app(list(arguments), **options))


def row(name, ratio, goal=None, **about):
    return {
        "name": name,
        "shape": "1x1x1",
        "ratio": ratio,
        "goal": goal,
        "plain": "sgemm" in name,
        "median_ms": 2.0,
        "min_ms": 1.0,
        "max_ms": 4.0,
        **about,
    }


@pytest.fixture
def reports():
    return {
        "mvm": {"rows": [row("numpy sgemm", 1.0), row("L0", 0.5, 0.6), row("L1", 3.0, 2.0)]},
        "layers": {"rows": [row("forward", 2.0, 1.6), {"name": "adaptation", "goal": 1.5, "met": "not run"}]},
        "peers": {"rows": [row("numpy sgemm", 1), row("torch sgemm", 2.0), row("another simulator", 40.0)]},
    }


def test_layers_are_timed_beside_plain_torch(capfd: pytest.CaptureFixture[str]) -> None:
    assert call("bench", "layers", "--quick", "--runs", "5", "--threads", "1", "--json") == 0
    report = json.loads(capfd.readouterr().out)["layers"]
    assert report["runs"] == 5
    assert report["machine"]["threads"] == "1"
    rows = report["rows"]
    names = {row["name"] for row in rows}
    assert {
        "forward, hfo2_neurram",
        "forward, hfo2_neurram, int8, no noise",
        "fusion step, hfo2_neurram",
    } <= names
    assert {row["shape"].split("x")[0] for row in rows if row["name"] == "nn.Linear"} == {"1", "32", "256"}
    steps = {row["name"]: row for row in rows if row["name"].startswith("fusion step")}
    best = min(row["median_ms"] for name, row in steps.items() if "plain torch" in name)
    assert all(row["ratio"] == pytest.approx(row["median_ms"] / best) for row in steps.values())
    assert [row["met"] for row in rows if row["name"].startswith("adaptation, fusion")] == [
        "not run (--quick)"
    ]


def test_peers_take_part_only_when_asked_for():
    assert bench.PEERS not in bench.parts_of((), peers=False)
    assert bench.parts_of((), peers=True) == list(bench.SCRIPTS)
    assert bench.parts_of(["mvm", "mvm"], peers=True) == ["mvm", "peers"]


def test_the_help_names_every_part_and_every_part_has_a_script():
    assert BENCHES.split(", ") == list(bench.SCRIPTS)
    assert all(bench.script(part).is_file() for part in bench.SCRIPTS)


def test_the_wheel_carries_the_scripts():
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    for room, package in (("kernels", "crossbar_kernels"), ("experiments", "crossbar_experiments")):
        assert f"{room}/bench" in wheel["only-include"]
        assert wheel["sources"][f"{room}/bench"] == f"{package}/_bench"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["mwm"], "did you mean 'mvm'"),
        (["wires", "--figure", "ratios.png"], "name it ratios.svg"),
        (["wires", "--runs", "4"], "--runs"),
    ],
)
def test_mistakes_are_told_before_anything_runs(arguments, told, capsys, monkeypatch):
    monkeypatch.setattr("subprocess.call", lambda *_, **__: pytest.fail("it ran"))
    assert call("bench", *arguments) == 2
    assert told in capsys.readouterr().err


def test_a_script_that_fails_is_named(capsys, monkeypatch):
    monkeypatch.setattr("subprocess.call", lambda *_, **__: 3)
    assert call("bench", "wires") == 2
    assert "wires ended with exit code 3" in capsys.readouterr().err


def test_the_figure_shows_what_has_a_goal_and_the_peers(reports):
    (ax,) = bench_figure.ratios(reports).axes
    assert [label.get_text().split("   ")[0] for label in ax.get_yticklabels()] == [
        "L0",
        "L1",
        "forward",
        "another simulator",
    ]
    assert ax.get_xscale() == "log"
    assert sorted(patch.get_width() for patch in ax.patches) == [0.5, 2.0, 3.0, 40.0]
    (goals,) = [line for line in ax.lines if line.get_label() == "goal"]
    assert list(zip(goals.get_xdata(), goals.get_ydata(), strict=True)) == [(0.6, 0), (2.0, 1), (1.6, 2)]


def test_the_figure_draws_all_ratios_where_nothing_has_a_goal(reports):
    quick = {"mvm": {"rows": [row("numpy sgemm", 1.0), row("L0", 9.0)]}}
    assert len(bench_figure.rows_drawn(quick)) == 2


def test_the_figure_is_the_same_text_every_time(reports):
    first, second = (figures.svg(bench_figure.ratios(reports)) for _ in range(2))
    assert first == second
    ElementTree.fromstring(first.replace("xlink:href", "href"))


def test_figures_of_a_report_go_between_the_marks_of_a_page(tmp_path):
    report = {"date": "2026-01-02", "runs": 5, "machine": {"cores": 2}, "notes": ["checked"]}
    report["rows"] = [row("L0", 0.5, 0.6, met="met", ratio_of_minima=0.4)]
    saved, page = tmp_path / "bench.json", tmp_path / "page.md"
    saved.write_text(json.dumps({"mvm": report}))
    page.write_text("before\n<!-- figures begin -->\nold\n<!-- figures end -->\nafter\n")
    command = [sys.executable, str(ROOT / "experiments" / "bench" / "write_page.py"), str(saved), str(page)]
    for _ in range(2):
        subprocess.run(command, check=True)
        text = page.read_text()
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| 1x1x1 | L0 | 2.000 | 1.000 to 4.000 | 0.50 | 0.40 | 0.6 | met |" in text
    page.write_text("no marks")
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_a_figure_of_parts_without_ratios_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("bench", "memory", "--quick", "--figure", str(tmp_path / "m.svg")) == 2
    assert "nothing to draw of memory" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
