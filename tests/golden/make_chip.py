"""Makes chip.json: what a small array on each card comes to. Run it after raising a numerics version.

python tests/golden/make_chip.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from crossbar_experiments.config import NUMERICS
from crossbar_kernels import NUMERICS as KERNEL_NUMERICS
from crossbar_sim import Chip, Ranges
from crossbar_sim.presets import presets

FILE = Path(__file__).with_name("chip.json")


def golden() -> dict[str, Any]:
    """Conductances, products and energies of one 20 x 300 array per card and way of programming."""
    rng = np.random.default_rng(7)
    weight, x = rng.normal(size=(20, 300)), rng.normal(size=(3, 300))
    found: dict[str, Any] = {"numerics": [KERNEL_NUMERICS, NUMERICS]}
    for name in presets():
        for statistical in (False, True):
            chip = Chip(name, seed=3, statistical=statistical)
            array = chip.program(weight, name="golden")
            array.ranges = Ranges(4.0, -8.0, 8.0)
            chip.advance(3600)
            products = array.mvm(x)
            energy = sum(r["energy_J"] for r in chip.ledger.rows(chip.preset.prices))
            found[f"{name}, {'statistics' if statistical else 'pulses'}"] = {
                "conductance_uS": (array.conductance()[0, 0, :, :2, :3] * 1e6).ravel().tolist(),
                "products": products[:, :4].ravel().tolist(),
                "pulses": float(array.wear.sum()),
                "energy_nJ": energy * 1e9,
            }
    return found


if __name__ == "__main__":
    FILE.write_text(json.dumps(golden(), indent=1) + "\n")
