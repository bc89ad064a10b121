"""The device under the CuPy backend: its stream, its memory and the compiled kernels of `crossbar.cu`.

CuPy and torch are imported when they are first needed. Everything runs on torch's current stream, so that no call waits for
another and memory may be handed between the two libraries without a copy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels import philox

OPTIONS = ("-std=c++17", "-fmad=false", "-prec-sqrt=true", "-prec-div=true")
"""Of the compiler. CuPy adds -ftz=true, which changes nothing here: no float32 in the kernels is ever subnormal."""
BLOCK = 128
"""Threads per block."""
NULL = np.uint64(0)
"""A pointer to nothing, where a kernel does not look."""


def usable() -> bool:
    """Whether CuPy and torch are here and both see a CUDA device."""
    try:
        import cupy.cuda  # not a folder that happens to be called cupy
        import torch
    except ImportError:
        return False
    return bool(cupy.cuda.is_available() and torch.cuda.is_available())


def on_stream() -> AbstractContextManager[Any]:
    """CuPy works on torch's current stream inside this context."""
    import cupy
    import torch

    stream: AbstractContextManager[Any] = cupy.cuda.Stream.from_external(torch.cuda.current_stream())
    return stream


def is_on_device(array: Any) -> bool:
    """Whether an array (CuPy's or torch's) lies in a device's memory."""
    return hasattr(array, "__cuda_array_interface__")


def as_array(array: Any) -> Any:
    """A CuPy view of what lies on a device, a tensor perhaps; anything else as it is."""
    import cupy

    return cupy.asarray(array) if is_on_device(array) else array


def upload(array: Any, dtype: Any = None) -> Any:
    """A contiguous array on the device: itself if it is one, a view of a CUDA tensor, or a copy of a NumPy array."""
    import cupy

    return cupy.ascontiguousarray(cupy.asarray(array), dtype=dtype)


def empty(shape: tuple[int, ...], dtype: Any) -> Any:
    """Memory on the device, not yet written."""
    import cupy

    return cupy.empty(shape, dtype)


def zeros(shape: tuple[int, ...], dtype: Any) -> Any:
    """Zeros on the device."""
    import cupy

    return cupy.zeros(shape, dtype)


def to_host(array: Any) -> NDArray[Any]:
    """A NumPy array with the values of an array; waits for the device."""
    import cupy

    if not is_on_device(array):
        return np.asarray(array)
    with on_stream():
        return np.asarray(cupy.asnumpy(cupy.asarray(array)))


def tensor(array: Any) -> Any:
    """A torch tensor that shares a device array's memory."""
    from torch.utils.dlpack import from_dlpack

    return from_dlpack(array)


def numbers(values: Sequence[float]) -> Any:
    """A few float64 numbers on the current device, uploaded once."""
    import cupy

    return _numbers(tuple(float(value) for value in values), int(cupy.cuda.runtime.getDevice()))


@lru_cache(maxsize=64)
def _numbers(values: tuple[float, ...], device: int) -> Any:
    return upload(np.array(values, np.float64))


def launch(name: str, threads: int, *args: Any) -> None:
    """Run a kernel of `crossbar.cu` with so many threads, on the current stream.

    Plain numbers become what kernels take: bool an int, int a long long, float a double.
    """
    if threads:
        _kernel(name)((-(-threads // BLOCK),), (BLOCK,), tuple(map(_typed, args)))


def _typed(value: Any) -> Any:
    if isinstance(value, bool):
        return np.int32(value)
    if isinstance(value, int):
        return np.int64(value)
    return np.float64(value) if isinstance(value, float) else value


@cache
def _kernel(name: str) -> Any:
    import cupy

    return cupy.RawKernel(source(), name, options=OPTIONS)


@cache
def source() -> str:
    """The CUDA C++ text of all kernels, behind the constants that they share with `philox.py`."""
    text = Path(__file__).with_name("crossbar.cu").read_text(encoding="utf-8")
    return "".join(f"#define {name} {value}\n" for name, value in constants().items()) + text


def constants() -> dict[str, str]:
    """Constants of the random numbers as C++ literals; float32 in hexadecimal, hence to the bit."""
    words = {
        "PHILOX_M0": philox.MULTIPLIERS[0],
        "PHILOX_M1": philox.MULTIPLIERS[1],
        "PHILOX_W0": philox.WEYL[0],
        "PHILOX_W1": philox.WEYL[1],
    }
    floats = {"LN_2": math.log(2.0), "ANGLE": math.pi / 2.0**31, "UNIT": 2.0**-24}
    for name, polynomial in (
        ("LOG", philox.LOG_POLYNOMIAL),
        ("SIN", philox.SIN_POLYNOMIAL),
        ("COS", philox.COS_POLYNOMIAL),
    ):
        floats |= {f"{name}_{n}": coefficient for n, coefficient in enumerate(polynomial)}
    found = {"PHILOX_ROUNDS": str(philox.ROUNDS)} | {name: f"{word}u" for name, word in words.items()}
    return found | {name: f"({float(np.float32(value)).hex()}f)" for name, value in floats.items()}
