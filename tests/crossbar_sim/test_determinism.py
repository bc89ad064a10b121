"""The same bits whatever the threads, the backend, the order and the batches."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from crossbar_sim import Chip, Ranges

WEIGHT = np.random.default_rng(0).standard_normal((30, 50))
X = np.random.default_rng(1).standard_normal((9, 50))

SCRIPT = """
import hashlib, numpy as np, torch
torch.set_num_threads({threads})
from crossbar_sim import Chip, Ranges, convert
rng = np.random.default_rng(0)
for name in ("hfo2_neurram", "cmo_hfox"):
    chip = Chip(name, seed=3)
    array = chip.program(rng.standard_normal((300, 520)), name="w", ranges=Ranges(1.0, -20.0, 20.0))
    chip.advance(1000.0)
    y = array.mvm(rng.standard_normal((300, 520)))
    rows = repr(chip.ledger.rows(chip.preset.prices))
    for part in (array.conductance(), array.wear, y):
        print(hashlib.sha256(np.ascontiguousarray(part).tobytes()).hexdigest())
    print(hashlib.sha256(rows.encode()).hexdigest())
"""


def test_one_and_two_threads_give_the_same_bits():
    root = Path(__file__).resolve().parents[2]
    out = []
    for threads in (1, 2):
        env = os.environ | {
            "NUMBA_NUM_THREADS": str(threads),
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": os.pathsep.join([str(root), str(root / "kernels")]),
        }
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(threads=threads)],
            env=env, capture_output=True, text=True, check=True,
        )  # fmt: skip
        out.append(done.stdout.split())
    assert len(out[0]) == 8
    assert out[0] == out[1]


def history(preset, *, order="ab", backend="auto", seed=0, statistical=False):
    """Program two arrays, wait, read, rewrite one, read again; everything that came of it, as bytes."""
    chip = Chip(preset, backend=backend, seed=seed, statistical=statistical)
    for name in order:
        chip.program(WEIGHT if name == "a" else WEIGHT[:7], name=name, ranges=Ranges(1.0, -9, 9))
    chip.advance(50.0)
    found = []
    for name in "ab":
        found += [chip.arrays[name].conductance(), chip.arrays[name].wear]
    products = {name: chip.arrays[name].mvm(X) for name in order}
    chip.arrays["a"].reprogram(WEIGHT / 2)
    chip.next_event()
    found += [products["a"], products["b"], chip.arrays["a"].mvm(X), chip.arrays["a"].conductance()]
    rows = repr(chip.ledger.rows(chip.preset.prices)).encode()
    return [hashlib.sha256(np.ascontiguousarray(f).tobytes()).hexdigest() for f in found] + [rows]


@pytest.fixture(scope="module")
def small(card):
    return card(relaxation=True, noise=True, tiles={"rows": 20, "cols": 16})


@pytest.mark.parametrize("statistical", [False, True])
def test_neither_the_order_of_the_arrays_nor_the_backend_matters(small, statistical):
    expected = history(small, statistical=statistical)
    assert history(small, order="ba", statistical=statistical) == expected
    assert history(small, backend="reference", statistical=statistical) == expected
    assert history(small, backend="numba", statistical=statistical) == expected


def test_another_seed_is_another_chip(small):
    one, two = history(small), history(small, seed=1)
    assert all(a != b for a, b in zip(one, two, strict=True))


def test_arrays_of_other_names_have_other_cells(small):
    chip = Chip(small)
    a, b = (chip.program(WEIGHT, name=name) for name in ("a", "b"))
    assert not np.array_equal(a.conductance(), b.conductance())


def test_the_same_event_reads_the_same_and_the_next_does_not(small):
    chip = Chip(small)
    array = chip.program(WEIGHT, name="a", ranges=Ranges(1.0, -9, 9))
    first = array.mvm(X)
    np.testing.assert_array_equal(array.mvm(X), first)
    chip.next_event()
    assert not np.array_equal(array.mvm(X), first)
    chip.event = 0
    np.testing.assert_array_equal(array.mvm(X), first)
    with chip.samples_from(1):
        assert not np.array_equal(array.mvm(X), first)


def test_each_programming_draws_anew(small):
    chip = Chip(small, statistical=True)
    array = chip.program(WEIGHT, name="a")
    first = array.conductance()
    array.reprogram(-WEIGHT / 2)
    array.reprogram(WEIGHT)
    assert not np.array_equal(array.conductance(), first)


def test_the_state_is_not_stale_after_time_and_rewriting(small):
    chip = Chip(small, grid="exact")
    array = chip.program(WEIGHT, name="a", ranges=Ranges(1.0, -9, 9))
    seen = [array.mvm(X)]
    chip.advance(1e5)
    seen.append(array.mvm(X))
    array.reprogram(-WEIGHT)
    seen.append(array.mvm(X))
    assert not np.array_equal(seen[0], seen[1])
    assert np.corrcoef(seen[1].ravel(), seen[2].ravel())[0, 1] < -0.5
