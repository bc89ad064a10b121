"""Energies that others published, and worked examples by hand, against the ledger."""

from dataclasses import replace
from math import fsum

import numpy as np
import pytest

from crossbar_sim import Chip, Ranges, preset
from crossbar_sim.circuit import Periphery, Tiles, WeightMapping
from crossbar_sim.device import Device, OpenLoop, Programming, ReadNoise, Relaxation
from crossbar_sim.presets import edit
from crossbar_sim.prices import Price, PriceTable
from crossbar_sim.pricing import Pricing
from crossbar_sim.pulse_table import pulse_table

CARD = preset("hfo2_neurram")
PICO, FEMTO = 1e-12, 1e-15


def table(**picojoules):
    """A price table of an example."""
    return PriceTable(
        "example",
        {
            name.replace("_8b", ".8b"): Price(v * PICO, "example", "published")
            for name, v in picojoules.items()
        },
    )


def example(**parts):
    """A card whose cells take any conductance at once, without noise, drift or wires."""
    card = edit(CARD, {"device.levels": parts.pop("levels", 0)})
    return replace(card, programming=None, relaxation=Relaxation(), read_noise=ReadNoise(), **parts)


def count(chip, action):
    return chip.ledger.total(action)


# -- worked examples -------------------------------------------------------------------------------------


def worked_product(subtract):
    """10 outputs x 300 inputs, tiles of 128 x 64, 2 slices, pairs in columns, 8 bits in single-bit planes, added digitally."""
    card = example(
        levels=16,
        tiles=Tiles(128, 64),
        mapping=WeightMapping(pair="columns", slices=2),
        periphery=Periphery(
            dac_bits=8, adc_bits=8, plane_bits=1, signed=False, accumulate="digital", subtract=subtract,
            read_voltage=0.2, read_width=1e-8,
        ),
    )  # fmt: skip
    chip = Chip(card)
    array = chip.program(
        np.random.default_rng(0).standard_normal((10, 300)), name="w", ranges=Ranges(1.0, -1.0, 1.0)
    )
    array.mvm(np.random.default_rng(1).uniform(0, 1, (1, 300)))
    return chip, array


def test_a_product_by_hand():
    chip, array = worked_product("analog")
    assert (array.placement.row_tiles, array.placement.col_tiles) == (3, 1)
    assert array.placement.cells == 12_000
    assert count(chip, "dac_drive") == 2_400
    assert count(chip, "array_read") == 96_000
    assert count(chip, "adc_conversion") == count(chip, "shift_add") == 480
    assert count(chip, "sram_read_bit") == 2_400
    prices = table(adc_conversion_8b=5 / 3, dac_drive=0.41667, shift_add=0.021)
    joules = fsum(
        count(chip, a) * prices.energy(a, p)
        for a, p in (("adc_conversion", "8b"), ("dac_drive", ""), ("shift_add", ""))
    )
    assert joules == pytest.approx(1_810.088 * PICO, rel=1e-9)
    assert count(worked_product("digital")[0], "adc_conversion") == 960


@pytest.mark.parametrize(("subtract", "conversions"), [("analog", 4), ("digital", 8)])
def test_array_energy_by_hand(subtract, conversions):
    # word lines of 52, 27, 47 uS; x = (3, 1, 2): the low plane drives lines 1 and 2, the high one 1 and 3: 178 uS in all
    card = example(
        device=Device(1e-6, 41e-6),
        tiles=Tiles(4, 4),
        mapping=WeightMapping(pair="columns"),
        periphery=Periphery(
            dac_bits=2, adc_bits=8, plane_bits=1, signed=False, accumulate="digital", subtract=subtract,
            read_voltage=0.2, read_width=1e-8,
        ),
    )  # fmt: skip
    chip = Chip(card)
    weight = (np.array([[10, 20, 30], [40, 5, 15]]) - 1) / 40
    array = chip.program(weight, name="w", scale=np.ones(2), ranges=Ranges(3.0, -9, 9))
    array.mvm(np.array([[3.0, 1.0, 2.0]]))
    joules = fsum(r["energy_J"] for r in chip.ledger.rows(card.prices) if r["action"] == "array_read")
    assert joules == pytest.approx(71.2 * FEMTO, rel=1e-12)
    assert (count(chip, "dac_drive"), count(chip, "adc_conversion")) == (6, conversions)
    assert count(chip, "array_read") == 2 * 12


def one_pulse(rule, *, backend="auto"):
    """A cell that one pulse of 2 V and 100 ns brings from 1 to 40 uS."""
    loop = OpenLoop(
        set_voltage=2.0, reset_voltage=2.0, set_width=1e-7, reset_width=1e-7, set_rate=1.0, reset_rate=1.0,
        bottom=0.0, top=40e-6, max_pulses=1, pulse_energy=rule,
    )  # fmt: skip
    card = example(device=Device(1e-6, 40e-6), open_loop=loop)
    chip = Chip(card, backend=backend)
    array = chip.program(np.ones((1, 1)), name="w", ranges=Ranges(1.0, -1.0, 1.0))
    np.testing.assert_allclose(np.sort(array.conductance().ravel())[-1], 40e-6)
    assert count(chip, "set_pulse") == 1
    return fsum(r["energy_J"] for r in chip.ledger.rows(card.prices) if r["action"] == "set_pulse")


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_the_energy_of_a_pulse_by_either_mean(backend):
    assert one_pulse("arithmetic", backend=backend) == pytest.approx(8.2 * PICO, rel=1e-9)
    assert one_pulse("harmonic", backend=backend) == pytest.approx(4 * 1.9512195e-6 * 1e-7, rel=1e-7)
    assert one_pulse("harmonic", backend=backend) == pytest.approx(0.780 * PICO, rel=1e-3)


