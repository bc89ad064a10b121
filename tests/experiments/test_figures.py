"""Figures show every priced method, zero included, and are the same text every time."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from crossbar_experiments import figures, style, tables


@pytest.fixture
def table(make_results):
    return tables.compare(make_results(), "LoRA (SRAM)")


def labelled(results):
    return results.ledger.merge(results.metrics[["cell", "chip", "label"]], on="cell")


def test_svg_is_the_same_every_time_and_has_no_date(table):
    first, second = (figures.svg(figures.energy_against_accuracy(table)) for _ in range(2))
    assert first == second
    assert first.startswith("<svg")
    assert not re.search(r"20\d\d-\d\d-\d\d|<metadata", first)
    ElementTree.fromstring(first.replace("xlink:href", "href"))


def test_svg_takes_the_colour_of_its_page(table):
    text = figures.svg(figures.energy_against_accuracy(table))
    assert "currentColor" in text
    assert style.INK not in text


def test_ids_of_two_figures_do_not_meet(table, make_results):
    texts = (
        figures.svg(figures.energy_against_accuracy(table), prefix="a-"),
        figures.svg(figures.energy_by_phase(labelled(make_results())), prefix="b-"),
    )
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in texts]
    assert all(ids)
    assert not ids[0] & ids[1]
    for own, text in zip(ids, texts, strict=True):
        assert set(re.findall(r'(?:url\(|href=")#([^")]+)', text)) <= own


def test_methods_that_write_nothing_are_drawn_at_the_edge(table):
    figure = figures.energy_against_accuracy(table)
    total, writes = figure.axes
    for ax in (total, writes):
        names = [text.get_text() for text in ax.texts]
        assert sorted(names) == sorted(table.loc[table["chip"] == "hfo2_neurram", "label"])
        assert ax.get_xticklabels()[0].get_text() == "0"
    edge = writes.get_xticks()[0]
    placed = {text.get_text(): text.xy[0] for text in writes.texts}
    assert placed["fusion"] == placed["LoRA (SRAM)"] == pytest.approx(edge)
    assert placed["LoRA (ReRAM once)"] == pytest.approx(1.5e-4)
    assert edge < placed["LoRA (ReRAM once)"]
    assert {text.get_text(): text.xy[0] for text in total.texts}["fusion"] == pytest.approx(2.1e-3)


def test_chips_have_their_own_markers(make_results):
    table = tables.compare(make_results(chips=("one", "two"), labels=("fusion", "BitFit")), "BitFit")
    figure = figures.energy_against_accuracy(table)
    assert {line.get_marker() for line in figure.axes[0].lines if line.get_marker() != "None"} == {"o", "s"}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two"]


def test_a_chip_without_energies_says_so(make_results):
    results = make_results(chips=("ideal",))
    drawn = (
        figures.energy_against_accuracy(tables.compare(results, "BitFit")),
        figures.energy_by_phase(labelled(results).assign(energy_J=float("nan"))),
    )
    for figure in drawn:
        assert [text.get_text() for text in figure.axes[0].texts] == ["no energy is known"]
        figures.svg(figure)


def test_names_are_not_read_as_formulas(make_results):
    results = make_results(labels=("fusion", "BitFit"))
    results.metrics["label"] = results.metrics["label"].replace("fusion", "$x_{<script>$")
    text = figures.svg(figures.energy_against_accuracy(tables.compare(results, "BitFit")))
    assert "$x_{&lt;script&gt;$" in text


def test_bars_add_up_to_the_mean_energy_of_a_task(make_results):
    results = make_results(chips=("card",))
    figure = figures.energy_by_phase(labelled(results))
    for ax in figure.axes:
        widths = {}
        for patch in ax.patches:
            widths[round(patch.get_y(), 3)] = widths.get(round(patch.get_y(), 3), 0.0) + patch.get_width()
        assert sorted(widths.values())[-2:] == pytest.approx([6.1e-3, 5.5e-2])
        assert ax.texts[0].get_text() == "55 mJ"
    phases = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert set(phases) == {"switch", "forward", "backward"}


def test_more_actions_than_colours_are_gathered(make_results):
    ledger = make_results(chips=("card",), labels=("fusion",)).ledger
    many = ledger.assign(action=[f"action {n % 12}" for n in range(len(ledger))], phase="forward")
    names = [text.get_text() for text in figures.energy_by_phase(many).axes[1].get_legend().get_texts()]
    assert len(names) == len(style.CYCLE)
    assert names[-1] == "other"


def test_labels_are_pushed_apart_and_stay_inside():
    heights = figures._spread([0.98, 0.97, 0.5, 0.51], 0.06)
    assert max(heights) <= 0.97 + 1e-12
    ordered = sorted(heights)
    assert all(b - a >= 0.06 - 1e-12 for a, b in pairwise(ordered))
    assert heights[1] < heights[0]
