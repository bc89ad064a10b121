"""The part of the contract that is about writing: pulses with and without verify, and drawn outcomes. All bits are prescribed."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels import Kernels, reference
from crossbar_kernels.outcomes import ArrayDraws, Outcomes
from crossbar_kernels.pulses import Bounds, Draws, OpenTrain, PulseTrain

Array = NDArray[np.float64]
SHAPES = ((1, 1), (5, 9), (130, 6))
"""Rows and columns; the last is cut into chunks, the first takes the longest train."""
PLAIN = PulseTrain(
    up_drive=np.minimum(1.0 + 0.2 * np.arange(8), 2.0),
    down_drive=np.minimum(1.1 + 0.1 * np.arange(8), 1.8),
    up_growth=0.05 * np.exp(0.4 * np.arange(8)),
    down_growth=0.07 * np.exp(0.2 * np.arange(8)),
    bottom=0.0,
    top=1.2,
    spread=0.3,
    width=0.7,
    verify=0.01,
    max_pulses=70,
)
TRAINS = {
    "plain": PLAIN,
    "compliance": PLAIN._replace(compliance=0.9),
    "limits": PLAIN._replace(max_reversals=1, max_end_pulses=3, max_pulses=40),
    "harmonic": PLAIN._replace(harmonic=True, compliance=0.9),
}
OPEN = OpenTrain(
    up_drive=2.0, down_drive=1.5, up_width=0.5, down_width=0.25, up_rate=0.03, down_rate=0.05,
    bottom=-0.1, top=1.3, spread=0.3, noise=0.002,
)  # fmt: skip
OPEN_TRAINS = {"arithmetic": OPEN, "harmonic": OPEN._replace(harmonic=True)}


class Elements(NamedTuple):
    """Arrays of one problem [rows, cols]; some elements are stuck, some have a range that their target is outside of."""

    start: Array
    target: Array
    tolerance: Array
    strength: Array
    bounds: Bounds
    pulses: NDArray[np.int16]


def elements(rows: int, cols: int, seed: int = 0) -> Elements:
    """Random elements."""
    random = np.random.default_rng(seed)
    shape = (rows, cols)
    start, target = random.uniform(0.0, 1.0, (2, *shape))
    strength = np.exp(0.2 * random.standard_normal(shape)) * (random.random(shape) < 0.9)
    bounds = random.uniform(0.0, 0.2, shape), random.uniform(0.8, 1.1, shape)
    pulses = (
        random.integers(-40, 41, shape).astype(np.int16)
        if rows * cols > 1
        else np.full(shape, 1024, np.int16)
    )
    return Elements(start, target, 0.01 + 0.02 * target, strength, bounds, pulses)


def table(seed: int = 0) -> Outcomes:
    """A table with failures, and with a residual that is small, large and too large for the window."""
    random = np.random.default_rng(seed)
    shape = (21, 6)
    failure = random.uniform(0.0, 0.3, shape) * (random.random(shape) < 0.5)
    failure[0, 0] = 1.0
    counts = random.integers(0, 20, (2, *shape, 8)).astype(np.uint8)
    return Outcomes(
        first=0.1,
        spacing=0.16,
        fine=4,
        pulses=random.uniform(0.0, 30.0, shape).astype(np.float32),
        failure=failure,
        miss=random.uniform(1.0, 3.0, shape),
        up=counts[0],
        down=counts[1],
        most_up=31,
        most_down=27,
        window=(0.01, 0.02),
        residual=np.array([0.002, 0.02, 0.01]),
    )


def check_writes(backend: Kernels) -> None:
    """Assert that `backend` writes as the reference does, bit for bit.

    Raises:
        AssertionError: it does not; the message says what differs.
    """
    for rows, cols in SHAPES:
        e = elements(rows, cols)
        draws = Draws((3, 2**32 - 9), 2**28, 2**18, 7)
        for name, train in TRAINS.items():
            for bounds in (None, e.bounds):
                given: tuple[Any, ...] = (e.start, e.target, e.tolerance, e.strength, bounds)
                _same(f"write_verify, {name}", "write_verify", backend, given, train=train, draws=draws)
        given = (e.start, e.pulses, e.strength, e.bounds)
        for name, open_train in OPEN_TRAINS.items():
            _same(f"apply_pulses, {name}", "apply_pulses", backend, given, train=open_train, draws=draws)
        _check_settle(backend, e, rows, cols)


def _check_settle(backend: Kernels, e: Elements, rows: int, cols: int) -> None:
    many = [np.stack([a, a[::-1]]) for a in (e.start, e.target, e.bounds[0], e.bounds[1])]
    stuck = np.stack([e.strength, e.strength]) == 0
    draws = ArrayDraws((3, 4), np.array([5, 2**31], np.uint32), 6)
    for limits in ((None, None), (stuck, None), (stuck, (many[2], many[3]))):
        given = (many[0], many[1], *limits)
        _same(f"settle [2, {rows}, {cols}]", "settle", backend, given, table=table(), draws=draws)


def _same(what: str, function: str, backend: Kernels, given: tuple[Any, ...], **options: Any) -> None:
    expected, got = (getattr(kernels, function)(*given, **options) for kernels in (reference, backend))
    for field, right, found in zip(expected._fields, expected, got, strict=True):
        assert found.dtype == right.dtype, f"{what}: {field}: {found.dtype}, not {right.dtype}"
        assert np.array_equal(found, right), (
            f"{what}: {field}: {np.count_nonzero(found != right)} of {right.size} differ"
        )
