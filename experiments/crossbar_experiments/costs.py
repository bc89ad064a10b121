"""What a run or an estimate costs, as frames: every row of a ledger with its component and its part of a chip's life."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossbar_experiments import store
from crossbar_experiments.chips import ChipConfig, dotted
from crossbar_experiments.errors import BenchError
from crossbar_experiments.outputs import check_file, writing
from crossbar_sim.ledger import ACTIONS, PHASES, REST, verify_conversions
from crossbar_sim.presets import Preset
from crossbar_sim.prices import PriceTable
from crossbar_sim.pricing import Pricing, assumed_share, reprice

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[str, Any]
COMPONENTS = ("array", "DAC", "ADC", "writes", "digital", "memory", "interconnect", "leakage", REST)
PARTS = ("deploy", "refresh", "adaptation", "inference")
"""Parts of a chip's life: paid once, once per period, once per task, and with every text."""
_COMPONENT = {
    "array_read": "array",
    "dac_drive": "DAC",
    "adc_conversion": "ADC",
    "sample_hold": "ADC",
    "shift_add": "ADC",
    "opt_update": "digital",
    "bus_bit": "interconnect",
    "noc_bit": "interconnect",
    "leak_s": "leakage",
    **dict.fromkeys(
        ("set_pulse", "reset_pulse", "verify_read", "cell_write", "half_select", "wl_charge", "bl_charge"),
        "writes",
    ),
    **{action: "digital" for action in ACTIONS if action.startswith("digital_")},
    **{action: "memory" for action in ACTIONS if action.startswith(("sram_", "dram_", "activation_"))},
}


def component_of(action: str, matrix: str) -> str:
    """Which part of the hardware an action's energy goes to; the model's own digital work is `rest` whatever it does."""
    return REST if matrix == REST else _COMPONENT[action]


def part_of(row: Row) -> str:
    """Which part of a chip's life a row belongs to (PARTS)."""
    if row["phase"] == "refresh":
        return "refresh"
    if row["phase"] == "deploy" or row["task"].startswith("(deploy"):
        return "deploy"
    return "inference" if row["phase"] == "eval" else "adaptation"


def split_verify(rows: Sequence[Row], table: PriceTable | None) -> list[dict[str, Any]]:
    """The rows with the conversions of verify reads apart from those of products, each with its `component`.

    Verify reads book one conversion each under their own (task, phase, layer, matrix): that many of the group's conversions are
    writes. Counts, energies and times of the two parts add up to the row's; where a write has a fixed price, these conversions
    cost nothing of their own.
    """
    verified = verify_conversions(rows)
    split: list[dict[str, Any]] = []
    for at, row in enumerate(rows):
        covered = verified.get(at, 0)
        if covered:
            split.extend(_two_rows(row, covered, table))
        else:
            split.append({**row, "component": component_of(row["action"], row["matrix"])})
    return split


def _two_rows(row: Row, covered: int, table: PriceTable | None) -> list[dict[str, Any]]:
    """A row of conversions as those of verify reads and, where there are any, those of products."""
    left = row["count"] - covered
    if not left:
        return [{**row, "component": "writes"}]
    free = table is not None and table.write is not None
    share = 0.0 if free else row["energy_J"] * (covered / row["count"])
    return [
        {**row, "count": covered, "energy_J": share, "time_s": 0.0, "component": "writes"},
        {**row, "count": left, "energy_J": row["energy_J"] - share, "component": "ADC"},
    ]


def cost_frame(rows: Sequence[Row], table: PriceTable | None, *, chip_only: bool = False) -> pd.DataFrame:
    """The rows of a ledger as a frame: the ledger's columns, then `component` (COMPONENTS) and `part` (PARTS).

    Args:
        rows: as `Ledger.rows(table)` or `reprice` gives them.
        table: the prices that the rows' energies were made with.
        chip_only: leave out what is digital in every method alike (matrix `rest`).
    """
    import pandas as pd

    kept = [row for row in rows if not (chip_only and row["matrix"] == REST)]
    parts = [{**row, "part": part_of(row)} for row in split_verify(kept, table)]
    with pd.option_context("mode.string_storage", "python"):  # Arrow's strings take long to walk through
        return pd.DataFrame(parts)


