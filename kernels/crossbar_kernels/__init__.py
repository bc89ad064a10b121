"""Arithmetic on arrays for crossbar simulation: matrix products with noise and conversion, random numbers, pulses.

A backend is a module with the functions of `Kernels`. `reference` (NumPy, float64) is the specification; every other
backend must agree with it (`crossbar_kernels.contract`). Importing this package imports NumPy alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
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
    "host_name",
]

NUMERICS = 2
"""Version of the numerical results; every change that alters a bit of a result raises it."""

_MODULES = {
    "reference": "crossbar_kernels.reference",
    "numba": "crossbar_kernels.numba_cpu",
    "cupy": "crossbar_kernels.cupy_gpu",
}


_NEEDS = {
    "numba": "the package numba, and NUMBA_DISABLE_JIT not to be set",
    "cupy": "a CUDA device that torch sees, and CuPy (pip install 'lorafusion-reram[cuda12]' or [cuda13])",
}


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
    """Noise of every conversion of a product: a += s z.

    The z of input row b and column j in tile t and plane k is number j % 4 of the Philox counter
    (j // 4, rows[b], word(t, k), event) under `key`; `rows` [batch] are absolute, so a batch may be split.
    The cells' noise is s = scale sqrt(q), q = sum_i squares_bi v_ij; `squares` [batch, tiles * rows] (int16, 0 to 16383, or float64; None:
    the squared inputs) differ from the squared inputs where several reads were added. A converter's own noise is s = sigma, one number
    for every tile and column [tiles, cols]. Where there are both, s = sqrt((scale sqrt(q))^2 + sigma^2).
    `plane` is that of the first plane.
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
    sigma: NDArray[np.float64] | None = None

    def word(self, tile: int, plane: int = 0) -> int:
        """The third counter word of a tile and of a plane after the first."""
        at = self.plane + plane
        return stream(self.purpose, sign=self.sign, slice_=self.slice_, plane=at, tile=tile)


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
        weights: Sequence[float] = (1.0,),
        out: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """Converted products of planes of inputs with `prepared`, each times its weight, summed: [batch, cols].

        Inputs are int8 codes or float64, [planes, batch, tiles * rows], or without the first axis for one plane. The result is added to `out`
        where it is given.
        """


class Vectors(Protocol):
    """What is done to vectors before and after products, where the backend computes (`vectors` has the formulas).

    Full scales are one number or [batch, 1]; a device's arrays are its own, and no function but `like` waits for it.
    """

    def asarray(self, values: Any) -> Any:
        """An array where the backend computes: the same memory if it lies there."""

    def like(self, result: Any, given: Any) -> Any:
        """A result where `given` lies: on a device, or on the host."""

    def take(self, x: Any, index: Any) -> Any:
        """The rows of x [rows, n] at `index`."""

    def put(self, y: Any, index: Any, count: int) -> Any:
        """The rows y at `index` of [count, n] that is zero elsewhere."""

    def full_scales(
        self, x: Any, *, fixed: float | None = None, size: Any = 1.0, binary: bool = False
    ) -> Any:
        """What the largest code of vectors x [batch, n] stands for: fixed times the power of two above `size`, or max|x|."""

    def normalise(self, x: Any, full_scale: Any, *, width: int) -> Any:
        """Vectors [batch, n] over their full scale, padded with zeros: float64 [batch, width]."""

    def reals(self, codes: Any) -> Any:
        """Codes as products take them: int16 becomes float64."""

    def joint_squares(self, digits: Any, *, bits: int, largest: int) -> Any:
        """sum_k 4^(bits k) digit_k^2 of planes [planes, batch, width], as `NoiseStream.squares`."""

    def add_squares(self, codes: Any, sums: Any) -> None:
        """Add the squared codes [..., width], summed over everything but the last axis, to `sums` [width]."""

    def subtract_sums(self, total: Any, inputs: Any, weights: Sequence[float], factor: float) -> None:
        """total_b -= factor sum_k w_k sum_i inputs_kbi, in place."""

    def decode(
        self, sums: Any, full_scale: Any, columns: Any, *, unit: float, dtype: Any, base: Any = None
    ) -> Any:
        """Results sums_bj ((full_scale_b unit) columns_j) as `dtype`; `base` names a column to subtract first."""


class Kernels(Multiplier, Vectors, Protocol):
    """What every backend does; kernels/README.md is the contract in words."""

    NUMERICS: int
    DEVICE: str
    """Where results lie, as torch calls it: "cpu" or "cuda"."""

    def to_host(self, array: Any) -> NDArray[Any]:
        """A result as a NumPy array: itself, or a copy from the device that it lies on."""

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

    def planes(self, codes: NDArray[Any], *, bits: int, count: int) -> NDArray[Any]:
        """Digits [count, batch, width] of codes [batch, width], each with the code's sign, least significant first."""

    def sum_squares(self, codes: NDArray[Any]) -> NDArray[np.int64]:
        """Sum of squared codes [..., width] over everything but the last axis."""

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
    """Names of the backends that this installation can run; numba is not one where NUMBA_DISABLE_JIT keeps it from compiling."""
    if not find_spec("numba") or os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        return ("reference",)
    return (
        ("reference", "numba", "cupy") if find_spec("cupy") and _device_usable() else ("reference", "numba")
    )


def host_name(name: str) -> str:
    """The backend that does on the host what `name` leaves to it: itself, or `auto` for a device's."""
    return "auto" if name == "cupy" else name


@cache
def _device_usable() -> bool:
    """Whether CuPy and torch see a CUDA device; imports both, once."""
    from crossbar_kernels.cupy_device import usable

    return usable()


@cache
def get_kernels(name: str = "auto") -> Kernels:
    """The backend called `name`: reference, numba, cupy, or auto (numba where it is installed, else reference).

    Raises:
        ValueError: there is no such backend, or this installation cannot run it.
    """
    if not isinstance(name, str):
        raise ValueError(f"backend: must be a name (got {name!r}); use one of {(*_MODULES, 'auto')}")
    usable = available()
    chosen = usable[:2][-1] if name == "auto" else name  # a device is chosen by name alone
    if chosen in usable:
        return cast(Kernels, import_module(_MODULES[chosen]))
    if chosen in _MODULES:
        raise ValueError(f"backend: {name!r} needs {_NEEDS[name]}; use one of {(*usable, 'auto')}")
    near = get_close_matches(name.lower(), [*_MODULES, "auto"], n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"use one of {(*usable, 'auto')}"
    raise ValueError(f"backend: no backend is called {name!r}; {hint}")
