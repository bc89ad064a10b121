"""A chip whose products are computed on a device: what stays there, and that nothing is changed by it.

On a stand-in for CuPy whose arrays and tensors refuse every look at their values; `gpu` marks what needs a real device.
"""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest
import torch
from torch import nn

from crossbar_kernels import available, get_kernels
from crossbar_sim import Chip, Ranges, convert
from crossbar_sim.chip import Site
from crossbar_sim.layers import CrossbarLinear, CrossbarProduct
from crossbar_sim.ledger import ReadEnergy
from crossbar_sim.presets import edit, preset
from lorafusion.layers import AdapterPool, FusedLoraLinear, Magnitude

IN, OUT = 21, 13
WEIGHT = np.random.default_rng(1).normal(size=(OUT, IN)) * np.geomspace(0.2, 2, OUT)[:, None]
X = np.random.default_rng(2).normal(size=(3, 5, IN))
G = np.random.default_rng(3).normal(size=(3, 5, OUT)) * np.geomspace(1e-6, 10, 15).reshape(3, 5, 1)
MASK = np.array([[True] * 5, [True, False, True, False, False], [True, True, True, False, False]])
CARDS = {
    "signed codes": {},
    "a range per vector": {"periphery.scaling": "per_vector_absmax"},
    "planes": {"periphery.plane_bits": 2},
    "planes added in analog": {"periphery.plane_bits": 1, "periphery.accumulate": "analog"},
    "unsigned codes of 8 bits": {"periphery.signed": False, "periphery.dac_bits": 8},
    "slices and copies": {"mapping.slices": 2, "mapping.copies": 2, "device.levels": 4},
    "converters apart": {"periphery.subtract": "digital", "mapping.pair": "columns"},
    "an offset": {"mapping.coding": "offset", "mapping.pair": "columns"},
    "a unit column": {"mapping.coding": "offset", "mapping.pair": "columns", "mapping.offset": "unit_column"},
    "faulty, noisy converters": {
        "periphery.adc_offset": 0.5,
        "periphery.adc_gain": 0.01,
        "periphery.adc_noise": 0.3,
    },
    "a column that clips": {"periphery.column_clip": 3.0},
    "no converters of inputs": {"periphery.dac_bits": 0, "periphery.plane_bits": 0},
}


def chip_of(backend, changes=(), **options):
    card = edit(preset("hfo2_neurram"), {"tiles.rows": 32, "tiles.cols": 16} | dict(changes))
    return Chip(card, backend=backend, statistical=True, **options)


def array_of(backend, changes=(), **options):
    chip = chip_of(backend, changes, **options)
    array = chip.program(WEIGHT, name="w", ranges=Ranges(2.0, -20.0, 20.0))
    chip.advance(3600)
    return array


def books(chip):
    """Everything that a chip's ledger holds."""
    reads = {
        at: (entry.squares.tolist(), entry.conductance.tolist()) for at, entry in chip.ledger.reads.items()
    }
    return chip.ledger.rows(chip.preset.prices), reads


def same_books(a, b):
    (rows, reads), (other_rows, other_reads) = books(a), books(b)
    assert reads == other_reads
    assert str(rows) == str(other_rows)  # NaN is the same as NaN


def parts(array, place, dtype=torch.float64, mask=MASK):
    """A layer on an array, its input and its gradient, where `place` puts them."""
    array.chip.begin_batch(mask)
    bias = nn.Parameter(place(torch.linspace(-1, 1, OUT, dtype=dtype)), requires_grad=False)
    x = place(torch.from_numpy(X).to(dtype)).requires_grad_()
    return CrossbarLinear(CrossbarProduct(array), bias), x, place(torch.from_numpy(G).to(dtype))


def step(layer, x, g):
    """A forward and a backward pass: y and the gradient of x."""
    x.grad = None
    y = layer(x)
    y.backward(g)
    return y, x.grad


def numbers(tensor):
    """The values of a tensor of any place and type."""
    return tensor.detach().as_subclass(torch.Tensor).cpu().double().numpy()


def on_host(tensor):
    return tensor


