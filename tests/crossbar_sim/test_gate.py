"""Outputs and inputs that are switched off: results, noise, ranges, wires, gradients, what is kept and what is refused."""

from math import fsum

import numpy as np
import pytest
import torch

from crossbar_sim import Chip, Ranges, checkpoint, convert, wires
from crossbar_sim.errors import ConfigError
from crossbar_sim.plan import PlannedChip

OUTPUTS, INPUTS, VECTORS = 9, 11, 6
ON_OUT = np.arange(OUTPUTS) % 3 != 1
ON_IN = np.arange(INPUTS) % 4 > 1
MAPPINGS = {
    "columns": {"pair": "columns"},
    "rows": {"pair": "rows"},
    "offset": {"coding": "offset", "offset": "digital"},
    "unit column": {"coding": "offset", "offset": "unit_column"},
}


@pytest.fixture
def array(card):
    """array(name, chip options, card parts): a noisy array of random weights on small tiles, its ranges given."""

    def make(name="hfo2_neurram", *, options=None, **parts):
        parts = {"tiles": {"rows": 8, "cols": 8}} | parts
        chip = Chip(card(name, relaxation=True, noise=True, **parts), statistical=True, **(options or {}))
        weight = np.random.default_rng(0).standard_normal((OUTPUTS, INPUTS))
        made = chip.program(weight, name="w", ranges=Ranges(1.5, -2.0, 2.0))
        made.backward_ranges = Ranges(1.0, -2.0, 2.0)
        return made

    return make


def vectors(width, seed=1):
    return np.random.default_rng(seed).standard_normal((VECTORS, width))


def booked(array, product):
    """Counts by action of one product."""
    chip = array.chip
    with chip.ledger.scope(task=f"{len(chip.ledger.counts)}", phase="forward"):
        product()
        return {key.action: n for key, n in chip.ledger.counts.items() if key.task == chip.ledger.task}


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_what_is_off_gives_exactly_0_and_the_rest_reads_as_if_nothing_had_happened(array, mapping):
    w = array(mapping=MAPPINGS[mapping])
    x, g = vectors(INPUTS), vectors(OUTPUTS)
    forward, back = w.mvm(x), w.mvm_t(g)
    without_inputs, without_outputs = w.mvm(np.where(ON_IN, x, 0)), w.mvm_t(np.where(ON_OUT, g, 0))
    w.gate(outputs=ON_OUT)
    np.testing.assert_array_equal(w.mvm(x), np.where(ON_OUT, forward, 0))
    np.testing.assert_array_equal(w.mvm_t(g), without_outputs)
    w.gate(inputs=ON_IN)
    np.testing.assert_array_equal(w.mvm(x), without_inputs)
    np.testing.assert_array_equal(w.mvm_t(g), np.where(ON_IN, back, 0))
    w.gate(outputs=ON_OUT, inputs=ON_IN)
    np.testing.assert_array_equal(w.mvm(x), np.where(ON_OUT, without_inputs, 0))
    np.testing.assert_array_equal(w.mvm_t(g), np.where(ON_IN, without_outputs, 0))
    w.gate()
    np.testing.assert_array_equal(w.mvm(x), forward)
    np.testing.assert_array_equal(w.mvm_t(g), back)


def test_columns_read_as_gated_ladders_are_switched_off_too(array):
    ladder = {"r_wl": 1.0, "r_bl": 1.0, "ladder": "gated"}
    w = array(
        options={"ir_drop": True, "backward": "nominal"},
        wires=ladder,
        periphery={"plane_bits": 1},
        mapping=MAPPINGS["columns"],
    )
    x = vectors(INPUTS)
    all_on, without = w.mvm(x), w.mvm(np.where(ON_IN, x, 0))
    w.gate(outputs=ON_OUT, inputs=ON_IN)
    np.testing.assert_array_equal(w.mvm(x), np.where(ON_OUT, without, 0))
    assert not np.array_equal(all_on, without)


