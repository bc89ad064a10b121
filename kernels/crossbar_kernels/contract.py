"""The contract that every backend keeps, as one table of cases and one judge: `certify(my_backend)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels import AdcRange, AdcTable, Kernels, NoiseStream, reference
from crossbar_kernels.contract_pulses import check_writes
from crossbar_kernels.contract_vectors import check_vectors
from crossbar_kernels.philox import Purpose

RELATIVE = 1e-12
"""Allowed difference of float64 sums, relative to the largest magnitude: their order is the backend's own."""
FLIPS = 1e-3
"""Allowed share of results one code away where such a difference meets the edge between two codes."""


@dataclass(frozen=True)
class Case:
    """One product: its shape and what it goes through."""

    batch: int
    tiles: int
    rows: int
    cols: int
    integer_inputs: bool = True
    integer_weights: bool = True
    largest: int = 16383
    noise: bool = False
    adc: bool = False
    table: bool = False
    squares: bool = False
    sigma: bool = False
    cells: bool = True
    planes: int = 1

    @property
    def exact(self) -> bool:
        """Whether every bit is prescribed."""
        return self.integer_inputs and self.integer_weights

    @property
    def name(self) -> str:
        """A short identifier."""
        kinds = ("i" if self.integer_inputs else "f") + ("i" if self.integer_weights else "f")
        flags = ("noise", "adc", "table", "squares", "sigma")
        extras = [flag for flag in flags if getattr(self, flag)] + ["no-cells"] * (not self.cells)
        shape = f"{self.planes}x{self.batch}x{self.tiles}x{self.rows}x{self.cols}"
        return "-".join([shape, f"{kinds}{self.largest}", *extras])


MEMBERS = {name for part in Kernels.__mro__ for name in (*vars(part), *getattr(part, "__annotations__", ()))}
"""What a backend has."""
SHAPES = (
    (0, 2, 3, 5),
    (1, 1, 1, 1),
    (1, 3, 33, 17),
    (7, 2, 5, 6),
    (7, 1, 1, 130),
    (64, 4, 64, 31),
    (300, 2, 16, 128),
)
"""Batch, tiles, rows, cols; the last is large enough to be cut into chunks and shared between threads."""


def _cases() -> tuple[Case, ...]:
    table = []
    for shape in SHAPES:
        for noise, adc in ((False, False), (False, True), (True, False), (True, True)):
            table.append(Case(*shape, noise=noise, adc=adc))
            table.append(Case(*shape, integer_inputs=False, noise=noise, adc=adc))
            table.append(Case(*shape, integer_inputs=False, integer_weights=False, noise=noise, adc=adc))
    table.append(Case(7, 2, 40, 9, largest=127, noise=True, adc=True))
    table.append(Case(7, 2, 40, 9, integer_weights=False, noise=True, adc=True))
    for integers in (True, False):
        extras = {"integer_inputs": integers, "noise": True, "adc": True}
        table.append(Case(7, 2, 40, 9, table=True, **extras))
        table.append(Case(7, 2, 40, 9, squares=True, **extras))
        table.append(Case(300, 2, 16, 128, table=True, squares=True, **extras))
        table.append(Case(9, 3, 20, 33, sigma=True, **extras))
        table.append(Case(300, 2, 16, 128, sigma=True, cells=False, planes=3, **extras))
        table.append(Case(1, 3, 33, 17, planes=8, **extras))
        table.append(Case(300, 2, 16, 600, planes=4, largest=1, table=True, sigma=True, **extras))
    for shape in ((5, 2, 40, 9), (90, 2, 64, 550)):
        for largest in (1, 127, 16383):
            table.append(Case(*shape, largest=largest, planes=7, adc=True))
            table.append(Case(*shape, largest=largest, planes=2, noise=True, adc=True))
    return tuple(table)


CASES = _cases()


