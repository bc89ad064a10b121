"""Cards built on cards, edited cards, single non-idealities, and cards from measurements."""

import csv
from dataclasses import fields, replace

import numpy as np
import pytest
from numpy.polynomial import polynomial
from scipy.stats import chi2

from crossbar_sim import Chip, ConfigError, MappingError, noise, preset, presets
from crossbar_sim.card_file import SECTIONS
from crossbar_sim.card_fit import error_law, fit_card, read_csv
from crossbar_sim.card_units import unit
from crossbar_sim.circuit import WeightMapping
from crossbar_sim.fit import response
from crossbar_sim.mapping import normalised
from crossbar_sim.presets import EFFECTS, edit, only

CHILD = """
name = "child"
title = "A test card"
base = "{base}"
[sources]
own = "measured"
[device]
g_max = {{ value = 30e-6, mark = "published", source = "own" }}
"""


def told(function, *arguments, **options):
    with pytest.raises(ConfigError) as error:
        function(*arguments, **options)
    return str(error.value)


# -- base ------------------------------------------------------------------------------------------------


def test_a_card_states_only_what_differs_from_its_base(tmp_path):
    path = tmp_path / "child.toml"
    path.write_text(CHILD.format(base="hfo2_neurram"))
    child, base = preset(path), preset("hfo2_neurram")
    assert (child.name, child.title) == ("child", "A test card")
    assert child.device == replace(base.device, g_max=30e-6)
    for section in set(SECTIONS) - {"device"}:
        assert getattr(child, section) == getattr(base, section)
    assert child.provenance["device.g_max"].source == "own"
    assert {k: v for k, v in child.provenance.items() if k != "device.g_max"} == {
        k: v for k, v in base.provenance.items() if k != "device.g_max"
    }
    assert child.sources == {**base.sources, "own": "measured"}
    assert child.prices == base.prices
    assert child.sha256 != base.sha256


def test_the_sha256_covers_the_base_file(tmp_path):
    (tmp_path / "parent.toml").write_text(CHILD.format(base="hfo2_neurram").replace("own", "theirs"))
    (tmp_path / "child.toml").write_text(CHILD.format(base="parent.toml"))
    before = preset(tmp_path / "child.toml")
    assert before.sources["theirs"] == "measured"
    parent = tmp_path / "parent.toml"
    parent.write_text(parent.read_text() + "# another word\n")
    assert preset(tmp_path / "child.toml").sha256 != before.sha256


def test_bases_in_a_circle_are_told(tmp_path):
    for name, base in (("a", "b"), ("b", "a")):
        (tmp_path / f"{name}.toml").write_text(CHILD.format(base=f"{base}.toml"))
    assert "goes in a circle" in told(preset, tmp_path / "a.toml")
    (tmp_path / "a.toml").write_text(CHILD.format(base="a.toml"))
    assert "goes in a circle" in told(preset, tmp_path / "a.toml")


def test_a_wrong_base_is_told(tmp_path):
    path = tmp_path / "child.toml"
    path.write_text(CHILD.format(base="hfo2_neuram"))
    assert "did you mean 'hfo2_neurram'" in told(preset, path)
    path.write_text(CHILD.format(base="hfo2_neurram").replace('base = "hfo2_neurram"', "base = 3"))
    assert "base: must be a card's name or a path (got 3)" in told(preset, path)


def test_a_source_keeps_its_text(tmp_path):
    path = tmp_path / "child.toml"
    path.write_text(CHILD.format(base="hfo2_neurram").replace("own", "wan2022"))
    assert "sources.wan2022: is already a source of the base" in told(preset, path)


# -- the shipped cards ---------------------------------------------------------------------------------------


def test_agasi_has_neurosims_curve():
    card = preset("agasi_neurosim")
    law, device = card.open_loop, card.device
    up = law.top + (device.g_min - law.top) * (1 - law.set_rate) ** 97
    down = law.bottom + (device.g_max - law.bottom) * (1 - law.reset_rate) ** 100
    assert up == pytest.approx(device.g_max, rel=1e-4)
    assert down == pytest.approx(device.g_min, rel=1e-3)
    assert -1 / (97 * np.log(1 - law.set_rate)) == pytest.approx(0.499181, rel=1e-5)
    assert -1 / (100 * np.log(1 - law.reset_rate)) == pytest.approx(0.200303, rel=1e-5)


