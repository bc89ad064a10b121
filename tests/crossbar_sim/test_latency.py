"""Time of reads, writes and digital work, against event-by-event timelines and by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossbar_sim import Chip, Ledger, LedgerError, Ranges, checkpoint
from crossbar_sim.errors import ConfigError
from crossbar_sim.latency import COMPONENTS, Timing, latency, pipelined, total, write_time
from crossbar_sim.prices import Price, PriceTable

RNG = np.random.default_rng(0)
TABLE = PriceTable(
    "plain",
    latencies={
        name: Price(value, "", "assumed")
        for name, value in {
            "array_read": 100e-9, "adc_conversion": 2e-9, "set_pulse": 1e-6, "reset_pulse": 3e-6, "verify_read": 1e-7,
            "digital_mul": 1e-9, "digital_function": 4e-9, "dram_read_bit": 1e-11,
        }.items()
    },
    lanes=Price(8, "", "assumed"),
)  # fmt: skip


def ready(preset, shape=(5, 9), **options):
    chip = Chip(preset, **options)
    weight = np.random.default_rng(1).standard_normal(shape)
    return chip, chip.program(weight, name="w", ranges=Ranges(1.0, -4.0, 4.0))


def timeline(card, tiles, vectors):
    """Seconds of `vectors` products, one event after the other; every tile [columns, ...] has its own ADCs and waits for the slowest."""
    seconds, converters = 0.0, card.periphery
    for _ in range(vectors):
        converted = []
        for phase in range(converters.planes):
            seconds += card.prices.seconds("array_read")
            if converters.accumulate == "analog" and phase < converters.planes - 1:
                continue
            slowest = 0
            for columns in tiles:
                queue = {}
                for column in range(columns):
                    adc = column // converters.columns_per_adc
                    queue[adc] = queue.get(adc, 0) + 1
                slowest = max(slowest, *queue.values())
            converted.append(slowest)
        seconds += sum(converted) * card.prices.seconds("adc_conversion", f"{converters.adc_bits}b")
    return seconds


@pytest.mark.parametrize("accumulate", ["analog", "digital"])
@pytest.mark.parametrize(("shape", "shared"), [((5, 9), 2), ((12, 9), 4), ((7, 30), 128)])
def test_reads_take_what_a_timeline_of_their_events_takes(card, accumulate, shape, shared):
    chosen = card(
        tiles={"rows": 16, "cols": 8},
        periphery={"plane_bits": 1, "accumulate": accumulate, "columns_per_adc": shared},
    )
    chip, array = ready(chosen, shape)
    with chip.ledger.scope(phase="forward"):
        array.mvm(RNG.standard_normal((11, shape[1])))
    p = array.placement
    times = latency(chip.ledger, chosen.prices, phase="forward")
    reads = {name: times["forward"][name] for name in ("arrays", "converters")}
    assert total({"forward": reads}) == pytest.approx(
        timeline(chosen, [p.cols_per_tile] * p.tiles, 11), rel=1e-12
    )
    assert set(times) == {"forward"}


def test_cores_share_vectors_and_digital_work_and_leave_writing_alone(card):
    chip, array = ready(card())
    with chip.ledger.scope(phase="forward"):
        array.mvm(RNG.standard_normal((12, 9)))
    one, four = (latency(chip.ledger, chip.preset.prices, Timing(cores=n)) for n in (1, 4))
    for name in ("arrays", "converters", "digital"):
        assert one["forward"][name] == pytest.approx(4 * four["forward"][name], rel=1e-12)
        assert one["forward"][name] > 0
    assert one["deploy"] == four["deploy"]


@pytest.mark.parametrize("statistical", [False, True])
def test_writing_takes_what_the_report_of_programming_says(card, statistical):
    chip, array = ready(card(), (20, 40), statistical=statistical)
    prices, pulses = chip.preset.prices, chip.preset.programming
    serial = write_time(chip.ledger, prices)
    assert serial == pytest.approx(array.report.serial_time(pulses), rel=1e-12)
    lines = write_time(chip.ledger, prices, Timing(writing="row_parallel"))
    assert lines == pytest.approx(array.report.row_parallel_time(pulses), rel=1e-12)
    side = write_time(chip.ledger, prices, Timing(writing="row_parallel", arrays_at_once=4))
    assert side == pytest.approx(lines / 4, rel=1e-12)
    assert 0 < lines < serial / 4
    booked = chip.ledger.total("set_pulse") + chip.ledger.total("reset_pulse")
    assert sum(chip.ledger.slots[k] for k in chip.ledger.slots if k.action.endswith("pulse")) == booked


def test_several_programmings_add_their_rows(card):
    chip, array = ready(card())
    slots = [array.report.set_slots]
    for _ in range(2):
        array.reprogram(np.clip(RNG.standard_normal((5, 9)), -1, 1) * array.scale[:, None])
        slots.append(array.report.set_slots)
    (key,) = (k for k in chip.ledger.row_slots if k.action == "set_pulse")
    assert chip.ledger.row_slots[key] == sum(slots)


def test_row_slots_add_drop_copy_and_are_saved(card, tmp_path):
    chip, array = ready(card(), statistical=True)
    with chip.ledger.scope(task="t", phase="update"):
        array.reprogram(-array.target_weights())
    twice, slots = chip.ledger + chip.ledger, dict(chip.ledger.row_slots)
    assert len(slots) == 6
    assert twice.row_slots == {key: 2 * n for key, n in slots.items()}
    copy = chip.ledger.copy()
    copy.drop(task="t")
    assert copy.row_slots == {key: n for key, n in slots.items() if key.task != "t"}
    assert chip.ledger.row_slots == slots
    checkpoint.save(chip, tmp_path / "chip.safetensors")
    again = checkpoint.load(tmp_path / "chip.safetensors", preset=chip.preset)
    assert again.ledger.row_slots == slots


def test_digital_work_and_transfers_by_hand():
    ledger = Ledger()
    with ledger.scope(task="t", phase="forward"):
        ledger.book(ledger.key("l", "own", "digital_mul", "fp16"), 1000)
        ledger.book(ledger.key("l", "rest", "digital_function", "fp16"), 50)
        ledger.book(ledger.key("l", "own", "sram_read_bit"), 10**9)
    with ledger.scope(task="t", phase="switch"):
        ledger.book(ledger.key("l", "base", "dram_read_bit"), 3200)
    times = latency(ledger, TABLE, Timing(cores=5))
    assert times["forward"]["digital"] == pytest.approx((1000e-9 + 50 * 4e-9) / (8 * 5), rel=1e-12)
    assert times["switch"]["dram"] == pytest.approx(32e-9, rel=1e-12)
    assert total(times) == pytest.approx(1.2e-6 / 40 + 32e-9, rel=1e-12)
    wide = latency(ledger, TABLE, Timing(lanes=1000))
    assert wide["forward"]["digital"] == pytest.approx(1.2e-9, rel=1e-12)
    assert latency(ledger, TABLE, phase="update") == {}
    assert total(latency(ledger, TABLE, matrix="rest")) == pytest.approx(25e-9, rel=1e-12)


def test_a_pipeline_takes_its_slowest_layer_and_the_fill():
    ledger = Ledger(phase="forward")
    for layer, slots in (("a", 10), ("b", 30), ("c", 20)):
        ledger.book(ledger.key(layer, "base", "array_read"), 7, slots=slots)
        ledger.book(ledger.key(layer, "A", "adc_conversion", "8b"), 7, slots=50 * slots)
    per_slot = 100e-9 + 50 * 2e-9
    assert pipelined(ledger, TABLE)["forward"] == pytest.approx(60 * per_slot, rel=1e-12)
    assert pipelined(ledger, TABLE, Timing(in_flight=10))["forward"] == pytest.approx(
        33 * per_slot, rel=1e-12
    )
    assert pipelined(ledger, TABLE, Timing(in_flight=10, cores=3))["forward"] == pytest.approx(11 * per_slot)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["switch", "forward", "eval"]),
            st.sampled_from(["a", "b"]),
            st.sampled_from([k for k in TABLE.latencies if k != "digital_function"]),
            st.integers(0, 10**6),
        ),
        max_size=20,
    ),
    st.integers(1, 7),
)
def test_parts_add_up_to_the_slots_times_their_latencies(events, cores):
    ledger, expected = Ledger(), 0.0
    for phase, layer, action, n in events:
        with ledger.scope(phase=phase):
            ledger.book(ledger.key(layer, "base", action), n, slots=n, row_slots=2 * n)
        shared = {"array_read": cores, "adc_conversion": cores, "digital_mul": 8 * cores}.get(action, 1)
        expected += n * TABLE.latencies[action].value / shared
    times = latency(ledger, TABLE, Timing(cores=cores))
    assert all(set(parts) == set(COMPONENTS) for parts in times.values())
    assert total(times) == pytest.approx(expected, rel=1e-12)
    split = [total(latency(ledger, TABLE, Timing(cores=cores), phase=phase)) for phase in times]
    assert math.fsum(split) == pytest.approx(total(times), rel=1e-14)


def test_wrong_timings_and_missing_latencies_are_told():
    with pytest.raises(ConfigError, match="did you mean 'row_parallel'"):
        Timing(writing="row_paralel")
    with pytest.raises(ConfigError, match=r"Timing\.cores: must be at least 1 \(got 0\)"):
        Timing(cores=0)
    with pytest.raises(ConfigError, match=r"Timing\.arrays_at_once: serial writing"):
        Timing(arrays_at_once=2)
    ledger = Ledger(phase="forward")
    ledger.book(ledger.key("l", "own", "digital_mul", "fp16"), 4)
    with pytest.raises(LedgerError, match="digital work has no lanes"):
        latency(ledger, replace(TABLE, lanes=None))
    ledger.book(ledger.key("l", "own", "digital_add", "fp16"), 4)
    with pytest.raises(LedgerError, match=r"no latency for 'digital_add\.fp16'"):
        latency(ledger, TABLE)
    assert math.isnan(total(latency(ledger, None)))
