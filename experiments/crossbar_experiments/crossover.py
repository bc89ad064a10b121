"""Who is cheapest: total energy, write time and wear of every way to bring tasks onto a chip, over its life.

A contender's life costs

    E(tasks, tokens) = deploy + refreshes * refresh + max(0, refreshes + 1 - tasks) * own_refresh + tasks * (task + tokens * token)

joules, with `tokens` the tokens inferred after each task. `refresh` renews what stays on the chip for good (base, and pool), once
per period against drift. A contender that writes its own arrays renews them with every task: of the refreshes + 1 periods of a life,
only those that no task begins start with a refresh of them. Everything is linear in tokens, so two contenders meet at one number
of tokens at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, inf, isnan, nan

from crossbar_experiments.errors import BenchError
from crossbar_experiments.tables import engineering

DAY = 24 * 3600.0
YEAR = 365.25 * DAY
TOKENS = tuple(10.0**n for n in range(2, 9))
"""Tokens inferred per task that tables print."""
TASKS = (1, 10, 100, 1000, 10000)
"""Tasks per life of a chip that tables print."""


@dataclass(frozen=True)
class Costs:
    """What one contender costs under one pricing.

    Attributes:
        label, family: its name, and what it is compared as (fusion | rival).
        deploy_joules, task_joules, token_joules: joules once, per task (learning, writing, keeping and fetching its state), per token inferred.
        refresh_joules, own_refresh_joules: joules to renew base and pool once; to renew the contender's own arrays once.
        write_s, refresh_s, own_refresh_s: seconds that a task's writes take one after the other, and those of a refresh.
        cycles, refresh_cycles, own_refresh_cycles: SET/RESET cycles (two pulses) that a task costs a cell of the contender's own
            arrays, and a refresh a cell of base or pool, or of the own arrays, in the mean.
        words: words of digital state that a task keeps.
        tiles, chips: physical arrays, and chips that hold them.
        endurance: cycles that a cell stands; 0: not known.
        assumed: share of a task's joules that rests on assumed numbers.
    """

    label: str
    family: str
    deploy_joules: float
    task_joules: float
    token_joules: float
    refresh_joules: float = 0.0
    own_refresh_joules: float = 0.0
    write_s: float = 0.0
    refresh_s: float = 0.0
    own_refresh_s: float = 0.0
    cycles: float = 0.0
    refresh_cycles: float = 0.0
    own_refresh_cycles: float = 0.0
    words: int = 0
    tiles: int = 0
    chips: int = 1
    endurance: float = 0.0
    assumed: float = nan

    def fixed(self, tasks: float, refreshes: float) -> float:
        """Joules of the chip's life without inference."""
        own = _idle(tasks, refreshes) * self.own_refresh_joules
        return self.deploy_joules + refreshes * self.refresh_joules + own + tasks * self.task_joules

    def total(self, tasks: float, tokens: float, refreshes: float = 0.0) -> float:
        """Joules of the chip's life."""
        return self.fixed(tasks, refreshes) + tasks * tokens * self.token_joules

    def write_time(self, tasks: float, refreshes: float = 0.0) -> float:
        """Seconds spent writing after deployment."""
        own = _idle(tasks, refreshes) * self.own_refresh_s
        return refreshes * self.refresh_s + own + tasks * self.write_s

    def wear(self, tasks: float, refreshes: float = 0.0) -> float:
        """SET/RESET cycles after deployment of a cell where they are most: of its own arrays, or of base and pool."""
        own = tasks * self.cycles + _idle(tasks, refreshes) * self.own_refresh_cycles
        return max(own, refreshes * self.refresh_cycles)

    def worn_out(self, tasks: float, refreshes: float = 0.0) -> bool:
        """Whether the mean cell of its most written arrays does not last that long."""
        return 0 < self.endurance < self.wear(tasks, refreshes)


def _idle(tasks: float, refreshes: float) -> float:
    """Periods that begin with a refresh of a contender's own arrays, as no task writes them."""
    return max(0.0, refreshes + 1 - tasks)


@dataclass(frozen=True)
class Region:
    """Tokens per task from `low` to `high` where a contender is cheapest."""

    low: float
    high: float
    label: str


