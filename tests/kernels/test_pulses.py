"""Writing: what the contract notices, and the laws by hand on both backends."""

from types import SimpleNamespace

import numpy as np
import pytest

from crossbar_kernels import available, get_kernels, reference
from crossbar_kernels.contract_pulses import OPEN, PLAIN, check_writes, elements, table
from crossbar_kernels.outcomes import UNIT, ArrayDraws, error_shape
from crossbar_kernels.philox import normals, philox4x32
from crossbar_kernels.pulses import PLANES, WIDE, Draws

DRAWS = Draws((3, 4), 2**28, 2**18, 7)
ONE = np.ones((1, 1))
QUIET = PLAIN._replace(spread=0.0)
ARRAY_DRAWS = ArrayDraws((3, 4), np.array([9], np.uint32), 2)


@pytest.fixture(params=available())
def kernels(request):
    return get_kernels(request.param)


def one(kernels, start, target, *, tolerance=0.01, strength=1.0, bounds=None, train=QUIET):
    limits = None if bounds is None else (bounds[0] * ONE, bounds[1] * ONE)
    given = (start * ONE, target * ONE, tolerance * ONE, strength * ONE, limits)
    return kernels.write_verify(*given, train=train, draws=DRAWS)


@pytest.mark.parametrize("function", ["write_verify", "apply_pulses", "settle"])
def test_the_contract_notices_one_wrong_bit(function):
    def spoilt(*given, **options):
        found = getattr(reference, function)(*given, **options)
        value = found.value.copy()
        value.flat[-1] = np.nextafter(value.flat[-1], 9.0)
        return found._replace(value=value)

    parts = {n: getattr(reference, n) for n in ("write_verify", "apply_pulses", "settle")}
    with pytest.raises(AssertionError, match=f"{function}.*: value: 1 of [12] differ"):
        check_writes(SimpleNamespace(**(parts | {function: spoilt})))


def test_an_element_of_strength_zero_takes_pulses_and_stays(kernels):
    r = one(kernels, 0.2, 0.9, strength=0.0)
    assert (r.value[0, 0], r.up[0, 0], r.accepted[0, 0]) == (0.2, PLAIN.max_pulses, False)
    k = np.minimum(np.arange(PLAIN.max_pulses), 7)
    assert r.up_energy[0] == pytest.approx((PLAIN.up_drive[k] ** 2).sum() * PLAIN.width * 0.2, rel=1e-12)
    assert r.verify_energy[0] == pytest.approx((PLAIN.max_pulses + 2) * PLAIN.verify * 0.2, rel=1e-12)


def test_compliance_caps_the_current_of_upward_pulses(kernels):
    train = QUIET._replace(compliance=0.1, max_pulses=1)
    up, down = one(kernels, 0.5, 0.9, train=train), one(kernels, 0.5, 0.1, train=train)
    assert up.up_energy[0] == pytest.approx(1.0 * 0.1 * 0.7, rel=1e-12)
    assert down.down_energy[0] == pytest.approx(1.1**2 * 0.7 * 0.5 * (0.5 + down.value[0, 0]), rel=1e-12)


@pytest.mark.parametrize("limit", [1, 3, 9])
def test_an_element_is_given_up_after_pulses_in_a_row_at_the_last_drive(kernels, limit):
    # upward drives reach their end, 2.0, at step 5; downward, 1.8, at step 7
    train = QUIET._replace(max_end_pulses=limit)
    assert one(kernels, 0.2, 0.9, strength=0.0, train=train).up[0, 0] == 5 + limit
    assert one(kernels, 0.9, 0.2, strength=0.0, train=train).down[0, 0] == 7 + limit


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_an_element_is_given_up_when_it_needs_one_reversal_too_many(kernels, limit):
    # so strong that every pulse jumps across the target
    train = QUIET._replace(up_growth=np.full(8, 1.0), down_growth=np.full(8, 1.0), max_reversals=limit)
    r = one(kernels, 0.2, 0.5, tolerance=1e-6, train=train)
    assert r.up[0, 0] + r.down[0, 0] == 1 + limit
    assert not r.accepted[0, 0]


def test_bounds_hold_after_every_pulse_and_enter_the_energy(kernels):
    r = one(kernels, 0.2, 0.9, bounds=(0.0, 0.25), train=QUIET._replace(max_pulses=3, up_growth=np.ones(8)))
    assert r.value[0, 0] == 0.25
    drives = PLAIN.up_drive[:3] ** 2 * PLAIN.width
    assert r.up_energy[0] == pytest.approx(drives @ [0.225, 0.25, 0.25], rel=1e-12)


