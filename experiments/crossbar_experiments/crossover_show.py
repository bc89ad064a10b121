"""`lorafusion crossover`: the contenders of a comparison priced under every price of writing, as text, JSON, CSV and figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from crossbar_experiments import crossover, figures, tables
from crossbar_experiments.cost_figures import crossover_figure
from crossbar_experiments.costs import title
from crossbar_experiments.crossover import TASKS, TOKENS, Costs, Life
from crossbar_experiments.estimates import Question, contenders, costs_of
from crossbar_experiments.outputs import writing
from crossbar_experiments.show import wide_console
from crossbar_experiments.tables import Column, engineering
from crossbar_sim.pricing import WRITES, Pricing

if TYPE_CHECKING:
    import pandas as pd


EQUAL = "accuracy is taken to be equal"
"""What a comparison of costs alone assumes of its contenders."""


@dataclass(frozen=True)
class Crossover:
    """An answer: what was asked, and every contender's costs by price of writing."""

    question: Question
    life: Life
    pricing: Pricing
    priced: Mapping[str, Sequence[Costs]]
    chip_only: bool = False
    assumptions: tuple[str, ...] = ()

    @property
    def grid(self) -> tuple[int, ...]:
        """Tasks per life that tables print."""
        return tuple(sorted({*TASKS, self.life.tasks}))

    @property
    def heading(self) -> str:
        """What is compared on what."""
        asked = self.question
        return f"{asked.arch} on {asked.preset}, backward {asked.backward}: who is cheapest"

    @property
    def caption(self) -> str:
        """Preset, pricing, life, and how much rests on assumed numbers."""
        asked, load = self.question, self.question.workload
        shares = [each.assumed for costs in self.priced.values() for each in costs if isfinite(each.assumed)]
        told = f"{100 * min(shares):.0f} to {100 * max(shares):.0f} %" if shares else "an unknown share"
        prices = title(self.pricing, chip_only=self.chip_only).replace(f", writes {self.pricing.write}", "")
        return (
            f"{asked.preset}; {prices}; {self.life}; {asked.modules} modules, rank {asked.rank}; a task is {load.steps} steps "
            f"of {load.batch} texts of {load.length} tokens\n{told} of a task's energy rests on assumed numbers; {EQUAL}"
        )

    @property
    def headlines(self) -> dict[str, str]:
        """One sentence per price of writing."""
        life = self.life
        return {
            write: crossover.headline(
                costs, write=write, tasks=life.tasks, tokens=life.tokens, dates=life.dates
            )
            for write, costs in self.priced.items()
        }

    def rows(self) -> list[dict[str, Any]]:
        """The grid of tokens per task and tasks per life, for each price of writing and contender."""
        return [
            {"write": write, **row}
            for write, costs in self.priced.items()
            for row in crossover.table(costs, tasks=self.grid, tokens=TOKENS, dates=self.life.dates)
        ]

    def break_even(self) -> list[dict[str, Any]]:
        """Ranges of tokens per task where fusion costs less, by price of writing, rival and tasks per life."""
        return [
            {"write": write, **row}
            for write, costs in self.priced.items()
            for row in crossover.break_even(costs, tasks=self.grid, dates=self.life.dates)
        ]

    def best(self) -> list[dict[str, Any]]:
        """Who is cheapest over which tokens per task, by price of writing and tasks per life; `lasting`: and stands it, or not."""
        dates, rows = self.life.dates, []
        for write, costs in self.priced.items():
            by_label = {each.label: each for each in costs}
            for tasks in self.grid:
                for region in crossover.regions(costs, tasks=tasks, refreshes=dates):
                    name = crossover.lasting(by_label[region.label], tasks=tasks, dates=dates)
                    rows.append({"write": write, "tasks": tasks, **asdict(region), "lasting": name})
        return rows

    def plain(self) -> dict[str, Any]:
        """All of it as plain data; what is endless or not known is null."""
        asked = self.question
        whole = {
            "arch": asked.arch, "preset": asked.preset, "backward": asked.backward,
            "pricing": {**asdict(self.pricing), "write": list(self.priced)}, "chip_only": self.chip_only,
            "modules": asked.modules, "rank": asked.rank, "workload": asdict(asked.workload),
            "life": {**asdict(self.life), "refreshes": self.life.dates},
            "contenders": {write: [asdict(each) for each in costs] for write, costs in self.priced.items()},
            "headlines": self.headlines, "cheapest": self.best(), "break_even": self.break_even(),
            "assumptions": list(self.assumptions), "grid": self.rows(),
        }  # fmt: skip
        return {key: finite(value) for key, value in whole.items()}


