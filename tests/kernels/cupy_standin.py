"""A stand-in for CuPy on machines without a device: the same kernels, compiled by g++, on memory that only kernels and torch may read.

It is stricter than the real one: arrays refuse arithmetic and every look at their values, fresh memory is filled with rubbish, arguments must
have exactly the types of the kernel's parameters, and writing beside an array is noticed.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

GUARD = 64
MARK = 0xA5
LETTERS = {np.dtype("int32"): "i", np.dtype("int64"): "q", np.dtype("uint32"): "I", np.dtype("float64"): "d"}


class WaitError(AssertionError):
    """Somebody looked at values on the device."""


class Array:
    """A device array: shape, kind and views; values only for kernels, torch and `asnumpy`."""

    __array_priority__ = 100

    def __init__(self, values, block):
        self._values, self._block = values, block
        self.shape, self.dtype, self.ndim, self.size = values.shape, values.dtype, values.ndim, values.size
        self.flags = values.flags
        self.__cuda_array_interface__ = {"shape": self.shape, "typestr": self.dtype.str, "version": 3}

    def __len__(self):
        return len(self._values)

    def __getitem__(self, where):
        assert isinstance(where, (int, slice, tuple)) or where is None, "only views"
        return Array(self._values[where], self._block)

    def reshape(self, *shape):
        assert self.flags.c_contiguous, "only views"
        return Array(self._values.reshape(*shape), self._block)

    def __setitem__(self, where, value):
        assert isinstance(value, Array), "a copy from the host waits"
        self._values[where] = value._values

    def __dlpack__(self, **how):
        return self._values.__dlpack__(**how)

    def __dlpack_device__(self):
        return self._values.__dlpack_device__()

    def _refuse(self, *args, **kwargs):
        raise WaitError("a look at a device array's values")

    __array__ = __bool__ = __float__ = __int__ = __iter__ = __eq__ = __lt__ = __gt__ = __add__ = __mul__ = (
        _refuse
    )
    min = max = sum = any = all = item = tolist = get = _refuse
    __array_ufunc__ = None
    __hash__ = None


class Tensor(torch.Tensor):
    """A tensor that says it lies on a device, and refuses what would wait for it."""

    WAITS = {  # noqa: RUF012
        "__array__", "__bool__", "__contains__", "__float__", "__index__", "__int__", "__repr__", "allclose", "cpu", "equal", "is_nonzero",
        "item", "masked_select", "nonzero", "numpy", "tolist", "unique",
    }  # fmt: skip
    is_cpu, is_cuda, device = False, True, torch.device("cuda", 0)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func.__name__ in cls.WAITS:
            raise WaitError(f"{func.__name__} of a tensor on the device")
        if func is torch.Tensor.backward:  # as it is, it would run without this class
            engine = torch.autograd.Variable._execution_engine
            return engine.run_backward(
                args, (kwargs["gradient"],), False, False, (), allow_unreachable=True, accumulate_grad=True
            )
        return super().__torch_function__(func, types, args, kwargs or {})

    @property
    def __cuda_array_interface__(self):
        assert not self.requires_grad, "torch refuses this; detach the tensor"
        return {"shape": tuple(self.shape), "version": 2}

    @property
    def values(self):
        """What the tensor holds, for tests."""
        with torch._C.DisableTorchFunctionSubclass():
            return self.detach().as_subclass(torch.Tensor).numpy()


def to_device(tensor):
    """A tensor on the device with the values of one on the host."""
    return tensor.detach().clone().as_subclass(Tensor).requires_grad_(tensor.requires_grad)


def from_dlpack(array):
    """`torch.from_dlpack` of a device array."""
    assert isinstance(array, Array)
    return torch.utils.dlpack.from_dlpack(array).as_subclass(Tensor)


class Memory:
    """Bytes with guards at both ends, rubbish between."""

    def __init__(self, size):
        raw = np.full(size + 2 * GUARD + 16, MARK, np.uint8)
        first = -raw.ctypes.data % 16
        self.bytes = raw[first : first + size + 2 * GUARD]
        self.size = size

    def check(self):
        ends = self.bytes[:GUARD], self.bytes[GUARD + self.size :]
        assert all((end == MARK).all() for end in ends), "written beside an array"


def empty(shape, dtype):
    dtype = np.dtype(dtype)
    block = Memory(int(np.prod(shape)) * dtype.itemsize)
    return Array(block.bytes[GUARD : GUARD + block.size].view(dtype).reshape(shape), block)


def zeros(shape, dtype):
    found = empty(shape, dtype)
    found._values[...] = 0
    return found


def asarray(values):
    if isinstance(values, Array):
        return values
    if isinstance(values, Tensor):  # the same memory, without guards
        return Array(values.values, SimpleNamespace(check=lambda: None))
    values = np.asarray(values)
    found = empty(values.shape, values.dtype)
    found._values[...] = values
    return found


def ascontiguousarray(array, dtype=None):
    assert isinstance(array, Array)
    if not array.ndim:
        array = array.reshape(1)  # as CuPy has it
    if array.flags.c_contiguous and dtype in (None, array.dtype):
        return array
    return asarray(np.array(array._values, dtype, order="C"))


def asnumpy(array):
    return array._values.copy()


class Kernels:
    """The source as a library for the CPU."""

    def __init__(self, folder: Path):
        compiler = shutil.which("g++")
        assert compiler, (
            "g++ is needed to check the CUDA kernels on a CPU; install it (Debian: apt-get install g++)"
        )
        self.folder, self.compiler, self.libraries = folder, compiler, {}

    def library(self, source):
        if source not in self.libraries:
            self.libraries[source] = self._build(source)
        return self.libraries[source]

    def names(self, source):
        """Kernels of the source, those that macros make among them."""
        command = [self.compiler, "-E", "-P", "-D__global__=KERNEL", "-x", "c++", "-"]
        done = subprocess.run(command, input=source, capture_output=True, text=True, check=True)
        return re.findall(r'extern "C" KERNEL void (\w+)\(', done.stdout)

    def _build(self, source):
        names = self.names(source)
        text = '#include "cuda_on_cpu.h"\n' + source + "".join(f"LAUNCHER({name})\n" for name in names)
        stem = self.folder / f"kernels{len(self.libraries)}"
        stem.with_suffix(".cpp").write_text(text)
        flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC"]
        flags += ["-Wall", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-function"]
        files = [
            str(stem.with_suffix(".cpp")),
            "-o",
            str(stem.with_suffix(".so")),
            f"-I{Path(__file__).parent}",
        ]
        done = subprocess.run([self.compiler, *flags, *files], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return ctypes.CDLL(str(stem.with_suffix(".so")))


class RawKernel:
    """A kernel that runs at once, one thread after the other."""

    kernels: Kernels
    launched: list[str] = []  # noqa: RUF012

    def __init__(self, code, name, options=()):
        assert "-fmad=false" in options
        library = self.kernels.library(code)
        self.name, self.run = name, getattr(library, f"launch_{name}")
        text = ctypes.create_string_buffer(100)
        getattr(library, f"describe_{name}")(text)
        self.letters = text.value.decode()

    def __call__(self, grid, block, args):
        assert len(args) == len(self.letters), f"{self.name}: {len(args)} arguments for {len(self.letters)}"
        held = [
            self._argument(n, letter, value)
            for n, (letter, value) in enumerate(zip(self.letters, args, strict=True))
        ]
        pointers = (ctypes.c_void_p * len(held))(*(ctypes.addressof(value) for value in held))
        self.run(ctypes.c_uint(grid[0]), ctypes.c_uint(block[0]), pointers)
        self.launched.append(self.name)
        for value in args:
            if isinstance(value, Array):
                value._block.check()

    def _argument(self, n, letter, value):
        if isinstance(value, Array):
            assert letter == "p", f"{self.name}: argument {n} is an array"
            assert value.flags.c_contiguous, f"{self.name}: argument {n} is not contiguous"
            return ctypes.c_void_p(value._values.ctypes.data)
        assert isinstance(value, np.generic), f"{self.name}: argument {n} is a {type(value)}"
        if letter == "p":
            assert value.dtype == np.uint64, f"{self.name}: argument {n} is no pointer"
            assert value == 0
            return ctypes.c_void_p(0)
        assert LETTERS[value.dtype] == letter, f"{self.name}: argument {n} is {value.dtype}, not {letter}"
        kinds = {"i": ctypes.c_int, "q": ctypes.c_longlong, "I": ctypes.c_uint, "d": ctypes.c_double}
        return kinds[letter](value.item())


def module(folder: Path) -> SimpleNamespace:
    """What `import cupy` gives."""
    RawKernel.kernels = Kernels(folder)
    runtime = SimpleNamespace(getDevice=lambda: 0)
    stream = SimpleNamespace(from_external=nullcontext)
    return SimpleNamespace(
        ndarray=Array, empty=empty, zeros=zeros, asarray=asarray, ascontiguousarray=ascontiguousarray, asnumpy=asnumpy,
        RawKernel=RawKernel, cuda=SimpleNamespace(runtime=runtime, Stream=stream, is_available=lambda: True),
    )  # fmt: skip
