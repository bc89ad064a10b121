"""Wear and its end: lives per cell, and what a worn cell holds."""

from math import erf, log10, sqrt

import numpy as np
import pytest

from crossbar_sim.cells import Cells
from crossbar_sim.device import Device
from crossbar_sim.noise import lives

SHAPE = (1, 1, 2, 1, 80, 90)
DAY = 86400.0


def fresh(card, shape=SHAPE):
    return Cells(np.ones(shape, bool), preset=card, key=(0, 1), kernels_name="auto", now=0.0)


def ends(card, shape=SHAPE):
    """The two ends of the range, to go back and forth between."""
    return np.full(shape, card.device.g_min), np.full(shape, card.device.g_max)


def test_lives_are_log_normal_with_two_pulses_per_cycle():
    z = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    found = np.log10(lives(z, Device(1e-6, 40e-6, endurance=1e5, endurance_decades=0.5)) / 2)
    assert np.median(found) == pytest.approx(5, abs=0.01)
    assert found.std() == pytest.approx(0.5, rel=0.01)
    assert (lives(z, Device(1e-6, 40e-6, endurance=3.0)) == 6.0).all()


@pytest.mark.parametrize("statistical", [False, True])
def test_a_cell_past_its_life_stays_where_it_was(card, statistical):
    chosen = card(relaxation=True, device={"endurance": 10.0, "endurance_decades": 0.3})
    cells, (low, high) = fresh(chosen), ends(chosen)
    dead = np.zeros(SHAPE, bool)
    for turn in range(6):
        held = cells.stuck.copy()
        cells.program(high if turn % 2 == 0 else low, now=float(turn), statistical=statistical)
        gone = ~np.isnan(cells.stuck)
        assert gone[dead].all()
        np.testing.assert_array_equal(cells.stuck[dead], held[dead])
        fell = gone & ~dead
        np.testing.assert_array_equal(cells.conductance(DAY)[gone], cells.stuck[gone])
        near = np.abs(cells.stuck - cells.target)[fell & ~cells.unconverged]
        assert (
            near <= chosen.programming.window_abs * (1 + 1e-9)
        ).all()  # it dies where that programming brought it
        dead = gone
    assert 0.9 < dead.mean() <= 1
    assert cells.unconverged[dead].mean() > 0.3


@pytest.mark.parametrize("statistical", [False, True])
def test_as_many_cells_die_as_their_lives_say(card, statistical):
    # share dead after w pulses: Phi(log10(w / (2 median)) / decades), cell by cell
    chosen = card(device={"endurance": 10.0, "endurance_decades": 0.4})
    cells, (low, high) = fresh(chosen), ends(chosen)
    cells.program(high, now=0.0, statistical=statistical)
    law = [0.5 * (1 + erf(log10(w / 20) / 0.4 / sqrt(2))) for w in np.maximum(cells.wear, 1e-3).ravel()]
    share = float(np.mean(law))
    assert 0.1 < share < 0.95
    assert (~np.isnan(cells.stuck)).mean() == pytest.approx(share, abs=4 * sqrt(0.25 / cells.used.size))
    assert low.shape == SHAPE


def test_lives_belong_to_the_cell_and_not_to_the_order_of_writing(card):
    chosen = card(device={"endurance": 15.0, "endurance_decades": 0.4})
    low, high = ends(chosen)
    whole, parts = fresh(chosen), fresh(chosen)
    whole.program(high, now=0.0, statistical=True)
    first = np.zeros(SHAPE, bool)
    first[..., :40] = True
    for where in (first, ~first):
        parts.program(high, now=0.0, statistical=True, where=where)
    same = whole.wear == parts.wear
    np.testing.assert_array_equal(np.isnan(whole.stuck)[same], np.isnan(parts.stuck)[same])
    assert same[first].all()
    assert low.max() < high.min()


def test_without_endurance_cells_are_immortal_and_wear_still_counts(card):
    chosen = card(device={"endurance": 0.0, "endurance_decades": 0.5})
    cells, (low, high) = fresh(chosen), ends(chosen)
    for turn in range(4):
        cells.program(low if turn % 2 else high, now=0.0, statistical=True)
    assert np.isnan(cells.stuck).all()
    assert cells.wear.min() > 20


@pytest.mark.parametrize("statistical", [False, True])
def test_pulses_of_every_kind_wear_also_those_in_vain(card, statistical):
    chosen = card(faults={"stuck_low": 1.0}, device={"endurance": 5.0}, programming={"max_pulses": 30})
    cells, (_, high) = fresh(chosen), ends(chosen)
    for times in (1, 2):
        cells.program(high, now=0.0, statistical=statistical)
        assert (cells.wear == 30 * times).all()
    assert (cells.stuck == chosen.device.g_min).all()  # stuck where they were, not where they wore out


def test_rounds_wear_more_and_a_cell_can_die_between_them(card):
    chosen = card(relaxation=True, device={"endurance": 8.0}, programming={"rounds": 4})
    cells, (_, high) = fresh(chosen), ends(chosen)
    cells.program(high, now=0.0, statistical=False)
    dead = ~np.isnan(cells.stuck)
    assert dead.mean() > 0
    assert (cells.wear[~dead] <= 16).all()
    np.testing.assert_array_equal(cells.conductance(DAY)[dead], cells.stuck[dead])
