"""A chip has one state, and every way of looking at it, keeping it and paying for it agrees."""

from dataclasses import replace

import numpy as np
import pytest

from crossbar_sim import Chip, MappingError, Ranges, checkpoint, preset
from crossbar_sim.ledger import Ledger
from crossbar_sim.presets import edit, only

RNG = np.random.default_rng(5)
WEIGHT = RNG.normal(size=(6, 20))
X = RNG.normal(size=(3, 20))
WIDE = Ranges(3.0, -40.0, 40.0)
SMALL = {"tiles.rows": 32, "tiles.cols": 32, "mapping.pair": "columns"}


def stuck_map(shape, *, column=None, cells=(), value=40e-6):
    """NaN but for one column, or single cells, of the first tile."""
    found = np.full(shape, np.nan)
    if column is not None:
        found[0, :, 0, :, :, column] = value
    for row, col, sign in cells:
        found[0, 0, sign, 0, row, col] = value
    return found


def with_spares(**changes):
    card = edit(preset("cmo_hfox"), {**SMALL, "mapping.spare_columns": 2, **changes})
    chip = Chip(card, seed=1, statistical=True)
    shape = Chip(card, statistical=True).program(WEIGHT, name="w").placement.shape
    array = chip.program(WEIGHT, name="w", stuck=stuck_map(shape, column=1, value=88e-6))
    array.ranges = WIDE
    return chip, array


def test_a_repaired_array_comes_back_from_a_file_as_it_was(tmp_path):
    chip, array = with_spares()
    assert (array.order[0] >= 6).any()
    checkpoint.save(chip, tmp_path / "chip.safetensors")
    again = checkpoint.load(tmp_path / "chip.safetensors", preset=chip.preset).arrays["w"]
    np.testing.assert_array_equal(again.conductance(), array.conductance())
    np.testing.assert_array_equal(again.read_weights(), array.read_weights())
    np.testing.assert_array_equal(again.cells.used, array.cells.used)


def test_a_spare_is_tried_once():
    chip, array = with_spares()
    wear = array.wear.sum()
    pulses = chip.ledger.total("set_pulse") + chip.ledger.total("reset_pulse")
    array.reprogram(WEIGHT, changed_only=True)
    assert array.wear.sum() == wear
    assert chip.ledger.total("set_pulse") + chip.ledger.total("reset_pulse") == pulses


@pytest.mark.parametrize("again", ["reprogram", "refresh"])
def test_a_new_programming_needs_no_old_compensation(again):
    chip = Chip(only("pcm_joshi", ["relaxation", "converters"]), seed=0)
    array = chip.program(WEIGHT, name="w")
    array.ranges = WIDE
    chip.advance(1e7)
    chip.compensate("global")
    assert array.compensation > 1.5
    array.reprogram(WEIGHT) if again == "reprogram" else array.refresh()
    want = X @ WEIGHT.T
    assert (array.mvm(X) * want).sum() / (want * want).sum() == pytest.approx(1.0, abs=0.1)


def test_a_zero_matrix_keeps_the_factor_one():
    chip = Chip(only("pcm_joshi", ["relaxation", "converters"]))
    array = chip.program(np.zeros((4, 20)), name="b", scale=np.ones(4))
    array.ranges = WIDE
    chip.compensate("column")
    np.testing.assert_array_equal(array.compensation, 1.0)


def test_cards_without_converters_are_compensated_too():
    chip = Chip(only("pcm_joshi", ["relaxation"]))
    assert chip.exact
    array = chip.program(WEIGHT, name="w")
    chip.advance(1e6)
    want = X @ WEIGHT.T
    gains = []
    for kind in ("none", "global"):
        chip.compensate(kind)
        gains.append((array.mvm(X) * want).sum() / (want * want).sum())
        np.testing.assert_allclose(array.mvm(X), X @ array.present_weights().T)
        np.testing.assert_allclose(array.mvm_t(want), want @ array.present_weights())
    assert gains[0] < 0.8
    assert gains[1] == pytest.approx(1.0, abs=0.05)


def test_a_partner_is_brought_back_when_its_failed_cell_has_become_right():
    card = edit(preset("cmo_hfox"), {**SMALL, "mapping.remedy": "compensate"})
    weight = np.array([[0.5, 0.2]])
    shape = Chip(card).program(weight, name="w", scale=np.ones(1)).placement.shape
    top = card.device.g_max
    array = Chip(card).program(
        weight, name="w", scale=np.ones(1), stuck=stuck_map(shape, cells=[(0, 0, 0)], value=top)
    )
    assert array.read_weights()[0, 0] == pytest.approx(0.5, abs=0.06)
    array.reprogram(np.array([[1.0, 0.2]]), changed_only=True)  # the stuck cell is what it ought to be now
    assert array.read_weights()[0, 0] == pytest.approx(1.0, abs=0.06)
    assert array.unconverged == 0


@pytest.mark.parametrize("ir_drop", [False, True])
def test_weights_are_read_against_the_unit_column_as_it_is(ir_drop):
    changes = {**SMALL, "mapping.coding": "offset", "mapping.offset": "unit_column", "wires.r_wl": 20.0}
    card = only(edit(preset("hfo2_neurram"), changes), ["relaxation", "ir_drop", "converters"])
    card = replace(card, periphery=replace(card.periphery, dac_bits=0, adc_bits=16))
    array = Chip(card, seed=2, ir_drop=ir_drop, grid="exact").program(WEIGHT, name="w")
    array.ranges = Ranges(1.0, -60.0, 60.0)
    np.testing.assert_allclose(array.mvm(X), X @ array.read_weights().T, atol=0.05)


