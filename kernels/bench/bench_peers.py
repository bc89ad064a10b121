"""Time what other simulators need for the same work, beside plain matrix products.

    python kernels/bench/bench_peers.py [--json] [--save FILE] [--runs 5] [--threads 1] [--quick]

The work: a product with DAC and ADC of 8 bits, one conversion per tile of 256 rows and Gaussian noise on every conversion, 1024 x 1024, at batch 32
and 256, over the fastest of NumPy's and torch's float32 product; and a training step of a frozen layer with four frozen LoRA modules of
rank 8, batch 32, whose coefficients and magnitude train, over the same with plain torch layers. Peers: aihwkit-lightning, aihwkit
(its tile in plain torch) and CrossSim; one that cannot be imported is reported as "not installed". They need not be installed beside
this project: run the script with the interpreter of an environment that holds them, NumPy and torch.

CrossSim has no noise per conversion: it is timed without, and with noise of the cells at batch 32, which it draws cell by cell.
"""

from __future__ import annotations

import common

OPTIONS = common.chosen(common.parser(__doc__, runs=5))

import contextlib  # noqa: E402
import io  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

from crossbar_kernels import AdcRange, NoiseStream, get_kernels  # noqa: E402
from crossbar_kernels.philox import Purpose  # noqa: E402

SIDE, TILE_ROWS, BATCHES = (64, 32, (8,)) if OPTIONS.quick else (1024, 256, (256, 32))
STEP_BATCH, MODULES, RANK = 32, 4, 8
NOISE = 0.06
"""Noise at a tile's outputs, in units of a full-scale input times a full-scale weight; aihwkit's default."""
BASELINES = ("numpy sgemm", "torch sgemm")
OWN = "crossbar_kernels, DAC and L0 int15, fixed noise"
PLAIN = "training step, plain torch"
SLOW = 2
"""Samples of a rival that takes seconds."""
SAME = 0.8
"""Least correlation with the plain product."""


def own(w, x):
    """This project's kernels on the same work: DAC, product on the int15 grid, noise, ADC."""
    kernels, full = get_kernels(), np.full(len(x), 4.0)
    grid = np.rint(w.T.numpy().reshape(-1, TILE_ROWS, SIDE) / float(w.abs().max()) * 16383).astype(np.int16)
    unit = 127 * 16383 / (4.0 * float(w.abs().max()))
    span, rows = 4.0 * unit, np.arange(len(x), dtype=np.uint32)
    sigma = np.full((len(grid), SIDE), NOISE * unit)
    prepared = kernels.prepare(grid)
    adc, noise = (
        AdcRange(-span, span, 2 * span / 254),
        NoiseStream(0.0, rows, (1, 2), Purpose.READ, 0, sigma=sigma),
    )

    def work():
        codes = kernels.encode(x.numpy(), full, largest=127, signed=True, width=SIDE)
        return kernels.mvm(codes, prepared, adc=adc, noise=noise)

    return work


# -- peers: name -> a function that makes a layer of a weight [out, in] ----------------------------------------------


def lightning():
    """aihwkit-lightning: a layer; noise acts in train() alone."""
    from aihwkit_lightning.nn import AnalogLinear
    from aihwkit_lightning.simulator.configs import TorchInferenceRPUConfig

    config = TorchInferenceRPUConfig()
    config.forward.inp_res = config.forward.out_res = 2**8 - 2
    config.forward.out_noise, config.forward.out_bound = NOISE, 12.0
    config.mapping.max_input_size = TILE_ROWS
    config.pre_post.input_range.enable = True
    config.pre_post.input_range.learn_input_range = False
    config.pre_post.input_range.init_from_data, config.pre_post.input_range.init_value = 0, 4.0
    return lambda weight: filled(
        AnalogLinear(weight.shape[1], weight.shape[0], bias=False, rpu_config=config), weight
    )


def filled(layer, weight):
    """A lightning layer with these weights, frozen."""
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer.train().requires_grad_(False)


def aihwkit():
    """aihwkit: a layer on its torch tile."""
    from aihwkit.nn import AnalogLinearMapped
    from aihwkit.simulator.configs import TorchInferenceRPUConfig

    config = TorchInferenceRPUConfig()
    config.forward.inp_res = config.forward.out_res = 1 / (2**8 - 2)
    config.forward.out_noise = NOISE
    config.mapping.max_input_size, config.mapping.max_output_size = TILE_ROWS, 0

    def made(weight):
        layer = AnalogLinearMapped(weight.shape[1], weight.shape[0], bias=False, rpu_config=config)
        layer.set_weights(weight)
        return layer.train().requires_grad_(False)

    return made


def crosssim(*, noisy=False):
    """CrossSim: a core as a function of [batch, in] NumPy arrays."""
    from simulator import AnalogCore, CrossSimParameters

    converters = CrossSimParameters()
    converters.core.rows_max = converters.core.cols_max = TILE_ROWS
    for converter, model in ((converters.xbar.adc, "QuantizerADC"), (converters.xbar.dac, "QuantizerDAC")):
        converter.mvm.model, converter.mvm.bits = model, 8
    converters.xbar.adc.mvm.adc_range_option = "MAX"
    converters.core.mapping.inputs.mvm.min, converters.core.mapping.inputs.mvm.max = -4.0, 4.0
    if noisy:
        converters.xbar.device.read_noise.enable = True
        converters.xbar.device.read_noise.model = "NormalProportionalDevice"
        converters.xbar.device.read_noise.magnitude = 0.01

    def made(weight):
        core = AnalogCore(weight.numpy(), params=converters)
        return lambda x: (core @ x.T).T

    return made


