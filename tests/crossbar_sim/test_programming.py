"""Write-verify: pulse by pulse and by statistics."""

from math import fsum

import numpy as np
import pytest

from crossbar_kernels import get_kernels
from crossbar_kernels.pulses import Draws, PulseTrain
from crossbar_sim import Chip, MappingError, mapping
from crossbar_sim.programming import pulse_train

WEIGHT = np.random.default_rng(0).uniform(-1, 1, (24, 40))
CARDS = ("hfo2_neurram", "cmo_hfox")


def joules(chip, action):
    return fsum(v for key, values in chip.ledger.joules.items() if key.action == action for v in values)


def programmed(preset, weight=WEIGHT, **options):
    chip = Chip(preset, **options)
    return chip, chip.program(weight, name="w")


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_the_energy_of_one_pulse_is_voltage_squared_mean_conductance_time(backend):
    # 2 V for 100 ns from 1 to 40 uS: 4 V^2 x 20.5 uS x 100 ns = 8.2 pJ
    a = 39 / 60  # top 100 uS: (100 - 1) a/(1 + a) = 39
    train = PulseTrain(
        np.array([2.0]), np.array([2.0]), np.array([a]), np.array([a]), 0.0, 100e-6, 0.0, 100e-9, 0.1, 5
    )
    one = np.ones((1, 1))
    result = get_kernels(backend).write_verify(
        1e-6 * one, 40e-6 * one, 1e-9 * one, one, train=train, draws=Draws((0, 0), 0, 1, 0)
    )
    assert result.value[0, 0] == pytest.approx(40e-6, rel=1e-12)
    assert (result.up.sum(), result.down.sum()) == (1, 0)
    assert result.up_energy[0] == pytest.approx(8.2e-12, rel=1e-12)
    assert result.verify_energy[0] == pytest.approx(0.1 * (1e-6 + 40e-6 + 40e-6), rel=1e-12)


def test_pulses_follow_the_law_of_the_card(card):
    """One cell by hand: no spread, SET only, pulse after pulse."""
    preset = card(device={"strength_spread": 0.0}, programming={"cycle_spread": 0.0, "window_abs": 3e-6})
    p, d = preset.programming, preset.device
    g, energy, target, pulses = d.g_min, 0.0, d.g_max, 0
    while abs(g - target) > p.window_abs:
        volts = min(p.set_start + pulses * p.voltage_step, p.set_end)
        a = p.set_rate * np.exp((volts - p.set_start) / p.slope)
        after = g + (p.top - g) * a / (1 + a)
        energy += volts**2 * (g + after) / 2 * p.pulse_width
        g, pulses = after, pulses + 1
    chip, array = programmed(preset, np.array([[1.0]]))
    assert array.conductance()[0, 0, 0, 0, 0, 0] == pytest.approx(g, rel=1e-12)
    assert chip.ledger.total("set_pulse") == pulses
    assert joules(chip, "set_pulse") == pytest.approx(energy, rel=1e-12)
    assert len(pulse_train(p).up_drive) >= pulses


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize("statistical", [False, True])
def test_reads_pulses_and_wear_agree(card, name, statistical):
    chip, array = programmed(card(name), statistical=statistical)
    pulses = chip.ledger.total("set_pulse") + chip.ledger.total("reset_pulse")
    assert pulses == pytest.approx(array.wear.sum(dtype=np.float64), abs=1.0 if statistical else 0.0)
    assert chip.ledger.total("verify_read") == pulses + 2 * array.placement.cells
    assert chip.ledger.total("adc_conversion") == chip.ledger.total("verify_read")
    assert chip.ledger.total("cell_write") == (array.wear > 0).sum()
    device = chip.preset.device
    inside = np.abs(array.conductance() - array.target_conductance())[array.cells.used]
    if not statistical:
        p = chip.preset.programming
        window = p.window_abs + p.window_rel * array.target_conductance()[array.cells.used]
        assert (inside > window).sum() == array.unconverged
    assert inside.max() < device.span


@pytest.mark.parametrize("name", CARDS)
def test_the_statistical_mode_agrees_with_the_pulse_loop_in_the_mean(card, name):
    weight = np.random.default_rng(1).uniform(-1, 1, (160, 200))
    loop, by_pulses = programmed(card(name), weight)
    short, by_law = programmed(card(name), weight, statistical=True)
    for action in ("set_pulse", "reset_pulse"):
        assert short.ledger.total(action) == pytest.approx(loop.ledger.total(action), rel=0.04)
    for action in ("set_pulse", "reset_pulse", "verify_read"):
        assert joules(short, action) == pytest.approx(joules(loop, action), rel=0.04)
    pulsed = (by_pulses.wear > 0) & (by_law.wear > 0)
    assert (by_pulses.wear > 0).mean() == pytest.approx((by_law.wear > 0).mean(), rel=0.02)
    errors = [a.conductance()[pulsed] - a.target_conductance()[pulsed] for a in (by_pulses, by_law)]
    window = loop.preset.programming
    kept = np.abs(errors[0]) <= window.window_abs + window.window_rel * by_pulses.target_conductance()[pulsed]
    rms = np.sqrt(np.mean(errors[0][kept] ** 2)), np.sqrt(np.mean(errors[1] ** 2))
    assert rms[0] == pytest.approx(rms[1], rel=0.1)


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize("statistical", [False, True])
def test_writing_the_same_again_costs_two_reads_a_cell_and_no_pulse(card, name, statistical):
    # without relaxation; enough pulses for every cell to converge
    chip, array = programmed(card(name, programming={"window_abs": 1e-6}), statistical=statistical)
    assert statistical or array.unconverged == 0
    held, wear, pulses = array.conductance(), array.wear.copy(), chip.ledger.total("set_pulse")
    with chip.ledger.scope(phase="switch"):
        array.reprogram(WEIGHT)
    assert chip.ledger.total("verify_read", phase="switch") == 2 * array.placement.cells
    assert chip.ledger.total("set_pulse") == pulses
    assert chip.ledger.total("reset_pulse", phase="switch") == 0
    assert chip.ledger.total("cell_write", phase="switch") == 0
    np.testing.assert_array_equal(array.conductance(), held)
    np.testing.assert_array_equal(array.wear, wear)
    p = chip.preset.programming
    reads = 2 * p.verify_voltage**2 * p.verify_width * held.sum()
    again = [
        v
        for k, vs in chip.ledger.joules.items()
        if (k.action, k.phase) == ("verify_read", "switch")
        for v in vs
    ]
    assert fsum(again) == pytest.approx(reads, rel=1e-9)


