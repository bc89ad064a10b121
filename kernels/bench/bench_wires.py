"""Time exact IR drop (crossbar_kernels.ladder_join) against a sparse LU of the same circuit.

    python kernels/bench/bench_wires.py [--json] [--runs 5] [--tiles 8]

"one" is a single array on one thread, "each of many" an array out of `--tiles` that share the threads. The
rival is scipy's splu of Kirchhoff's equations, factors and one right side per input (up to 128 inputs); for
larger arrays only its factors and one right side are timed, which flatters it: it would need one per input.
Runs are interleaved.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numba
import numpy as np
from scipy.sparse import block_array, diags_array, eye_array, kron
from scipy.sparse.linalg import splu

from crossbar_kernels.ladder_join import transfer

SIZES = (64, 128, 256)
SEGMENTS = (1.0, 1.5)
MOST_RIGHT_SIDES = 128


def options():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each (the rival: at most 2)")
    parser.add_argument("--tiles", type=int, default=8, help="arrays in a batch")
    return parser.parse_args()


def nodal(g):
    """Kirchhoff's equations of a square array: word-line nodes, then bit-line nodes."""
    size = len(g)
    ends = np.full(size, 2.0)
    ends[-1] = 1.0
    beside = np.full(size - 1, -1.0)
    line = diags_array([ends, beside, beside], offsets=[0, 1, -1]).tocsr()
    cells, same = diags_array(g.ravel()), eye_array(size)
    word, bit = kron(same, line) / SEGMENTS[0], kron(line[::-1, ::-1], same) / SEGMENTS[1]
    return block_array([[cells + word, -cells], [-cells, cells + bit]]).tocsc()


def sparse_lu(g, inputs):
    """Currents [inputs, cols] per volt on the first `inputs` word lines."""
    size = len(g)
    symmetric = {"diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}
    factors = splu(nodal(g), permc_spec="MMD_AT_PLUS_A", **symmetric)
    drive = np.zeros((2 * size * size, inputs))
    drive[np.arange(inputs) * size, np.arange(inputs)] = 1 / SEGMENTS[0]
    return factors.solve(drive)[-size:].T / SEGMENTS[1]


def timed(work):
    """What `work` returns, and its milliseconds."""
    start = time.perf_counter()
    found = work()
    return found, 1e3 * (time.perf_counter() - start)


def measure(size, runs, tiles):
    """One line of the table."""
    random = np.random.default_rng(size)
    many = random.uniform(1e-6, 1e-4, (tiles, size, size))
    one, inputs = many[:1], size if size <= MOST_RIGHT_SIDES else 1
    transfer(one, *SEGMENTS)
    single, batch, rival = [], [], []
    for run in range(runs):
        single.append(timed(lambda: transfer(one, *SEGMENTS))[1])
        batch.append(timed(lambda: transfer(many, *SEGMENTS))[1] / tiles)
        if run < 2:
            right, took = timed(lambda: sparse_lu(one[0], inputs))
            rival.append(took)
    found = transfer(one, *SEGMENTS)[0, :inputs]
    return {
        "array": size,
        "one_ms": float(np.median(single)),
        "one_min_ms": min(single),
        "each_of_many_ms": float(np.median(batch)),
        "sparse_lu_ms": min(rival),
        "right_sides": inputs,
        "ratio": float(np.median(single)) / min(rival),
        "largest_difference": float(np.abs(found - right).max() / right.max()),
    }


def main():
    """Measure and print."""
    chosen = options()
    rows = [measure(size, chosen.runs, chosen.tiles) for size in SIZES]
    machine = {"numba_threads": numba.get_num_threads(), "load_average": os.getloadavg()[0]}
    if chosen.json:
        print(json.dumps({"machine": machine, "rows": rows}, indent=1))
        return
    print("; ".join(f"{k}: {v}" for k, v in machine.items()))
    print(
        f"{'array':>9} {'one ms':>8} {'least':>7} {'each of many':>12} {'sparse LU ms':>17} {'ratio':>7} {'difference':>10}"
    )
    for r in rows:
        rival = f"{r['sparse_lu_ms']:.0f} ({r['right_sides']} inputs)"
        print(
            f"{r['array']:4}x{r['array']:<4} {r['one_ms']:8.1f} {r['one_min_ms']:7.1f} {r['each_of_many_ms']:12.1f} {rival:>17} "
            f"{r['ratio']:7.4f} {r['largest_difference']:10.1e}"
        )


if __name__ == "__main__":
    main()
