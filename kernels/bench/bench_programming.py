"""Time programming of a 1024 x 1024 matrix as differential pairs (2 M cells) against plain NumPy of the same laws.

    python kernels/bench/bench_programming.py [--json] [--save FILE] [--runs 5] [--card hfo2_neurram] [--quick]

From HRS to uniformly random weights. "pulses" is write-verify pulse by pulse, "statistics" the published residual and mean pulse
counts; "chip" rows are the whole of Chip.program, mapping and booking included. The rivals are vectorised NumPy: write-verify
on the cells that are still active, pulse after pulse, and the statistical mode with NumPy's own generator; each is timed at most
twice. Runs are interleaved. Goals are ms, not ratios.
"""

from __future__ import annotations

import common

OPTIONS = common.parser(__doc__, runs=5)
OPTIONS.add_argument("--card", default="hfo2_neurram", help="a card with write-verify to levels")
OPTIONS = common.chosen(OPTIONS)

import numpy as np  # noqa: E402

from crossbar_kernels import get_kernels  # noqa: E402
from crossbar_sim import Chip, preset  # noqa: E402
from crossbar_sim.programming import Source, Traits, statistical, strengths, write_verify  # noqa: E402
from crossbar_sim.pulse_table import pulse_table, pulse_train  # noqa: E402

SIDE = 256 if OPTIONS.quick else 1024
CELLS = 2 * SIDE**2
WAYS = ("pulses", "statistics")
GOALS_MS = {"chip, pulses": 2000.0, "chip, statistics": 60.0}
COLUMNS = (
    ("shape", "", ""),
    ("name", "case", ""),
    ("median_ms", "median ms", ".1f"),
    ("min_ms", "min", ".1f"),
    ("max_ms", "max", ".1f"),
    ("ns_per_cell", "ns/cell", ".1f"),
    ("ratio", "of numpy", ".3f"),
    ("goal_ms", "goal ms", ".0f"),
    ("met", "verdict", ""),
)


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
    blocks = weight.reshape(-1, 1, 1, 1, 256, 128)
    pair = np.concatenate([np.clip(blocks, 0, 1), np.clip(-blocks, 0, 1)], axis=2)
    target = device.g_min + device.span * np.rint(pair * (device.levels - 1)) / (device.levels - 1)
    start = np.full(target.shape, device.g_min)
    source = Source(get_kernels(), (1, 2), 0)
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


def rows_of(seconds, way):
    """Rows of one way of writing, over its own rival."""
    rival = f"numpy, {way}"
    own = {name: samples for name, samples in seconds.items() if name.endswith(way)}
    rows = common.ratios(own, [rival], {}, shape=f"{CELLS} cells")
    for row in rows:
        goal = None if OPTIONS.quick else GOALS_MS.get(row["name"])
        row |= {"ns_per_cell": 1e6 * row["median_ms"] / CELLS, "goal_ms": goal}
        row["met"] = common.verdict(row["median_ms"], goal)
    return rows


def main():
    """Measure and print."""
    rivals = {f"numpy, {way}": 2 for way in WAYS}
    seconds = common.interleaved(contenders(preset(OPTIONS.card)), runs=OPTIONS.runs, at_most=rivals)
    common.publish("programming", [row for way in WAYS for row in rows_of(seconds, way)], COLUMNS, OPTIONS)


if __name__ == "__main__":
    main()
