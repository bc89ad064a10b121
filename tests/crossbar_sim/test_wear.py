"""What endurance leaves: worked figures, and wear against the pulses that were booked."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossbar_sim import Chip
from crossbar_sim.errors import ConfigError
from crossbar_sim.wear import Wear, refreshes_left, tasks_until_wear_out, wear

PUBLISHED_PULSES = 8.52


@pytest.mark.parametrize(
    ("endurance", "once", "every_step"), [(1e4, 2347, 11), (1e5, 23474, 117), (1e6, 234741, 1173)]
)
def test_tasks_until_wear_out_by_hand(endurance, once, every_step):
    # E/(w c) with c = 8.52/2 cycles; w = 1, or 200 steps of training
    c = PUBLISHED_PULSES / 2
    assert tasks_until_wear_out(endurance, c) == once
    assert tasks_until_wear_out(endurance, c, rewrites=200) == every_step
    assert refreshes_left(endurance, c) == once - 1


def test_nothing_written_never_wears_out_and_no_endurance_is_not_known():
    assert tasks_until_wear_out(1e4, 0.0) == math.inf
    assert tasks_until_wear_out(1e4, 4.0, rewrites=0) == math.inf
    assert tasks_until_wear_out(0.0, 0.0) == math.inf
    assert math.isnan(tasks_until_wear_out(0.0, 4.0))
    assert math.isnan(tasks_until_wear_out(1e4, math.nan))
    assert refreshes_left(1e4, 0.0) == math.inf
    assert math.isnan(refreshes_left(0.0, 4.0))
    assert refreshes_left(3.0, 4.0) == 0
    with pytest.raises(ConfigError, match=r"cycles: must not be negative \(got -1\)"):
        tasks_until_wear_out(1e4, -1.0)


@given(st.integers(1, 10**7), st.integers(1, 2000), st.integers(1, 300))
def test_that_many_tasks_fit_and_one_more_does_not(endurance, half_pulses, rewrites):
    tasks = tasks_until_wear_out(endurance, half_pulses / 2, rewrites=rewrites)
    assert tasks * rewrites * half_pulses <= 2 * endurance < (tasks + 1) * rewrites * half_pulses


def test_wear_is_over_the_cells_in_use_of_all_arrays():
    def array(pulses, used):
        cells = SimpleNamespace(used=np.array(used, bool))
        return SimpleNamespace(wear=np.array(pulses, np.float32), cells=cells)

    found = wear([array([4, 2, 100], [1, 1, 0]), array([12], [1])])
    assert found == Wear(mean=(4 + 2 + 12) / 3 / 2, worst=6.0)
    assert wear([]) == Wear(0.0, 0.0)


def test_mean_wear_is_half_the_booked_pulses_per_cell(card):
    chip = Chip(card(), seed=3)
    rng = np.random.default_rng(0)
    one, two = (chip.program(rng.standard_normal(shape), name=str(shape)) for shape in ((5, 9), (3, 40)))
    one.reprogram(np.clip(rng.standard_normal((5, 9)), -1, 1) * one.scale[:, None])
    pulses = chip.ledger.total("set_pulse") + chip.ledger.total("reset_pulse")
    found = wear([one, two])
    assert found.mean == pulses / (one.placement.cells + two.placement.cells) / 2
    assert found.worst == max(one.wear.max(), two.wear.max()) / 2 > found.mean
