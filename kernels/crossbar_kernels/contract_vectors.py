"""The contract of what is done to vectors around products: the same bits as the reference, on small arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from crossbar_kernels import Kernels, reference

BATCH, WIDTH = 37, 21


def check_vectors(backend: Kernels) -> None:
    """Assert that `backend` scales, decodes, gathers and sums as the reference does, bit for bit.

    Raises:
        AssertionError: it does not; the message names the function.
    """
    random = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        x = (random.normal(size=(BATCH, WIDTH)) * np.geomspace(1e-30, 1e6, BATCH)[:, None]).astype(dtype)
        x[0], x[1, :], x[2] = 0.0, 0.25, -4.0
        _check_scales(backend, x)
        _check_results(backend, x, random)
    _check_rows(backend, x)
    _check_planes(backend, random)


def _same(backend: Kernels, what: str, got: Any, expected: Any) -> None:
    got, expected = backend.to_host(got), np.asarray(expected)
    assert got.dtype == expected.dtype, f"{what}: {got.dtype}, not {expected.dtype}"
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, not {expected.shape}"
    assert np.array_equal(got, expected), f"{what}: {np.count_nonzero(got != expected)} numbers differ"


def _check_scales(backend: Kernels, x: Any) -> None:
    for binary in (False, True):
        full = reference.full_scales(x, binary=binary)
        _same(backend, "full_scales", backend.full_scales(x, binary=binary), full)
        expected = reference.normalise(x, full, width=WIDTH + 3)
        _same(backend, "normalise", backend.normalise(x, full, width=WIDTH + 3), expected)
    for size in (0.0, 0.7, 1.0, 4.0, 4.0000001, float("inf")):
        fixed = backend.full_scales(x, fixed=0.3, size=size)
        got = np.broadcast_to(
            backend.to_host(np.asarray(fixed) if isinstance(fixed, float) else fixed), (len(x), 1)
        )
        expected = np.full((len(x), 1), reference.full_scales(x, fixed=0.3, size=size))
        assert np.array_equal(got, expected), f"full_scales of size {size}: {got[0, 0]}, not {expected[0, 0]}"
    _same(
        backend, "normalise", backend.normalise(x, 0.3, width=WIDTH), reference.normalise(x, 0.3, width=WIDTH)
    )


def _check_results(backend: Kernels, x: Any, random: np.random.Generator) -> None:
    columns, per_vector = random.normal(size=WIDTH), random.uniform(size=(BATCH, 1))
    base = np.arange(WIDTH - 4) % 4
    for dtype in (np.float32, np.float64):
        for full in (per_vector, 0.3):
            for factors in (columns, 1.0):
                got, expected = (
                    k.decode(x, full, factors, unit=1 / 127, dtype=dtype) for k in (backend, reference)
                )
                _same(backend, "decode", got, expected)
            sums, some = x.astype(np.float64), columns[:-4]
            got, expected = (
                k.decode(sums, full, some, unit=1 / 127, dtype=dtype, base=base) for k in (backend, reference)
            )
            _same(backend, "decode with a base", got, expected)


def _check_rows(backend: Kernels, x: Any) -> None:
    index = np.flatnonzero(np.arange(BATCH) % 3)
    rows = reference.take(x, index)
    _same(backend, "take", backend.take(x, index), rows)
    _same(backend, "put", backend.put(rows, index, BATCH), reference.put(rows, index, BATCH))
    got = backend.like(backend.asarray(x), x)
    assert isinstance(got, np.ndarray), f"like: {type(got).__name__} for a NumPy array, not a NumPy array"
    _same(backend, "asarray", backend.asarray(x), x)


def _check_planes(backend: Kernels, random: np.random.Generator) -> None:
    for bits, count, largest in ((2, 3, 63), (1, 7, 127), (4, 2, 255)):
        digits = random.integers(1 - 2**bits, 2**bits, (count, BATCH, WIDTH)).astype(np.int8)
        got, expected = (k.joint_squares(digits, bits=bits, largest=largest) for k in (backend, reference))
        _same(backend, "joint_squares", got, expected)
        sums = backend.asarray(np.arange(WIDTH, dtype=np.int64))
        backend.add_squares(digits, sums)
        _same(backend, "add_squares", sums, np.arange(WIDTH) + reference.sum_squares(digits))
        weights, total = [2.0 ** (bits * k) for k in range(count)], random.normal(size=(BATCH, 5))
        less, expected = backend.asarray(total.copy()), total.copy()
        backend.subtract_sums(less, digits, weights, 0.37)
        reference.subtract_sums(expected, digits, weights, 0.37)
        _same(backend, "subtract_sums", less, expected)
    codes = random.integers(-255, 256, (BATCH, WIDTH)).astype(np.int16)
    for given in (codes, (codes // 4).astype(np.int8)):
        _same(backend, "reals", backend.reals(backend.asarray(given)), reference.reals(given))
