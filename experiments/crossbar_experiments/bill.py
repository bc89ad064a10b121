"""What one method costs on an architecture: space, energy, time, wear and prices of a deployment and a stream of tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import fsum, inf, isnan
from typing import TYPE_CHECKING, Any

from crossbar_experiments import costs
from crossbar_experiments.costs import PARTS
from crossbar_experiments.crossover import duration
from crossbar_experiments.estimates import Question, chip_share, cycles
from crossbar_experiments.tables import NO_LIMIT, engineering
from crossbar_sim.area import area, total_area
from crossbar_sim.latency import Timing, latency, write_time
from crossbar_sim.ledger import PHASES, TASK_PHASES, Ledger
from crossbar_sim.prices import PriceTable
from crossbar_sim.pricing import Pricing, assumed_share
from crossbar_sim.wear import refreshes_left, tasks_until_wear_out
from lorafusion.estimate import TASK, Estimate

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Bill:
    """What one method costs on an architecture: deployment, and a stream of tasks that are alike."""

    question: Question
    found: Estimate
    ledger: Ledger
    table: PriceTable
    pricing: Pricing
    tasks: int = 1
    cores: int = 1
    chip_only: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """The method with the settings that were asked for, in words."""
        told = [f"{key} {value}" for key, value in self.settings.items() if value is not None]
        return ", ".join([self.found.method, *told])

    @property
    def title(self) -> str:
        """What is priced, on what, and by which prices."""
        prices = costs.title(self.pricing, chip_only=self.chip_only)
        asked = self.question
        return f"{asked.arch}, {self.method} on {asked.preset}, backward {self.found.backward}; {prices}"

    @property
    def caption(self) -> str:
        """What stands under a figure."""
        return f"{self.title}\n{self._assumed()} of a task's energy rests on assumed numbers"

    def _assumed(self) -> str:
        """The share that rests on assumed numbers, in words."""
        return "an unknown share" if isnan(self.assumed_share) else f"{100 * self.assumed_share:.1f} %"

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The priced rows with component and part."""
        return costs.cost_frame(self.ledger.rows(self.table), self.table)

    @cached_property
    def parts(self) -> dict[str, float]:
        """Joules by part of a chip's life: one deployment, one refresh, one task."""
        return {**dict.fromkeys(PARTS, 0.0), **costs.by_part(self.frame)}

    @property
    def per_task(self) -> float:
        """Joules of one task, inference included."""
        return self.parts["adaptation"] + self.parts["inference"]

    @cached_property
    def assumed_share(self) -> float:
        """Share of the adaptation's joules that rests on assumed numbers."""
        rows = self.frame[self.frame["part"] == "adaptation"].to_dict("records")
        plain = [{str(k): v for k, v in row.items()} for row in rows]
        return assumed_share(plain, self.question.card, self.table, sampled=True)

    def plain(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            "arch": self.question.arch, "method": self.found.method, "settings": dict(self.settings),
            "preset": self.question.preset, "backward": self.found.backward,
            "pricing": {"title": costs.title(self.pricing), "table": self.table.name, **asdict(self.pricing)},
            "chip_only": self.chip_only, "workload": asdict(self.found.workload), "tasks": self.tasks,
            **self.space(), "counts": self.counts(), "energy_J": self.energy(), "latency_s": self.latency(),
            "wear": {name: NO_LIMIT if n == inf else n for name, n in self.wear().items()},
            "assumptions": list(self.found.assumptions),
            "assumed_share": self.assumed_share, "prices": self.prices(),
        }  # fmt: skip

    def space(self) -> dict[str, Any]:
        """Weights, cells, tiles, chips, area and digital state."""
        found = self.found
        rows = area(
            self.question.card, self.table, tiles=found.tiles, digital_words=self.tasks * found.digital_words,
            transposed=found.backward == "transposed", cores=self.cores,
        )  # fmt: skip
        return {
            "weights_programmed": {"base": found.weights_programmed_base, "pool": found.weights_programmed_pool},
            "weights_rewritten_per_task": found.weights_rewritten, "cells": found.cells,
            "cells_rewritten_per_task": found.cells_rewritten, "tiles": found.tiles, "chips": found.chips_needed,
            "area_m2": {"total": total_area(rows), **{row["component"]: row["area_m2"] for row in rows}},
            "trainable": found.trainable, "digital_words": found.digital_words,
            "modules_active": found.modules_active,
        }  # fmt: skip

    def counts(self) -> dict[str, dict[str, int]]:
        """Events by part of a chip's life and action: one deployment, one refresh, one task."""
        sums: dict[str, Counter[str]] = {part: Counter() for part in PARTS}
        columns = self.frame[["part", "action", "count"]]
        for part, action, number in columns.itertuples(index=False, name=None):
            sums[part][action] += int(number)
        return {part: dict(sorted(counted.items())) for part, counted in sums.items()}

    def energy(self) -> dict[str, Any]:
        """Joules by part, ledger task, phase and component, and of the whole stream without refreshes."""
        task = self.frame[self.frame["part"] == "adaptation"]
        return {
            "by_part": self.parts,
            "by_task": costs.totals(self.frame, "task"),
            "task_by_phase": costs.by_phase(task),
            "task_by_component": costs.by_component(task),
            "inference_by_component": costs.by_component(self.frame[self.frame["part"] == "inference"]),
            "per_task": self.per_task,
            "per_token": self._per_token(self.parts["inference"]),
            "stream": self.parts["deploy"] + self.tasks * self.per_task,
        }

    def _per_token(self, value: float) -> float | None:
        tokens = self.found.workload.tokens
        return value / tokens if tokens else None

    def latency(self) -> dict[str, Any]:
        """Seconds of a task by phase, and of writes one after the other and line by line: its own, deployment's and a refresh's."""
        times, by_line = (
            latency(self.ledger, self.table, Timing(writing=writing, cores=self.cores), task=TASK)
            for writing in ("serial", "row_parallel")
        )
        phases = {phase: fsum(times[phase].values()) for phase in PHASES if phase in times}
        inference = phases.get("eval", 0.0)
        learning = {phase: value for phase, value in phases.items() if phase in TASK_PHASES}
        return {
            "cores": self.cores,
            "task_by_phase": learning,
            "task": fsum(learning.values()),
            "inference": inference,
            "per_token": self._per_token(inference),
            "writing_serial": fsum(times[phase]["writing"] for phase in learning),
            "writing_row_parallel": fsum(by_line[phase]["writing"] for phase in learning),
            "deploy_writing": self._writing("deploy"),
            "refresh_writing": self._writing("refresh"),
        }

    def _writing(self, phase: str) -> dict[str, float]:
        """Seconds that the writes of one phase take, of base, pool and whatever stays on the chip."""
        return {
            writing: write_time(self.ledger, self.table, Timing(writing=writing), phase=phase)
            for writing in ("serial", "row_parallel")
        }

    def wear(self) -> dict[str, float]:
        """SET/RESET cycles of a task and of a refresh, mean over the cells, and what the card's endurance leaves."""
        counts = self.counts()
        task = cycles(counts["adaptation"], self.found.cells_rewritten)
        refresh = cycles(counts["refresh"], self.found.cells_refreshed)
        endurance = self.question.card.device.endurance
        return {
            "cycles_per_task": task,
            "tasks_until_wear_out": tasks_until_wear_out(endurance, task),
            "cycles_per_refresh": refresh,
            "refreshes_left": refreshes_left(endurance, refresh),
        }

    def prices(self) -> list[dict[str, Any]]:
        """Every action that was counted, with what its energy rests on."""
        card = self.question.card
        kinds = self.frame[["action", "precision"]].drop_duplicates().itertuples(index=False, name=None)
        listed = []
        for action, precision in sorted(kinds):
            entry = {"action": action, "precision": precision}
            entry["mark"] = card.mark(action, precision, prices=self.table)
            name = f"{action}.{precision}" if precision else action
            if name in self.table.energies:
                price = self.table.energies[name]
                entry |= {"value": price.value, "source": price.source}
            listed.append(entry)
        return listed

    def lines(self) -> list[str]:
        """The bill in a few lines."""
        found, energy, times, worn = self.found, self.energy(), self.latency(), self.wear()
        deploy, refresh, *task = (f"{name} {engineering(value, 'J')}" for name, value in self.parts.items())
        after = duration(found.workload.refresh_period)
        space = self.space()
        return [
            f"weights programmed once: base {found.weights_programmed_base:,}, pool {found.weights_programmed_pool:,}; "
            f"rewritten per task: {found.weights_rewritten:,}",
            f"cells {found.cells:,}, tiles {found.tiles:,}, chips {found.chips_needed:,}, "
            f"area {_square_mm(space['area_m2']['total'])}; "
            f"trained parameters {found.trainable:,}, digital state {found.digital_words:,} words",
            f"energy: {deploy}; one {refresh} (after {after}); of a task: {', '.join(task)}",
            f"a task by phase: {_named(energy['task_by_phase'], 'J')}",
            f"a task by component: {_named(energy['task_by_component'], 'J')}",
            f"{self.tasks:,} task{'s' * (self.tasks > 1)} with deployment: {engineering(energy['stream'], 'J')}; "
            f"a token: {engineering(energy['per_token'], 'J')}",
            f"time of a task: {engineering(times['task'], 's')}, of its writes {engineering(times['writing_serial'], 's')} "
            f"(line by line {engineering(times['writing_row_parallel'], 's')}), of its inference {engineering(times['inference'], 's')}; "
            f"of deployment's writes {_both(times['deploy_writing'])}, of a refresh {_both(times['refresh_writing'])}",
            f"wear of a task's cells: {worn['cycles_per_task']:.1f} cycles, tasks until wear-out {_many(worn['tasks_until_wear_out'])}; "
            f"of a refresh: {worn['cycles_per_refresh']:.1f} cycles, refreshes left {_many(worn['refreshes_left'])}",
            f"{self._assumed()} of a task's energy rests on assumed numbers; assumed besides: "
            + "; ".join(found.assumptions),
        ]


