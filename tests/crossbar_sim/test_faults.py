"""Stuck cells: how many, where, and what programming makes of them."""

from math import sqrt

import numpy as np
import pytest

from crossbar_sim import ConfigError, preset
from crossbar_sim.cells import Cells
from crossbar_sim.device import Faults

SHAPE = (1, 2, 2, 1, 100, 90)
DAY = 86400.0


def fresh(card, shape=SHAPE, **options):
    return Cells(
        np.ones(shape, bool),
        preset=card,
        key=options.pop("key", (0, 1)),
        kernels_name="auto",
        now=0.0,
        **options,
    )


def goal(card, shape=SHAPE, seed=0):
    device = card.device
    return device.g_min + device.span * np.random.default_rng(seed).integers(0, 16, shape) / 15


def one_in(shape, stuck):
    """A map with given cells stuck, {index: S}."""
    found = np.full(shape, np.nan)
    for at, value in stuck.items():
        found[at] = value
    return found


def test_shares_of_stuck_cells_follow_the_rates(card):
    shape = (1, 1, 1, 1, 640, 640)
    rates = {"stuck_low": 0.0175, "stuck_high": 0.0904, "stuck_undefined": 0.01}
    chosen = card(faults=rates)
    stuck, device = fresh(chosen, shape).stuck, chosen.device
    found = {
        "stuck_low": stuck == device.g_min,
        "stuck_high": stuck == device.g_max,
        "stuck_undefined": (stuck > device.g_min) & (stuck < device.g_max),
    }
    for name, cells in found.items():
        rate = rates[name]
        assert cells.mean() == pytest.approx(rate, abs=3 * sqrt(rate * (1 - rate) / stuck.size)), name
    part = np.sort((stuck[found["stuck_undefined"]] - device.g_min) / device.span)
    worst = np.abs(part - (np.arange(part.size) + 0.5) / part.size).max()
    assert worst < 1.95 / sqrt(part.size)  # Kolmogorov and Smirnov, p = 0.001


def test_faults_sit_in_each_cell_independently_and_belong_to_the_chip(card):
    chosen = card(faults={"stuck_low": 0.3})
    stuck = ~np.isnan(fresh(chosen).stuck)
    np.testing.assert_array_equal(stuck, ~np.isnan(fresh(chosen).stuck))
    for other in (
        ~np.isnan(fresh(chosen, key=(1, 1)).stuck),
        stuck[:, ::-1],
        stuck[:, :, ::-1],
        stuck[..., ::-1],
    ):
        both = (stuck & other).mean()
        assert both == pytest.approx(0.09, abs=5 * sqrt(0.09 * 0.91 / stuck.size * 2))


def test_without_rates_or_a_map_no_cell_is_stuck(card):
    assert np.isnan(fresh(card()).stuck).all()


@pytest.mark.parametrize("statistical", [False, True])
def test_a_stuck_cell_stays_for_ever_and_fails_unless_it_is_where_it_should_be(card, statistical):
    chosen = card(relaxation=True, faults={"stuck_undefined": 0.1})
    cells = fresh(chosen)
    stuck = ~np.isnan(cells.stuck)
    for seed, now in ((0, 0.0), (1, 100.0)):
        target = goal(chosen, seed=seed)
        cells.program(target, now=now, statistical=statistical)
        for later in (now, now + DAY):
            np.testing.assert_array_equal(cells.conductance(later)[stuck], cells.stuck[stuck])
            np.testing.assert_array_equal(cells.conductance(later, redraw=1)[stuck], cells.stuck[stuck])
        away = np.abs(cells.stuck - target) > chosen.programming.window_abs
        np.testing.assert_array_equal(cells.unconverged[stuck], away[stuck])
        assert cells.unconverged[~stuck].mean() < 0.01


@pytest.mark.parametrize("statistical", [False, True])
def test_pulses_in_vain_are_counted_by_hand(card, statistical):
    # one cell stuck at 5 uS, asked for 30 uS: SET pulses up the ramp until max_pulses, each V^2 G t, and a read after each
    shape = (1, 1, 1, 1, 1, 1)
    chosen = card(programming={"max_pulses": 40})
    p = chosen.programming
    cells = fresh(chosen, shape, stuck=np.full(shape, 5e-6))
    done = cells.program(np.full(shape, 30e-6), now=0.0, statistical=statistical)
    assert (done.set_pulses, done.reset_pulses, done.verify_reads, done.unconverged) == (40, 0, 42, 1)
    assert cells.wear.item() == 40
    volts = np.minimum(p.set_start + p.voltage_step * np.arange(40), p.set_end)
    assert done.set_energy == pytest.approx((volts**2).sum() * 5e-6 * p.pulse_width, rel=1e-9)
    assert done.verify_energy == pytest.approx(42 * p.verify_voltage**2 * 5e-6 * p.verify_width, rel=1e-9)


