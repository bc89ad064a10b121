"""Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011) and Box-Muller normals.

Every draw is a function of a key and of a counter made of logical indices, (column // 4, row, stream word, event), so that it
does not depend on threads, chunks, backends or order. The float32 operations below are written one by one: the Numba
twin repeats them in the same order and gives the same bits.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Words = tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32]]
Normals = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
LOG_POLYNOMIAL = (
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)
"""Cephes logf: ln(1 + z) = z - z^2/2 + z^3 P(z), sqrt(1/2) <= 1 + z < sqrt 2."""
SIN_POLYNOMIAL = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
COS_POLYNOMIAL = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
"""Cephes sinf and cosf on [-pi/4, pi/4]."""


class Purpose(IntEnum):
    """What a stream of numbers is for."""

    D2D = 0
    FAULT = 1
    PROGRAM = 2
    RELAX = 3
    READ = 4
    BACKWARD_READ = 5


def key(seed: int, name: str) -> tuple[int, int]:
    """The key of an object's numbers: (seed, first four bytes of sha256(name), little-endian).

    Raises:
        ValueError: the seed is not in [0, 2^32).
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed: must be in [0, 2**32) (got {seed}); take it modulo 2**32")
    return seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")


@cache
def stream(
    purpose: Purpose, *, sign: int = 0, slice_: int = 0, plane: int = 0, copy: int = 0, tile: int = 0
) -> int:
    """The third counter word: purpose 4 | sign 1 | slice 4 | plane 5 | copy 4 | tile 14 bits.

    Raises:
        ValueError: an index does not fit into its bits.
    """
    word = 0
    for name, value, bits in (
        ("purpose", int(purpose), 4),
        ("sign", sign, 1),
        ("slice_", slice_, 4),
        ("plane", plane, 5),
        ("copy", copy, 4),
        ("tile", tile, 14),
    ):
        if not 0 <= value < 2**bits:
            raise ValueError(f"{name}: must be in [0, {2**bits}) (got {value})")
        word = (word << bits) | value
    return word


def philox4x32(c0: ArrayLike, c1: ArrayLike, c2: ArrayLike, c3: ArrayLike, k0: int, k1: int) -> Words:
    """Ten rounds of Philox4x32 on counters (c0, c1, c2, c3), broadcast against each other; key (k0, k1)."""
    x0, x1, x2, x3 = (np.asarray(c, np.uint64) for c in np.broadcast_arrays(c0, c1, c2, c3))
    low = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    a, b = int(k0), int(k1)
    for _ in range(ROUNDS):
        p0, p1 = x0 * np.uint64(MULTIPLIERS[0]), x2 * np.uint64(MULTIPLIERS[1])
        x0, x1, x2, x3 = (
            (p1 >> shift) ^ x1 ^ np.uint64(a),
            p1 & low,
            (p0 >> shift) ^ x3 ^ np.uint64(b),
            p0 & low,
        )
        a, b = (a + WEYL[0]) & 0xFFFFFFFF, (b + WEYL[1]) & 0xFFFFFFFF
    return x0.astype(np.uint32), x1.astype(np.uint32), x2.astype(np.uint32), x3.astype(np.uint32)


def normals(words: Words) -> Normals:
    """Four standard normals per counter: (w0, w1) -> (z0, z1), (w2, w3) -> (z2, z3).

    Box and Muller (1958): radius sqrt(-2 ln u), u = ((w0 >> 8) + 1/2) 2^-24, angle 2 pi w1 / 2^32.
    """
    w0, w1, w2, w3 = words
    return (*_pair(w0, w1), *_pair(w2, w3))


def _pair(
    radius: NDArray[np.uint32], angle: NDArray[np.uint32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    f = np.float32
    u = ((radius >> np.uint32(8)).astype(f) + f(0.5)) * f(2.0**-24)
    r = np.sqrt(f(-2.0) * _log(u))
    c, s = _cos_sin(angle)
    return r * c, r * s


def fused(a: ArrayLike, b: ArrayLike, c: ArrayLike) -> NDArray[np.float32]:
    """A b + c of float32 numbers, rounded once, as processors do it in one instruction.

    The product is exact in float64. Its sum with c is rounded to odd: where something was lost, to the neighbour with an odd last bit; then
    the rounding to float32 cannot fall on a false tie (Boldo and Melquiond 2008).
    """
    product = np.asarray(a, np.float64) * np.asarray(b, np.float64)
    addend = np.asarray(c, np.float64)
    total = np.asarray(product + addend)
    back = total - product
    lost = (product - (total - back)) + (addend - back)
    even = (total.view(np.int64) & 1) == 0
    odd = np.where(even & (lost != 0), np.nextafter(total, np.copysign(np.inf, lost)), total)
    return odd.astype(np.float32)


def _log(u: NDArray[np.float32]) -> NDArray[np.float32]:
    """ln(u) for normal positive float32 u."""
    f = np.float32
    bits = u.view(np.int32) - np.int32(0x3F3504F3)
    exponent = bits >> np.int32(23)
    z = ((bits & np.int32(0x007FFFFF)) + np.int32(0x3F3504F3)).view(f) - f(1.0)
    y = np.full_like(z, f(LOG_POLYNOMIAL[0]))
    for coefficient in LOG_POLYNOMIAL[1:]:
        y = fused(y, z, f(coefficient))
    return fused(exponent.astype(f), f(0.6931471805599453), fused(fused(y, z, f(-0.5)), z * z, z))


def _cos_sin(w: NDArray[np.uint32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosine and sine of 2 pi w / 2^32: the quadrant from the top bits, polynomials on the rest."""
    f = np.float32
    quadrant = (w + np.uint32(0x20000000)) >> np.uint32(30)
    rest = (w - (quadrant << np.uint32(30))).view(np.int32)
    t = rest.astype(f) * f(1.4629180792671596e-09)
    t2 = t * t
    p, q = np.full_like(t, SIN_POLYNOMIAL[0]), np.full_like(t, COS_POLYNOMIAL[0])
    for coefficient in SIN_POLYNOMIAL[1:]:
        p = fused(p, t2, f(coefficient))
    for coefficient in (*COS_POLYNOMIAL[1:], -0.5):
        q = fused(q, t2, f(coefficient))
    sine, cosine = fused(t * t2, p, t), fused(q, t2, f(1.0))
    swap = (quadrant & np.uint32(1)) != 0
    a, b = np.where(swap, sine, cosine), np.where(swap, cosine, sine)
    flip_a = ((quadrant + np.uint32(1)) & np.uint32(2)) != 0
    flip_b = (quadrant & np.uint32(2)) != 0
    return np.where(flip_a, -a, a), np.where(flip_b, -b, b)
