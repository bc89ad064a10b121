"""What a finished cell cost: space, energy by phase, time and wear, from its chip and its ledger."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, fsum, nan
from typing import Any

from crossbar_experiments.deploy import Deployment
from crossbar_sim import latency, wear
from crossbar_sim.array import ProgrammedArray
from crossbar_sim.ledger import REST, TASK_PHASES, WRITING, verify_conversions
from crossbar_sim.presets import Preset
from crossbar_sim.prices import ADC
from crossbar_sim.pricing import assumed_share
from lorafusion.estimate import DEPLOYMENTS

Rows = Sequence[dict[str, Any]]


def costs(
    deployment: Deployment,
    rows: Rows,
    written: Sequence[ProgrammedArray],
    *,
    task: str,
    with_pool: bool,
    texts: int,
) -> dict[str, float | int]:
    """Cells, energies, times and wear of a task, deployment apart.

    Args:
        deployment: the chip as the task leaves it.
        rows: its ledger at the card's own prices.
        written: the arrays that the task wrote. What a method left on the chip beside them (VeRA's frozen pair) is deployed.
        task: the task's name in the ledger.
        with_pool: whether the pool was deployed for the method.
        texts: how many were tested.
    """
    card = deployment.chip.preset
    deployed = [r for r in rows if r["task"] in DEPLOYMENTS or r["phase"] == "deploy"]
    own = [r for r in rows if r["task"] == task and r["phase"] != "deploy"]
    adapting = [r for r in own if r["phase"] != "eval"]
    return {
        **_space(deployment, written, with_pool=with_pool),
        "cells_rewritten": sum(r["count"] for r in adapting if r["action"] == "cell_write"),
        "deploy_energy_J": _known(energy(deployed), card),
        "write_energy_J": _known(write_energy(adapting, card), card),
        **{f"{p}_energy_J": energy([r for r in own if r["phase"] == p]) for p in TASK_PHASES},
        "task_energy_J": energy(adapting),
        "rest_energy_J": energy([r for r in adapting if r["matrix"] == REST]),
        "inference_energy_J": energy([r for r in own if r["phase"] == "eval"]),
        **_times(deployment, task=task, texts=texts),
        **_wear(deployment, written, with_pool=with_pool),
        "assumed_share": assumed_share(adapting, card, card.prices) if card.prices is not None else nan,
    }


def energy(rows: Rows) -> float:
    """Sum of the rows' energies, J, rounded once."""
    return fsum(r["energy_J"] for r in rows)


def write_energy(rows: Rows, card: Preset) -> float:
    """Pulses, verify reads and the verify reads' conversions, J: a verify read is one conversion under its own task, phase, layer and matrix."""
    if card.prices is None:
        return nan
    conversions = [
        count * card.prices.energy(ADC, rows[at]["precision"])
        for at, count in verify_conversions(rows).items()
        if count
    ]
    return fsum([*(r["energy_J"] for r in rows if r["action"] in WRITING), *conversions])


def _space(deployment: Deployment, written: Sequence[ProgrammedArray], *, with_pool: bool) -> dict[str, int]:
    """Cells, tiles and chips that hold what is deployed."""
    chip = deployment.chip
    brought = [a for name, a in chip.arrays.items() if name not in deployment.arrays and a not in written]
    tiles = deployment.tiles(with_pool=with_pool) + sum(a.placement.arrays for a in brought)
    count = chip.preset.tiles.count
    chips = ceil(tiles / count) if count else 1
    return {
        "cells_deployed": deployment.cells(with_pool=with_pool) + sum(a.placement.cells for a in brought),
        "tiles_deployed": tiles,
        "chips_needed": chips,
    }


def _times(deployment: Deployment, *, task: str, texts: int) -> dict[str, float]:
    """Seconds of writing, one pulse after the other and line by line, of the whole adaptation and of one inference."""
    ledger, card = deployment.chip.ledger, deployment.chip.preset
    times = latency.latency(ledger, card.prices, task=task)
    lines = latency.latency(ledger, card.prices, latency.Timing(writing="row_parallel"), task=task)
    adapting = {phase: parts for phase, parts in times.items() if phase in TASK_PHASES}
    by_line = {phase: parts for phase, parts in lines.items() if phase in TASK_PHASES}
    return {
        "write_time_s": _known(fsum(parts["writing"] for parts in adapting.values()), card),
        "write_time_rows_s": _known(fsum(parts["writing"] for parts in by_line.values()), card),
        "task_time_s": latency.total(adapting),
        "inference_time_s": latency.total({"eval": times.get("eval", {})}) / texts,
    }


def _wear(deployment: Deployment, written: Sequence[ProgrammedArray], *, with_pool: bool) -> dict[str, float]:
    """Endurance cycles that the task spent on the arrays it wrote, and what the card's endurance leaves: tasks, and refreshes of the pool."""
    chip = deployment.chip
    card, pool = chip.preset, deployment.pool_names() if with_pool else set()
    own = wear.wear(written)
    held = wear.wear(array for name, array in deployment.arrays.items() if name in pool)
    endurance = card.device.endurance
    refreshes = wear.refreshes_left(endurance, held.worst) if pool else nan
    return {
        "mean_wear_cycles": _known(own.mean, card),
        "worst_wear_cycles": _known(own.worst, card),
        "tasks_until_wear_out": _known(wear.tasks_until_wear_out(endurance, own.worst), card),
        "refreshes_left": _known(refreshes, card),
    }


def _known(value: float, card: Preset) -> float:
    """An energy or a time, NaN where the card states no prices or no law of writing: not zero, and not known."""
    return nan if card.writes_at_once or card.prices is None else value
