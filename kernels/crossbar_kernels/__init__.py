"""Arithmetic on arrays for crossbar simulation: matrix products with noise and conversion, random numbers, pulses.

A backend is a module with the functions of `Kernels`. `reference` (NumPy, float64) is the specification; every other
backend must agree with it (`crossbar_kernels.contract`). Importing this package imports NumPy alone.
"""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels.outcomes import ArrayDraws, Outcomes, Settled
from crossbar_kernels.philox import Purpose, stream
from crossbar_kernels.pulses import Bounds, Draws, OpenResult, OpenTrain, PulseResult, PulseTrain

__all__ = [
    "NUMERICS",
    "AdcRange",
    "AdcTable",
    "Kernels",
    "NoiseStream",
    "Prepared",
    "available",
    "get_kernels",
]

NUMERICS = 1
"""Version of the numerical results; every change that alters a bit of a result raises it."""

_MODULES = {"reference": "crossbar_kernels.reference", "numba": "crossbar_kernels.numba_cpu"}


class AdcRange(NamedTuple):
    """A converter: codes rint((clip(a, lo, hi) - lo) / step), values lo + code * step."""

    lo: float
    hi: float
    step: float


class AdcTable(NamedTuple):
    """A converter of its own for every tile and column; six arrays [tiles, cols].

    Codes rint((clip(a, lo, hi) - base) / step) >= 0, values value + code * unit: where a converter has offset and gain errors, what a
    code stands for (value, unit) differs from what gave it (base, step).
    """

    lo: NDArray[np.float64]
    hi: NDArray[np.float64]
    base: NDArray[np.float64]
    step: NDArray[np.float64]
    value: NDArray[np.float64]
    unit: NDArray[np.float64]


class NoiseStream(NamedTuple):
    """Read noise of a product: a += scale * sqrt(variance) * z.

    The z of input row b and column j in tile t is number j % 4 of the Philox counter
    (j // 4, rows[b], word(t), event) under `key`; `rows` [batch] are absolute, so a batch may be split.
    The variance of b, j is sum_i squares_bi v_ij; `squares` [batch, tiles * rows] (int16, 0 to 16383, or float64; None: the
    squared inputs) differ from the squared inputs where several reads were added.
    """

    scale: float
    rows: NDArray[np.uint32]
    key: tuple[int, int]
    purpose: Purpose
    event: int
    squares: NDArray[Any] | None = None
    sign: int = 0
    slice_: int = 0
    plane: int = 0

    def word(self, tile: int) -> int:
        """The third counter word of a tile."""
        return stream(self.purpose, sign=self.sign, slice_=self.slice_, plane=self.plane, tile=tile)


class Prepared(Protocol):
    """Weights (and variances) in the form that a backend multiplies with; opaque but for its shape."""

    @property
    def tiles(self) -> int:
        """Row tiles, each with its own conversion."""

    @property
    def rows(self) -> int:
        """Rows per tile."""

    @property
    def cols(self) -> int:
        """Columns."""


class Multiplier(Protocol):
    """Whatever makes a product with one prepared matrix."""

    def mvm(
        self,
        inputs: NDArray[Any],
        prepared: Any,
        *,
        adc: AdcRange | AdcTable | None,
        noise: NoiseStream | None,
    ) -> NDArray[np.float64]:
        """Product of inputs [batch, tiles * rows] (int8 codes or float64) with `prepared`: [batch, cols]."""


class Kernels(Multiplier, Protocol):
    """What every backend does; kernels/README.md is the contract in words."""

    NUMERICS: int

    def normals(
        self, rows: NDArray[np.uint32], cols: int, *, key: tuple[int, int], stream: int, event: int
    ) -> NDArray[np.float32]:
        """Standard normals [len(rows), cols] at absolute row numbers `rows`."""

    def prepare(self, weights: NDArray[Any], variance: NDArray[Any] | None = None) -> Any:
        """Pack weights [tiles, rows, cols], int16 with |w| <= 16383 or float64, and their variances >= 0."""

    def encode(
        self, x: NDArray[Any], full_scale: NDArray[np.float64], *, largest: int, signed: bool, width: int
    ) -> NDArray[Any]:
        """Integer codes [batch, width] of numbers [batch, n], full scale per row."""

    def sum_squares(self, codes: NDArray[Any]) -> NDArray[np.int64]:
        """Sum over the batch of squared codes [batch, width]."""

    def write_verify(
        self,
        start: NDArray[np.float64],
        target: NDArray[np.float64],
        tolerance: NDArray[np.float64],
        strength: NDArray[np.float64],
        bounds: Bounds | None = None,
        *,
        train: PulseTrain,
        draws: Draws,
    ) -> PulseResult:
        """Pulse every element [rows, cols] towards its target, with a check after each pulse."""

    def apply_pulses(
        self,
        start: NDArray[np.float64],
        pulses: NDArray[np.int16],
        strength: NDArray[np.float64],
        bounds: Bounds,
        *,
        train: OpenTrain,
        draws: Draws,
    ) -> OpenResult:
        """Give every element [rows, cols] its counted pulses, without looking."""

    def settle(
        self,
        start: NDArray[np.float64],
        target: NDArray[np.float64],
        stuck: NDArray[np.bool_] | None = None,
        bounds: Bounds | None = None,
        *,
        table: Outcomes,
        draws: ArrayDraws,
    ) -> Settled:
        """Bring elements [arrays, rows, cols] that are outside their window near their targets, by drawn outcomes."""


def available() -> tuple[str, ...]:
    """Names of the backends that this installation can run."""
    return ("reference", "numba") if find_spec("numba") else ("reference",)


@cache
def get_kernels(name: str = "auto") -> Kernels:
    """The backend called `name`: reference, numba, or auto (numba where it is installed, else reference).

    Raises:
        ValueError: there is no such backend, or this installation cannot run it.
    """
    usable = available()
    chosen = usable[-1] if name == "auto" else name
    if chosen in usable:
        return cast(Kernels, import_module(_MODULES[chosen]))
    if chosen in _MODULES:
        raise ValueError(f"backend: {name!r} needs a package that is not installed; use one of {usable}")
    near = get_close_matches(name, [*_MODULES, "auto"], n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"use one of {(*usable, 'auto')}"
    raise ValueError(f"backend: no backend is called {name!r}; {hint}")
