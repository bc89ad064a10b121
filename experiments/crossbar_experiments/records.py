"""The three tables of a cell as CSV: fixed columns, floats that come back bit for bit."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossbar_sim.errors import nearest

if TYPE_CHECKING:
    import pandas as pd

Schema = Mapping[str, type]
"""Column -> str, int, or float (which may be left out or None: not known, read as NaN)."""


class RecordError(ValueError):
    """A row that does not fit its table; the text starts with the column's name."""


METRICS: Schema = {
    "experiment": str,
    "task": str,
    "stratum": str,
    "chip": str,
    "label": str,
    "method": str,
    "placement": str,
    "backward": str,
    "seed": int,
    "chip_seed": int,
    "accuracy": float,
    "n_test": int,
    "n_train": int,
    "trainable": int,
    "trainable_fraction_of_lora": float,
    "modules": int,
    "modules_active": float,
    "cells_deployed": float,
    "tiles_deployed": float,
    "chips_needed": float,
    "cells_rewritten": float,
    "deploy_energy_J": float,
    "write_energy_J": float,
    "switch_energy_J": float,
    "calibrate_energy_J": float,
    "forward_energy_J": float,
    "backward_energy_J": float,
    "update_energy_J": float,
    "task_energy_J": float,
    "rest_energy_J": float,
    "inference_energy_J": float,
    "write_time_s": float,
    "write_time_rows_s": float,
    "task_time_s": float,
    "inference_time_s": float,
    "mean_wear_cycles": float,
    "worst_wear_cycles": float,
    "tasks_until_wear_out": float,
    "refreshes_left": float,
    "digital_words": float,
    "assumed_share": float,
    "wall_s": float,
}
LEDGER: Schema = {
    "task": str,
    "phase": str,
    "layer": str,
    "matrix": str,
    "action": str,
    "precision": str,
    "count": int,
    "energy_J": float,
    "time_s": float,
}
PREDICTIONS: Schema = {"index": int, "label": int, "predicted": int}


def to_csv(schema: Schema, rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows as CSV text in the schema's column order.

    Raises:
        RecordError: a text or an integer is missing, a column is unknown, or a value is of another kind.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(schema)
    for row in rows:
        for name in row:
            if name not in schema:
                raise RecordError(f"{name}: unknown column{nearest(name, schema)}")
        for name, kind in schema.items():
            if name not in row and kind is not float:
                raise RecordError(f"{name}: is missing")
        writer.writerow([_text(name, row.get(name), kind) for name, kind in schema.items()])
    return text.getvalue()


def read_csv(path: Path, schema: Schema) -> pd.DataFrame:
    """The frame of a file that `to_csv` wrote.

    Raises:
        ValueError: the columns are not the schema's, or a number cannot be read.
    """
    import pandas as pd

    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    if header != list(schema):
        raise ValueError(f"columns {', '.join(header)}")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(header)}
    return pd.DataFrame({name: _series(columns[name], kind) for name, kind in schema.items()})


def _series(texts: Sequence[str], kind: type) -> pd.Series[Any]:
    """Python's own reading of a float is exact; that of pandas depends on its version."""
    import pandas as pd

    if kind is str:
        return pd.Series(texts, dtype=str)
    if kind is int:
        return pd.Series([int(text) for text in texts], dtype="int64")
    return pd.Series([float(text) if text else math.nan for text in texts], dtype="float64")


def _text(name: str, value: Any, kind: type) -> str:
    if kind is str:
        return "" if value is None else str(value)
    try:
        return _integer(value) if kind is int else _float(value)
    except (TypeError, ValueError):
        raise RecordError(f"{name}: must be a number of kind {kind.__name__} (got {value!r})") from None


def _integer(value: Any) -> str:
    if isinstance(value, str) or int(value) != value:
        raise ValueError
    return str(int(value))


def _float(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        raise ValueError
    return "" if math.isnan(value) else repr(float(value))
