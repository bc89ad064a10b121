"""`lorafusion cost`: finished runs under other prices, and architectures priced without running anything."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from math import fsum
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from crossbar_experiments import costs, store
from crossbar_experiments.cli import _guarded, app
from crossbar_experiments.costs import COMPONENTS, component_of, cost_frame, part_of
from crossbar_experiments.records import METRICS
from crossbar_experiments.tables import MISSING
from crossbar_sim import Chip, preset
from crossbar_sim.chip import Site
from crossbar_sim.ledger import ACTIONS, MATRICES
from crossbar_sim.periphery import Ranges
from crossbar_sim.pricing import Pricing

CARD = "cmo_hfox"
SVG = "{http://www.w3.org/2000/svg}"


def call(*arguments: str) -> int:
    return _guarded(lambda **options: app(list(arguments), **options))


def booked() -> tuple[Chip, Any]:
    """A small chip that deployed a matrix, learnt a task with one write and some reads, and was asked once."""
    rng = np.random.default_rng(0)
    chip = Chip(CARD, statistical=True)
    ranges = Ranges(1.0, -8.0, 8.0)
    with chip.ledger.scope(task="(deploy base)", phase="deploy"):
        base = chip.program(rng.normal(size=(4, 6)), name="l.base", layer="l", ranges=ranges)
    with chip.ledger.scope(task="t", phase="switch"):
        own = chip.program(rng.normal(size=(3, 6)), name="l.own", layer="l", matrix="A", ranges=ranges)
        own.mvm(rng.uniform(-1, 1, size=(2, 6)))  # reads under the address of the writes
    with chip.ledger.scope(task="t", phase="forward"):
        base.mvm(rng.uniform(-1, 1, size=(5, 6)))
        Site(chip, "l", "rest").book({"digital_mul": 100, "activation_write_bit": 640})
    with chip.ledger.scope(task="t", phase="eval"):
        base.mvm(rng.uniform(-1, 1, size=(3, 6)))
    return chip, own


def filled(
    folder: Path, *, label: str = "lora", cell: str = "c0", seed: int = 0, worn: float = 2.5
) -> list[dict[str, Any]]:
    """A sealed cell whose ledger is that of `booked`; its rows."""
    chip, _ = booked()
    rows = chip.ledger.rows(chip.preset.prices)
    row: dict[str, Any] = {
        name: {str: "", int: 0, float: float("nan")}[kind] for name, kind in METRICS.items()
    }
    row |= {"experiment": "e", "task": "t", "chip": CARD, "label": label, "method": "lora", "n_test": 3}
    row |= {"backward": "transposed", "worst_wear_cycles": worn, "seed": seed}
    work = store.begin(folder, "e", cell, {"chip": {"preset": CARD, "statistical": True}})
    work.finish(row, rows, [{"index": 0, "label": 0, "predicted": 0}], {"python": "3"})
    return rows


@pytest.fixture
def run(tmp_path: Path) -> Path:
    filled(tmp_path)
    return tmp_path / "e"


def test_every_action_has_a_component() -> None:
    assert {component_of(action, matrix) for action in ACTIONS for matrix in MATRICES} == set(COMPONENTS)
    assert component_of("adc_conversion", "rest") == "rest"


@pytest.mark.parametrize(
    ("task", "phase", "part"),
    [
        ("(deploy base)", "deploy", "deploy"), ("(deploy base)", "calibrate", "deploy"), ("t", "deploy", "deploy"),
        ("(deploy pool)", "refresh", "refresh"), ("t", "switch", "adaptation"), ("t", "eval", "inference"),
    ],
)  # fmt: skip
def test_parts_of_a_life(task: str, phase: str, part: str) -> None:
    assert part_of({"task": task, "phase": phase}) == part


@pytest.mark.parametrize("write", ["physics", "low", "mid", "high"])
def test_conversions_of_verify_reads_are_writes(write: str) -> None:
    chip, own = booked()
    table = Pricing(write=write).table(chip.preset)
    rows = chip.ledger.rows(table)
    frame = cost_frame(rows, table)
    switch = frame[(frame["phase"] == "switch") & (frame["action"] == "adc_conversion")]
    counts = dict(zip(switch["component"], switch["count"], strict=True))
    verified = own.report.verify_reads
    assert counts["writes"] == verified
    assert counts["ADC"] == sum(switch["count"]) - verified > 0
    price = table.energy("adc_conversion", switch["precision"].iloc[0])
    energies = dict(zip(switch["component"], switch["energy_J"], strict=True))
    assert energies["ADC"] == pytest.approx(counts["ADC"] * price, rel=1e-12)
    assert energies["writes"] == pytest.approx(0.0 if write != "physics" else verified * price, rel=1e-12)
    assert fsum(frame["energy_J"]) == pytest.approx(fsum(r["energy_J"] for r in rows), rel=1e-12)
    assert sum(frame["count"]) == sum(r["count"] for r in rows)


def test_sums_by_anything_are_the_total() -> None:
    chip, _ = booked()
    table = Pricing().table(chip.preset)
    frame = cost_frame(chip.ledger.rows(table), table)
    whole = fsum(frame["energy_J"])
    for split in (costs.by_component, costs.by_phase, costs.by_part):
        assert fsum(split(frame).values()) == pytest.approx(whole, rel=1e-14)


def test_a_run_is_repriced_without_being_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chip, _ = booked()
    assert call("cost", str(run), "--adc", "neurosim_sar", "--write", "high", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    table = Pricing(adc="neurosim_sar", write="high").table(chip.preset)
    rows = [r for r in chip.ledger.rows(table) if r["task"] == "t" and r["phase"] != "eval"]
    (line,) = found["table"]
    assert line["task_energy_J"] == fsum(r["energy_J"] for r in rows)  # to the last digit
    cells = sum(r["count"] for r in rows if r["action"] == "cell_write")
    assert cells > 0
    assert line["component: writes"] == pytest.approx(3.91e-9 * cells, rel=1e-12)
    assert "neurosim_sar" in found["pricing"]
    assert "writes high" in found["pricing"]


def test_a_single_cell_is_enough(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(run.parent, label="fusion", cell="c1")
    assert call("cost", str(run), "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["table"]) == 2
    assert call("cost", str(run / "c1"), "--json") == 0
    (line,) = json.loads(capsys.readouterr().out)["table"]
    assert line["label"] == "fusion"


def test_a_row_holds_means_per_text_the_writes_time_and_the_worst_wear(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = filled(run.parent, cell="c1", seed=1, worn=7.5)
    assert call("cost", str(run), "--json") == 0
    (line,) = json.loads(capsys.readouterr().out)["table"]
    task = [r for r in rows if r["task"] == "t"]
    reading = fsum(r["energy_J"] for r in task if r["phase"] == "eval")
    assert line["text_energy_J"] == pytest.approx(reading / 3, rel=1e-12)
    writes = ("set_pulse", "reset_pulse", "verify_read")
    assert line["write_time_s"] == pytest.approx(fsum(r["time_s"] for r in task if r["action"] in writes))
    assert 0 < line["write_time_s"] < fsum(r["time_s"] for r in task if r["phase"] != "eval")
    assert line["worst_wear_cycles"] == 7.5


def test_a_stream_adds_the_mean_task_over_seeds_to_one_deployment(run: Path) -> None:
    from crossbar_experiments.cost_show import _streams

    rows = filled(run.parent, cell="c1", seed=1)
    priced = costs.priced_run(costs.load(run), Pricing())
    frame = priced.ledger.assign(bar=priced.ledger["label"], stream="t")
    (deploy, tasks) = _streams(frame)["lora"]
    once = fsum(r["energy_J"] for r in rows if r["task"] != "t")
    assert deploy == pytest.approx(once, rel=1e-12)
    assert tasks == pytest.approx([fsum(r["energy_J"] for r in rows if r["task"] == "t")], rel=1e-12)


def test_the_chips_share_alone_leaves_the_rest_out(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = []
    for more in ([], ["--chip-only"]):
        assert call("cost", str(run), "--json", *more) == 0
        lines.append(json.loads(capsys.readouterr().out)["table"][0])
    whole, alone = lines
    assert "component: rest" not in alone
    rest = 100 * 1.1e-12 + 640 * 0.0799e-12
    assert whole["component: rest"] == pytest.approx(rest)
    assert whole["task_energy_J"] - alone["task_energy_J"] == pytest.approx(rest, rel=1e-6)


def test_the_terminal_names_preset_backward_and_pricing(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("cost", str(run), "--write", "mid", "--adc", "isaac") == 0
    told = capsys.readouterr().out
    for word in (CARD, "backward: transposed", "writes mid", "ADC isaac", "lora", "assumed"):
        assert word in told


def test_rows_go_to_csv_and_parquet_alike(run: Path, tmp_path: Path) -> None:
    csv, parquet = tmp_path / "a.csv", tmp_path / "a.parquet"
    assert call("cost", str(run), "--csv", str(csv), "--parquet", str(parquet)) == 0
    texts, tables = pd.read_csv(csv, keep_default_na=False), pd.read_parquet(parquet)
    assert list(texts.columns) == list(tables.columns)
    assert {"component", "part", "cell", "energy_J", "count"} <= set(tables.columns)
    assert texts["count"].tolist() == tables["count"].tolist()
    assert texts["energy_J"].tolist() == pytest.approx(tables["energy_J"].tolist(), rel=1e-12)
    assert fsum(tables["energy_J"]) == pytest.approx(fsum(r["energy_J"] for r in filled(tmp_path, cell="x")))


def test_without_pyarrow_a_parquet_file_is_refused_in_one_sentence(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found: Callable[..., Any] = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "pyarrow" else found(name, *more)
    )
    assert call("cost", str(run), "--parquet", str(tmp_path / "a.parquet")) == 2
    assert "lorafusion-reram[parquet]" in capsys.readouterr().err


def test_a_caption_of_many_methods_stays_inside_its_figure(tmp_path: Path) -> None:
    labels = [f"a_method_with_a_name_{number}" for number in range(9)]
    for label in labels:
        filled(tmp_path, label=label, cell=label)
    path = tmp_path / "cost.svg"
    assert call("cost", str(tmp_path / "e"), "--figure", str(path)) == 0
    lines = ["".join(each.itertext()) for each in ElementTree.parse(path).iter(f"{SVG}text")]
    first = next(number for number, line in enumerate(lines) if line.startswith("resting on assumed"))
    assert max(len(line) for line in lines) <= 160  # 10.5 inches of small print
    told = " ".join(lines[first:])
    assert all(label in told for label in labels)


def test_a_figure_carries_preset_pricing_and_marks(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "cost.svg"
    assert call("cost", str(run), "--write", "low", "--figure", str(path)) == 0
    text = path.read_text(encoding="utf-8")
    ElementTree.fromstring(text)
    for word in (
        CARD,
        "backward transposed",
        "writes low",
        "resting on assumed numbers",
        "by component",
        "by phase",
    ):
        assert word in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--adc", "murman"], "did you mean 'murmann'"),
        (["--write", "hihg"], "did you mean 'high'"),
        (["--memory", "eram"], "did you mean 'edram'"),
        (["--node", "44"], "44"),
        (["--csv", "x.txt"], "only .csv is written"),
        (["--method", "fusion"], "--method belongs to --arch"),
        (["--cores", "2"], "--cores belongs to --arch"),
        (["--arch", "minilm-l6"], "both were given"),
    ],
)
def test_mistakes_about_a_run_are_one_sentence(
    run: Path, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("cost", str(run), *arguments) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error


def test_neither_run_nor_architecture_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("cost") == 2
    assert "give a run's folder or --arch" in capsys.readouterr().err


def test_an_ideal_chip_has_unknown_costs_not_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert preset("ideal").prices is None
    chip = Chip("ideal")
    with chip.ledger.scope(task="t", phase="forward"):
        chip.program(np.eye(3), name="l").mvm(np.ones((2, 3)))
    row: dict[str, Any] = {
        name: {str: "", int: 0, float: float("nan")}[kind] for name, kind in METRICS.items()
    }
    row |= {"experiment": "e", "task": "t", "chip": "ideal", "label": "lora", "n_test": 1}
    work = store.begin(tmp_path, "e", "c0", {"chip": {"preset": "ideal"}})
    work.finish(row, chip.ledger.rows(None), [{"index": 0, "label": 0, "predicted": 0}], {})
    assert call("cost", str(tmp_path / "e"), "--json") == 0
    (line,) = json.loads(capsys.readouterr().out)["table"]
    assert line["task_energy_J"] is None


# -- architectures -----------------------------------------------------------------------------------------------------

SMALL = ("--arch", "minilm-l6", "--modules", "3", "--rank", "2", "--targets", "attention.self.query")
SHORT = ("--length", "8", "--steps", "2", "--batch", "2", "--tokens", "80")


def bill_of(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert call("cost", *SMALL, *SHORT, *options, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_an_architecture_is_priced_without_weights(capsys: pytest.CaptureFixture[str]) -> None:
    found = bill_of(capsys, "--method", "lora", "--placement", "reram_once", "--tasks", "7")
    assert found["weights_rewritten_per_task"] == found["trainable"] == 6 * 2 * 2 * 384
    assert found["weights_programmed"] == {"base": 6 * 12 * 384 * 384, "pool": 0}
    energy = found["energy_J"]
    parts = energy["by_part"]
    assert fsum(energy["task_by_phase"].values()) == pytest.approx(parts["adaptation"], rel=1e-12)
    assert fsum(energy["task_by_component"].values()) == pytest.approx(parts["adaptation"], rel=1e-12)
    assert energy["stream"] == pytest.approx(
        parts["deploy"] + 7 * (parts["adaptation"] + parts["inference"]), rel=1e-12
    )
    assert energy["per_token"] == pytest.approx(parts["inference"] / 80, rel=1e-12)
    assert found["counts"]["adaptation"]["cell_write"] > 0
    assert found["wear"]["cycles_per_task"] > 0
    times = found["latency_s"]
    assert times["writing_row_parallel"] < times["writing_serial"] < times["task"]
    assert times["task"] == fsum(times["task_by_phase"].values())
    assert "eval" not in times["task_by_phase"]
    assert times["inference"] == pytest.approx(80 * times["per_token"], rel=1e-12)
    assert times["inference"] > 0
    for part in ("deploy", "refresh"):
        writing = times[f"{part}_writing"]
        counts = found["counts"][part]
        card = preset(CARD)
        assert card.programming is not None
        pulses = counts["set_pulse"] + counts["reset_pulse"]
        serial = pulses * card.programming.pulse_width + counts["verify_read"] * card.programming.verify_width
        assert writing["serial"] == pytest.approx(serial, rel=1e-12)
        assert 0 < writing["row_parallel"] < writing["serial"]
    refresh = found["counts"]["refresh"]
    pulses = refresh["set_pulse"] + refresh["reset_pulse"]
    assert found["wear"]["cycles_per_refresh"] == pytest.approx(pulses / 2 / (2 * 6 * 12 * 384 * 384))
    bit = 3920e-12 / (2 * 1024 * 8)  # PUMA's data memory of 2 KB
    kept = 7 * 32 * found["digital_words"]  # of seven tasks
    assert found["area_m2"]["task state"] == pytest.approx(kept * bit, rel=1e-4)
    assert found["backward"] == "transposed"
    assert all(entry["mark"] in ("published", "derived", "assumed") for entry in found["prices"])
    assert all(entry["source"] for entry in found["prices"] if "value" in entry)


def test_fusion_rewrites_nothing_and_programs_its_pool_once(capsys: pytest.CaptureFixture[str]) -> None:
    found = bill_of(capsys, "--method", "fusion")
    assert found["weights_rewritten_per_task"] == 0
    assert found["weights_programmed"]["pool"] == 3 * 6 * 2 * 2 * 384
    assert not {"cell_write", "set_pulse", "reset_pulse"} & set(found["counts"]["adaptation"])
    assert found["wear"]["tasks_until_wear_out"] == "no limit"


def test_modules_that_are_off_are_not_read(capsys: pytest.CaptureFixture[str]) -> None:
    whole, part = (bill_of(capsys, "--method", "fusion", *more) for more in ((), ("--keep", "1")))
    assert part["modules_active"] == 1
    assert part["counts"]["inference"]["adc_conversion"] < whole["counts"]["inference"]["adc_conversion"]
    assert part["energy_J"]["per_token"] < whole["energy_J"]["per_token"]


def test_the_price_of_a_write_and_the_cores_are_used(capsys: pytest.CaptureFixture[str]) -> None:
    lora = ("--method", "lora", "--placement", "reram_once")
    low, high = (bill_of(capsys, *lora, "--write", write) for write in ("low", "high"))
    cells = low["counts"]["adaptation"]["cell_write"]
    spent = [each["energy_J"]["task_by_component"]["writes"] for each in (low, high)]
    assert spent == pytest.approx([0.6e-12 * cells, 3.91e-9 * cells], rel=1e-12)
    four = bill_of(capsys, *lora, "--cores", "4", "--write", "low")
    assert four["latency_s"]["inference"] < low["latency_s"]["inference"]
    assert four["energy_J"]["by_part"] == low["energy_J"]["by_part"]


def test_a_method_that_learns_nothing_has_no_share_of_its_energy(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("cost", *SMALL, *SHORT, "--method", "zero_shot") == 0
    told = capsys.readouterr().out
    assert "an unknown share of a task's energy rests on assumed numbers" in told
    assert "nan" not in told
    assert "a task by phase: nothing\na task by component: nothing\n1 task with deployment" in told
    assert bill_of(capsys, "--method", "zero_shot")["assumed_share"] is None


def test_what_a_card_does_not_state_is_said_to_be_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    lora = ("--method", "lora", "--placement", "reram_once", "--preset", "hfo2_array")
    assert call("cost", *SMALL, *SHORT, *lora) == 0
    told = capsys.readouterr().out
    assert "area not known (the card states no process node" in told
    assert "tasks until wear-out not known (the card states no endurance)" in told
    assert MISSING not in told


def test_the_refresh_of_a_bill_is_dated(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("cost", *SMALL, *SHORT, "--method", "zero_shot") == 0
    assert "(after 7 days); of a task: adaptation 0 J, inference" in capsys.readouterr().out


def test_the_bill_is_told_on_a_terminal_with_a_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bill.svg"
    assert call("cost", *SMALL, *SHORT, "--method", "fusion", "--tasks", "3", "--figure", str(path)) == 0
    told = capsys.readouterr().out
    for word in (
        "minilm-l6, fusion on cmo_hfox",
        "backward transposed",
        "writes physics",
        "rewritten per task: 0",
    ):
        assert word in told
    text = path.read_text(encoding="utf-8")
    assert "assumed numbers" in text
    assert "Energy since deployment" in text


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--arch", "minilm-l7"], "did you mean 'minilm-l6'"),
        (["--arch", "minilm-l6", "--method", "fusoin"], "did you mean 'fusion'"),
        (
            ["--arch", "minilm-l6", "--method", "bitfit", "--placement", "sram"],
            "'bitfit' has no such setting",
        ),
        (["--arch", "minilm-l6", "--method", "lora", "--placement", "sam"], "did you mean 'sram'"),
        (["--arch", "minilm-l6", "--preset", "ideal"], "states no prices"),
        (["--arch", "minilm-l6", "--backward", "transposd"], "did you mean 'transposed'"),
        (["--arch", "minilm-l6", "--length", "100000"], "positions"),
    ],
)
def test_mistakes_about_an_architecture_are_one_sentence(
    options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("cost", *options) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error
