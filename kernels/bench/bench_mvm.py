"""Time crossbar products against plain matrix products of the same shape.

    python kernels/bench/bench_mvm.py [--json] [--save FILE] [--runs 9] [--threads 1] [--full] [--quick]

Baseline: the fastest of NumPy's and torch's float32 product, on all threads and on one, timed in turn with the crossbar's in the
same run. L0: one conversion per
row tile; L1: the input's bits one plane after the other; L2: slices of cells and their signs converted apart; L3: the
effective conductances of an array with wire resistance. "fixed noise" is drawn per conversion with one standard deviation per
column, "exact variance" from the variances of the cells that are driven. The DAC (codes and planes from numbers) is timed
apart, with the same ratio. Before it is timed, every product is compared bit by bit with the reference on a few rows.
"""

from __future__ import annotations

import common

OPTIONS = common.parser(__doc__)
OPTIONS.add_argument("--full", action="store_true", help="the largest shape, too")
OPTIONS.add_argument("--backend", default="auto", help="backend of the crossbar's products (default: auto)")
OPTIONS = common.chosen(OPTIONS)

from typing import Any, NamedTuple  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402

from crossbar_kernels import AdcRange, NoiseStream, get_kernels  # noqa: E402
from crossbar_kernels.gemm import pack  # noqa: E402
from crossbar_kernels.ladder_join import transfer  # noqa: E402
from crossbar_kernels.philox import Purpose  # noqa: E402


class Shape(NamedTuple):
    """A logical product [batch, tiles * rows] x [tiles * rows, cols]."""

    batch: int
    tiles: int
    rows: int
    cols: int

    def __str__(self):
        return f"{self.batch}x{self.tiles * self.rows}x{self.cols}"


class Product(NamedTuple):
    """One call of the kernels: planes of inputs [planes, batch, n], weights and variances [tiles, rows, cols]."""

    inputs: Any
    weights: Any
    variance: Any
    factors: tuple[float, ...]
    adc: AdcRange
    noise: NoiseStream | None = None


TRANSFORMER = Shape(2048, 3, 128, 1536)
SHAPES = (
    Shape(256, 4, 256, 1024), Shape(256, 2, 256, 512), TRANSFORMER,
    Shape(32, 4, 256, 1024), Shape(1, 4, 256, 1024), Shape(1, 2, 256, 512),
)  # fmt: skip
LARGEST = Shape(256, 8, 256, 2048)
QUICK = (Shape(4, 2, 32, 48), Shape(1, 2, 32, 48))
BASELINES = ("numpy sgemm", "torch sgemm")
PREPACKED = "oneDNN prepacked f32"
KINDS = ("no noise", "fixed noise", "exact variance")
GRIDS = {"int8": 127, "int15": 16383}
FEW_ROWS = 1 if OPTIONS.quick else 32
"""Batch up to which L0 alone is timed."""
CHECKED = 3
"""Input rows of every product that are compared with the reference."""
SEGMENT = 0.35
"""Wire resistance per cell, ohm (Rasch et al. 2023), of an array whose cells are 1 to 40 uS."""
GOALS = {
    "L0 int8, no noise": 0.50,
    "L0 int8, fixed noise": 0.65,
    "L0 int8, exact variance": 1.1,
    "L0 int15, fixed noise": 0.9,
    "L0 int15, exact variance": 1.6,
    "L1 8 x 1 bit, fixed noise": 3.5,
    "L1 4 x 2 bit, fixed noise": 1.8,
    "L2 4 x 2 bit x 8 planes, no noise": 18.0,
    "L2 4 x 2 bit x 8 planes, fixed noise": 30.0,
    "L3 IR drop, int15, fixed noise": 0.9,
}
"""Batch >= 256, tiles of 256 rows."""


def goals(shape):
    """Largest ratios wanted at a shape, by case."""
    if shape.batch == 1:
        return {
            f"L0 {grid}, {noise}": 1.3
            for grid in ("int8", "int15")
            for noise in ("no noise", "fixed noise", "exact variance")
        }
    if shape == TRANSFORMER:
        return {"L0 int8, fixed noise": 1.0}
    return GOALS if shape.batch >= 256 and shape.rows == 256 else {}


