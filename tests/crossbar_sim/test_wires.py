"""IR drop: against the specification, a peer, Kirchhoff's laws and closed forms."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest

from crossbar_kernels import ladder
from crossbar_sim import wires
from crossbar_sim.errors import ConfigError

ROOT = Path(__file__).parents[2]
SHAPES = [(1, 1), (1, 17), (17, 1), (5, 7), (8, 16), (20, 13), (9, 40), (40, 9)]
SEGMENTS = [(0.0, 0.0), (1.0, 1.5), (20.0, 0.0), (0.0, 20.0), (20.0, 20.0), (1e-7, 1e-6), (1e6, 3e5)]


def cells(shape, *, opened=0.1, seed=0):
    """Random conductances of 1 to 100 uS, some cells open."""
    random = np.random.default_rng([seed, *shape])
    return random.uniform(1e-6, 1e-4, shape) * (random.random(shape) >= opened)


def miss(found, right):
    """Largest difference in units of the largest value."""
    return np.abs(found - right).max() / max(np.abs(right).max(), 1e-300)


def flipped(a):
    """The array seen from the outputs: bit lines become word lines, each read from its sensed or driven end."""
    return a[::-1, ::-1].swapaxes(0, 1)


@pytest.mark.parametrize("segments", SEGMENTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_joined_blocks_equal_one_dense_solution(shape, segments):
    g = cells(shape)
    found = wires.effective(g, r_wl=segments[0], r_bl=segments[1])
    assert miss(found, ladder.transfer(g, *segments)) < 1e-12


@pytest.fixture(scope="module")
def badcrossbar():
    """The peer, its libraries for drawing and printing replaced by mocks: pycairo needs a C library."""
    if find_spec("badcrossbar") is None:
        pytest.fail(
            "badcrossbar is missing; `make test` installs it: pip install --no-deps badcrossbar==1.1.0"
        )
    with pytest.MonkeyPatch.context() as patch:
        for name in ("cairo", "sigfig", "pathvalidate"):
            patch.setitem(sys.modules, name, MagicMock())
        import badcrossbar

        yield badcrossbar


@pytest.mark.parametrize(
    "segments", [(0.0, 0.0), (1.0, 1.5), (20.0, 0.0), (0.0, 20.0), (0.35, 5.0), (20.0, 20.0)]
)
@pytest.mark.parametrize("shape", [(1, 17), (17, 1), (5, 7), (33, 20), (64, 64)])
def test_currents_equal_badcrossbar(badcrossbar, shape, segments):
    g = cells(shape)
    volts = np.random.default_rng(1).uniform(-0.3, 0.3, (shape[0], 3))
    with np.errstate(divide="ignore"):
        resistances = 1.0 / g
    peer = badcrossbar.compute(volts, resistances, r_i_word_line=segments[0], r_i_bit_line=segments[1])
    found = volts.T @ wires.effective(g, r_wl=segments[0], r_bl=segments[1])
    assert miss(found, np.asarray(peer.currents.output)) < 1e-9


@pytest.mark.parametrize(("r_wl", "r_bl"), [(1.0, 1.5), (20.0, 0.01), (0.3, 20.0)])
def test_node_voltages_obey_kirchhoff_at_every_node(r_wl, r_bl):
    g = cells((30, 23))
    volts = np.random.default_rng(2).uniform(-1, 1, (30, 4))
    word, bit = wires.node_voltages(g, volts, r_wl=r_wl, r_bl=r_bl)
    through = g[:, :, None] * (word - bit)
    along = -np.diff(word, axis=1, prepend=volts[:, None]) / r_wl
    onward = np.concatenate([along[:, 1:], np.zeros((30, 1, 4))], axis=1)
    np.testing.assert_allclose(along - onward, through, rtol=0, atol=1e-14 / min(r_wl, r_bl))
    below = -np.diff(bit, axis=0, append=0) / r_bl
    above = np.concatenate([np.zeros((1, 23, 4)), below[:-1]], axis=0)
    np.testing.assert_allclose(below - above, through, rtol=0, atol=1e-14 / min(r_wl, r_bl))


@pytest.mark.parametrize("segments", SEGMENTS[:6])
@pytest.mark.parametrize("shape", [(1, 1), (1, 17), (17, 1), (33, 20), (64, 64), (70, 70)])
def test_cell_currents_of_the_sparse_solution_add_up_to_the_effective_currents(shape, segments):
    g = cells(shape, opened=0.0)
    volts = np.random.default_rng(3).uniform(-1, 1, (shape[0], 5))
    word, bit = wires.node_voltages(g, volts, r_wl=segments[0], r_bl=segments[1])
    currents = np.einsum("ij,ijv->vj", g, word - bit)
    assert miss(volts.T @ wires.effective(g, r_wl=segments[0], r_bl=segments[1]), currents) < 1e-11


def test_without_resistance_nothing_changes():
    g = cells((12, 9))
    assert np.array_equal(wires.effective(g, r_wl=0, r_bl=0), g)
    word, bit = wires.node_voltages(g, np.ones((12, 2)), r_wl=0, r_bl=0)
    assert np.all(word == 1)
    assert np.all(bit == 0)


def test_tiny_segments_lose_no_digits():
    """The change by 1 nohm is 1e-10 of G; it still agrees with perturbation theory to four digits."""
    g, r = cells((40, 30)), 1e-9
    i, j = np.arange(40), np.arange(30)
    drops = (40 - np.maximum.outer(i, i)) @ g + 2 * (g @ (1 + np.minimum.outer(j, j)))
    change = g - wires.effective(g, r_wl=2 * r, r_bl=r)
    np.testing.assert_allclose(change, g * drops * r, rtol=0, atol=1e-4 * (g * drops * r).max())


def test_uniform_column_follows_the_closed_form_of_a_ladder():
    rows, g, r = 50, 1e-4, 40.0
    theta = np.arccosh(1 + r * g / 2)
    last = np.cosh((rows - 0.5) * theta) / np.cosh((rows + 0.5) * theta)
    currents = wires.effective(np.full((rows, 3), g), r_wl=0, r_bl=r).sum(axis=0)
    np.testing.assert_allclose(currents, (1 - last) / r, rtol=1e-12)


def test_uniform_word_line_follows_the_closed_form_of_a_ladder():
    cols, g, r = 50, 1e-4, 40.0
    theta = np.arccosh(1 + r * g / 2)
    j = np.arange(cols)
    reached = np.cosh((cols - j - 0.5) * theta) / np.cosh((cols + 0.5) * theta)
    found = wires.effective(np.full((3, cols), g), r_wl=r, r_bl=0)
    np.testing.assert_allclose(found, np.tile(g * reached, (3, 1)), rtol=1e-12)


def test_a_single_cell_is_three_resistances_in_series():
    assert wires.effective([[1e-3]], r_wl=200.0, r_bl=300.0) == pytest.approx(1 / 1500, rel=1e-14)


def test_drive_and_sense_ends_may_change_places():
    g = cells((30, 18))
    there = wires.effective(g, r_wl=3.0, r_bl=7.0)
    back = wires.effective(flipped(g), r_wl=7.0, r_bl=3.0)
    assert miss(flipped(back), there) < 1e-13


def test_voltages_superpose():
    g, volts = cells((16, 11)), np.random.default_rng(4).normal(size=(16, 2))
    word, bit = wires.node_voltages(g, np.c_[volts, volts.sum(axis=1)], r_wl=2.0, r_bl=1.0)
    np.testing.assert_allclose(word[..., 0] + word[..., 1], word[..., 2], atol=1e-13)
    np.testing.assert_allclose(bit[..., 0] + bit[..., 1], bit[..., 2], atol=1e-13)


def test_currents_shrink_as_segments_grow_and_stay_positive():
    g = cells((48, 48), opened=0.0)
    totals = [wires.effective(g, r_wl=r, r_bl=r).sum() for r in (0.0, 0.1, 1.0, 10.0, 1e3, 1e6)]
    assert all(np.diff(totals) < 0)
    assert wires.effective(g, r_wl=1e4, r_bl=1e4).min() >= 0


def test_long_lines_of_high_resistance_stay_finite_and_exact():
    g = np.full((300, 3), 1e-2)
    found = wires.effective(g, r_wl=0, r_bl=1e6)
    theta = np.arccosh(1 + 1e4 / 2)
    i = np.arange(300)
    log_cosh = [np.logaddexp((k + 0.5) * theta, -(k + 0.5) * theta) for k in (*i, 300)]
    expected = 1e-2 * np.exp(np.asarray(log_cosh[:-1]) - log_cosh[-1])
    np.testing.assert_allclose(found, np.repeat(expected[:, None], 3, axis=1), rtol=1e-9, atol=1e-300)


def test_a_batch_equals_its_arrays_one_by_one():
    g = cells((2, 3, 21, 34))
    found = wires.effective(g, r_wl=1.0, r_bl=2.0)
    singles = [wires.effective(one, r_wl=1.0, r_bl=2.0) for one in g.reshape(-1, 21, 34)]
    assert np.array_equal(found.reshape(-1, 21, 34), singles)


def test_bits_do_not_depend_on_the_number_of_threads():
    code = """
