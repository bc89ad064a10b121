"""The three ways of writing as pure functions: what they return, what sets cells apart, and how long they take."""

from dataclasses import replace

import numpy as np
import pytest

from crossbar_kernels import get_kernels
from crossbar_sim import preset
from crossbar_sim.device import Device, OpenLoop
from crossbar_sim.programming import (
    Source,
    Traits,
    combined,
    counted_pulses,
    on_curve,
    open_loop,
    pulse_train,
    statistical,
    strengths,
    write_verify,
)
from crossbar_sim.pulse_table import FINE, ladder, pulse_table

SHAPE = (2, 1, 2, 1, 24, 40)
SOURCE = Source(get_kernels("auto"), (3, 4), 0)
CARDS = ("hfo2_neurram", "cmo_hfox")
LOOP = OpenLoop(
    set_voltage=2.0,
    reset_voltage=-1.5,
    set_width=1e-7,
    reset_width=2e-7,
    set_rate=0.05,
    reset_rate=0.1,
    bottom=0.5e-6,
    top=45e-6,
    max_pulses=60,
)
CELL = Device(g_min=1e-6, g_max=40e-6, levels=16)


def targets(device, shape=SHAPE, seed=0):
    x = np.random.default_rng(seed).uniform(0, 1, shape)
    steps = device.levels - 1 if device.levels else 0
    return device.g_min + device.span * (np.rint(x * steps) / steps if steps else x)


def fresh(device, shape=SHAPE):
    return np.full(shape, device.g_min)


def written(card, start, target, traits=None, *, by, event=0):
    """One write of either closed-loop mode."""
    source, traits = replace(SOURCE, event=event), traits or Traits()
    if by == "pulses":
        return write_verify(start, target, traits, card.programming, source=source)
    return statistical(start, target, traits, card.device, card.programming, source=source)


def window(card, target):
    return card.programming.window_abs + card.programming.window_rel * target


BOTH = pytest.mark.parametrize("by", ["pulses", "statistics"])


@BOTH
@pytest.mark.parametrize("name", CARDS)
def test_accepted_means_inside_the_window(name, by):
    card = preset(name)
    target = targets(card.device)
    done = written(card, fresh(card.device), target, by=by)
    inside = np.abs(done.written - target) <= window(card, target)
    np.testing.assert_array_equal(done.accepted, inside)
    assert done.unconverged == np.count_nonzero(~inside)
    assert done.verify_reads == done.set_pulses + done.reset_pulses + 2 * target.size
    assert done.pulses.sum(dtype=float) == pytest.approx(done.set_pulses + done.reset_pulses, abs=1)
    assert (done.settled[done.pulses > 0] > 0).all()
    assert (done.settled[done.pulses == 0] == 0).all()


@BOTH
@pytest.mark.parametrize("name", CARDS)
def test_writing_again_costs_two_reads_and_no_pulse_for_every_accepted_cell(name, by):
    card = preset(name)
    target = targets(card.device)
    first = written(card, fresh(card.device), target, by=by)
    again = written(card, first.written, target, by=by, event=1)
    np.testing.assert_array_equal(again.pulses > 0, ~first.accepted)
    np.testing.assert_array_equal(again.written[first.accepted], first.written[first.accepted])


@BOTH
def test_stuck_cells_take_every_pulse_and_stay(by):
    card = preset("hfo2_neurram")
    target, start = targets(card.device), fresh(card.device)
    stuck = np.random.default_rng(1).random(SHAPE) < 0.2
    done = written(card, start, target, Traits(stuck=stuck), by=by)
    outside = stuck & (np.abs(start - target) > window(card, target))
    np.testing.assert_array_equal(done.written[stuck], start[stuck])
    assert not done.accepted[outside].any()
    assert (done.pulses[outside] == len_of_the_ramp(card.programming)).all()
    assert (done.settled[stuck] == 0).all()
    assert done.unconverged == outside.sum()