@dataclass(frozen=True)
class Problem:
    """Arrays of a case."""

    inputs: NDArray[Any]
    weights: NDArray[Any]
    variance: NDArray[Any] | None
    adc: AdcRange | AdcTable | None
    noise: NoiseStream | None
    shares: tuple[float, ...]
    out: NDArray[np.float64] | None

    def solve(self, backend: Kernels) -> NDArray[np.float64]:
        """The product by a backend, which must leave its inputs alone and change `out` itself.

        Raises:
            AssertionError: it does not.
        """
        inputs, out = self.inputs.copy(), None if self.out is None else self.out.copy()
        prepared = backend.prepare(self.weights, self.variance)
        y = backend.mvm(inputs, prepared, adc=self.adc, noise=self.noise, weights=self.shares, out=out)
        assert np.array_equal(inputs, self.inputs), "mvm: changes its inputs"
        result = backend.to_host(y)
        assert out is None or np.array_equal(out, result), "mvm: leaves `out` as it was"
        return result


def problem(case: Case, seed: int = 0) -> Problem:
    """Random arrays for a case, the largest digits among them; several planes are added to something."""
    random = np.random.default_rng(seed)
    shape = (case.tiles, case.rows, case.cols)
    w = random.integers(-case.largest, case.largest + 1, shape).astype(np.int16)
    v = random.integers(0, case.largest + 1, shape).astype(np.int16)
    most = max(127 >> (case.planes - 1), 1)
    x = random.integers(-most, most + 1, (case.planes, case.batch, case.tiles * case.rows)).astype(np.int8)
    w[:, 0, 0], v[:, 0, 0], x[0, :1, 0] = -case.largest, case.largest, most
    w[:, -1, -1], v[:, -1, -1], x[-1, -1:, -1] = case.largest, 0, -most
    spread = most * case.largest * float(np.sqrt(case.rows))
    noise = _noise(case, random, spread / 10, seed)
    x = x[0] if case.planes == 1 else x
    return Problem(
        x if case.integer_inputs else x / 64.7,
        w if case.integer_weights else w / 3.1,
        None if not (case.noise and case.cells) else v if case.integer_weights else v / 3.1,
        _converter(case, spread) if case.adc else None,
        noise if case.noise else None,
        tuple(2.0**k for k in range(case.planes)),
        random.normal(size=(case.batch, case.cols)) if case.planes > 1 else None,
    )


def _noise(case: Case, random: np.random.Generator, sigma: float, seed: int) -> NoiseStream:
    rows = random.integers(0, 2**32, case.batch, dtype=np.uint32)
    noise = NoiseStream(0.37, rows, (seed, 77), Purpose.READ, 2**32 - 3, sign=1, slice_=2, plane=3)
    if case.squares:
        squares = random.integers(0, 16384, (case.batch, case.tiles * case.rows)).astype(np.int16)
        noise = noise._replace(squares=squares if case.integer_inputs else squares / 7.3)
    if case.sigma:
        noise = noise._replace(sigma=sigma * random.uniform(0, 1, (case.tiles, case.cols)))
    return noise


def _converter(case: Case, spread: float) -> AdcRange | AdcTable:
    """8 bits on about +-spread / 2, the same everywhere or different for every tile and column."""
    lo, hi, step = one = AdcRange(-0.6 * spread, 0.5 * spread, 1.1 * spread / 255)
    if not case.table:
        return one
    vary = 1 + 0.1 * np.sin(np.arange(case.tiles * case.cols).reshape(case.tiles, case.cols))
    base = 0.3 * lo * vary  # inside the range: codes below 0, too
    return AdcTable(0.8 * lo * vary, 0.9 * hi * vary, base, step * vary, lo * vary**2, step / vary)