@pytest.fixture
def no_waiting(device, monkeypatch):
    """Call it, and copies from the device are refused, and copies to it are noted in what it gives."""

    def begin():
        cupy, uploads = sys.modules["cupy"], []
        known = cupy.asarray

        def asarray(values):
            if not isinstance(values, device.Array | torch.Tensor):
                uploads.append(values)
            return known(values)

        def asnumpy(array):
            raise device.WaitError("a copy from the device")

        monkeypatch.setattr(cupy, "asarray", asarray)
        monkeypatch.setattr(cupy, "asnumpy", asnumpy)
        return uploads

    return begin


def compare(expected, got, changes, dtype):
    """Same bits; without codes, sums in the order of the BLAS."""
    largest = {torch.bfloat16: 0.01, torch.float32: 1e-6, torch.float64: 1e-12}[dtype]
    for want, found in zip(map(numbers, expected), map(numbers, got), strict=True):
        exact = changes.get("periphery.dac_bits") != 0
        np.testing.assert_allclose(found, want, rtol=0, atol=0 if exact else largest * np.abs(want).max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("changes", CARDS.values(), ids=CARDS)
def test_products_and_gradients_on_the_device_have_the_bits_of_the_cpu(device, changes, dtype):
    cpu, there = array_of("reference", changes), array_of("cupy", changes)
    expected = step(*parts(cpu, on_host, dtype))
    got = step(*parts(there, device.to_device, dtype))
    assert type(got[0]) is device.Tensor  # what autograd hands on is a plain tensor on the stand-in
    assert got[0].dtype == got[1].dtype == dtype
    compare(expected, got, changes, dtype)
    same_books(cpu.chip, there.chip)


@pytest.mark.parametrize("changes", CARDS.values(), ids=CARDS)
def test_a_step_neither_waits_nor_uploads_what_is_there_already(no_waiting, device, changes):
    array = array_of("cupy", changes)
    layer, x, g = parts(array, device.to_device)
    step(layer, x, g)
    uploads = no_waiting()
    array.chip.next_event()
    step(layer, x, g)
    assert uploads == []


@pytest.mark.parametrize("changes", CARDS.values(), ids=CARDS)
def test_lines_that_are_off_are_off_on_the_device_and_their_masks_go_there_once(no_waiting, device, changes):
    cpu, there = array_of("reference", changes), array_of("cupy", changes)
    for array in (cpu, there):
        array.gate(outputs=np.arange(OUT) % 3 > 0, inputs=np.arange(IN) % 4 > 0)
    expected, (layer, *tensors) = step(*parts(cpu, on_host)), parts(there, device.to_device)
    compare(expected, step(layer, *tensors), changes, torch.float64)
    same_books(cpu.chip, there.chip)
    step(layer, *tensors)  # the ledger was looked at: its sums go back to the device
    uploads = no_waiting()
    step(layer, *tensors)
    assert uploads == []


def test_a_look_at_the_ledger_is_what_waits(no_waiting, device):
    array = array_of("cupy")
    step(*parts(array, device.to_device))
    no_waiting()
    with pytest.raises(device.WaitError, match="a copy from the device"):
        array.chip.ledger.rows(array.chip.preset.prices)


def test_reads_on_the_device_add_up_however_often_somebody_looks(device):
    cpu, there = array_of("numba"), array_of("cupy")
    for array, place in ((cpu, on_host), (there, device.to_device)):
        layer, x, g = parts(array, place)
        for event in range(4):
            with array.chip.ledger.scope(task=str(event % 2), phase="forward"):
                step(layer, x, g)
                if event == 1:
                    array.chip.ledger = array.chip.ledger.copy() + pickle.loads(
                        pickle.dumps(array.chip.ledger)
                    )
            array.chip.next_event()
    same_books(cpu.chip, there.chip)


def test_an_account_adds_what_was_read_on_the_host_and_on_the_device(device):
    codes = np.arange(-6, 6, dtype=np.int8).reshape(2, 1, 6)
    entry = ReadEnergy(np.zeros(5, np.int64), np.ones(5), 1.0)
    for name in ("numba", "cupy", "cupy", "reference", "cupy"):
        entry.add(codes, get_kernels(name))
    assert entry.squares.tolist() == (5 * (codes.astype(int) ** 2).sum((0, 1)))[:5].tolist()


def test_a_chip_with_reads_on_the_device_can_be_pickled(device):
    array = array_of("cupy")
    layer, x, g = parts(array, device.to_device)
    step(layer, x, g)
    again = pickle.loads(pickle.dumps(array)).chip
    same_books(array.chip, again)
    expected, got = layer(x), CrossbarLinear(CrossbarProduct(again.arrays["w"]), layer.bias)(x)
    assert np.array_equal(numbers(expected), numbers(got))


def test_host_tensors_are_uploaded_and_their_results_brought_back(device):
    expected = step(*parts(array_of("numba"), on_host))
    array = array_of("cupy")
    got = step(*parts(array, on_host))
    assert all(type(t) is torch.Tensor for t in got)
    compare(expected, got, {}, torch.float64)
    assert isinstance(array.mvm(X), np.ndarray)
    assert isinstance(array.mvm(sys.modules["cupy"].asarray(X)), device.Array)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["signed codes", "a range per vector", "no converters of inputs"])
