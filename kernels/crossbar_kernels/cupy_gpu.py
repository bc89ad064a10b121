"""The backend for CUDA devices: int8 digit products on tensor cores, one fused kernel for noise, converter and sums.

Functions take NumPy or CuPy arrays, or CUDA tensors (host arrays are uploaded), and return CuPy arrays; `to_host` brings them back. The
values of arrays that lie on the device are not checked, since that would wait for it: codes of -128, or negative squares, are the
caller's to keep out. Nothing waits for the device but `prepare`, `to_host` and a host `out`. Programming is the CPU's work.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crossbar_kernels import NUMERICS
from crossbar_kernels import codes as specification
from crossbar_kernels.cupy_device import empty, launch, on_stream, to_host, upload, zeros
from crossbar_kernels.cupy_product import Prepared, mvm, prepare
from crossbar_kernels.cupy_vectors import (
    add_squares,
    asarray,
    decode,
    full_scales,
    is_wide,
    joint_squares,
    like,
    normalise,
    put,
    reals,
    subtract_sums,
    take,
)
from crossbar_kernels.outcomes_numba import settle
from crossbar_kernels.pulses_numba import apply_pulses, write_verify

__all__ = [
    "DEVICE",
    "NUMERICS",
    "Prepared",
    "add_squares",
    "apply_pulses",
    "asarray",
    "decode",
    "encode",
    "full_scales",
    "joint_squares",
    "like",
    "mvm",
    "normalise",
    "normals",
    "planes",
    "prepare",
    "put",
    "reals",
    "settle",
    "subtract_sums",
    "sum_squares",
    "take",
    "to_host",
    "write_verify",
]

DEVICE = "cuda"


def normals(rows: Any, cols: int, *, key: tuple[int, int], stream: int, event: int) -> Any:
    """Standard normals [len(rows), cols]; number j % 4 of counter (j // 4, row, stream, event) stands in column j."""
    words = [np.uint32(n) for n in (stream, event, *key)]
    with on_stream():
        z = empty((len(rows), cols), np.float32)
        launch("fill_normals", len(rows) * -(-cols // 4), z, upload(rows, np.uint32), len(rows), cols, *words)
    return z


def encode(x: Any, full_scale: Any, *, largest: int, signed: bool, width: int) -> Any:
    """Codes [batch, width] of numbers [batch, n], as `codes.encode` does, bit for bit."""
    with on_stream():
        x, full_scale = upload(x), upload(full_scale, np.float64)
        specification.check(x, full_scale, width)
        x = x if x.dtype == np.float32 else upload(x, np.float64)
        out = empty((len(x), width), specification.code_type(largest))
        batch, n = x.shape
        launch(
            "encode",
            out.size,
            *(
                x,
                x.dtype == np.float64,
                full_scale,
                out,
                is_wide(out),
                batch,
                n,
                width,
                float(largest),
                signed,
            ),
        )
    return out


def planes(codes: Any, *, bits: int, count: int) -> Any:
    """Digits [count, batch, width] of codes [batch, width], each with the code's sign, least significant first."""
    with on_stream():
        codes = upload(codes)
        out = empty((count, *codes.shape), specification.code_type(2**bits - 1))
        shape = codes.size, np.int32(bits), np.int32(count)
        launch("split_planes", codes.size, codes, is_wide(codes), out, is_wide(out), *shape)
    return out


def sum_squares(codes: Any) -> Any:
    """Sum of squared codes [..., width] over everything but the last axis: int64 [width]."""
    with on_stream():
        out = zeros((codes.shape[-1],), np.int64)
    add_squares(codes, out)
    return out
