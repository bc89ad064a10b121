"""What the verify-fail list is good for: spare columns and other targets for a failed cell's partner."""

import numpy as np
import pytest

from crossbar_sim import Chip, ConfigError, Ranges, mapping, repair
from crossbar_sim.device import Device

RNG = np.random.default_rng(0)
WEIGHT = RNG.uniform(-1, 1, (6, 8))
X = RNG.uniform(-1, 1, (5, 8))
DEVICE = Device(1e-6, 40e-6, levels=16)


def chip_of(card, *, pulses=False, tiles=None, periphery=None, device=DEVICE, **how):
    options = {} if pulses else {"programming": None}
    preset = card(
        device=device,
        mapping={"pair": "columns"} | how,
        tiles=tiles or {"rows": 4, "cols": 12},
        periphery={"adc_bits": 0} | (periphery or {}),
        **options,
    )
    return Chip(preset, grid="exact")


def healthy(chip):
    """A fault map without faults, of the shape that the placement has."""
    card = chip.preset
    return np.full(mapping.place(6, 8, card.tiles, card.mapping).shape, np.nan)


def program(chip, stuck=None, weight=WEIGHT):
    return chip.program(weight, name="w", stuck=stuck, scale=np.ones(6), ranges=Ranges(1.0, -9, 9))


def wrong(array):
    """Error of each weight, [m, n]."""
    return np.abs(array.read_weights() - array.target_weights())


# -- spare columns -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pulses", [False, True])
def test_an_output_with_stuck_cells_moves_to_the_spare_column(card, pulses):
    errors = {}
    for spares in (0, 1):
        chip = chip_of(card, pulses=pulses, spare_columns=spares)
        stuck = healthy(chip)
        assert stuck.shape == (2 if spares == 0 else 4, 1, 2, 1, 4, 6 if spares == 0 else 4)
        stuck[0, 0, 0, 0, :, 1] = 40e-6
        stuck[0, 0, 1, 0, :, 1] = 1e-6
        array = program(chip, stuck)
        errors[spares] = wrong(array)
    assert errors[0][1, :4].max() > 0.5
    assert errors[1].max() < (0.12 if pulses else 1e-12)


def moved(card, **how):
    chip = chip_of(card, spare_columns=2, tiles={"rows": 4, "cols": 10}, **how)  # 2 x 2 tiles of 3 outputs
    stuck = healthy(chip)
    stuck[0, 0, 0, 0, 2, 1] = 20e-6
    stuck[3, 0, 0, 0, :2, 0] = 40e-6
    stuck[3, 0, 0, 0, 0, 2] = 40e-6
    weight = np.zeros((6, 8))
    weight[1, 2] = -1.0
    return chip, program(chip, stuck, weight)


def test_the_order_says_which_column_each_output_has_and_only_those_are_in_use(card):
    _, array = moved(card)
    assert array.placement.cols_per_tile == 3
    assert array.order.tolist() == [[0, 3, 2], [0, 1, 2], [0, 1, 2], [3, 1, 4]]
    used = mapping.used(array.placement, array.order)
    assert used.sum() == array.placement.cells == 2 * 6 * 8
    np.testing.assert_array_equal(used, array.cells.used)
    assert not used[0, ..., 1].any()
    assert used[0, ..., 3].all()
    assert array.unconverged == 0
    assert wrong(array).max() < 1e-12


@pytest.mark.parametrize("pulses", [False, True])
def test_cells_that_were_left_hold_nothing_and_are_not_read(card, pulses):
    _, array = moved(card, pulses=pulses)
    left = ~mapping.used(array.placement, array.order)
    assert (array.conductance()[left] == 0).all()
    lines = array.conductance().sum((1, 2, 3, 5)).reshape(2, 2, 4).sum(1).ravel()
    np.testing.assert_allclose(array.readers[0].matrices().lines, lines)


