"""Comparisons against numbers worked out by hand, and how numbers are written."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats

from crossbar_experiments import tables
from crossbar_experiments.errors import BenchError
from crossbar_experiments.paired import paired_difference
from crossbar_experiments.store import Results

NAN = float("nan")


def results_of(hits):
    """Results from {(label, task, seed): "1101..."}, 1 for a text told right."""
    metrics, predictions = [], []
    for number, ((label, task, seed), text) in enumerate(hits.items()):
        right = np.array([int(c) for c in text])
        cell = f"c{number}"
        metrics.append(
            {"cell": cell, "chip": "card", "label": label, "task": task, "seed": seed, "chip_seed": 0}
        )
        predictions.append(
            pd.DataFrame({"cell": cell, "index": range(len(right)), "label": 1, "predicted": right})
        )
    return Results(pd.DataFrame(metrics), pd.DataFrame(), pd.concat(predictions))


def difference(hits):
    return paired_difference(results_of(hits), chip="card", label="a", baseline="b")


def test_one_seed_is_the_paired_t_interval_over_texts():
    ours, theirs = "1110110110", "1010011010"
    gap = difference({("a", "t", 0): ours, ("b", "t", 0): theirs})
    d = 100.0 * (np.array(list(ours), float) - np.array(list(theirs), float))
    expected = stats.ttest_1samp(d, 0.0).confidence_interval(0.95)
    assert gap.mean == pytest.approx(20.0)
    assert (gap.low, gap.high) == pytest.approx((expected.low, expected.high))


def test_tasks_weigh_the_same_however_many_texts_they_have():
    gap = difference(
        {("a", "t", 0): "1100", ("b", "t", 0): "0000", ("a", "u", 0): "00000010", ("b", "u", 0): "00000000"}
    )
    # t: mean 1/2, variance 1/3, n 4; u: mean 1/8, variance 1/8, n 8; 12 - 2 degrees of freedom in all
    assert gap.mean == pytest.approx(100 * (1 / 2 + 1 / 8) / 2)
    error = 100 * math.sqrt((1 / 3) / 4 + (1 / 8) / 8) / 2
    assert gap.high - gap.mean == pytest.approx(stats.t.ppf(0.975, 10) * error)
    assert gap.runs == 2


def test_seeds_that_differ_widen_the_interval():
    # every text agrees within a seed, so only the seeds' means, +100 and 0 points, are uncertain: t with 1 degree
    gap = difference(
        {("a", "t", 0): "1111", ("b", "t", 0): "0000", ("a", "t", 1): "1111", ("b", "t", 1): "1111"}
    )
    assert gap.mean == pytest.approx(50.0)
    assert gap.high - gap.mean == pytest.approx(stats.t.ppf(0.975, 1) * 50.0)


def test_what_texts_and_seeds_share_is_counted_once():
    gap = difference(
        {("a", "t", 0): "1100", ("b", "t", 0): "0000", ("a", "t", 1): "1111", ("b", "t", 1): "0000"}
    )
    texts = 4 / 3 * 4 * (0.5 / 8) ** 2  # weighted deviations +-1/16 in the first seed, none in the second
    both = 8 / 7 * 4 * (0.5 / 8) ** 2
    seeds = 2 / 1 * 2 * (0.25 / 2) ** 2  # means 1/2 and 1
    variance = texts + seeds - both
    assert variance > max(texts, seeds)
    freedom = variance**2 / (texts**2 / 3 + seeds**2 / 1)
    assert gap.mean == pytest.approx(75.0)
    assert gap.high - gap.mean == pytest.approx(stats.t.ppf(0.975, freedom) * 100 * math.sqrt(variance))


def test_repeating_the_same_outcome_under_another_seed_adds_no_certainty():
    ours, theirs = "1110110110", "1010011010"
    once = difference({("a", "t", 0): ours, ("b", "t", 0): theirs})
    twice = difference({(label, "t", s): h for s in (0, 1) for label, h in (("a", ours), ("b", theirs))})
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high))


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(7)
    covered, repeats, texts, seeds = 0, 120, 60, 4
    for _ in range(repeats):
        easy = rng.normal(0.5, 0.15, texts)  # texts shared by the seeds, and an effect of each seed
        hits = {}
        for seed in range(seeds):
            shift = rng.normal(0.0, 0.05)
            for label, base in (("a", easy + shift), ("b", 0.5 * np.ones(texts))):
                hits[label, "t", seed] = "".join(str(int(v)) for v in rng.random(texts) < base)
        gap = difference(hits)
        covered += gap.low <= 0.0 <= gap.high
    # binomial(120, 0.95): below 105 has p < 1e-3
    assert covered >= 105


def test_runs_without_a_partner_are_left_out_and_none_at_all_is_not_known():
    both = {("a", "t", 0): "11", ("b", "t", 0): "10"}
    assert difference({**both, ("a", "u", 0): "11"}) == difference(both)
    nothing = difference({("a", "t", 0): "11", ("b", "u", 0): "10"})
    assert math.isnan(nothing.mean)
    assert nothing.runs == 0
    single = difference({("a", "t", 0): "1", ("b", "t", 0): "0"})
    assert single.mean == 100.0
    assert math.isnan(single.low)


def test_identical_predictions_differ_by_exactly_nothing():
    gap = difference({("a", "t", 0): "1101", ("b", "t", 0): "1101"})
    assert (gap.mean, gap.low, gap.high) == (0.0, 0.0, 0.0)


def test_what_cannot_be_compared_is_refused():
    hits = {("a", "t", 0): "11", ("b", "t", 0): "10"}
    results = results_of(hits)
    with pytest.raises(BenchError, match="no cell is labelled 'bb'; did you mean 'b'"):
        paired_difference(results, chip="card", label="a", baseline="bb")
    other = results.predictions.copy()
    other.loc[other["cell"] == "c1", "label"] = 0
    with pytest.raises(BenchError, match="disagree on the true class"):
        paired_difference(replace(results, predictions=other), chip="card", label="a", baseline="b")
    twice = pd.concat([results.metrics, results.metrics.assign(cell=["c8", "c9"])])
    with pytest.raises(BenchError, match=r"cells c0, c8 answer for the same run \(a, card, t, seed 0\)"):
        paired_difference(replace(results, metrics=twice), chip="card", label="a", baseline="b")


def test_compare_averages_seeds_within_tasks_and_tasks_evenly(make_results):
    results = make_results(seeds=(0, 1))
    metrics = results.metrics
    lost = (metrics["label"] == "fusion") & (metrics["task"] == "role") & (metrics["seed"] == 1)
    metrics.loc[lost, "cell"] = "gone"
    results = replace(results, metrics=metrics[metrics["cell"] != "gone"])
    table = tables.compare(results, "LoRA (SRAM)").set_index(["chip", "label"])
    row = table.loc[("hfo2_neurram", "fusion")]
    runs = results.metrics.query("chip == 'hfo2_neurram' and label == 'fusion'")
    means = {task: runs.loc[runs["task"] == task, "accuracy"].mean() for task in ("role", "verbs", "topics")}
    assert row["accuracy"] == pytest.approx(100 * sum(means.values()) / 3)
    assert row["accuracy: verbs"] == pytest.approx(100 * means["verbs"])
    assert len(row["cells"].split()) == 5
    assert row["task_energy_J"] == pytest.approx(2.1e-3)
    assert math.isnan(table.loc[("ideal", "fusion"), "task_energy_J"])
    assert table.loc[("ideal", "LoRA (SRAM)"), "difference"] == 0.0


def test_compare_knows_nothing_of_a_mean_over_something_unknown(make_results):
    results = make_results(chips=("card",))
    first = results.metrics.index[results.metrics["label"] == "fusion"][0]
    results.metrics.loc[first, "task_energy_J"] = NAN
    table = tables.compare(results, "BitFit").set_index("label")
    assert math.isnan(table.loc["fusion", "task_energy_J"])
    assert table.loc["fusion", "write_energy_J"] == 0.0


def test_compare_wants_a_baseline_that_exists(make_results):
    with pytest.raises(BenchError, match="baseline: no cell is labelled 'Bitfit'; did you mean 'BitFit'"):
        tables.compare(make_results(), "Bitfit")


def test_one_seed_has_no_spread(make_results):
    table = tables.compare(make_results(seeds=(0,)), "BitFit")
    assert table["sd"].isna().all()
    assert "sd" not in {column.name for column in tables.columns_of(table)}


def test_task_table_has_a_row_per_chip_task_and_label(make_results):
    table = tables.task_table(make_results())
    assert len(table) == 2 * 3 * 6
    assert list(table.columns[:4]) == ["chip", "stratum", "task", "label"]
    assert (table["n_test"] == 60).all()
    assert (table["tasks"] == 1).all()


@pytest.mark.parametrize(
    ("mean", "low", "goal", "expected"),
    [
        (0.5, -0.4, 0.0, "met"),
        (0.0, -1.0, 0.0, "met"),
        (0.1 + 0.2, 0.3 - 1.0, 0.3, "met"),
        (0.5, -1.1, 0.0, "not shown"),
        (0.5, NAN, 0.0, "not shown"),
        (NAN, NAN, 0.0, "not shown"),
        (-0.1, -0.5, 0.0, "not met"),
        (-0.1, -9.0, 0.0, "not met"),
        (1.9, 1.5, 2.0, "not met"),
        (-1.5, -2.5, -2.0, "met"),
    ],
)
def test_verdict(mean, low, goal, expected):
    assert tables.verdict(mean, low, goal) == expected


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (4.9e-3, "J", "4.9 mJ"),
        (1.2e-9, "J", "1.2 nJ"),
        (48.6e-3, "J", "49 mJ"),
        (9.96e-6, "s", "10 µs"),
        (999.7e-6, "J", "1.0 mJ"),
        (1e-3, "J", "1.0 mJ"),
        (1e3, "J", "1.0 kJ"),
        (-2.5e-12, "J", "-2.5 pJ"),
        (12.3, "s", "12 s"),
        (3e-21, "J", "0.0 aJ"),
        (0.0, "J", "0 J"),
        (NAN, "J", tables.MISSING),
        (math.inf, "J", tables.MISSING),
        (None, "J", tables.MISSING),
        (1500.0, "", "1.5 k"),
    ],
)
def test_engineering(value, unit, text):
    assert tables.engineering(value, unit) == text


@pytest.mark.parametrize(
    ("ours", "rival", "tasks"),
    [
        ((10, 1), (2, 3), 4),
        ((9, 1), (2, 3), 4),
        ((1, 1), (2, 3), 0),
        ((2, 3), (2, 3), 0),
        ((3, 3), (2, 3), math.inf),
        ((1, 4), (2, 3), math.inf),
    ],
)
def test_break_even(ours, rival, tasks):
    rows = [{"deploy_energy_J": deploy, "task_energy_J": task} for deploy, task in (ours, rival)]
    assert tables.break_even_tasks(*rows) == tasks


def test_markdown_takes_names_literally_and_keeps_deploy_and_task_apart(make_results):
    results = make_results(chips=("card",), labels=("fusion", "BitFit"))
    results.metrics["label"] = results.metrics["label"].replace("fusion", "fu|sion <b>*")
    lines = tables.to_markdown(tables.compare(results, "BitFit")).splitlines()
    assert len(lines) == 4
    assert "| fu\\|sion \\<b>\\* |" in lines[2]
    assert {line.replace("\\|", "").count("|") for line in lines} == {lines[0].count("|")}
    assert "| deploy: energy |" in lines[0]
    assert "| energy per task: total |" in lines[0]


def test_the_terminal_shows_a_table_per_chip_and_no_markup(make_results):
    results = make_results()
    results.metrics["label"] = results.metrics["label"].replace("fusion", "[red]fusion")
    out = io.StringIO()
    tables.print_rich(tables.compare(results, "BitFit"), Console(file=out, width=140))
    text = out.getvalue()
    assert text.index("hfo2_neurram") < text.index("2.1 mJ") < text.index("ideal")
    # what it reaches on both chips, and what a task costs where that is known
    assert text.count("[red]fusion") == 3


def test_the_terminal_shows_energy_by_phase_time_and_wear_of_a_task_within_its_width(make_results):
    table = tables.compare(make_results(chips=("card",)), "BitFit")
    out = io.StringIO()
    tables.print_rich(table, Console(file=out, width=126))
    first, second = out.getvalue().split("cost of a task")
    assert max(map(len, out.getvalue().splitlines())) <= 126
    assert "backward" in first.splitlines()[0]
    rewritten = next(line for line in second.splitlines() if "LoRA (ReRAM once)" in line)
    by_phase = [
        "150 µJ",
        "0 J",
        "3.6 mJ",
        "2.4 mJ",
    ]  # writes; forward and backward have 60 and 40 % of what is left
    assert [rewritten.index(text) for text in by_phase] == sorted(rewritten.index(t) for t in by_phase)
    for text in (
        "1.0 ms",
        "10 µs",
        "1.5",
        "3.0",
        "33,333",
    ):  # serial, by word line, mean and worst cell, tasks left
        assert text in rewritten
    kept = next(line for line in second.splitlines() if "LoRA (SRAM)" in line)
    assert "no limit" in kept
    assert "2.0 ms" in first


def test_json_tells_what_has_no_limit_from_what_is_not_known(make_results):
    table = tables.compare(make_results(), "BitFit")
    rows = {(row["chip"], row["label"]): row for row in tables.json_rows(table)}
    assert rows["hfo2_neurram", "fusion"]["tasks_until_wear_out"] == "no limit"
    assert rows["hfo2_neurram", "LoRA (ReRAM once)"]["tasks_until_wear_out"] == 33333
    assert rows["ideal", "fusion"]["tasks_until_wear_out"] is None
    for _, row in table.iterrows():  # to the last digit
        found = rows[row["chip"], row["label"]]["task_energy_J"]
        assert found == (None if math.isnan(row["task_energy_J"]) else row["task_energy_J"])
    tiny = table.assign(switch_energy_J=1.23456789e-12)
    assert tables.json_rows(tiny)[0]["switch_energy_J"] == 1.23456789e-12
    assert json.loads(json.dumps(rows["ideal", "fusion"], allow_nan=False))["label"] == "fusion"


def test_the_worst_run_says_how_many_tasks_are_left(make_results):
    results = make_results(chips=("card",), labels=("LoRA (ReRAM once)",))
    results.metrics.loc[0, "tasks_until_wear_out"] = 17.0
    results.metrics.loc[1, "worst_wear_cycles"] = 40.0
    row = tables.rows_of(tables.compare(results, "LoRA (ReRAM once)"))[0]
    assert (row["tasks_until_wear_out"], row["worst_wear_cycles"]) == (17, 40)
    assert row["mean_wear_cycles"] == 1.5