def len_of_the_ramp(p):
    if not p.max_end_pulses:
        return p.max_pulses
    return min(p.max_pulses, round((p.set_end - p.set_start) / p.voltage_step) + p.max_end_pulses)


@pytest.mark.parametrize("compliance", [0.0, 30e-6])
@pytest.mark.parametrize("end_pulses", [0, 7])
def test_pulses_in_vain_cost_the_same_in_both_modes(compliance, end_pulses):
    """One conductance for all stuck cells, so that the mean conductance of the statistics is each cell's."""
    card = preset("hfo2_neurram")
    card = replace(
        card, programming=replace(card.programming, compliance=compliance, max_end_pulses=end_pulses)
    )
    shape = (1, 1, 1, 1, 6, 9)
    start, target = np.full(shape, 20e-6), np.where(np.arange(9) % 2, 5e-6, 38e-6) * np.ones(shape)
    traits = Traits(stuck=np.ones(shape, bool))
    loop, table = (written(card, start, target, traits, by=by) for by in ("pulses", "statistics"))
    assert (loop.set_pulses, loop.reset_pulses) == (table.set_pulses, table.reset_pulses)
    assert (loop.set_slots, loop.reset_slots) == (table.set_slots, table.reset_slots)
    for name in ("set_energy", "reset_energy", "verify_energy"):
        assert getattr(table, name) == pytest.approx(getattr(loop, name), rel=1e-9)
    assert loop.pulses[0, 0, 0, 0, 0, 0] == len_of_the_ramp(card.programming)


def test_compliance_lowers_the_heat_of_set_pulses_only():
    card = preset("hfo2_neurram")
    target = targets(card.device)
    free = written(card, fresh(card.device), target, by="pulses")
    capped = replace(card, programming=replace(card.programming, compliance=20e-6))
    less = written(capped, fresh(card.device), target, by="pulses")
    assert less.set_energy < 0.8 * free.set_energy
    assert less.reset_energy == free.reset_energy
    np.testing.assert_array_equal(less.written, free.written)


@BOTH
def test_cells_stay_within_their_own_range(by):
    card = preset("hfo2_neurram")
    target, start = targets(card.device), np.full(SHAPE, 15e-6)
    random = np.random.default_rng(2)
    low, high = random.uniform(0, 10e-6, SHAPE), random.uniform(20e-6, 40e-6, SHAPE)
    done = written(card, start, target, Traits(low=low, high=high), by=by)
    touched = done.pulses > 0
    assert ((done.written >= low) & (done.written <= high))[touched].all()
    reachable = (target >= low - 1e-6) & (target <= high + 1e-6)
    assert not done.accepted[~reachable].any()
    inside = (target >= low) & (target <= high)
    assert done.accepted[inside].mean() > 0.99


