"""The commands `cost` and `crossover`. Heavy libraries are imported inside them, so that --help answers at once."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

if TYPE_CHECKING:
    from crossbar_experiments.estimates import Question

Adc = Annotated[
    str,
    typer.Option(
        help="ADC price list: isaac, murmann or neurosim_sar (at a node: neurosim_sar:65); default: the card's."
    ),
]
Write = Annotated[
    str,
    typer.Option(
        help="Price of a cell write: physics (V2 G t of every pulse), low, mid or high (0.6 pJ, 0.52 nJ, 3.91 nJ)."
    ),
]
Node = Annotated[
    int, typer.Option(min=0, help="Node of digital logic and SRAM in nm, 7 to 130; 0: as published.")
]
Memory = Annotated[str, typer.Option(help="Memory of kept activations: edram, sram or dram.")]
Dram = Annotated[str, typer.Option(help="Memory off the chip: low, high or hbm2; default: the card's.")]
Cores = Annotated[
    int, typer.Option(min=1, help="Cores that share the vectors; changes times and area, not energy.")
]
ChipOnly = Annotated[
    bool, typer.Option("--chip-only", help="Leave out what is digital in every method alike.")
]
Csv = Annotated[Path | None, typer.Option(help="Write the priced rows (.csv).")]
Grid = Annotated[
    Path | None, typer.Option(help="Write energy, write time and wear of every contender (.csv).")
]
Parquet = Annotated[Path | None, typer.Option(help="Write the priced rows (.parquet).")]
Figure = Annotated[Path | None, typer.Option(help="Draw it (.svg).")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Card = Annotated[str | None, typer.Option(help="Device card, or the path of one, my_cells.toml (cmo_hfox).")]
Modules = Annotated[int | None, typer.Option(min=1, help="Modules of the pool (20).")]
Rank = Annotated[int | None, typer.Option(min=1, help="Rank of the modules and of LoRA (16).")]
Targets = Annotated[str | None, typer.Option(help="Endings of the adapted layers' names, comma-separated.")]
Length = Annotated[int | None, typer.Option(min=1, help="Tokens of a text (64).")]
Steps = Annotated[int | None, typer.Option(min=1, help="Training steps per task (125).")]
Batch = Annotated[int | None, typer.Option(min=1, help="Texts of a training step (16).")]
Backward = Annotated[str | None, typer.Option(help="Backward products: transposed, nominal or oracle.")]


P = ParamSpec("P")


def collecting_seldom(command: Callable[P, None]) -> Callable[P, None]:
    """A command that looks for garbage seldom.

    Libraries and plans make millions of objects that stay; to walk them again and again takes a sixth of the time.
    """

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        before = gc.get_threshold()
        gc.set_threshold(100_000, 50, 100)
        try:
            command(*args, **kwargs)
        finally:
            gc.set_threshold(*before)

    return run


@collecting_seldom
def cost(  # noqa: PLR0913, PLR0917 - a command has as many parameters as it has options
    directory: Annotated[
        Path | None, typer.Argument(help="Folder of an experiment that was run (runs/NAME), or of one cell.")
    ] = None,
    arch: Annotated[str, typer.Option(help="Architecture, e.g. flan-t5-large, in place of a run.")] = "",
    method: Annotated[str | None, typer.Option(help="Method, e.g. lora (fusion).")] = None,
    preset: Card = None,
    modules: Modules = None,
    rank: Rank = None,
    targets: Targets = None,
    tokens: Annotated[int | None, typer.Option(min=0, help="Tokens inferred per task (200000).")] = None,
    length: Length = None,
    steps: Steps = None,
    batch: Batch = None,
    tasks: Annotated[int | None, typer.Option(min=1, help="Tasks of the stream (1).")] = None,
    placement: Annotated[
        str | None,
        typer.Option(
            help="Where trained matrices sit: sram, reram_once, reram_every_step or reram_every_step_dense; "
            "VeRA: sram or reram (the method's own default)."
        ),
    ] = None,
    keep: Annotated[
        int | None, typer.Option(min=0, help="Modules of fusion that stay on after training; 0: all (0).")
    ] = None,
    backward: Backward = None,
    adc: Adc = "",
    write: Write = "physics",
    node: Node = 0,
    memory: Memory = "edram",
    dram: Dram = "",
    cores: Cores = 1,
    chip_only: ChipOnly = False,
    csv: Csv = None,
    parquet: Parquet = None,
    figure: Figure = None,
    as_json: Json = False,
) -> None:
    """What a finished run costs under other prices, or what an architecture will cost, without running anything."""
    from crossbar_experiments import cost_show
    from crossbar_experiments.costs import check_export
    from crossbar_sim.pricing import Pricing

    check_export(csv=csv, parquet=parquet, figure=figure)
    pricing = Pricing(adc=adc, write=write, node=node, memory=memory, dram=dram)
    files = cost_show.Files(csv, parquet, figure)
    asked = {
        "method": method, "preset": preset, "modules": modules, "rank": rank, "targets": targets,
        "tokens": tokens, "length": length, "steps": steps, "batch": batch, "tasks": tasks,
        "placement": placement, "keep": keep, "backward": backward,
    }  # fmt: skip
    _run_or_arch(directory, arch, asked, cores)
    if directory is not None:
        found = cost_show.of_run(directory, pricing, files, chip_only=chip_only, as_json=as_json)
    else:
        from crossbar_experiments.bill import bill

        whole = bill(
            _question(arch, asked), method or "fusion", pricing,
            settings={"placement": placement, "keep": keep}, tasks=tasks or 1, cores=cores, chip_only=chip_only,
        )  # fmt: skip
        found = cost_show.of_bill(whole, files, as_json=as_json)
    if as_json:
        typer.echo(json.dumps(found, indent=2))


def _run_or_arch(directory: Path | None, arch: str, asked: dict[str, Any], cores: int) -> None:
    """Either a run or an architecture, and no option that belongs to the other.

    Raises:
        BenchError: neither, both, or an option that says nothing about a run.
    """
    from crossbar_experiments.errors import BenchError

    if (directory is None) == (not arch):
        told = "both were given" if arch else "neither was given"
        raise BenchError(f"cost: give a run's folder or --arch, one of the two ({told})")
    if directory is None:
        return
    given = [name for name, value in asked.items() if value is not None] + ["cores"] * (cores > 1)
    if given:
        raise BenchError(
            f"cost: --{given[0]} belongs to --arch; a finished run has its own, so leave it out or give --arch"
        )


def _question(arch: str, asked: dict[str, Any]) -> Question:
    """What is asked of an architecture; options that were not given are left to their defaults."""
    from dataclasses import fields

    from crossbar_experiments.estimates import Question
    from lorafusion.estimate import Workload

    given = {name: value for name, value in asked.items() if value is not None}
    if "targets" in given:
        given["targets"] = tuple(t.strip() for t in given["targets"].split(",") if t.strip())
    load = {f.name for f in fields(Workload)}
    own = {f.name for f in fields(Question)} - {"workload", "arch"}
    return Question(
        arch=arch,
        workload=Workload(**{name: value for name, value in given.items() if name in load}),
        **{name: value for name, value in given.items() if name in own},
    )


@collecting_seldom
def crossover(  # noqa: PLR0913, PLR0917 - a command has as many parameters as it has options
    arch: Annotated[str, typer.Option(help="Architecture, e.g. flan-t5-large.")],
    preset: Card = None,
    modules: Modules = None,
    rank: Rank = None,
    targets: Targets = None,
    keep: Annotated[int, typer.Option(min=1, help="Modules that stay on in the gated fusion.")] = 4,
    length: Length = None,
    steps: Steps = None,
    batch: Batch = None,
    backward: Backward = None,
    tasks: Annotated[int, typer.Option(min=1, help="Tasks per life, for curves and headline.")] = 1000,
    tokens: Annotated[float, typer.Option(min=0, help="Tokens inferred per task, for the headline.")] = 1e5,
    lifetime: Annotated[
        float | None, typer.Option(help="Life of the chip in seconds; default: five years.")
    ] = None,
    refresh_period: Annotated[
        float | None, typer.Option(help="Seconds between refreshes against drift; default: a year; 0: none.")
    ] = None,
    adc: Adc = "",
    node: Node = 0,
    memory: Memory = "edram",
    dram: Dram = "",
    chip_only: ChipOnly = False,
    csv: Grid = None,
    figure: Figure = None,
    as_json: Json = False,
) -> None:
    """Who is cheapest: LoRA, fusion, VeRA or a full rewrite, by tokens per task, tasks per life and price of writing."""
    from crossbar_experiments import crossover_show
    from crossbar_experiments.costs import check_export
    from crossbar_experiments.crossover import YEAR, Life
    from crossbar_sim.pricing import Pricing

    pricing = Pricing(adc=adc, node=node, memory=memory, dram=dram)
    check_export(csv=csv, parquet=None, figure=figure)
    period = YEAR if refresh_period is None else refresh_period
    span = 5 * YEAR if lifetime is None else lifetime
    life = Life(tasks=tasks, tokens=tokens, lifetime=span, refresh_period=period)
    asked: dict[str, Any] = {
        "preset": preset, "modules": modules, "rank": rank, "targets": targets, "length": length,
        "steps": steps, "batch": batch, "backward": backward,
    }  # fmt: skip
    asked["refresh_period"] = period or None
    found = crossover_show.answer(_question(arch, asked), life, pricing, keep=keep, chip_only=chip_only)
    crossover_show.write(found, csv=csv, figure=figure)
    if as_json:
        typer.echo(json.dumps(found.plain(), indent=2))
    else:
        crossover_show.show(found)
