"""Time layers and training steps on a simulated chip against the same in plain torch.

    python experiments/bench/bench_layers.py [--json] [--save FILE] [--runs 9] [--threads 1] [--quick]

forward     `CrossbarLinear` over `nn.Linear`, 1024 x 1024, without gradients: a chip as its card says, and one on the int8 grid that
            does not draw read noise. DAC, ADC, bookings and torch's tensors are inside the time.
fusion step forward and backward of base and four frozen LoRA modules of rank 8, 1024 x 1024, batch 32; coefficients, magnitude and
            the input take gradients. Over the faster of the same module in plain torch and of the sum written out by hand.
adaptation  one step of the real loop: MiniLM and the shipped pool on the chip, fusion, over plain torch and LoRA; the demo's batch.
booking     what of that step goes into the ledger's bookings (shapes, masks, counts, sums of squared codes), over the step itself.

Both sides of a ratio are timed in turn in the same run.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[2]
PLACES = (ROOT / "kernels" / "bench", ROOT / "crossbar_kernels" / "_bench")  # a checkout, a wheel
sys.path.insert(0, str(next(place for place in PLACES if place.is_dir())))

import common  # noqa: E402

OPTIONS = common.parser(__doc__)
OPTIONS.add_argument("--card", default="hfo2_neurram", help="the chip's card (default: hfo2_neurram)")
OPTIONS.add_argument("--backend", default="auto", help="backend of the chip's products (default: auto)")
OPTIONS = common.chosen(OPTIONS)

import torch  # noqa: E402
from torch import nn  # noqa: E402

from crossbar_experiments import tasks  # noqa: E402
from crossbar_experiments.chips import ChipConfig  # noqa: E402
from crossbar_experiments.config import PoolConfig, find_config, load_experiment  # noqa: E402
from crossbar_experiments.deploy import deploy, make_chip  # noqa: E402
from crossbar_experiments.model import load_classifier, minilm_folder  # noqa: E402
from crossbar_experiments.pool import shuffled_batches  # noqa: E402
from crossbar_experiments.run import load_library  # noqa: E402
from crossbar_sim import convert  # noqa: E402
from crossbar_sim.chip import Site  # noqa: E402
from crossbar_sim.digital_hooks import Hook  # noqa: E402
from crossbar_sim.layers import CrossbarProduct, DigitalProduct  # noqa: E402
from crossbar_sim.presets import EFFECTS  # noqa: E402
from crossbar_sim.reading import Reader  # noqa: E402
from crossbar_sim.tally import Tally  # noqa: E402
from lorafusion.architectures import adapted_layers, architecture  # noqa: E402
from lorafusion.layers import AdapterPool, FusedLoraLinear, Magnitude  # noqa: E402
from lorafusion.methods import Context  # noqa: E402
from lorafusion.methods.fusion import FusionConfig  # noqa: E402
from lorafusion.methods.lora import LoraConfig  # noqa: E402
from lorafusion.train import Training, train  # noqa: E402

SIDE = 64 if OPTIONS.quick else 1024
BATCHES = (1, 32, 256)
MODULES, RANK, STEP_BATCH = 4, 8, 32
FORWARD_GOALS = {1: 1.6, 32: 0.9, 256: 0.9}
STEP_GOAL, ADAPTATION_GOAL, BOOKING_GOAL = 1.2, 1.5, 0.02
TASK = "wn-pos"
BEST = "NumPy's product alone"
"""For information: a forward's goal is over `nn.Linear`, whose product is not the fastest on every machine."""
SAME = 0.8
"""Least correlation of a chip's outputs with plain torch's: cells and converters are noisy, mistakes are uncorrelated."""


def chip_config(**changes):
    """The chip's settings; written by published statistics, which gives the same cells in less time."""
    return ChipConfig(preset=OPTIONS.card, backend=OPTIONS.backend, statistical=True, **changes)


def chips():
    """Name -> chip settings of the forward rows."""
    quiet = {"grid": "int8", "effects": tuple(e for e in EFFECTS if e not in ("read_noise", "ir_drop"))}
    return {OPTIONS.card: chip_config(), f"{OPTIONS.card}, int8, no noise": chip_config(**quiet)}


def on_chip(config, linear, inputs):
    """A copy of a linear layer on a new chip, calibrated."""
    copy = nn.Linear(linear.in_features, linear.out_features)
    copy.load_state_dict(linear.state_dict())
    model, chip = nn.Sequential(copy), make_chip(config)
    convert(model, chip)
    chip.calibrate(model, [{"input": inputs}])
    return model[0]


