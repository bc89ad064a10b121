"""A chip without cells against a chip with cells, array by array."""

from __future__ import annotations

from math import fsum
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from crossbar_sim.chip import Chip
from crossbar_sim.conversion import convert
from crossbar_sim.errors import CalibrationError, ConfigError
from crossbar_sim.expected import DAC_RANGE, WEIGHTS, Write
from crossbar_sim.ledger import Key, Ledger
from crossbar_sim.periphery import Ranges
from crossbar_sim.plan import PlannedChip
from crossbar_sim.presets import edit, preset
from crossbar_sim.shapes import ALONE, QuickShapes, aten

OUTPUTS, INPUTS, VECTORS = 96, 160, 32
WIDE = Ranges(4.0, -1.0, 1.0)
OCTAVE = 2.0 ** (np.arange(VECTORS)[:, None] / VECTORS)
"""Magnitudes of gradients: their full scale is the power of two above their largest value."""
CARDS = ("cmo_hfox", "hfo2_neurram", "hfox_milo")
STATE = ("set_pulse", "reset_pulse", "verify_read", "cell_write")


def meta(*shape: int, **options: Any) -> Tensor:
    return torch.empty(*shape, device="meta", **options)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(2).standard_normal(shape)


def both(card: Any, **options: Any) -> tuple[Any, Any]:
    """A planned array and a real one of normal weights, with ranges."""
    plan = PlannedChip(card, **options).program(meta(OUTPUTS, INPUTS), name="w", matrix="A")
    real = Chip(card, statistical=True, **options).program(normal(OUTPUTS, INPUTS), name="w", matrix="A")
    plan.ranges = real.ranges = WIDE
    return plan, real


def counts(array: Any) -> dict[Key, int]:
    return {key: n for key, n in array.chip.ledger.counts.items() if n and key.action not in STATE}


def joules(array: Any, action: str) -> float:
    ledger = array.chip.ledger
    booked = fsum(fsum(j) for key, j in ledger.joules.items() if key.action == action)
    return booked + fsum(e.joules() for (key, _), e in ledger.reads.items() if key.action == action)


def start_again(*arrays: Any) -> None:
    for array in arrays:
        array.chip.ledger = Ledger()


# -- reads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("card", CARDS)
def test_reads_are_counted_alike_and_heat_alike(card) -> None:
    plan, real = both(card)
    start_again(plan, real)
    x, g = normal(VECTORS, INPUTS), OCTAVE * normal(VECTORS, OUTPUTS)
    for array, forward, backward in ((plan, meta(VECTORS, INPUTS), meta(VECTORS, OUTPUTS)), (real, x, g)):
        array.mvm(forward)
        array.mvm_t(backward)
    assert counts(plan) == counts(real)
    assert plan.chip.ledger.slots == real.chip.ledger.slots
    assert joules(plan, "array_read") == pytest.approx(joules(real, "array_read"), rel=0.1)


def test_a_gated_array_reads_less() -> None:
    plan, real = both("cmo_hfox")
    start_again(plan, real)
    on = np.arange(OUTPUTS) < OUTPUTS // 4
    for array, x in ((plan, meta(VECTORS, INPUTS)), (real, normal(VECTORS, INPUTS))):
        array.gate(outputs=on)
        array.mvm(x)
    assert counts(plan) == counts(real)
    assert joules(plan, "array_read") == pytest.approx(joules(real, "array_read"), rel=0.15)


def test_products_have_the_shapes_of_products() -> None:
    plan, _ = both("cmo_hfox")
    assert plan.mvm(meta(2, 3, INPUTS)).shape == (2, 3, OUTPUTS)
    assert plan.mvm_t(meta(2, 3, OUTPUTS)).shape == (2, 3, INPUTS)
    assert plan.target_weights().shape == (OUTPUTS, INPUTS)
    assert "PlannedArray('w', 96 x 160" in repr(plan)


# -- writes ----------------------------------------------------------------------------------------------------------


def compared(plan: Any, real: Any, *, rel: float) -> None:
    expected, found = plan.chip.ledger, real.chip.ledger
    for action in STATE:
        assert expected.total(action) == pytest.approx(found.total(action), rel=rel), action
        assert joules(plan, action) == pytest.approx(joules(real, action), rel=rel), action
    assert expected.total("adc_conversion") == expected.total("verify_read")
    for key, slots in found.row_slots.items():
        assert expected.row_slots[key] == pytest.approx(slots, rel=rel), key
    assert plan.report.set_pulses == expected.total("set_pulse")
    assert plan.report.verify_energy == joules(plan, "verify_read")