def test_vectors_that_are_not_finite_give_nan_and_leave_the_others_alone(device, name, value):
    layer, x, _ = parts(array_of("cupy", CARDS[name]), device.to_device, mask=None)
    with torch.no_grad():
        expected = numbers(layer(x))
        x[1, 2, 7] = value
        got = numbers(layer(x))
    assert np.isnan(got[1, 2]).all()
    got[1, 2] = expected[1, 2]
    assert np.array_equal(got, expected)


def test_a_mask_and_new_samples_are_uploaded_anew(device):
    found = {}
    for backend, place in (("reference", on_host), ("cupy", device.to_device)):
        array = array_of(backend)
        layer, x, _ = parts(array, place)
        results = [layer(x)]
        array.chip.begin_batch(~MASK)
        results.append(layer(x))
        with array.chip.samples_from(7):
            results.append(layer(x))
        found[backend] = [numbers(y) for y in results]
    assert all(np.array_equal(a, b) for a, b in zip(*found.values(), strict=True))


@pytest.mark.parametrize("backward", ["transposed", "nominal", "oracle"])
def test_ideal_chips_compute_where_the_tensor_is(backward):
    chip = Chip("ideal", backward=backward)
    layer = CrossbarLinear(CrossbarProduct(chip.program(WEIGHT, name="w")), None)
    x = torch.empty(2, IN, device="meta", requires_grad=True)
    y = layer(x)
    y.backward(torch.empty(2, OUT, device="meta"))
    assert y.device.type == x.grad.device.type == "meta"


def test_gated_columns_are_solved_on_the_host(device):
    found = []
    for backend, place in (("numba", on_host), ("cupy", device.to_device)):
        changes = {"wires.r_bl": 2.0, "wires.r_wl": 2.0, "wires.ladder": "gated", "periphery.plane_bits": 1}
        array = array_of(backend, changes | {"mapping.pair": "columns"}, ir_drop=True, backward="nominal")
        layer, x, _ = parts(array, place)
        found.append(layer(x))
    assert type(found[1]) is device.Tensor
    assert np.array_equal(numbers(found[0]), numbers(found[1]))


def test_a_model_on_the_device_is_calibrated_and_compensated(device):
    found = []
    for backend, place in (("numba", on_host), ("cupy", device.to_device)):
        torch.manual_seed(0)
        model, chip = nn.Sequential(nn.Linear(IN, OUT, bias=False)), chip_of(backend)
        convert(model, chip)
        x = place(torch.from_numpy(X).float())
        chip.calibrate(model, [{"input": x}])
        chip.advance(1e5)
        chip.compensate("column")
        found.append((model(x), chip))
    assert np.array_equal(numbers(found[0][0]), numbers(found[1][0]))
    same_books(found[0][1], found[1][1])