def test_neurosim_ideal_takes_one_pulse_per_level_on_a_straight_line():
    card = preset("neurosim_ideal")
    law, device = card.open_loop, card.device
    pulses = np.arange(64)
    step = device.span / 63
    up = law.top + (device.g_min - law.top) * (1 - law.set_rate) ** pulses
    down = law.bottom + (device.g_max - law.bottom) * (1 - law.reset_rate) ** pulses
    assert np.abs(up - (device.g_min + step * pulses)).max() < 0.01 * step
    assert np.abs(down - (device.g_max - step * pulses)).max() < 0.01 * step


@pytest.mark.parametrize("age", [1.0, 3.156e8])
def test_the_2_percent_card_adds_residual_and_relaxation_as_independent_errors(age):
    card, narrow = preset("cmo_hfox_2pct"), preset("cmo_hfox")
    g = np.linspace(9e-6, 88.19e-6, 50)
    expected = np.hypot(1e-6 * (0.0112185 + 0.0112903e6 * g), noise.total_sigma(g, age, narrow.relaxation))
    assert noise.total_sigma(g, age, card.relaxation) == pytest.approx(expected, abs=4e-9)
    assert card.programming.window_rel == 0.02
    assert card.programming.set_rate == narrow.programming.set_rate


@pytest.mark.parametrize("name", presets())
def test_every_card_holds_a_matrix(name):
    weight = np.random.default_rng(0).standard_normal((24, 40))
    read = np.asarray(Chip(name, seed=1).program(weight, name="a").read_weights())
    least = {"hfo2_array": 0.5, "hfo2_array_optimised": 0.5, "agasi_neurosim": 0.93}.get(name, 0.98)
    assert np.corrcoef(read.ravel(), weight.ravel())[0, 1] > least


@pytest.mark.parametrize(
    ("name", "pulses", "spread", "offset"),
    [("hfox_milo", 10.0, 3.5e-6, 0.1e-6), ("cmo_hfox_2pct", 10.0, 0.57e-6, 0.1e-6)],
)
def test_fitted_responses_keep_their_promises(name, pulses, spread, offset):
    card = preset(name)
    found = response(card.device, card.programming, side=128)
    assert found.pulses == pytest.approx(pulses, rel=0.05)
    assert found.converged > 0.99
    assert found.residual == pytest.approx(spread, rel=0.2)
    assert abs(found.offset) < offset


def test_open_loop_arrays_scale_weights_to_their_range():
    for name, step, noise_steps in (("hfo2_array", 0.4622, 0.5841), ("hfo2_array_optimised", 0.0949, 1.4113)):
        card = preset(name)
        assert card.open_loop.set_rate == step
        assert card.open_loop.write_noise == pytest.approx(
            card.device.span / 2 * step * noise_steps, rel=1e-4
        )
        assert (card.open_loop.bottom, card.open_loop.top) == (card.device.g_min, card.device.g_max)
        assert card.faults.stuck_undefined > 0.09


def test_pcm_books_no_energy_as_its_writes_are_not_modelled():
    card = preset("pcm_joshi")
    assert card.programming is None
    assert card.open_loop is None
    assert card.prices is None
    assert "not ReRAM" in card.title


def test_programming_sigmas_of_the_published_tables():
    g = np.array([9e-6, 50e-6, 88.19e-6])
    cmo = noise.residual_sigma(g, preset("cmo_hfox_2pct").programming)
    assert 1e6 * cmo == pytest.approx([0.1128, 0.5757, 1.0069], abs=1e-4)
    milo = noise.residual_sigma(np.array([50e-6, 100e-6, 225e-6]), preset("hfox_milo").programming)
    assert 1e6 * milo == pytest.approx([4.33, 3.87, 2.73], abs=5e-3)


# -- edit ------------------------------------------------------------------------------------------------


def test_edits_are_marked_and_change_the_sha256():
    card = preset("hfo2_neurram")
    edited = edit(card, {"mapping.copies": 4, "programming.rounds": 3, "relaxation.times": [1, 2, 3]})
    assert (edited.mapping.copies, edited.programming.rounds) == (4, 3)
    assert edited.relaxation.times == (1.0, 2.0, 3.0)
    for path in ("mapping.copies", "programming.rounds", "relaxation.times"):
        assert (edited.provenance[path].mark, edited.provenance[path].source) == ("assumed", "edited")
    assert "edited" in edited.sources
    assert edited.sha256 != card.sha256
    assert edit(card, {"mapping.copies": 2}).sha256 != edited.sha256


