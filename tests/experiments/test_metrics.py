"""What writing costs, told apart from reading by the verify reads themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from crossbar_experiments.deploy import Deployment
from crossbar_experiments.metrics import costs, energy, write_energy
from crossbar_sim import Chip, Ranges, preset

ADC_8B = 1.67e-12


def chip_with_reads_and_writes() -> Chip:
    """An array of the base that is rewritten during a task, and read in the same phase and under the same matrix."""
    chip = Chip("cmo_hfox", statistical=True)
    weight = np.random.default_rng(0).standard_normal((6, 20))
    array = chip.program(weight, name="layer", ranges=Ranges(3.0, -4.0, 4.0))
    with chip.ledger.scope(task="t", phase="switch"):
        array.mvm(np.random.default_rng(1).standard_normal((50, 20)))
        array.reprogram(np.clip(-weight, -array.scale[:, None], array.scale[:, None]))
    return chip


def test_conversions_of_verify_reads_are_writes_and_those_of_products_are_not() -> None:
    chip = chip_with_reads_and_writes()
    rows = [r for r in chip.ledger.rows(chip.preset.prices) if r["task"] == "t"]
    verified = chip.ledger.total("verify_read", task="t")
    converted = chip.ledger.total("adc_conversion", task="t")
    assert converted == verified + 6 * 50
    cells = [r["energy_J"] for r in rows if r["action"] in ("set_pulse", "reset_pulse", "verify_read")]
    assert min(cells) > 0
    expected = math.fsum([*cells, verified * ADC_8B])
    assert write_energy(rows, chip.preset) == pytest.approx(expected, rel=1e-14)
    reads = [
        r for r in rows if r["action"] not in ("set_pulse", "reset_pulse", "verify_read", "adc_conversion")
    ]
    assert write_energy(rows, chip.preset) + energy(reads) + 300 * ADC_8B == pytest.approx(
        energy(rows), rel=1e-13
    )


def test_reading_alone_writes_nothing_and_without_prices_nothing_is_known() -> None:
    chip = chip_with_reads_and_writes()
    with chip.ledger.scope(task="u", phase="forward"):
        chip.arrays["layer"].mvm(np.ones((3, 20)))
    rows = [r for r in chip.ledger.rows(chip.preset.prices) if r["task"] == "u"]
    assert energy(rows) > 0
    assert write_energy(rows, chip.preset) == 0
    assert math.isnan(write_energy(rows, preset("ideal")))


def test_what_a_method_leaves_on_the_chip_is_deployed_and_not_worn_by_a_task() -> None:
    chip, weight = Chip("cmo_hfox", statistical=True), np.random.default_rng(0).standard_normal((6, 20))
    base = chip.program(weight, name="layer")
    deployment = Deployment(None, chip, (), {}, {}, {}, 0, arrays={"layer": base})  # type: ignore[arg-type]
    with chip.ledger.scope(task="t", phase="deploy"):
        frozen = chip.program(weight, name="frozen")
    with chip.ledger.scope(task="t", phase="switch"):
        own = chip.program(weight, name="own")
    with chip.ledger.scope(task="t", phase="eval"):
        base.ranges = Ranges(3.0, -4.0, 4.0)
        base.mvm(np.ones((8, 20)))
    rows = chip.ledger.rows(chip.preset.prices)
    spent = costs(deployment, rows, [own], task="t", with_pool=False, texts=1)
    held = base.placement.cells + frozen.placement.cells
    assert (spent["cells_deployed"], spent["tiles_deployed"]) == (held, 2 * base.placement.arrays)
    assert spent["worst_wear_cycles"] == own.wear.max() / 2 > 0
    alone = costs(deployment, rows, [], task="t", with_pool=False, texts=1)
    reading = math.fsum(r["time_s"] for r in rows if r["action"] in ("array_read", "adc_conversion"))
    digital = sum(r["count"] for r in rows if r["phase"] == "eval" and r["action"].startswith("digital_"))
    assert alone["inference_time_s"] == pytest.approx(reading + digital * 1e-9 / 128, rel=1e-12)
    eight = costs(deployment, rows, [], task="t", with_pool=False, texts=8)
    assert eight["inference_time_s"] == pytest.approx(alone["inference_time_s"] / 8, rel=1e-12)
    assert alone["worst_wear_cycles"] == 0
    assert alone["tasks_until_wear_out"] == math.inf
    assert alone["cells_deployed"] == held + own.placement.cells
