"""The CuPy backend on a real device; skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from crossbar_kernels import available, contract, get_kernels, reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif("cupy" not in available(), reason="no CUDA device that CuPy and torch can use"),
]


@pytest.mark.parametrize("case", contract.CASES, ids=lambda case: case.name)
def test_device_does_as_the_reference(case):
    contract.check(get_kernels("cupy"), case)


def test_device_keeps_the_contract():
    contract.certify(get_kernels("cupy"))


def test_tensor_cores_are_exact():
    from crossbar_kernels import cupy_gemm

    assert cupy_gemm.is_exact(cupy_gemm.by_integers)
    assert cupy_gemm.is_exact(cupy_gemm.by_floats)


def test_tensors_stay_on_the_device_and_on_their_stream():
    import torch

    kernels, task = (
        get_kernels("cupy"),
        contract.problem(contract.Case(300, 2, 16, 128, noise=True, adc=True)),
    )
    held = kernels.prepare(task.weights, task.variance)
    with torch.cuda.stream(torch.cuda.Stream()):
        x = torch.from_numpy(task.inputs).cuda()
        y = torch.from_dlpack(kernels.mvm(x, held, adc=task.adc, noise=task.noise))
        assert y.is_cuda
        assert np.array_equal(y.cpu().numpy(), task.solve(reference))


def test_products_do_not_wait_for_the_device():
    import cupy
    import torch

    kernels, task = (
        get_kernels("cupy"),
        contract.problem(contract.Case(300, 2, 16, 128, noise=True, adc=True)),
    )
    held, x = kernels.prepare(task.weights, task.variance), cupy.asarray(task.inputs)
    noise = task.noise._replace(rows=cupy.asarray(task.noise.rows))
    kernels.mvm(x, held, adc=task.adc, noise=noise)
    torch.cuda.synchronize()
    done = torch.cuda.Event()
    torch.cuda._sleep(2_000_000_000)
    kernels.mvm(x, held, adc=task.adc, noise=noise)
    done.record()
    assert not done.query()
