"""Who is cheapest: lines that meet where they should, and pass through what estimates say."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from math import fsum, inf, isnan, nextafter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossbar_experiments import crossover
from crossbar_experiments.cli import _guarded, app
from crossbar_experiments.cost_figures import _meetings
from crossbar_experiments.crossover import DAY, YEAR, Costs, Life, Region
from crossbar_experiments.errors import BenchError

POSITIVE = st.floats(1e-6, 1e6)


def contender(
    label: str, *, deploy: float = 0.0, task: float = 0.0, token: float = 0.0, **more: float
) -> Costs:
    family = "fusion" if label.startswith("fusion") else "rival"
    return Costs(label, family, deploy, task, token, **more)


@st.composite
def contenders(draw: st.DrawFn) -> list[Costs]:
    return [
        contender(name, deploy=draw(POSITIVE), task=draw(POSITIVE), token=draw(POSITIVE))
        for name in ("fusion", "lora", "vera", "full")[: draw(st.integers(2, 4))]
    ]


def test_a_life_is_counted_by_hand() -> None:
    one = contender("lora", deploy=5.0, task=2.0, token=0.25, refresh_joules=3.0, own_refresh_joules=0.5)
    assert one.total(tasks=4, tokens=8, refreshes=0) == 5 + 4 * (2 + 8 * 0.25)
    assert (
        one.total(tasks=4, tokens=8, refreshes=3) == 5 + 3 * 3 + 4 * 4
    )  # each task's write renews the arrays
    assert one.total(tasks=4, tokens=8, refreshes=6) == 5 + 6 * 3 + 3 * 0.5 + 4 * 4


@pytest.mark.parametrize(("tasks", "dates"), [(1, 4), (2, 4), (5, 4), (7, 4), (3, 0), (1, 1)])
def test_no_cell_grows_older_than_a_period(tasks: int, dates: int) -> None:
    """A life played period by period: a task that is due writes the own arrays, else they are refreshed when a period begins."""
    joules, waiting = 0.0, tasks
    for period in range(dates + 1):
        joules += 3.0 * (period > 0)  # base and pool, which deployment wrote
        if waiting:
            waiting -= 1
        else:
            joules += 0.5
    one = contender("lora", deploy=5.0, task=2.0, refresh_joules=3.0, own_refresh_joules=0.5)
    assert one.total(tasks, 0, dates) == 5 + 2 * tasks + joules


def test_cells_that_do_not_stand_such_a_life_are_told() -> None:
    one = replace(contender("lora", task=1.0), cycles=4.0, endurance=40.0)
    assert [one.worn_out(tasks) for tasks in (10, 11)] == [False, True]
    assert not replace(one, endurance=0.0).worn_out(1000)  # not known
    costs = [contender("fusion", task=2.0), one]
    told = [crossover.headline(costs, write="mid", tasks=k, tokens=1.0, dates=0) for k in (10, 11)]
    assert ["worn out" in sentence for sentence in told] == [False, True]
    worn = [row["worn_out"] for row in crossover.table(costs, tasks=(10, 11), tokens=(1.0,), dates=0)]
    assert worn == [False, False, False, True]


def test_write_time_and_wear_are_counted_by_hand() -> None:
    one = replace(
        contender("lora"), write_s=2.0, refresh_s=7.0, own_refresh_s=1.0,
        cycles=4.0, refresh_cycles=3.0, own_refresh_cycles=0.5,
    )  # fmt: skip
    assert one.write_time(10, 2) == 2 * 7 + 10 * 2
    assert one.write_time(1, 3) == 3 * 7 + 3 * 1 + 2
    assert one.wear(10, 2) == 40  # its own arrays
    assert one.wear(1, 3) == 9  # base and pool


@given(contenders(), st.integers(1, 1000), st.integers(0, 50))
def test_two_lines_cost_the_same_where_they_cross(costs: list[Costs], tasks: int, dates: int) -> None:
    one, other = costs[:2]
    tokens = crossover.crossing(one, other, tasks=tasks, refreshes=dates)
    if isnan(tokens):
        ahead = one.fixed(tasks, dates) - other.fixed(tasks, dates)
        assert ahead * (one.token_joules - other.token_joules) >= 0  # ahead at 0 tokens, and ever more so
    else:
        assert one.total(tasks, tokens, dates) == pytest.approx(other.total(tasks, tokens, dates), rel=1e-9)


@given(contenders(), st.integers(1, 1000), st.floats(1, 1e9))
@settings(max_examples=200)
def test_regions_name_the_cheapest_everywhere(costs: list[Costs], tasks: int, tokens: float) -> None:
    found = crossover.regions(costs, tasks=tasks, refreshes=0)
    assert (found[0].low, found[-1].high) == (0.0, inf)
    assert [r.high for r in found[:-1]] == [r.low for r in found[1:]]
    assert len({r.label for r in found}) == len(found)  # a line is lowest on one interval at most
    label = next(r.label for r in found if r.low <= tokens < r.high)
    energies = {each.label: each.total(tasks, tokens) for each in costs}
    assert energies[label] <= min(energies.values()) * (1 + 1e-9)


def test_fusion_wins_below_its_break_even_and_the_cheapest_rival_decides() -> None:
    costs = [
        contender("fusion", deploy=10.0, task=1.0, token=0.3),
        contender("lora", task=4.0, token=0.1),
        contender("vera", task=2.0, token=0.2),
    ]
    rows = {
        (row["rival"], row["tasks"]): (row["low"], row["high"])
        for row in crossover.break_even(costs, tasks=(1, 100), dates=0)
    }
    assert rows["lora", 100] == (0.0, pytest.approx((3.0 - 0.1) / 0.2))
    assert rows["vera", 100] == (0.0, pytest.approx((1.0 - 0.1) / 0.1))
    assert rows[crossover.CHEAPEST, 100] == (0.0, pytest.approx(9.0))
    assert all(isnan(end) for end in rows[crossover.CHEAPEST, 1])  # one task does not pay for the pool


def test_regions_of_three_lines() -> None:
    costs = [
        contender("fusion", task=1.0, token=3.0),
        contender("vera", task=2.0, token=2.0),
        contender("lora", task=6.0, token=1.0),
    ]
    assert _meetings(costs, tasks=1, dates=0) == [1.0, 4.0]  # where a figure marks another cheapest one
    assert crossover.regions(costs, tasks=1, refreshes=0) == [
        Region(0.0, 1.0, "fusion"), Region(1.0, 4.0, "vera"), Region(4.0, inf, "lora")
    ]  # fmt: skip


def test_a_tie_at_the_start_is_no_region_of_its_own() -> None:
    costs = [
        contender("fusion", task=1.0, token=3.0),
        contender("fusion, gated", task=1.0 + 1e-9, token=2.0),
    ]
    assert crossover.regions(costs, tasks=1, refreshes=0) == [Region(0.0, inf, "fusion, gated")]


def test_refreshes_of_the_pool_move_the_break_even() -> None:
    fusion = contender("fusion", task=1.0, token=0.3, refresh_joules=10.0)
    lora = contender("lora", task=4.0, token=0.1, refresh_joules=2.0)
    ends = [crossover.crossing(fusion, lora, tasks=100, refreshes=n) for n in (0, 5)]
    assert ends == pytest.approx([15.0, 15.0 - 5 * 8.0 / (100 * 0.2)])


@pytest.mark.parametrize(
    ("lifetime", "period", "dates"), [(100.0, 30.0, 3), (90.0, 30.0, 2), (10.0, 30.0, 0), (10.0, 0.0, 0)]
)
def test_refresh_dates_lie_within_the_life(lifetime: float, period: float, dates: int) -> None:
    assert Life(lifetime=lifetime, refresh_period=period).dates == dates


@pytest.mark.parametrize(
    ("lifetime", "period", "told"),
    [
        (5 * YEAR, YEAR, "5 years, 4 refreshes, one after every 1 year"),
        (YEAR, 0.0, "1 year without refresh"),
        (2 * DAY, DAY, "2 days, 1 refresh, one after every 1 day"),
        (90.0, 30.0, "90 s, 2 refreshes, one after every 30 s"),
    ],
)
def test_a_life_is_told_in_units_that_fit(lifetime: float, period: float, told: str) -> None:
    assert str(Life(lifetime=lifetime, refresh_period=period)) == told


@pytest.mark.parametrize(
    ("lifetime", "period"), [(0.0, 1.0), (-1.0, 1.0), (inf, 1.0), (1.0, -1.0), (1.0, inf)]
)
def test_impossible_lives_are_refused(lifetime: float, period: float) -> None:
    with pytest.raises(BenchError, match=r"lifetime|refresh-period"):
        Life(lifetime=lifetime, refresh_period=period)


def test_the_headline_quotes_the_cheapest_rival() -> None:
    costs = [
        contender("fusion of 20", task=1.0, token=0.3),
        contender("LoRA (SRAM)", task=9.0, token=0.1),
        contender("VeRA", task=2.0, token=0.2),
    ]
    low = crossover.headline(costs, write="low", tasks=10, tokens=5.0, dates=0)
    high = crossover.headline(costs, write="low", tasks=10, tokens=1000.0, dates=0)
    assert "the cheapest rival, VeRA, costs 3 J per task" in low
    assert "the cheapest rival, LoRA (SRAM), costs 109 J per task" in high
    assert (
        "fusion of 20 costs 2.5 J, 0.8333 times as much, and is cheaper than every rival below 10 tokens"
        in low
    )


def test_the_headline_admits_defeat() -> None:
    costs = [contender("fusion", task=2.0, token=0.3), contender("lora", task=1.0, token=0.1)]
    assert "at no number of tokens per task" in crossover.headline(
        costs, write="mid", tasks=1, tokens=10.0, dates=0
    )


def test_the_map_agrees_with_the_totals() -> None:
    from crossbar_experiments.cost_figures import cheapest_map

    costs = [
        contender("fusion", deploy=1e3, task=1.0, token=3e-3),
        contender("lora", task=6.0, token=1e-3),
    ]
    tokens, tasks, best = cheapest_map(costs, dates=0)
    for k, t in [(0, 0), (40, 0), (40, 40), (20, 10)]:
        energies = [each.total(tasks[k], tokens[t]) for each in costs]
        assert best[k, t] == int(np.argmin(energies))
    assert set(best.ravel()) == {0, 1}


def test_ranges_in_words() -> None:
    assert crossover.range_text(0.0, inf) == "always"
    assert crossover.range_text(0.0, 530.0) == "below 530"
    assert crossover.range_text(3400.0, inf) == "above 3.4 k"
    assert crossover.range_text(float("nan"), inf) == "never"
    assert crossover.range_text(1.0, nextafter(2.0, 3.0)) == "1.0 to 2.0"


# -- estimates ---------------------------------------------------------------------------------------------------------


def question(**load: Any) -> Any:
    from crossbar_experiments.estimates import Question
    from lorafusion.estimate import Workload

    given = {"length": 8, "steps": 2, "batch": 2, "calibration_texts": 4, "tokens": 8, **load}
    targets = ("attention.self.query",)
    return Question("minilm-l6", modules=3, rank=2, targets=targets, workload=Workload(**given))


@cache
def estimated(method: str, tokens: int = 8, **settings: Any) -> Any:
    return question(tokens=tokens).estimate(method, **settings)


def line(method: str, write: str = "physics", **settings: Any) -> Costs:
    from crossbar_experiments.estimates import Contender, costs_of
    from crossbar_sim.pricing import Pricing

    asked = question()
    contender = Contender(method, "rival", method, settings)
    return costs_of(contender, estimated(method, **settings), asked, Pricing(write=write).table(asked.card))


@pytest.mark.parametrize("write", ["physics", "high"])
@pytest.mark.parametrize(
    ("method", "settings"), [("fusion", {"keep": 1}), ("lora", {"placement": "reram_once"})]
)
def test_curves_pass_through_two_estimates_at_two_token_counts(
    method: str, settings: dict[str, Any], write: str
) -> None:
    from crossbar_sim.pricing import Pricing

    costs = line(method, write, **settings)
    table = Pricing(write=write).table(question().card)
    assert costs.token_joules > 0
    for tokens in (8 * 3, 8 * 200):
        rows = estimated(method, tokens, **settings).ledger.rows(table)
        once = fsum(row["energy_J"] for row in rows if row["phase"] != "refresh")
        assert costs.total(1, tokens) == pytest.approx(once, rel=1e-9)


def test_what_is_written_once_is_told_from_what_a_task_writes() -> None:
    lora, sram = line("lora", placement="reram_once"), line("lora", placement="sram")
    fusion, vera = line("fusion", keep=1), line("vera", placement="reram")
    assert lora.write_s > 0 < lora.cycles
    assert sram.write_s == sram.cycles == fusion.write_s == fusion.cycles == vera.write_s == vera.cycles == 0
    assert sram.own_refresh_joules == fusion.own_refresh_joules == 0 < lora.own_refresh_joules
    assert fusion.refresh_joules > sram.refresh_joules  # the pool is refreshed, too
    assert lora.refresh_joules == pytest.approx(sram.refresh_joules, rel=1e-9)
    assert vera.refresh_joules > sram.refresh_joules  # and so is the frozen pair
    assert lora.words == sram.words == 6 * 2 * 2 * 384


def test_costs_are_those_of_the_ledger_rows() -> None:
    """Task, refresh and wear summed here from the rows, cells counted as a pair per weight."""
    asked, found = question(), estimated("lora", placement="reram_once")
    rows = found.ledger.rows(asked.card.prices)
    base, own = 2 * 6 * 12 * 384 * 384, 2 * 6 * 2 * 2 * 384
    writes = ("set_pulse", "reset_pulse", "verify_read")

    def of(kept: str, column: str, actions: tuple[str, ...] = ()) -> float:
        chosen = {
            "refresh": lambda r: r["phase"] == "refresh",
            "task": lambda r: r["task"] == "task" and r["phase"] not in ("refresh", "deploy", "eval"),
        }[kept]
        return fsum(r[column] for r in rows if chosen(r) and (not actions or r["action"] in actions))

    line_ = line("lora", placement="reram_once")
    assert line_.task_joules == pytest.approx(of("task", "energy_J"), rel=1e-12)
    assert line_.refresh_joules == pytest.approx(of("refresh", "energy_J"), rel=1e-12)
    assert line_.own_refresh_joules == pytest.approx(of("refresh", "energy_J") * own / base, rel=1e-12)
    assert line_.write_s == pytest.approx(of("task", "time_s", writes), rel=1e-12)
    assert line_.refresh_s == pytest.approx(of("refresh", "time_s", writes), rel=1e-12)
    assert line_.own_refresh_s == pytest.approx(line_.refresh_s * own / base, rel=1e-12)
    assert line_.cycles == pytest.approx(of("task", "count", writes[:2]) / 2 / own, rel=1e-12)
    assert line_.refresh_cycles == pytest.approx(of("refresh", "count", writes[:2]) / 2 / base, rel=1e-12)
    assert line_.own_refresh_cycles == line_.refresh_cycles > 0
    assert line_.endurance == asked.card.device.endurance > 0
    # on this card the physics of cells is assumed, and the number of verify reads, with a conversion each, is that of samples
    sampled = of("task", "energy_J", (*writes, "array_read")) + 1.67e-12 * of("task", "count", writes[2:])
    assert line_.assumed == pytest.approx(sampled / line_.task_joules, rel=1e-12)
    # a task keeps what it trained, and not the frozen pair in SRAM
    assert (
        line("vera", placement="sram").words
        == 6 * (256 + 384)
        < estimated("vera", placement="sram").digital_words
    )


def test_contenders_hold_every_placement() -> None:
    from crossbar_experiments.estimates import contenders
    from lorafusion.placement import PLACEMENTS

    found = contenders(question(), keep=1)
    assert {each.settings["placement"] for each in found if each.method == "lora"} == set(PLACEMENTS)
    assert {each.method for each in found} == {"lora", "fusion", "vera", "full_finetuning"}
    with pytest.raises(BenchError, match="keep: must be less than modules"):
        contenders(question(), keep=3)


def test_the_command_answers_with_headlines_map_and_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from crossbar_experiments import crossover_show, estimates

    def some(asked: estimates.Question, *, keep: int) -> tuple[estimates.Contender, ...]:
        return estimates.contenders(asked, keep=keep)[1:4]  # gated fusion, and LoRA in two placements

    monkeypatch.setattr(crossover_show, "contenders", some)
    figure, csv = tmp_path / "x.svg", tmp_path / "x.csv"
    options = [
        "--arch",
        "minilm-l6",
        "--modules",
        "3",
        "--rank",
        "2",
        "--targets",
        "attention.self.query",
        "--keep",
        "1",
    ]
    options += ["--length", "8", "--steps", "2", "--batch", "2", "--tasks", "50"]
    code = _guarded(
        lambda **more: app(
            ["crossover", *options, "--figure", str(figure), "--csv", str(csv), "--json"], **more
        )
    )
    assert code == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["headlines"]) == {"physics", "low", "mid", "high"}
    assert all("the cheapest rival" in sentence for sentence in found["headlines"].values())
    for costs in found["contenders"].values():
        assert len(costs) == 3
    assert any("normal" in text for text in found["assumptions"])
    assert "accuracy is taken to be equal" in found["assumptions"]
    rows = [row for row in found["cheapest"] if row["write"] == "mid" and row["tasks"] == 50]
    assert rows[0]["low"] == 0
    assert rows[-1]["high"] is None  # without end
    text = figure.read_text(encoding="utf-8")
    ElementTree.fromstring(text)
    for word in (
        "minilm-l6 on cmo_hfox, backward transposed",
        "assumed numbers; accuracy is taken to be equal",
        "writes mid",
        "fusion, 1 of 3 on",
    ):
        assert word in text
    assert (
        "mathdefault" not in text
    )  # the style sheet shows dollar signs as they are, so ticks must not be mathematics
    for tick in (">100 k<", ">1 M<", ">10 k<"):
        assert tick in text
    assert "where another contender becomes the cheapest" in text
    assert len(csv.read_text().splitlines()) == 1 + 4 * 3 * 6 * 7  # prices, contenders, tasks, tokens


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--arch", "minilm-l7"], "did you mean 'minilm-l6'"),
        (["--arch", "minilm-l6", "--preset", "cmo_hfx"], "did you mean 'cmo_hfox'"),
        (["--arch", "minilm-l6", "--preset", "ideal"], "states no prices"),
        (["--arch", "minilm-l6", "--keep", "20"], "keep: must be less than modules"),
        (["--arch", "minilm-l6", "--lifetime", "-1"], "lifetime"),
        (["--arch", "minilm-l6", "--lifetime", "0"], "lifetime: must be a positive number"),
        (
            ["--arch", "minilm-l6", "--refresh-period", "-1"],
            "refresh-period: must be finite and not negative",
        ),
        (["--arch", "minilm-l6", "--figure", "x.png"], "only .svg is written"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _guarded(lambda **more: app(["crossover", *arguments], **more)) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error
