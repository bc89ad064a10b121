"""The chip as a whole: what sits where, refresh, and programming noise drawn anew."""

import numpy as np
import pytest

from crossbar_sim import Chip, ConfigError, MappingError, Ranges
from crossbar_sim.device import Drift
from crossbar_sim.presets import edit

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((13, 21))
X = RNG.standard_normal((4, 21))
RANGES = Ranges(2.0, -9, 9)

MAPPINGS = {
    "column pairs": {"pair": "columns"},
    "row pairs": {"pair": "rows"},
    "pairs in two arrays": {"pair": "arrays"},
    "slices and copies": {"pair": "columns", "slices": 2, "copies": 2},
    "offset": {"pair": "columns", "coding": "offset"},
    "unit column": {"coding": "offset", "offset": "unit_column"},
    "to the brim": {"pair": "columns", "split": "full"},
    "spare columns": {"pair": "columns", "spare_columns": 2},
}


# -- what sits where -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(MAPPINGS))
def test_the_allocation_adds_up_to_the_cells(card, name):
    rows, cols = 8, 24
    chip = Chip(
        card(programming=None, mapping=MAPPINGS[name], tiles={"rows": rows, "cols": cols, "count": 5})
    )
    arrays = [chip.program(WEIGHT, name="a"), chip.program(WEIGHT[:2, :3], name="b")]
    table = chip.allocation()
    assert [block["tile"] for block in table] == list(range(chip.tiles_used))
    for array in arrays:
        p = array.placement
        own = [block for block in table if block["array"] == array.name]
        assert len(own) == p.arrays
        assert sum(block["utilisation"] for block in own) * rows * cols == pytest.approx(p.cells)
        assert all(0 < block["utilisation"] <= 1 for block in own)
        covered = np.zeros((p.outputs, p.inputs), int)
        for block in own:
            covered[slice(*block["outputs"]), slice(*block["inputs"])] += 1
        assert (covered == p.arrays // p.tiles).all()
    assert chip.chips_needed == -(-chip.tiles_used // 5)


def test_tiles_that_were_given_back_are_counted_no_more(card):
    chip = Chip(
        card(programming=None, mapping={"pair": "columns"}, tiles={"rows": 8, "cols": 24, "count": 4})
    )
    chip.program(WEIGHT, name="a")
    chip.program(WEIGHT, name="b")
    assert (chip.tiles_used, chip.chips_needed) == (12, 3)
    chip.remove("a")
    assert (chip.tiles_used, chip.chips_needed) == (6, 2)
    assert {block["array"] for block in chip.allocation()} == {"b"}
    assert [block["tile"] for block in chip.allocation()] == list(range(6))


def test_a_card_without_a_tile_count_is_one_chip(card):
    chip = Chip(card(programming=None, tiles={"rows": 8, "cols": 8, "count": 0}))
    chip.program(WEIGHT, name="a")
    assert chip.chips_needed == 1


def test_wrong_choices_are_errors_with_the_nearest_right_one(card):
    for field, value, right in (("grid", "int16", "int15"), ("backward", "transpose", "transposed")):
        with pytest.raises(ConfigError, match=f"Chip.{field}: '{value}' is unknown; did you mean '{right}'"):
            Chip(card(), **{field: value})
    with pytest.raises(
        ConfigError, match=r"Chip\.backend: no backend is called 'nunba'; did you mean 'numba'"
    ):
        Chip(card(), backend="nunba")


@pytest.mark.parametrize("seconds", [-1, np.nan, np.inf])
def test_time_that_cannot_pass_is_refused(seconds):
    chip = Chip("ideal")
    with pytest.raises(
        ConfigError, match=rf"advance: seconds must be finite and not negative \(got {seconds}\)"
    ):
        chip.advance(seconds)
    assert chip.time == 0


@pytest.mark.parametrize("seed", [1.5, -1, 2**32, "3", None])
def test_a_seed_is_a_whole_number_of_32_bits(seed):
    with pytest.raises(ConfigError, match=rf"Chip\.seed: must be a whole number in .* \(got {seed!r}\)"):
        Chip("ideal", seed=seed)


def test_seeds_of_numpy_are_taken_as_plain_numbers():
    assert type(Chip("ideal", seed=np.int64(2**32 - 1)).seed) is int


def test_a_chip_is_made_from_a_card_its_name_or_its_path(card, tmp_path):
    own = tmp_path / "mine.toml"
    own.write_text('base = "ideal"\nname = "mine"\ntitle = "My own"\n')
    assert Chip(preset="ideal").preset == Chip(card("ideal")).preset
    assert Chip(own).preset.name == Chip(str(own)).preset.name == "mine"


def test_ir_drop_needs_wires_with_resistance():
    with pytest.raises(
        ConfigError, match=r"Chip\.ir_drop: the card 'ideal' has no wire resistance; edit wires\.r_wl"
    ):
        Chip("ideal", ir_drop=True)
    assert Chip(edit("ideal", {"wires.r_bl": 0.5}), ir_drop=True).ir_drop


def test_an_array_that_is_not_there_cannot_be_given_back():
    chip = Chip("ideal")
    chip.program(WEIGHT, name="query")
    for give_back in (chip.retire, chip.remove):
        with pytest.raises(
            ConfigError, match=f"{give_back.__name__}: no array 'qery' on this chip; did you mean 'query'"
        ):
            give_back("qery")
    assert list(chip.arrays) == ["query"]


def test_a_chip_says_what_is_on_it(card):
    chip = Chip(card(programming=None, tiles={"rows": 8, "cols": 24}, mapping={"pair": "columns"}), seed=7)
    chip.program(WEIGHT, name="a")
    chip.advance(3600)
    assert repr(chip) == "Chip('hfo2_neurram', seed=7, arrays: 1, tiles: 6, at 3600 s)"


@pytest.mark.parametrize(("converters", "how"), [({"subtract": "digital"}, {"pair": "rows"})])
def test_row_pairs_are_subtracted_on_the_line(card, converters, how):
    with pytest.raises(ConfigError, match=r"Periphery.subtract: 'digital' is impossible .* use 'analog'"):
        Chip(card(periphery=converters, mapping=how)).program(WEIGHT, name="a")


@pytest.mark.parametrize(
    ("plane_bits", "pair", "words"),
    [
        (0, "columns", r"Periphery.plane_bits: .* \(got 0\); use 1"),
        (1, "rows", "WeightMapping.pair: 'rows' needs"),
    ],
)
def test_gated_columns_take_one_bit_planes_and_one_supply(card, plane_bits, pair, words):
    preset = card(periphery={"plane_bits": plane_bits}, mapping={"pair": pair}, wires={"ladder": "gated"})
    with pytest.raises(ConfigError, match=words):
        Chip(preset, ir_drop=True).program(WEIGHT, name="a")
    Chip(preset).program(WEIGHT, name="a")  # without IR drop the ladder does not act


# -- refresh ---------------------------------------------------------------------------------------------------------


def lost(array):
    error = (array.read_weights() - array.target_weights()) / array.scale[:, None]
    return float(np.sqrt((error**2).mean()))


@pytest.mark.parametrize("statistical", [False, True])
def test_refresh_brings_drifted_cells_back_and_books_it_under_refresh(card, statistical):
    preset = card(drift=Drift(start=1.0, mu=(0.0, 0.05, 0.05, 0.05)))
    chip = Chip(preset, statistical=statistical)
    array = chip.program(WEIGHT, name="a", ranges=RANGES)
    fresh = lost(array)
    chip.advance(1e6)
    drifted = lost(array)
    before = chip.ledger.copy()
    chip.refresh()
    assert drifted > 4 * fresh
    assert lost(array) < 1.3 * fresh
    total = chip.ledger.total
    pulses = total("set_pulse", phase="refresh") + total("reset_pulse", phase="refresh")
    assert pulses > 0
    assert total("verify_read", phase="refresh") == pulses + 2 * array.placement.cells
    assert total("cell_write", phase="refresh") <= array.placement.cells
    for action in ("set_pulse", "verify_read", "cell_write"):
        assert total(action, phase="deploy") == before.total(action)


@pytest.mark.parametrize("statistical", [False, True])
def test_cells_inside_their_window_cost_two_reads_and_no_pulse(card, statistical):
    chip = Chip(card(mapping={"pair": "columns"}), statistical=statistical)
    array = chip.program(WEIGHT, name="a", ranges=RANGES)
    assert array.unconverged == 0
    held, wear = array.conductance().copy(), array.wear.copy()
    chip.refresh()
    total = chip.ledger.total
    assert [total(a, phase="refresh") for a in ("set_pulse", "reset_pulse", "cell_write")] == [0, 0, 0]
    assert total("verify_read", phase="refresh") == 2 * array.placement.cells
    np.testing.assert_array_equal(array.conductance(), held)
    np.testing.assert_array_equal(array.wear, wear)


def test_refreshed_cells_are_young_and_the_others_keep_their_age(card):
    preset = card("cmo_hfox", relaxation=True)
    chip = Chip(preset)
    array = chip.program(WEIGHT, name="a")
    chip.advance(1e8)
    wear = array.wear.copy()
    chip.refresh()
    pulsed = array.wear > wear
    age = np.broadcast_to(array.cells.age(chip.time), pulsed.shape)
    used = array.cells.used
    assert pulsed.any()
    assert not pulsed[used].all()
    assert (age[pulsed] == 1.0).all()
    assert (age[used & ~pulsed] == 1e8 + 1).all()


# -- noise-aware training --------------------------------------------------------------------------------------------


@pytest.fixture
def noisy(card):
    chip = Chip(card(relaxation=True), statistical=True)
    chip.program(WEIGHT, name="a", ranges=RANGES)
    chip.advance(3600.0)
    return chip


def test_each_event_sees_another_programming_of_the_same_chip(noisy):
    array = noisy.arrays["a"]
    own = array.mvm(X)
    noisy.redraw_programming = True
    seen = []
    for _ in range(3):
        noisy.next_event()
        seen.append(array.mvm(X))
        np.testing.assert_array_equal(array.mvm(X), seen[-1])
    assert len({y.tobytes() for y in [own, *seen]}) == 4
    noisy.event = 1
    np.testing.assert_array_equal(array.mvm(X), seen[0])
    noisy.redraw_programming = False
    np.testing.assert_array_equal(array.mvm(X), own)


def test_both_directions_see_the_same_redrawn_cells(noisy):
    noisy.redraw_programming = True
    array = noisy.arrays["a"]
    for _ in range(2):
        noisy.next_event()
        exact = np.eye(13) @ array.read_weights()
        error = np.abs(array.mvm_t(np.eye(13)) - exact)
        assert error.max() < 0.05 * np.abs(exact).max()


def test_redrawn_cells_have_the_moments_of_the_cards_errors(noisy):
    array = noisy.arrays["a"]
    noisy.redraw_programming = True
    drawn = []
    for _ in range(60):
        noisy.next_event()
        drawn.append(array.read_weights() - array.target_weights())
    noisy.redraw_programming = False
    others = [
        Chip(noisy.preset, seed=seed, statistical=True).program(WEIGHT, name="a") for seed in range(1, 61)
    ]
    for other in others:
        other.chip.advance(3600.0)
    programmed = [other.read_weights() - other.target_weights() for other in others]
    a, b = (np.sqrt((np.stack(part) ** 2).mean()) for part in (drawn, programmed))
    assert a == pytest.approx(b, rel=0.05)
    assert np.abs(np.mean(drawn, axis=0)).max() < 6 * a / np.sqrt(60) * 2


def test_nothing_is_booked_or_worn_by_redrawing(noisy):
    array = noisy.arrays["a"]
    wear = array.wear.copy()
    rows = noisy.ledger.copy().rows(noisy.preset.prices)
    noisy.redraw_programming = True
    noisy.next_event()
    array.read_weights()
    np.testing.assert_array_equal(array.wear, wear)
    assert noisy.ledger.rows(noisy.preset.prices) == rows


@pytest.mark.parametrize("name", ["ideal", "cmo_hfox"])
@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_vectors_of_another_length_are_refused_in_both_directions(name, backend):
    array = Chip(name, backend=backend, statistical=True).program(np.ones((10, 20)), name="w")
    array.ranges = Ranges(1.0, -8.0, 8.0)
    for read, length in ((array.mvm, 19), (array.mvm, 400), (array.mvm_t, 9), (array.mvm_t, 11)):
        with pytest.raises(MappingError, match=f"takes vectors of .*{length}"):
            read(np.ones((64, length)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_inputs_that_are_not_finite_are_refused(value):
    array = Chip("cmo_hfox", statistical=True).program(np.ones((10, 20)), name="w")
    array.ranges = Ranges(1.0, -8.0, 8.0)
    x = np.ones((3, 20))
    x[1, 4] = value
    with pytest.raises(MappingError, match=r"not finite \(vector 1\)"):
        array.mvm(x)