# -- the cases -------------------------------------------------------------------------------------------------------


def product(inputs, weights, variance=None, factors=(1.0,)):
    """A product with a converter of 8 bits whose range fits a sample of the partial sums."""
    rows = weights.shape[1]
    sums = inputs[:, :4, :rows].astype(np.float64) @ weights[0].astype(np.float64)
    lo, hi = float(sums.min()), float(sums.max())
    return Product(inputs, weights, variance, factors, AdcRange(lo, hi, (hi - lo) / 255))


def noisy(plain, kind):
    """The product with noise of about one code, or as it is."""
    if kind == "no noise":
        return plain
    _, batch, _ = plain.inputs.shape
    tiles, rows, cols = plain.weights.shape
    scale, sigma = 0.0, np.full((tiles, cols), plain.adc.step)
    if kind == "exact variance":
        driven = plain.inputs[:, :, :rows].astype(np.float64) ** 2
        scale, sigma = plain.adc.step / float((driven.mean() * rows * plain.variance.mean()) ** 0.5), None
    counted = np.arange(batch, dtype=np.uint32)
    return plain._replace(noise=NoiseStream(scale, counted, (1, 2), Purpose.READ, 0, sigma=sigma))


def both(inputs, weights, variance, factors, kind):
    """The product with noise of one kind; variances are kept only where they are read."""
    return [noisy(product(inputs, weights, variance if kind == "exact variance" else None, factors), kind)]


def level_0(shape, random):
    """Signed 8-bit codes, one plane, on both grids."""
    codes = random.integers(-127, 128, (1, shape.batch, shape.tiles * shape.rows)).astype(np.int8)
    found = {}
    for grid, largest in GRIDS.items():
        weights = random.integers(-largest, largest + 1, shape[1:]).astype(np.int16)
        variance = random.integers(0, 16384, shape[1:]).astype(np.int16)
        for kind in KINDS:
            found[f"L0 {grid}, {kind}"] = both(codes, weights, variance, (1.0,), kind)
    return found