def check(backend: Kernels, case: Case) -> None:
    """Assert that `backend` does a case as the reference does.

    Raises:
        AssertionError: it does not; the message names the case and the difference.
    """
    task = problem(case)
    expected, got = task.solve(reference), task.solve(backend)
    assert got.shape == expected.shape, f"{case.name}: shape {got.shape}, not {expected.shape}"
    assert got.dtype == np.float64, f"{case.name}: {got.dtype}, not float64"
    wrong = np.abs(got - expected)
    if case.exact:
        assert not wrong.any(), (
            f"{case.name}: {np.count_nonzero(wrong)} of {wrong.size} differ, by up to {wrong.max()}"
        )
        return
    beyond = wrong > RELATIVE * np.abs(expected).max(initial=0)
    if task.adc is None:
        assert not beyond.any(), f"{case.name}: differs by up to {wrong.max()}"
        return
    assert beyond.sum() <= FLIPS * wrong.size, f"{case.name}: {beyond.sum()} of {wrong.size} codes differ"
    assert wrong.max(initial=0) <= 1.001 * np.max(task.adc[-1]) * max(task.shares), (
        f"{case.name}: differs by more than one code ({wrong.max()})"
    )


def check_normals(backend: Kernels) -> None:
    """Assert that `backend` draws the reference's numbers, bit for bit."""
    for count, cols in ((1, 1), (3, 6), (130, 515)):
        rows = np.arange(count, dtype=np.uint32) * np.uint32(2**31 + 3)
        key, stream = (2**32 - 1, 12), 2**32 - 5
        expected = reference.normals(rows, cols, key=key, stream=stream, event=9)
        got = backend.to_host(backend.normals(rows, cols, key=key, stream=stream, event=9))
        assert got.dtype == np.float32, f"normals: {got.dtype}, not float32"
        assert np.array_equal(got, expected), f"normals [{count}, {cols}]: other bits"


def check_codes(backend: Kernels) -> None:
    """Assert that `backend` encodes as the reference does, bit for bit."""
    random = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        x = (2 * random.normal(size=(300, 65))).astype(dtype)
        x[0, :4] = 0.0, 0.5, -0.5, 9.0
        scale = random.uniform(0.5, 2, len(x))
        scale[0] = 1.0
        for largest, signed in ((127, True), (7, True), (1, False), (127, False), (255, False)):
            expected, got = (
                k.to_host(k.encode(x, scale, largest=largest, signed=signed, width=70))
                for k in (reference, backend)
            )
            how = f"with K = {largest}, signed {signed}"
            assert got.dtype == expected.dtype, f"encode: {got.dtype}, not {expected.dtype}"
            assert np.array_equal(got, expected), f"encode {how}: other codes"
            _check_digits(backend, expected, how)


def _check_digits(backend: Kernels, codes: NDArray[Any], how: str) -> None:
    squares = backend.to_host(backend.sum_squares(codes))
    assert np.array_equal(squares, reference.sum_squares(codes)), f"sum_squares {how}: differs"
    for bits, count in ((1, 8), (2, 4), (3, 2), (8, 1)):
        digits, got = (k.to_host(k.planes(codes, bits=bits, count=count)) for k in (reference, backend))
        assert got.dtype == digits.dtype, f"planes {how}: {got.dtype}, not {digits.dtype}"
        assert np.array_equal(got, digits), f"planes {how}, {count} of {bits} bits: other digits"
        assert np.array_equal(backend.to_host(backend.sum_squares(got)), reference.sum_squares(digits)), (
            f"sum_squares of planes {how}: differs"
        )


def certify(backend: Kernels) -> None:
    """Assert that `backend` keeps the contract: every case of the table, the random numbers, and the writes.

    Raises:
        AssertionError: it does not; the message says where.
    """
    missing = [
        name for name in (*reference.__all__, "DEVICE") if name in MEMBERS and not hasattr(backend, name)
    ]
    assert not missing, (
        f"{backend!r} has no {', '.join(missing)}; a backend is a module with all members of Kernels"
    )
    assert backend.NUMERICS == reference.NUMERICS, "NUMERICS: not the reference's version"
    check_normals(backend)
    check_codes(backend)
    check_vectors(backend)
    check_writes(backend)
    for case in CASES:
        check(backend, case)