def test_changing_some_cells_leaves_the_others_bit_for_bit(card):
    chip = Chip(card(), statistical=True)
    array = chip.program(WEIGHT, name="w", scale=np.ones(24))
    chip.advance(100.0)
    before, wear = array.conductance(), array.wear.copy()
    changed = WEIGHT.copy()
    changed[3, 5:9] = -WEIGHT[3, 5:9]
    array.reprogram(changed)
    moved = array.wear != wear
    assert 0 < moved.sum() <= 8
    where = mapping.from_cells(moved.any((1, 2, 3)), array.placement)
    assert set(zip(*np.nonzero(where), strict=True)) <= {(3, j) for j in range(5, 9)}
    np.testing.assert_array_equal(array.conductance()[~moved], before[~moved])
    assert (array.conductance()[moved] != before[moved]).all()


@pytest.mark.parametrize("statistical", [False, True])
def test_writing_again_pulses_exactly_the_cells_that_left_their_window(card, statistical):
    chip, array = programmed(card("cmo_hfox", relaxation=True), statistical=statistical)
    chip.advance(1e4)
    before, wear = array.conductance(), array.wear.copy()
    away = np.abs(before - array.target_conductance()) > 0.002 * array.target_conductance()
    array.reprogram(WEIGHT)
    moved = array.wear > wear
    np.testing.assert_array_equal(moved, away)
    assert 0.8 < moved.mean() < 1.0
    # the cells that were left alone go on relaxing from when they were written
    chip.advance(1e5)
    other, same = programmed(card("cmo_hfox", relaxation=True), statistical=statistical)
    other.advance(1e4)
    other.advance(1e5)
    np.testing.assert_array_equal(array.conductance()[~moved], same.conductance()[~moved])


def test_relaxed_cells_are_pulsed_back_by_the_loop(card):
    chip, array = programmed(card("cmo_hfox", relaxation=True))
    chip.advance(1e6)
    away = np.abs(array.conductance() - array.target_conductance()).mean()
    array.reprogram(WEIGHT)
    assert np.abs(array.conductance() - array.target_conductance()).mean() < 0.3 * away
    assert array.version == 2


@pytest.mark.parametrize("statistical", [False, True])
@pytest.mark.parametrize(
    "bad",
    [
        np.where(WEIGHT > 0.9, np.nan, WEIGHT),
        WEIGHT[:, :-1],
        3 * WEIGHT,
        np.where(WEIGHT > 0.9, np.inf, WEIGHT),
    ],
)
def test_a_weight_that_fails_changes_nothing(card, bad, statistical):
    chip, array = programmed(card(relaxation=True), statistical=statistical)
    before = array.conductance(), array.wear.copy(), array.version, dict(chip.ledger.counts)
    with pytest.raises(MappingError):
        array.reprogram(bad)
    np.testing.assert_array_equal(array.conductance(), before[0])
    np.testing.assert_array_equal(array.wear, before[1])
    assert (array.version, dict(chip.ledger.counts)) == before[2:]
    with pytest.raises(MappingError):
        chip.program(np.array([[np.nan]]), name="bad")
    assert list(chip.arrays) == ["w"]


def test_a_name_is_taken_once(card):
    chip, _ = programmed(card())
    with pytest.raises(ValueError, match="'w' exists"):
        chip.program(WEIGHT, name="w")


def test_the_pulse_loop_leaves_cells_centred_on_their_targets(card):
    _, array = programmed(card(), np.random.default_rng(1).uniform(-1, 1, (160, 200)))
    error = (array.conductance() - array.target_conductance())[array.wear > 0]
    assert abs(error.mean()) < 0.05 * array.chip.preset.programming.window_abs


def test_a_programming_says_in_a_line_what_it_took():
    report = programmed("cmo_hfox", statistical=True)[1].report
    line = f"{report.set_pulses:,} set and {report.reset_pulses:,} reset pulses, {report.unconverged:,} unconverged"
    assert repr(report) == f"Programmed(1,920 cells: {line})"