import sys, hashlib, numba, numpy as np, torch
from crossbar_sim import wires
count = int(sys.argv[1])
numba.set_num_threads(count); torch.set_num_threads(count)
random = np.random.default_rng(0)
g = random.uniform(1e-6, 1e-4, (7, 64, 160))
a = wires.effective(g, r_wl=1, r_bl=2)
b = wires.gated(g[0], random.random((90, 64)) < 0.5, segment=1)
print(hashlib.sha256(a.tobytes() + b.tobytes()).hexdigest())
"""
    path = {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "kernels"))), "NUMBA_NUM_THREADS": "3"}
    found = {
        subprocess.run(
            [sys.executable, "-c", code, str(count)],
            env=os.environ | path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for count in (1, 3)
    }
    assert len(found) == 1


def dense_gated(g, active, r):
    """Kirchhoff's current law of one column: supply nodes, then sum nodes; 1 V enters at the top, 0 V at the bottom."""
    n = len(g)
    a, b = np.zeros((2 * n, 2 * n)), np.zeros(2 * n)

    def join(p, q, value):
        a[p, p] += value
        a[q, q] += value
        a[p, q] -= value
        a[q, p] -= value

    for k in range(n):
        join(k, n + k, g[k] * active[k])
        if k:
            join(k - 1, k, 1 / r)
            join(n + k - 1, n + k, 1 / r)
    a[0, 0] += 1 / r
    b[0] += 1 / r
    a[-1, -1] += 1 / r
    return np.linalg.solve(a, b)[-1] / r