@dataclass(frozen=True)
class Life:
    """What a chip lives through.

    Attributes:
        tasks: tasks of its life.
        tokens: tokens inferred per task.
        lifetime, refresh_period: seconds; a period of 0 means that nothing is refreshed.

    Raises:
        BenchError: a time or a number that cannot be.
    """

    tasks: int = 1000
    tokens: float = 1e5
    lifetime: float = 5 * YEAR
    refresh_period: float = YEAR

    def __post_init__(self) -> None:
        if not 0 < self.lifetime < inf:
            raise BenchError(f"lifetime: must be a positive number of seconds (got {self.lifetime:g})")
        if not 0 <= self.refresh_period < inf:
            raise BenchError(
                f"refresh-period: must be finite and not negative (got {self.refresh_period:g} s); 0 for no refresh"
            )
        if self.tasks < 1 or not 0 <= self.tokens < inf:
            raise BenchError(f"tasks, tokens: must be at least 1 and 0 (got {self.tasks}, {self.tokens:g})")

    @property
    def dates(self) -> int:
        """Refreshes within the life: whole periods that end before it does."""
        return max(0, ceil(self.lifetime / self.refresh_period) - 1) if self.refresh_period else 0

    def __str__(self) -> str:
        """What stands under a figure."""
        if not self.refresh_period:
            return f"{duration(self.lifetime)} without refresh"
        refreshes = "1 refresh" if self.dates == 1 else f"{self.dates:,} refreshes"
        return f"{duration(self.lifetime)}, {refreshes}, one after every {duration(self.refresh_period)}"


def duration(seconds: float) -> str:
    """A time in the largest of years, days and seconds that it fills: "5 years", "1 day"."""
    for size, unit in ((YEAR, "year"), (DAY, "day")):
        if seconds >= size:
            told = f"{seconds / size:.3g}"
            return f"{told} {unit}" if told == "1" else f"{told} {unit}s"
    return f"{seconds:.3g} s"


def crossing(one: Costs, other: Costs, *, tasks: float, refreshes: float) -> float:
    """Tokens per task at which two contenders cost the same; NaN where they never do (parallel lines, or below 0 tokens)."""
    slope = tasks * (one.token_joules - other.token_joules)
    ahead = other.fixed(tasks, refreshes) - one.fixed(tasks, refreshes)
    if slope == 0 or isnan(slope) or isnan(ahead):
        return nan
    tokens = ahead / slope
    return tokens if tokens >= 0 else nan


def cheapest(costs: Sequence[Costs], *, tasks: float, tokens: float, refreshes: float) -> Costs:
    """The contender with the lowest total; the first of equals.

    Raises:
        BenchError: there is none.
    """
    if not costs:
        raise BenchError("crossover: no contender to compare; name one")
    return min(costs, key=lambda each: each.total(tasks, tokens, refreshes))


def regions(costs: Sequence[Costs], *, tasks: float, refreshes: float) -> list[Region]:
    """Who is cheapest from 0 tokens per task to infinity: the lower envelope of the contenders' lines, in order.

    A first region that ends before one token is left to the next.
    """
    marks = {0.0}
    for i, one in enumerate(costs):
        for other in costs[i + 1 :]:
            tokens = crossing(one, other, tasks=tasks, refreshes=refreshes)
            if tokens > 0:
                marks.add(tokens)
    ends = [*sorted(marks), inf]
    found: list[Region] = []
    for low, high in pairwise(ends):
        middle = 2 * low + 1.0 if high == inf else (low + high) / 2
        best = cheapest(costs, tasks=tasks, tokens=middle, refreshes=refreshes).label
        if found and found[-1].label == best:
            found[-1] = Region(found[-1].low, high, best)
        else:
            found.append(Region(low, high, best))
    while (
        len(found) > 1 and found[0].high < 1.0
    ):  # less than one token: two lines that all but begin together
        found[:2] = [Region(0.0, found[1].high, found[1].label)]
    return found


def cheaper_range(one: Costs, other: Costs, *, tasks: float, refreshes: float) -> tuple[float, float]:
    """Tokens per task between which the first costs less than the second; (NaN, NaN) where it never does."""
    found = [
        (region.low, region.high)
        for region in regions([other, one], tasks=tasks, refreshes=refreshes)
        if region.label == one.label
    ]
    return found[0] if found else (nan, nan)


def own_range(label: str, found: Iterable[Region]) -> tuple[float, float]:
    """The range of tokens per task where a contender is cheapest of all; (NaN, NaN): nowhere."""
    return next(((r.low, r.high) for r in found if r.label == label), (nan, nan))