@pytest.mark.parametrize("card", CARDS)
def test_the_first_write_takes_what_it_takes(card) -> None:
    compared(*both(card), rel=0.05)


@pytest.mark.parametrize("card", CARDS)
def test_other_weights_take_what_they_take(card) -> None:
    plan, real = both(card)
    start_again(plan, real)
    other = np.random.default_rng(3).standard_normal((OUTPUTS, INPUTS))
    plan.write(Write("again"))
    real.reprogram(np.clip(other, -real.scale[:, None], real.scale[:, None]))
    compared(plan, real, rel=0.05)


@pytest.mark.parametrize("card", CARDS)
def test_a_refresh_takes_what_it_takes(card) -> None:
    plan, real = both(card)
    start_again(plan, real)
    for array in (plan, real):
        array.chip.advance(1e6)
        array.refresh()
    compared(plan, real, rel=0.05)
    assert {key.phase for key in plan.chip.ledger.counts} == {"refresh"}


def test_a_few_moved_weights_take_a_few_writes() -> None:
    """One level up or down moves one cell of a pair, two where the weight's sign turns."""
    plan = PlannedChip("cmo_hfox", changed=0.1).program(meta(OUTPUTS, INPUTS), name="w")
    start_again(plan)
    plan.reprogram(meta(OUTPUTS, INPUTS), changed_only=True)
    verified = plan.chip.ledger.total("verify_read")
    touched = verified - plan.chip.ledger.total("set_pulse") - plan.chip.ledger.total("reset_pulse")
    assert 0.08 < touched / 2 / (OUTPUTS * INPUTS) < 0.13  # two reads of every cell beside one per pulse


def test_verifying_every_cell_reads_all_and_pulses_what_is_not_where_it_should_be() -> None:
    """Beside the moved cells, those that relaxed out of their window are pulsed; a rewrite of everything pulses more still."""
    taken = {}
    for kind in ("changed", "verified", "again"):
        plan = PlannedChip("cmo_hfox", changed=0.1).program(meta(OUTPUTS, INPUTS), name="w")
        start_again(plan)
        plan.reprogram(
            meta(OUTPUTS, INPUTS), changed_only=kind == "changed"
        ) if kind != "again" else plan.write(Write("again"))
        total = plan.chip.ledger.total
        taken[kind] = total("set_pulse") + total("reset_pulse"), total("verify_read")
    pulses, reads = taken["verified"]
    assert reads - pulses == pytest.approx(2 * plan.placement.cells, rel=1e-3)
    assert taken["changed"][0] < pulses < taken["again"][0]


@pytest.mark.parametrize("card", ["cmo_hfox", "hfo2_neurram"])
def test_a_part_of_the_rows_stands_for_a_long_array(card) -> None:
    """A column's full scale is the largest of all its 2048 weights, not of the 512 in the sample."""
    outputs, inputs = 32, 2048
    assert outputs * inputs > WEIGHTS
    plan = PlannedChip(card).program(meta(outputs, inputs), name="w")
    real = Chip(card, statistical=True).program(normal(outputs, inputs), name="w")
    plan.ranges = real.ranges = WIDE
    compared(plan, real, rel=0.03)
    start_again(plan, real)
    means = [
        plan.chip.expected.read_joules(plan.placement, transposed=transposed) for transposed in (False, True)
    ]
    for reader, mean in zip(real.readers, means, strict=True):
        real.ranges = Ranges(DAC_RANGE, -1.0, 1.0)
        count = 32 * VECTORS  # of few values each, when transposed
        vectors = normal(count, reader.inputs).reshape(32, VECTORS, -1)
        driven = OCTAVE * vectors * real.scale if reader.transposed else vectors
        reader.book_drive(reader.squares_of(driven.reshape(count, -1)))
        assert mean * count * real.placement.cells == pytest.approx(joules(real, "array_read"), rel=0.05)
        start_again(real)


def test_cells_that_held_other_weights_are_written_over() -> None:
    fresh, used, retired = (PlannedChip("cmo_hfox") for _ in range(3))
    used.reused = True
    for chip in (fresh, used, retired):
        chip.ledger = Ledger(phase="switch")
        chip.program(meta(OUTPUTS, INPUTS), name="w")
    retired.retire("w")
    retired.ledger = Ledger(phase="switch")
    retired.program(meta(OUTPUTS, INPUTS), name="w")
    assert used.ledger.counts == retired.ledger.counts != fresh.ledger.counts
    assert used.ledger.total("reset_pulse") > fresh.ledger.total("reset_pulse")
    with used.ledger.scope(phase="deploy"):  # what stays for all tasks takes fresh cells
        used.program(meta(OUTPUTS, INPUTS), name="for good")
    assert used.ledger.total("reset_pulse", phase="deploy") == fresh.ledger.total("reset_pulse")