@pytest.mark.parametrize("rule", ["arithmetic", "harmonic"])
def test_a_pulse_that_moves_nothing_costs_the_same_by_either_mean(rule):
    # NeuroSim's default pulse: 4 V for 50 ns on 240 kohm, 3.333 pJ; the cell is at its highest and stays there
    on = 1 / 240e3
    programming = replace(
        CARD.programming, set_start=4.0, set_end=4.0, pulse_width=5e-8, window_abs=on / 100, max_pulses=1,
        max_end_pulses=0, max_reversals=0, top=on, cycle_spread=0.0, pulse_energy=rule,
    )  # fmt: skip
    card = replace(example(device=Device(on / 100, on, start=on)), programming=programming)
    chip = Chip(card)
    array = chip.program(np.ones((1, 1)), name="w", ranges=Ranges(1.0, -1.0, 1.0))
    before = count(chip, "set_pulse")
    array.cells.target = array.cells.target + on  # beyond what the cell can reach
    heat = array.cells.program(
        array.cells.target, now=0.0, statistical=False, where=array.cells.target > 1.5 * on
    )
    assert before == 0
    assert heat.set_pulses == 1
    assert heat.set_energy == pytest.approx(3.3333 * PICO, rel=1e-4)


def test_the_mean_of_resistances_is_never_above_the_mean_of_conductances():
    weight = np.random.default_rng(0).standard_normal((20, 30))
    joules = {}
    for statistical in (False, True):
        for rule in ("arithmetic", "harmonic"):
            card = edit(CARD, {"programming.pulse_energy": rule})
            assert (card == CARD) == (rule == "arithmetic")
            chip = Chip(card, statistical=statistical, seed=1)
            array = chip.program(weight, name="w", ranges=Ranges(1.0, -1.0, 1.0))
            rows = chip.ledger.rows(card.prices)
            joules[statistical, rule] = [
                fsum(r["energy_J"] for r in rows if r["action"] == a)
                for a in ("set_pulse", "reset_pulse", "verify_read")
            ]
            joules[statistical, rule, "state"] = array.conductance().sum(), chip.ledger.total("set_pulse")
    for statistical in (False, True):
        one, two = joules[statistical, "arithmetic"], joules[statistical, "harmonic"]
        assert 0 < two[0] < one[0]
        assert 0 < two[1] < one[1]
        assert two[2] == pytest.approx(one[2], rel=1e-12)
        assert joules[statistical, "arithmetic", "state"] == joules[statistical, "harmonic", "state"]
    for action in (0, 1):  # the table of the statistical mode carries the rule
        ratios = [joules[s, "harmonic"][action] / joules[s, "arithmetic"][action] for s in (False, True)]
        assert ratios[0] == pytest.approx(ratios[1], rel=0.05)


def test_a_wrong_rule_is_told():
    with pytest.raises(
        ValueError, match=r"Programming\.pulse_energy: 'harmonics' is unknown; did you mean 'harmonic'"
    ):
        replace(CARD.programming, pulse_energy="harmonics")
    assert isinstance(CARD.programming, Programming)
    assert pulse_table(CARD.device, CARD.programming).train.harmonic is False


# -- NeuRRAM (Wan 2022, Extended Data Fig. 12, as digitised in CiMLoop's tests) --------------------------

NEURRAM = {  # input bits: (output bits, WL, neurons and control, input pulses in fJ per operation, TOPS/W)
    1: (3, 8.99, 10.62, 3.45, 43.08), 2: (4, 8.27, 12.39, 3.96, 40.33), 3: (5, 15.46, 20.12, 7.73, 23.09),
    4: (6, 21.76, 29.11, 11.51, 15.95), 5: (7, 30.93, 44.21, 14.02, 11.03), 6: (8, 37.22, 52.48, 19.24, 8.26),
    7: (9, 43.69, 61.83, 22.83, 7.75), 8: (10, 50.52, 75.86, 27.51, 6.437),
}  # fmt: skip


def neurram_counts(bits):
    """Drive phases (those of the simulator's planes; a single bit takes one) and steps of the ADC, one per output bit."""
    planes = Periphery(dac_bits=bits, plane_bits=1).planes if bits > 1 else 1
    return planes, NEURRAM[bits][0]