def test_products_in_both_directions_follow_the_columns_that_moved(card):
    _, array = moved(card)
    codes = np.rint(X * 127) / 127
    np.testing.assert_allclose(array.mvm(X), codes @ array.target_weights().T, atol=1e-12)
    g = np.eye(6)
    np.testing.assert_allclose(array.mvm_t(g), array.target_weights(), atol=1e-12)


def test_the_worst_columns_move_first_and_what_is_beyond_the_spares_stays(card):
    chip = chip_of(card, spare_columns=1, tiles={"rows": 8, "cols": 14})
    stuck = healthy(chip)
    stuck[0, 0, 0, 0, 0, 2] = 21e-6
    stuck[0, 0, 0, 0, 0, 4] = 40e-6
    array = program(chip, stuck, np.zeros((6, 8)))
    assert array.order.tolist() == [[0, 1, 2, 3, 6, 5]]
    assert array.unconverged == 1
    assert np.flatnonzero(wrong(array).max(1)).tolist() == [2]


@pytest.mark.parametrize("spare", [20e-6, 40e-6])
def test_an_output_stays_where_it_is_unless_the_spare_is_better(card, spare):
    chip = chip_of(card, spare_columns=1, tiles={"rows": 8, "cols": 14})
    stuck = healthy(chip)
    stuck[0, 0, 0, 0, 0, 2] = 20e-6
    stuck[0, 0, 0, 0, 3, 6] = spare  # nobody knows before it is tried
    array = program(chip, stuck, np.zeros((6, 8)))
    assert array.order.tolist() == [[0, 1, 2, 3, 4, 5]]
    assert not array.cells.used[..., 6].any()
    assert array.unconverged == array.report.unconverged == 1
    assert chip.ledger.total("cell_write") > 0


def test_an_array_that_was_repaired_can_be_reprogrammed(card):
    chip, array = moved(card)
    order = array.order.copy()
    array.reprogram(WEIGHT)
    np.testing.assert_array_equal(array.order, order)
    assert wrong(array).max() < 1e-12
    np.testing.assert_allclose(array.read_weights(), WEIGHT, atol=0.5 / 15 + 1e-9)
    chip.refresh()
    assert wrong(array).max() < 1e-12


def test_a_unit_column_stays_where_it_is(card):
    chip = chip_of(card, coding="offset", offset="unit_column", spare_columns=1, tiles={"rows": 4, "cols": 6})
    stuck = healthy(chip)
    stuck[0, 0, 0, 0, 0, 0] = 40e-6
    array = program(chip, stuck, np.zeros((6, 8)))
    first = array.placement.cols_per_tile + 1
    assert array.order[0].tolist() == [first, *range(1, array.placement.cols_per_tile)]
    codes = np.rint(X * 127) / 127
    np.testing.assert_allclose(array.mvm(X), codes @ array.target_weights().T, atol=1e-12)


@pytest.mark.parametrize("statistical", [False, True])
def test_the_second_writing_is_booked(card, statistical):
    chip = chip_of(card, pulses=True, spare_columns=1)
    chip.statistical = statistical
    stuck = healthy(chip)
    stuck[0, 0, 0, 0, :, 1] = 40e-6
    array = program(chip, stuck)
    total = chip.ledger.total
    pulses = total("set_pulse") + total("reset_pulse")
    assert pulses == pytest.approx(array.wear.sum(), rel=1e-3)
    assert array.report.set_pulses + array.report.reset_pulses == pulses
    assert total("verify_read") == pulses + 2 * (
        array.placement.cells + 2 * 4
    )  # all cells, and the spare column
    assert total("adc_conversion") == total("verify_read")
    assert (array.wear[0, 0, 0, 0, :, 1] > 0).all()  # in vain


