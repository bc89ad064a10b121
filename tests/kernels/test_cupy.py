"""The CuPy backend without a device: its kernels compiled by g++, under a stand-in for CuPy."""

from __future__ import annotations

import numpy as np
import pytest

from crossbar_kernels import AdcTable, contract, cupy_device, cupy_gemm, cupy_product, reference
from crossbar_kernels.philox import Purpose, stream

NOISY = contract.Case(300, 2, 16, 128, noise=True, adc=True)


@pytest.fixture
def cupy(standin_module):
    return standin_module


def on_device(cupy, task):
    """The same problem with every array on the device."""
    noise, adc = task.noise, task.adc
    if noise is not None:
        own = {name: getattr(noise, name) for name in ("rows", "squares", "sigma")}
        noise = noise._replace(**{n: None if a is None else cupy.asarray(a) for n, a in own.items()})
    if isinstance(adc, AdcTable):
        adc = AdcTable(*(cupy.asarray(column) for column in adc))
    out = None if task.out is None else cupy.asarray(task.out)
    return contract.Problem(
        cupy.asarray(task.inputs), task.weights, task.variance, adc, noise, task.shares, out
    )


@pytest.mark.parametrize("case", contract.CASES, ids=lambda case: case.name)
def test_kernels_do_as_the_reference(cupy_on_cpu, case):
    contract.check(cupy_on_cpu, case)


def test_backend_keeps_the_contract(cupy_on_cpu):
    contract.certify(cupy_on_cpu)


@pytest.mark.parametrize(
    "case", [c for c in contract.CASES if c.batch < 100][::3], ids=lambda case: case.name
)
def test_arrays_on_the_device_are_never_looked_at(cupy_on_cpu, cupy, case):
    task = contract.problem(case)
    held = on_device(cupy, task)
    cupy_on_cpu.prepare(held.weights, held.variance)
    got = cupy_on_cpu.mvm(
        held.inputs,
        cupy_on_cpu.prepare(held.weights, held.variance),
        adc=held.adc,
        noise=held.noise,
        weights=held.shares,
        out=held.out,
    )
    assert isinstance(got, cupy.Array)
    assert held.out is None or got is held.out
    expected = task.solve(reference)
    np.testing.assert_allclose(
        cupy_on_cpu.to_host(got), expected, rtol=0, atol=0 if case.exact else 1e-12 * np.abs(expected).max()
    )


def test_codes_and_planes_of_device_arrays_are_never_looked_at(cupy_on_cpu, cupy):
    x, scale = np.random.default_rng(0).normal(size=(40, 33)), np.linspace(0.5, 2, 40)
    how = {"largest": 127, "signed": True, "width": 36}
    codes = cupy_on_cpu.encode(cupy.asarray(x), cupy.asarray(scale), **how)
    digits = cupy_on_cpu.planes(codes, bits=2, count=4)
    expected = reference.planes(reference.encode(x, scale, **how), bits=2, count=4)
    assert np.array_equal(cupy_on_cpu.to_host(digits), expected)
    assert np.array_equal(
        cupy_on_cpu.to_host(cupy_on_cpu.sum_squares(digits)), reference.sum_squares(expected)
    )


def test_the_stand_in_notices_a_look_at_values(cupy):
    array = cupy.asarray(np.ones(3))
    for look in (np.asarray, bool, float, list, lambda a: a + 1, lambda a: a == 1, lambda a: a.min()):
        with pytest.raises((cupy.WaitError, TypeError)):
            look(array)


def test_a_result_is_added_to_a_host_array_in_place(cupy_on_cpu):
    task = contract.problem(contract.CASES[-1])
    out = np.ones((len(task.inputs[0]), task.weights.shape[2]))
    held = cupy_on_cpu.prepare(task.weights, task.variance)
    options = {"adc": task.adc, "noise": task.noise, "weights": task.shares}
    before = cupy_on_cpu.to_host(cupy_on_cpu.mvm(task.inputs, held, **options, out=out.copy()))
    cupy_on_cpu.mvm(task.inputs, held, **options, out=out)
    assert np.array_equal(out, before)


@pytest.mark.parametrize("planes", [1, 3])
@pytest.mark.parametrize("integers", [True, False])
def test_a_batch_in_pieces_gives_the_same(cupy_on_cpu, cupy, monkeypatch, planes, integers):
    task = contract.problem(contract.Case(101, 3, 24, 37, integers, noise=True, adc=integers, planes=planes))
    whole = cupy_on_cpu.to_host(task.solve(cupy_on_cpu))
    cupy.RawKernel.launched.clear()
    monkeypatch.setattr(cupy_product, "SCRATCH", 2**16)
    wrong = np.abs(cupy_on_cpu.to_host(task.solve(cupy_on_cpu)) - whole).max()
    assert wrong <= (0 if integers else 1e-12 * np.abs(whole).max())
    assert sum(name.startswith("finish") for name in cupy.RawKernel.launched) > 1


