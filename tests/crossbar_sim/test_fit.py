"""The fitted pulse response of the cards."""

from dataclasses import replace

import numpy as np
import pytest

from crossbar_sim import ConfigError, noise, preset
from crossbar_sim.fit import GOALS, faster, fit_centred, fit_factor, main, response

SIDE = 128


@pytest.mark.parametrize("name", sorted(GOALS))
def test_mean_pulses_are_the_goal_and_nearly_all_cells_converge(name):
    card = preset(name)
    goal, window = GOALS[name]
    at = card.programming if window is None else replace(card.programming, window_rel=window)
    found = response(card.device, at, side=SIDE, seed=5)
    assert found.pulses == pytest.approx(goal, rel=0.05)
    assert found.converged >= 0.99
    assert response(card.device, card.programming, side=SIDE, seed=5).converged >= 0.99


def test_the_published_figure_is_the_goal():
    assert GOALS["hfo2_neurram"] == (8.52, None)


@pytest.mark.parametrize("name", sorted(GOALS))
def test_device_strength_moves_pulses_and_energy_but_not_the_final_error(name):
    card = preset(name)
    weak, as_is, strong = (
        response(card.device, faster(card.programming, f), side=SIDE, seed=2) for f in (0.8, 1.0, 1.2)
    )
    for other in (weak, strong):
        assert other.residual == pytest.approx(as_is.residual, rel=0.05)
        changes = abs(other.pulses / as_is.pulses - 1), abs(other.energy / as_is.energy - 1)
        assert max(changes) > 0.02
    # a coarser pulse helps the wide window of one card and hurts the narrow one of the other
    assert (strong.pulses < as_is.pulses < weak.pulses) == (name == "hfo2_neurram")
    # with the published relaxation the cells that missed the window do not show either
    at_one_second = noise.total_sigma(np.array([20e-6]), 1.0, card.relaxation)[0]
    total = [np.hypot(r.residual, at_one_second) for r in (weak, as_is, strong)]
    np.testing.assert_allclose(total, total[1], rtol=0.05)


def test_the_fit_finds_the_factor_that_was_taken_away():
    card = preset("hfo2_neurram")
    known = response(card.device, card.programming, side=32).pulses
    slower = faster(card.programming, 0.5)
    assert fit_factor(card.device, slower, pulses=known, side=32) == pytest.approx(2.0, rel=0.02)


@pytest.mark.parametrize("name", sorted(GOALS))
def test_accepted_cells_are_centred_on_their_targets(name):
    card = preset(name)
    found = response(card.device, card.programming, side=SIDE, seed=5)
    assert abs(found.offset) < 0.05 * found.residual


def test_the_centred_fit_gives_the_mean_pulses_and_centres_the_cells():
    card = preset("hfo2_neurram")
    weak_reset = replace(card.programming, reset_rate=card.programming.set_rate)
    assert response(card.device, weak_reset, side=48).offset > 0.1e-6
    found = fit_centred(card.device, weak_reset, pulses=8.52, side=48)
    then = response(card.device, found, side=48)
    assert then.pulses == pytest.approx(8.52, rel=0.02)
    assert abs(then.offset) < 0.02e-6
    assert found.reset_rate > 2 * found.set_rate


@pytest.mark.parametrize("pulses", [0.1, 1000.0])
def test_a_goal_that_no_factor_reaches_is_an_error(pulses):
    card = preset("hfo2_neurram")
    with pytest.raises(ConfigError, match="no common factor"):
        fit_factor(card.device, card.programming, pulses=pulses, side=16)


@pytest.mark.parametrize("extra", [(), ("--centre",)])
def test_the_command_prints_what_it_found(capsys, extra):
    assert main(["cmo_hfox", "--pulses", "11", "--window-rel", "0.02", "--side", "32", *extra]) == 0
    out = capsys.readouterr().out
    for part in ("set_rate", "reset_rate", "for 11 pulses", "converged", "residual rms", "+ 2 %", "+ 0.2 %"):
        assert part in out


@pytest.mark.parametrize(
    ("name", "words"), [("ideal", "nothing to fit"), ("cmo_hfx", "did you mean 'cmo_hfox'")]
)
def test_a_mistake_is_one_sentence_and_exit_code_two(name, words, capsys):
    assert main([name]) == 2
    assert words in capsys.readouterr().err
