from __future__ import annotations

import hashlib

import numpy as np
import pytest
from scipy import stats

from crossbar_kernels import reference
from crossbar_kernels.philox import Purpose, key, normals, philox4x32, stream

FULL = 0xFFFFFFFF
KNOWN_ANSWERS = (  # Random123 kat_vectors, philox4x32 10 (Salmon et al. 2011)
    ((0, 0, 0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((FULL,) * 6, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)


@pytest.mark.parametrize(("counter_and_key", "words"), KNOWN_ANSWERS)
def test_philox_gives_the_published_words(counter_and_key, words):
    assert tuple(int(w) for w in philox4x32(*counter_and_key)) == words


def test_philox_broadcasts_its_counter():
    rows, groups = np.arange(3, dtype=np.uint32)[:, None], np.arange(5, dtype=np.uint32)[None, :]
    words = philox4x32(groups, rows, 7, 8, 9, 10)
    assert all(w.shape == (3, 5) and w.dtype == np.uint32 for w in words)
    single = philox4x32(4, 2, 7, 8, 9, 10)
    assert [int(w[2, 4]) for w in words] == [int(w) for w in single]


def test_box_muller_agrees_with_float64():
    random = np.random.default_rng(3)
    edges = np.array([0, 1, 255, 256, 2**30, 2**31, 2**32 - 1, 3 * 2**30 - 1], np.uint32)
    words = [np.concatenate((edges, random.integers(0, 2**32, 4000, dtype=np.uint32))) for _ in range(4)]
    w0, w1, w2, w3 = words[0], random.permutation(words[1]), words[2], random.permutation(words[3])
    z = normals((w0, w1, w2, w3))
    for (radius, angle), (first, second) in zip(((w0, w1), (w2, w3)), (z[:2], z[2:]), strict=True):
        u = ((radius >> np.uint32(8)).astype(np.float32) + np.float32(0.5)).astype(np.float64) * 2.0**-24
        r = np.sqrt(-2 * np.log(u))
        np.testing.assert_allclose(first, r * np.cos(2 * np.pi * angle / 2**32), atol=3e-6)
        np.testing.assert_allclose(second, r * np.sin(2 * np.pi * angle / 2**32), atol=3e-6)


def test_normals_have_the_moments_and_the_law_of_a_gaussian():
    """Each statistic may be off by chance in 1 of 1000 seeds (two-sided p = 1e-3, 3.29 sigma); the seed is fixed."""
    z = reference.normals(
        np.arange(1000, dtype=np.uint32), 1000, key=key(11, "moments"), stream=3, event=0
    ).astype(np.float64)
    n = z.size
    assert abs(z.mean()) < 3.29 / np.sqrt(n)
    assert abs(z.var() - 1) < 3.29 * np.sqrt(2 / n)
    assert abs((z**3).mean()) < 3.29 * np.sqrt(15 / n)
    assert abs((z**4).mean() - 3) < 3.29 * np.sqrt(96 / n)
    assert stats.kstest(z[:100].ravel(), "norm").pvalue > 1e-3
    for lag in (1, 2, 3, 4):
        assert abs((z[:, lag:] * z[:, :-lag]).mean()) < 3.29 / np.sqrt(n * (1 - lag / 1000))
    assert abs((z[1:] * z[:-1]).mean()) < 3.29 / np.sqrt(n)


@pytest.mark.parametrize("other", [{"stream": 4}, {"event": 1}, {"key": (0, 6)}, {"key": (1, 5)}])
def test_every_index_gives_other_numbers(other):
    rows = np.arange(10, dtype=np.uint32)
    base = {"key": (0, 5), "stream": 3, "event": 0}
    a, b = reference.normals(rows, 40, **base), reference.normals(rows, 40, **(base | other))
    assert not np.isclose(a, b).all(axis=1).any()
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 3.29 / 20


def test_key_is_the_seed_and_a_stable_hash():
    assert key(5, "layer.0") == (5, int.from_bytes(hashlib.sha256(b"layer.0").digest()[:4], "little"))
    assert key(0, "") == (0, 0x42C4B0E3)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_key_refuses_seeds_beyond_32_bits(seed):
    with pytest.raises(ValueError, match=r"seed: must be in .* take it modulo"):
        key(seed, "x")


def test_stream_packs_without_overlap():
    assert stream(Purpose.READ) == 4 << 28
    assert stream(Purpose.D2D, sign=1) == 1 << 27
    assert stream(Purpose.D2D, slice_=15) == 15 << 23
    assert stream(Purpose.D2D, plane=31) == 31 << 18
    assert stream(Purpose.D2D, copy=15) == 15 << 14
    assert stream(Purpose.D2D, tile=2**14 - 1) == 2**14 - 1


@pytest.mark.parametrize(
    "field", [{"sign": 2}, {"slice_": 16}, {"plane": 32}, {"copy": 16}, {"tile": 2**14}, {"tile": -1}]
)
def test_stream_refuses_indices_that_do_not_fit(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        stream(Purpose.READ, **field)