def test_counted_pulses_are_the_law_written_in_a_loop(kernels):
    e = elements(3, 5)
    e.pulses[0, 0] = -PLANES * 4 - 9
    found = kernels.apply_pulses(e.start, e.pulses, e.strength, e.bounds, train=OPEN, draws=DRAWS)
    for i, j in np.ndindex(3, 5):
        x, heat, rising = e.start[i, j], 0.0, e.pulses[i, j] > 0
        for p in range(abs(int(e.pulses[i, j]))):
            high, plane = divmod(p // 4, PLANES)
            counter = (j + WIDE * high, i, DRAWS.stream + DRAWS.plane * plane, DRAWS.event)
            z = float(normals(philox4x32(*(np.array([c]) for c in counter), *DRAWS.key))[p % 4][0])
            d = e.strength[i, j] * (0.03 * (1.3 - x) if rising else -0.05 * (x + 0.1))
            after = x + d + np.hypot(0.3 * d, 0.002) * z
            after = min(max(after, e.bounds[0][i, j]), e.bounds[1][i, j])
            heat += (4.0 * 0.5 if rising else 2.25 * 0.25) * (x + after) / 2
            x = after
        assert found.value[i, j] == pytest.approx(x, rel=1e-9)
    total = found.up_energy.sum() + found.down_energy.sum()
    assert total > 0
    assert (found.up_energy.min(), found.down_energy.min()) >= (0.0, 0.0)


def test_counted_pulses_refuse_columns_beyond_their_counter(kernels):
    wide = np.zeros((1, WIDE))
    with pytest.raises(ValueError, match="at most 65535 columns"):
        kernels.apply_pulses(wide, wide.astype(np.int16), wide, (wide, wide), train=OPEN, draws=DRAWS)


def test_outcomes_are_the_law_written_in_a_loop(kernels):
    """One array, plain residual: every element by hand from its word."""
    t = table()._replace(residual=np.array([0.004]))
    e = elements(4, 7)
    r = kernels.settle(e.start[None], e.target[None], None, None, table=t, draws=ARRAY_DRAWS)
    moves, slots = np.zeros((21, 6), int), np.zeros((4, 2), int)
    for a, b in np.ndindex(4, 7):
        g, goal = e.start[a, b], e.target[a, b]
        w = 0.01 + 0.02 * goal
        if abs(g - goal) <= w:
            assert (r.value[0, a, b], r.pulses[0, a, b], r.accepted[0, a, b]) == (g, 0.0, True)
            continue
        word = int(philox4x32(b // 4, a, 9, 2, 3, 4)[b % 4])
        i = min(max(round((g - 0.1) / 0.04), 0), 20)
        j = min(max(round((goal - 0.1) / 0.16), 0), 5)
        v, p = (word + 0.5) * UNIT, t.failure[i, j]
        u = 2 * (v / p if v < p else (v - p) / (1 - p)) - 1
        error = np.sign(u) * t.miss[i, j] * w if v < p else u * np.sqrt(3) * 0.004
        assert r.value[0, a, b] == pytest.approx(max(goal + error, 0), rel=1e-12)
        assert r.accepted[0, a, b] == (v >= p)
        assert r.pulses[0, a, b] == t.pulses[i, j]
        moves[i, j] += 1
        counts = (t.up[i, j, word % 8], t.down[i, j, word % 8])
        slots[a] = np.maximum(slots[a], counts)
    np.testing.assert_array_equal(r.moves, moves)
    np.testing.assert_array_equal(r.slots[0], slots)


@pytest.mark.parametrize(("ratio", "hole"), [(0.2, 0.0), (0.57, 0.0), (0.6, None), (0.95, None), (1.3, 0.0)])
def test_the_shape_of_the_error_has_the_residuals_deviation(ratio, hole):
    found, size = (float(v) for v in error_shape(np.array(2.0 * ratio), np.array(2.0)))
    u = (np.arange(10**5) + 0.5) / 10**5
    error = (found + (1 - found) * u) * size
    assert np.sqrt((error**2).mean()) == pytest.approx(2.0 * ratio, rel=1e-4)
    assert found == pytest.approx(hole) if hole is not None else found > 0.05
    assert (error.max() <= 2.0) == (ratio < 1)


def test_threads_and_stacking_change_no_outcome(kernels):
    random = np.random.default_rng(5)
    start, target = random.uniform(0, 1, (2, 6, 70, 200))
    words = np.arange(6, dtype=np.uint32) * 77
    whole = kernels.settle(start, target, table=table(), draws=ArrayDraws((1, 2), words, 3))
    for k in (0, 5):
        draws = ArrayDraws((1, 2), words[k : k + 1], 3)
        alone = kernels.settle(start[k : k + 1], target[k : k + 1], table=table(), draws=draws)
        np.testing.assert_array_equal(alone.value[0], whole.value[k])
        np.testing.assert_array_equal(alone.slots[0], whole.slots[k])
