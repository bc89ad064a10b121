"""From a tensor to the kernels and back: types, biases, and what is kept between products."""

import numpy as np
import pytest
import torch

from crossbar_sim import Chip, Ranges
from crossbar_sim.layers import CrossbarLinear, CrossbarProduct
from crossbar_sim.ledger import Entry, Ledger
from crossbar_sim.presets import edit

RNG = np.random.default_rng(0)
WEIGHT = RNG.uniform(-1, 1, (13, 60))
X = RNG.uniform(-1, 1, (3, 4, 60))
CARDS = {
    "default": {},
    "a range per vector": {"periphery.scaling": "per_vector_absmax"},
    "planes": {"periphery.plane_bits": 2, "periphery.accumulate": "digital"},
    "no DAC": {"periphery.dac_bits": 0},
    "offset": {"mapping.coding": "offset"},
}


def programmed(changes, name="hfo2_neurram"):
    chip = Chip(edit(name, changes) if changes else name, statistical=True)
    return chip.program(WEIGHT, name="w", ranges=Ranges(1.0, -24.0, 31.0))


@pytest.mark.parametrize("name", sorted(CARDS))
def test_the_type_of_the_inputs_and_of_the_results_changes_no_value(name):
    array = programmed(CARDS[name])
    x, g = X.astype(np.float32), X[..., :13].astype(np.float32)
    for product, values in ((array.mvm, x), (array.mvm_t, g)):
        exact, single = product(values.astype(np.float64)), product(values, dtype=np.float32)
        assert (exact.dtype, single.dtype) == (np.float64, np.float32)
        np.testing.assert_array_equal(product(values), exact)
        np.testing.assert_array_equal(single, exact.astype(np.float32))


def test_whole_numbers_and_half_precision_are_driven_as_what_they_are():
    array = programmed({})
    codes = np.sign(X).astype(np.int64)
    np.testing.assert_array_equal(array.mvm(codes), array.mvm(codes.astype(np.float64)))
    half = X.astype(np.float16)
    np.testing.assert_array_equal(array.mvm(half), array.mvm(half.astype(np.float64)))


def test_padding_is_zero_in_the_type_of_the_results():
    array = programmed({})
    mask = np.arange(12).reshape(3, 4) % 3 < 2
    whole = array.mvm(X)
    array.chip.begin_batch(mask)
    y = array.mvm(X, dtype=np.float32)
    assert y.dtype == np.float32
    assert not y[~mask].any()
    np.testing.assert_array_equal(y[mask], whole[mask].astype(np.float32))


@pytest.mark.parametrize("name", ["hfo2_neurram", "ideal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_bias_is_added_and_learns_like_any_other(name, dtype):
    product = CrossbarProduct(programmed({}, name))
    bias = torch.nn.Parameter(torch.linspace(-1, 1, 13))
    x = torch.from_numpy(X).to(dtype).requires_grad_()
    layer, plain = CrossbarLinear(product, bias), product(x)
    out = layer(x)
    assert out.dtype == (plain + bias).dtype
    torch.testing.assert_close(out, plain + bias, rtol=0, atol=0)
    weights = torch.arange(out.numel(), dtype=out.dtype).reshape(out.shape)
    (found,) = torch.autograd.grad((out * weights).sum(), bias)
    torch.testing.assert_close(found, weights.sum((0, 1)).to(bias.dtype))


def test_a_frozen_bias_leaves_the_products_of_others_alone():
    product = CrossbarProduct(programmed({}))
    x = torch.from_numpy(X).float()
    before = product(x)
    CrossbarLinear(product, torch.nn.Parameter(torch.ones(13), requires_grad=False))(x)
    torch.testing.assert_close(product(x), before, rtol=0, atol=0)


def test_what_a_vector_books_follows_task_phase_ledger_and_address():
    array = programmed({})
    chip, keys = array.chip, []
    for task, phase in (("a", "forward"), ("b", "forward"), ("b", "eval"), ("a", "forward")):
        with chip.ledger.scope(task=task, phase=phase):
            array.mvm(X[0, :1])
    assert chip.ledger.total("adc_conversion", task="a") == 2 * chip.ledger.total(
        "adc_conversion", phase="eval"
    )
    chip.retire("w")
    again = chip.program(WEIGHT, name="w", layer="elsewhere", ranges=Ranges(1.0, -24.0, 31.0))
    chip.ledger, keys = Ledger(), chip.ledger
    again.mvm(X[0, :1])
    assert {key.layer for key in chip.ledger.counts} == {"elsewhere"}
    assert keys.total("adc_conversion", layer="elsewhere", phase="forward") == 0


def test_entries_are_booked_as_often_as_told_and_nothing_is_a_row_of_nothing():
    ledger = Ledger()
    entry = Entry(ledger.key("l", "base", "adc_conversion", "8b"), 3, 2)
    ledger.book_times([entry], 5)
    assert (ledger.counts[entry.key], ledger.slots[entry.key]) == (15, 10)
    empty = Ledger()
    empty.book_times([entry], 0)
    assert (dict(empty.counts), dict(empty.slots)) == ({entry.key: 0}, {})


def test_row_numbers_follow_the_shape_the_first_sample_and_the_mask():
    chip = Chip("hfo2_neurram")
    valid, rows = chip.samples((2, 3))
    assert valid is None
    assert rows.tolist() == [0, 1, 2, 4096, 4097, 4098]
    with chip.samples_from(1):
        assert chip.samples((2, 3))[1].tolist() == [4096, 4097, 4098, 8192, 8193, 8194]
    chip.begin_batch(np.array([[True, False, True], [False, True, False]]))
    assert chip.samples((2, 3))[1].tolist() == [0, 2, 4097]
    chip.begin_batch(np.array([[True, True, True], [False, True, False]]))
    assert chip.samples((2, 3))[1].tolist() == [0, 1, 2, 4097]
    assert chip.samples((3, 2))[1].tolist() == [0, 1, 4096, 4097, 8192, 8193]
    chip.begin_batch(None)
    assert chip.samples((2, 3))[0] is None
