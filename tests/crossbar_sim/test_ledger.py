"""The ledger adds, splits and prices."""

import pickle
from dataclasses import replace
from math import fsum

import numpy as np
import pytest

from crossbar_sim import Chip, Ledger, LedgerError, Ranges
from crossbar_sim.device import Device
from crossbar_sim.ledger import ACTIONS, PHASES, Entry
from crossbar_sim.prices import PriceTable

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((5, 9))
X = RNG.standard_normal((12, 9))


def ready(preset, **options):
    chip = Chip(preset, **options)
    return chip, chip.program(WEIGHT, name="w", ranges=Ranges(1.0, -4.0, 4.0))


def energy(rows, action):
    return fsum(r["energy_J"] for r in rows if r["action"] == action)


def test_array_energy_by_hand(card):
    # G+ = [[10, 20, 30], [40, 5, 15]] uS, G- = 1 uS: word lines 52, 27, 47 uS. Codes (3, 1, 2) of K = 3 at 0.2 V, 10 ns:
    # 0.04 V^2 x 10 ns x (52 + 27/9 + 47 x 4/9) uS
    preset = card(
        programming=None,
        device=Device(1e-6, 41e-6),
        mapping={"pair": "columns"},
        periphery={"dac_bits": 3, "read_voltage": 0.2, "read_width": 1e-8},
    )
    chip = Chip(preset)
    weight = (np.array([[10, 20, 30], [40, 5, 15]]) - 1) / 40
    array = chip.program(weight, name="w", scale=np.ones(2), ranges=Ranges(3.0, -9, 9))
    np.testing.assert_allclose(1e6 * array.conductance()[0, 0, 1], 1.0)
    array.mvm(np.array([[3.0, 1.0, 2.0]]))
    rows = chip.ledger.rows(preset.prices)
    assert energy(rows, "array_read") == pytest.approx(4e-10 * (52 + 27 / 9 + 47 * 4 / 9) * 1e-6, rel=1e-12)
    assert chip.ledger.total("array_read") == 12
    assert (chip.ledger.total("dac_drive"), chip.ledger.total("adc_conversion", precision="8b")) == (3, 2)


def test_read_energy_follows_its_scope_its_ledger_and_what_was_dropped(card):
    chip, array = ready(card())

    def heat(**scope):
        """What the scope's reads cost; the array of an unchanged chip takes the same for the same input."""
        rows = chip.ledger.rows(chip.preset.prices)
        return energy([r for r in rows if all(r[k] == v for k, v in scope.items())], "array_read")

    for phase in ("forward", "eval", "forward"):
        with chip.ledger.scope(task="one", phase=phase):
            array.mvm(X)
    with chip.ledger.scope(task="two", phase="forward"):
        array.mvm(X)
        once = heat(task="two", phase="forward")
        assert once > 0
        assert heat(task="one", phase="forward") == pytest.approx(2 * once)
        assert heat(task="one", phase="eval") == pytest.approx(once)
        chip.ledger.drop(task="two")
        array.mvm(X)
        assert heat(task="two") == pytest.approx(once)
        chip.ledger = Ledger(task="two", phase="forward")
        array.mvm(X)
        assert heat(task="two") == pytest.approx(once)


def test_zero_input_costs_no_array_energy_and_all_conversions(card):
    rows = []
    for x in (X, 0 * X):
        chip, array = ready(card())
        with chip.ledger.scope(phase="forward"):
            array.mvm(x)
        rows.append([r for r in chip.ledger.rows(chip.preset.prices) if r["phase"] == "forward"])
    assert energy(rows[0], "array_read") > 0
    assert energy(rows[1], "array_read") == 0
    others = [[r for r in part if r["action"] != "array_read"] for part in rows]
    assert others[0] == others[1]
    assert energy(others[1], "adc_conversion") == pytest.approx(12 * 5 * 1.67e-12)


def test_ledgers_add_by_entry_and_leave_their_parts_alone(card):
    preset = card()
    one, first = ready(preset)
    two, second = ready(preset, seed=1)
    for chip, array in ((one, first), (two, second)):
        with chip.ledger.scope(task="t", phase="eval"):
            array.mvm(X)
    before = one.ledger.rows(preset.prices), two.ledger.rows(preset.prices)
    both = (one.ledger + two.ledger).rows(preset.prices)
    for a, b, c in zip(*before, both, strict=True):
        assert c["count"] == a["count"] + b["count"]
        for column in ("energy_J", "time_s"):
            assert c[column] == pytest.approx(a[column] + b[column], rel=1e-15)
    merged = one.ledger + two.ledger
    key, state, entry = next((k, s, e) for (k, s), e in one.ledger.reads.items())
    merged.read(key, state, entry.conductance, entry.unit).squares += entry.squares
    assert (one.ledger.rows(preset.prices), two.ledger.rows(preset.prices)) == before
    assert one.ledger.copy().rows(preset.prices) == before[0]


def test_totals_are_the_sum_of_the_rows(card):
    chip, array = ready(card())
    for phase in PHASES:
        with chip.ledger.scope(task=phase, phase=phase):
            array.mvm(X)
    rows = chip.ledger.rows(chip.preset.prices)
    for action in ACTIONS:
        assert chip.ledger.total(action) == sum(r["count"] for r in rows if r["action"] == action)
    assert chip.ledger.total("adc_conversion", phase="eval", layer="w", matrix="base") == 60
    physics = [v for vs in chip.ledger.joules.values() for v in vs] + [
        e.joules() for e in chip.ledger.reads.values()
    ]
    priced = [
        r["count"] * chip.preset.prices.energy(r["action"], r["precision"])
        for r in rows
        if r["action"] not in ("set_pulse", "reset_pulse", "verify_read", "cell_write", "array_read")
    ]
    assert fsum(r["energy_J"] for r in rows) == fsum(physics + priced)