@pytest.mark.parametrize("r", [0.35, 5.0, 300.0])
@pytest.mark.parametrize("rows", [1, 2, 17, 64])
def test_gated_columns_equal_a_dense_nodal_solution(rows, r):
    g = cells((rows, 3))
    active = np.random.default_rng(5).random((6, rows)) < 0.4
    right = [[dense_gated(column, chosen, r) for column in g.T] for chosen in active]
    np.testing.assert_allclose(wires.gated(g, active, segment=r), right, rtol=1e-11, atol=1e-17)


def test_compiled_gated_columns_equal_the_specification_in_every_bit():
    g, active = cells((65, 19)), np.random.default_rng(6).random((40, 65)) < 0.5
    active[0], active[1] = False, True
    for segment in (0.0, 1.0, 1e5):
        assert np.array_equal(wires.gated(g, active, segment=segment), ladder.gated(g, active, segment))


def test_gated_columns_without_resistance_add_their_cells():
    g, active = cells((30, 8)), np.random.default_rng(7).random((10, 30)) < 0.5
    np.testing.assert_allclose(wires.gated(g, active, segment=0), active @ g, rtol=1e-13, atol=0)


def test_every_gated_cell_lies_behind_rows_plus_one_segments():
    one = np.eye(9, dtype=bool)
    np.testing.assert_allclose(
        wires.gated(np.full((9, 1), 1e-3), one, segment=50.0), 1 / (1000 + 500), rtol=1e-14
    )


def exact_variance(g, volts, variance, r):
    """var I [inputs, cols] to first order: (drop across a cell)^2 (part of its current that reaches the output)^2."""
    word, bit = wires.node_voltages(g, volts, r_wl=r, r_bl=r)
    there, back = wires.node_voltages(flipped(g), np.eye(g.shape[1])[:, ::-1], r_wl=r, r_bl=r)
    return np.einsum("ab,abv,abj->vj", variance, (word - bit) ** 2, flipped(there - back) ** 2)