@pytest.mark.parametrize("statistical", [False, True])
def test_a_map_of_faults_takes_the_place_of_the_rates(card, statistical):
    chosen = card(relaxation=True, faults={"stuck_low": 0.5})
    where = {(0, 1, 0, 0, 3, 4): 17e-6, (0, 0, 1, 0, 99, 89): 0.0}
    cells = fresh(chosen, stuck=one_in(SHAPE, where))
    cells.program(goal(chosen), now=0.0, statistical=statistical)
    assert (~np.isnan(cells.stuck)).sum() == 2
    for at, value in where.items():
        assert cells.conductance(DAY)[at] == value


def test_a_map_that_does_not_fit_is_refused(card):
    with pytest.raises(ConfigError, match="must have the cells' shape"):
        fresh(card(), stuck=np.full(SHAPE[1:], np.nan))
    for wrong in (-1e-6, np.inf):
        with pytest.raises(ConfigError, match="finite and not negative"):
            fresh(card(), stuck=one_in(SHAPE, {(0, 0, 0, 0, 0, 0): wrong}))


def test_shares_beyond_all_cells_are_refused():
    with pytest.raises(ConfigError, match="exceed 1"):
        Faults(0.5, 0.4, 0.2)


@pytest.mark.parametrize("statistical", [False, True])
def test_stuck_cells_of_cards_with_own_ranges_and_counted_pulses_stay(statistical):
    chosen = preset("hfo2_array")
    cells = fresh(chosen)
    stuck = ~np.isnan(cells.stuck)
    assert stuck.mean() == pytest.approx(0.0977, abs=0.006)
    for seed in (0, 1):
        cells.program(goal(chosen, seed=seed), now=0.0, statistical=statistical)
        np.testing.assert_array_equal(cells.conductance(0.0)[stuck], cells.stuck[stuck])
    assert (cells.conductance(0.0)[~stuck] != cells.target[~stuck]).mean() > 0.9


def test_a_stuck_cell_still_makes_read_noise_by_the_conductance_it_has():
    chosen = preset("pcm_joshi")
    shape = (1, 1, 1, 1, 2, 2)
    cells = fresh(chosen, shape, stuck=one_in(shape, {(0, 0, 0, 0, 0, 0): 20e-6}))
    cells.program(np.full(shape, 5e-6), now=0.0, statistical=False)
    law = chosen.read_noise
    t = 1.0 + law.delay
    growth = sqrt(np.log((t + law.read_time) / (2 * law.read_time)))
    expected = 20e-6 * min(law.cap, law.flicker / (20 / 25) ** law.exponent) * growth
    assert cells.read_sigma(0.0).flat[0] == pytest.approx(expected, rel=1e-12)


def test_yield_falls_as_the_shares_say(card):
    # a weight is right only if both of its cells are: yield (1 - rate)^2, in a sweep over rates
    for rate in (0.0, 0.01, 0.05, 0.2):
        cells = fresh(card(faults={"stuck_high": rate}))
        healthy = np.isnan(cells.stuck).all(axis=2).mean()
        assert healthy == pytest.approx((1 - rate) ** 2, abs=4 * sqrt(2 * max(rate, 1e-4) / 18_000))


def test_stuck_cells_are_accepted_by_chance_as_often_as_the_window_is_wide(card):
    # cells stuck anywhere in the range: the share that is accepted by chance is the window over the range
    chosen = card(device={"levels": 0}, faults={"stuck_undefined": 1.0})
    cells = fresh(chosen)
    device = chosen.device
    middle = np.full(SHAPE, device.g_min + 0.5 * device.span)
    cells.program(middle, now=0.0, statistical=False)
    share = 2 * chosen.programming.window_abs / device.span
    n = cells.used.size
    assert 1 - cells.unconverged.mean() == pytest.approx(share, abs=4 * sqrt(share / n))