def test_a_conversion_of_nothing_gives_0_though_its_converter_has_noise_and_no_code_for_0(array):
    w = array(periphery={"adc_noise": 2.0})
    for off in ({"inputs": np.zeros(INPUTS, bool)}, {"outputs": np.zeros(OUTPUTS, bool)}):
        w.gate()
        assert (w.mvm(np.zeros((VECTORS, INPUTS))) != 0).any()
        w.gate(**off)
        assert (w.mvm(vectors(INPUTS)) == 0).all()
        assert (w.mvm_t(vectors(OUTPUTS)) == 0).all()
        assert booked(w, lambda: w.mvm(vectors(INPUTS))) == {}


def test_a_range_per_vector_does_not_see_what_is_off(array):
    w = array(periphery={"scaling": "per_vector_absmax"})
    x, g = vectors(INPUTS), vectors(OUTPUTS)
    w.gate(outputs=ON_OUT, inputs=ON_IN)
    forward, back = w.mvm(x), w.mvm_t(g)
    np.testing.assert_array_equal(w.mvm(np.where(ON_IN, x, 1e6)), forward)
    np.testing.assert_array_equal(w.mvm_t(np.where(ON_OUT, g, 1e6)), back)


def test_cells_that_are_off_draw_no_current_through_the_wires_of_the_others(array):
    w = array(options={"ir_drop": True}, wires={"r_wl": 20.0, "r_bl": 20.0}, mapping=MAPPINGS["columns"])
    before = w.effective_conductance()
    w.gate(outputs=ON_OUT)
    seen, p = w.effective_conductance(), w.placement
    tested = 0
    for tile in range(p.tiles):
        first = (tile % p.col_tiles) * p.cols_per_tile
        on = [j for j in range(p.cols_per_tile) if first + j < OUTPUTS and ON_OUT[first + j]]
        g = np.zeros(p.shape[1:])
        g[..., on] = w.conductance()[tile][..., on]
        # the cells of a pair are neighbours
        lines = np.moveaxis(g[0, :, 0], 0, -1).reshape(p.rows_per_tile, -1)
        want = wires.effective(lines, r_wl=20.0, r_bl=20.0).reshape(p.rows_per_tile, p.columns, 2)
        np.testing.assert_allclose(seen[tile, 0, :, 0], np.moveaxis(want, -1, 0), rtol=1e-12)
        tested += len(on)
    assert tested == p.row_tiles * ON_OUT.sum()
    held = seen > 0
    assert seen[held].sum() > before[held].sum() * (1 + 1e-4)  # less current drops less voltage


def test_energy_and_counts_of_a_gate_are_those_of_the_lines_that_are_on_and_come_back_with_them(array):
    w, prices = array(), None
    x = vectors(INPUTS)
    first = booked(w, lambda: w.mvm(x))
    w.gate(outputs=ON_OUT, inputs=ON_IN)
    second = booked(w, lambda: w.mvm(x))
    w.gate()
    third = booked(w, lambda: w.mvm(x))
    assert first == third
    share = ON_OUT.sum() * ON_IN.sum() / (OUTPUTS * INPUTS)
    assert second["array_read"] == pytest.approx(share * first["array_read"])
    prices = w.chip.preset.prices
    joules = {
        r["task"]: r["energy_J"]
        for r in w.chip.ledger.rows(prices)
        if r["action"] == "array_read" and r["phase"] == "forward"
    }
    all_on, gated, again = (joules[task] for task in sorted(joules, key=int))
    assert all_on == again
    assert 0 < gated < all_on


def test_a_gate_that_leaves_all_on_is_none(array):
    w = array()
    w.gate(outputs=np.ones(OUTPUTS, bool), inputs=None)
    assert w.active is None


@pytest.mark.parametrize(
    "mask", [np.ones(3, bool), np.ones(OUTPUTS), np.ones((OUTPUTS, 1), bool), ON_OUT.astype(int)]
)
def test_a_mask_of_another_shape_or_kind_is_refused_and_changes_nothing(array, mask):
    w = array()
    w.gate(outputs=ON_OUT)
    with pytest.raises(ConfigError, match=r"gate.outputs: must hold one truth value for each of 9 outputs"):
        w.gate(outputs=mask)
    assert (w.active.outputs == ON_OUT).all()


def test_the_masks_of_a_gate_are_its_own(array):
    w, mask = array(), ON_OUT.copy()
    w.gate(outputs=mask)
    mask[:] = True
    assert (w.active.outputs == ON_OUT).all()


