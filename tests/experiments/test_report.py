"""The page stands alone, escapes what it is given, and says what the tables say."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from crossbar_experiments import report, tables
from crossbar_experiments.errors import BenchError
from crossbar_experiments.store import StoreError

EVIL = "<script>alert('x')</script>"
SOURCES = [
    {"chip": "hfo2_neurram", "name": "device.g_max", "value": 4e-5, "mark": "assumed", "source": "Wan 2022"}
]


def write(results, path, **given):
    settings = {"title": "A title", "command": "lorafusion run demo", "sources": SOURCES, **given}
    return report.write_report(results, path, **settings)


@pytest.fixture
def page(make_results, tmp_path):
    path = write(make_results(), tmp_path / "deep" / "report.html", not_modelled=["Temperature."])
    return path.read_text(encoding="utf-8")


def test_the_page_needs_nothing_else(page, tmp_path):
    assert page.startswith("<!doctype html>")
    assert not re.search(r'(?:src|href|action)="(?!#)', page)
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest", page)
    assert "prefers-color-scheme: dark" in page
    assert "width=device-width" in page
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["report.html"]


def test_every_link_leads_to_a_run_and_ids_are_unique(page):
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    targets = re.findall(r'href="#(cell-[^"]+)"', page)
    assert set(targets) == {name for name in ids if name.startswith("cell-")}
    assert len(set(targets)) == 2 * 6 * 3 * 2


def test_the_page_says_what_it_was_given(page):
    for text in (
        "A title",
        "lorafusion run demo",
        "Temperature.",
        "device.g_max",
        "4e-05",
        "Wan 2022",
        "2.13.0",
    ):
        assert text in page
    assert "Seeds 0, 1; chip seeds 0, 1; 72 runs." in page
    assert "hfo2_neurram 40.0 to 40.0 %" in page
    for group in ("deploy", "per task", "unrelated", "same kind"):
        assert re.search(rf'class="span" colspan="\d+">{group}</th>', page)


def test_no_string_becomes_markup(make_results, tmp_path):
    results = make_results(tasks=((EVIL, EVIL),), chips=(EVIL,), labels=("fusion", "LoRA (SRAM)"))
    results.metrics["label"] += EVIL
    results.ledger["action"] = EVIL
    results = replace(results, environments={"c": {EVIL: EVIL}}, rejected=(EVIL,))
    sources = [dict.fromkeys(report.SOURCE_FIELDS, EVIL)]
    given = {"title": EVIL, "command": EVIL, "sources": sources, "not_modelled": [EVIL]}
    text = write(results, tmp_path / "r.html", **given).read_text()
    assert EVIL not in text
    assert text.count("<script>") == 1
    assert "alert(" in text


def test_the_headline_quotes_every_lora_and_the_cheapest_rival(make_results):
    results = make_results(chips=("hfo2_neurram",))
    table = tables.compare(results, "BitFit")
    claims = report.claims(results, table, goal=0.0)
    assert [claim.rival["label"] for claim in claims] == [
        "BitFit",
        "LoRA (SRAM)",
        "LoRA (ReRAM once)",
        "LoRA (ReRAM every step)",
    ]
    assert [claim.cheapest for claim in claims] == [True, False, False, False]
    fusion = table[table["label"] == "fusion"].iloc[0]
    first = claims[0]
    assert first.difference.mean == pytest.approx(fusion["difference"])
    assert first.verdict == tables.verdict(first.difference.mean, first.difference.low, 0.0)
    assert first.sentence == (
        f"fusion minus BitFit, the cheapest rival: "
        f"{tables.signed_interval(fusion['difference'], fusion['low'], fusion['high'])} points; "
        "2.1 mJ against 1.8 mJ per task; deployment included, never cheaper for good"
    )
    assert claims[1].sentence.endswith(
        "2.1 mJ against 5.9 mJ per task; deployment included, no dearer from the start"
    )


def test_a_goal_out_of_reach_is_not_met(make_results):
    results = make_results(chips=("ideal",))
    claims = report.claims(results, tables.compare(results, "BitFit"), goal=60.0)
    assert {claim.verdict for claim in claims} == {"not met"}
    assert not any(claim.cheapest or "per task" in claim.sentence for claim in claims)


def test_break_even_counts_the_deployment(make_results):
    results = make_results(chips=("card",))
    fusion = results.metrics["label"] == "fusion"
    results.metrics.loc[fusion, "deploy_energy_J"] += 10e-3
    claims = report.claims(results, tables.compare(results, "BitFit"), goal=0.0)
    # 10 mJ more at first, 5.9 - 2.1 = 3.8 mJ less for each task
    assert claims[1].sentence.endswith("no dearer from 3 tasks on")


def test_the_baseline_is_the_most_accurate_lora(make_results):
    results = make_results(chips=("card",))
    metrics = results.metrics
    metrics.loc[metrics["label"] == "LoRA (ReRAM every step)", "accuracy"] = 0.99
    assert report.strongest_lora(results) == "LoRA (ReRAM every step)"
    assert report.strongest_lora(make_results(labels=("zero-shot", "BitFit"))) == "BitFit"


def test_results_without_fusion_or_without_energies_still_make_a_page(make_results, tmp_path):
    text = write(
        make_results(labels=("zero-shot", "BitFit"), chips=("ideal",)), tmp_path / "r.html"
    ).read_text()
    assert "there is no headline" in text
    assert "no energy is known" in text


def test_ledger_totals_are_means_of_the_runs(make_results):
    results = make_results(chips=("card",), labels=("fusion",))
    ledger = results.ledger.merge(results.metrics[["cell", "chip", "label"]], on="cell")
    (section,) = report._ledger_totals(ledger)
    rows = {(row["phase"], row["action"]): row for row in section["rows"]}
    assert section["cells"] == 6
    assert rows["forward", "adc_conversion"]["count"] == pytest.approx(5_000_000)
    assert rows["forward", "adc_conversion"]["energy_J"] == pytest.approx(0.6 * 2.1e-3)


def test_the_same_results_make_the_same_page(make_results, tmp_path):
    pages = [write(make_results(), tmp_path / f"{n}.html").read_text() for n in range(2)]
    assert pages[0] == pages[1]


def test_a_place_that_cannot_be_written_is_one_clear_line(make_results, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"^report: cannot write .*; choose another place"):
        write(make_results(), tmp_path / "file" / "report.html")


def test_no_cells_no_report(make_results, tmp_path):
    results = make_results()
    with pytest.raises(BenchError, match="no finished cells"):
        write(replace(results, metrics=results.metrics[:0]), tmp_path / "r.html")
