"""Deployments and tasks priced from an architecture alone: one method's whole bill, and the contenders of a comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from math import fsum
from typing import TYPE_CHECKING, Any

from crossbar_experiments.costs import PARTS, Row, part_of
from crossbar_experiments.crossover import FUSION, Costs
from crossbar_experiments.errors import BenchError
from crossbar_sim.errors import nearest
from crossbar_sim.expected import Expected
from crossbar_sim.latency import WRITES
from crossbar_sim.ledger import REST, Ledger
from crossbar_sim.presets import Preset, preset
from crossbar_sim.prices import PriceTable
from crossbar_sim.pricing import assumed_share
from crossbar_sim.wear import PULSES_PER_CYCLE
from lorafusion.count import method as named_method
from lorafusion.estimate import Estimate, Workload, estimate
from lorafusion.methods import METHODS, Method

if TYPE_CHECKING:
    pass

PULSES = ("set_pulse", "reset_pulse")
RIVAL = "rival"


@dataclass(frozen=True)
class Question:
    """What is asked: which architecture on which card, with which pool, and what a task is."""

    arch: str
    preset: str = "cmo_hfox"
    modules: int = 20
    rank: int = 16
    targets: tuple[str, ...] = ()
    backward: str = "transposed"
    workload: Workload = field(default_factory=Workload)

    @cached_property
    def card(self) -> Preset:
        """The card.

        Raises:
            ConfigError: no such card.
            BenchError: it states no prices, so nothing has a cost.
        """
        card = preset(self.preset)
        if card.prices is None:
            raise BenchError(
                f"preset: {self.preset!r} states no prices, so nothing has a cost; choose another card"
            )
        return card

    @cached_property
    def expected(self) -> Expected:
        """What the card's arrays take in the mean, measured once for all methods."""
        return Expected(self.card)

    def method(self, name: str, **settings: Any) -> Method:
        """A method with these settings; those that are None are left as they are.

        Raises:
            LoraFusionError: no such method, or a wrong value.
            BenchError: a setting that the method does not have.
        """
        given = {key: value for key, value in settings.items() if value is not None}
        if name in METHODS:
            known = [f.name for f in fields(METHODS[name])]  # type: ignore[arg-type]
            for key in given:
                if key not in known:
                    raise BenchError(f"{key}: {name!r} has no such setting{nearest(key, known)}")
        rank = None if name == "vera" else self.rank  # VeRA's rank is of another kind, and of another size
        return named_method(name, rank=rank, **given)

    def estimate(self, name: str, **settings: Any) -> Estimate:
        """The ledger of one method's deployment and task."""
        return estimate(
            self.arch,
            self.method(name, **settings),
            card=self.card,
            workload=self.workload,
            modules=self.modules,
            rank=self.rank,
            targets=self.targets,
            backward=self.backward,
            expected=self.expected,
        )


@dataclass(frozen=True)
class Contender:
    """A way to bring tasks onto a chip."""

    label: str
    family: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def contenders(question: Question, *, keep: int) -> tuple[Contender, ...]:
    """Fusion with all modules and with `keep` of them, LoRA in its placements, VeRA in both of its own, and a full rewrite.

    Raises:
        BenchError: as many modules are to be kept as there are, or more.
    """
    if keep >= question.modules:
        raise BenchError(f"keep: must be less than modules (got {keep} of {question.modules})")
    every = "reram_every_step"
    return (
        Contender(f"fusion of {question.modules}", FUSION, "fusion"),
        Contender(f"fusion, {keep} of {question.modules} on", FUSION, "fusion", {"keep": keep}),
        Contender("LoRA (SRAM)", RIVAL, "lora", {"placement": "sram"}),
        Contender("LoRA (ReRAM once)", RIVAL, "lora", {"placement": "reram_once"}),
        Contender("LoRA (ReRAM every step)", RIVAL, "lora", {"placement": every}),
        Contender("LoRA (ReRAM every step, dense)", RIVAL, "lora", {"placement": f"{every}_dense"}),
        Contender("VeRA (SRAM)", RIVAL, "vera", {"placement": "sram"}),
        Contender("VeRA (ReRAM)", RIVAL, "vera", {"placement": "reram"}),
        Contender("full rewrite", RIVAL, "full_finetuning", {"placement": "reram_once"}),
    )


def chip_share(ledger: Ledger) -> Ledger:
    """The ledger without the model's own digital work (matrix `rest`), which is the same for every method."""
    kept = ledger.copy()
    kept.drop(matrix=REST)
    return kept


def costs_of(
    contender: Contender, found: Estimate, question: Question, table: PriceTable, *, chip_only: bool = False
) -> Costs:
    """A contender's costs under one price table, from the ledger of its deployment and one task.

    What is programmed at deployment beside base and pool (VeRA's frozen pair), and a task's own arrays, are refreshed at
    base's and pool's joules, seconds and cycles per cell: the same law acts on them.

    Raises:
        BenchError: no token is inferred in the estimate, so that none has a price.
    """
    if found.workload.tokens < 1:
        raise BenchError(
            "tokens: an estimate without inference says nothing of the energy per token; give at least 1"
        )
    rows = (chip_share(found.ledger) if chip_only else found.ledger).rows(table)
    parts: dict[str, list[Row]] = {part: [] for part in PARTS}
    for row in rows:
        parts[part_of(row)].append(row)
    task, renewed = parts["adaptation"], parts["refresh"]
    whole = (found.cells - found.cells_rewritten) / found.cells_refreshed
    own = found.cells_rewritten / found.cells_refreshed
    renewal = cycles(_counts(renewed), found.cells_refreshed)
    return Costs(
        contender.label,
        contender.family,
        _joules(parts["deploy"]),
        _joules(task),
        _joules(parts["inference"]) / found.workload.tokens,
        refresh_joules=whole * _joules(renewed),
        own_refresh_joules=own * _joules(renewed),
        write_s=_write_seconds(task),
        refresh_s=whole * _write_seconds(renewed),
        own_refresh_s=own * _write_seconds(renewed),
        cycles=cycles(_counts(task), found.cells_rewritten),
        refresh_cycles=renewal,
        own_refresh_cycles=renewal if own else 0.0,
        words=found.trainable,
        tiles=found.tiles,
        chips=found.chips_needed,
        endurance=question.card.device.endurance,
        assumed=assumed_share(task, question.card, table, sampled=True),
    )


def _joules(rows: Sequence[Row]) -> float:
    return fsum(row["energy_J"] for row in rows)


def cycles(counts: Mapping[str, int], cells: int) -> float:
    """SET/RESET cycles (two pulses) per cell, in the mean, of events by action; 0 where there is no cell."""
    pulses = sum(counts.get(action, 0) for action in PULSES)
    return pulses / PULSES_PER_CYCLE / cells if cells else 0.0


def _counts(rows: Sequence[Row]) -> Mapping[str, int]:
    counts: Counter[str] = Counter()
    for row in rows:
        counts[row["action"]] += row["count"]
    return counts


def _write_seconds(rows: Sequence[Row]) -> float:
    return fsum(row["time_s"] for row in rows if row["action"] in WRITES)
