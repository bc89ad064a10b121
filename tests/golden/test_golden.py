"""Results stay what they are, or the numerics version moves with them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
REMEDY = (
    "results changed: if that is meant, raise NUMERICS (crossbar_kernels for arithmetic, crossbar_experiments.config "
    "for anything else), run tests/golden/make_chip.py and say so in CHANGELOG.md"
)


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_chip", HERE / "make_chip.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_chip_gives_the_golden_numbers(maker: ModuleType) -> None:
    kept, found = json.loads((HERE / "chip.json").read_text()), maker.golden()
    assert found.keys() == kept.keys()
    for case, numbers in kept.items():
        if case == "numerics":
            assert found[case] == numbers, "run tests/golden/make_chip.py"
            continue
        for name, values in numbers.items():
            assert found[case][name] == pytest.approx(values, rel=1e-9, abs=1e-12, nan_ok=True), (
                f"{case}: {name}: {REMEDY}"
            )