@pytest.mark.parametrize("backward", ["transposed", "nominal", "oracle"])
@pytest.mark.parametrize("name", ["ideal", "cmo_hfox"])
def test_layers_pass_neither_results_nor_gradients_through_what_is_off(name, backward):
    chip = Chip(name, statistical=True, backward=backward)
    torch.manual_seed(0)
    layer = convert(torch.nn.Sequential(torch.nn.Linear(INPUTS, OUTPUTS, bias=False)), chip)
    w = chip.arrays["0"]
    w.ranges = Ranges(3.0, -3.0, 3.0)
    x = torch.tensor(vectors(INPUTS), dtype=torch.float32, requires_grad=True)

    def run(grad):
        x.grad = None
        out = layer(x)
        out.backward(grad)
        return out.detach().numpy().copy(), x.grad.numpy().copy()

    g = torch.tensor(vectors(OUTPUTS), dtype=torch.float32)
    w.gate(outputs=ON_OUT, inputs=ON_IN)
    out, gradient = run(g)
    assert (out[:, ~ON_OUT] == 0).all()
    assert (out[:, ON_OUT] != 0).any(axis=0).all()
    assert (gradient[:, ~ON_IN] == 0).all()
    assert (gradient[:, ON_IN] != 0).any(axis=0).all()
    np.testing.assert_array_equal(run(torch.where(torch.from_numpy(ON_OUT), g, 7.0))[1], gradient)
    w.gate()
    assert (run(g)[0] != 0).any(axis=0).all()


def test_a_saved_gate_comes_back_and_a_state_without_one_opens_it(array, tmp_path):
    w = array()
    x, whole = vectors(INPUTS), checkpoint.array_state(w)
    w.gate(outputs=ON_OUT, inputs=ON_IN)
    checkpoint.save(w.chip, tmp_path / "chip.safetensors")
    again = checkpoint.load(tmp_path / "chip.safetensors", preset=w.chip.preset).arrays["w"]
    assert (again.active.outputs == ON_OUT).all()
    assert (again.active.inputs == ON_IN).all()
    np.testing.assert_array_equal(again.mvm(x), w.mvm(x))
    checkpoint.restore_array(again, whole)
    assert again.active is None


def test_cells_that_are_given_out_again_are_on(array):
    w = array()
    w.gate(outputs=ON_OUT)
    w.chip.retire("w")
    again = w.chip.program(np.ones((OUTPUTS, INPUTS)), name="w", ranges=Ranges(1.0, -2.0, 2.0))
    assert again is w
    assert again.active is None


@pytest.mark.parametrize("name", ["cmo_hfox", "ideal"])
def test_drift_factors_are_found_from_what_is_on(array, name):
    w = array(name)
    w.chip.advance(1e6)
    w.compensate("column")
    whole = np.array(w.compensation)
    w.gate(outputs=ON_OUT)
    w.compensate("column")
    np.testing.assert_array_equal(w.compensation, np.where(ON_OUT, whole, 1.0))
    if name != "ideal":
        w.gate(inputs=ON_IN)
        w.compensate("global")
        assert w.compensation == pytest.approx(float(np.median(whole)), rel=0.1)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_planned_array_books_a_gate_like_one_with_cells(array, transposed):
    real = array("cmo_hfox")
    plan = PlannedChip(real.chip.preset).program(torch.empty(OUTPUTS, INPUTS, device="meta"), name="w")
    plan.ranges = plan.backward_ranges = Ranges(1.0, -1.0, 1.0)
    x = torch.empty(VECTORS, OUTPUTS if transposed else INPUTS, device="meta")
    values = vectors(x.shape[1])
    for on in ({}, {"outputs": ON_OUT}, {"outputs": ON_OUT, "inputs": ON_IN}):
        real.gate(**on)
        plan.gate(**on)
        found = booked(plan, lambda: (plan.mvm_t if transposed else plan.mvm)(x))
        assert found == booked(real, lambda: (real.mvm_t if transposed else real.mvm)(values))
    joules = [fsum(entry) for key, entry in plan.chip.ledger.joules.items() if key.action == "array_read"]
    assert joules[0] > joules[1] > joules[2] > 0
