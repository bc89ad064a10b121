"""Numba twins of `crossbar_kernels.philox`: the same operations in the same order, hence the same bits.

fastmath stays off: reassociation or contraction would change the last bits. What is fused is prescribed (`philox.fused`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.extending import intrinsic

from crossbar_kernels.philox import COS_POLYNOMIAL, LOG_POLYNOMIAL, MULTIPLIERS, ROUNDS, SIN_POLYNOMIAL, WEYL

F = TypeVar("F", bound=Callable[..., Any])
f = np.float32
u = np.uint32
i = np.int32


emitted: Callable[[Callable[..., Any]], Callable[..., Any]] = intrinsic
"""Emits its own instructions; what it decorates is called without the context, whatever its signature says."""


def inlined(function: F) -> F:
    """Compile `function` into its callers, so that their loops vectorise."""
    return cast(F, numba.njit(inline="always", error_model="numpy")(function))


def compiled(function: F) -> F:
    """Compile `function` for one thread; the machine code is cached for the sources as they are."""
    compiler = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    _stamp(compiler)
    return cast(F, compiler)


def _stamp(compiler: Any) -> None:
    """Let cached machine code hold for all sources that went into it.

    Numba asks for the age of the function's own file alone, and would keep code whose callees or constants have changed.
    """
    file = getattr(getattr(compiler, "_cache", None), "_cache_file", None)
    if file is not None:
        file._source_stamp = _digest()


@cache
def _digest() -> str:
    """Of all compiled sources and of those whose constants they take."""
    here = Path(__file__).parent
    sources = [*here.glob("*_numba.py"), *(here / name for name in ("philox.py", "pulses.py", "outcomes.py"))]
    return sha256(b"".join(path.read_bytes() for path in sorted(sources))).hexdigest()


@emitted
def fused(context: Any, a: Any, b: Any, c: Any) -> Any:
    """A b + c of float32 numbers, rounded once; as `philox.fused`."""
    one = numba.types.float32

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return one(one, one, one), generate


@inlined
def philox4x32(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    """Ten rounds of Philox4x32 on one uint32 counter.

    The words stay in 64-bit lanes: vector units multiply 32 x 32 -> 64 bits there without shuffles.
    """
    low = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    x0, x1, x2, x3 = np.uint64(c0), np.uint64(c1), np.uint64(c2), np.uint64(c3)
    a, b = np.uint64(k0), np.uint64(k1)
    for _ in range(ROUNDS):
        p0 = (x0 & low) * np.uint64(MULTIPLIERS[0])
        p1 = (x2 & low) * np.uint64(MULTIPLIERS[1])
        x0, x1, x2, x3 = (p1 >> shift) ^ x1 ^ a, p1 & low, (p0 >> shift) ^ x3 ^ b, p0 & low
        a, b = (a + np.uint64(WEYL[0])) & low, (b + np.uint64(WEYL[1])) & low
    return u(x0), u(x1), u(x2), u(x3)


@inlined
def log(x: Any) -> Any:
    """ln(x) for a normal positive float32."""
    bits = i(f(x).view(i) - i(0x3F3504F3))
    exponent = i(bits >> i(23))
    z = f(i((bits & i(0x007FFFFF)) + i(0x3F3504F3)).view(f) - f(1.0))
    y = f(LOG_POLYNOMIAL[0])
    for n in range(1, 9):
        y = fused(y, z, f(LOG_POLYNOMIAL[n]))
    return fused(f(exponent), f(0.6931471805599453), fused(fused(y, z, f(-0.5)), f(z * z), z))


@inlined
def cos_sin(w: Any) -> Any:
    """Cosine and sine of 2 pi w / 2^32 in float32."""
    quadrant = u(u(w + u(0x20000000)) >> u(30))
    rest = i(u(w - u(quadrant << u(30))))
    t = f(f(rest) * f(1.4629180792671596e-09))
    t2 = f(t * t)
    p = fused(fused(f(SIN_POLYNOMIAL[0]), t2, f(SIN_POLYNOMIAL[1])), t2, f(SIN_POLYNOMIAL[2]))
    q = fused(fused(f(COS_POLYNOMIAL[0]), t2, f(COS_POLYNOMIAL[1])), t2, f(COS_POLYNOMIAL[2]))
    sine, cosine = fused(f(t * t2), p, t), fused(fused(q, t2, f(-0.5)), t2, f(1.0))
    swap = (quadrant & u(1)) != 0
    a = sine if swap else cosine
    b = cosine if swap else sine
    sign_a = u(u(u(quadrant + u(1)) & u(2)) << u(30))
    sign_b = u(u(quadrant & u(2)) << u(30))
    return u(f(a).view(u) ^ sign_a).view(f), u(f(b).view(u) ^ sign_b).view(f)


@inlined
def box_muller(radius: Any, angle: Any) -> Any:
    """Two normals from two words (Box and Muller 1958)."""
    x = f((f(u(radius >> u(8))) + f(0.5)) * f(2.0**-24))
    r = f(math.sqrt(f(f(-2.0) * log(x))))
    c, s = cos_sin(angle)
    return r * c, r * s


@compiled
def fill_normals(
    z: Any, words: Any, groups: int, first: int, row: Any, stream: Any, event: Any, k0: Any, k1: Any
) -> None:
    """Fill z [at least 4 * groups] with the normals of counters (first + group, row, stream, event).

    `words` [4, at least groups] is room for the random words: two loops keep to the vector registers, one would not.
    """
    for group in range(groups):
        w0, w1, w2, w3 = philox4x32(u(first + group), row, stream, event, k0, k1)
        words[0, group], words[1, group], words[2, group], words[3, group] = w0, w1, w2, w3
    for group in range(groups):
        z0, z1 = box_muller(words[0, group], words[1, group])
        z2, z3 = box_muller(words[2, group], words[3, group])
        z[4 * group] = z0
        z[4 * group + 1] = z1
        z[4 * group + 2] = z2
        z[4 * group + 3] = z3