@pytest.mark.parametrize("by", ["pulses", "statistics", "counting"])
def test_unused_cells_take_no_pulse_and_cost_nothing(by):
    """An array with unused rows costs what the used rows cost alone, and its word lines are not visited."""
    card = preset("cmo_hfox")
    target, start = targets(card.device), np.full(SHAPE, 30e-6)
    used = np.zeros(SHAPE, bool)
    used[..., :10, :] = True

    def write(start, target, traits):
        if by == "counting":
            return open_loop(start, start, target, traits, card.device, LOOP, source=SOURCE)
        return written(card, start, target, traits, by=by)

    whole = write(start, target, Traits(used=used))
    part = write(start[..., :10, :], target[..., :10, :], Traits())
    assert whole.pulses[~used].sum() == 0
    assert whole.written[~used].sum() == 0
    assert whole.accepted[~used].all()
    np.testing.assert_array_equal(whole.written[..., :10, :], part.written)
    for name in ("set_pulses", "reset_pulses", "verify_reads", "set_slots", "reset_slots", "read_slots"):
        assert getattr(whole, name) == getattr(part, name)
    for name in ("set_energy", "reset_energy", "verify_energy"):
        assert getattr(whole, name) == pytest.approx(getattr(part, name), rel=1e-12)


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize("start", ["fresh", "anywhere", "relaxed"])
@pytest.mark.parametrize("levels", ["own", "continuous"])
def test_statistics_agree_with_the_pulse_loop_from_any_start(name, start, levels):
    card = preset(name)
    card = card if levels == "own" else replace(card, device=replace(card.device, levels=0))
    device, shape = card.device, (1, 1, 1, 1, 256, 256)
    target, random = targets(device, shape), np.random.default_rng(3)
    starts = {
        "fresh": fresh(device, shape),
        "anywhere": targets(replace(device, levels=0), shape, seed=4),
        "relaxed": np.maximum(target + 0.05 * device.span * random.standard_normal(shape), 0.0),
    }[start]
    traits = Traits(strength=strengths(shape, device, kernels=SOURCE.kernels, key=SOURCE.key))
    loop, table = (written(card, starts, target, traits, by=by) for by in ("pulses", "statistics"))
    np.testing.assert_array_equal(loop.pulses > 0, table.pulses > 0)
    for field in (
        "set_pulses",
        "reset_pulses",
        "verify_reads",
        "set_energy",
        "reset_energy",
        "verify_energy",
    ):
        assert getattr(table, field) == pytest.approx(getattr(loop, field), rel=0.06), field
    # the slowest cell of a word line, from sampled counts
    p = card.programming
    assert table.row_parallel_time(p) == pytest.approx(loop.row_parallel_time(p), rel=0.12)
    assert table.serial_time(p) == pytest.approx(loop.serial_time(p), rel=0.05)


@pytest.mark.parametrize(
    ("window_abs", "sigma"), [(1e-6, 0.3e-6), (1e-6, 0.57e-6), (1e-6, 0.65e-6), (1e-6, 0.9e-6)]
)
def test_statistics_leave_the_published_sigma_inside_the_window(window_abs, sigma):
    """Uniform below window/sqrt(3), kept out of the middle above. 1e5 cells: sd of the sd 0.2 %, of the mean 0.3 % sigma."""
    card = preset("hfo2_neurram")
    card = replace(card, programming=replace(card.programming, window_abs=window_abs, residual=(sigma,)))
    shape = (1, 1, 1, 1, 256, 400)
    target = np.full(shape, 20e-6)
    done = written(card, fresh(card.device, shape), target, by="statistics")
    error = (done.written - target)[done.accepted]
    assert np.abs(error).max() <= window_abs
    assert error.std() == pytest.approx(sigma, rel=0.008)
    assert abs(error.mean()) < 0.012 * sigma


def test_times_are_those_of_a_count_by_hand():
    card = preset("hfo2_neurram")
    p = replace(card.programming, pulse_width=3e-6, verify_width=2e-6)
    target = targets(card.device)
    done = write_verify(fresh(card.device), target, Traits(), p, source=SOURCE)
    pulses = done.pulses.sum(dtype=float)
    assert done.serial_time(p) == pytest.approx(pulses * 5e-6 + target.size * 4e-6, rel=1e-12)
    # cells that only go up: the row's slowest decides
    high = np.full(SHAPE, 39e-6)
    one_way = replace(p, window_abs=10e-6)
    done = write_verify(fresh(card.device), high, Traits(), one_way, source=SOURCE)
    assert done.reset_pulses == 0
    slots = done.pulses.max(-1).sum(dtype=float)
    lines = np.prod(SHAPE[:-1])
    assert done.row_parallel_time(one_way) == pytest.approx(slots * 5e-6 + lines * 4e-6, rel=1e-12)
    assert done.row_parallel_time(one_way, arrays_at_once=4) == pytest.approx(
        done.row_parallel_time(one_way) / 4
    )
    assert done.row_parallel_time(one_way) < done.serial_time(one_way) / 10