def finite(value: Any) -> Any:
    """The value with None in place of numbers that JSON has no word for."""
    if isinstance(value, Mapping):
        return {str(key): finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def answer(
    question: Question, life: Life, pricing: Pricing, *, keep: int, chip_only: bool = False
) -> Crossover:
    """Estimate every contender once, and price it under every price of writing."""
    text = replace(question.workload, tokens=question.workload.length)
    question = replace(question, workload=text)
    pricings = [replace(pricing, write=write) for write in WRITES]
    priced: dict[str, list[Costs]] = {write: [] for write in WRITES}
    assumed: dict[str, None] = {EQUAL: None}
    for contender in contenders(question, keep=keep):
        found = question.estimate(contender.method, **contender.settings)
        assumed |= dict.fromkeys(found.assumptions)
        for each in pricings:
            table = each.table(question.card)
            priced[each.write].append(costs_of(contender, found, question, table, chip_only=chip_only))
    return Crossover(question, life, pricing, priced, chip_only, tuple(assumed))


def write(found: Crossover, *, csv: Path | None, figure: Path | None) -> None:
    """Write the grid and the figure where they are wanted, and say so on standard error."""
    if csv is not None:
        import pandas as pd

        with writing("csv", csv):
            pd.DataFrame(found.rows()).to_csv(csv, index=False)
        typer.echo(csv, err=True)
    if figure is not None:
        drawn = crossover_figure(
            found.priced,
            life=found.life,
            endurance=found.question.card.device.endurance,
            heading=found.heading,
            caption=found.caption,
        )
        with writing("figure", figure):
            figure.write_text(figures.svg(drawn), encoding="utf-8")
        typer.echo(figure, err=True)


def show(found: Crossover) -> None:
    """Print contenders, break-even and the headline sentences."""
    import pandas as pd

    console = wide_console()
    console.print(found.heading, style="bold")
    console.print(found.caption, soft_wrap=True)
    for write, costs in found.priced.items():
        frame = pd.DataFrame([_shown(each, found.life) for each in costs])
        tables.print_table(frame, _columns(), console, title=f"writes {write}, {found.life.tasks:,} tasks")
    wins = _by_write(found.best(), ("tasks", "lasting"))
    tables.print_table(
        wins,
        _columns_of(found, "tasks per life", "cheapest"),
        console,
        title="the cheapest of all, by tokens per task",
    )
    asked = [row for row in found.break_even() if row["tasks"] == found.life.tasks]
    even = _by_write(asked, ("label", "rival"))
    heading = f"tokens per task at which fusion costs less than a rival, {found.life.tasks:,} tasks"
    tables.print_table(even, _columns_of(found, "fusion", "rival"), console, title=heading)
    for sentence in found.headlines.values():
        console.print(f"- {sentence}", soft_wrap=True)
    console.print(f"assumed: {'; '.join(found.assumptions)}", soft_wrap=True)


def _by_write(rows: Sequence[Mapping[str, Any]], keys: tuple[str, str]) -> pd.DataFrame:
    """One row per pair of keys, one column per price of writing: a range of tokens per task in words."""
    import pandas as pd

    found: dict[tuple[Any, Any], dict[str, Any]] = {}
    for row in rows:
        first, second = (row[key] for key in keys)
        line = found.setdefault((first, second), {"first": first, "second": second})
        line[row["write"]] = crossover.range_text(row["low"], row["high"])
    order = (
        sorted(found.values(), key=lambda line: line["first"]) if keys[0] == "tasks" else list(found.values())
    )
    return pd.DataFrame(order).fillna(tables.MISSING)


def _shown(each: Costs, life: Life) -> dict[str, Any]:
    energies = {f"at {tokens:g}": each.total(life.tasks, tokens, life.dates) for tokens in TOKENS}
    times = {
        "write_time_s": each.write_time(life.tasks, life.dates),
        "wear_cycles": each.wear(life.tasks, life.dates),
        "worn_out": each.worn_out(life.tasks, life.dates),
    }
    return {**asdict(each), **energies, **times}


def _round(value: float) -> str:
    return engineering(value, "").replace(".0", "").strip()


def _joules(name: str, heading: str, group: str) -> Column:
    return Column(name, heading, group, lambda row: engineering(row[name], "J"))


def _columns() -> list[Column]:
    return [
        Column("label", "contender", "", lambda row: str(row["label"]), numeric=False),
        _joules("deploy_joules", "once", "energy"),
        _joules("task_joules", "per task", "energy"),
        _joules("token_joules", "per token", "energy"),
        _joules("refresh_joules", "per refresh", "energy"),
        *(_joules(f"at {t:g}", f"{_round(t)} tokens", "life, at") for t in TOKENS[2:5]),
        Column("write_time_s", "writing", "life", lambda row: engineering(row["write_time_s"], "s")),
        Column("wear_cycles", "cycles", "life", _wear),
        Column("words", "words kept", "", lambda row: tables.count(row["words"])),
        Column("chips", "chips", "", lambda row: tables.count(row["chips"])),
    ]


def _wear(row: tables.Row) -> str:
    return engineering(row["wear_cycles"], "") + " (worn out)" * bool(row["worn_out"])


def _columns_of(found: Crossover, first: str, second: str) -> list[Column]:
    """Columns of what `_by_write` made."""
    return [
        _text("first", first, ""),
        _text("second", second, ""),
        *(_text(write, write, "writes") for write in found.priced),
    ]


def _text(name: str, heading: str, group: str) -> Column:
    def shown(row: tables.Row) -> str:
        value = row[name]
        return f"{value:,}" if isinstance(value, int) else str(value)

    return Column(name, heading, group, shown, numeric=False)