@pytest.mark.parametrize(
    ("largest_input", "largest", "products"), [(127, 16383, 3), (127, 127, 2), (11, 16383, 2), (11, 127, 1)]
)
def test_small_digits_save_products(cupy_on_cpu, cupy, monkeypatch, largest_input, largest, products):
    task = contract.problem(contract.Case(20, 2, 40, 9, largest=largest, noise=True, adc=True))
    x = np.clip(task.inputs, -largest_input, largest_input)
    calls = []
    multiply = cupy_product.multiply
    monkeypatch.setattr(cupy_product, "multiply", lambda *args: calls.append(multiply(*args)))
    held = cupy_on_cpu.prepare(task.weights, task.variance)
    options = {"adc": None, "noise": task.noise}
    expected = reference.mvm(x, reference.prepare(task.weights, task.variance), **options)
    for given, bound in ((x, None), (cupy.asarray(x), largest_input)):
        calls.clear()
        assert np.array_equal(
            cupy_on_cpu.to_host(cupy_on_cpu.mvm(given, held, **options, largest=bound)), expected
        )
        assert len(calls) == 2 * (1 + products)


def test_extreme_digits_are_put_together_exactly(cupy_on_cpu):
    """Every sum has the sign and size that it can have at most; 2^31 is far away only because the depth is 4096."""
    extremes = np.array([-16383, -8192, -64, 63, 64, 127, 128, 8191, 16383], np.int16)
    w = np.resize(extremes, (1, 4096, 9))
    v = np.full_like(w, 16383)
    v[0, :, ::2] = 127
    x = np.full((2, 4096), 127, np.int8)
    x[1] = -127
    noise = contract.problem(NOISY).noise._replace(rows=np.arange(2, dtype=np.uint32))
    got, expected = (
        k.to_host(k.mvm(x, k.prepare(w, v), adc=None, noise=noise)) for k in (cupy_on_cpu, reference)
    )
    assert np.array_equal(got, expected)


def test_floats_keep_the_contract_where_integers_do_not_work(cupy_on_cpu, monkeypatch):
    monkeypatch.setattr(cupy_gemm, "integer_product", lambda: cupy_gemm.by_floats)
    for case in contract.CASES[-12:]:
        contract.check(cupy_on_cpu, case)


def test_a_wrong_integer_product_is_noticed(cupy_on_cpu):
    def saturating(a, b, out):
        out.copy_((a.long() @ b.long().t()).clamp(-(2**24), 2**24 - 1))

    assert not cupy_gemm.is_exact(saturating)
    assert cupy_gemm.is_exact(cupy_gemm.by_integers)
    assert cupy_gemm.is_exact(cupy_gemm.by_floats)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("rint((clipped(a, lo, hi) - lo) / step)", "floor((clipped(a, lo, hi) - lo) / step + 0.5000001)"),
        ("(u32)t * noise.tile_step", "(u32)k * noise.tile_step"),
        ("row = k * to.batch + b", "row = b * to.planes + k"),
        ("first + i < to.cols; ++i", "true; ++i"),
    ],
)
def test_the_contract_notices_a_slip_in_a_kernel(cupy_on_cpu, monkeypatch, right, wrong):
    spoiled = cupy_device.source().replace(right, wrong)
    assert spoiled != cupy_device.source()
    monkeypatch.setattr(cupy_device, "source", lambda: spoiled)
    cupy_device._kernel.cache_clear()
    with pytest.raises(AssertionError, match=r"differ|beside"):
        contract.certify(cupy_on_cpu)
    cupy_device._kernel.cache_clear()


def test_flushing_subnormal_floats_changes_no_normal(cupy_on_cpu, cupy):
    """CuPy compiles with -ftz=true; the words at which logarithm, sine and cosine come closest to 0 are among many."""
    rows = np.arange(3000, dtype=np.uint32)
    how = {"key": (1, 2), "stream": stream(Purpose.READ), "event": 0}
    expected = reference.normals(rows, 64, **how)
    library = cupy.RawKernel.kernels.library(cupy_device.source())
    library.flush_subnormals(1)
    try:
        z = cupy_on_cpu.normals(rows, 64, **how)
    finally:
        library.flush_subnormals(0)
    assert np.array_equal(cupy_on_cpu.to_host(z), expected)
    assert np.abs(expected[expected != 0]).min() > 1e-12


W = np.ones((1, 2, 3), np.int16)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((1, 3), np.int8), r"must be \[batch, 2\]"),
        (np.zeros((1, 2), np.int16), "int8 or float64"),
        (np.full((1, 2), -128, np.int8), "-128"),
    ],
)
def test_mvm_refuses_what_does_not_fit(cupy_on_cpu, inputs, message):
    with pytest.raises(ValueError, match=message):
        cupy_on_cpu.mvm(inputs, cupy_on_cpu.prepare(W), adc=None, noise=None)


def test_codes_of_other_kinds_are_refused(cupy_on_cpu):
    with pytest.raises(ValueError, match="codes: must be int8 or int16"):
        cupy_on_cpu.planes(np.zeros((2, 2)), bits=1, count=2)


def test_an_empty_batch_gives_an_empty_result(cupy_on_cpu):
    assert cupy_on_cpu.mvm(np.zeros((0, 2), np.int8), cupy_on_cpu.prepare(W), adc=None, noise=None).shape == (
        0,
        3,
    )


def test_constants_are_those_of_the_random_numbers_to_the_bit():
    found = cupy_device.constants()
    assert found["PHILOX_M0"] == f"{0xD2511F53}u"
    for name, value in (
        ("LN_2", 0.6931471805599453),
        ("ANGLE", 1.4629180792671596e-09),
        ("SIN_2", -1.6666654611e-1),
    ):
        assert float.fromhex(found[name].strip("()f")) == np.float32(value)