def test_a_plan_is_the_same_every_time() -> None:
    one, two = (both("cmo_hfox")[0] for _ in range(2))
    assert one.chip.ledger.counts == two.chip.ledger.counts
    assert one.chip.ledger.joules == two.chip.ledger.joules


def test_cards_that_write_at_once_write_every_cell() -> None:
    plan, real = both("ideal")
    assert plan.chip.ledger.counts == real.chip.ledger.counts


# -- models ----------------------------------------------------------------------------------------------------------


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 8, bias=False))


@pytest.mark.parametrize("backward", ["transposed", "nominal", "oracle"])
def test_a_model_of_shapes_books_what_a_model_books(backward) -> None:
    ledgers = []
    for device, maker in (("meta", PlannedChip), ("cpu", Chip)):
        chip = maker(preset("cmo_hfox"), statistical=True, backward=backward)
        with torch.device(device):
            net, x = model(), torch.randn(5, 24)
        convert(net, chip)
        with torch.no_grad():
            chip.calibrate(net, [{"input": x}, {"input": x[:2]}])
        x.requires_grad_(True)
        with chip.ledger.scope(phase="forward"):
            y = net(x)
        with chip.ledger.scope(phase="backward"):
            y.sum().backward()
        assert x.grad is not None
        assert x.grad.shape == x.shape
        start = {key: n for key, n in chip.ledger.counts.items() if key.phase != "deploy" and n}
        ledgers.append(start)
    assert ledgers[0] == ledgers[1]
    assert {key.phase for key in ledgers[0]} == {"calibrate", "forward", "backward"}


def test_what_is_repeated_counts_so_often_and_what_is_found_once_counts_once() -> None:
    plan, real = both("cmo_hfox")
    start_again(plan, real)
    with plan.chip.ledger.scope(task="t", phase="backward"), plan.chip.repeated(3):
        plan.mvm_t(meta(2, OUTPUTS))  # the first one looks for its range
    with real.chip.ledger.scope(task="t", phase="backward"):
        for _ in range(3):
            real.mvm_t(normal(2, OUTPUTS))
    assert counts(plan) == counts(real)
    assert plan.chip.ledger.slots == real.chip.ledger.slots
    assert plan.chip.ledger.total("dac_drive", phase="calibrate") > 0
    assert (plan.chip.ledger.task, plan.chip.ledger.phase) == ("", "deploy")


def test_a_ledger_added_several_times_is_the_sum_of_several() -> None:
    _, real = both("cmo_hfox")
    real.mvm(normal(3, INPUTS))
    once, times = real.chip.ledger, Ledger()
    times.add(once, 3)
    summed = once + once + once
    for name in ("counts", "slots", "row_slots"):
        assert getattr(times, name) == getattr(summed, name)
    prices = preset("cmo_hfox").prices
    for a, b in zip(times.rows(prices), summed.rows(prices), strict=True):
        assert a == {**b, "energy_J": pytest.approx(b["energy_J"], rel=1e-12)}
    for key, entry in times.reads.items():
        assert (entry.squares == summed.reads[key].squares).all()


# -- refusals --------------------------------------------------------------------------------------------------------


def test_what_only_cells_know_is_refused() -> None:
    plan, real = both("cmo_hfox")
    asks = (plan.read_weights, plan.conductance, lambda: plan.wear, plan.target_conductance)
    for ask in asks:
        with pytest.raises(
            ConfigError, match="'w': a planned array has no cells to ask; program the weights on"
        ):
            ask()
    with pytest.raises(ConfigError, match="no drift to measure"):
        plan.chip.compensate("global")
    with pytest.raises(ConfigError, match="multiplies shapes, tensors on the meta device"):
        plan.mvm(normal(2, INPUTS))
    with pytest.raises(ConfigError, match=r"takes vectors of 160 numbers \(got shape \(2, 96\)\)"):
        plan.mvm(meta(2, OUTPUTS))
    with pytest.raises(ConfigError, match=r"holds \(96, 160\), got \(96, 161\)"):
        plan.reprogram(meta(OUTPUTS, INPUTS + 1))
    with pytest.raises(ConfigError, match="a tensor on the meta device has no values to multiply"):
        real.mvm(meta(2, INPUTS))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = plan.nothing


def test_means_are_shared_by_chips_of_one_card_alone() -> None:
    one, other = (PlannedChip(edit(preset("cmo_hfox"), {"mapping.copies": n})) for n in (1, 2))
    again = PlannedChip(one.preset, expected=one.expected)
    for chip in (one, again):
        chip.program(meta(OUTPUTS, INPUTS), name="w")
    assert again.expected is one.expected
    assert again.ledger.counts == one.ledger.counts
    with pytest.raises(ConfigError, match=r"PlannedChip\.expected: means of another card \(got 'cmo_hfox'\)"):
        PlannedChip(other.preset, expected=one.expected)


