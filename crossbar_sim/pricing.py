"""What a ledger costs at other prices: choices among the price tables, and the pricing of what is booked already.

Counts stay; energies and times follow. Physics of the cells (V^2 G t) is booked in joules and stays what it was, unless a price per
write stands for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum, isnan, nan
from typing import Any

from crossbar_sim.card_file import price_entries, price_file, price_files, prices_of
from crossbar_sim.checks import one_of
from crossbar_sim.errors import ConfigError, LedgerError
from crossbar_sim.ledger import PHYSICAL, WRITING, energies, verify_conversions
from crossbar_sim.presets import Preset
from crossbar_sim.prices import ADC, MARKS, Price, PriceTable
from crossbar_sim.sar import converters

Rows = Sequence[Mapping[str, Any]]
PHYSICS = "physics"
WRITES = (PHYSICS, "low", "mid", "high")
MEMORIES = ("edram", "sram", "dram")
DRAMS = ("low", "high", "hbm2")
DIRECTIONS = ("read_bit", "write_bit")


def adcs() -> list[str]:
    """Names of the ADC tables."""
    return price_files("adc")


@dataclass(frozen=True)
class Pricing:
    """Choices among the price tables; by default a card's own prices.

    `adc`: a converter's table (`adcs`); a fit takes a node after a colon, "neurosim_sar:45". "": the card's own. `write`: "physics", the
    booked V^2 G t, or a price per written cell in place of all that a write takes: "low" 0.6 pJ, "mid" 0.52 nJ, "high"
    3.91 nJ. `node`: technology node (nm) that digital logic and SRAM are scaled to (Stillmaker and Baas 2017), 0: as published; converters,
    eDRAM, DRAM, latencies and areas are not scaled. `memory`: where activations are kept from the forward to the backward
    pass; `dram`: which one, of DRAMS ("": the card's own).

    Raises:
        ConfigError: a name that is unknown; the nearest right one is told.
    """

    adc: str = ""
    write: str = PHYSICS
    node: int = 0
    memory: str = "edram"
    dram: str = ""

    def __post_init__(self) -> None:
        one_of("Pricing.write", self.write, WRITES)
        one_of("Pricing.memory", self.memory, MEMORIES)
        if self.dram:
            one_of("Pricing.dram", self.dram, DRAMS)
        if self.adc:
            converters(self.adc)
        if self.node:
            known = price_entries(price_file("stillmaker", "options"), "factor", "stillmaker")
            if str(self.node) not in known:
                nodes = ", ".join(sorted(known, key=int))
                raise ConfigError(f"Pricing.node: no scaling to {self.node} nm (have: {nodes})")

    def table(self, card: Preset) -> PriceTable:
        """The card's price table with these choices.

        Raises:
            ConfigError: the card has no prices, or the ADC's table has none for the card's resolution.
        """
        if card.prices is None:
            raise ConfigError(
                f"card {card.name!r} has no prices, so no other prices fit it; choose a card with prices"
            )
        table = card.prices
        if self.adc:
            table = table.with_converters(_converters(self.adc, card))
        if self.dram:
            table = _with_dram(table, self.dram)
        if self.node:
            table = scaled(table, self.node)
        if self.memory != "edram":
            table = _keeping_in(table, self.memory)
        if self.write != PHYSICS:
            table = replace(table, write=_writes()[self.write])
        return replace(table, name=", ".join([table.name, *self._told()]))

    def _told(self) -> list[str]:
        """The choices that differ from the card's own, in words."""
        told = {
            f"ADC {self.adc}": bool(self.adc),
            f"write {self.write}": self.write != PHYSICS,
            f"{self.node} nm": bool(self.node),
            f"activations in {self.memory}": self.memory != "edram",
            f"DRAM {self.dram}": bool(self.dram),
        }
        return [words for words, said in told.items() if said]


def _converters(name: str, card: Preset) -> PriceTable:
    """The ADC of that name, which must have a price for the card's resolution."""
    found, bits = converters(name), card.periphery.adc_bits
    if bits and f"{ADC}.{bits}b" not in found.energies:
        listed = ", ".join(action.removeprefix(f"{ADC}.") for action in found.energies)
        raise ConfigError(
            f"Pricing.adc: {name!r} has no price for {bits} bits, the resolution of card {card.name!r} (has {listed}); "
            "choose another table, or edit periphery.adc_bits"
        )
    return found


def _writes() -> dict[str, Price]:
    return prices_of(price_file("writes", "options"), "write", "writes")


def _with_dram(table: PriceTable, name: str) -> PriceTable:
    """The table with another DRAM."""
    bit = prices_of(price_file("drams", "options"), "bit", "drams")[name]
    return replace(table, energies={**table.energies, **{f"dram_{way}": bit for way in DIRECTIONS}})


def _keeping_in(table: PriceTable, memory: str) -> PriceTable:
    """The table with activations kept in its SRAM or its DRAM."""
    kept = {f"activation_{way}": table.price(f"{memory}_{way}") for way in DIRECTIONS}
    return replace(table, energies={**table.energies, **kept})


# -- scaling ---------------------------------------------------------------------------------------------------------


def scaled(table: PriceTable, node: int) -> PriceTable:
    """The table with its digital logic and SRAM at another node (nm): E f_Y(V_Y)/f_X(V_X) (Stillmaker and Baas 2017, eq. for energy).

    Raises:
        ConfigError: a price to be scaled that names no node, or one that the scaling does not know.
    """
    data = price_file("stillmaker", "options")
    changed = {
        name: _moved(price, node, data, name)
        for name, price in table.energies.items()
        if name.partition(".")[0] in data["actions"]
    }
    return replace(table, energies={**table.energies, **changed})


def _moved(price: Price, node: int, data: Mapping[str, Any], name: str) -> Price:
    """One price at another node; its mark is the weakest of its own and the supplies', and never "published"."""
    if price.node == node:
        return price
    above, above_mark = _factor(node, data, name)
    below, below_mark = _factor(price.node, data, name)
    mark = max(price.mark, above_mark, below_mark, "derived", key=MARKS.index)
    source = f"{price.source}; from {price.node} to {node} nm: {data['sources']['stillmaker']}"
    return Price(price.value * above / below, source, mark, node)


def _factor(node: int, data: Mapping[str, Any], name: str) -> tuple[float, str]:
    """f(V) of a node at its supply, and the supply's mark."""
    factors, supplies = (price_entries(data, part, "stillmaker") for part in ("factor", "supply"))
    if str(node) not in factors:
        raise ConfigError(f"{name}: its node, {node} nm, has no scaling (have: {', '.join(factors)})")
    (a, b, c), supply = factors[str(node)]["value"], supplies[str(node)]
    return a * supply["value"] ** 2 + b * supply["value"] + c, supply["mark"]


# -- rows ------------------------------------------------------------------------------------------------------------


def reprice(rows: Rows, then: PriceTable, now: PriceTable) -> list[dict[str, Any]]:
    """Rows of a ledger priced by `then`, as `Ledger.rows(now)` gives them; nothing is run again.

    Counts times prices; physics as booked, or the price of a write; times by the ratio of the latencies. What is not known (NaN) stays
    so where physics or time is meant.

    Args:
        rows: as `Ledger.rows(then)`, or a ledger.csv with numbers in its columns count, energy_J and time_s.
        then: the table they are priced by.
        now: the table to price them by.

    Raises:
        LedgerError: a counted action without price or latency; rows priced by write that are to be priced by physics.
    """
    if (
        then.write is not None
        and now.write is None
        and any(r["action"] in WRITING and r["count"] for r in rows)
    ):
        raise LedgerError(
            f"price table {now.name!r}: these rows hold a price per write ({then.name!r}) and not what the cells dissipated; "
            "give the rows priced by physics"
        )
    joules = energies(rows, now)
    return [
        {**row, "energy_J": energy, "time_s": _seconds(row, then, now)}
        for row, energy in zip(rows, joules, strict=True)
    ]


def _seconds(row: Mapping[str, Any], then: PriceTable, now: PriceTable) -> float:
    """A row's time at the latencies of `now`."""
    before, what = float(row["time_s"]), (row["action"], row["precision"])
    if isnan(before) or not before:
        return before
    return before * (now.seconds(*what) / then.seconds(*what))


def sampled_joules(rows: Rows, table: PriceTable | None) -> list[float]:
    """Joules of each row of a planned chip's ledger whose amount is a mean of samples: physics of cells, and verify reads' conversions.

    Args:
        rows: priced by `table`.
        table: where it has a price per write, the conversions of verify reads cost nothing.
    """
    spent = {} if table is not None and table.write is not None else verify_conversions(rows)
    return [
        row["energy_J"] * (1.0 if row["action"] in PHYSICAL else spent.get(at, 0) / (row["count"] or 1))
        for at, row in enumerate(rows)
    ]


def assumed_share(
    rows: Rows, card: Preset, table: PriceTable | None = None, *, sampled: bool = False
) -> float:
    """Share of the rows' energy that rests on numbers marked `assumed`; NaN where there is none, or where it is not known.

    Args:
        rows: priced by `table`.
        card: says how sure the physics of its cells is.
        table: says how sure its prices are; None: the card's own.
        sampled: the rows are a planned chip's, and what they rest on samples for is assumed too.
    """
    total = fsum(row["energy_J"] for row in rows)
    if not total > 0:
        return nan
    amounts = sampled_joules(rows, table) if sampled else [0.0] * len(rows)
    return (
        fsum(
            row["energy_J"]
            if row["energy_J"] and card.mark(row["action"], row["precision"], prices=table) == "assumed"
            else amount
            for row, amount in zip(rows, amounts, strict=True)
        )
        / total
    )
