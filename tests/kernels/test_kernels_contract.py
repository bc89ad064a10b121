from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import crossbar_kernels
from crossbar_kernels import AdcRange, AdcTable, NoiseStream, available, contract, get_kernels, reference
from crossbar_kernels.philox import Purpose

BACKENDS = tuple(name for name in available() if name != "cupy")  # a device has tests of its own
OTHERS = tuple(name for name in BACKENDS if name != "reference")
FAST = pytest.mark.skipif("numba" not in BACKENDS, reason="numba is not installed")


@pytest.fixture(params=BACKENDS)
def kernels(request):
    return get_kernels(request.param)


def noise_of(batch, scale=1.0, **other):
    return NoiseStream(scale, np.arange(batch, dtype=np.uint32), (3, 4), Purpose.READ, 2)._replace(**other)


@pytest.mark.parametrize("case", contract.CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("name", OTHERS)
def test_backend_does_as_the_reference(name, case):
    contract.check(get_kernels(name), case)


def test_certify_accepts_every_backend(kernels):
    contract.certify(kernels)


def spoiled(**functions):
    return SimpleNamespace(**(vars(reference) | functions))


def test_certify_refuses_a_converter_that_rounds_half_up():
    def mvm(x, p, *, adc, **rest):
        return reference.mvm(x, p, adc=adc and adc._replace(lo=adc.lo + adc.step / 2), **rest)

    with pytest.raises(AssertionError, match="differ"):
        contract.certify(spoiled(mvm=mvm))


def test_certify_refuses_noise_of_the_wrong_rows():
    def mvm(x, p, *, noise, **rest):
        return reference.mvm(
            x, p, noise=noise and noise._replace(rows=noise.rows[::-1] ^ np.uint32(1)), **rest
        )

    with pytest.raises(AssertionError, match="differ"):
        contract.certify(spoiled(mvm=mvm))


def test_certify_refuses_other_normals():
    def normals(*args, **kwargs):
        return np.nextafter(reference.normals(*args, **kwargs), np.float32(9))

    with pytest.raises(AssertionError, match="other bits"):
        contract.certify(spoiled(normals=normals))


def test_certify_refuses_planes_that_count_alike():
    def mvm(x, p, *, weights=(1.0,), **rest):
        return reference.mvm(x, p, weights=[1.0] * len(weights), **rest)

    with pytest.raises(AssertionError, match="differ"):
        contract.certify(spoiled(mvm=mvm))


def test_certify_refuses_results_that_forget_what_was_there():
    def mvm(x, p, *, out=None, **rest):
        return reference.mvm(x, p, **rest)

    with pytest.raises(AssertionError, match="leaves `out` as it was"):
        contract.certify(spoiled(mvm=mvm))


def test_certify_refuses_converters_without_their_own_noise():
    def mvm(x, p, *, noise, **rest):
        quiet = noise and noise.sigma is not None and noise._replace(sigma=0 * noise.sigma)
        return reference.mvm(x, p, noise=quiet or noise, **rest)

    with pytest.raises(AssertionError, match="differ"):
        contract.certify(spoiled(mvm=mvm))


def test_certify_refuses_results_that_are_not_added_in_place():
    def mvm(x, p, *, out=None, **rest):
        return reference.mvm(x, p, out=None if out is None else out.copy(), **rest)

    with pytest.raises(AssertionError, match="leaves `out` as it was"):
        contract.certify(spoiled(mvm=mvm))


def test_certify_refuses_products_that_spoil_their_inputs():
    def mvm(x, p, **rest):
        y = reference.mvm(x, p, **rest)
        x[:] = 0
        return y

    with pytest.raises(AssertionError, match="changes its inputs"):
        contract.certify(spoiled(mvm=mvm))


@pytest.mark.parametrize("name", ["settle", "DEVICE", "decode"])
def test_certify_names_what_a_backend_lacks(name):
    lacking = spoiled()
    delattr(lacking, name)
    with pytest.raises(AssertionError, match=f"has no {name}"):
        contract.certify(lacking)


def test_planes_of_a_product_are_products_of_planes(kernels):
    """With weights 1 and no converter, the planes of a code add up to the product with the code."""
    task = contract.problem(contract.Case(5, 2, 30, 7))
    prepared = kernels.prepare(task.weights)
    whole = kernels.mvm(task.inputs, prepared, adc=None, noise=None)
    digits = kernels.planes(task.inputs, bits=3, count=3)
    out = np.ones((5, 7))
    assert kernels.mvm(digits, prepared, adc=None, noise=None, weights=(1, 8, 64), out=out) is out
    assert np.array_equal(out, whole + 1)


def test_a_converters_own_noise_has_its_deviation_per_tile_and_column(kernels):
    """z from the same counters: the difference to the quiet product is sum_t sigma_tj z_btj."""
    sigma = np.random.default_rng(0).uniform(1, 2, (2, 9))
    prepared, x = kernels.prepare(np.ones((2, 3, 9), np.int16)), np.ones((4, 6), np.int8)
    noise = noise_of(4, sigma=sigma)
    y = kernels.mvm(x, prepared, adc=None, noise=noise)
    z = [
        kernels.normals(noise.rows, 9, key=noise.key, stream=noise.word(t), event=noise.event)
        for t in range(2)
    ]
    np.testing.assert_allclose(y - 6, sum(sigma[t] * z[t] for t in range(2)), atol=1e-12)


def test_reference_is_the_equation_written_in_loops():
    task = contract.problem(contract.Case(2, 2, 3, 5, noise=True, adc=True))
    x, w, v = task.inputs.astype(int), task.weights.astype(int), task.variance.astype(int)
    expected = np.zeros((2, 5))
    for t in range(2):
        noise = task.noise
        z = reference.normals(noise.rows, 5, key=noise.key, stream=noise.word(t), event=noise.event)
        for b in range(2):
            for j in range(5):
                a = float(sum(x[b, 3 * t + i] * w[t, i, j] for i in range(3)))
                a += noise.scale * np.sqrt(sum(x[b, 3 * t + i] ** 2 * v[t, i, j] for i in range(3))) * z[b, j]
                code = round((min(max(a, task.adc.lo), task.adc.hi) - task.adc.lo) / task.adc.step)
                expected[b, j] += task.adc.lo + code * task.adc.step
    assert np.array_equal(task.solve(reference), expected)


def test_converter_rounds_half_to_even_and_clips(kernels):
    x = np.array([[0.5], [1.5], [2.5], [-7.0], [99.0]])
    y = kernels.mvm(x, kernels.prepare(np.ones((1, 1, 1))), adc=AdcRange(0.0, 7.0, 1.0), noise=None)
    assert y.ravel().tolist() == [0.0, 2.0, 2.0, 0.0, 7.0]


def test_zero_input_gives_zero_where_zero_is_a_code(kernels):
    random = np.random.default_rng(0)
    w, v = (random.integers(0, 16384, (3, 20, 9)).astype(np.int16) for _ in range(2))
    adc = AdcRange(-128 * 0.1, 127 * 0.1, 0.1)
    y = kernels.mvm(np.zeros((4, 60), np.int8), kernels.prepare(w, v), adc=adc, noise=noise_of(4))
    assert np.array_equal(y, np.zeros((4, 9)))


@pytest.mark.parametrize("parts", [(1, 63), (7, 57), (20, 30, 14)])
def test_splitting_a_batch_draws_the_same_numbers(kernels, parts):
    task = contract.problem(contract.Case(64, 3, 24, 37, noise=True, adc=True))
    prepared = kernels.prepare(task.weights, task.variance)
    pieces, first = [], 0
    for size in parts:
        part = slice(first, first + size)
        noise = task.noise._replace(rows=task.noise.rows[part])
        pieces.append(kernels.mvm(task.inputs[part], prepared, adc=task.adc, noise=noise))
        first += size
    assert np.array_equal(np.concatenate(pieces), task.solve(kernels))


@pytest.mark.parametrize("one_hot", [False, True])
def test_noise_variance_from_its_term(kernels, one_hot):
    """(y - y0) / (scale z) squared is the variance; float64 of unrounded values is the judge, 0.2 % the limit."""
    random = np.random.default_rng(1)
    truth = random.uniform(0.1, 1.0, (1, 128, 24))
    unit = truth.max() / 16383
    codes = random.integers(-127, 128, (128, 128)).astype(np.int8)
    x = np.diag(np.full(128, 93)).astype(np.int8) if one_hot else codes
    w = random.integers(-16383, 16384, truth.shape).astype(np.int16)
    prepared = kernels.prepare(w, np.rint(truth / unit).astype(np.int16))
    noise = noise_of(128, scale=1e4 * np.sqrt(unit))
    difference = kernels.mvm(x, prepared, adc=None, noise=noise) - kernels.mvm(
        x, prepared, adc=None, noise=None
    )
    z = kernels.normals(noise.rows, 24, key=noise.key, stream=noise.word(0), event=noise.event)
    expected = x.astype(float) ** 2 @ truth[0]
    sure = np.abs(z) > 0.01
    measured = (difference[sure] / (1e4 * z[sure])) ** 2
    np.testing.assert_allclose(measured, expected[sure], rtol=2e-3)


@pytest.mark.parametrize("one_hot", [False, True])
def test_noise_variance_from_samples(one_hot):
    """The mean of 4e6 squared standard normals is 1 +- 7.1e-4 (one sigma); 2e-3 is 2.8 sigma, p = 0.005, seed fixed."""
    kernels = get_kernels()
    random = np.random.default_rng(2)
    v = random.integers(1, 16384, (1, 16, 1000)).astype(np.int16)
    x = np.zeros(16, np.int8)
    x[3] = 127
    x = x if one_hot else random.integers(1, 128, 16).astype(np.int8)
    batch = np.broadcast_to(x, (4000, 16))
    prepared = kernels.prepare(np.zeros_like(v), v)
    y = kernels.mvm(batch, prepared, adc=None, noise=noise_of(4000, scale=0.5))
    expected = 0.25 * (x.astype(float) ** 2 @ v[0])
    assert abs((y**2 / expected).mean() - 1) < 2e-3
    assert abs((y / np.sqrt(expected)).mean()) < 3.29 / np.sqrt(y.size)


@FAST
def test_float_gemm_is_exact_where_float32_is_not():
    from crossbar_kernels.int8_gemm import FLOAT_GEMM

    a, b = np.full((2, 1100), 127, np.int8), np.full((1100, 3), 127, np.int8)
    a[0, 0] = 126
    out = np.empty((2, 3), np.int32)
    FLOAT_GEMM.multiply(a, b, out)
    assert np.array_equal(out, a.astype(np.int64) @ b)


@FAST
@pytest.mark.parametrize("torch_works", [True, False])
def test_numba_keeps_the_contract_on_other_processors(monkeypatch, torch_works):
    from crossbar_kernels import chunk_sums, int8_gemm, numba_cpu, threads

    monkeypatch.setattr(numba_cpu, "can_pack", lambda: False)
    if not torch_works:
        monkeypatch.setattr(threads, "torch_or_none", lambda: None)
        monkeypatch.setattr(chunk_sums, "integer_gemm", lambda: int8_gemm.FLOAT_GEMM)
    contract.certify(numba_cpu)


@FAST
def test_packing_is_tried_before_it_is_trusted(monkeypatch):
    from crossbar_kernels import packed_numba

    monkeypatch.setattr(packed_numba, "has_vnni", lambda: True)
    for spoil in (lambda *_: None, pytest.fail):  # a pass that adds nothing; one that must not be asked
        monkeypatch.setattr(packed_numba, "add_products", spoil)
        packed_numba.can_pack.cache_clear()
        assert not packed_numba.can_pack()
        monkeypatch.setattr(packed_numba, "has_vnni", lambda: False)
    packed_numba.can_pack.cache_clear()


@FAST
def test_a_wrong_integer_gemm_is_noticed():
    from crossbar_kernels import int8_gemm

    def saturating(a, b, out):
        out[...] = np.clip(a.astype(np.int64) @ b.astype(np.int64), -32768, 32767)

    assert not int8_gemm._is_exact(int8_gemm.FLOAT_GEMM._replace(multiply=saturating))
    assert int8_gemm._is_exact(int8_gemm.FLOAT_GEMM)


THREADS = """
import hashlib, sys, numba, torch
from crossbar_kernels import contract, get_kernels
count = int(sys.argv[1])
numba.set_num_threads(count); torch.set_num_threads(count)
y = contract.problem(contract.Case(300, 3, 70, 129, noise=True, adc=True)).solve(get_kernels("numba"))
assert (numba.get_num_threads(), torch.get_num_threads()) == (count, count), "thread settings were changed"
print(hashlib.sha256(y.tobytes()).hexdigest())
"""


@FAST
def test_threads_change_nothing_and_their_settings_stay():
    env = os.environ | {"NUMBA_NUM_THREADS": "2", "PYTHONPATH": os.pathsep.join(sys.path)}
    digests = [
        subprocess.run(
            [sys.executable, "-c", THREADS, count], env=env, capture_output=True, text=True, check=True
        ).stdout
        for count in ("1", "2")
    ]
    assert digests[0] == digests[1]


OWN = """
import torch
from crossbar_kernels import contract, get_kernels
contract.problem(contract.Case(300, 3, 70, 129)).solve(get_kernels("numba"))
print(torch.get_num_threads())
"""


@FAST
def test_torch_keeps_the_one_thread_it_was_given_when_numba_starts_its_own():
    threads = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", OWN], env=os.environ | threads, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1"


def test_importing_the_package_imports_numpy_alone():
    script = (
        "import crossbar_kernels, sys; print([m for m in ('numba', 'torch', 'scipy') if m in sys.modules])"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_auto_takes_the_last_available_backend_and_modules_are_cached():
    assert get_kernels("auto") is get_kernels(BACKENDS[-1])
    assert get_kernels("reference") is reference


def test_a_wrong_backend_is_answered_with_the_nearest(monkeypatch):
    with pytest.raises(ValueError, match="did you mean 'numba'"):
        get_kernels("numbba")
    with pytest.raises(ValueError, match="use one of"):
        get_kernels("xyzzy")
    with pytest.raises(ValueError, match="must be a name"):
        get_kernels(None)
    monkeypatch.setattr(crossbar_kernels, "find_spec", lambda _: None)
    get_kernels.cache_clear()
    with pytest.raises(ValueError, match="needs the package numba"):
        get_kernels("numba")
    assert get_kernels("auto") is reference
    get_kernels.cache_clear()


W = np.ones((1, 2, 3), np.int16)


@pytest.mark.parametrize(
    ("weights", "variance", "message"),
    [
        (W[0], None, "add the tile axis"),
        (W.astype(np.int32), None, "int16 or float64"),
        (W * 16384, None, "coarser unit"),
        (W, W[:, :1], "variance: must match"),
        (W, W.astype(float), "variance: must match"),
        (W, -W, r"variance: must lie in \[0, 16383\]"),
        (W.astype(float), -W.astype(float), "must not be negative"),
    ],
)
def test_prepare_refuses_what_it_cannot_hold(kernels, weights, variance, message):
    with pytest.raises(ValueError, match=message):
        kernels.prepare(weights, variance)


@pytest.mark.parametrize(
    ("inputs", "noise", "message"),
    [
        (np.zeros((1, 3), np.int8), None, r"must be \[batch, 2\]"),
        (np.zeros((1, 2), np.int16), None, "int8 or float64"),
        (np.full((1, 2), -128, np.int8), None, "-128"),
        (np.zeros((1, 2), np.int8), noise_of(1), "needs variances"),
    ],
)
def test_mvm_refuses_what_does_not_fit(kernels, inputs, noise, message):
    with pytest.raises(ValueError, match=message):
        kernels.mvm(inputs, kernels.prepare(W), adc=None, noise=noise)


@pytest.mark.parametrize(
    ("inputs", "how", "message"),
    [
        (np.zeros((2, 1, 2), np.int8), {}, "weights: must be one per plane"),
        (np.zeros((1, 2), np.int8), {"out": np.zeros((1, 2))}, "out: must be float64"),
        (np.zeros((1, 2), np.int8), {"out": np.zeros((1, 3), np.float32)}, "out: must be float64"),
        (np.zeros((1, 2), np.int8), {"noise": noise_of(1, sigma=np.ones((1, 2)))}, "noise.sigma: must be"),
    ],
)
def test_mvm_refuses_planes_weights_and_results_that_do_not_fit(kernels, inputs, how, message):
    with pytest.raises(ValueError, match=message):
        kernels.mvm(inputs, kernels.prepare(W), **{"adc": None, "noise": None, **how})


def test_mvm_wants_a_row_number_for_every_input(kernels):
    with pytest.raises(ValueError, match=r"noise.rows: must be \[2\]"):
        kernels.mvm(np.zeros((2, 2), np.int8), kernels.prepare(W, W), adc=None, noise=noise_of(1))


def test_an_empty_batch_gives_an_empty_result(kernels):
    assert kernels.mvm(np.zeros((0, 2), np.int8), kernels.prepare(W), adc=None, noise=None).shape == (0, 3)


def test_prepared_does_not_follow_later_changes(kernels):
    w = W.astype(np.float64)
    prepared = kernels.prepare(w)
    w[:] = 9
    x = np.ones((1, 2))
    assert np.array_equal(kernels.mvm(x, prepared, adc=None, noise=None), np.full((1, 3), 2.0))


def test_a_table_of_converters_must_have_an_entry_per_tile_and_column(kernels):
    held = kernels.prepare(np.ones((2, 3, 4), np.int16))
    table = AdcTable(*np.ones((6, 1, 1)))
    with pytest.raises(ValueError, match=r"adc: .*\(2, 4\)"):
        kernels.mvm(np.ones((1, 6), np.int8), held, adc=table, noise=None)


@pytest.mark.parametrize("squares", [np.ones((1, 5), np.int16), np.ones((1, 6), np.int32), -np.ones((1, 6))])
def test_given_squares_must_fit(kernels, squares):
    ones = np.ones((2, 3, 4), np.int16)
    with pytest.raises(ValueError, match=r"noise\.squares"):
        kernels.mvm(
            np.ones((1, 6), np.int8),
            kernels.prepare(ones, ones),
            adc=None,
            noise=noise_of(1, squares=squares),
        )


@pytest.mark.parametrize(("n", "scales"), [(7, 2), (5, 3)])
def test_codes_must_fit_their_width_and_have_a_scale_per_row(kernels, n, scales):
    with pytest.raises(ValueError, match="must be"):
        kernels.encode(np.ones((2, n)), np.ones(scales), largest=7, signed=True, width=6)
