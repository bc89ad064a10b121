"""Measure what a prepared matrix occupies and how much memory one product takes while it runs.

    python kernels/bench/bench_memory.py [--json] [--save FILE] [--side 2048] [--batch 256] [--quick]

Bytes per weight: all arrays and tensors that the prepared operands hold, each buffer once, over the logical weights; a float32 layer has 4.
Scratch: every case runs in a process of its own, once with a tiny matrix (compiled code, threads, libraries), then once with
the real one. `scratch` is the highest resident size that the system (Linux) saw during that one call, less the size before it and less
the result; `kept` is the part of it that is still resident afterwards (workspaces for the next call). Blocks from 64 kB on are mapped one
by one (MALLOC_MMAP_THRESHOLD_), so that memory that was freed before the call does not hide any. `--runs` plays no part here.
"""

from __future__ import annotations

import common

OPTIONS = common.parser(__doc__)
OPTIONS.add_argument("--side", type=int, default=2048, help="rows and columns of the matrix (default: 2048)")
OPTIONS.add_argument("--batch", type=int, default=256, help="input rows (default: 256)")
OPTIONS.add_argument("--backend", default="auto", help="backend (default: auto)")
OPTIONS.add_argument("--case", help="measure one case in this process (the bench calls itself)")
OPTIONS = common.chosen(OPTIONS)

import gc  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import NamedTuple  # noqa: E402

STATUS, PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")
TILE_ROWS = 64 if OPTIONS.quick else 256
SIDE, BATCH = (128, 8) if OPTIONS.quick else (OPTIONS.side, OPTIONS.batch)
FEW_ROWS = 4
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
COLUMNS = (
    ("name", "case", ""),
    ("bytes_per_weight", "bytes per weight", ".2f"),
    ("result_MiB", "result MiB", ".2f"),
    ("scratch_MiB", "scratch MiB", ".2f"),
    ("kept_MiB", "kept MiB", ".2f"),
)


class Case(NamedTuple):
    """A matrix on a grid, whether its cells have variances, and how it is driven."""

    largest: int
    exact: bool
    planes: int
    operands: int = 1


CASES = {
    "L0 int8, fixed noise": Case(127, False, 1),
    "L0 int8, exact variance": Case(127, True, 1),
    "L0 int15, fixed noise": Case(16383, False, 1),
    "L0 int15, exact variance": Case(16383, True, 1),
    "L1 8 x 1 bit, fixed noise": Case(127, False, 8),
    "L2 4 x 2 bit x 8 planes, fixed noise": Case(127, False, 8, 8),
}
BASELINES = ("numpy sgemm", "torch sgemm")


def held(thing, seen):
    """Bytes of all arrays and tensors below `thing`, each buffer once."""
    import numpy as np
    import torch

    if isinstance(thing, torch.Tensor):
        if thing.layout != torch.strided:
            raise SystemExit(
                f"bench_memory: cannot see into a {thing.layout} tensor; measure its bytes another way"
            )
        storage = thing.untyped_storage()
        return 0 if seen.add(storage.data_ptr()) else storage.nbytes()
    if isinstance(thing, np.ndarray):
        base = thing
        while isinstance(base.base, np.ndarray):
            base = base.base
        first = base.__array_interface__["data"][0]
        return 0 if first in seen or seen.add(first) else base.nbytes
    if isinstance(thing, dict):
        return sum(held(part, seen) for part in thing.values())
    if isinstance(thing, (list, tuple)):
        return sum(held(part, seen) for part in thing)
    return held(vars(thing), seen) if hasattr(thing, "__dict__") else 0


def resident(field):
    """VmRSS or VmHWM in bytes."""
    line = next(line for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def scratch(work):
    """The result of one call, and the MiB that it took beside it: at most, and still."""
    gc.collect()
    PEAK.write_text("5", encoding="ascii")  # the high-water mark starts again from here
    before = resident("VmRSS")
    result = work()
    size = result.nbytes
    peak, after = (max(0, resident(field) - before - size) for field in ("VmHWM", "VmRSS"))
    return {"result_MiB": size / 2**20, "scratch_MiB": peak / 2**20, "kept_MiB": after / 2**20}


def products(name, side, batch):
    """The operands of a case, and the call that multiplies with them."""
    import numpy as np

    from crossbar_kernels import AdcRange, NoiseStream, get_kernels
    from crossbar_kernels.philox import Purpose

    case, kernels, random = CASES[name], get_kernels(OPTIONS.backend), np.random.default_rng(0)
    tiles = side // TILE_ROWS
    operands = []
    for _ in range(case.operands):
        weights = random.integers(-case.largest, case.largest + 1, (tiles, TILE_ROWS, side)).astype(np.int16)
        variance = random.integers(0, 16384, weights.shape).astype(np.int16) if case.exact else None
        operands.append(kernels.prepare(weights, variance))
    top = 1 if case.planes > 1 else 127
    inputs = random.integers(0, top + 1, (case.planes, batch, side)).astype(np.int8)
    span, rows = float(top * case.largest * TILE_ROWS**0.5), np.arange(batch, dtype=np.uint32)
    sigma = None if case.exact else np.full((tiles, side), span / 128)
    noise = NoiseStream(0.01, rows, (1, 2), Purpose.READ, 0, sigma=sigma)
    options = {"adc": AdcRange(-span, span, span / 127.5), "noise": noise, "weights": (1.0,) * case.planes}

    def work():
        out = np.zeros((batch, side))
        for operand in operands:
            kernels.mvm(inputs, operand, out=out, **options)
        return out

    return operands, work


def baseline(name, side, batch):
    """A plain float32 product."""
    import numpy as np
    import torch

    x, w = np.ones((batch, side), np.float32), np.ones((side, side), np.float32)
    xt, wt = torch.from_numpy(x), torch.from_numpy(w)
    return [w], (lambda: x @ w) if name == BASELINES[0] else (lambda: torch.mm(xt, wt))


def measure(name):
    """One case, in this process."""
    made = baseline if name in BASELINES else products
    made(name, TILE_ROWS, FEW_ROWS)[
        1
    ]()  # compiled code and libraries; so small that its workspace hides little
    operands, work = made(name, SIDE, BATCH)
    occupied = held(operands, set())
    return {"name": name, "bytes_per_weight": occupied / SIDE**2, **scratch(work)}


def alone(name):
    """One case in a process of its own."""
    command = [
        sys.executable,
        __file__,
        "--case",
        name,
        "--threads",
        str(OPTIONS.threads),
        "--backend",
        OPTIONS.backend,
    ]
    command += [
        "--side",
        str(OPTIONS.side),
        "--batch",
        str(OPTIONS.batch),
        *(["--quick"] if OPTIONS.quick else []),
    ]
    done = subprocess.run(
        command, env={**os.environ, **ALLOCATOR}, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def main():
    """Measure and print."""
    if OPTIONS.case:
        print(json.dumps(measure(OPTIONS.case)))
        return
    if not os.access(PEAK, os.W_OK):
        raise SystemExit(
            f"bench_memory: needs {PEAK} (Linux) to measure peaks; there is none that may be written here"
        )
    rows = [alone(name) for name in (*BASELINES, *CASES)]
    note = f"{BATCH}x{SIDE}x{SIDE}, tiles of {TILE_ROWS} rows; resident memory of one call beside its result."
    common.publish("memory", rows, COLUMNS, OPTIONS, notes=(note,))


if __name__ == "__main__":
    main()
