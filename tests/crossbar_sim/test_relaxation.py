"""Conductance against time: moments, correlation, and how time adds."""

from math import erf, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossbar_sim import Chip, mapping
from crossbar_sim.noise import residual_sigma

SIDE = 640  # 640 x 640 = 409,600 cells of each target
HOUR, DAY = 3600.0, 86400.0


def neurram_sigma(g, t):
    """Quartics of the published fit at 1 s, 1 day and 2 days; linear in ln t between, held after. uS."""
    u = g / 40
    at = [
        0.348 + 16.030 * u - 43.853 * u**2 + 45.393 * u**3 - 16.815 * u**4,
        0.701 + 22.086 * u - 50.773 * u**2 + 47.095 * u**3 - 16.458 * u**4,
        0.782 + 20.274 * u - 43.507 * u**2 + 37.062 * u**3 - 11.934 * u**4,
    ]
    return float(np.interp(log(t), [0.0, log(DAY), log(2 * DAY)], at))


def cmo_sigma(g, t):
    """0.41183 + 0.0420114 ln t uS, the same for all conductances (Falcone 2025)."""
    return 0.41183 + 0.0420114 * log(t)


LAWS = {
    "hfo2_neurram": (neurram_sigma, lambda _: 0.0, (9, 12, 15), (1.0, 60.0, HOUR, DAY, 1.4 * DAY, 2 * DAY)),
    "cmo_hfox": (
        cmo_sigma,
        lambda t: -0.0890021 * log(t),
        (5, 17, 31),
        (1.0, 60.0, HOUR, DAY, 2 * DAY, 7 * DAY),
    ),
}  # levels whose conductance is more than five sigma above zero at all these times


@pytest.fixture(scope="module", params=sorted(LAWS))
def aged(request, card):
    """A card's law and the errors about the target, {time: {target: errors}}, in uS."""
    sigma, mean, levels, times = LAWS[request.param]
    preset = card(request.param, relaxation=True)
    chip = Chip(preset, seed=1, statistical=True)
    steps = preset.device.levels - 1
    arrays = [
        chip.program(np.full((SIDE, SIDE), level / steps), name=str(level), scale=np.ones(SIDE))
        for level in levels
    ]
    found = {}
    for t in times:
        chip.advance(t - 1.0 - chip.time)
        found[t] = {}
        for array in arrays:
            used = mapping.used(array.placement)[:, 0, 0]
            target = array.target_conductance()[:, 0, 0][used]
            assert np.ptp(target) == 0
            found[t][1e6 * target[0]] = 1e6 * (array.conductance()[:, 0, 0][used] - target)
    return preset, sigma, mean, found


def test_the_total_error_has_the_published_moments_at_every_time(aged):
    _, sigma, mean, found = aged
    for t, by_target in found.items():
        for target, error in by_target.items():
            expected, n = sigma(target, t), error.size
            assert n >= 400_000
            assert error.std() == pytest.approx(expected, abs=3 * expected / np.sqrt(2 * n) + 2e-5)
            assert error.mean() == pytest.approx(mean(t), abs=3 * expected / np.sqrt(n) + 2e-5)


def test_one_cells_deviations_correlate_as_the_law_says(aged):
    # G(t) = G_written + mu(t) + sigma_rel(t) z: cov = residual^2 + sigma_rel(t1) sigma_rel(t2)
    preset, sigma, _, found = aged
    for target in found[HOUR]:
        residual = 1e6 * float(residual_sigma(np.array(target * 1e-6), preset.programming))
        early, late = sigma(target, HOUR), sigma(target, DAY)
        relaxed = [np.sqrt(s**2 - residual**2) for s in (early, late)]
        law = (residual**2 + relaxed[0] * relaxed[1]) / (early * late)
        got = np.corrcoef(found[HOUR][target], found[DAY][target])[0, 1]
        assert got == pytest.approx(law, abs=3 * (1 - law**2) / np.sqrt(SIDE**2) + 1e-7)


def test_deviations_are_normal(aged):
    *_, found = aged
    for error in found[DAY].values():
        z = (error - error.mean()) / error.std()
        assert abs((z**3).mean()) < 5 * np.sqrt(6 / z.size)
        assert abs((z**4).mean() - 3) < 5 * np.sqrt(24 / z.size)


def test_published_figures_of_the_table():
    # sigma at 20 uS and at the peaks; CMO/HfOx at an hour, a day, a week
    assert [round(neurram_sigma(20, t), 3) for t in (1.0, DAY, 2 * DAY, 30 * DAY)] == [
        2.023,
        3.909,
        3.929,
        3.929,
    ]
    assert [round(cmo_sigma(0, t), 4) for t in (1.0, HOUR, DAY, 7 * DAY)] == [0.4118, 0.7558, 0.8894, 0.9711]


def held(card, *steps, name="hfo2_neurram"):
    chip = Chip(card(name, relaxation=True), statistical=True)
    array = chip.program(np.random.default_rng(0).uniform(-1, 1, (6, 9)), name="w")
    for seconds in steps:
        chip.advance(seconds)
    return array.conductance()


@given(st.floats(0, 1e7), st.floats(0, 1e7))
@settings(max_examples=40, deadline=None)
def test_two_waits_are_one_wait_bit_for_bit(card, a, b):
    np.testing.assert_array_equal(held(card, a, b), held(card, a + b))


@given(st.integers(0, 10**8), st.integers(0, 10**8), st.integers(0, 10**8))
@settings(max_examples=40, deadline=None)
def test_whole_seconds_add_bit_for_bit_from_any_moment(card, start, a, b):
    np.testing.assert_array_equal(held(card, start, a, b), held(card, start, a + b))


def test_arrays_are_one_second_old_when_program_returns(card):
    # at 1 s the shift of CMO/HfOx is 0: waiting 0 s changes nothing, and e - 1 s shifts by one unit of ln t
    before, after = held(card, name="cmo_hfox"), held(card, np.e - 1, name="cmo_hfox")
    np.testing.assert_array_equal(before, held(card, 0.0, name="cmo_hfox"))
    assert 1e6 * (after - before)[after > 0].mean() == pytest.approx(-0.0890, abs=0.015)


def test_conductance_is_clipped_at_zero_only(card):
    chip = Chip(card(relaxation=True), statistical=True)
    array = chip.program(np.random.default_rng(0).uniform(-1, 1, (80, 90)), name="w")
    chip.advance(2 * DAY)
    g = array.conductance()[mapping.used(array.placement)]
    assert g.min() == 0
    assert g.max() > chip.preset.device.g_max
    # the mass at 0 of the cells in HRS, target 1 uS, is that of the censored normal
    low = array.target_conductance()[mapping.used(array.placement)] == chip.preset.device.g_min
    share = 0.5 * (1 + erf(-1 / neurram_sigma(1.0, 2 * DAY) / np.sqrt(2)))
    assert (g[low] == 0).mean() == pytest.approx(share, abs=4 * np.sqrt(share / low.sum()))


def test_after_the_last_published_time_nothing_moves(card):
    np.testing.assert_array_equal(held(card, 2 * DAY), held(card, 50 * DAY))


def test_time_does_not_run_backwards(card):
    with pytest.raises(ValueError, match="must not be negative"):
        Chip(card()).advance(-1.0)
