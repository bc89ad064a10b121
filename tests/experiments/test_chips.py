"""Chips in configurations: effects, changes to the card and ages, each mistake with its path."""

from __future__ import annotations

import dataclasses
import tomllib
from typing import Any

import pytest
import tomli_w

from crossbar_experiments.chips import ChipConfig
from crossbar_experiments.config import (
    Cell,
    DataConfig,
    Experiment,
    ModelConfig,
    PoolConfig,
    find_config,
    load_experiment,
    parse_experiment,
)
from crossbar_experiments.deploy import make_chip
from crossbar_experiments.errors import BenchError
from crossbar_sim.presets import EFFECTS, preset
from lorafusion.methods.fusion import FusionConfig
from lorafusion.train import Training

DAY = 86400.0


def parse(chip: str) -> Experiment:
    data = tomllib.loads(f"""
        schema = 1
        name = "x"
        title = "t"
        baseline = "fusion"
        [chips.one]
        {chip}
        [methods.fusion]
        [[grid]]
        chips = ["one"]
        methods = ["fusion"]
        tasks = ["deb-use"]
        """)
    return parse_experiment(data, origin="test.toml")


def cell(chip: ChipConfig) -> Cell:
    return Cell(
        "x", "deb-use", "ours", FusionConfig(), "one", chip, 0,
        ModelConfig(), PoolConfig(), DataConfig(), Training(),
    )  # fmt: skip


def test_the_chip_reads_its_gradients_from_the_cells_by_default() -> None:
    assert ChipConfig().backward == "transposed"


def test_without_a_list_the_card_is_the_shipped_one() -> None:
    assert ChipConfig("hfo2_neurram").card() == preset("hfo2_neurram")


@pytest.mark.parametrize("ir_drop", [False, True])
def test_wires_have_resistance_only_where_asked_for(ir_drop: bool) -> None:
    assert make_chip(ChipConfig("hfo2_neurram", ir_drop=ir_drop)).ir_drop == ir_drop


@pytest.mark.parametrize("effect", EFFECTS)
def test_an_effect_alone_leaves_the_others_out(effect: str) -> None:
    card = ChipConfig("hfo2_neurram", effects=(effect,), ir_drop=effect == "ir_drop").card()
    assert bool(card.device.levels) == (effect == "levels")
    assert (card.programming is not None) == (effect == "programming")
    assert bool(card.relaxation.times) == (effect == "relaxation")
    assert card.read_noise.present == (effect == "read_noise")
    assert bool(card.periphery.adc_bits) == (effect == "converters")
    assert card.wires.present == (effect == "ir_drop")


def test_changes_are_written_with_dots_quoted_or_not() -> None:
    quoted = parse('preset = "cmo_hfox"\nset = { "mapping.copies" = 4, "programming.rounds" = 3 }')
    nested = parse('preset = "cmo_hfox"\nset = { mapping.copies = 4, programming.rounds = 3 }')
    assert quoted.chips == nested.chips
    card = nested.chips["one"].card()
    assert card.mapping.copies == 4
    assert card.programming is not None
    assert card.programming.rounds == 3
    assert card.sha256 != preset("cmo_hfox").sha256


@pytest.mark.parametrize(
    ("chip", "told"),
    [
        ('effects = ["read_nois"]', "did you mean 'read_noise'"),
        ('effects = "read_noise"', "effects: must be a list of names"),
        ('effects = ["ir_drop"]', "ir_drop"),
        ('effects = ["levels"]\nir_drop = true', "ir_drop"),
        ("set = 3", "must be a table"),
        ("set = { mapping.copis = 4 }", "did you mean 'copies'"),
        ("set = { maping.copies = 4 }", "did you mean 'mapping'"),
        ("set = { mapping.copies = 99 }", "must be 1 to 16 (got 99)"),
        ('set = { mapping.copies = "4" }', "mapping.copies"),
        ("set = { programming.rounds = 3 }", "no section 'programming'"),
        ("set = { wires.r_wl = 1.0 }", "ir_drop = true"),
        ('backward = "transpose"', "did you mean 'transposed'"),
        ('compensation = "colum"', "did you mean 'column'"),
        ("age = -1", "must not be negative"),
        ("age = 10\nevaluate_age = 5", "must not be less than age"),
        ("refresh = true", "state an age"),
    ],
)
def test_mistakes_are_told_with_their_path(chip: str, told: str) -> None:
    with pytest.raises(BenchError, match=r"test\.toml: .*chips") as caught:
        parse(f'preset = "ideal"\n{chip}' if "preset" not in chip else chip)
    assert "one" in str(caught.value)
    assert told in str(caught.value)


def test_every_setting_changes_the_identity() -> None:
    chips = [
        ChipConfig("cmo_hfox"),
        ChipConfig("cmo_hfox", effects=()),
        ChipConfig("cmo_hfox", effects=("levels",)),
        ChipConfig("cmo_hfox", set={"mapping.copies": 2}),
        ChipConfig("cmo_hfox", set={"mapping.copies": 4}),
        ChipConfig("cmo_hfox", ir_drop=True),
        ChipConfig("cmo_hfox", backward="nominal"),
        ChipConfig("cmo_hfox", age=DAY),
        ChipConfig("cmo_hfox", evaluate_age=DAY),
        ChipConfig("cmo_hfox", age=DAY, evaluate_age=DAY),
        ChipConfig("cmo_hfox", compensation="global"),
        ChipConfig("cmo_hfox", age=DAY, refresh=True),
    ]
    assert len({cell(chip).identity({}) for chip in chips}) == len(chips)


def test_every_setting_stands_in_the_cells_file() -> None:
    chip = ChipConfig("cmo_hfox", effects=("levels",), set={"mapping.copies": 2}, evaluate_age=DAY)
    told: dict[str, Any] = tomllib.loads(tomli_w.dumps(cell(chip).description()))["chip"]
    assert told["effects"] == ["levels"]
    assert told["set"] == {"mapping.copies": 2}
    assert told["evaluate_age"] == DAY
    plain = tomllib.loads(tomli_w.dumps(cell(ChipConfig()).description()))["chip"]
    assert "effects" not in plain
    assert set(plain) == {f.name for f in dataclasses.fields(ChipConfig)} - {"effects", "evaluate_age"}


def test_the_ablation_takes_each_effect_alone_and_each_remedy_on_all_of_them() -> None:
    chips = load_experiment(find_config("ablation")).chips
    alone = {
        chip.effects[0] for chip in chips.values() if chip.effects is not None and len(chip.effects) == 1
    }
    assert alone == {"levels", "programming", "relaxation", "read_noise", "converters", "faults", "ir_drop"}
    whole = chips["all_1d"]
    for name in ("rounds_3", "copies_4", "slices_2", "rounds_3_copies_4", "pairs_compensate"):
        assert chips[name].set.items() > whole.set.items()
        assert dataclasses.replace(chips[name], set=whole.set) == whole
    for name, change in (("compensated_drift", {"compensation": "none"}), ("refreshed", {"refresh": False})):
        assert chips[name] != whole
        assert dataclasses.replace(chips[name], **change) == whole


def test_the_yield_sweep_covers_its_rates_with_and_without_the_remedy() -> None:
    chips = load_experiment(find_config("yield")).chips.values()
    cards = [chip.card() for chip in chips]
    rates = {
        remedy: sorted(c.faults.rate for c in cards if c.mapping.remedy == remedy)
        for remedy in ("none", "compensate")
    }
    assert rates["none"] == pytest.approx([0.0, 1e-3, 1e-2, 1e-1])
    assert rates["compensate"] == pytest.approx([1e-3, 1e-2, 1e-1])
