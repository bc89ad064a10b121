"""The command line. Heavy libraries are imported inside the commands, so that --help answers at once."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from crossbar_experiments import cost_cli

app = typer.Typer(
    help="Adapt models to tasks on simulated ReRAM chips: LoRA against fusion, with what each costs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
presets_app = typer.Typer(help="Device cards.", no_args_is_help=True)
modules_app = typer.Typer(help="LoRA modules.", no_args_is_help=True)
data_app = typer.Typer(help="Data sets.", no_args_is_help=True)
app.add_typer(presets_app, name="presets")
app.add_typer(modules_app, name="modules")
app.add_typer(data_app, name="data")

Directory = Annotated[Path, typer.Argument(help="Folder of an experiment that was run, runs/NAME.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder of the run folders.")]
Workers = Annotated[int, typer.Option(min=1, help="Worker processes, one thread each.")]
INTERRUPTED = 130
DEFAULT_WORKERS = min(os.cpu_count() or 1, 2)
BENCHES = "mvm, layers, memory, wires, programming, peers"
SHIPPED = "ablation, demo, demo_quick, gating, results, tuning, yield"


def _version(asked: bool) -> None:
    """Print name and version, and leave."""
    if asked:
        from importlib.metadata import version

        typer.echo(f"lorafusion-reram {version('lorafusion-reram')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave."),
    ] = False,
) -> None:
    """Options that stand before a command; `_version` has acted when this is called."""


@app.command()
def demo(
    quick: Annotated[bool, typer.Option("--quick", help="One task, in under 90 seconds.")] = False,
    runs: Runs = Path("runs"),
    workers: Workers = DEFAULT_WORKERS,
    as_json: Json = False,
) -> None:
    """Bring tasks that no module has seen onto a chip: LoRA against fusion, and what both cost."""
    _run_and_show("demo_quick" if quick else "demo", runs, workers, as_json=as_json)


@app.command()
def run(
    config: Annotated[str, typer.Argument(help=f"A shipped configuration ({SHIPPED}), or a .toml file.")],
    runs: Runs = Path("runs"),
    workers: Workers = DEFAULT_WORKERS,
    as_json: Json = False,
) -> None:
    """Run every cell of a configuration that is not finished yet, then print the comparison."""
    _run_and_show(config, runs, workers, as_json=as_json)


@app.command()
def status(directory: Directory, as_json: Json = False) -> None:
    """Which cells of an experiment's folder are finished."""
    from crossbar_experiments import store

    metrics = store.load(directory).metrics
    done = metrics[["cell", "chip", "task", "label", "seed", "accuracy"]]
    _say(done.to_dict("records"), done.to_string(index=False), as_json=as_json)


@app.command()
def compare(
    directory: Directory,
    baseline: Annotated[str, typer.Option(help="Method that differences are taken to.")] = "lora",
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    as_json: Json = False,
) -> None:
    """One row per chip and method, beside a baseline."""
    from crossbar_experiments import store, tables
    from crossbar_experiments.show import wide_console

    table = tables.compare(store.load(directory), baseline)
    if as_json:
        _say(tables.json_rows(table), "", as_json=True)
    elif markdown:
        typer.echo(tables.to_markdown(table))
    else:
        tables.print_rich(table, wide_console())


@app.command()
def ablation(
    directory: Directory,
    priced: Annotated[
        str, typer.Option(help="Method whose cells and energies are shown; default: fusion.")
    ] = "",
    config: Annotated[
        str,
        typer.Option(
            help=f"Configuration that gives the order ({SHIPPED}, or a .toml file); default: by name."
        ),
    ] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    as_json: Json = False,
) -> None:
    """One row per chip: the accuracy of every method, and what one of them costs there."""
    from crossbar_experiments import ablation as beside
    from crossbar_experiments import store, tables
    from crossbar_experiments.config import find_config, load_experiment
    from crossbar_experiments.show import wide_console

    results = store.load(directory)
    chosen = priced or beside.priced_label(results)
    order = load_experiment(find_config(config)) if config else None
    table = beside.side_by_side(
        tables.compare(results, chosen),
        priced=chosen,
        chips=tuple(order.chips) if order else (),
        labels=tuple(order.methods) if order else (),
    )
    columns = beside.columns_of(table, chosen)
    if as_json:
        _say(tables.json_rows(table), "", as_json=True)
    elif markdown:
        typer.echo(tables.to_markdown(table, columns))
    else:
        tables.print_table(table, columns, wide_console())


@app.command()
def report(directory: Directory) -> None:
    """Write the HTML report of an experiment's folder and print its path."""
    from crossbar_experiments import store
    from crossbar_experiments.outputs import writing
    from crossbar_experiments.show import write

    results = store.load(directory)
    with writing("report", directory):
        typer.echo(write(results, directory, title=directory.resolve().name, command=_command()))