def test_edits_add_up_in_any_order_and_none_is_none():
    card = preset("hfo2_neurram")
    both = edit(card, {"mapping.copies": 4, "tiles.rows": 128})
    assert edit(edit(card, {"tiles.rows": 128}), {"mapping.copies": 4}) == both
    assert edit(card, {}) is card
    assert edit(card, {"mapping.copies": card.mapping.copies}) is card


def test_an_edited_width_changes_the_latency():
    card = edit(preset("cmo_hfox"), {"periphery.read_width": 1e-6, "programming.pulse_width": 2e-6})
    assert card.prices.seconds("array_read") == 1e-6
    assert card.prices.seconds("set_pulse") == 2e-6


def test_bad_edits_are_told_all_at_once():
    message = told(
        edit,
        preset("hfo2_neurram"),
        {
            "maping.copies": 4,
            "mapping.copis": 4,
            "device": 3,
            "open_loop.top": 1.0,
            "programming.rounds": 2.5,
            "periphery.signed": 1,
            "relaxation.times": 3.0,
            "tiles.rows": 0,
        },
    )
    for part in (
        "maping.copies: unknown section 'maping'; did you mean 'mapping'",
        "mapping.copis: unknown entry 'copis'; did you mean 'copies'",
        "device: unknown entry ''",
        "open_loop.top: this card has no section 'open_loop'",
        "programming.rounds: value 2.5 is not of type int",
        "periphery.signed: value 1 is not of type bool",
        "relaxation.times: value 3.0 is not of type",
        "Tiles.rows: must be 1 to 1024 (got 0)",
    ):
        assert part in message, part


# -- only ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", presets())
def test_all_effects_are_the_card_and_none_is_an_ideal_one(name):
    card = preset(name)
    assert only(card, EFFECTS) is card
    bare = only(card, ())
    assert bare.programming is None
    assert bare.open_loop is None
    present = [bare.device.levels, bare.relaxation.times, bare.drift.present, bare.read_noise.present]
    present += [bare.periphery.dac_bits, bare.periphery.adc_bits, bare.faults.rate, bare.wires.present]
    present += [bare.device.strength_spread, bare.device.low_spread, bare.device.endurance]
    assert not any(present)
    assert set(bare.provenance) <= set(card.provenance)
    assert all(getattr(bare, path.split(".")[0]) is not None for path in bare.provenance)


def test_each_effect_alone_is_the_cards_own():
    card = edit(
        preset("hfo2_neurram"),
        {"mapping.slices": 2, "faults.stuck_low": 0.01, "drift.start": 1.0, "device.low_spread": 0.1},
    )
    changes = {
        "levels": ("device", "mapping"),
        "programming": ("programming",),
        "relaxation": ("relaxation", "drift"),
        "read_noise": ("read_noise",),
        "converters": ("periphery",),
        "spread": ("device",),
        "faults": ("faults",),
        "wear": ("device",),
        "ir_drop": ("wires",),
    }
    assert set(changes) == set(EFFECTS)
    bare = only(card, ())
    shas = {bare.sha256, card.sha256}
    for effect, sections in changes.items():
        alone = only(card, [effect])
        different = {f.name for f in fields(alone) if getattr(alone, f.name) != getattr(bare, f.name)}
        assert different - {"sha256", "provenance", "prices"} == set(sections), effect
        shas.add(alone.sha256)
    assert len(shas) == len(EFFECTS) + 2
    assert only(card, ["levels"]).mapping.slices == 2
    assert only(card, ["programming"]).programming.cycle_spread == 0


def test_an_unknown_effect_is_told():
    assert "did you mean 'relaxation'" in told(only, preset("ideal"), ["relaxtion"])


def test_one_name_is_no_list_of_effects():
    assert told(only, preset("ideal"), "relaxation") == 'effects: give a list of names: ["relaxation"]'


def test_cards_are_edited_and_reduced_by_name_too():
    card = preset("hfo2_neurram")
    assert edit("hfo2_neurram", {"mapping.copies": 2}) == edit(card, {"mapping.copies": 2})
    assert only("hfo2_neurram", ["levels"]) == only(card, ["levels"])
    assert "did you mean 'hfo2_neurram'" in told(edit, "hfo2_neuram", {})


