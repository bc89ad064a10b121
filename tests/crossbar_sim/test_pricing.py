"""Price tables are data, and what is booked can be priced again without being run again."""

from dataclasses import replace
from itertools import product
from math import fsum, isnan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossbar_sim import Chip, ConfigError, Ledger, LedgerError, Ranges, preset
from crossbar_sim.card_file import price_entries, price_file, price_files, price_table
from crossbar_sim.ledger import PHASES
from crossbar_sim.presets import edit
from crossbar_sim.prices import MARKS, Price, PriceTable
from crossbar_sim.pricing import MEMORIES, WRITES, Pricing, adcs, assumed_share, reprice
from crossbar_sim.sar import converters, power, seconds

CARD = preset("hfo2_neurram")
WEIGHT = np.random.default_rng(0).standard_normal((5, 9))
DIGITAL = {
    "digital_mul": 3, "digital_add": 5, "digital_function": 7, "opt_update": 11, "sram_read_bit": 13,
    "activation_write_bit": 17, "activation_read_bit": 19, "dram_read_bit": 23, "dram_write_bit": 29,
}  # fmt: skip


def written(card, *, phase="switch"):
    """A ledger with a little of everything: writing, reading and digital work."""
    chip = Chip(card)
    with chip.ledger.scope(task="t", phase=phase):
        array = chip.program(WEIGHT, name="w", ranges=Ranges(1.0, -4.0, 4.0))
        array.mvm(np.linspace(-1, 1, 18).reshape(2, 9))
        for action, count in DIGITAL.items():
            chip.ledger.book(chip.ledger.key("w", "own", action, chip.precision(action)), count)
    return chip.ledger


LEDGER = written(CARD)
PRICINGS = [
    Pricing(adc=adc, write=write, node=node, memory=memory, dram=dram)
    for (adc, write), (node, memory, dram) in product(
        product(["", "isaac", "murmann", "neurosim_sar", "neurosim_sar:130"], WRITES),
        [(0, "edram", ""), (45, "sram", "high"), (7, "dram", "hbm2")],
    )
]


def same(found, expected):
    """Rows agree, to 1e-12 in what is measured."""
    for a, b in zip(found, expected, strict=True):
        assert {k: v for k, v in a.items() if k not in ("energy_J", "time_s")} == {
            k: v for k, v in b.items() if k not in ("energy_J", "time_s")
        }
        for column in ("energy_J", "time_s"):
            assert a[column] == pytest.approx(b[column], rel=1e-12, abs=0, nan_ok=True)


def by(rows, action, column="energy_J", matrix=None):
    return fsum(r[column] for r in rows if r["action"] == action and matrix in (None, r["matrix"]))


def test_rows_priced_again_are_the_rows_of_the_ledger_at_the_new_prices():
    for pricing in PRICINGS:
        now = pricing.table(CARD)
        same(reprice(LEDGER.rows(CARD.prices), CARD.prices, now), LEDGER.rows(now))


@settings(max_examples=60)
@given(then=st.sampled_from(PRICINGS), now=st.sampled_from(PRICINGS), data=st.data())
def test_any_pricing_follows_any_other_unless_physics_was_given_away(then, now, data):
    ledger = Ledger()
    for _ in range(data.draw(st.integers(0, 6))):
        action = data.draw(
            st.sampled_from([*DIGITAL, "adc_conversion", "verify_read", "set_pulse", "cell_write"])
        )
        precision = {"adc_conversion": "8b", "opt_update": "fp32"}.get(
            action, "fp16" if action.startswith("digital") else ""
        )
        count, phase = data.draw(st.integers(1, 10**6)), data.draw(st.sampled_from(PHASES))
        physics = {"joules": data.draw(st.floats(0, 1e-6))} if action in ("verify_read", "set_pulse") else {}
        slots = count if physics or action == "adc_conversion" else 0
        with ledger.scope(task="t", phase=phase):
            ledger.book(ledger.key("l", "A", action, precision), count, slots=slots, **physics)
            if action == "verify_read":
                ledger.book(ledger.key("l", "A", "adc_conversion", "8b"), count, slots=3)
    old, new = then.table(CARD), now.table(CARD)
    rows = ledger.rows(old)
    lost = any(r["action"] in ("set_pulse", "verify_read", "cell_write") and r["count"] for r in rows)
    if then.write != "physics" and now.write == "physics" and lost:
        with pytest.raises(LedgerError, match="give the rows priced by physics"):
            reprice(rows, old, new)
        return
    same(reprice(rows, old, new), ledger.rows(new))