@app.command()
def export(
    directory: Directory, out: Annotated[Path, typer.Option(help="Folder for the CSV files.")] = Path()
) -> None:
    """All cells of an experiment as three CSV files: metrics, ledger, predictions."""
    from crossbar_experiments import store
    from crossbar_experiments.outputs import writing

    results = store.load(directory)
    with writing("out", out):
        out.mkdir(parents=True, exist_ok=True)
        for name in ("metrics", "ledger", "predictions"):
            path = out / f"{name}.csv"
            getattr(results, name).to_csv(path, index=False)
            typer.echo(path)


@app.command()
def count(
    arch: Annotated[str, typer.Option(help="Architecture, e.g. flan-t5-large.")],
    method: Annotated[str, typer.Option(help="Method, e.g. fusion.")],
    modules: Annotated[int, typer.Option(min=1, help="Modules of the pool.")] = 20,
    rank: Annotated[
        int | None, typer.Option(min=1, help="Rank of the modules (16) and of the method (its own).")
    ] = None,
    targets: Annotated[str, typer.Option(help="Endings of the adapted layers' names, comma-separated.")] = "",
    as_json: Json = False,
) -> None:
    """Trained parameters of a method on an architecture, from its shapes alone."""
    from lorafusion.count import count as count_parameters

    chosen = tuple(t.strip() for t in targets.split(",") if t.strip())
    found = count_parameters(arch, method, modules=modules, rank=rank, targets=chosen)
    lines = [f"{arch}, {method}: {found['trainable']:,} trained parameters"]
    lines += [f"  {name}: {number:,}" for name, number in found["groups"].items()]
    _say(found, "\n".join(lines), as_json=as_json)


@app.command()
def pool(out: Annotated[Path, typer.Option(help="Folder for the modules.")] = Path("pool")) -> None:
    """Train the project's LoRA modules again, one per source task (about ten minutes on two cores)."""
    from crossbar_experiments.model import load_classifier, minilm_folder
    from crossbar_experiments.pool import MAX_TOKENS, SOURCES, write_pool

    classifier = load_classifier(minilm_folder(), max_tokens=MAX_TOKENS)
    for name, reached in write_pool(classifier, SOURCES, out):
        typer.echo(f"{name}: validation accuracy {100 * reached:.1f} % -> {out / name}")


@app.command()
def bench(
    parts: Annotated[list[str] | None, typer.Argument(help=f"Of {BENCHES}; default: all but peers.")] = None,
    peers: Annotated[bool, typer.Option("--peers", help="Time other simulators, too.")] = False,
    runs: Annotated[int | None, typer.Option(min=5, help="Timed runs of each; default: 9 or 5.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads for everybody; default: all.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny shapes: whether it runs, not how fast.")
    ] = False,
    figure: Annotated[Path | None, typer.Option(help="Draw ratios and goals (.svg).")] = None,
    as_json: Json = False,
) -> None:
    """Time products, layers and training steps against plain ones on this machine, and measure memory."""
    from crossbar_experiments.bench import check_drawn, parts_of, run_bench
    from crossbar_experiments.outputs import check_file, writing

    chosen = parts_of(parts or (), peers=peers)
    if figure is not None:
        check_file("figure", figure, suffix=".svg")
        check_drawn(chosen)
    given = [("--runs", runs), ("--threads", threads)]
    arguments = [word for name, value in given if value for word in (name, str(value))]
    reports = run_bench(chosen, [*arguments, *(["--quick"] if quick else [])], quiet=as_json)
    if as_json:
        _say(reports, "", as_json=True)
    if figure is not None:
        from crossbar_experiments import bench_figure, figures

        drawn = figures.svg(bench_figure.ratios(reports))
        with writing("figure", figure):
            figure.write_text(drawn, encoding="utf-8")
        typer.echo(figure, err=True)


app.command()(cost_cli.cost)
app.command()(cost_cli.crossover)


@presets_app.command("list")
def presets_list(as_json: Json = False) -> None:
    """Names and titles of the device cards."""
    from crossbar_sim.presets import preset, presets

    titles = {name: preset(name).title for name in presets()}
    width = max(len(name) for name in titles)
    _say(titles, "\n".join(f"{name:{width}}  {title}" for name, title in titles.items()), as_json=as_json)