# -- slices that hold nothing ----------------------------------------------------------------------------


def test_a_slice_whose_digit_is_always_zero_is_refused():
    assert told(edit, "hfo2_neurram", {"mapping.slices": 3, "mapping.weight_bits": 8}) == (
        "WeightMapping.slices: 3 slices of 16 levels hold integers to 4095, but weight_bits 8 uses 127, "
        "so the top slice would hold nothing; use 2 slices, or weight_bits 0"
    )
    assert "use 1 slice, or" in told(edit, "hfo2_neurram", {"mapping.slices": 3, "mapping.weight_bits": 5})


@pytest.mark.parametrize("coding", ["one_sided", "two_sided", "offset"])
@pytest.mark.parametrize("bits", range(2, 17))
def test_slices_are_refused_where_the_top_digit_of_a_full_weight_is_zero(coding, bits):
    card = edit("hfo2_neurram", {"device.levels": 4, "mapping.coding": coding, "mapping.pair": "columns"})
    for slices in range(2, 8):
        how = WeightMapping(coding=coding, slices=slices, weight_bits=bits)
        try:
            full = normalised(np.linspace(-1, 1, 2001), how, card.device)[-1]
        except MappingError:  # too few slices, which is told when the weight is programmed
            continue
        changes = {"mapping.slices": slices, "mapping.weight_bits": bits}
        if full.any():
            assert edit(card, changes).mapping.slices == slices
        else:
            assert "the top slice would hold nothing" in told(edit, card, changes)


# -- fit -------------------------------------------------------------------------------------------------


def write(path, rows, header=("target_uS", "time_s", "measured_uS")):
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(header)
        table.writerows(rows)
    return path


def neurram_readings(*, times=(1.0, 86400.0), each=200, seed=0):
    law = preset("hfo2_neurram").relaxation
    draw = np.random.default_rng(seed)
    target = np.repeat(np.linspace(10e-6, 40e-6, 16), each)
    for time in times:
        sigma = noise.total_sigma(target, time, law) if time else np.full(target.shape, 0.577e-6)
        measured = np.maximum(target + sigma * draw.standard_normal(target.size), 0.0)
        yield from ((f"{1e6 * g:.6g}", time, f"{1e6 * m:.6g}") for g, m in zip(target, measured, strict=True))


def test_data_of_a_card_give_back_its_sigma_within_error(tmp_path):
    data = write(tmp_path / "cells.csv", neurram_readings())
    found = fit_card(data, name="mine", today="2020-01-01")
    path = tmp_path / "mine.toml"
    path.write_text(found.text)
    card, truth = preset(path), preset("hfo2_neurram")
    assert (card.device.g_min, card.device.g_max) == pytest.approx((10e-6, 40e-6))
    assert card.provenance["relaxation.sigma"].mark == "derived"
    assert card.sources["measured"] == "Measured: cells.csv, fitted 2020-01-01"
    g = np.linspace(10e-6, 40e-6, 13)
    for law in found.laws:
        fitted = noise.total_sigma(g, law.time, card.relaxation)
        assert fitted == pytest.approx(law.sigma_at(g), rel=1e-5)
        error = np.abs(fitted - noise.total_sigma(g, law.time, truth.relaxation)) / law.sigma_error(g)
        assert error.max() < 4.0
        assert law.sigma_error(g).max() < 0.05 * law.sigma_at(g).max()
        assert np.abs(noise.mean_shift(g, law.time, card.relaxation)).max() < 0.3e-6
        assert law.p > 0.001
        assert law.misfit < 2 * law.expected


def test_standard_errors_are_right():
    draw = np.random.default_rng(3)
    target = np.repeat(np.linspace(1e-6, 10e-6, 10), 40)
    truth = 0.2e-6 + 0.03 * target
    at = np.array([1e-6, 5e-6, 10e-6])
    pulls = []
    for _ in range(150):
        law = error_law(target, target + truth * draw.standard_normal(target.size), time=1.0, reference=10e-6)
        pulls.append((law.sigma_at(at) - (0.2e-6 + 0.03 * at)) / law.sigma_error(at))
    for column in np.array(pulls).T:
        low, high = chi2.ppf([1e-5, 1 - 1e-5], column.size) / column.size
        assert low * 0.8 < np.mean(column**2) < high * 1.25