def test_two_rounds_combine():
    card = preset("cmo_hfox")
    target = targets(card.device)
    first = written(card, fresh(card.device), target, by="pulses")
    relaxed = np.where(np.arange(40) < 20, first.written, first.written * 1.01)
    second = written(card, relaxed, target, by="pulses", event=1)
    both = combined(first, second)
    for name in ("set_pulses", "verify_reads", "set_energy", "verify_energy", "read_slots"):
        assert getattr(both, name) == getattr(first, name) + getattr(second, name)
    np.testing.assert_array_equal(both.pulses, first.pulses + second.pulses)
    later = second.pulses > 0
    np.testing.assert_array_equal(both.written[later], second.written[later])
    np.testing.assert_array_equal(both.written[~later], first.written[~later])
    assert both.unconverged == second.unconverged


def test_a_ladder_is_the_levels_where_they_are_few():
    assert len(ladder(replace(CELL, levels=16))) == 16
    assert len(ladder(replace(CELL, levels=0))) == len(ladder(replace(CELL, levels=200))) == 32
    table = pulse_table(CELL, preset("hfo2_neurram").programming)
    assert table.outcomes.pulses.shape == (FINE * 15 + 1, 16)


def test_the_ramp_reaches_its_end_where_the_step_does_not_divide_it():
    p = replace(preset("hfo2_neurram").programming, set_start=1.0, set_end=2.0, voltage_step=0.3)
    np.testing.assert_allclose(pulse_train(p).up_drive[:6], [1.0, 1.3, 1.6, 1.9, 2.0, 2.0])


# -- counted pulses --------------------------------------------------------------------------------------------------


def test_the_nominal_cell_lands_within_half_a_pulse_of_its_target():
    start = targets(replace(CELL, levels=0), seed=1)
    target = targets(CELL)
    done = open_loop(start, start, target, Traits(), CELL, LOOP, source=SOURCE)
    step = np.where(
        target > start, LOOP.set_rate * (LOOP.top - target), LOOP.reset_rate * (target - LOOP.bottom)
    )
    assert done.accepted.all()
    assert (np.abs(done.written - target) <= 0.56 * step + 1e-12).all()
    pulses, _ = counted_pulses(start, target, LOOP)
    np.testing.assert_allclose(done.written, np.clip(on_curve(start, pulses, LOOP), 1e-6, 40e-6), rtol=1e-9)
    assert (done.verify_reads, done.verify_energy, done.read_slots) == (0, 0.0, 0)
    assert (done.set_pulses, done.reset_pulses) == (pulses[pulses > 0].sum(), -pulses[pulses < 0].sum())


def test_the_counted_pulses_are_the_best_number():
    start, target = targets(replace(CELL, levels=0), seed=1).ravel(), targets(CELL).ravel()
    pulses, _ = counted_pulses(start, target, LOOP)
    sign = np.where(target > start, 1, -1)
    every = np.stack([np.abs(on_curve(start, sign * n, LOOP) - target) for n in range(61)])
    np.testing.assert_allclose(
        np.abs(on_curve(start, pulses, LOOP) - target), every.min(axis=0), rtol=1e-9, atol=1e-18
    )


def test_neurosims_exponential_is_this_law():
    """G = B (1 - exp(-P/A)) + g_min, B = (g_max - g_min)/(1 - exp(-P_max/A)) (Chen 2018), P = 0 to 97."""
    a, most = 40.0, 97
    b = CELL.span / (1 - np.exp(-most / a))
    loop = replace(LOOP, set_rate=1 - np.exp(-1 / a), top=CELL.g_min + b, max_pulses=most)
    p = np.arange(most + 1)
    curve = CELL.g_min + b * (1 - np.exp(-p / a))
    np.testing.assert_allclose(on_curve(np.full(p.shape, CELL.g_min), p, loop), curve, rtol=1e-12)
    pulses, enough = counted_pulses(np.full(p.shape, CELL.g_min), curve, loop)
    np.testing.assert_array_equal(pulses, p)
    assert enough.all()


