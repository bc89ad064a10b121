"""Conductance against time: moments, correlation, and how time adds."""

from math import erf, exp, log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossbar_sim import Chip, preset
from crossbar_sim.cells import Cells
from crossbar_sim.device import Drift, ReadNoise
from crossbar_sim.noise import drift_exponent, read_sigma, residual_sigma

SIDE = 640  # 640 x 640 = 409,600 cells of each target
HOUR, DAY = 3600.0, 86400.0
DECADE = 3.156e8  # ten years in s


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
        (1.0, 60.0, HOUR, DAY, 7 * DAY, DECADE),
    ),
}  # levels whose conductance is more than five sigma above zero at all these times


def programmed(card, target, *, side=SIDE, now=0.0, statistical=True, seed=2):
    """Cells all asked for one conductance (S)."""
    used = np.ones((1, 1, 1, 1, side, side), bool)
    cells = Cells(used, preset=card, key=(seed, round(1e9 * target)), kernels_name="auto", now=now)
    cells.program(np.full(used.shape, target), now=now, statistical=statistical)
    return cells


@pytest.fixture(scope="module", params=sorted(LAWS))
def aged(request, card):
    """A card's law and the errors about the target, {time: {target: errors}}, in uS."""
    sigma, mean, levels, times = LAWS[request.param]
    chosen = card(request.param, relaxation=True)
    device = chosen.device
    found = {t: {} for t in times}
    for level in levels:
        target = device.g_min + device.span * level / (device.levels - 1)
        cells = programmed(chosen, target)
        for t in times:
            found[t][1e6 * target] = 1e6 * (cells.conductance(t - 1.0) - target)
    return chosen, sigma, mean, found


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
    chosen, sigma, _, found = aged
    for target in found[HOUR]:
        residual = 1e6 * float(residual_sigma(np.array(target * 1e-6), chosen.programming))
        early, late = sigma(target, HOUR), sigma(target, DAY)
        relaxed = [np.sqrt(s**2 - residual**2) for s in (early, late)]
        law = (residual**2 + relaxed[0] * relaxed[1]) / (early * late)
        got = np.corrcoef(found[HOUR][target].ravel(), found[DAY][target].ravel())[0, 1]
        assert got == pytest.approx(law, abs=3 * (1 - law**2) / SIDE + 1e-7)


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


@pytest.mark.parametrize(
    ("target", "by_time"),
    [
        (20, {1.0: (20.0, 0.432), HOUR: (19.27, 0.773), DAY: (18.99, 0.906), DECADE: (18.26, 1.253)}),
        (50, {1.0: (50.0, 0.446), HOUR: (49.27, 0.786), DAY: (48.99, 0.918), DECADE: (48.26, 1.262)}),
        (80, {1.0: (80.0, 0.454), HOUR: (79.27, 0.794), DAY: (78.99, 0.928), DECADE: (78.26, 1.273)}),
    ],
)
def test_one_read_of_cmo_hfox_is_as_the_peer_draws_it(card, target, by_time):
    # mean and sd of 4e5 draws of aihwkit's ReRamCMONoiseModel, programming, relaxation and read noise together
    cells = programmed(card("cmo_hfox", relaxation=True, noise=True), 1e-6 * target)
    z = np.random.default_rng(0).normal(size=(1, 1, 1, 1, SIDE, SIDE))
    for t, (mean, spread) in by_time.items():
        read = 1e6 * (cells.conductance(t - 1.0) + cells.read_sigma(t - 1.0) * z)
        both = 3 * sqrt(2) * spread / SIDE  # their draws and ours err
        assert read.mean() == pytest.approx(mean, abs=both + 0.005)
        assert read.std() == pytest.approx(spread, abs=both / sqrt(2) + 0.0005)


# -- drift ---------------------------------------------------------------------------------------------------


def pcm_moments(target, t):
    """Mean and sd of G(t) in uS: programming error times ((t + 20)/20)^-nu, nu = |mu + sigma z| a folded normal.

    E exp(-L |mu + s z|) = exp(-L mu + L^2 s^2/2) Phi(mu/s - L s) + exp(L mu + L^2 s^2/2) Phi(-mu/s - L s).
    """
    r = target / 25
    mu = min(max(-0.0155 * log(r) + 0.0244, 0.049), 0.1)
    s = min(max(-0.0125 * log(r) - 0.0059, 0.008), 0.045)
    sigma = 0.26348 + 1.9650 * r - 1.1731 * r**2

    def phi(x):
        return 0.5 * (1 + erf(x / sqrt(2)))

    def factor(power):
        span = power * log((t + 20) / 20)
        return sum(exp(-span * m + (span * s) ** 2 / 2) * phi(m / s - span * s) for m in (mu, -mu))

    mean = target * factor(1)
    return mean, sqrt((target**2 + sigma**2) * factor(2) - mean**2)


