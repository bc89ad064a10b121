"""Wrong values of a description are refused by a sentence that names field, value and remedy."""

import re
from dataclasses import fields, replace

import pytest

from crossbar_sim import ConfigError, preset
from crossbar_sim.circuit import Periphery, Tiles, WeightMapping, Wires
from crossbar_sim.device import Device, Drift, Faults, OpenLoop, ReadNoise, Relaxation

GOOD = {
    Device: {"g_min": 1e-6, "g_max": 4e-5},
    OpenLoop: {
        "set_voltage": 1.0,
        "reset_voltage": 1.0,
        "set_width": 1e-6,
        "reset_width": 1e-6,
        "set_rate": 0.1,
        "reset_rate": 0.1,
        "bottom": 1e-6,
        "top": 4e-5,
        "max_pulses": 20,
    },
}

# kind, wrong fields, what the message must say of field, value and remedy
WRONG = [
    (Relaxation, {"reference": 0.0}, "Relaxation.reference: must be positive (got 0)"),
    (ReadNoise, {"read_time": 5.0}, "ReadNoise.read_time: must be at most 1 s (got 5)"),
    (
        Periphery,
        {"adc_gain": 0.5},
        "Periphery.adc_gain: must be below 0.15, so that no ADC inverts (got 0.5)",
    ),
    (Device, {"g_min": -1e-6}, "Device.g_min: must not be negative (got -1e-06 S)"),
    (Device, {"g_min": 4e-5}, "Device.g_max: must exceed g_min (got 4e-05 <= 4e-05)"),
    (Device, {"levels": 1}, "Device.levels: must be 0 (continuous) or 2 to 256 (got 1)"),
    (Device, {"levels": 257}, "Device.levels: must be 0 (continuous) or 2 to 256 (got 257)"),
    (Device, {"start": -1.0}, "Device.start: must not be negative (got -1.0)"),
    (Device, {"strength_spread": -0.1}, "Device.strength_spread: must not be negative (got -0.1)"),
    (Device, {"low_spread": -0.1}, "Device.low_spread: must not be negative (got -0.1)"),
    (Device, {"high_spread": -0.1}, "Device.high_spread: must not be negative (got -0.1)"),
    (Device, {"endurance": -5.0}, "Device.endurance: must not be negative (got -5)"),
    (Device, {"endurance_decades": -1.0}, "Device.endurance_decades: must not be negative (got -1)"),
    (OpenLoop, {"set_width": 0.0}, "OpenLoop.set_width: must be positive (got 0)"),
    (OpenLoop, {"reset_width": -1.0}, "OpenLoop.reset_width: must be positive (got -1)"),
    (OpenLoop, {"set_rate": 0.0}, "OpenLoop.set_rate: must be in (0, 1] (got 0)"),
    (OpenLoop, {"reset_rate": 1.5}, "OpenLoop.reset_rate: must be in (0, 1] (got 1.5)"),
    (OpenLoop, {"top": 1e-6}, "OpenLoop.top: must exceed bottom (got 1e-06, 1e-06)"),
    (OpenLoop, {"max_pulses": 0}, "OpenLoop.max_pulses: must be 1 to 128 (got 0)"),
    (OpenLoop, {"max_pulses": 129}, "OpenLoop.max_pulses: must be 1 to 128 (got 129)"),
    (OpenLoop, {"cycle_spread": -1.0}, "OpenLoop.cycle_spread: must not be negative (got -1)"),
    (OpenLoop, {"cycle_noise": -1.0}, "OpenLoop.cycle_noise: must not be negative (got -1)"),
    (OpenLoop, {"write_noise": -1.0}, "OpenLoop.write_noise: must not be negative (got -1)"),
    (Faults, {"stuck_low": -0.1}, "Faults.stuck_low: must not be negative (got -0.1)"),
    (Faults, {"stuck_high": -0.1}, "Faults.stuck_high: must not be negative (got -0.1)"),
    (Faults, {"stuck_undefined": -0.1}, "Faults.stuck_undefined: must not be negative (got -0.1)"),
    (
        Faults,
        {"stuck_low": 0.7, "stuck_high": 0.4},
        "Faults.stuck_undefined: the three shares exceed 1 (sum 1.1)",
    ),
    (
        Relaxation,
        {"times": (1.0,)},
        "Relaxation.sigma: needs one row for each of the 1 times (sigma 0, mean 0)",
    ),
    (Relaxation, {"times": (2.0, 1.0), "sigma": ((), ()), "mean": ((), ())}, "Relaxation.times: must rise"),
    (
        Relaxation,
        {"times": (0.5,), "sigma": ((),), "mean": ((),)},
        "Relaxation.times: must rise and be at least 1 s",
    ),
    (Drift, {"start": -1.0}, "Drift.start: must not be negative (got -1)"),
    (Drift, {"reference": 0.0}, "Drift.reference: must be positive (got 0)"),
    (Drift, {"mu": (0.0, 0.1)}, "Drift.mu: must be (a, b, low, high) (got 2 numbers)"),
    (Drift, {"sigma": ()}, "Drift.sigma: must be (a, b, low, high) (got 0 numbers)"),
    (ReadNoise, {"flicker": -0.1}, "ReadNoise.flicker: must not be negative (got -0.1)"),
    (ReadNoise, {"exponent": -0.1}, "ReadNoise.exponent: must not be negative (got -0.1)"),
    (ReadNoise, {"cap": -0.1}, "ReadNoise.cap: must not be negative (got -0.1)"),
    (ReadNoise, {"delay": -1.0}, "ReadNoise.delay: must not be negative (got -1)"),
    (ReadNoise, {"reference": 0.0}, "ReadNoise.reference: must be positive (got 0)"),
    (ReadNoise, {"read_time": 0.0}, "ReadNoise.read_time: must be positive (got 0)"),
    (ReadNoise, {"constant": 1e-7, "flicker": 0.1}, "ReadNoise: give one law (got constant, flicker)"),
    (Tiles, {"rows": 0}, "Tiles.rows: must be 1 to 1024 (got 0)"),
    (Tiles, {"cols": 1025}, "Tiles.cols: must be 2 to 1024 (got 1025)"),
    (Tiles, {"count": -1}, "Tiles.count: must not be negative (got -1)"),
    (Wires, {"r_wl": -0.1}, "Wires.r_wl: must not be negative (got -0.1)"),
    (Wires, {"r_bl": -0.1}, "Wires.r_bl: must not be negative (got -0.1)"),
    (Wires, {"ladder": "gate"}, "Wires.ladder: 'gate' is unknown; did you mean 'gated'?"),
    (
        WeightMapping,
        {"coding": "onesided"},
        "WeightMapping.coding: 'onesided' is unknown; did you mean 'one_sided'?",
    ),
    (WeightMapping, {"pair": "column"}, "WeightMapping.pair: 'column' is unknown; did you mean 'columns'?"),
    (
        WeightMapping,
        {"scale": "columns"},
        "WeightMapping.scale: 'columns' is unknown; did you mean 'column'?",
    ),
    (WeightMapping, {"split": "equall"}, "WeightMapping.split: 'equall' is unknown; did you mean 'equal'?"),
    (WeightMapping, {"offset": "unit"}, "WeightMapping.offset: 'unit' is unknown"),
    (WeightMapping, {"remedy": "masks"}, "WeightMapping.remedy: 'masks' is unknown; did you mean 'mask'?"),
    (WeightMapping, {"slices": 0}, "WeightMapping.slices: must be 1 to 16 (got 0)"),
    (WeightMapping, {"copies": 17}, "WeightMapping.copies: must be 1 to 16 (got 17)"),
    (WeightMapping, {"weight_bits": 1}, "WeightMapping.weight_bits: must be 0 or 2 to 16 (got 1)"),
    (WeightMapping, {"weight_bits": 17}, "WeightMapping.weight_bits: must be 0 or 2 to 16 (got 17)"),
    (WeightMapping, {"spare_columns": -1}, "WeightMapping.spare_columns: must not be negative (got -1)"),
    (WeightMapping, {"coding": "offset", "remedy": "mask"}, "WeightMapping.remedy: 'mask' needs a pair"),
    (Periphery, {"dac_bits": 1}, "Periphery.dac_bits: must be 0 (ideal) or 2 to 8 (got 1)"),
    (Periphery, {"dac_bits": 9}, "Periphery.dac_bits: must be 0 (ideal) or 2 to 8 (got 9)"),
    (Periphery, {"dac_bits": 9, "signed": False}, "Periphery.dac_bits: must be 0 (ideal) or 1 to 8 (got 9)"),
    (Periphery, {"adc_bits": 1}, "Periphery.adc_bits: must be 0 (ideal) or 2 to 16 (got 1)"),
    (Periphery, {"adc_bits": 17}, "Periphery.adc_bits: must be 0 (ideal) or 2 to 16 (got 17)"),
    (Periphery, {"columns_per_adc": 0}, "Periphery.columns_per_adc: must be at least 1 (got 0)"),
    (
        Periphery,
        {"dac_bits": 4, "plane_bits": 4},
        "Periphery.plane_bits: must be 0 to 3, the bits of a code's",
    ),
    (Periphery, {"plane_bits": 1}, "Periphery.plane_bits: must be 0 to 0"),
    (
        Periphery,
        {"accumulate": "analogue"},
        "Periphery.accumulate: 'analogue' is unknown; did you mean 'analog'?",
    ),
    (Periphery, {"subtract": "digitl"}, "Periphery.subtract: 'digitl' is unknown; did you mean 'digital'?"),
    (
        Periphery,
        {"adc_range": "calibrate"},
        "Periphery.adc_range: 'calibrate' is unknown; did you mean 'calibrated'?",
    ),
    (Periphery, {"adc_scope": "tiles"}, "Periphery.adc_scope: 'tiles' is unknown; did you mean 'tile'?"),
    (Periphery, {"scaling": "per_batch"}, "Periphery.scaling: 'per_batch' is unknown"),
    (Periphery, {"adc_offset": -1.0}, "Periphery.adc_offset: must not be negative (got -1)"),
    (Periphery, {"adc_gain": -1.0}, "Periphery.adc_gain: must not be negative (got -1)"),
    (Periphery, {"adc_noise": -1.0}, "Periphery.adc_noise: must not be negative (got -1)"),
    (
        Periphery,
        {"adc_noise": 0.5},
        "Periphery.adc_noise: needs an ADC with codes (adc_bits is 0, adc_noise 0.5)",
    ),
    (Periphery, {"column_clip": -1.0}, "Periphery.column_clip: must not be negative (got -1)"),
    (Periphery, {"read_voltage": -0.1}, "Periphery.read_voltage: must not be negative (got -0.1)"),
    (Periphery, {"read_width": -1.0}, "Periphery.read_width: must not be negative (got -1)"),
]


