"""The command: answers, machine-readable answers, and one sentence for a user's mistake."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from crossbar_experiments.cli import SHIPPED, _guarded, app
from crossbar_experiments.config import configs


def call(*arguments: str) -> int:
    return _guarded(lambda **options: app(list(arguments), **options))


def test_counts_of_the_paper(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--arch", "flan-t5-large", "--modules", "20", "--rank", "16", "--json"]
    assert call("count", "--method", "fusion", *options) == 0
    assert json.loads(capsys.readouterr().out)["trainable"] == 148_416
    assert call("count", "--method", "lora", *options) == 0
    assert json.loads(capsys.readouterr().out)["trainable"] == 4_718_592


def test_presets_are_listed_and_shown_with_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("presets", "list", "--json") == 0
    names = json.loads(capsys.readouterr().out)
    assert {"ideal", "hfo2_neurram", "cmo_hfox"} <= set(names)
    assert call("presets", "show", "cmo_hfox", "--json") == 0
    entries = json.loads(capsys.readouterr().out)
    assert all(e["source"] and e["mark"] in ("published", "derived", "assumed") for e in entries)


def test_names_of_cards_stand_in_a_column(capsys: pytest.CaptureFixture[str]) -> None:
    from crossbar_sim.presets import preset, presets

    assert call("presets", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    starts = {line.index(preset(name).title) for name, line in zip(presets(), lines, strict=True)}
    assert starts == {max(map(len, presets())) + 2}


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out.split() == ["lorafusion-reram", version("lorafusion-reram")]


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["status"], "runs/NAME"),
        (["compare"], "runs/NAME"),
        (["ablation"], "runs/NAME"),
        (["report"], "runs/NAME"),
        (["export"], "runs/NAME"),
        (["run"], "demo_quick"),
        (["presets", "show"], "my_cells.toml"),
        (["modules", "inspect"], "PEFT folder"),
    ],
)
def test_help_says_what_each_argument_is(
    command: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*command, "--help") == 0
    assert told in capsys.readouterr().out


def test_the_help_names_every_shipped_configuration() -> None:
    assert SHIPPED.split(", ") == configs()


def test_modules_are_inspected(capsys: pytest.CaptureFixture[str]) -> None:
    from crossbar_experiments.assets import asset

    assert call("modules", "inspect", str(asset("pool") / "minilm-l6-r16"), "--json") == 0
    modules = json.loads(capsys.readouterr().out)
    assert len(modules) >= 10
    assert all(m["parameters"] == 663_552 and m["ranks"] == [16] for m in modules)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["presets", "show", "cmo_hfx"], "did you mean 'cmo_hfox'"),
        (["count", "--arch", "flan-t5-lrge", "--method", "lora"], "did you mean 'flan-t5-large'"),
        (["count", "--arch", "flan-t5-large", "--method", "fusoin"], "did you mean 'fusion'"),
        (["run", "dmo"], "did you mean 'demo'"),
        (["modules", "inspect", "nowhere"], "nowhere"),
        (["compare", "nowhere"], "nowhere"),
        (["run", "/none/x.toml"], "have: ablation, demo"),
        (["status", "/none/x"], "run the experiment first, or give the folder of a run (runs/NAME)"),
        (["dem"], "demo"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error


def test_read_only_folder_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocked = tmp_path / "runs"
    blocked.write_text("a file where a folder should be")
    assert call("demo", "--quick", "--runs", str(blocked), "--workers", "1") == 2
    assert str(blocked) in capsys.readouterr().err
