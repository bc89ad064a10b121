"""Time crossbar products against plain matrix products of the same shape.

    python kernels/bench/bench_mvm.py [--json] [--runs 9] [--threads 1]

Baseline: the faster of NumPy and torch float32. Runs are interleaved, so that other work on the machine meets all alike.
An OPENBLAS_CORETYPE that holds the baseline back is removed (by starting again without it). Where other work keeps
the cores busy, the baselines' threads wait for each other and the ratios flatter us: believe `--threads 1` there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

HELD_BACK = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def options():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--runs", type=int, default=9, help="timed runs of each (at least 5)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads for everybody")
    chosen = parser.parse_args()
    if chosen.runs < 5:
        parser.error(f"--runs: must be at least 5 (got {chosen.runs})")
    return chosen


def restart_in_a_clean_environment(threads):
    """Libraries read these variables when they are loaded, hence before the imports below."""
    wanted = {k: v for k, v in os.environ.items() if k not in HELD_BACK} | dict.fromkeys(
        THREADS, str(threads)
    )
    if wanted != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.argv], wanted)


OPTIONS = options()
restart_in_a_clean_environment(OPTIONS.threads)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numba  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from crossbar_kernels import AdcRange, NoiseStream, get_kernels  # noqa: E402
from crossbar_kernels.philox import Purpose  # noqa: E402

SHAPES = ((256, 4, 256, 1024), (200, 3, 128, 1536))  # batch, row tiles, rows per tile, columns
BASELINES = ("numpy sgemm", "torch sgemm")


def contenders(batch, tiles, rows, cols):
    """Name -> what to time: two baselines, then the products on both integer grids."""
    random = np.random.default_rng(0)
    x = random.standard_normal((batch, tiles * rows)).astype(np.float32)
    w = random.standard_normal((tiles * rows, cols)).astype(np.float32)
    out = np.empty((batch, cols), np.float32)
    xt, wt, ot = torch.from_numpy(x), torch.from_numpy(w), torch.empty(batch, cols)
    codes = random.integers(-127, 128, x.shape).astype(np.int8)
    noise = NoiseStream(0.5, np.arange(batch, dtype=np.uint32), (1, 2), Purpose.READ, 0)
    found = {
        BASELINES[0]: lambda: np.matmul(x, w, out=out),
        BASELINES[1]: lambda: torch.mm(xt, wt, out=ot),
    }
    kernels = get_kernels("numba")
    for grid, largest in (("int8", 127), ("int15", 16383)):
        weights = random.integers(-largest, largest + 1, (tiles, rows, cols)).astype(np.int16)
        variance = random.integers(0, 16384, weights.shape).astype(np.int16)
        span = 3 * 73 * 0.58 * largest * rows**0.5
        adc = AdcRange(-span, span, 2 * span / 255)
        prepared = kernels.prepare(weights, variance)
        for label, drawn in (("no noise", None), ("exact noise", noise)):
            found[f"{grid}, {label}"] = lambda p=prepared, a=adc, n=drawn: kernels.mvm(
                codes, p, adc=a, noise=n
            )
    return found


def measure(shape, runs):
    """Seconds of every run, interleaved."""
    found = contenders(*shape)
    for work in found.values():
        work(), work()
    seconds = {name: [] for name in found}
    for _ in range(runs):
        for name, work in found.items():
            work()  # brings its own threads and cache up; the next is timed
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def summarise(shape, seconds):
    """Medians, spreads and the ratio to the faster baseline, by medians and by minima."""
    batch, tiles, rows, cols = shape
    middle = min(float(np.median(seconds[name])) for name in BASELINES)
    least = min(min(seconds[name]) for name in BASELINES)
    return [
        {
            "shape": f"{batch}x{tiles * rows}x{cols}",
            "name": name,
            "median_ms": 1e3 * float(np.median(s)),
            "min_ms": 1e3 * min(s),
            "max_ms": 1e3 * max(s),
            "ratio_of_medians": float(np.median(s)) / middle,
            "ratio_of_minima": min(s) / least,
        }
        for name, s in seconds.items()
    ]


def machine():
    """What the figures were measured on."""
    return {
        "numba_threads": numba.get_num_threads(),
        "torch_threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "numpy": np.__version__,
        "torch": torch.__version__,
        "blas": blas(),
    }


def blas():
    """The BLAS libraries in use and the processors they were chosen for."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return "unknown (threadpoolctl is not installed)"
    return ", ".join(
        f"{i['internal_api']} {i.get('architecture', '')} x{i['num_threads']}" for i in threadpool_info()
    )


def main():
    """Measure and print."""
    rows = [row for shape in SHAPES for row in summarise(shape, measure(shape, OPTIONS.runs))]
    if OPTIONS.json:
        print(json.dumps({"machine": machine(), "rows": rows}, indent=1))
        return
    print("; ".join(f"{k}: {v}" for k, v in machine().items()))
    if OPTIONS.threads > 1 and os.getloadavg()[0] > 0.5 * os.cpu_count():
        print("The machine is busy: these ratios flatter us, believe --threads 1.")
    print(
        f"{'batch x in x out':16} {'':20} {'median ms':>9} {'min - max ms':>15} {'ratio':>6} {'of minima':>9}"
    )
    for r in rows:
        spread = f"{r['min_ms']:.2f} - {r['max_ms']:.2f}"
        print(
            f"{r['shape']:16} {r['name']:20} {r['median_ms']:9.2f} {spread:>15} "
            f"{r['ratio_of_medians']:6.2f} {r['ratio_of_minima']:9.2f}"
        )


if __name__ == "__main__":
    main()
