"""The CUDA source compiles for real devices, with NVIDIA's compiler, and to the arithmetic that is prescribed."""

from __future__ import annotations

import ctypes
import re
import sys
from importlib.metadata import PackageNotFoundError, files

import pytest

from crossbar_kernels import cupy_device

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the compiler's wheel is looked for on Linux alone"
)
KERNELS = {
    "decode",
    "encode",
    "fill_normals",
    "pack_codes",
    "pack_squares",
    "split_planes",
    "sum_squares",
} | {f"finish_{sums}_{noise}{adc}" for sums in ("digits", "reals") for noise in range(4) for adc in range(3)}


@pytest.fixture(scope="module")
def nvrtc():
    try:
        found = files("nvidia-cuda-nvrtc-cu12") or ()
    except PackageNotFoundError:
        pytest.fail("nvidia-cuda-nvrtc-cu12 is missing; install the extra dev")
    (path,) = (file.locate() for file in found if file.name == "libnvrtc.so.12")
    return ctypes.CDLL(str(path))


def compiled(nvrtc, architecture, kind):
    """The source as PTX or as CUBIN, with the options that CuPy uses."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    source = cupy_device.source().encode()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"crossbar.cu", 0, None, None) == 0
    options = [*cupy_device.OPTIONS, "-ftz=true", f"--gpu-architecture={architecture}"]
    given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    failed = nvrtc.nvrtcCompileProgram(program, len(options), given)
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    assert not failed, log.value.decode()
    assert getattr(nvrtc, f"nvrtcGet{kind}Size")(program, ctypes.byref(size)) == 0
    text = ctypes.create_string_buffer(size.value)
    assert getattr(nvrtc, f"nvrtcGet{kind}")(program, text) == 0
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return text.raw


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_source_compiles_to_machine_code_with_every_kernel(nvrtc, architecture):
    code = compiled(nvrtc, architecture, "CUBIN")
    assert code[:4] == b"\x7fELF"
    assert all(f".text.{name}\0".encode() in code for name in KERNELS)


def test_compiled_arithmetic_is_rounded_step_by_step(nvrtc):
    """No multiply-add is fused but the 36 of four normals (philox.py), no root or quotient is approximate: each would change a bit."""
    code = compiled(nvrtc, "compute_80", "PTX").decode()
    assert set(re.findall(r"\.entry (\w+)\(", code)) == KERNELS
    fused = re.findall(r"\bfma\.[\w.]*", code)
    assert set(fused) == {"fma.rn.ftz.f32"}
    assert len(fused) % 36 == 0
    assert not re.findall(r"\bmad\.\w*\.?f\d\d|\.approx", code)
    roots_and_quotients = set(re.findall(r"\b(?:sqrt|div|rcp)\.[\w.]*f\d\d", code))
    assert roots_and_quotients == {"sqrt.rn.ftz.f32", "sqrt.rn.f64", "div.rn.f64"}
