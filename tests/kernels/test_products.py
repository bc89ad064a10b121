"""Laws of products on every backend and on every way through the fast one, over random shapes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossbar_kernels import available, contract, get_kernels, reference

FAST = pytest.mark.skipif("numba" not in available(), reason="numba is not installed")

cases = st.builds(
    contract.Case,
    batch=st.integers(1, 20),
    tiles=st.integers(1, 3),
    rows=st.integers(1, 70),
    cols=st.integers(1, 800),
    largest=st.sampled_from([1, 127, 128, 16383]),
    noise=st.booleans(),
    adc=st.booleans(),
    table=st.booleans(),
    sigma=st.booleans(),
    cells=st.booleans(),
    planes=st.integers(1, 4),
).filter(lambda case: case.cells or case.sigma or not case.noise)


def has_the_instructions():
    from crossbar_kernels.vnni_numba import has_vnni

    return has_vnni()


VNNI = pytest.mark.skipif(
    "numba" not in available() or not has_the_instructions(), reason="this processor has no AVX-512 VNNI"
)


@VNNI
def test_processors_that_have_the_instructions_multiply_packed_weights():
    """A packed pass that is wrong is not used, so that every other test would pass without it."""
    from crossbar_kernels.packed_numba import can_pack

    assert can_pack()


@VNNI
@settings(max_examples=60)
@given(cases)
def test_packed_products_are_the_references_for_any_shape(case):
    contract.check(get_kernels("numba"), case)


@FAST
@settings(max_examples=30)
@given(cases)
def test_products_tile_by_tile_are_the_references_for_any_shape(case):
    from crossbar_kernels import numba_cpu

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numba_cpu, "can_pack", lambda: False)
        contract.check(get_kernels("numba"), case)


@FAST
def test_sums_of_the_largest_codes_on_the_most_rows_stay_exact():
    """4096 word lines of 127 x 16383 pass 2^32: digits are put together in float64, not in int32."""
    kernels = get_kernels("numba")
    x = np.full((7, 4096), 127, np.int8)
    w, v = (np.full((1, 4096, 70), 16383, np.int16) for _ in range(2))
    y = kernels.mvm(x, kernels.prepare(w), adc=None, noise=None)
    assert np.array_equal(y, np.full((7, 70), 127.0 * 16383 * 4096))
    task = contract.problem(contract.Case(7, 1, 4096, 70, noise=True))
    noise = task.noise
    expected = reference.mvm(x, reference.prepare(w, v), adc=None, noise=noise)
    assert np.array_equal(kernels.mvm(x, kernels.prepare(w, v), adc=None, noise=noise), expected)


@FAST
@pytest.mark.parametrize("order", ["reversed", "read-only", "strided", "Fortran"])
def test_inputs_may_lie_in_memory_as_they_like(order):
    kernels, random = get_kernels("numba"), np.random.default_rng(0)
    w = kernels.prepare(random.integers(-99, 99, (2, 9, 40)).astype(np.int16))
    plain = random.integers(-127, 128, (10, 18)).astype(np.int8)
    expected = kernels.mvm(plain, w, adc=None, noise=None)
    wide = np.repeat(plain, 2, axis=1)
    wide.setflags(write=False)
    shown = {
        "reversed": plain[::-1].copy()[::-1],
        "read-only": np.frombuffer(plain.tobytes(), np.int8).reshape(plain.shape),
        "strided": wide[:, ::2],
        "Fortran": np.asfortranarray(plain),
    }[order]
    assert np.array_equal(kernels.mvm(shown, w, adc=None, noise=None), expected)


@FAST
@pytest.mark.parametrize("columns", [slice(None, None, 2), slice(3, 43)])
def test_results_are_added_where_they_are_asked_for(columns):
    """`out` may be part of a larger array; the rest of that is left alone."""
    kernels, random = get_kernels("numba"), np.random.default_rng(0)
    w = kernels.prepare(random.integers(-99, 99, (1, 9, 40)).astype(np.int16))
    x = random.integers(-127, 128, (10, 9)).astype(np.int8)
    whole = np.zeros((10, 80))
    out = whole[:, columns]
    assert kernels.mvm(x, w, adc=None, noise=None, out=out[:, :40]).base is whole
    assert np.array_equal(out[:, :40], kernels.mvm(x, w, adc=None, noise=None))
    assert np.count_nonzero(whole) <= out[:, :40].size


STALE = """
import sys
sys.path.insert(0, sys.argv[1])
from crossbar_kernels import contract, get_kernels
contract.check_normals(get_kernels("numba"))
"""


@FAST
def test_machine_code_is_compiled_anew_when_a_constant_changes(tmp_path):
    """A copy of the package is run, it is given fewer rounds, and run again: both agree with their own reference."""
    copy = tmp_path / "crossbar_kernels"
    shutil.copytree(Path(reference.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    source = copy / "philox.py"
    for change in (("", ""), ("ROUNDS = 10", "ROUNDS = 9")):
        text = source.read_text()
        assert change[0] in text
        stamp = source.stat()
        source.write_text(text.replace(*change))
        os.utime(source, (stamp.st_atime, stamp.st_mtime + 2))
        done = subprocess.run(
            [sys.executable, "-c", STALE, str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


@FAST
def test_processors_that_numba_is_told_of_are_believed():
    """Code for another processor than this one must not hold this one's instructions: LLVM would end the process."""
    code = "from crossbar_kernels.packed_numba import can_pack; print(can_pack())"
    env = os.environ | {"NUMBA_CPU_NAME": "generic", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("shape", [(0, 2, 3), (1, 0, 3), (1, 2, 0)])
def test_matrices_without_cells_are_refused(shape):
    for name in available():
        with pytest.raises(ValueError, match="at least"):
            get_kernels(name).prepare(np.zeros(shape, np.int16))


def test_integer_tiles_beyond_int32_are_refused():
    with pytest.raises(ValueError, match="at most 131072 rows"):
        reference.prepare(np.zeros((1, 2**17 + 1, 1), np.int16))
