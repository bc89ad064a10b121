"""Numba twins of `crossbar_kernels.philox`: the same operations in the same order, hence the same bits.

fastmath stays off: reassociation or contraction would change the last bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from crossbar_kernels.philox import COS_POLYNOMIAL, LOG_POLYNOMIAL, MULTIPLIERS, ROUNDS, SIN_POLYNOMIAL, WEYL

F = TypeVar("F", bound=Callable[..., Any])
f = np.float32
u = np.uint32
i = np.int32


def inlined(function: F) -> F:
    """Compile `function` into its callers, so that their loops vectorise."""
    return cast(F, numba.njit(inline="always", error_model="numpy")(function))


def compiled(function: F) -> F:
    """Compile `function` for one thread; the machine code is cached."""
    return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


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
        y = f(y * z + f(LOG_POLYNOMIAL[n]))
    z2 = f(z * z)
    return f(f(exponent) * f(0.6931471805599453) + (z + (y * z - f(0.5)) * z2))


@inlined
def cos_sin(w: Any) -> Any:
    """Cosine and sine of 2 pi w / 2^32 in float32."""
    quadrant = u(u(w + u(0x20000000)) >> u(30))
    rest = i(u(w - u(quadrant << u(30))))
    t = f(f(rest) * f(1.4629180792671596e-09))
    t2 = f(t * t)
    p = f(SIN_POLYNOMIAL[0])
    q = f(COS_POLYNOMIAL[0])
    sine = t * (f(1.0) + t2 * (f(SIN_POLYNOMIAL[2]) + t2 * (f(SIN_POLYNOMIAL[1]) + t2 * p)))
    cosine = f(1.0) + t2 * (f(-0.5) + t2 * (f(COS_POLYNOMIAL[2]) + t2 * (f(COS_POLYNOMIAL[1]) + t2 * q)))
    swap = (quadrant & u(1)) != 0
    a = sine if swap else cosine
    b = cosine if swap else sine
    a = -a if (u(quadrant + u(1)) & u(2)) != 0 else a
    b = -b if (quadrant & u(2)) != 0 else b
    return a, b


@inlined
def box_muller(radius: Any, angle: Any) -> Any:
    """Two normals from two words (Box and Muller 1958)."""
    x = f((f(u(radius >> u(8))) + f(0.5)) * f(2.0**-24))
    r = f(math.sqrt(f(f(-2.0) * log(x))))
    c, s = cos_sin(angle)
    return r * c, r * s


@compiled
def fill_normals(z: NDArray[np.float32], row: Any, stream: Any, event: Any, k0: Any, k1: Any) -> None:
    """Fill z [4 * groups] with the normals of counters (group, row, stream, event)."""
    for group in range(z.size // 4):
        w0, w1, w2, w3 = philox4x32(u(group), row, stream, event, k0, k1)
        z0, z1 = box_muller(w0, w1)
        z2, z3 = box_muller(w2, w3)
        z[4 * group] = z0
        z[4 * group + 1] = z1
        z[4 * group + 2] = z2
        z[4 * group + 3] = z3