def test_prices_of_a_card_are_its_own_by_default():
    assert Pricing().table(CARD) == CARD.prices
    assert Pricing(adc="isaac").table(CARD).energies == CARD.prices.energies


@pytest.mark.parametrize(("write", "joules"), [("low", 0.6e-12), ("mid", 0.52e-9), ("high", 3.91e-9)])
def test_a_price_per_write_stands_for_pulses_verify_reads_and_their_conversions(write, joules):
    physics, fixed = (LEDGER.rows(Pricing(write=w).table(CARD)) for w in ("physics", write))
    cells, verified = LEDGER.total("cell_write"), LEDGER.total("verify_read")
    assert cells > 0
    assert by(fixed, "cell_write") == pytest.approx(cells * joules, rel=1e-14)
    for action in ("set_pulse", "reset_pulse", "verify_read"):
        assert by(physics, action) > 0
        assert by(fixed, action) == 0
    conversions = LEDGER.total("adc_conversion")
    assert conversions > verified
    assert by(physics, "adc_conversion") == pytest.approx(conversions * 1.67e-12, rel=1e-14)
    assert by(fixed, "adc_conversion") == pytest.approx((conversions - verified) * 1.67e-12, rel=1e-14)
    rest = {"set_pulse", "reset_pulse", "verify_read", "cell_write", "adc_conversion"}
    assert [r for r in physics if r["action"] not in rest] == [r for r in fixed if r["action"] not in rest]
    assert [r["time_s"] for r in physics] == [r["time_s"] for r in fixed]


def test_conversions_of_another_place_are_not_paid_by_a_write():
    ledger = Ledger()
    for layer, action, precision in (
        ("a", "verify_read", ""),
        ("a", "adc_conversion", "8b"),
        ("b", "adc_conversion", "8b"),
    ):
        ledger.book(ledger.key(layer, "A", action, precision), 10)
    rows = {(r["layer"], r["action"]): r for r in ledger.rows(Pricing(write="low").table(CARD))}
    assert rows["a", "adc_conversion"]["energy_J"] == 0
    assert rows["b", "adc_conversion"]["energy_J"] == pytest.approx(10 * 1.67e-12, rel=1e-14)
    ledger.book(ledger.key("c", "A", "verify_read"), 1)
    with pytest.raises(LedgerError, match="c / A: 1 verify reads have no adc_conversion"):
        ledger.rows(Pricing(write="low").table(CARD))


def test_times_follow_the_latency_of_the_converter():
    before, after = (LEDGER.rows(Pricing(adc=adc).table(CARD)) for adc in ("", "neurosim_sar"))
    assert by(before, "adc_conversion", "time_s") > 0
    ratio = by(after, "adc_conversion", "time_s") / by(before, "adc_conversion", "time_s")
    assert ratio == pytest.approx(9e-9 / 0.83e-9, rel=1e-12)
    assert by(after, "array_read", "time_s") == by(before, "array_read", "time_s") > 0


def test_a_counted_action_without_a_price_is_an_error_and_what_is_not_known_stays_so():
    rows = LEDGER.rows(CARD.prices)
    short = replace(CARD.prices, energies={k: v for k, v in CARD.prices.energies.items() if k != "dac_drive"})
    with pytest.raises(LedgerError, match="no price for 'dac_drive'"):
        reprice(rows, CARD.prices, short)
    slow = replace(
        CARD.prices, latencies={k: v for k, v in CARD.prices.latencies.items() if k != "adc_conversion"}
    )
    with pytest.raises(LedgerError, match=r"no latency for 'adc_conversion\.8b'"):
        reprice(rows, CARD.prices, slow)
    ideal = edit(CARD, {"periphery.adc_bits": 0})
    found = reprice(written(ideal).rows(ideal.prices), ideal.prices, Pricing(adc="murmann").table(ideal))
    assert isnan(by(found, "adc_conversion"))
    unknown = [{**r, "energy_J": float("nan"), "time_s": float("nan")} for r in rows]
    for row in reprice(unknown, CARD.prices, Pricing(adc="murmann", node=7).table(CARD)):
        physics = row["action"] in ("set_pulse", "reset_pulse", "verify_read", "cell_write", "array_read")
        assert isnan(row["energy_J"]) == physics
        assert isnan(row["time_s"])