def test_wrong_matrices_are_refused() -> None:
    chip = PlannedChip("cmo_hfox")
    chip.program(meta(4, 4), name="w")
    with pytest.raises(ConfigError, match="the array 'w' exists"):
        chip.program(meta(4, 4), name="w")
    with pytest.raises(ConfigError, match=r"'v' needs a matrix \[out, in\] \(got shape \(4,\)\)"):
        chip.program(meta(4), name="v")
    with pytest.raises(ConfigError, match=r"PlannedChip\.changed: must be a share"):
        PlannedChip("cmo_hfox", changed=-0.1)
    with pytest.raises(ConfigError, match="array '0' was given a tensor on the meta device"):
        convert(nn.Sequential(nn.Linear(2, 2, device="meta")), Chip("cmo_hfox"))
    with pytest.raises(ConfigError, match="meta device, which has no values; use a PlannedChip"):
        Chip("cmo_hfox").program(meta(2, 2), name="w")  # type: ignore[arg-type]


def test_an_array_without_ranges_is_not_read() -> None:
    chip = PlannedChip("cmo_hfox")
    array = chip.program(meta(8, 8), name="w")
    with pytest.raises(CalibrationError, match="'w': its converters have no ranges"):
        array.mvm(meta(2, 8))
    with pytest.raises(CalibrationError, match="an array saw no input"):
        chip.calibrate(nn.Identity(), [{"input": meta(2, 8)}])
    assert array.ranges is None
    with pytest.raises(ConfigError, match="batch 0 is a Tensor"):
        chip.calibrate(nn.Identity(), [meta(2, 8)])  # type: ignore[list-item]
    assert array.recorder is None


def test_gated_columns_have_no_transposed_read() -> None:
    wires = {"wires.ladder": "gated", "wires.r_wl": 1.0, "wires.r_bl": 1.0}
    card = edit(preset("cmo_hfox"), {**wires, "periphery.plane_bits": 1})
    array = PlannedChip(card, ir_drop=True).program(meta(8, 8), name="w")
    with pytest.raises(ConfigError, match="gated columns"):
        array.mvm_t(meta(2, 8))


# -- shapes ----------------------------------------------------------------------------------------------------------

A, B, H = meta(3, 1, 4), meta(5, 1), meta(4, dtype=torch.float16)
CASES = [
    lambda: A * B,
    lambda: A + 2.0,
    lambda: H * 2,
    lambda: H + A,
    lambda: torch.sub(A, B, alpha=2.0),
    lambda: A / B,
    lambda: A * torch.ones((), device="meta", dtype=torch.float64),
    lambda: meta(3, dtype=torch.int64) * 2.5,
    lambda: meta(3, dtype=torch.int64) / meta(3, dtype=torch.int64),
    lambda: H.softmax(-1),
    lambda: torch.softmax(H, -1, dtype=torch.float32),
    lambda: H.pow(2),
    lambda: A.rsqrt().tanh().abs(),
    lambda: aten._softmax_backward_data.default(A, A, -1, torch.float16),
    lambda: aten._safe_softmax.default(A, -1, torch.float64),
    lambda: aten.tanh_backward.default(A[:1], A),
    lambda: aten.gelu_backward.default(A[..., :1], A, approximate="tanh"),
    lambda: A * 1j,
    lambda: nn.functional.gelu(A, approximate="tanh"),
    lambda: nn.functional.scaled_dot_product_attention(meta(2, 3, 4), meta(2, 5, 4), meta(2, 5, 4)),
]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_quick_shapes_are_torchs_shapes(case) -> None:
    slow = CASES[case]()
    with QuickShapes():
        quick = CASES[case]()
    assert (quick.shape, quick.dtype, quick.device) == (slow.shape, slow.dtype, slow.device)


def test_quick_shapes_leave_numbers_alone() -> None:
    x = torch.randn(3, generator=torch.Generator().manual_seed(1))
    with QuickShapes():
        assert torch.equal(x * 2 + x, 3 * x)
        assert torch.equal(torch.softmax(x, 0).sum().round(), torch.ones(()))
    assert len(ALONE) > 10


def test_gradients_pass_quick_shapes() -> None:
    x = meta(3, 4, requires_grad=True)
    with QuickShapes():
        nn.functional.gelu(x * meta(4)).softmax(-1).pow(2).mean().backward()
    assert x.grad is not None
    assert x.grad.shape == x.shape