# -- partners ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", ["columns", "rows", "arrays"])
@pytest.mark.parametrize("remedy", ["mask", "compensate"])
def test_a_partner_takes_the_error_away(card, pair, remedy):
    weight = np.full((6, 8), 0.2)  # 3 of 15 levels: G+ 8.8 uS
    arrays = {}
    for how in ("none", remedy):
        chip = chip_of(card, pair=pair, remedy=how, tiles={"rows": 16, "cols": 12})
        stuck = healthy(chip)
        stuck[0, 0, 0, 0, 2, 1] = 1e-6 + 9 / 15 * 39e-6
        arrays[how] = program(chip, stuck, weight)
    assert wrong(arrays["none"])[1, 2] == pytest.approx(0.4)
    read = arrays[remedy].read_weights()
    assert read[1, 2] == pytest.approx(0.0 if remedy == "mask" else 0.2, abs=1e-12)
    others = np.ones((6, 8), bool)
    others[1, 2] = False
    np.testing.assert_allclose(read[others], 0.2)


def test_compensation_ends_where_the_range_ends(card):
    chip = chip_of(card, remedy="compensate", tiles={"rows": 16, "cols": 12})
    stuck = healthy(chip)
    stuck[0, 0, 0, 0, 0, 0] = 1e-6  # stuck low: G- cannot go below g_min
    array = program(chip, stuck, np.ones((6, 8)))
    assert array.read_weights()[0, 0] == 0.0
    both = healthy(chip)
    both[0, 0, :, 0, 0, 0] = 40e-6, 20.5e-6  # beyond repair
    other = chip.program(np.ones((6, 8)), name="v", stuck=both)
    assert other.read_weights()[0, 0] == pytest.approx(0.5)


@pytest.mark.parametrize("remedy", ["mask", "compensate"])
def test_a_partner_costs_two_reads_and_its_pulses(card, remedy):
    booked, arrays = {}, {}
    for how in ("none", remedy):
        chip = chip_of(card, pulses=True, remedy=how)
        stuck = healthy(chip)
        stuck[0, 0, 0, 0, 2, 1] = 30e-6
        arrays[how] = program(chip, stuck, np.zeros((6, 8)))
        booked[how] = {a: chip.ledger.total(a) for a in ("set_pulse", "reset_pulse", "verify_read")}
    pulses = {how: b["set_pulse"] + b["reset_pulse"] for how, b in booked.items()}
    assert pulses[remedy] > pulses["none"]
    reads = {how: b["verify_read"] - pulses[how] for how, b in booked.items()}
    assert (reads["none"], reads[remedy]) == (2 * 96, 2 * (96 + 1))  # one partner
    assert wrong(arrays["none"])[1, 2] > 0.7
    assert wrong(arrays[remedy])[1, 2] < 0.2


def test_with_drawn_faults_every_remedy_helps(card):
    left = {}
    for how in ({}, {"remedy": "mask"}, {"remedy": "compensate"}, {"spare_columns": 1}):
        preset = card(
            programming=None,
            device=DEVICE,
            mapping={"pair": "columns"} | how,
            tiles={"rows": 16, "cols": 32},
            faults={"stuck_low": 0.01, "stuck_high": 0.01},
        )
        array = Chip(preset).program(RNG.uniform(-1, 1, (60, 60)), name="w")
        left[str(how)] = (wrong(array) ** 2).mean()
    plain = left.pop("{}")
    assert max(left.values()) < 0.9 * plain
    assert left[str({"remedy": "compensate"})] < left[str({"remedy": "mask"})]


# -- the maps --------------------------------------------------------------------------------------------------------


def test_a_fault_map_of_another_shape_is_an_error(card):
    with pytest.raises(ConfigError, match=r"stuck: the map must have the cells' shape \(4, 1, 2, 1, 4, 3\)"):
        program(chip_of(card, tiles={"rows": 4, "cols": 6}), np.full((6, 8), np.nan))


def test_the_assignment_of_spares_prefers_large_errors_and_leaves_what_is_right():
    error = np.array([[0.0, 3.0, 1.0, 3.0], [0.0, 0.0, 0.0, 2.0]])
    assert repair.spare_assignment(error, 3).tolist() == [[1, 3, 2], [3, -1, -1]]
    assert repair.spare_assignment(error, 6).shape == (2, 6)