def test_activations_are_kept_where_the_pricing_says():
    rows = {m: LEDGER.rows(Pricing(memory=m, dram="high").table(CARD)) for m in MEMORIES}
    for memory, bit in (("edram", 0.0799e-12), ("sram", 0.15625e-12), ("dram", 40.6e-12)):
        assert by(rows[memory], "activation_read_bit") == pytest.approx(19 * bit, rel=1e-14)
        assert by(rows[memory], "activation_write_bit") == pytest.approx(17 * bit, rel=1e-14)
        assert by(rows[memory], "dram_read_bit") == pytest.approx(23 * 40.6e-12, rel=1e-14)


def test_scaling_to_a_node_is_the_ratio_of_the_published_polynomials():
    # 45 nm at 0.9 V to 7 nm at 0.7 V: f = 0.1776 V^2 - 0.09097 V + 0.02447 over 1.103 V^2 - 0.362 V + 0.2767
    ratio = (0.1776 * 0.49 - 0.09097 * 0.7 + 0.02447) / (1.103 * 0.81 - 0.362 * 0.9 + 0.2767)
    own, small = CARD.prices, Pricing(node=7).table(CARD)
    for action, precision in (("digital_mul", "fp16"), ("opt_update", "fp32"), ("sram_read_bit", "")):
        assert small.energy(action, precision) == pytest.approx(
            own.energy(action, precision) * ratio, rel=1e-12
        )
    for action, precision in (
        ("adc_conversion", "8b"),
        ("dac_drive", ""),
        ("dram_read_bit", ""),
        ("activation_read_bit", ""),
    ):
        assert small.price(action, precision) == own.price(action, precision)
    same_node = Pricing(node=45).table(CARD)
    assert same_node.price("digital_mul", "fp16") == own.price("digital_mul", "fp16")
    assert same_node.energy("shift_add") > own.energy("shift_add")  # 32 nm, back to 45
    energies = [
        Pricing(node=n).table(CARD).energy("digital_mul", "fp16")
        for n in (130, 90, 65, 45, 32, 20, 16, 14, 10, 7)
    ]
    assert energies == sorted(energies, reverse=True)


def test_a_price_whose_node_is_not_told_is_not_scaled_silently():
    table = replace(CARD.prices, energies={"digital_mul.fp16": Price(1e-12, "a book", "published")})
    with pytest.raises(ConfigError, match=r"digital_mul\.fp16: its node, 0 nm, has no scaling"):
        Pricing(node=7).table(replace(CARD, prices=table))


@pytest.mark.parametrize(
    ("node", "bits", "picojoules"),
    [(32, 5, 0.092), (32, 6, 0.115), (32, 8, 0.169), (130, 8, 1.21), (65, 8, 0.514), (45, 8, 0.315), (22, 8, 0.085)],
)  # fmt: skip
def test_neurosim_converters_reproduce_the_published_examples(node, bits, picojoules):
    energy = converters(f"neurosim_sar:{node}").energy("adc_conversion", f"{bits}b")
    assert 1e12 * energy == pytest.approx(picojoules, rel=6e-3)  # three digits, two where the example has two


def test_the_sar_formula_by_hand():
    # 8 bits, 32 nm, 100 kohm: 1.1294 x 8 + 8.8998 = 17.935 uW, 0.079449 exp(-2.297 x 5) = 0.8174 uW, 9 ns
    watts = power(8, (1.1294, 8.8998, 0.079449, -2.297), resistance=1e5)
    assert watts == pytest.approx(17.935e-6 + 0.8174e-6, rel=1e-4)
    assert seconds(8) == pytest.approx(9e-9)
    assert {f"{b}b" for b in range(2, 13)} == {
        a.partition(".")[2] for a in converters("neurosim_sar").energies
    }


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ({"adc": "isac"}, "did you mean 'isaac'"),
        ({"adc": "neurosim_sar:33"}, "no fit for '33' nm"),
        ({"adc": "isaac:45"}, "lists prices for one node alone"),
        ({"write": "hihg"}, "did you mean 'high'"),
        ({"memory": "sramm"}, "did you mean 'sram'"),
        ({"node": 8}, r"no scaling to 8 nm \(have: 7, 10, 14, .*90, 130\)"),
        ({"dram": "hbm"}, r"did you mean 'hbm2'\? \(have: hbm2, high, low\)"),
    ],
)
def test_wrong_names_are_answered_with_the_nearest_right_one(choice, told):
    with pytest.raises(ConfigError, match=told):
        Pricing(**choice)