PEERS = {
    "aihwkit-lightning": (lightning, "aihwkit-lightning"),
    "aihwkit, torch tile": (aihwkit, "aihwkit"),
    "CrossSim, no noise": (crosssim, "cross-sim"),
    "CrossSim, noise of cells": (lambda: crosssim(noisy=True), "cross-sim"),
}


def found_peers():
    """Name -> maker, or None where the peer cannot be imported."""
    makers = {}
    for name, (load, _) in PEERS.items():
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # some print when they are imported
                makers[name] = load()
        except ImportError:
            makers[name] = None
    return makers


def known(package, maker):
    """A peer's version; one that was only put on the path has none."""
    version = common.installed(package)
    return "on the path, version unknown" if maker is not None and version == "not installed" else version


# -- the work --------------------------------------------------------------------------------------------------------


def weight(rows=SIDE, cols=SIDE):
    """Weights [rows, cols] of about unit outputs."""
    return torch.randn(rows, cols) / cols**0.5


def same(name, found, expected):
    """Stop a bench of wrong results.

    Raises:
        SystemExit: the peer's numbers have little to do with the plain product.
    """
    near = float(np.corrcoef(np.asarray(found).ravel(), np.asarray(expected).ravel())[0, 1])
    if near < SAME:
        raise SystemExit(
            f"{name}: correlates with the plain product by {near:.2f} only (need {SAME}); is it set up as meant?"
        )


def called(made, x):
    """One product without gradients; CrossSim takes NumPy arrays."""
    argument = x if isinstance(made, nn.Module) else x.numpy()
    return lambda: made(argument)


@torch.no_grad()
def forward_rows(makers, batch):
    """The product at one batch."""
    torch.manual_seed(0)
    x, w = torch.randn(batch, SIDE), weight()
    xn, wn, out, outn = (
        x.numpy(),
        w.T.contiguous().numpy(),
        torch.empty(batch, SIDE),
        np.empty((batch, SIDE), np.float32),
    )
    wt = torch.from_numpy(wn)
    products = {
        BASELINES[0]: lambda: np.matmul(xn, wn, out=outn),
        BASELINES[1]: lambda: torch.mm(x, wt, out=out),
    }
    work = common.also_alone(products, OPTIONS.threads)
    work[OWN] = own(w, x)
    same(OWN, work[OWN](), x @ w.T)
    slow = {}
    for name, maker in makers.items():
        if maker is None or (name == "CrossSim, noise of cells" and batch > STEP_BATCH):
            continue  # it draws every cell for every input: gigabytes at batch 256
        work[name] = called(maker(w), x)
        same(name, work[name](), x @ w.T)
        slow |= {name: SLOW} if name == "CrossSim, noise of cells" else {}
    seconds = common.interleaved(work, runs=OPTIONS.runs, at_most=slow)
    return common.ratios(seconds, BASELINES, {}, shape=f"{batch}x{SIDE}x{SIDE}")


def training_step(layers, x, grad):
    """Forward and backward of y = g (W0 x + B (c A x)); c and g train, x takes a gradient."""
    base, a, b = layers
    c, g = torch.full((MODULES, 1), 1.0 / MODULES, requires_grad=True), torch.ones(SIDE, requires_grad=True)

    def once():
        for leaf in (x, c, g):
            leaf.grad = None
        u = a(x).unflatten(-1, (MODULES, RANK))
        (g * (base(x) + b((c * u).flatten(-2)))).backward(grad)

    return once


def plain(w):
    """A frozen nn.Linear."""
    layer = nn.Linear(w.shape[1], w.shape[0], bias=False).requires_grad_(False)
    with torch.no_grad():
        layer.weight.copy_(w)
    return layer


def step_rows(makers):
    """The training step of peers with gradients through their layers."""
    torch.manual_seed(1)
    matrices = weight(), weight(MODULES * RANK, SIDE), weight(SIDE, MODULES * RANK)
    x, grad = torch.randn(STEP_BATCH, SIDE, requires_grad=True), torch.randn(STEP_BATCH, SIDE)
    work = common.also_alone({PLAIN: training_step([plain(w) for w in matrices], x, grad)}, OPTIONS.threads)
    for name, maker in makers.items():
        if maker is not None and not name.startswith("CrossSim"):
            work[f"training step, {name}"] = training_step([maker(w) for w in matrices], x, grad)
    seconds = common.interleaved(work, runs=OPTIONS.runs)
    return common.ratios(seconds, [PLAIN], {}, shape=f"{STEP_BATCH}x{SIDE}x{SIDE}")


def main():
    """Measure and print."""
    makers = found_peers()
    rows = [row for batch in BATCHES for row in forward_rows(makers, batch)] + step_rows(makers)
    rows += [
        {"shape": "", "name": name, "met": "not installed"} for name, maker in makers.items() if maker is None
    ]
    notes = sorted({f"{package} {known(package, makers[name])}" for name, (_, package) in PEERS.items()})
    common.publish("peers", rows, common.RATIOS, OPTIONS, notes=notes)


if __name__ == "__main__":
    main()
