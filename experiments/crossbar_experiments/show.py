"""What the commands print: progress, the comparison, the report's path, a card's entries."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from crossbar_experiments import figures, store, tables
from crossbar_experiments.config import Cell, Experiment
from crossbar_experiments.report import strongest_lora, write_report
from crossbar_experiments.run import identity
from crossbar_experiments.workers import run_cells

if TYPE_CHECKING:
    from crossbar_sim.card_fit import CardFit
    from crossbar_sim.prices import Price, PriceTable

WIDTH = 126
"""Columns that the comparison needs; a narrower terminal wraps."""
GOAL = -0.19
"""Points of accuracy that fusion may lose to LoRA (the published drop)."""
NOT_MODELLED = (
    "energy and time of wires between tiles, of drivers and of settling, leakage and control; wires inside tiles too where a chip's settings say ir_drop False",
    "temperature, read disturb, and retention after a card's last published time (held from there on)",
    "overlap in time: layers, vectors, conversions, digital work and transfers from DRAM follow one another; tiles of a layer work side by side",
    "waiting for SRAM and for the memory of activations: they keep up with the digital units",
    "technology scaling in a run's own prices: converters are 32 nm, digital logic 45 nm, as published",
)


def run_with_progress(experiment: Experiment, root: Path, *, workers: int) -> None:
    """Run what is not finished yet, with bars on the terminal's standard error."""
    console = Console(stderr=True)
    cells = experiment.cells()
    left = [cell for cell in cells if not store.done(root, experiment.name, identity(cell))]
    if len(left) < len(cells):
        console.print(f"{len(cells) - len(left)} of {len(cells)} cells are finished already")
    if not left:
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        whole = bars.add_task("cells", total=len(left))
        parts: dict[int, Any] = {}

        def step(cell: Cell, done: int, total: int, what: str) -> None:
            if id(cell) not in parts:
                parts[id(cell)] = bars.add_task("", total=total)
            name = f"{cell.chip_label} / {cell.task} / {cell.label}: {what}"
            bars.update(parts[id(cell)], description=name, completed=done, total=total)

        for cell, _ in run_cells(left, root, workers=workers, progress=step):
            bars.advance(whole)
            if id(cell) in parts:
                bars.remove_task(parts.pop(id(cell)))


def show(experiment: Experiment, root: Path, *, command: str, as_json: bool) -> None:
    """Print the comparison and the report's path."""
    directory = root / experiment.name
    results = store.load(directory).only(identity(cell) for cell in experiment.cells())
    table = tables.compare(results, experiment.baseline)
    path = write(results, directory, title=experiment.title, command=command)
    if as_json:
        typer.echo(json.dumps({"table": tables.json_rows(table), "report": str(path)}, indent=2))
        return
    console = wide_console()
    console.print(experiment.title, style="bold")
    tables.print_rich(table, console)
    console.print(f"run folders: {directory}", soft_wrap=True)
    console.print(f"report:      {path}", soft_wrap=True)


def wide_console() -> Console:
    """Standard output, at least as wide as the comparison."""
    return Console(width=max(Console().width, WIDTH))


def write(results: store.Results, directory: Path, *, title: str, command: str) -> Path:
    """Write the figure and the report beside the run folders; the report's path."""
    table = tables.compare(results, strongest_lora(results))
    if table["task_energy_J"].notna().any():
        figure = figures.svg(figures.energy_against_accuracy(table))
        (directory / "energy_against_accuracy.svg").write_text(figure, encoding="utf-8")
    cards = sorted({str(chip["preset"]) for chip in results.chips.values()})
    sources = [entry for card in cards for entry in _sources(card)]
    return write_report(
        results,
        directory / "report.html",
        title=title,
        command=command,
        sources=sources,
        goal=GOAL,
        not_modelled=NOT_MODELLED,
    )


def _sources(chip: str) -> list[dict[str, Any]]:
    from crossbar_sim.presets import presets

    if chip not in presets():
        return []
    entries, _ = card_entries(chip)
    return [
        {
            "chip": chip,
            "name": e["entry"],
            **{k: e[k] for k in ("value", "mark", "source", "low", "high", "note")},
        }
        for e in entries
    ]


def card_entries(name: str) -> tuple[list[dict[str, Any]], str]:
    """Every number of a card and of its price table, with unit, mark and source; and the card's title."""
    from crossbar_sim.card_units import unit
    from crossbar_sim.presets import preset

    card = preset(name)
    entries = []
    for path, origin in card.provenance.items():
        section, entry = path.split(".")
        value = getattr(getattr(card, section), entry)
        source = card.sources[origin.source]
        entries.append(
            {"entry": path, "value": value, "unit": unit(path), "mark": origin.mark, "source": source, "low": origin.low,
             "high": origin.high, "note": origin.note}
        )  # fmt: skip
    if card.prices is not None:
        entries += [_price_entry(path, price) for path, price in _prices(card.prices)]
    return entries, card.title


def _prices(table: PriceTable) -> Iterator[tuple[str, Price]]:
    """Every number of a price table by its entry."""
    for part, prices in (("price", table.energies), ("latency", table.latencies), ("area", table.areas)):
        for name, price in prices.items():
            yield f"{part}.{name}", price
    if table.lanes is not None:
        yield "digital.lanes", table.lanes


def _price_entry(path: str, price: Price) -> dict[str, Any]:
    from crossbar_sim.card_units import unit

    about = {"entry": path, "value": price.value, "unit": unit(path), "mark": price.mark}
    return about | {"source": price.source, "low": None, "high": None, "note": ""}


def card_text(name: str) -> str:
    """A card for reading: one number per line with unit, mark, bounds, source and note."""
    entries, title = card_entries(name)
    width = max(len(entry["entry"]) for entry in entries)
    lines = [title]
    for e in entries:
        value = f"{e['value']!s} {e['unit']}".strip()
        bounds = "" if e["low"] is None else f" ({e['low']} to {e['high']})"
        note = f"; {e['note']}" if e["note"] else ""
        lines.append(f"{e['entry']:{width}}  {value:24} {e['mark'] + bounds:10} {e['source']}{note}")
    return "\n".join([*lines, f"Entries not listed have their defaults: {', '.join(_defaults(name))}"])


def _defaults(name: str) -> list[str]:
    """What a card does not state: "section.entry value unit", or that a whole section is absent."""
    from crossbar_sim.card_file import SECTIONS
    from crossbar_sim.card_units import unit
    from crossbar_sim.presets import preset

    card = preset(name)
    parts = {section: getattr(card, section) for section in SECTIONS}
    return [
        f"{path} {getattr(part, entry.name)} {unit(path)}".strip()
        for section, part in parts.items()
        if part is not None
        for entry in fields(part)
        if (path := f"{section}.{entry.name}") not in card.provenance
    ] + [f"no {section}" for section in (*SECTIONS, "prices") if getattr(card, section) is None]


def fit_rows(found: CardFit) -> list[dict[str, float]]:
    """Goodness of fit of a card from measurements, one row per time; the fields are those of `ErrorLaw`, in uS."""
    return [
        {
            "time_s": law.time,
            "readings": law.n,
            "misfit_uS": 1e6 * law.misfit,
            "chance_uS": 1e6 * law.expected,
            "ks": law.ks,
            "p": law.p,
            "clipped": law.clipped,
        }
        for law in found.laws
    ]