@pytest.mark.parametrize("pieces", [[12], [1] * 12, [5, 7], [11, 1]])
def test_splitting_a_batch_adds_exactly(card, pieces):
    whole, array = ready(card(noise=True))
    with whole.ledger.scope(phase="eval"):
        expected = array.mvm(X)
    parts, array = ready(card(noise=True))
    got, start = [], 0
    with parts.ledger.scope(phase="eval"):
        for size in pieces:
            with parts.samples_from(start):
                got.append(array.mvm(X[start : start + size]))
            start += size
    np.testing.assert_array_equal(np.concatenate(got), expected)
    assert parts.ledger.counts == whole.ledger.counts
    assert [e.squares.tolist() for e in parts.ledger.reads.values()] == [
        e.squares.tolist() for e in whole.ledger.reads.values()
    ]
    assert parts.ledger.rows(parts.preset.prices) == whole.ledger.rows(whole.preset.prices)


@pytest.mark.parametrize("shape", [(), (3,), (3, 4), (2, 3, 2)])
def test_splitting_along_the_first_axis_draws_the_same_noise_for_any_shape(card, shape):
    x = np.random.default_rng(1).standard_normal((4, *shape, 9))
    _, array = ready(card(noise=True))
    expected = array.mvm(x)
    for i in range(4):
        with array.chip.samples_from(i):
            np.testing.assert_array_equal(array.mvm(x[i : i + 1])[0], expected[i])


def test_a_change_of_the_cells_opens_a_new_entry(card):
    chip, array = ready(card(relaxation=True))
    array.mvm(X)
    array.mvm(X)
    assert len(chip.ledger.reads) == 1
    chip.advance(1e5)
    array.mvm(X)
    array.reprogram(-WEIGHT)
    array.mvm(X)
    assert len(chip.ledger.reads) == 3
    squares = (np.rint(np.clip(X, -1, 1) * 127) ** 2).sum(0)
    by_hand = [squares @ e.conductance * (0.2 / 127) ** 2 * 2.7e-7 for e in chip.ledger.reads.values()]
    assert len(set(by_hand)) == 3
    total = energy(chip.ledger.rows(chip.preset.prices), "array_read")
    assert total == pytest.approx(2 * by_hand[0] + sum(by_hand[1:]), rel=1e-12)


def test_scope_and_drop():
    ledger = Ledger()
    with ledger.scope(task="a", phase="eval"):
        with ledger.scope(phase="update"):
            ledger.book(ledger.key("l", "own", "opt_update"), 2)
        ledger.book(ledger.key("l", "own", "opt_update"), 3)
    ledger.book(ledger.key("l", "own", "opt_update"), 4)
    assert ledger.total("opt_update") == 9
    assert ledger.total("opt_update", task="a", phase="update") == 2
    ledger.drop(task="a")
    assert ledger.total("opt_update") == 4
    ledger.book(ledger.key("l", "rest", "opt_update"), 7)
    ledger.drop(matrix="rest")
    assert ledger.total("opt_update") == 4
    with pytest.raises(LedgerError, match="drop: say which entries"):
        ledger.drop()
    assert ledger.total("opt_update") == 4


def test_unknown_names_and_counts_are_errors_with_the_nearest_right_name():
    ledger = Ledger()
    with pytest.raises(LedgerError, match="did you mean 'set_pulse'"):
        ledger.key("l", "base", "set_puls")
    with pytest.raises(LedgerError, match="did you mean 'forward'"), ledger.scope(phase="foward"):
        pass
    for wrong in (-1, 1.5):
        with pytest.raises(LedgerError, match="non-negative integer"):
            ledger.book(ledger.key("l", "base", "set_pulse"), wrong)
    assert ledger.rows(None) == []


def test_a_counted_action_without_a_price_or_latency_is_an_error(card):
    chip, array = ready(card(periphery={"adc_bits": 3}))
    array.mvm(X)
    with pytest.raises(LedgerError, match=r"no price for 'adc_conversion\.3b'"):
        chip.ledger.rows(chip.preset.prices)
    ledger = Ledger()
    ledger.book(ledger.key("l", "base", "shift_add"), 1, slots=1)
    with pytest.raises(LedgerError, match="no latency for 'shift_add'"):
        ledger.rows(chip.preset.prices)
    with pytest.raises(LedgerError, match="no price"):
        ledger.rows(PriceTable("empty"))


def test_without_prices_energy_and_time_are_not_known(card):
    chip, array = ready(replace(card(), prices=None))
    array.mvm(X)
    rows = chip.ledger.rows(None)
    assert {r["action"] for r in rows} >= {"array_read", "set_pulse", "adc_conversion"}
    assert all(np.isnan(r["energy_J"]) and np.isnan(r["time_s"]) for r in rows)


def test_multiples_wait_and_are_never_lost():
    ledger = Ledger(task="t")
    entries = tuple(
        Entry(ledger.key("l", "base", action), events, slots)
        for action, events, slots in (("dac_drive", 3, 0), ("adc_conversion", 2, 5))
    )
    key = entries[1].key
    ledger.book_times(entries, 4)
    again = pickle.loads(pickle.dumps(ledger))
    assert not again._waiting
    for _ in range(6000):  # more tuples than may wait
        again.book_times(tuple(entries), 1)
        again.book_times((Entry(key, 1, 0),), 1)
    ledger.book_times(entries, 1)
    assert (ledger.counts[key], ledger.slots[key]) == (10, 25)
    assert (again.counts[key], again.slots[key]) == (2 * 6004 + 6000, 5 * 6004)
    assert (ledger + again).total("dac_drive") == 3 * 6009