def test_neurram_energies_follow_phases_and_output_bits():
    measured = {bits: 1e3 / row[-1] for bits, row in NEURRAM.items()}  # fJ per operation
    ends = np.array([neurram_counts(b) for b in (1, 8)], float)
    per_phase, per_bit = np.linalg.solve(ends, [measured[1], measured[8]])
    assert per_phase == pytest.approx(21.27, abs=0.01)
    assert per_bit == pytest.approx(0.65, abs=0.01)
    error = {b: np.dot((per_phase, per_bit), neurram_counts(b)) / measured[b] - 1 for b in NEURRAM}
    assert max(abs(e) for b, e in error.items() if b != 6) < 0.085
    assert error[6] == pytest.approx(-0.078, abs=0.005)  # 10 % above the sum of its own parts
    parts = {b: fsum(row[1:4]) for b, row in NEURRAM.items()}
    assert max(abs(parts[b] / measured[b] - 1) for b in NEURRAM if b != 6) < 0.02
    assert parts[6] / measured[6] - 1 == pytest.approx(-0.10, abs=0.005)


# -- ISAAC (Shafiee 2016, 32 nm) -------------------------------------------------------------------------

IMA = {
    "adc": 16.0,
    "dac": 4.0,
    "array": 2.4,
    "input register": 1.24,
    "output register": 0.23,
    "shift-add": 0.2,
    "hold": 0.01,
}
"""Power of an in-situ multiply-accumulate unit of eight 128 x 128 arrays, mW."""
CYCLE, ARRAYS = 100e-9, 8


def isaac(read_width):
    """128 x 128 cells of 2 bits, 8 slices of an offset-coded 16-bit weight, 1-bit drivers; 8 of the 16 input bits, since all phases are alike."""
    return example(
        levels=4,
        tiles=Tiles(128, 128),
        mapping=WeightMapping(coding="offset", slices=8, weight_bits=16),
        periphery=Periphery(
            dac_bits=8, adc_bits=8, plane_bits=1, signed=False, accumulate="digital",
            read_voltage=0.2, read_width=read_width, columns_per_adc=128,
        ),
    )  # fmt: skip


def isaac_energies(read_width):
    """Joules per array and phase, by component, of full-scale weights and inputs drawn uniformly."""
    card = isaac(read_width)
    chip = Chip(card)
    random = np.random.default_rng(3)
    array = chip.program(random.uniform(-1, 1, (16, 128)), name="w", ranges=Ranges(1.0, -1.0, 1.0))
    assert array.placement.tiles == 1
    assert array.placement.cells == 128 * 128
    vectors = 50
    array.mvm(random.uniform(0, 1, (vectors, 128)))
    phases = 8 * vectors
    read = fsum(r["energy_J"] for r in chip.ledger.rows(card.prices) if r["action"] == "array_read")
    prices = {"adc_conversion": 1.5625, "dac_drive": 0.390625, "shift_add": 0.021, "sample_hold": 9.7e-6}
    found = {action: chip.ledger.total(action) * price * PICO / phases for action, price in prices.items()}
    return {**found, "array_read": read / phases}


def test_isaac_breakdown_and_its_share_of_converters():
    assert fsum(IMA.values()) == pytest.approx(24.08)
    assert IMA["adc"] / fsum(IMA.values()) == pytest.approx(0.664, abs=5e-4)
    ours = isaac_energies(1e-7)
    for action, part in (("adc_conversion", "adc"), ("dac_drive", "dac")):
        assert ours[action] == pytest.approx(IMA[part] * 1e-3 * CYCLE / ARRAYS, rel=1e-12)
    assert ours["shift_add"] == pytest.approx(IMA["shift-add"] * 1e-3 * CYCLE / ARRAYS, rel=0.08)
    # V^2 G t of whole-cycle reads is far above ISAAC's 30 pJ per array and phase: its arrays conduct for about 4 ns of these cells' current
    budget = IMA["array"] * 1e-3 * CYCLE / ARRAYS
    assert ours["array_read"] / budget == pytest.approx(22.5, rel=0.1)
    implied = 1e-7 * budget / ours["array_read"]
    ours = isaac_energies(implied)
    published = IMA["adc"] / (IMA["adc"] + IMA["dac"] + IMA["array"] + IMA["shift-add"] + IMA["hold"])
    assert ours["adc_conversion"] / fsum(ours.values()) == pytest.approx(published, abs=0.005)


# -- PUMA (Ankit 2019): constants of its simulator -------------------------------------------------------


def test_puma_writes_and_reads_lie_between_our_prices():
    cells = 128 * 128
    write, read = 21_125 * PICO / cells, 6_500 * PICO / cells
    assert write == pytest.approx(1.289 * PICO, rel=1e-3)
    assert read == pytest.approx(0.397 * PICO, rel=1e-3)
    low, mid = (Pricing(write=w).table(CARD).write.value for w in ("low", "mid"))
    assert low < write < mid
    assert write / low == pytest.approx(2.15, abs=0.01)
    ours = isaac_energies(1e-9)
    converters = (
        16 * fsum(v for action, v in ours.items() if action != "array_read") / cells
    )  # 16 phases, no cell current
    assert converters / read == pytest.approx(0.62, abs=0.02)