def range_text(low: float, high: float) -> str:
    """A range of tokens per task in words."""
    if isnan(low):
        return "never"
    if low == 0:
        return "always" if high == inf else f"below {engineering(high, '')}".rstrip()
    return (
        f"above {engineering(low, '')}"
        if high == inf
        else f"{engineering(low, '')} to {engineering(high, '')}"
    )


def table(
    costs: Sequence[Costs], *, tasks: Sequence[int], tokens: Sequence[float], dates: int
) -> list[dict[str, float | str]]:
    """One row per contender, tasks per life and tokens per task: joules, write time, wear, whether the cells stand it, and who is cheapest."""
    return [
        {
            "label": each.label,
            "tasks": number,
            "tokens": amount,
            "energy_J": each.total(number, amount, dates),
            "write_time_s": each.write_time(number, dates),
            "wear_cycles": each.wear(number, dates),
            "worn_out": each.worn_out(number, dates),
            "cheapest": cheapest(costs, tasks=number, tokens=amount, refreshes=dates).label,
        }
        for each in costs
        for number in tasks
        for amount in tokens
    ]


def break_even(costs: Sequence[Costs], *, tasks: Sequence[int], dates: int) -> list[dict[str, float | str]]:
    """For each fusion contender, rival and number of tasks: between which tokens per task fusion costs less.

    A rival named "cheapest" stands for whichever of the rivals costs least at that number of tokens.
    """
    rows: list[dict[str, float | str]] = []
    rivals = [each for each in costs if each.family != FUSION]
    for ours in (each for each in costs if each.family == FUSION):
        for number in tasks:
            for rival in rivals:
                low, high = cheaper_range(ours, rival, tasks=number, refreshes=dates)
                rows.append(
                    {"label": ours.label, "rival": rival.label, "tasks": number, "low": low, "high": high}
                )
            if rivals:
                found = regions([*rivals, ours], tasks=number, refreshes=dates)
                low, high = own_range(ours.label, found)
                rows.append(
                    {"label": ours.label, "rival": CHEAPEST, "tasks": number, "low": low, "high": high}
                )
    return rows


FUSION = "fusion"
CHEAPEST = "the cheapest rival"


def headline(costs: Sequence[Costs], *, write: str, tasks: int, tokens: float, dates: int) -> str:
    """One sentence for one price of writing: every fusion against the cheapest rival, at these tokens per task and everywhere."""
    rivals = [each for each in costs if each.family != FUSION]
    rival = cheapest(rivals, tasks=tasks, tokens=tokens, refreshes=dates)
    theirs = rival.total(tasks, tokens, dates) / tasks
    told = []
    for ours in (each for each in costs if each.family == FUSION):
        mine = ours.total(tasks, tokens, dates) / tasks
        span = own_range(ours.label, regions([*rivals, ours], tasks=tasks, refreshes=dates))
        told.append(
            f"{ours.label} costs {joules(mine)}, {mine / theirs:.4g} times as much, and is cheaper than every rival {span_text(*span)}"
        )
    return (
        f"writes {write}, {engineering(tokens, '').rstrip()} tokens per task, {tasks:,} tasks: the cheapest rival, "
        f"{lasting(rival, tasks=tasks, dates=dates)}, "
        f"costs {joules(theirs)} per task; {'; '.join(told)}"
    )


def lasting(each: Costs, *, tasks: float, dates: int) -> str:
    """A contender's name, and whether its cells stand such a life."""
    return f"{each.label} (worn out before)" if each.worn_out(tasks, dates) else each.label


def joules(value: float) -> str:
    """Joules to three digits, with an SI prefix where one is usual: "1.12 J", "83.4 mJ"."""
    for size, prefix in ((1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n")):
        if abs(value) >= size:
            return (
                f"{value / size:.4g} {prefix}J"
                if abs(value) >= 1e3 * size
                else f"{value / size:.3g} {prefix}J"
            )
    return f"{value:.3g} J"


def span_text(low: float, high: float) -> str:
    """A range of tokens per task as the end of a sentence."""
    if isnan(low):
        return "at no number of tokens per task"
    if low == 0 and high == inf:
        return "at every number of tokens per task"
    start = "from " if low > 0 and high < inf else ""
    return f"{start}{range_text(low, high)} tokens per task"
