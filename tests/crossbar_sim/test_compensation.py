"""Drift corrected by digital factors, measured on known vectors."""

from dataclasses import replace

import numpy as np
import pytest

from crossbar_sim import Chip, ConfigError, Ranges
from crossbar_sim.device import Device, Drift, Relaxation

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((9, 30))
X = RNG.uniform(-1, 1, (40, 30))
COMMON = Drift(start=20.0, mu=(0.0, 0.06, 0.06, 0.06))  # every cell drifts alike
BY_LEVEL = Drift(start=20.0, reference=40e-6, mu=(-0.02, 0.02, 0.0, 0.1))  # small conductances drift faster
FADED = Relaxation((1.0, 1e6), ((0.0,), (0.0,)), ((0.0,), (0.0, -0.25)))  # a quarter is lost
DAY = 86_400.0


def programmed(
    card, law, *, weight=WEIGHT, noise=False, adc_bits=0, copies=1, scale="column", pair="columns"
):
    preset = card(
        programming=None,
        device=Device(0.0, 40e-6),
        noise=noise,
        mapping={"pair": pair, "scale": scale, "copies": copies},
        periphery={"adc_bits": adc_bits},
    )
    chip = Chip(replace(preset, **({"relaxation": law} if isinstance(law, Relaxation) else {"drift": law})))
    return chip, chip.program(weight, name="w", ranges=Ranges(1.0, -12, 12))


def wanted(array):
    """The products of the target weights, which even fresh cells (1 s old) miss by 0.3 %."""
    return np.rint(X * 127) / 127 @ array.target_weights().T


def error(array, before):
    return np.sqrt(((array.mvm(X) - before) ** 2).mean() / (before**2).mean())


@pytest.mark.parametrize("law", [COMMON, FADED], ids=["power law", "mean shift"])
@pytest.mark.parametrize("kind", ["global", "column"])
@pytest.mark.parametrize("pair", ["columns", "rows", "arrays"])
def test_a_common_loss_is_repaired(card, law, kind, pair):
    chip, array = programmed(card, law, pair=pair)
    before = wanted(array)
    chip.advance(1e6)
    assert error(array, before) > 0.2
    chip.compensate(kind)
    assert error(array, before) < 1e-3  # the 15 bit grid


def test_with_noise_and_converters_what_remains_is_the_noise(card):
    chip, array = programmed(card, COMMON, noise=True, adc_bits=8)
    before = wanted(array)
    fresh = error(array, before)  # noise and codes
    chip.advance(DAY)
    drifted = error(array, before)
    chip.compensate("global")
    assert drifted > 0.3
    factor = array.compensation
    assert error(array, before) < 1.2 * fresh * factor


def test_columns_that_drift_differently_need_a_factor_each(card):
    rows = np.linspace(0.05, 1.0, 9)[:, None] * np.sign(WEIGHT)  # each output's cells are at one level
    left = {}
    for kind in ("none", "global", "column"):
        chip, array = programmed(card, BY_LEVEL, weight=rows, scale="matrix")
        before = wanted(array)
        chip.advance(DAY)
        chip.compensate(kind)
        size = np.sqrt((before**2).mean(0))
        left[kind] = (np.sqrt(((array.mvm(X) - before) ** 2).mean(0)) / size).max()
        assert np.shape(array.compensation) == ((9,) if kind == "column" else ())
    assert left["none"] > left["global"] > 0.05
    assert left["column"] < 1e-3


def test_the_factor_is_what_was_lost(card):
    chip, array = programmed(card, COMMON)
    chip.advance(DAY)
    chip.compensate("global")
    aged = ((DAY + 1 + 20) / 20) ** 0.06
    assert float(array.compensation) == pytest.approx(aged, rel=1e-3)
    chip.advance(DAY)
    chip.compensate("global")  # anew, not on top
    assert float(array.compensation) == pytest.approx(((2 * DAY + 21) / 20) ** 0.06, rel=1e-3)


def test_none_takes_it_back_and_fresh_cells_need_none(card):
    chip, array = programmed(card, COMMON)
    chip.compensate("global")
    assert float(array.compensation) == pytest.approx(((1 + 20) / 20) ** 0.06, rel=1e-3)
    chip.advance(DAY)
    plain = programmed(card, COMMON)
    plain[0].advance(DAY)
    chip.compensate("none")
    np.testing.assert_array_equal(array.mvm(X), plain[1].mvm(X))


def test_gradients_are_corrected_too(card):
    chip, array = programmed(card, COMMON)
    g = RNG.standard_normal((5, 9))
    before = array.mvm_t(g)
    chip.advance(DAY)
    lost = array.mvm_t(g)
    chip.compensate("global")
    assert np.abs(lost - before).max() > 0.2 * np.abs(before).max()
    np.testing.assert_allclose(array.mvm_t(g), before, atol=0.02 * np.abs(before).max())


def test_its_reads_and_its_arithmetic_are_booked_under_calibrate(card):
    chip, array = programmed(card, COMMON, adc_bits=8)
    with chip.ledger.scope(task="t", phase="eval"):
        array.mvm(X[:1])
        chip.compensate("global")
    one, probes = (
        {
            r["action"]: r
            for r in chip.ledger.rows(chip.preset.prices)
            if (r["task"], r["phase"]) == ("t", phase)
        }
        for phase in ("eval", "calibrate")
    )
    for action in ("dac_drive", "array_read", "adc_conversion", "sram_write_bit"):
        assert probes[action]["count"] == 32 * one[action]["count"]
    assert probes["array_read"]["energy_J"] > one["array_read"]["energy_J"]
    assert probes["digital_mul"]["count"] == 32 * one["digital_mul"]["count"] + 2 * 32 * 9
    assert probes["digital_add"]["count"] == 2 * 32 * 9
    chip.compensate("none")
    assert chip.ledger.total("adc_conversion", phase="calibrate") == probes["adc_conversion"]["count"]


def test_measuring_draws_no_word_of_the_reads_that_it_corrects(card, monkeypatch):
    chip, array = programmed(card, COMMON, noise=True)
    forward, used = array.readers[0], []
    product = forward.product
    monkeypatch.setattr(
        forward, "product", lambda x, rows, *rest, **how: used.append(rows) or product(x, rows, *rest, **how)
    )
    chip.compensate("column")
    assert len(used[0]) == 32
    batch = chip.samples((200, 512))[1]
    assert not np.isin(used[0], batch).any()


def test_an_unknown_kind_is_an_error_with_the_nearest_right_one(card):
    chip, _ = programmed(card, COMMON)
    with pytest.raises(ConfigError, match="compensate: 'colum' is unknown; did you mean 'column'"):
        chip.compensate("colum")


def test_uncalibrated_arrays_cannot_be_measured(card):
    chip, array = programmed(card, COMMON)
    array.ranges = None
    with pytest.raises(ValueError, match="its converters have no ranges"):
        chip.compensate("global")