@presets_app.command("show")
def presets_show(
    name: Annotated[
        str, typer.Argument(help="Name of a card (presets list), or the path of one, my_cells.toml.")
    ],
    plot: Annotated[
        Path | None, typer.Option(help="Draw error, relaxation and pulse response (.svg).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Every number of a card with its unit, mark and source."""
    from crossbar_experiments.outputs import check_file, writing
    from crossbar_experiments.show import card_entries, card_text

    if plot is not None:
        check_file("plot", plot, suffix=".svg")
    _say(card_entries(name)[0], "" if as_json else card_text(name), as_json=as_json)
    if plot is not None:
        from crossbar_experiments import figures
        from crossbar_experiments.card_figures import card_figure
        from crossbar_sim.presets import preset

        drawn = figures.svg(card_figure(preset(name)))
        with writing("plot", plot):
            plot.write_text(drawn, encoding="utf-8")
        typer.echo(plot, err=True)


@presets_app.command("fit")
def presets_fit(
    data: Annotated[
        Path, typer.Argument(help="CSV: target_uS, time_s, measured_uS and, optionally, pulses.")
    ],
    name: Annotated[str, typer.Option(help="Name of the card; default: the file's.")] = "",
    base: Annotated[str, typer.Option(help="Card that states what is not measured.")] = "ideal",
    out: Annotated[Path | None, typer.Option(help="Where the card goes; default: NAME.toml.")] = None,
    as_json: Json = False,
) -> None:
    """A card from measured conductances: error laws fitted at every time, with the goodness of fit."""
    from crossbar_experiments.outputs import check_file, writing
    from crossbar_experiments.show import fit_rows
    from crossbar_sim.card_fit import fit_card
    from crossbar_sim.presets import preset

    called = name or data.stem
    path = out or Path(f"{called}.toml")
    check_file("out", path, suffix=".toml")
    found = fit_card(data, name=called, base=base)
    with writing("out", path):
        path.write_text(found.text, encoding="utf-8")
    card = preset(path)
    rows = fit_rows(found)
    text = [f"{card.title} -> {path}"]
    text += ["  ".join(f"{key} {value:g}" for key, value in row.items()) for row in rows]
    _say({"card": str(path), "pulses": found.pulses, "times": rows}, "\n".join(text), as_json=as_json)


@modules_app.command("inspect")
def modules_inspect(
    path: Annotated[Path, typer.Argument(help="A PEFT folder, or a folder of such folders.")],
    as_json: Json = False,
) -> None:
    """What a PEFT folder (or a folder of them) adapts."""
    from lorafusion.module import LoraLibrary

    found = [
        {"name": m.name, "layers": len(m.factors), "ranks": sorted({f.rank for f in m.factors.values()}),
         "parameters": sum(f.a.numel() + f.b.numel() for f in m.factors.values()), "base": m.base, "sha256": m.sha256}
        for m in LoraLibrary.load(path).modules
    ]  # fmt: skip
    lines = [
        f"{m['name']}: {m['layers']} layers, rank {m['ranks']}, {m['parameters']:,} parameters" for m in found
    ]
    _say(found, "\n".join(lines), as_json=as_json)


@data_app.command("fetch")
def data_fetch(
    names: Annotated[list[str] | None, typer.Argument(help="Packages; default: all.")] = None,
) -> None:
    """Fetch the data sets that are not shipped (checked by sha256, kept in the user's cache)."""
    from crossbar_experiments.fetch import fetch

    for path in fetch(names or None):
        typer.echo(path)


def _run_and_show(config: str, runs: Path, workers: int, *, as_json: bool) -> None:
    from crossbar_experiments.config import find_config, load_experiment
    from crossbar_experiments.show import run_with_progress, show

    experiment = load_experiment(find_config(config))
    run_with_progress(experiment, runs, workers=workers)
    show(experiment, runs, command=_command(), as_json=as_json)


def _command() -> str:
    return "lorafusion " + " ".join(sys.argv[1:])


def _say(data: Any, text: str, *, as_json: bool) -> None:
    typer.echo(json.dumps(data, indent=2) if as_json else text)


def main() -> None:
    """Entry point: a user's mistake is one sentence and exit code 2; Ctrl-C says how to go on."""
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "passive"
    )  # spinning barriers of several pools stall shared cores
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(_guarded(app))


def _guarded(command: Callable[..., Any]) -> int:
    try:
        code = int(command(standalone_mode=False) or 0)  # typer's exit code; commands return nothing
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        code = _told(error)
    if code == INTERRUPTED:
        typer.echo("\ninterrupted; finished cells are kept, the same command goes on from there", err=True)
    return code


def _told(error: Exception) -> int:
    """Say what the user can put right, and give the exit code; any other error is ours, and raised.

    Raises:
        Exception: `error` itself.
    """
    if hasattr(error, "show") and hasattr(error, "exit_code"):  # a usage error, with the command's usage
        error.show()
        return int(error.exit_code)
    if not _is_ours(error):
        raise error
    typer.echo(f"error: {error}", err=True)
    return 2


def _is_ours(error: Exception) -> bool:
    """Whether the error is one of the project's own, made for users."""
    return type(error).__module__.partition(".")[0] in ("crossbar_experiments", "crossbar_sim", "lorafusion")