def same(name, found, expected):
    """Stop a bench of wrong results.

    Raises:
        SystemExit: the chip's numbers have little to do with plain torch's.
    """
    both = torch.stack([found.detach().flatten(), expected.detach().flatten()]).double()
    if (near := float(torch.corrcoef(both)[0, 1])) < SAME:
        raise SystemExit(
            f"{name}: correlates with plain torch by {near:.2f} only (need {SAME}); times of wrong results mean nothing"
        )


# -- forward ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def forward_rows():
    """`CrossbarLinear` over `nn.Linear`, batch by batch."""
    torch.manual_seed(0)
    plain, inputs = nn.Linear(SIDE, SIDE), torch.randn(max(BATCHES), SIDE)
    layers = {name: on_chip(config, plain, inputs) for name, config in chips().items()}
    for name, layer in layers.items():
        same(name, layer(inputs), plain(inputs))
    rows, weight = [], plain.weight.detach().numpy().T
    for batch in BATCHES:
        x = inputs[:batch]
        plains = {"nn.Linear": lambda x=x: plain(x)}
        best = {BEST: lambda x=x: x.numpy() @ weight}
        own = {f"forward, {name}": lambda x=x, layer=layer: layer(x) for name, layer in layers.items()}
        rows += measured(plains, best | own, FORWARD_GOALS[batch], f"{batch}x{SIDE}x{SIDE}")
    return rows


def measured(plains, own, goal, shape):
    """Rows of a group that is timed in turn, the plain ones on one thread, too; tiny layers have no goal."""
    work = common.also_alone(plains, OPTIONS.threads) | own
    goals = {} if OPTIONS.quick else dict.fromkeys((name for name in own if name != BEST), goal)
    return common.ratios(common.interleaved(work, runs=OPTIONS.runs), plains, goals, shape=shape)


# -- one fused layer -------------------------------------------------------------------------------------------------


def weights():
    """Base [out, in], A-stack [N r, in] and B-stack [out, N r]."""
    torch.manual_seed(1)
    width = MODULES * RANK
    base, a, b = torch.randn(SIDE, SIDE), torch.randn(width, SIDE), torch.randn(SIDE, width)
    return base / SIDE**0.5, a / SIDE**0.5, 0.1 * b


def fused(base, a, b):
    """A fused layer of three products."""
    coefficients = nn.Parameter(torch.full((MODULES,), 1.0 / MODULES))
    return FusedLoraLinear(
        base, None, pool=AdapterPool(a, b, MODULES), coefficients=coefficients, magnitude=Magnitude(SIDE)
    )


def fused_on_chip(matrices, inputs):
    """The layer on a calibrated chip, and the chip."""
    chip = make_chip(chip_config())
    products = [
        CrossbarProduct(chip.program(matrix.numpy(), name=name, layer="fused", matrix=name))
        for name, matrix in zip(("base", "A", "B"), matrices, strict=True)
    ]
    layer = fused(*products)
    with torch.no_grad():
        chip.calibrate(layer, [{"x": inputs}])
    return layer, chip


def by_hand(matrices):
    """The same in plain torch, written out: y = g (W0 x + B (c A x))."""
    base, a, b = matrices
    c, g = torch.full((MODULES,), 1.0 / MODULES, requires_grad=True), torch.ones(SIDE, requires_grad=True)

    def layer(x):
        u = nn.functional.linear(x, a).unflatten(-1, (MODULES, RANK))
        return g * (nn.functional.linear(x, base) + nn.functional.linear((c[:, None] * u).flatten(-2), b))

    return layer, (c, g)


def step(layer, parameters, x, grad, before=lambda: None):
    """Forward and backward from fresh gradients."""

    def once():
        before()
        for leaf in (x, *parameters):
            leaf.grad = None
        layer(x).backward(grad)

    return once


def step_rows():
    """Training step of one fused layer."""
    matrices = weights()
    x, grad = torch.randn(STEP_BATCH, SIDE, requires_grad=True), torch.randn(STEP_BATCH, SIDE)
    layer, chip = fused_on_chip(matrices, x.detach())
    digital = fused(*(DigitalProduct(matrix) for matrix in matrices))
    hand, trained = by_hand(matrices)
    name = f"fusion step, {OPTIONS.card}"
    same(name, layer(x), hand(x))
    plains = {
        "fusion step, plain torch by hand": step(hand, trained, x, grad),
        "fusion step, plain torch": step(digital, digital_parameters(digital), x, grad),
    }
    own = {name: step(layer, digital_parameters(layer), x, grad, chip.next_event)}
    return measured(plains, own, STEP_GOAL, f"{STEP_BATCH}x{SIDE}x{SIDE}")


