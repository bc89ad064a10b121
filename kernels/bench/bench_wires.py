"""Time exact IR drop (crossbar_kernels.ladder_join) against a sparse LU of the same circuit.

    python kernels/bench/bench_wires.py [--json] [--save FILE] [--runs 5] [--tiles 8] [--quick]

"one" is a single array, "each of many" an array out of `--tiles` that share the threads. The rival is scipy's
splu of Kirchhoff's equations, factors and one right side per input (up to 128 inputs); for larger arrays only its factors and
one right side are timed, which flatters it: it would need one per input. The rival is timed twice. Runs are interleaved.
"""

from __future__ import annotations

import common

OPTIONS = common.parser(__doc__, runs=5)
OPTIONS.add_argument("--tiles", type=int, default=8, help="arrays in a batch (default: 8)")
OPTIONS = common.chosen(OPTIONS)

import numpy as np  # noqa: E402
from scipy.sparse import block_array, diags_array, eye_array, kron  # noqa: E402
from scipy.sparse.linalg import splu  # noqa: E402

from crossbar_kernels.ladder_join import transfer  # noqa: E402

SIZES = (16, 32) if OPTIONS.quick else (64, 128, 256)
SEGMENTS = (1.0, 1.5)
MOST_RIGHT_SIDES = 128
RIVAL = "sparse LU"
AGREE = 1e-8
"""Largest difference from the rival, in units of its largest result; beyond it the bench stops."""
COLUMNS = (
    ("shape", "array", ""),
    ("name", "case", ""),
    ("median_ms", "median ms", ".3f"),
    ("min_ms", "min", ".3f"),
    ("max_ms", "max", ".3f"),
    ("ratio", "ratio", ".4f"),
    ("ratio_of_minima", "of minima", ".4f"),
    ("right_sides", "rival's inputs", "d"),
    ("largest_difference", "difference", ".1e"),
)


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


def measure(size):
    """Rows of one size of array."""
    random = np.random.default_rng(size)
    many = random.uniform(1e-6, 1e-4, (OPTIONS.tiles, size, size))
    one, inputs = many[:1], size if size <= MOST_RIGHT_SIDES else 1
    work = {
        "one": lambda: transfer(one, *SEGMENTS),
        "each of many": lambda: transfer(many, *SEGMENTS),
        RIVAL: lambda: sparse_lu(one[0], inputs),
    }
    right = work[RIVAL]()
    difference = float(np.abs(work["one"]()[0, :inputs] - right).max() / right.max())
    if difference > AGREE:
        raise SystemExit(
            f"{size} x {size}: differs from {RIVAL} by {difference:.1e}; times of wrong results mean nothing"
        )
    seconds = common.interleaved(work, runs=OPTIONS.runs, at_most={RIVAL: 2})
    seconds["each of many"] = [s / OPTIONS.tiles for s in seconds["each of many"]]
    about = {"shape": f"{size}x{size}", "right_sides": inputs, "largest_difference": difference}
    return common.ratios(seconds, [RIVAL], {}, **about)


def main():
    """Measure and print."""
    common.publish("wires", [row for size in SIZES for row in measure(size)], COLUMNS, OPTIONS)


if __name__ == "__main__":
    main()
