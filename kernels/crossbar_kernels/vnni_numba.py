"""Sums of int8 products in the vector registers of processors with AVX-512 VNNI, on weights that were packed for them once.

One instruction (vpdpbusd) adds four products of an unsigned and a signed byte to each of 16 32-bit sums. Weights are
stored as w + 128, and sum_i x_i w_i = sum_i x_i (w_i + 128) - 128 sum_i x_i: the sums start from the last term and are exact.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import config, types
from numpy.typing import NDArray

from crossbar_kernels.philox_numba import emitted

LANES = 16
"""Sums per vector register."""
VECTORS = 4
"""Registers side by side."""
WIDTH = LANES * VECTORS
"""Columns of a block of packed weights."""
DEPTH = 4
"""Products that one instruction adds to a sum."""
HEIGHT = 6
"""Input rows that share the loads of a block: 6 x 4 sums, 4 weights and an input fill 29 of 32 registers."""

_pointer: Any = types.CPointer
_WORD, _INDEX = ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_WORD, LANES)


@cache
def has_vnni() -> bool:
    """Whether the processor that Numba compiles for has the instructions: this one, unless a setting names another."""
    name, features = (getattr(config, setting, None) for setting in ("CPU_NAME", "CPU_FEATURES"))
    if name or features:
        return "+avx512vnni" in (features or "")
    try:
        host = binding.get_host_cpu_features()
    except RuntimeError:
        return False
    return bool(host.get("avx512f") and host.get("avx512vnni"))


def pack(digits: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Digits [tiles, digit, rows, cols] as w + 128 in the order they are read, [tiles, digit, blocks, rows / 4 * cols of a block * 4].

    Rows are filled up to a multiple of four with bytes that add nothing, columns to whole blocks.
    """
    tiles, kinds, rows, cols = digits.shape
    height, blocks = -(-rows // DEPTH), -(-cols // WIDTH)
    padded = np.zeros((tiles, kinds, height * DEPTH, blocks * WIDTH), np.uint8)
    padded[:, :, :rows, :cols] = (digits.astype(np.int16) + 128).astype(np.uint8)
    split = padded.reshape(tiles, kinds, height, DEPTH, blocks, WIDTH)
    return np.ascontiguousarray(np.moveaxis(split, 4, 2).swapaxes(4, 5)).reshape(tiles, kinds, blocks, -1)


@emitted
def at(context: Any, array: Any, index: Any) -> Any:
    """Pointer to an element of a contiguous array, counted through all its axes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        held = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.gep(held.data, [arguments[1]])

    return _pointer(array.dtype)(array, types.int64), generate


_SIGNATURE = types.void(
    _pointer(types.int8),
    types.int64,
    _pointer(types.uint8),
    types.int64,
    _pointer(types.int32),
    types.int64,
    _pointer(types.int32),
)


def _sums(builder: Any, arguments: Any, height: int) -> None:
    """Emit: out[r, :] = first[r] + sum_k inputs[r, k] weights[k, :] for `height` rows and one block of columns."""
    inputs, stride, weights, depth, out, pitch, first = arguments
    rows = [builder.gep(inputs, [builder.mul(stride, _INDEX(r))]) for r in range(height)]
    starts = [_spread(builder, builder.load(builder.gep(first, [_INDEX(r)]))) for r in range(height)]
    before = builder.block
    loop, after = builder.append_basic_block("sum"), builder.append_basic_block("done")
    builder.branch(loop)
    builder.position_at_end(loop)
    k = builder.phi(_INDEX)
    k.add_incoming(_INDEX(0), before)
    held = [[builder.phi(_VECTOR) for _ in range(VECTORS)] for _ in range(height)]
    block = builder.gep(weights, [builder.mul(k, _INDEX(WIDTH * DEPTH))])
    loaded = [_load(builder, builder.gep(block, [_INDEX(LANES * DEPTH * n)])) for n in range(VECTORS)]
    add = builder.module.declare_intrinsic(
        "llvm.x86.avx512.vpdpbusd.512", fnty=ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    )
    for row, begin, sums in zip(rows, starts, held, strict=True):
        word = builder.bitcast(builder.gep(row, [builder.mul(k, _INDEX(DEPTH))]), _WORD.as_pointer())
        codes = _spread(builder, builder.load(word, align=1))
        for n, total in enumerate(sums):
            total.add_incoming(begin, before)
            total.add_incoming(builder.call(add, [total, loaded[n], codes]), loop)
    following = builder.add(k, _INDEX(1))
    k.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, depth), loop, after)
    builder.position_at_end(after)
    for r, sums in enumerate(held):
        line = builder.gep(out, [builder.mul(pitch, _INDEX(r))])
        for n, total in enumerate(sums):
            place = builder.bitcast(builder.gep(line, [_INDEX(LANES * n)]), _VECTOR.as_pointer())
            builder.store(total.incomings[1][0], place, align=1)


def _spread(builder: Any, word: Any) -> Any:
    """A word in all lanes."""
    one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), word, _WORD(0))
    return builder.shuffle_vector(one, ir.Constant(_VECTOR, ir.Undefined), ir.Constant(_VECTOR, [0] * LANES))


def _load(builder: Any, place: Any) -> Any:
    return builder.load(builder.bitcast(place, _VECTOR.as_pointer()), align=1)


@emitted
def six_rows(
    context: Any, inputs: Any, stride: Any, weights: Any, depth: Any, out: Any, pitch: Any, first: Any
) -> Any:
    """Sums of HEIGHT rows of inputs with one block of packed weights.

    Args:
        context: Numba's.
        inputs: int8 codes; the next row begins `stride` bytes later.
        stride: as said.
        weights: a block of `pack`.
        depth: rows of weights / 4, at least 1.
        out: int32 sums; the next row begins `pitch` numbers later.
        pitch: as said.
        first: -128 times the sum of each row's codes.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _sums(builder, arguments, HEIGHT)
        return context.get_dummy_value()

    return _SIGNATURE, generate


@emitted
def one_row(
    context: Any, inputs: Any, stride: Any, weights: Any, depth: Any, out: Any, pitch: Any, first: Any
) -> Any:
    """The same for a single row."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _sums(builder, arguments, 1)
        return context.get_dummy_value()

    return _SIGNATURE, generate
