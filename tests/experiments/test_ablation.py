"""The table of chips side by side: the comparison's own numbers, in the order asked for."""

from __future__ import annotations

import json
import math

import pytest

from crossbar_experiments import ablation, cli, report, tables
from crossbar_experiments.errors import BenchError
from crossbar_experiments.figures import MOST_CHIPS, accuracy_by_chip

CHIPS = ("bare", "ideal", "levels", "worst")


@pytest.fixture
def compared(make_results):
    return tables.compare(make_results(chips=CHIPS), "fusion")


def test_every_number_is_that_of_the_comparison(compared):
    table = ablation.side_by_side(compared, priced="fusion")
    assert list(table["chip"]) == sorted(CHIPS)
    for row in tables.rows_of(table):
        for _, told in compared[compared["chip"] == row["chip"]].iterrows():
            assert row[ablation.REACHED + told["label"]] == told["accuracy"]
            if told["label"] == "fusion":
                for name in ablation.PRICES:
                    assert row[name] == told[name] or (math.isnan(row[name]) and math.isnan(told[name]))
                assert set(told["cells"].split()) <= set(row["cells"].split())


def test_rows_and_accuracies_stand_in_the_order_asked_for(compared):
    order = ("worst", "absent", "bare")
    table = ablation.side_by_side(
        compared, priced="BitFit", chips=order, labels=("zero-shot", "no", "fusion")
    )
    assert list(table["chip"]) == ["worst", "bare"]
    titles = [column.title for column in ablation.columns_of(table, "BitFit")]
    assert titles[:3] == ["chip", "zero-shot", "fusion"]


def test_a_method_that_one_chip_lacks_is_not_known_there(compared):
    kept = compared[~((compared["chip"] == "bare") & (compared["label"] == "fusion"))]
    first = tables.rows_of(ablation.side_by_side(kept, priced="fusion"))[0]
    assert first["chip"] == "bare"
    assert math.isnan(first[ablation.REACHED + "fusion"])
    assert math.isnan(first["task_energy_J"])
    assert first[ablation.REACHED + "BitFit"] > 0


def test_names_that_are_not_there_are_told(compared):
    with pytest.raises(BenchError, match="did you mean 'fusion'"):
        ablation.side_by_side(compared, priced="fuson")
    with pytest.raises(BenchError, match="did you mean 'worst'"):
        ablation.side_by_side(compared, priced="fusion", chips=("wurst",))


def test_markdown_has_a_line_per_chip_and_the_prices_of_one_method(compared):
    table = ablation.side_by_side(compared, priced="fusion")
    head, rule, *lines = tables.to_markdown(table, ablation.columns_of(table, "fusion")).splitlines()
    assert len(lines) == len(CHIPS)
    assert head.count("|") == rule.count("|") == lines[0].count("|")
    assert "fusion: deploy energy" in head
    assert "2.1 mJ" in lines[0]
    assert tables.MISSING in lines[1]  # the ideal chip knows no energy


def test_fusion_is_priced_unless_there_is_none(make_results):
    assert ablation.priced_label(make_results()) == "fusion"
    assert ablation.priced_label(make_results(labels=("zero-shot", "BitFit"))) == "BitFit"


def test_the_command_prints_the_table_three_ways(make_results, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("crossbar_experiments.store.load", lambda _: make_results(chips=CHIPS))

    def told(*options: str) -> str:
        arguments = ["ablation", str(tmp_path), *options]
        assert cli._guarded(lambda **given: cli.app(arguments, **given)) == 0
        return capsys.readouterr().out

    assert len(json.loads(told("--json"))) == len(CHIPS)
    assert len(told("--markdown").strip().splitlines()) == len(CHIPS) + 2
    assert "worst" in told()
    assert told("--markdown", "--priced", "BitFit").count("BitFit: ") >= 3


def test_the_command_offers_no_folder_without_results(tmp_path, capsys):
    (tmp_path / "stranger").mkdir()
    arguments = ["ablation", str(tmp_path / "strange")]
    assert cli._guarded(lambda **given: cli.app(arguments, **given)) == 2
    said = capsys.readouterr().err
    assert said == (
        f"error: load: no folder {tmp_path / 'strange'}; run the experiment first, "
        "or give the folder of a run (runs/NAME)\n"
    )


def test_the_report_sets_chips_side_by_side_and_says_how_they_differ(make_results, tmp_path):
    results = make_results(chips=CHIPS)
    for cell, chip in zip(results.metrics["cell"], results.metrics["chip"], strict=True):
        effects = {} if chip == "worst" else {"effects": ["levels"] if chip == "levels" else []}
        results.chips[cell] = {"preset": "card_of_" + chip, "backward": "oracle", "ir_drop": False, **effects}
    page = report.write_report(results, tmp_path / "r.html", title="t", command="c", sources=[]).read_text()
    assert 'id="beside"' in page
    chips = page[page.index('id="chips"') :]
    for text in ("card_of_worst", "oracle", "all but ir_drop", "<td>levels</td>", "<td>none</td>"):
        assert text in chips
    one = report.write_report(
        make_results(chips=("bare",)), tmp_path / "s.html", title="t", command="c", sources=[]
    )
    assert 'id="beside"' not in one.read_text()


def test_many_chips_are_drawn_one_per_line(make_results):
    chips = [f"chip {n}" for n in range(MOST_CHIPS + 1)]
    table = tables.compare(make_results(chips=chips, seeds=(0,)), "fusion")
    (ax,) = accuracy_by_chip(table).axes
    assert [text.get_text() for text in ax.get_yticklabels()] == chips
    drawn = {(line.get_label(), x, y) for line in ax.lines for x, y in zip(*line.get_data(), strict=True)}
    wanted = {(r["label"], r["accuracy"], chips.index(r["chip"])) for r in tables.rows_of(table)}
    assert drawn == wanted
    assert len(report.overview(table).axes) == 1
    assert len(report.overview(table[table["chip"] == "chip 0"]).axes) == 2