@pytest.mark.parametrize(
    ("kind", "values", "words"), WRONG, ids=lambda v: ", ".join(v) if isinstance(v, dict) else ""
)
def test_a_wrong_value_is_refused_by_name(kind, values, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        kind(**{**GOOD.get(kind, {}), **values})


WRITING = [
    (
        {"window_abs": 0.0, "window_rel": 0.0},
        "Programming.window_abs: window_abs or window_rel must be positive",
    ),
    ({"max_pulses": 129}, "Programming.max_pulses: must be 1 to 128 (got 129)"),
    ({"rounds": 0}, "Programming.rounds: must be 1 to 16 (got 0)"),
    ({"rest": -1.0}, "Programming.rest: must not be negative (got -1)"),
    ({"max_reversals": -1}, "Programming.max_reversals: must not be negative (got -1)"),
    ({"max_end_pulses": -1}, "Programming.max_end_pulses: must not be negative (got -1)"),
    ({"compliance": -1e-6}, "Programming.compliance: must not be negative (got -1e-06)"),
    ({"voltage_step": 0.0}, "Programming.voltage_step: must be positive (got 0)"),
    ({"verify_width": 0.0}, "Programming.verify_width: must be positive (got 0)"),
    ({"window_abs": -1e-6}, "Programming.window_abs: must not be negative (got -1e-06)"),
    ({"set_end": float("nan")}, "Programming.set_end: must be finite (got nan)"),
    ({"top": 0.0}, "Programming.top: must exceed bottom >= 0"),
]


@pytest.mark.parametrize(
    ("values", "words"), WRITING, ids=lambda v: ", ".join(v) if isinstance(v, dict) else ""
)
def test_write_verify_is_checked_too(values, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        replace(preset("hfo2_neurram").programming, **values)


NUMBERS = [
    (kind, f.name)
    for kind in (*GOOD, Faults, Drift, ReadNoise, Wires, Periphery)
    for f in fields(kind)
    if f.type == "float"
]
FREE = {"set_voltage", "reset_voltage", "bottom"}
"""Voltages may have either sign; the soft bound of an almost linear device lies far below 0."""


@pytest.mark.parametrize(("kind", "name"), NUMBERS, ids=lambda v: v if isinstance(v, str) else v.__name__)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_every_number_is_finite_and_not_negative(kind, name, value):
    if name in FREE and value == -1.0:
        return
    with pytest.raises(ConfigError, match=kind.__name__):
        kind(**{**GOOD.get(kind, {}), name: value})


def test_a_card_that_contradicts_itself_is_refused():
    card = preset("hfo2_neurram")
    loop = OpenLoop(**GOOD[OpenLoop])
    with pytest.raises(
        ConfigError, match=r"Preset.open_loop: give programming \(write-verify\) or open_loop, not both"
    ):
        replace(card, open_loop=loop)
    with pytest.raises(ConfigError, match=r"WeightMapping.slices: 2 slices need cells with levels"):
        replace(card, device=replace(card.device, levels=0), mapping=WeightMapping(slices=2))
