"""Chips side by side: what each method reaches on every chip, and what one method costs there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from crossbar_experiments import tables
from crossbar_experiments.errors import BenchError
from crossbar_experiments.paired import check_label
from crossbar_experiments.style import FUSION
from crossbar_sim.errors import nearest

if TYPE_CHECKING:
    import pandas as pd

    from crossbar_experiments.store import Results

REACHED = "reached: "
"""Columns that hold a label's accuracy are named so, followed by the label."""
PRICES = ("cells_deployed", "tiles_deployed", "deploy_energy_J", "task_energy_J", "text_energy_J")


def side_by_side(
    table: pd.DataFrame, *, priced: str, chips: Sequence[str] = (), labels: Sequence[str] = ()
) -> pd.DataFrame:
    """One row per chip: every label's accuracy (%), and the cells, tiles and energies of the label `priced`.

    Args:
        table: what `tables.compare` makes.
        priced: the label whose deployment, task and inference are priced.
        chips: the order of the rows; a chip without results is left out. Default: all, by name.
        labels: likewise the order of the accuracies.

    Raises:
        BenchError: no row has the label `priced`, or none of the chips is there.
    """
    import pandas as pd

    check_label(table, priced, "priced")
    parts = {str(chip): part.set_index("label") for chip, part in table.groupby("chip")}
    kept = [chip for chip in chips or sorted(parts) if chip in parts]
    if not kept:
        raise BenchError(f"chips: {chips[0]!r} has no results{nearest(chips[0], parts)}")
    present = set(table["label"])
    shown = [label for label in labels or sorted(present) if label in present]
    return pd.DataFrame([_row(chip, parts[chip], shown, priced) for chip in kept])


def _row(chip: str, part: pd.DataFrame, labels: Sequence[str], priced: str) -> dict[str, Any]:
    accuracy = part["accuracy"].to_dict()
    prices = part.loc[priced].to_dict() if priced in part.index else {}
    return {
        "chip": chip,
        "method": "",
        **{REACHED + label: accuracy.get(label, float("nan")) for label in labels},
        **{name: prices.get(name, float("nan")) for name in PRICES},
        "cells": " ".join(part["cells"]),
    }


def columns_of(table: pd.DataFrame, priced: str) -> tuple[tables.Column, ...]:
    """How the columns of `ablation` are shown; a price that no chip knows is left out."""
    labels = [str(name).removeprefix(REACHED) for name in table.columns if str(name).startswith(REACHED)]
    shown = [tables.Column("chip", "chip", "", lambda row: str(row["chip"]), numeric=False)]
    shown += [tables.percent_column(REACHED + label, label, "accuracy, %") for label in labels]
    prices = [
        column for column in tables.COLUMNS if column.name in PRICES and table[column.name].notna().any()
    ]
    return (*shown, *(tables.regrouped(column, priced) for column in prices))


def priced_label(results: Results) -> str:
    """The label that is priced unless another is asked for: fusion, else the first of its family, else the first."""
    metrics = results.metrics
    labels = dict(zip(metrics["label"], metrics["method"], strict=True))
    if "fusion" in labels:
        return "fusion"
    family = sorted(label for label, method in labels.items() if method in FUSION)
    return str((family or sorted(labels))[0])
