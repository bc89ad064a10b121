"""The ideal card: plain products in the input's own dtype."""

import numpy as np
import pytest
import torch
from torch import nn

from crossbar_sim import Chip, convert

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(1, 1), (3, 300), (130, 7), (257, 513)])
def test_mvm_is_the_matrix_product(shape):
    weight = RNG.standard_normal(shape)
    array = Chip("ideal").program(weight, name="w")
    x = RNG.standard_normal((2, 3, shape[1]))
    np.testing.assert_allclose(array.mvm(x), x @ weight.T, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(array.read_weights(), weight, rtol=1e-12, atol=1e-15)


def test_one_vector_and_no_vectors():
    weight = RNG.standard_normal((4, 6))
    array = Chip("ideal").program(weight, name="w")
    x = RNG.standard_normal(6)
    np.testing.assert_allclose(array.mvm(x), weight @ x, rtol=1e-10)
    assert array.mvm(np.zeros((0, 6))).shape == (0, 4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_a_converted_model_computes_what_it_did(dtype, tolerance):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 70), nn.GELU(), nn.Linear(70, 5)).to(dtype)
    x = torch.randn(3, 4, 40, dtype=dtype, requires_grad=True)
    before = model(x)
    (gradient,) = torch.autograd.grad(before.square().sum(), x)
    after = convert(model, Chip("ideal"))(x)
    assert after.dtype == dtype
    torch.testing.assert_close(after, before, rtol=tolerance, atol=tolerance)
    (on_chip,) = torch.autograd.grad(after.square().sum(), x)
    torch.testing.assert_close(on_chip, gradient, rtol=10 * tolerance, atol=10 * tolerance)


def test_it_needs_no_calibration_and_knows_no_energy():
    chip = Chip("ideal")
    model = convert(nn.Sequential(nn.Linear(3, 2)), chip)
    chip.calibrate(model, [{"input": torch.ones(1, 3)}])
    model(torch.ones(1, 3))
    rows = chip.ledger.rows(chip.preset.prices)
    assert rows
    assert all(np.isnan(row["energy_J"]) and np.isnan(row["time_s"]) for row in rows)


def test_time_changes_nothing():
    chip = Chip("ideal")
    array = chip.program(RNG.standard_normal((4, 6)), name="w")
    before = array.read_weights()
    chip.advance(1e8)
    np.testing.assert_array_equal(array.read_weights(), before)