def digital_parameters(layer):
    """What trains: coefficients and magnitude."""
    return layer.coefficients, layer.magnitude.weight


# -- adaptation of a transformer -------------------------------------------------------------------------------------


def texts(classifier, data):
    """A task's training texts as tokens, and the embedded names of its classes."""
    split = tasks.load(TASK, seed=0, train=data.train, validation=data.validation, test=0)
    classifier.set_classes(split.classes)
    return classifier.tokens([e.text for e in split.train], split.labels("train"))


def adaptation_step(classifier, method, context, data, batch):
    """One step of the real loop, on the next batch."""
    tokens = texts(classifier, data)
    adaptation = method.attach(classifier.encoder, context)
    batches = cycle(list(shuffled_batches(tokens, Training(8, batch), torch.Generator().manual_seed(0))))
    loss, once = (lambda _, b: classifier.loss(b)), Training(steps=1, batch=batch)
    return lambda: train(adaptation, islice(batches, 1), loss, training=once, chip=context.chip)


def adaptation_rows():
    """A step of MiniLM's adaptation; not run with tiny shapes, as the model has its size."""
    shape, name = "MiniLM", f"adaptation, fusion on {OPTIONS.card}"
    if OPTIONS.quick:
        return [{"shape": shape, "name": name, "goal": ADAPTATION_GOAL, "met": "not run (--quick)"}]
    demo = load_experiment(find_config("demo")).cells()[0]
    folder, batch = minilm_folder(), demo.training.batch
    deployment = deploy(chip_config(), folder, load_library(PoolConfig()), max_tokens=demo.model.max_tokens)
    plain = load_classifier(folder, max_tokens=demo.model.max_tokens)
    layers = adapted_layers(plain.encoder, architecture("minilm-l6").targets)
    seeded = torch.Generator().manual_seed(0)
    lora = adaptation_step(plain, LoraConfig(), Context(layers, seeded), demo.data, batch)
    context = deployment.context(seeded)
    fusion = adaptation_step(deployment.classifier, FusionConfig(), context, demo.data, batch)
    plains = {"adaptation, LoRA in plain torch": lora}
    rows = measured(plains, {name: fusion}, ADAPTATION_GOAL, f"{shape}, batch {batch}")
    return [*rows, booking_row(fusion, f"{shape}, batch {batch}")]


# -- booking ---------------------------------------------------------------------------------------------------------

BOOKS = (
    *((kind, "book") for kind in (Site, Tally, Reader)),
    (Site, "book_physics"),
    (Hook, "__call__"),
    (Reader, "_book_digits"),
    (FusedLoraLinear, "_book_forward"),
    *((CrossbarProduct, name) for name in ("book_kept", "book_backward")),
)
"""Everything that books, by class and method."""


class Watch:
    """A clock that runs while any of some functions does; one that another of them calls is not counted twice."""

    def __init__(self):
        self.seconds, self._running = 0.0, False

    def around(self, function):
        """The function, timed."""

        def timed(*args, **kwargs):
            if self._running:
                return function(*args, **kwargs)
            self._running, start = True, time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start
                self._running = False

        return timed


def booking_row(work, shape):
    """The share of a step's time that its bookings take, both of the same run."""
    watch, booked, whole = Watch(), [], []
    with ExitStack() as patches:
        for kind, name in BOOKS:
            patches.enter_context(patch.object(kind, name, watch.around(getattr(kind, name))))
        for _ in range(OPTIONS.runs):
            watch.seconds, start = 0.0, time.perf_counter()
            work()
            whole.append(time.perf_counter() - start)
            booked.append(watch.seconds)
    of, all_of = common.spread(booked), common.spread(whole)
    share = of["median_ms"] / all_of["median_ms"]
    return {
        "shape": shape, "name": "booking, share of the step", **of, "baseline": "the step", "ratio": share,
        "ratio_of_minima": of["min_ms"] / all_of["min_ms"], "goal": BOOKING_GOAL, "met": common.verdict(share, BOOKING_GOAL),
    }  # fmt: skip


def main():
    """Measure and print."""
    rows = [*forward_rows(), *step_rows(), *adaptation_rows()]
    note = f"Outputs on the chip correlate with plain torch's by {SAME} or more (checked before timing)."
    common.publish("layers", rows, common.RATIOS, OPTIONS, notes=(note,))


if __name__ == "__main__":
    main()