def fused(backend, place, merge, dtype=torch.float32):
    """A layer with a pool of 3 modules of rank 2 on one chip, and its input."""
    random = np.random.default_rng(5)
    chip = chip_of(backend, {"periphery.plane_bits": 2})
    base, a, b = (
        CrossbarProduct(chip.program(random.normal(size=shape), name=name, ranges=Ranges(3.0, -25.0, 25.0)))
        for name, shape in (("base", (OUT, IN)), ("A", (6, IN)), ("B", (OUT, 6)))
    )
    c = nn.Parameter(place(torch.tensor([0.7, -0.3, 1.4], dtype=dtype)))
    magnitude = Magnitude(OUT, norm=lambda c: 2 + c.square().sum() + 0 * c.new_zeros(OUT))
    magnitude.weight = nn.Parameter(place(magnitude.weight.detach().to(dtype)))
    site, pool = Site(chip, "layer", "own"), AdapterPool(a, b, 3)
    parts = {"pool": pool, "coefficients": c, "magnitude": magnitude, "merge": merge, "site": site}
    return FusedLoraLinear(base, None, **parts), place(torch.from_numpy(X).to(dtype)).requires_grad_(), chip


def train(layer, x, g, chip):
    """Two optimiser steps: the second result, the gradients, and the parameters."""
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1, foreach=False)
    for _ in range(2):
        optimiser.zero_grad()
        y, dx = step(layer, x, g)
        optimiser.step()
        chip.next_event()
    return y, dx, layer.coefficients.grad, layer.magnitude.weight.grad, *layer.parameters()


@pytest.mark.parametrize("merge", ["sum_of_products", "product_of_sums"])
def test_a_fused_layer_trains_on_the_device_as_on_the_cpu(device, merge):
    found, chips = [], []
    for backend, place in (("numba", on_host), ("cupy", device.to_device)):
        layer, x, chip = fused(backend, place, merge)
        g = place(torch.from_numpy(G).float())
        step(layer, x, g)
        with pytest.MonkeyPatch.context() as patch:
            if backend == "cupy":
                patch.setattr(sys.modules["cupy"], "asnumpy", None)  # a copy from the device fails
            found.append([numbers(t) for t in train(layer, x, g, chip)])
        chips.append(chip)
    for expected, got in zip(*found, strict=True):
        assert np.array_equal(expected, got)
    same_books(*chips)


REAL = [
    pytest.mark.gpu,
    pytest.mark.skipif("cupy" not in available(), reason="no CUDA device that CuPy and torch can use"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("changes", [pytest.param(c, id=name, marks=REAL) for name, c in CARDS.items()])
def test_a_real_device_has_the_bits_of_the_cpu(changes, dtype):
    cpu, there = array_of("reference", changes), array_of("cupy", changes)
    expected = step(*parts(cpu, on_host, dtype))
    got = step(*parts(there, torch.Tensor.cuda, dtype))
    assert all(t.is_cuda and t.dtype == dtype for t in got)
    compare(expected, got, changes, dtype)
    same_books(cpu.chip, there.chip)


@pytest.mark.gpu
@pytest.mark.skipif("cupy" not in available(), reason="no CUDA device that CuPy and torch can use")
@pytest.mark.parametrize("merge", ["sum_of_products", "product_of_sums"])
def test_a_fused_layer_waits_for_no_real_device(merge):
    layer, x, chip = fused("cupy", torch.Tensor.cuda, merge)
    g = torch.from_numpy(G).float().cuda()
    with torch.cuda.stream(torch.cuda.Stream()):
        step(layer, x, g)
        chip.next_event()
        torch.cuda.synchronize()
        done = torch.cuda.Event()
        torch.cuda._sleep(2_000_000_000)
        torch.cuda.set_sync_debug_mode("error")
        try:
            y, dx = step(layer, x, g)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        done.record()
        assert not done.query()
    torch.cuda.synchronize()
    other, x, chip = fused("numba", on_host, merge)
    step(other, x, g.cpu())
    chip.next_event()
    expected = step(other, x, g.cpu())
    for want, found in zip(expected, (y, dx), strict=True):
        np.testing.assert_allclose(numbers(found), numbers(want), rtol=1e-5, atol=1e-5)