def totals(frame: pd.DataFrame, by: str | Sequence[str], *, column: str = "energy_J") -> dict[Any, float]:
    """Sums of a column by the values of one or more columns, exactly rounded (math.fsum); in the order of first sight."""
    keys = [by] if isinstance(by, str) else list(by)
    values: dict[Any, list[float]] = {}
    for *key, value in frame[[*keys, column]].itertuples(index=False, name=None):
        values.setdefault(key[0] if len(keys) == 1 else tuple(key), []).append(value)
    return {key: fsum(parts) for key, parts in values.items()}


def ordered(sums: Mapping[str, float], names: Iterable[str]) -> dict[str, float]:
    """The sums that there are, in the order of these names."""
    return {name: sums[name] for name in names if name in sums}


def by_component(frame: pd.DataFrame) -> dict[str, float]:
    """Joules by component."""
    return ordered(totals(frame, "component"), COMPONENTS)


def by_phase(frame: pd.DataFrame) -> dict[str, float]:
    """Joules by phase."""
    return ordered(totals(frame, "phase"), PHASES)


def by_part(frame: pd.DataFrame) -> dict[str, float]:
    """Joules by part of a chip's life."""
    return ordered(totals(frame, "part"), PARTS)


@dataclass(frozen=True)
class PricedRun:
    """A folder of finished cells under one pricing.

    Attributes:
        ledger: rows of every cell, repriced, with `cell`, `chip`, `label`, `component`, `part`.
        summary: one row per chip and label: means over seeds, then over tasks.
        pricing: the prices' title.
    """

    ledger: pd.DataFrame
    summary: pd.DataFrame
    pricing: str


def load(path: Path) -> store.Results:
    """The finished cells of an experiment's folder, or the one cell whose own folder is given.

    Raises:
        StoreError: there is neither.
    """
    if store.is_sealed(path):
        whole = path.resolve()
        return store.load(whole.parent).only([whole.name])
    return store.load(path)


def priced_run(results: store.Results, pricing: Pricing, *, chip_only: bool = False) -> PricedRun:
    """Price every cell's ledger again, without running anything.

    Raises:
        BenchError: a cell whose chip cannot be read.
        LedgerError, ConfigError: an action without a price, or a price list that does not exist.
    """
    import pandas as pd

    cards = {key: _card(settings) for key, settings in results.chips.items()}
    frames, summaries = [], []
    for metrics in results.metrics.to_dict("records"):
        cell = str(metrics["cell"])
        rows: list[Any] = (
            results.ledger[results.ledger["cell"] == cell].drop(columns="cell").to_dict("records")
        )
        card = cards[cell]
        table = pricing.table(card) if card.prices is not None else None
        again = reprice(rows, card.prices, table) if card.prices is not None and table is not None else rows
        frame = cost_frame(again, table, chip_only=chip_only)
        frames.append(frame.assign(cell=cell, chip=metrics["chip"], label=metrics["label"]))
        summaries.append({**_about(metrics), **_figures(frame, card, table)})
    return PricedRun(
        pd.concat(frames, ignore_index=True), _mean_summary(summaries), title(pricing, chip_only=chip_only)
    )


def _card(settings: Mapping[str, Any]) -> Preset:
    """The card that a cell's chip was made of.

    Raises:
        BenchError: the settings are not those of a chip.
    """
    given = {**settings, "set": dotted(settings.get("set", {}))}
    if "effects" in given:
        given["effects"] = tuple(given["effects"])
    try:
        return ChipConfig(**given).card()
    except TypeError as error:
        raise BenchError(f"chip: cell.toml is from another version ({error}); run the cell again") from None


def _about(metrics: Mapping[Any, Any]) -> dict[str, Any]:
    names = ("chip", "backward", "label", "task", "seed", "n_test", "worst_wear_cycles")
    return {name: metrics[name] for name in names}