def test_a_cell_whose_nominal_conductance_is_the_target_takes_no_pulse():
    target = targets(CELL)
    done = open_loop(target + 1e-6, target, target, Traits(), CELL, LOOP, source=SOURCE)
    assert done.pulses.sum() == 0
    assert done.set_energy == done.reset_energy == 0.0
    np.testing.assert_array_equal(done.written, target + 1e-6)


def test_a_train_too_short_is_not_accepted_and_a_full_pulse_needs_one():
    start, target = np.full(SHAPE, 1e-6), np.full(SHAPE, 39e-6)
    done = open_loop(start, start, target, Traits(), CELL, replace(LOOP, max_pulses=5), source=SOURCE)
    assert done.unconverged == target.size
    assert (done.pulses == 5).all()
    binary = replace(LOOP, set_rate=1.0, reset_rate=1.0, top=40e-6, bottom=1e-6)
    up, enough = counted_pulses(np.array([1e-6, 40e-6, 1e-6]), np.array([40e-6, 1e-6, 1e-6]), binary)
    np.testing.assert_array_equal(up, [1, -1, 0])
    assert enough.all()


def test_the_energy_of_counted_pulses_is_voltage_squared_mean_conductance_time():
    shape = (1, 1, 1, 1, 1, 1)
    start, target = np.full(shape, 10e-6), np.full(shape, 10e-6 + 0.05 * 35e-6)  # one pulse
    done = open_loop(start, start, target, Traits(), CELL, LOOP, source=SOURCE)
    assert done.set_pulses == 1
    assert done.set_energy == pytest.approx(4.0 * 0.5 * (start + target).item() * 1e-7, rel=1e-12)
    assert done.serial_time(LOOP) == pytest.approx(1e-7)


def test_noise_of_counted_pulses_has_the_variance_of_the_law():
    """5 pulses of a rate so small that the step hardly changes: variance 5 ((c d)^2 + n^2) + w^2; 1e5 cells, sd 0.5 %."""
    loop = replace(LOOP, set_rate=1e-3, cycle_spread=2.0, cycle_noise=0.05e-6, write_noise=0.1e-6)
    shape = (1, 1, 1, 1, 256, 400)
    start = np.full(shape, 10e-6)
    target = on_curve(start, np.full(shape, 5), loop)
    done = open_loop(start, start, target, Traits(), CELL, loop, source=SOURCE)
    assert (done.pulses == 5).all()
    d = 1e-3 * 35e-6
    expected = np.sqrt(5 * ((2.0 * d) ** 2 + 0.05e-6**2) + 0.1e-6**2)
    assert (done.written - target).std() == pytest.approx(expected, rel=0.01)
    assert abs((done.written - target).mean()) < 0.015 * expected
    assert done.settled[0, 0, 0, 0, 0, 0] == np.float32(0.1e-6)


def test_counted_pulses_respect_strength_range_and_stuck_cells():
    start, target = fresh(CELL), np.full(SHAPE, 39e-6)
    random = np.random.default_rng(3)
    stuck, high = random.random(SHAPE) < 0.1, random.uniform(20e-6, 40e-6, SHAPE)
    traits = Traits(strength=np.full(SHAPE, 1.5), stuck=stuck, low=np.zeros(SHAPE), high=high)
    done = open_loop(start, start, target, traits, CELL, replace(LOOP, write_noise=1e-6), source=SOURCE)
    np.testing.assert_array_equal(done.written[stuck], start[stuck])
    assert (done.pulses[stuck] > 0).all()
    assert (done.settled[stuck] == 0).all()
    assert (done.written <= high).all()
    assert (done.written[~stuck] > 15e-6).all()