def test_a_wrong_law_is_seen_in_the_goodness_of_fit():
    draw = np.random.default_rng(4)
    target = np.repeat(np.linspace(10e-6, 40e-6, 16), 100)
    law = error_law(target, target + 1e-6 * draw.standard_cauchy(target.size), time=1.0, reference=40e-6)
    assert law.p < 1e-6


def test_the_first_read_gives_the_residual_and_pulses_the_response(tmp_path):
    header = ("pulses", "target_uS", "time_s", "measured_uS")
    rows = [(9 if time == 0 else "", g, time, m) for g, time, m in neurram_readings(times=(0, 1.0), each=30)]
    data = write(tmp_path / "cells.csv", rows, header)
    found = fit_card(data, name="mine", base="hfo2_neurram")
    (tmp_path / "mine.toml").write_text(found.text)
    card, base = preset(tmp_path / "mine.toml"), preset("hfo2_neurram")
    g = np.linspace(12e-6, 38e-6, 5)
    assert polynomial.polyval(g, card.programming.residual) == pytest.approx(0.577e-6 * np.ones(5), rel=0.25)
    assert found.pulses == 9
    assert card.programming.set_rate != base.programming.set_rate
    assert card.provenance["programming.set_rate"].mark == "assumed"
    assert card.programming.window_abs == base.programming.window_abs
    assert "has no write-verify" in told(fit_card, data, name="mine", base="ideal")
    smooth = tmp_path / "smooth.toml"
    smooth.write_text(
        CHILD.format(base="hfo2_neurram") + 'levels = { value = 0, mark = "published", source = "own" }'
    )
    assert "has no levels" in told(fit_card, data, name="mine", base=str(smooth))


def test_a_fitted_card_can_be_a_base(tmp_path):
    data = write(tmp_path / "cells.csv", neurram_readings(each=10))
    (tmp_path / "one.toml").write_text(fit_card(data, name="one").text)
    again = fit_card(data, name="two", base=str(tmp_path / "one.toml"))
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "two.toml").write_text(again.text)
    assert preset(tmp_path / "deeper" / "two.toml").name == "two"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "column 'target_uS' is missing"),
        ("target_us,time_s,measured_uS\n", "line 1: unknown column 'target_us'; did you mean 'target_uS'"),
        ("target_uS,time_s,measured_uS,time_s\n", "column 'time_s' stands twice"),
        ("target_uS,time_s,measured_uS\n", "has no readings"),
        ("target_uS,time_s,measured_uS\n1,1,2\n\n1,one,2\n", "line 4: time_s: 'one' is not a number"),
        (
            "target_uS,time_s,measured_uS\n1,0.5,2\n",
            "line 2: time_s: must be 0 (the accepting read) or at least 1",
        ),
        (
            "target_uS,time_s,measured_uS\n1,1,-2\n",
            "line 2: measured_uS: must be a number of at least 0 (got -2)",
        ),
        ("target_uS,time_s,measured_uS\n1,1,nan\n", "line 2: measured_uS: must be a number"),
        ("target_uS,time_s,measured_uS\n1,1\n", "line 2: has 2 fields, the header 3"),
        ("target_uS,time_s,measured_uS\n1,1,2\n2,1,2\n", "2 readings at 1 s; at least 30 are needed"),
        ("target_uS,time_s,measured_uS\n" + 40 * "1,1,2\n", "all targets are the same"),
        ("target_uS,time_s,measured_uS\n" + 40 * "1,1,1\n2,1,2\n", "have no spread"),
    ],
)
def test_mistakes_in_a_file_are_told_with_their_line(tmp_path, text, words):
    path = tmp_path / "cells.csv"
    path.write_text(text)
    assert words in told(fit_card, path, name="mine")


def test_a_missing_file_is_told(tmp_path):
    assert "give the path of a CSV table" in told(read_csv, tmp_path / "none.csv")


# -- units -----------------------------------------------------------------------------------------------


def test_units():
    assert unit("device.g_min") == unit("open_loop.top") == unit("relaxation.sigma") == "S"
    assert unit("programming.set_rate") == unit("mapping.copies") == ""
    assert unit("wires.r_wl") == "ohm"
    assert unit("price.adc_conversion.8b") == "J"