def bits(shape, random, kernels, *, width):
    """The planes of random 8-bit codes, and what each counts."""
    codes = random.integers(0, 256, (shape.batch, shape.tiles * shape.rows)).astype(np.int16)
    stacked = kernels.planes(codes, bits=width, count=8 // width)
    return stacked, tuple(float(2 ** (width * k)) for k in range(len(stacked)))


def level_1(shape, random, kernels):
    """Planes of 1 and of 2 bits, each converted, on the int8 grid."""
    weights = random.integers(-127, 128, shape[1:]).astype(np.int16)
    variance = random.integers(0, 16384, shape[1:]).astype(np.int16)
    found = {}
    for width in (1, 2):
        stacked, factors = bits(shape, random, kernels, width=width)
        for kind in KINDS[1:]:
            name = f"L1 {8 // width} x {width} bit, {kind}"
            found[name] = both(stacked, weights, variance, factors, kind)
    return found


def level_2(shape, random, kernels):
    """Four slices of analog cells and two signs, eight one-bit planes: 64 conversions per partial sum."""
    stacked, factors = bits(shape, random, kernels, width=1)
    plain = [
        product(stacked, random.integers(0, 128, shape[1:]).astype(np.int16), None, tuple(sign * 4.0**s * f for f in factors))
        for s in range(4)
        for sign in (1, -1)
    ]  # fmt: skip
    name = "L2 4 x 2 bit x 8 planes"
    return {f"{name}, {kind}": [noisy(p, kind) for p in plain] for kind in KINDS[:2]}


def level_3(shape, random):
    """Effective conductances of one array with wires, on the int15 grid, in every tile: as fast as any other weights."""
    across = min(256, shape.cols)
    cells = random.uniform(1e-6, 40e-6, (1, shape.rows, across))
    effective = transfer(cells, SEGMENT, SEGMENT)[0]
    grid = np.rint(effective / effective.max() * GRIDS["int15"]).astype(np.int16)
    weights = np.tile(grid, (shape.tiles, 1, -(-shape.cols // across)))[:, :, : shape.cols].copy()
    codes = random.integers(-127, 128, (1, shape.batch, shape.tiles * shape.rows)).astype(np.int8)
    return {"L3 IR drop, int15, fixed noise": both(codes, weights, None, (1.0,), "fixed noise")}


def cases(shape, kernels):
    """Name -> products, each added to the same result. Few rows: L0 alone, as the other levels are many of it."""
    random = np.random.default_rng(0)
    found = level_0(shape, random)
    if shape.batch > FEW_ROWS:
        found |= level_1(shape, random, kernels) | level_2(shape, random, kernels)
    return found | (level_3(shape, random) if shape in (SHAPES[0], QUICK[0]) else {})


# -- what is timed ---------------------------------------------------------------------------------------------------


def run(kernels, operands, products, out):
    """All products of a case, added to `out`."""
    for p, operand in zip(products, operands, strict=True):
        kernels.mvm(p.inputs, operand, adc=p.adc, noise=p.noise, weights=p.factors, out=out)


def check(name, kernels, operands, products, shape):
    """Stop a bench of wrong results: the first and last rows must be the reference's bits."""
    found = np.zeros((shape.batch, shape.cols))
    run(kernels, operands, products, found)
    rows = sorted({0, shape.batch // 2, shape.batch - 1})[:CHECKED]
    reference, expected = get_kernels("reference"), np.zeros((len(rows), shape.cols))
    block = [
        p._replace(inputs=p.inputs[:, rows], noise=p.noise and p.noise._replace(rows=p.noise.rows[rows]))
        for p in products
    ]
    run(reference, [reference.prepare(p.weights, p.variance) for p in block], block, expected)
    if not np.array_equal(found[rows], expected):
        worst = float(np.abs(found[rows] - expected).max())
        raise SystemExit(
            f"{shape}, {name}: differs from the reference by up to {worst:g}; times of wrong results mean nothing"
        )


def contenders(shape, kernels):
    """Name -> what to time: the baselines, the DAC, then the cases."""
    random = np.random.default_rng(1)
    x = random.standard_normal((shape.batch, shape.tiles * shape.rows)).astype(np.float32)
    w = random.standard_normal((shape.tiles * shape.rows, shape.cols)).astype(np.float32)
    out, wide = np.empty((shape.batch, shape.cols), np.float32), np.zeros((shape.batch, shape.cols))
    xt, wt, ot = torch.from_numpy(x), torch.from_numpy(w), torch.empty(shape.batch, shape.cols)
    packed, full = pack(wt.T.contiguous()), np.full(shape.batch, 3.0)
    codes = kernels.encode(x, full, largest=255, signed=False, width=x.shape[1])
    plain = {BASELINES[0]: lambda: np.matmul(x, w, out=out), BASELINES[1]: lambda: torch.mm(xt, wt, out=ot)}
    found = {
        **common.also_alone(plain, OPTIONS.threads),
        PREPACKED: lambda: packed(xt),
        "DAC, 8 bit signed": lambda: kernels.encode(x, full, largest=127, signed=True, width=x.shape[1]),
        "planes, 8 x 1 bit": lambda: kernels.planes(codes, bits=1, count=8),
    }
    for name, products in cases(shape, kernels).items():
        operands = [kernels.prepare(p.weights, p.variance) for p in products]
        check(name, kernels, operands, products, shape)
        found[name] = lambda o=operands, p=products: run(kernels, o, p, wide)
    return found


def main():
    """Measure and print."""
    kernels = get_kernels(OPTIONS.backend)
    shapes = QUICK if OPTIONS.quick else SHAPES + ((LARGEST,) if OPTIONS.full else ())
    rows = []
    for shape in shapes:
        seconds = common.interleaved(contenders(shape, kernels), runs=OPTIONS.runs)
        wanted = {} if OPTIONS.quick else goals(shape)
        rows += common.ratios(seconds, BASELINES, wanted, shape=str(shape), tile_rows=shape.rows)
    checked = f"Every product equals the reference bit for bit on up to {CHECKED} rows. Backend: {kernels.__name__}."
    common.publish("mvm", rows, common.RATIOS, OPTIONS, notes=(checked,))


if __name__ == "__main__":
    main()
