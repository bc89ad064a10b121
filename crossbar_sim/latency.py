"""How long what a ledger holds takes: tiles in parallel, converters shared, words written one by one or line by line.

The ledger counts slots: of reads, those of the busiest tile, as tiles work side by side; of writing, every pulse (`slots`) or the
slowest cell of each word line (`row_slots`). Nothing overlaps but what `Timing` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import fsum, nan

from crossbar_sim.checks import one_of, require
from crossbar_sim.errors import LedgerError
from crossbar_sim.ledger import Key, Ledger, matches
from crossbar_sim.prices import PriceTable

WRITING = ("serial", "row_parallel")
WRITES = frozenset({"set_pulse", "reset_pulse", "verify_read"})
READS = frozenset({"array_read", "adc_conversion"})
DIGITAL = frozenset({"digital_mul", "digital_add", "digital_function", "opt_update"})
DRAM = frozenset({"dram_read_bit", "dram_write_bit"})
COMPONENTS = ("arrays", "converters", "writing", "digital", "dram")
"""What time is spent on: word lines driven, conversions, pulses and verify reads, digital operations, transfers from and to DRAM."""


@dataclass(frozen=True)
class Timing:
    """What works side by side.

    writing: "serial" pulses cell after cell on the whole chip; "row_parallel" the cells of a word line together, SET and RESET in
    passes of their own. `arrays_at_once` arrays are written side by side then (an even share, the best case). `cores` hold the whole
    model each and share vectors and digital work evenly (their copies' cells and programming are not in the ledger). `lanes`:
    digital operations side by side in a core (0: as the price table says). `in_flight`: vectors that enter a pipeline of layers one
    after another before it drains; 1: no pipeline.
    """

    writing: str = "serial"
    cores: int = 1
    arrays_at_once: int = 1
    lanes: int = 0
    in_flight: int = 1

    def __post_init__(self) -> None:
        one_of("Timing.writing", self.writing, WRITING)
        for name, least in (("cores", 1), ("arrays_at_once", 1), ("lanes", 0), ("in_flight", 1)):
            value = getattr(self, name)
            require(value >= least, f"Timing.{name}", f"must be at least {least} (got {value})")
        require(
            self.arrays_at_once == 1 or self.writing == "row_parallel",
            "Timing.arrays_at_once",
            f"serial writing has one pulse at a time (got {self.arrays_at_once}); set writing to 'row_parallel'",
        )


def latency(
    ledger: Ledger, prices: PriceTable | None, timing: Timing | None = None, **where: str
) -> dict[str, dict[str, float]]:
    """Seconds by phase and component (COMPONENTS) of the entries whose fields are as given (task="t", for example).

    A product takes T (t_read + ceil(C/N_adc) t_adc): T drive phases, C active columns of a tile, N_adc of its converters; tiles work side by
    side, layers and vectors follow one another, n cores share the vectors. Digital work takes operations x cycle / (lanes cores),
    its operands coming from SRAM within the cycle; DRAM takes bits / bandwidth.

    Raises:
        LedgerError: something that takes time has no latency in the table, or digital work has no lanes.
    """
    timing = timing or Timing()
    parts: dict[tuple[str, str], list[float]] = {}
    for key, component, seconds in _entries(ledger, prices, timing, where):
        parts.setdefault((key.phase, component), []).append(seconds)
    phases = dict.fromkeys(phase for phase, _ in parts)
    return {phase: {c: fsum(parts.get((phase, c), ())) for c in COMPONENTS} for phase in phases}


def total(times: Mapping[str, Mapping[str, float]]) -> float:
    """Seconds of all phases and components of `latency`, one after the other."""
    return fsum(seconds for parts in times.values() for seconds in parts.values())


def write_time(
    ledger: Ledger, prices: PriceTable | None, timing: Timing | None = None, **where: str
) -> float:
    """Seconds that pulses and verify reads take."""
    return fsum(parts["writing"] for parts in latency(ledger, prices, timing, **where).values())


def pipelined(
    ledger: Ledger, prices: PriceTable | None, timing: Timing | None = None, **where: str
) -> dict[str, float]:
    """Seconds by phase that reading takes when layers work on different vectors at a time.

    With V vectors in flight and T_l the time of layer l, max_l T_l + (sum_l T_l - max_l T_l)/V: the slowest layer's time per vector, and
    the fill. Optimistic for a transformer, in which attention waits for all tokens of a text.

    Raises:
        LedgerError: as `latency`.
    """
    timing = timing or Timing()
    layers: dict[str, dict[str, list[float]]] = {}
    for key, component, seconds in _entries(ledger, prices, timing, where):
        if component in ("arrays", "converters"):
            layers.setdefault(key.phase, {}).setdefault(key.layer, []).append(seconds)
    return {phase: _pipeline([fsum(t) for t in held.values()], timing) for phase, held in layers.items()}


def _pipeline(times: list[float], timing: Timing) -> float:
    slowest = max(times)
    return slowest + (fsum(times) - slowest) / timing.in_flight


def _entries(
    ledger: Ledger, prices: PriceTable | None, timing: Timing, where: Mapping[str, str]
) -> list[tuple[Key, str, float]]:
    """Every entry that takes time, with its component and its seconds (NaN without prices: not known)."""
    found = []
    for key in ledger.counts:
        if matches(key, where):
            component = _component(key.action)
            if component:
                found.append((key, component, _seconds(ledger, key, prices, timing)))
    return found


def _component(action: str) -> str:
    """What the action's time counts as; "" for actions that take none of their own."""
    if action in READS:
        return "arrays" if action == "array_read" else "converters"
    if action in WRITES:
        return "writing"
    return "digital" if action in DIGITAL else "dram" if action in DRAM else ""


def _seconds(ledger: Ledger, key: Key, prices: PriceTable | None, timing: Timing) -> float:
    if prices is None:
        return nan
    slots = _slots(ledger, key, prices, timing)
    return slots * prices.seconds(key.action, key.precision) if slots else 0.0


def _slots(ledger: Ledger, key: Key, prices: PriceTable, timing: Timing) -> float:
    """Sequential slots of an entry, after what works side by side."""
    if key.action in READS:
        return ledger.slots.get(key, 0) / timing.cores
    if key.action in WRITES:
        if timing.writing == "serial":
            return ledger.slots.get(key, 0)
        return ledger.row_slots.get(key, 0) / timing.arrays_at_once
    count = ledger.counts[key]
    if key.action in DRAM:
        return count
    return count / (_lanes(prices, timing) * timing.cores)


def _lanes(prices: PriceTable, timing: Timing) -> float:
    if timing.lanes:
        return timing.lanes
    if prices.lanes is None:
        raise LedgerError(
            f"price table {prices.name!r}: digital work has no lanes; add [digital] lanes to the table, or give Timing.lanes"
        )
    return prices.lanes.value