def _named(values: Mapping[str, float], unit: str) -> str:
    return ", ".join(f"{name} {engineering(value, unit)}" for name, value in values.items()) or "nothing"


def _square_mm(area_m2: float) -> str:
    """An area in words, with what is missing where it is not known."""
    if isnan(area_m2):
        return "not known (the card states no process node, or its converter is ideal)"
    return f"{1e6 * area_m2:,.0f} mm2" if area_m2 >= 1e-4 else f"{1e6 * area_m2:.3g} mm2"


def _both(times: Mapping[str, float]) -> str:
    return f"{engineering(times['serial'], 's')} (line by line {engineering(times['row_parallel'], 's')})"


def _many(value: float) -> str:
    """How often something can be done; NaN where the card states no endurance."""
    if isnan(value):
        return "not known (the card states no endurance)"
    return "unlimited" if value == inf else engineering(value, "")


def bill(
    question: Question,
    method: str,
    pricing: Pricing,
    *,
    settings: Mapping[str, Any],
    tasks: int = 1,
    cores: int = 1,
    chip_only: bool = False,
) -> Bill:
    """Price one method's deployment and tasks from the architecture alone."""
    table = pricing.table(question.card)
    found = question.estimate(method, **settings)
    ledger = chip_share(found.ledger) if chip_only else found.ledger
    return Bill(question, found, ledger, table, pricing, tasks, cores, chip_only, settings)