def _figures(frame: pd.DataFrame, card: Preset, table: PriceTable | None) -> dict[str, float]:
    """What one cell comes to: joules by phase and component of the adaptation, times, and the share that is assumed."""
    own = frame[frame["part"] == "adaptation"]
    parts = totals(frame, "part")
    rows = [{str(name): value for name, value in row.items()} for row in own.to_dict("records")]
    share = assumed_share(rows, card, table) if table is not None else nan
    return {
        **{f"phase: {name}": value for name, value in by_phase(own).items()},
        **{f"component: {name}": value for name, value in by_component(own).items()},
        "task_energy_J": fsum(own["energy_J"]),
        "deploy_energy_J": parts.get("deploy", 0.0) + parts.get("refresh", 0.0),
        "inference_energy_J": parts.get("inference", 0.0),
        "write_time_s": fsum(own.loc[own["component"] == "writes", "time_s"]),
        "assumed_share": share,
    }


def _mean_summary(summaries: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Means over the seeds of a task, then over the tasks; the wear is the largest. Unknown makes unknown."""
    import pandas as pd

    names = dict.fromkeys(name for summary in summaries for name in summary)
    absent = dict.fromkeys(names, 0.0)  # a phase that a cell never entered cost nothing there
    frame = pd.DataFrame([{**absent, **summary} for summary in summaries])
    columns = [c for c in frame.columns if c not in {*_KEYS, "task", "seed", "n_test", "worst_wear_cycles"}]
    frame["text_energy_J"] = frame["inference_energy_J"] / frame["n_test"]
    rows: list[dict[str, Any]] = []
    for _, group in frame.groupby(list(_KEYS), sort=False):
        tasks = [part[[*columns, "text_energy_J"]].mean(skipna=False) for _, part in group.groupby("task")]
        means = {str(name): value for name, value in pd.DataFrame(tasks).mean(skipna=False).items()}
        energy = fsum(group["task_energy_J"])
        share = fsum(group["assumed_share"] * group["task_energy_J"]) / energy if energy else nan
        rows.append(
            {
                **{name: group[name].iloc[0] for name in _KEYS},
                **means,
                "assumed_share": share,
                "worst_wear_cycles": group["worst_wear_cycles"].max(skipna=False),
            }
        )
    return pd.DataFrame(rows)


_KEYS = ("chip", "backward", "label")


def title(pricing: Pricing, *, chip_only: bool = False) -> str:
    """The pricing in words: "ADC of the card, writes physics, nodes as published, activations in edram"."""
    parts = [
        f"ADC {pricing.adc or 'of the card'}",
        f"writes {pricing.write}",
        f"digital {pricing.node} nm" if pricing.node else "nodes as published",
        f"activations in {pricing.memory}",
        *([f"DRAM {pricing.dram}"] if pricing.dram else []),
    ]
    return ", ".join([*parts, "the chip's share alone"] if chip_only else parts)


def export(frame: pd.DataFrame, *, csv: Path | None, parquet: Path | None) -> list[Path]:
    """Write the frame where it is wanted; the paths written.

    Raises:
        BenchError: no library that writes Parquet, or a disk that refuses.
    """
    written: list[Path] = []
    if csv is not None:
        with writing("csv", csv):
            frame.to_csv(csv, index=False)
        written.append(csv)
    if parquet is not None:
        with writing("parquet", parquet):
            frame.to_parquet(parquet, index=False)
        written.append(parquet)
    return written


def check_export(*, csv: Path | None, parquet: Path | None, figure: Path | None) -> None:
    """Whether these files can be written, before the work starts.

    Raises:
        BenchError: a wrong ending, no folder, or no library that writes Parquet.
    """
    for option, path, suffix in (
        ("csv", csv, ".csv"),
        ("parquet", parquet, ".parquet"),
        ("figure", figure, ".svg"),
    ):
        if path is not None:
            check_file(option, path, suffix=suffix)
    if parquet is not None:
        _check_parquet()


def _check_parquet() -> None:
    from importlib.util import find_spec

    if find_spec("pyarrow") is None:
        raise BenchError(
            "parquet: pyarrow is not installed; pip install 'lorafusion-reram[parquet]', or write --csv"
        )
