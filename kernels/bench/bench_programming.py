"""Time programming of a 1024 x 1024 matrix as differential pairs (2 M cells) against plain NumPy of the same laws.

    python kernels/bench/bench_programming.py [--json] [--runs 5] [--card hfo2_neurram]

From HRS to uniformly random weights. "pulses" is write-verify pulse by pulse, "statistics" the published residual and mean pulse
counts; "chip" rows are the whole of Chip.program, mapping and booking included. The rivals are vectorised NumPy: write-verify
on the cells that are still active, pulse after pulse, and the statistical mode with NumPy's own generator. Runs are interleaved.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numba
import numpy as np

from crossbar_kernels import get_kernels
from crossbar_sim import Chip, preset
from crossbar_sim.programming import Source, Traits, statistical, strengths, write_verify
from crossbar_sim.pulse_table import pulse_table, pulse_train

SIDE = 1024
GOALS_MS = {"chip, pulses": 2000.0, "chip, statistics": 60.0}
RIVALS = {"pulses": "numpy, pulses", "statistics": "numpy, statistics"}


def options():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--runs", type=int, default=5, help="timed runs of each (the NumPy rivals: at most 2)"
    )
    parser.add_argument("--card", default="hfo2_neurram", help="a card with write-verify to levels")
    return parser.parse_args()


def plain_write_verify(start, target, strength, p, random):
    """Write-verify as one would write it in NumPy: all active cells take a pulse, those inside their window drop out."""
    train = pulse_train(p)
    x, goal, s = start.ravel().copy(), target.ravel(), strength.ravel()
    tolerance = p.window_abs + p.window_rel * goal
    active = np.flatnonzero(np.abs(x - goal) > tolerance)
    run, last = np.zeros(x.size, np.int8), np.zeros(x.size, np.int8)
    pulses, energy = np.zeros(x.size, np.int16), 0.0
    for _ in range(p.max_pulses):
        if not active.size:
            break
        g, rising = x[active], x[active] < goal[active]
        polarity = np.where(rising, 1, -1)
        k = np.where(polarity == last[active], np.minimum(run[active] + 1, len(train.up_drive) - 1), 0)
        growth = np.where(rising, train.up_growth[k], train.down_growth[k])
        a = growth * s[active] * np.maximum(0.0, 1.0 + p.cycle_spread * random.standard_normal(active.size))
        moved = np.where(rising, g + (p.top - g) * (a / (1 + a)), g - (g - p.bottom) * (a / (1 + a)))
        volts = np.where(rising, train.up_drive[k], train.down_drive[k])
        energy += float((volts**2 * (0.5 * (g + moved))).sum()) * p.pulse_width
        x[active], run[active], last[active] = moved, k, polarity
        pulses[active] += 1
        active = active[np.abs(moved - goal[active]) > tolerance[active]]
    return x, pulses, energy


def plain_statistics(start, target, device, p, random):
    """The statistical mode in NumPy: a uniform error and the table's mean pulses for cells outside their window."""
    table = pulse_table(device, p).outcomes
    outside = np.abs(start - target) > p.window_abs + p.window_rel * target
    i = np.rint((start - table.first) / table.spacing * table.fine).astype(np.int64)
    j = np.rint((target - table.first) / table.spacing).astype(np.int64)
    sd = np.polynomial.polynomial.polyval(target, p.residual)
    error = np.sqrt(3.0) * sd * random.uniform(-1.0, 1.0, target.shape)
    written = np.where(outside, np.maximum(target + error, 0.0), start)
    pulses = np.where(outside, table.pulses[i, j], np.float32(0))
    moves = np.bincount((i * len(table.pulses[0]) + j)[outside], minlength=table.pulses.size)
    return written, pulses, np.where(outside, sd, 0.0).astype(np.float32), moves


def contenders(card):
    """Name -> what to time."""
    random, device, p = np.random.default_rng(0), card.device, card.programming
    weight = random.uniform(-1.0, 1.0, (SIDE, SIDE))
    blocks = weight.reshape(32, 1, 1, 1, 256, 128)
    pair = np.concatenate([np.clip(blocks, 0, 1), np.clip(-blocks, 0, 1)], axis=2)
    target = device.g_min + device.span * np.rint(pair * (device.levels - 1)) / (device.levels - 1)
    start = np.full(target.shape, device.g_min)
    source = Source(get_kernels("numba"), (1, 2), 0)
    strength = strengths(target.shape, device, kernels=source.kernels, key=source.key)
    own, all_alike = Traits(strength=strength), Traits()
    return {
        "pulses": lambda: write_verify(start, target, own, p, source=source),
        "statistics": lambda: statistical(start, target, all_alike, device, p, source=source),
        "chip, pulses": lambda: Chip(card).program(weight, name="w"),
        "chip, statistics": lambda: Chip(card, statistical=True).program(weight, name="w"),
        "numpy, pulses": lambda: plain_write_verify(start, target, strength, p, random),
        "numpy, statistics": lambda: plain_statistics(start, target, device, p, random),
    }


def measure(found, runs):
    """Seconds of every run, interleaved, after one run to warm up (the rivals need none)."""
    for name, work in found.items():
        if name not in RIVALS.values():
            work()
    seconds = {name: [] for name in found}
    for turn in range(runs):
        for name, work in found.items():
            if name in RIVALS.values() and turn >= 2:
                continue
            begun = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def summarise(seconds):
    """Medians, spreads, ns per cell, and the share of the rival's time."""
    cells = 2 * SIDE**2
    return [
        {
            "name": name,
            "median_ms": 1e3 * float(np.median(s)),
            "min_ms": 1e3 * min(s),
            "max_ms": 1e3 * max(s),
            "ns_per_cell": 1e9 * float(np.median(s)) / cells,
            "of_numpy": float(np.median(s)) / float(np.median(seconds[RIVALS[name.split(", ")[-1]]])),
            "goal_ms": GOALS_MS.get(name),
        }
        for name, s in seconds.items()
    ]


def main():
    """Measure and print."""
    chosen = options()
    rows = summarise(measure(contenders(preset(chosen.card)), chosen.runs))
    about = {
        "card": chosen.card,
        "numba_threads": numba.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "numpy": np.__version__,
    }
    if chosen.json:
        print(json.dumps({"machine": about, "rows": rows}, indent=1))
        return
    print("; ".join(f"{k}: {v}" for k, v in about.items()))
    print(
        f"{'2 x 1024 x 1024 cells':22} {'median ms':>9} {'min - max ms':>17} {'ns/cell':>8} {'of numpy':>8} {'goal ms':>8}"
    )
    for r in rows:
        spread = f"{r['min_ms']:.1f} - {r['max_ms']:.1f}"
        goal = "" if r["goal_ms"] is None else f"{r['goal_ms']:.0f}"
        print(
            f"{r['name']:22} {r['median_ms']:9.1f} {spread:>17} {r['ns_per_cell']:8.1f} {r['of_numpy']:8.3f} {goal:>8}"
        )


if __name__ == "__main__":
    main()
