"""Settings of all tests, and the CuPy backend on a CPU."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# the first example compiles kernels, so an example's time says nothing about the code
settings.register_profile("compiled", deadline=None)
settings.load_profile("compiled")

# torch reads it when it is loaded: its threads spin at every small product, and on a busy machine that is most of a test's time
os.environ.setdefault("OMP_NUM_THREADS", "1")

STANDIN = Path(__file__).parent / "kernels" / "cupy_standin.py"


@pytest.fixture(scope="session")
def standin_module():
    """The stand-in for CuPy."""
    spec = importlib.util.spec_from_file_location("cupy_standin", STANDIN)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def cupy_on_cpu(standin_module, tmp_path_factory):
    """The backend `crossbar_kernels.cupy_gpu` on the stand-in."""
    import torch

    from crossbar_kernels import cupy_device, cupy_gemm, cupy_gpu

    caches = cupy_device._kernel, cupy_device._numbers, cupy_gemm.integer_product
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", standin_module.module(tmp_path_factory.mktemp("kernels")))
        patch.setattr(torch.cuda, "current_stream", lambda: None)
        for cache in caches:
            cache.cache_clear()
        yield cupy_gpu
        for cache in caches:
            cache.cache_clear()


@pytest.fixture(scope="module")
def device(cupy_on_cpu, standin_module):
    """The stand-in, with "cupy" among the backends that a chip may have."""
    import crossbar_kernels
    from crossbar_sim import tensors

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crossbar_kernels, "available", lambda: ("reference", "numba", "cupy"))
        patch.setattr(tensors, "from_dlpack", standin_module.from_dlpack)
        crossbar_kernels.get_kernels.cache_clear()
        yield standin_module
        crossbar_kernels.get_kernels.cache_clear()
