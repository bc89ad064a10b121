"""What is done to vectors around products, by hand; and that the contract notices when a backend does otherwise."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from crossbar_kernels import contract_vectors, get_kernels, reference

X = np.array([[0.5, -3.0, 1.0], [0.0, 0.0, 0.0], [4.0, -4.0, 1e-9]], np.float32)


def spoiled(**functions):
    return SimpleNamespace(**(vars(reference) | functions))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("full_scales", lambda x, *, fixed=None, **how: reference.full_scales(x, fixed=fixed, size=1.0)),
        ("full_scales", lambda x, **how: reference.full_scales(x, **how) * (1 + 2.0**-52)),
        ("normalise", lambda x, full, *, width: reference.normalise(x, full, width=width).astype("f4")),
        ("decode", lambda s, f, c, *, base=None, **how: reference.decode(s[:, :17], f, 1.0, **how)),
        (
            "decode",
            lambda s, f, c, *, unit, **how: reference.decode(s, f, np.multiply(c, unit), unit=1.0, **how),
        ),
        ("put", lambda y, index, count: reference.put(y, index - 1, count)),
        ("take", lambda x, index: x[: len(index)]),
        ("joint_squares", lambda d, *, bits, largest: reference.joint_squares(d, bits=bits, largest=255)),
        ("add_squares", lambda codes, sums: None),
        ("subtract_sums", lambda total, x, w, f: reference.subtract_sums(total, x, w[::-1], f)),
        ("reals", lambda codes: codes),
        ("like", lambda y, x: list(y)),
    ],
)
def test_the_contract_notices_other_bits(name, wrong):
    contract_vectors.check_vectors(reference)
    with pytest.raises((AssertionError, ValueError), match=f"{name}|broadcast"):
        contract_vectors.check_vectors(spoiled(**{name: wrong}))


@pytest.mark.parametrize("name", ["reference", "auto"])
def test_full_scales_are_the_largest_magnitude_or_the_power_of_two_above_it(name):
    kernels = get_kernels(name)
    assert kernels.full_scales(X).tolist() == [[3.0], [1.0], [4.0]]
    assert kernels.full_scales(X, binary=True).tolist() == [[4.0], [1.0], [4.0]]
    assert kernels.full_scales(X, fixed=0.5, size=3.0) == 2.0


def test_a_number_just_above_a_power_of_two_has_the_next_one():
    """Its logarithm is rounded to a whole number."""
    above = np.nextafter(2.0**-20, 1.0)
    assert np.log2(above) == -20.0
    assert reference.full_scales(np.array([[above]]), binary=True) == 2.0**-19


def test_results_lose_their_unit_column_before_they_are_scaled():
    sums = np.array([[1.0, 2.0, 3.0, 10.0, 20.0]])
    base = np.array([0, 0, 1])
    got = reference.decode(sums, 2.0, np.array([1.0, 10.0, 100.0]), unit=0.5, dtype=np.float32, base=base)
    assert got.dtype == np.float32
    assert got.tolist() == [[-9.0, -80.0, -1700.0]]