@pytest.mark.parametrize("target", [8.0, 15.0, 25.0])
def test_phase_change_cells_drift_as_published(target):
    cells = programmed(preset("pcm_joshi"), 1e-6 * target)
    for t in (1.0, 20.0, HOUR, DAY, 30 * DAY):
        g = 1e6 * cells.conductance(t - 1.0)
        mean, spread = pcm_moments(target, t)
        assert g.mean() == pytest.approx(mean, abs=3 * spread / SIDE)
        fourth = ((g - g.mean()) ** 4).mean()  # the error of a variance of numbers that are not normal
        assert g.var() == pytest.approx(spread**2, abs=3 * sqrt(fourth - spread**4) / SIDE)


def test_a_cell_keeps_its_drift_exponent(card):
    cells = programmed(preset("pcm_joshi"), 10e-6, side=64)
    first, later, last = (cells.conductance(t - 1.0) for t in (1.0, HOUR, DAY))
    exponents = [
        -np.log(g / first) / (log((t + 20) / 20) - log(21 / 20)) for g, t in ((later, HOUR), (last, DAY))
    ]
    np.testing.assert_allclose(exponents[0], exponents[1], rtol=1e-9)
    assert exponents[0].std() > 0.005


def test_drift_exponents_are_held_at_their_published_limits():
    drift = Drift(20.0, 25e-6, (-0.0155, 0.0244, 0.049, 0.1), (-0.0125, -0.0059, 0.008, 0.045))
    z = np.zeros(3, np.float32)
    np.testing.assert_allclose(
        drift_exponent(np.array([0.0, 1e-6, 25e-6]), z, drift), [0.1, 0.0743, 0.049], atol=1e-4
    )
    strong = drift_exponent(np.array([25e-6]), np.array([-10], np.float32), drift)
    assert strong[0] == pytest.approx(abs(0.049 - 0.08))  # folded, never negative


def test_phase_change_read_noise_grows_with_time_and_falls_with_conductance():
    law = ReadNoise(flicker=0.0088, exponent=0.65, cap=0.2, reference=25e-6, delay=20.0, read_time=250e-9)
    for target, g in ((25e-6, 20e-6), (5e-6, 4e-6), (1e-8, 1e-8)):
        q = min(0.2, 0.0088 / (target / 25e-6) ** 0.65)
        for t in (1.0, 1e6):
            expected = g * q * sqrt(log((t + 20 + 250e-9) / 500e-9))
            got = read_sigma(np.array([g]), t, law, np.array([target]))
            assert got[0] == pytest.approx(expected, rel=1e-12)


# -- how time adds -------------------------------------------------------------------------------------------


def held(card, *steps, name="hfo2_neurram"):
    chosen = preset(name) if name == "pcm_joshi" else card(name, relaxation=True)
    chip = Chip(chosen, statistical=True)
    array = chip.program(np.random.default_rng(0).uniform(-1, 1, (6, 9)), name="w")
    for seconds in steps:
        chip.advance(seconds)
    return array.conductance()


@pytest.mark.parametrize("name", ["hfo2_neurram", "pcm_joshi"])
@given(st.floats(0, 1e7), st.floats(0, 1e7))
@settings(max_examples=25, deadline=None)
def test_two_waits_are_one_wait_bit_for_bit(card, name, a, b):
    np.testing.assert_array_equal(held(card, a, b, name=name), held(card, a + b, name=name))


@given(*[st.integers(0, 10**8 * 2**20).map(lambda ticks: ticks * 2.0**-20)] * 3)
@settings(max_examples=25, deadline=None)
def test_microseconds_add_bit_for_bit_from_any_moment(card, start, a, b):
    # in units of 2^-20 s
    np.testing.assert_array_equal(held(card, start, a, b), held(card, start, a + b))


def test_arrays_are_one_second_old_when_program_returns(card):
    # at 1 s the shift of CMO/HfOx is 0: waiting 0 s changes nothing, and e - 1 s shifts by one unit of ln t
    before, after = held(card, name="cmo_hfox"), held(card, np.e - 1, name="cmo_hfox")
    np.testing.assert_array_equal(before, held(card, 0.0, name="cmo_hfox"))
    assert 1e6 * (after - before)[after > 0].mean() == pytest.approx(-0.0890, abs=0.015)


def test_conductance_is_clipped_at_zero_only(card):
    # the mass at 0 of the cells in HRS, target 1 uS, is that of the censored normal
    chosen = card(relaxation=True)
    low = programmed(chosen, chosen.device.g_min, side=200).conductance(2 * DAY)
    assert low.min() == 0
    share = 0.5 * (1 + erf(-1 / neurram_sigma(1.0, 2 * DAY) / np.sqrt(2)))
    assert (low == 0).mean() == pytest.approx(share, abs=4 * np.sqrt(share / low.size))
    assert programmed(chosen, chosen.device.g_max, side=64).conductance(2 * DAY).max() > chosen.device.g_max


def test_after_the_last_published_time_nothing_moves(card):
    np.testing.assert_array_equal(held(card, 2 * DAY), held(card, 50 * DAY))


def test_time_does_not_run_backwards(card):
    with pytest.raises(ValueError, match="must be finite and not negative"):
        Chip(card()).advance(-1.0)