def reads(chip):
    rows = chip.ledger.rows(chip.preset.prices)
    return sum(r["energy_J"] for r in rows if r["action"] == "array_read")


def test_reads_of_other_conductances_are_other_entries():
    chip = Chip("cmo_hfox", statistical=True)
    for outputs in (4, 9):
        array = chip.program(RNG.normal(size=(outputs, 20 if outputs == 4 else 11)), name="w")
        array.ranges = WIDE
        array.mvm(np.ones((1, array.placement.inputs)))
        chip.remove("w")
    chip.redraw_programming = True
    array = chip.program(WEIGHT, name="w")
    array.ranges = WIDE
    before = len(chip.ledger.reads)
    for _ in range(3):
        chip.next_event()
        array.mvm(X)
    assert len(chip.ledger.reads) == before + 3


def test_ledgers_add_in_any_order():
    parts = []
    for seed in (0, 1):
        chip = Chip("cmo_hfox", seed=seed, statistical=True)
        array = chip.program((1 + 99 * seed) * np.abs(WEIGHT) / 100, name="w", scale=np.full(6, 5.0))
        array.ranges = WIDE
        array.mvm(X)
        parts.append(chip)
    one, other = (chip.ledger for chip in parts)
    prices = parts[0].preset.prices

    def joules(ledger: Ledger) -> float:
        return sum(r["energy_J"] for r in ledger.rows(prices) if r["action"] == "array_read")

    assert joules(one + other) == pytest.approx(joules(one) + joules(other), rel=1e-12)
    assert joules(other + one) == pytest.approx(joules(one + other), rel=1e-12)


def test_a_read_without_a_dac_has_an_unknown_energy():
    chip = Chip(only("hfo2_neurram", ["relaxation"]))
    chip.program(WEIGHT, name="w").mvm(X)
    assert np.isnan(reads(chip))


def test_redrawn_programming_neither_heals_failed_cells_nor_moves_dead_ones():
    card = edit(preset("hfo2_neurram"), {**SMALL, "programming.max_pulses": 6, "faults.stuck_high": 0.02})
    chip = Chip(only(card, ["levels", "programming", "faults", "spread"]), seed=3)
    array = chip.program(WEIGHT, name="w")
    failed = array.cells.unconverged
    assert failed.sum() > 20
    own, chip.redraw_programming = array.conductance(), True
    fixed = failed | ~np.isnan(array.cells.stuck)
    seen = []
    for _ in range(2):
        chip.next_event()
        seen.append(array.conductance())
        np.testing.assert_array_equal(seen[-1][fixed], own[fixed])
    assert (seen[0] != seen[1])[array.cells.used & ~fixed].mean() > 0.15  # many took no pulse


def test_rounds_leave_a_cell_alone_that_was_given_up():
    wear = []
    for rounds in (1, 3):
        card = edit(preset("cmo_hfox"), {**SMALL, "programming.rounds": rounds})
        shape = Chip(card, statistical=True).program(WEIGHT, name="w").placement.shape
        stuck = stuck_map(shape, cells=[(0, 0, 0), (1, 1, 1)], value=60e-6)
        array = Chip(card, statistical=True).program(WEIGHT, name="w", stuck=stuck)
        wear.append(array.wear[~np.isnan(stuck)].max())
    assert wear[0] == wear[1] > 0


def test_counted_pulses_start_from_what_a_controller_can_know():
    chip = Chip("hfo2_array", seed=4)
    array = chip.program(np.full((4, 8), 1e-3), name="w", scale=np.ones(4))
    assert len(np.unique(array.wear[array.cells.used])) <= 2  # one count per target


def test_only_what_is_written_is_a_cell_write():
    chip = Chip("ideal")
    array = chip.program(WEIGHT, name="w")
    before = chip.ledger.total("cell_write")
    assert before == array.placement.cells
    array.reprogram(WEIGHT, changed_only=True)
    assert chip.ledger.total("cell_write") == before


def test_switching_the_wires_on_changes_products_too():
    card = edit(preset("cmo_hfox"), {**SMALL, "wires.r_wl": 30.0})
    chip = Chip(only(card, ["converters", "ir_drop"]))
    array = chip.program(WEIGHT, name="w")
    array.ranges = WIDE
    ideal, chip.ir_drop = array.mvm(X), True
    assert np.abs(array.mvm(X) - ideal).max() > 0.1


@pytest.mark.parametrize("levels", [2, 4, 5, 16])
def test_a_zero_weight_reads_zero_in_two_sided_pairs(levels):
    card = edit(preset("ideal"), {"device.levels": levels, "mapping.coding": "two_sided"})
    array = Chip(card).program(np.zeros((2, 3)), name="w", scale=np.ones(2))
    np.testing.assert_array_equal(array.read_weights(), 0.0)


def test_gated_columns_calibrate_without_a_transposed_read():
    changes = {**SMALL, "wires.ladder": "gated", "periphery.plane_bits": 1}
    chip = Chip(edit(preset("cmo_hfox"), changes), statistical=True, ir_drop=True)
    array = chip.program(WEIGHT, name="w")
    chip.calibrate(array.mvm, [{"x": X}])
    assert array.ranges is not None
    assert array.backward_ranges is None


def test_a_weight_that_cannot_be_programmed_changes_no_retired_cells():
    chip = Chip("cmo_hfox", statistical=True)
    array = chip.program(WEIGHT, name="w")
    scale, site = array.scale.copy(), array.site
    chip.retire("w")
    with pytest.raises(MappingError, match="not finite"):
        chip.program(np.full_like(WEIGHT, np.nan), name="w", layer="other", scale=9 * scale)
    np.testing.assert_array_equal(array.scale, scale)
    assert array.site is site
