"""The house stands: folder names, imports that stay light, files that belong together."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("folder", ["kernels", "experiments"])
def test_rooms_with_generic_names_are_not_packages(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()
    spec = find_spec(folder)
    assert spec is None or spec.origin is None, "a regular package of this name would break transformers"


@pytest.mark.parametrize(
    ("module", "kept_out"),
    [
        ("crossbar_kernels", ["numba", "torch"]),
        ("crossbar_sim", ["torch", "transformers"]),
        ("crossbar_experiments.workers", ["numba"]),
        ("crossbar_experiments.cli", ["torch", "numpy", "numba", "transformers", "pandas", "matplotlib"]),
        ("lorafusion.methods", ["transformers", "peft", "pandas"]),
    ],
)
def test_imports_stay_light(module: str, kept_out: list[str]) -> None:
    code = f"import sys, {module}; print([m for m in {kept_out} if m in sys.modules])"
    path = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'kernels')!r}, {str(ROOT / 'experiments')!r}]; "
    done = subprocess.run([sys.executable, "-c", path + code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_torch_is_pinned_alike() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "torch>=2.13,<2.14" in project["dependencies"]
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text().split()