def test_sensitivities_are_drop_times_adjoint_drop():
    g, volts, r = cells((9, 6), opened=0), np.random.default_rng(8).normal(size=(9, 1)), 30.0
    only = np.zeros_like(g)
    only[3, 4] = 1.0
    step = 1e-10
    change = volts.T @ (wires.effective(g + step * only, r_wl=r, r_bl=r) - wires.effective(g, r_wl=r, r_bl=r))
    np.testing.assert_allclose(exact_variance(g, volts, only, r), (change / step) ** 2, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize(
    ("n", "r", "both_signs", "one_sign"),
    [(16, 0.35, 1.01, 1.02), (16, 5.0, 1.06, 1.09), (32, 1.0, 1.03, 1.07), (64, 0.35, 1.04, 1.09),
     (64, 1.0, 1.08, 1.2), (64, 5.0, 1.35, 1.85)],
)  # fmt: skip
def test_read_variance_lies_between_the_exact_one_and_the_stated_excess(n, r, both_signs, one_sign):
    random = np.random.default_rng(9)
    g = random.uniform(1e-6, 1e-4, (n, n))
    variance = (0.05 * g) ** 2
    seen = wires.read_variance(g, wires.effective(g, r_wl=r, r_bl=r), variance)
    assert np.all(seen <= variance)
    signs = np.where(random.random((n, 12)) < 0.5, -1.0, 1.0)
    for volts, excess in (
        (signs, both_signs),
        (np.ones((n, 1)), one_sign),
        (random.random((n, 4)), one_sign),
    ):
        exact = exact_variance(g, volts, variance, r)
        ratio = (volts**2).T @ seen / exact
        assert ratio.min() > 0.98
        assert ratio.max() < excess
        assert np.all((volts**2).T @ variance >= 0.98 * exact), (
            "the unattenuated variance is the upper estimate"
        )


def test_read_variance_of_open_cells_is_not_attenuated():
    assert np.array_equal(wires.read_variance([[0.0, 1.0]], [[0.1, 0.5]], [[2.0, 2.0]]), [[2.0, 0.5]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: wires.effective(-g, r_wl=1, r_bl=1), "conductance: must not be negative"),
        (lambda g: wires.effective(g * np.nan, r_wl=1, r_bl=1), "conductance: must be finite"),
        (lambda g: wires.effective(g[0], r_wl=1, r_bl=1), r"conductance: must have axes \[..., rows, cols\]"),
        (lambda g: wires.effective(g, r_wl=-1, r_bl=1), "r_wl: must be a resistance of 0 ohm or more"),
        (lambda g: wires.effective(g, r_wl=1, r_bl=np.nan), "r_bl: must be a resistance"),
        (lambda g: wires.effective(g, r_wl=1, r_bl=np.inf), "r_bl: must be a resistance"),
        (lambda g: wires.node_voltages(g, np.ones((5, 1)), r_wl=1, r_bl=1), r"voltages: must be \[rows, inputs\] with 4"),
        (lambda g: wires.node_voltages(g, [[np.inf]] * 4, r_wl=1, r_bl=1), "voltages: must be finite"),
        (lambda g: wires.node_voltages(g[None], np.ones((4, 1)), r_wl=1, r_bl=1), r"conductance: must be \[rows, cols\]"),
        (lambda g: wires.gated(g, np.ones((2, 4)), segment=1), "active: must be of type bool"),
        (lambda g: wires.gated(g, np.ones((2, 3), bool), segment=1), r"active: must be \[inputs, rows\] with 4"),
        (lambda g: wires.gated(g, np.ones((2, 4), bool), segment=-1), "segment: must be a resistance"),
        (lambda g: wires.read_variance(g, g[:2], g), "effective: must have shape"),
        (lambda g: wires.read_variance(g, g, -g), "variance: must not be negative"),
    ],
)  # fmt: skip
def test_what_is_not_a_circuit_is_an_error_that_names_the_argument(call, message):
    with pytest.raises(ConfigError, match=message):
        call(np.full((4, 3), 1e-5))
