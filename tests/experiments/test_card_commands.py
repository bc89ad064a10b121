"""The presets commands: numbers with units, figures, and cards from measurements."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from pathlib import Path

import numpy as np
import pytest

from crossbar_experiments import figures
from crossbar_experiments.card_figures import card_figure, counted_sigma, response
from crossbar_experiments.cli import _guarded, app
from crossbar_experiments.errors import BenchError
from crossbar_experiments.outputs import writing
from crossbar_experiments.show import card_text
from crossbar_sim.card_file import SECTIONS
from crossbar_sim.presets import preset, presets


def call(*arguments: str) -> int:
    return _guarded(lambda **options: app(list(arguments), **options))


@pytest.fixture
def readings(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    lines = ["target_uS,time_s,measured_uS"]
    for time, sigma in ((1, 1.0), (3600, 2.0)):
        lines += [
            f"{g},{time},{g + sigma * draw.standard_normal():.4f}" for g in (20, 30, 40) for _ in range(50)
        ]
    path = tmp_path / "cells.csv"
    path.write_text("\n".join(lines))
    return path


def test_every_number_is_shown_with_unit_mark_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("presets", "show", "agasi_neurosim") == 0
    text = capsys.readouterr().out
    assert all(path in text for path in preset("agasi_neurosim").provenance)
    line = next(line for line in text.splitlines() if line.startswith("open_loop.set_width"))
    assert "0.0003 s" in line
    assert "published" in line
    assert "Chen" in line
    assert call("presets", "show", "agasi_neurosim", "--json") == 0
    entries = {e["entry"]: e for e in json.loads(capsys.readouterr().out)}
    assert entries["wires.r_wl"]["unit"] == "ohm"
    assert (entries["wires.r_wl"]["low"], entries["wires.r_wl"]["high"]) == (0.15, 1.0)


@pytest.mark.parametrize("name", presets())
def test_no_entry_of_a_card_is_hidden(name: str) -> None:
    *listed, last = card_text(name).splitlines()
    start = "Entries not listed have their defaults: "
    assert last.startswith(start)
    card, rest = preset(name), f", {last.removeprefix(start)},"
    for section, kind in SECTIONS.items():
        for entry in fields(kind):
            path = f"{section}.{entry.name}"
            stated = any(line.split()[0] == path for line in listed[1:])
            default = f", {path} " in rest or f", no {section}," in rest
            assert stated != default, path
            if f", {path} " in rest:
                default_value = entry.default if entry.default is not MISSING else None
                assert getattr(getattr(card, section), entry.name) == default_value
    assert (", no prices," in rest) == (card.prices is None)


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("nowhere/x", "no folder nowhere; make it first"),
        ("taken", "taken{} is a folder; give the name of a file"),
        ("x.bmp", "x.bmp: only {} is written; name it x{}"),
    ],
)
def test_a_place_that_cannot_be_written_is_told_before_the_work(
    place: str,
    told: str,
    readings: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(readings.parent)
    for option, suffix, command in (
        ("plot", ".svg", ("presets", "show", "ideal")),
        ("out", ".toml", ("presets", "fit", "cells.csv")),
    ):
        Path(f"taken{suffix}").mkdir()
        path = place if place.endswith(".bmp") else place + suffix
        assert call(*command, f"--{option}", path) == 2
        said = capsys.readouterr()
        assert said.err == f"error: {option}: {told.replace('{}', suffix)}\n"
        assert said.out == ""


def test_what_the_disk_refuses_is_told(tmp_path: Path) -> None:
    file = tmp_path / "a file"
    file.touch()
    with (
        pytest.raises(BenchError, match=r"^out: cannot write .*a file.* \(Not a directory\)"),
        writing("out", file / "x.csv"),
    ):
        (file / "x.csv").write_text("")


def test_a_card_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "card.svg"
    assert call("presets", "show", "hfo2_neurram", "--plot", str(out), "--json") == 0
    assert json.loads(capsys.readouterr().out)
    text = out.read_text(encoding="utf-8")
    assert text.startswith("<svg")
    assert "Pulse response" in text


@pytest.mark.parametrize("name", presets())
def test_every_card_can_be_drawn(name: str) -> None:
    panels = card_figure(preset(name)).axes
    assert len(panels) == 3
    assert all(panel.lines or panel.texts for panel in panels)
    assert "<svg" in figures.svg(card_figure(preset(name)))


def test_the_drawn_response_is_the_cards_law() -> None:
    card = preset("hfo2_neurram")
    assert card.programming is not None
    law, start = card.programming, card.device.fresh
    first = response(law, start, upward=True)[:3]
    a = law.set_rate * np.exp(np.arange(2) * law.voltage_step / law.slope)
    one = start + (law.top - start) * a[0] / (1 + a[0])
    two = one + (law.top - one) * a[1] / (1 + a[1])
    assert first == pytest.approx([start, one, two])


def test_the_drawn_error_of_counted_pulses_is_that_of_cells() -> None:
    card, draw = preset("hfo2_array_optimised"), np.random.default_rng(5)
    assert card.open_loop is not None
    law = card.open_loop
    g = np.full(20_000, card.device.fresh)
    curve = response(law, card.device.fresh, upward=True)
    for _ in range(10):
        g += law.set_rate * (law.top - g) * (1 + law.cycle_spread * draw.standard_normal(g.size))
    found = np.hypot(g.std(), law.write_noise)
    assert counted_sigma(law, card.device.fresh, curve[10:11])[0] == pytest.approx(found, rel=0.03)


def test_measurements_become_a_card(
    readings: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(readings.parent)
    assert call("presets", "fit", "cells.csv", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["time_s"] for row in found["times"]] == [1, 3600]
    assert [row["readings"] for row in found["times"]] == [150, 150]
    assert preset("cells.toml").name == "cells"
    assert call("presets", "fit", "cells.csv", "--name", "mine", "--out", "other.toml") == 0
    assert "mine: measured, the rest as in ideal -> other.toml" in capsys.readouterr().out
    assert call("presets", "show", "other.toml") == 0
    assert "relaxation.sigma" in capsys.readouterr().out


def test_mistakes_in_measurements_are_one_sentence(
    readings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readings.write_text(readings.read_text().replace("target_uS", "target"))
    assert call("presets", "fit", str(readings)) == 2
    assert "unknown column 'target'; did you mean 'target_uS'" in capsys.readouterr().err
    assert not (readings.parent / "cells.toml").exists()
