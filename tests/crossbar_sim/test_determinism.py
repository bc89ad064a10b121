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
from crossbar_sim.presets import edit, preset
rng = np.random.default_rng(0)
rich = {{"mapping.slices": 2, "mapping.copies": 2, "periphery.plane_bits": 3, "faults.stuck_low": 0.01}}
for name, changes in (("hfo2_neurram", {{}}), ("cmo_hfox", {{}}), ("cmo_hfox", rich), ("hfo2_array", {{}})):
    chip = Chip(edit(preset(name), changes), seed=3, ir_drop=bool(changes))
    array = chip.program(rng.standard_normal((200, 270)), name="w", ranges=Ranges(1.0, -20.0, 20.0))
    chip.advance(1000.0)
    y = array.mvm(rng.standard_normal((300, 270)))
    g = array.mvm_t(rng.standard_normal((300, 200)))
    rows = repr(chip.ledger.rows(chip.preset.prices))
    for part in (array.conductance(), array.wear, y, g):
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
    assert len(out[0]) == 4 * 5
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
    gradients = {name: chip.arrays[name].mvm_t(products[name]) for name in order}
    chip.compensate("column")
    chip.arrays["a"].reprogram(WEIGHT / 2)
    chip.next_event()
    found += [part[name] for part in (products, gradients) for name in "ab"]
    found += [chip.arrays["a"].mvm(X), chip.arrays["a"].conductance()]
    rows = repr(chip.ledger.rows(chip.preset.prices)).encode()
    return [hashlib.sha256(np.ascontiguousarray(f).tobytes()).hexdigest() for f in found] + [rows]


@pytest.fixture(scope="module")
def small(card):
    return card(relaxation=True, noise=True, tiles={"rows": 20, "cols": 16})


RICH = {
    "slices, copies and planes in analog": (
        {"pair": "columns", "slices": 2, "copies": 2},
        {"plane_bits": 2},
    ),
    "pairs and planes converted apart, in two arrays": (
        {"pair": "arrays", "coding": "two_sided", "slices": 2},
        {
            "plane_bits": 3,
            "accumulate": "digital",
            "subtract": "digital",
            "adc_offset": 0.3,
            "adc_gain": 0.01,
        },
    ),
    "offset with a unit column, a range per vector": (
        {"coding": "offset", "offset": "unit_column"},
        {"scaling": "per_vector_absmax", "columns_per_adc": 3, "column_clip": 5.0},
    ),
    "repair": ({"pair": "rows", "spare_columns": 1, "remedy": "compensate"}, {}),
}


def rich(card, name):
    mapping, periphery = RICH[name]
    return card(
        relaxation=True,
        noise=True,
        mapping=mapping,
        periphery=periphery,
        tiles={"rows": 20, "cols": 16},
        faults={"stuck_low": 0.02, "stuck_undefined": 0.02},
    )


@pytest.mark.parametrize("statistical", [False, True])
def test_neither_the_order_of_the_arrays_nor_the_backend_matters(small, statistical):
    expected = history(small, statistical=statistical)
    assert history(small, order="ba", statistical=statistical) == expected
    assert history(small, backend="reference", statistical=statistical) == expected
    assert history(small, backend="numba", statistical=statistical) == expected


@pytest.mark.parametrize("name", sorted(RICH))
def test_nor_with_all_that_an_array_can_have(card, name):
    preset = rich(card, name)
    expected = history(preset, statistical=True)
    assert history(preset, order="ba", statistical=True) == expected
    assert history(preset, backend="reference", statistical=True) == expected


@pytest.mark.parametrize("name", sorted(RICH))
def test_a_batch_may_be_split(card, name):
    chip = Chip(rich(card, name), statistical=True)
    array = chip.program(WEIGHT, name="a", ranges=Ranges(1.0, -9, 9))
    y, g = array.mvm(X), array.mvm_t(X[:, :30])
    for pieces in ([1] * 9, [4, 5], [8, 1]):
        start = 0
        for size in pieces:
            with chip.samples_from(start):
                part = slice(start, start + size)
                np.testing.assert_array_equal(array.mvm(X[part]), y[part])
                np.testing.assert_array_equal(array.mvm_t(X[part, :30]), g[part])
            start += size


@pytest.mark.parametrize("name", sorted(RICH))
def test_every_vector_slice_and_direction_draws_anew(card, name):
    chip = Chip(rich(card, name), statistical=True)
    array = chip.program(WEIGHT, name="a", ranges=Ranges(1.0, -9, 9))
    for product, x in ((array.mvm, X[0]), (array.mvm_t, X[0, :30])):
        rows = product(np.tile(x, (20, 1)))
        assert len({row.tobytes() for row in rows}) == 20


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
