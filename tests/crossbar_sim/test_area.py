"""Silicon against published tiles, and against counting by hand."""

import math
from dataclasses import replace

import pytest

from crossbar_sim import preset
from crossbar_sim.area import area, total_area
from crossbar_sim.circuit import Process
from crossbar_sim.errors import ConfigError, LedgerError

UM2 = 1e-12


def by_component(rows):
    return {row["component"]: row for row in rows}


def isaac(card, **periphery):
    """An array of ISAAC (Shafiee 2016): 128 x 128 cells at 32 nm, one-bit drivers, an 8-bit ADC shared by 128 columns."""
    return replace(
        card(
            tiles={"rows": 128, "cols": 128}, periphery={"plane_bits": 1, "columns_per_adc": 128, **periphery}
        ),
        process=Process(32e-9, "1r"),
    )


def test_an_in_situ_multiplier_of_isaac_has_its_published_converters(card):
    # Shafiee 2016, table of an IMA with 8 arrays: ADC 9,600, DAC 170, sample-and-hold 40 um2
    rows = by_component(area(isaac(card), tiles=8))
    assert rows["adc"]["count"] == 8
    assert rows["dac"]["count"] == rows["sample_hold"]["count"] == 8 * 128
    assert rows["adc"]["area_m2"] == pytest.approx(9600 * UM2, rel=1e-9)
    assert rows["dac"]["area_m2"] == pytest.approx(170 * UM2, rel=0.01)
    assert rows["sample_hold"]["area_m2"] == pytest.approx(40 * UM2, rel=0.03)


def test_cells_of_isaac_are_larger_than_published_by_a_known_factor(card):
    # 25 um2 for 128 x 128 cells (PUMA and ISAAC) is 1.5 F2 a cell, below the 4 F2 of a plane of crossing wires
    cells = by_component(area(isaac(card), tiles=1))["cells"]
    assert cells["area_m2"] == pytest.approx(128 * 128 * 4 * 1024e-18, rel=1e-12)
    assert cells["area_m2"] / (25 * UM2) == pytest.approx(2.68, abs=0.01)


def test_a_core_of_neurram_is_far_larger_than_the_parts_modelled():
    """1,270 um2 a neuron and 28 % of a core for its 256 neurons make 1.16 mm2 (Wan 2022); control and analog margins are not modelled."""
    published = 256 * 1270 * UM2 / 0.28
    assert published == pytest.approx(1.16e-6, rel=2e-3)
    rows = by_component(area(preset("hfo2_neurram"), tiles=1))
    core = [rows[name] for name in ("cells", "adc", "dac", "sample_hold", "shift_add", "input_register")]
    assert published / total_area(core) == pytest.approx(8.7, abs=0.1)
    assert 0.12 * published / rows["cells"]["area_m2"] == pytest.approx(7.9, abs=0.1)
    assert 0.21 * published / rows["dac"]["area_m2"] == pytest.approx(2.2, abs=0.1)


def test_counts_and_areas_by_hand(card):
    chosen = replace(
        card(tiles={"rows": 10, "cols": 6}, periphery={"columns_per_adc": 4}), process=Process(1e-7, "1t1r")
    )
    rows = by_component(area(chosen, tiles=3, digital_words=7, cores=2))
    counts = {name: row["count"] for name, row in rows.items()}
    lanes = 2 * 128
    assert counts == {
        "cells": 180, "adc": 6, "dac": 30, "sample_hold": 18, "shift_add": 6, "input_register": 30,
        "task state": 7 * 32, "multiplier": lanes, "adder": lanes, "function": lanes,
    }  # fmt: skip
    assert rows["cells"]["area_m2"] == pytest.approx(180 * 16 * 1e-14)
    assert rows["adc"]["area_m2"] == pytest.approx(6 * 1200 * UM2)
    assert rows["task state"]["area_m2"] == pytest.approx(224 * 3920 / 16384 * UM2, rel=1e-4)
    assert total_area(list(rows.values())) == math.fsum(row["area_m2"] for row in rows.values())
    back = by_component(area(chosen, tiles=3, transposed=True))
    assert {n: back[n]["count"] for n in ("cells", "adc", "dac", "sample_hold")} == {
        "cells": 180, "adc": 3 * (2 + 3), "dac": 3 * 16, "sample_hold": 3 * 16,
    }  # fmt: skip


def test_marks_and_sources_are_those_of_the_weakest_number():
    published, assumed = (by_component(area(preset(n), tiles=1)) for n in ("hfo2_neurram", "cmo_hfox"))
    assert published["cells"]["mark"] == "published"
    assert assumed["cells"]["mark"] == "assumed"
    assert published["adder"]["mark"] == "assumed"  # the number of lanes is
    assert "Aladdin" in published["adder"]["source"]
    assert "NeuroSim" in assumed["cells"]["source"]


def test_what_is_not_stated_is_not_known_and_what_has_no_area_is_an_error(card):
    rows = by_component(area(replace(card(periphery={"adc_bits": 0}), process=None), tiles=1))
    assert math.isnan(rows["cells"]["area_m2"])
    assert math.isnan(rows["adc"]["area_m2"])
    with pytest.raises(LedgerError, match=r"no area for 'dac\.5b'"):
        area(card(periphery={"dac_bits": 5}), tiles=1)
    with pytest.raises(ConfigError, match="has no prices"):
        area(preset("ideal"), tiles=1)
    with pytest.raises(ConfigError, match=r"tiles: must not be negative \(got -1\)"):
        area(card(), tiles=-1)
    with pytest.raises(ConfigError, match=r"Process\.node: must be positive"):
        Process(0.0)
    with pytest.raises(ConfigError, match="did you mean '1t1r'"):
        Process(1e-7, "1tr1")