def test_resolutions_that_a_source_does_not_give_are_errors():
    card = edit(CARD, {"periphery.adc_bits": 7})
    with pytest.raises(ConfigError, match=r"'murmann' has no price for 7 bits.*has 5b, 6b, 8b, 10b"):
        Pricing(adc="murmann").table(card)
    assert Pricing(adc="neurosim_sar").table(card).energy("adc_conversion", "7b") > 0
    with pytest.raises(ConfigError, match="has no prices"):
        Pricing().table(replace(CARD, prices=None))


def test_marks_follow_the_pricing():
    rows, low = LEDGER.rows(CARD.prices), Pricing(write="low").table(CARD)
    assumed = ("set_pulse", "reset_pulse", "verify_read", "array_read")
    by_hand = fsum(by(rows, action) for action in assumed) / fsum(r["energy_J"] for r in rows)
    assert assumed_share(rows, CARD) == pytest.approx(by_hand, rel=1e-12)
    fixed = reprice(rows, CARD.prices, low)
    by_hand = by(rows, "array_read") / fsum(r["energy_J"] for r in fixed)
    assert assumed_share(fixed, CARD, low) == pytest.approx(by_hand, rel=1e-12)
    sar = Pricing(write="low", adc="neurosim_sar").table(CARD)
    fixed = reprice(rows, CARD.prices, sar)
    by_hand = (by(rows, "array_read") + by(fixed, "adc_conversion")) / fsum(r["energy_J"] for r in fixed)
    assert assumed_share(fixed, CARD, sar) == pytest.approx(by_hand, rel=1e-12)
    assert CARD.mark("cell_write", prices=Pricing(write="mid").table(CARD)) == "derived"
    assert CARD.mark("cell_write") == "assumed"
    assert isnan(assumed_share([], CARD))


def test_what_a_plan_only_samples_is_assumed_too():
    """Verify reads take a conversion each, at a published price; how many of them there are is a mean."""
    rows, low = LEDGER.rows(CARD.prices), Pricing(write="low").table(CARD)
    each = CARD.prices.energy("adc_conversion", f"{CARD.periphery.adc_bits}b")
    verified = each * by(rows, "verify_read", "count")
    by_hand = assumed_share(rows, CARD) + verified / fsum(r["energy_J"] for r in rows)
    assert verified > 0
    assert assumed_share(rows, CARD, sampled=True) == pytest.approx(by_hand, rel=1e-12)
    fixed = reprice(rows, CARD.prices, low)  # a published price times a number of writes that was sampled
    by_hand = (by(rows, "array_read") + by(fixed, "cell_write")) / fsum(r["energy_J"] for r in fixed)
    assert assumed_share(fixed, CARD, low, sampled=True) == pytest.approx(by_hand, rel=1e-12)
    assert assumed_share(fixed, CARD, low) < by_hand


def test_every_number_of_every_price_file_has_a_mark_and_a_source():
    seen = 0
    for part in ("", "adc", "options"):
        for name in price_files(part):
            data = price_file(name, part)
            for section, table in data.items():
                if section == "sources" or not isinstance(table, dict):
                    continue
                for entry in price_entries(data, section, name).values():
                    assert entry["mark"] in MARKS
                    assert data["sources"][entry["source"]]
                    if entry["mark"] == "assumed":
                        assert entry["low"] <= entry["value"] <= entry["high"]
                    seen += 1
            for source in data["sources"]:
                used = (
                    e["source"]
                    for t in data.values()
                    if isinstance(t, dict)
                    for e in t.values()
                    if isinstance(e, dict)
                )
                assert source in set(used) | {"stillmaker"}, f"{name}: no number names source {source}"
    assert seen > 60
    assert adcs() == ["isaac", "murmann", "neurosim_sar"]
    assert price_table("isaac_horowitz").energy("adc_conversion", "8b") == 1.67e-12


def test_an_entry_without_a_source_is_an_error():
    data = {"sources": {}, "write": {"low": {"value": 1.0, "mark": "published", "source": "nobody"}}}
    with pytest.raises(ConfigError, match="source 'nobody' is not in"):
        price_entries(data, "write", "writes")
    with pytest.raises(LedgerError, match="no price"):
        PriceTable("empty").energy("dac_drive")
