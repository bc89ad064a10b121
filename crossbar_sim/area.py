"""How much silicon a chip takes, component by component, from its card and a price table's areas.

Areas are as published, at the nodes of their sources; only cells follow the card's own node.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, fsum, nan
from typing import Any, NamedTuple

from crossbar_sim.checks import require
from crossbar_sim.cost import MASTER_BITS
from crossbar_sim.errors import ConfigError
from crossbar_sim.presets import Preset
from crossbar_sim.prices import MARKS, Price, PriceTable


class _Part(NamedTuple):
    """So many components, the area of one (m2), and (mark, source) of the numbers that it rests on."""

    component: str
    number: int
    each: float
    basis: tuple[tuple[str, str], ...]


def area(
    card: Preset,
    prices: PriceTable | None = None,
    *,
    tiles: int,
    digital_words: int = 0,
    transposed: bool = False,
    cores: int = 1,
) -> list[dict[str, Any]]:
    """Area of `tiles` tiles and the digital parts: one row {component, count, area_m2, mark, source} per component.

    A tile of R word lines and C bit lines has R C cells of 16 F2 (1T1R, 4F x 4F) or 4 F2 (2F x 2F), ceil(C/columns_per_adc) ADCs with a
    shift-add each, C sample-and-holds, R drivers and R inputs' registers; a transposed read needs the same the other way round.
    Beside the tiles stand SRAM of 32 bits per digital word, and in each core a multiplier, an adder and a function unit per lane.
    NaN where the node is not stated or a converter is ideal: not known. Buses, routers, buffers and control are left out.

    Args:
        card: the chip.
        prices: areas; default: the card's own table.
        tiles: physical arrays.
        digital_words: trained numbers and method state kept for every task on the chip.
        transposed: whether gradients are read through the same arrays.
        cores: groups of digital units.

    Raises:
        ConfigError: there is no price table, or a number is negative.
        LedgerError: a component has no area in the table.
    """
    table = card.prices if prices is None else prices
    if table is None:
        raise ConfigError(f"area: the card {card.name!r} has no prices; give a price table")
    for name, value in (("tiles", tiles), ("digital_words", digital_words), ("cores", cores)):
        require(value >= 0, f"area: {name}", f"must not be negative (got {value})")
    lines = [(card.tiles.rows, card.tiles.cols)]
    if transposed:
        lines.append((card.tiles.cols, card.tiles.rows))
    parts = [_cells(card, table, tiles), *_periphery(card, table, tiles, lines)]
    parts.append(_part(table, "task state", "sram_bit", MASTER_BITS * digital_words))
    parts.extend(_digital(table, cores))
    return [_row(part) for part in parts]


def total_area(rows: list[dict[str, Any]]) -> float:
    """Sum of the rows of `area`, m2."""
    return fsum(row["area_m2"] for row in rows)


def _cells(card: Preset, table: PriceTable, tiles: int) -> _Part:
    count = tiles * card.tiles.rows * card.tiles.cols
    if card.process is None:
        return _Part("cells", count, nan, ())
    squares = table.area(f"cell.{card.process.cell}")
    own = [origin for path, origin in card.provenance.items() if path.startswith("process.")]
    basis = [_basis(squares), *((o.mark, card.sources.get(o.source, o.source)) for o in own)]
    return _Part("cells", count, squares.value * card.process.node**2, tuple(basis))


def _basis(price: Price) -> tuple[str, str]:
    return price.mark, price.source


def _periphery(card: Preset, table: PriceTable, tiles: int, lines: list[tuple[int, int]]) -> Iterator[_Part]:
    """Converters and what belongs to them; `lines`: lines driven and sensed, of each direction."""
    own = card.periphery
    driven = tiles * sum(d for d, _ in lines)
    sensed = tiles * sum(s for _, s in lines)
    adcs = tiles * sum(ceil(s / own.columns_per_adc) for _, s in lines)
    bits = own.plane_bits or own.dac_bits
    yield _converter(table, "adc", own.adc_bits, adcs)
    yield _converter(table, "dac", bits, driven)
    yield _part(table, "sample_hold", "sample_hold", sensed)
    yield _part(table, "shift_add", "shift_add", adcs)
    yield _part(table, "input_register", "input_register", driven)


def _converter(table: PriceTable, kind: str, bits: int, count: int) -> _Part:
    return _part(table, kind, f"{kind}.{bits}b", count) if bits else _Part(kind, count, nan, ())


def _digital(table: PriceTable, cores: int) -> Iterator[_Part]:
    """A multiplier, an adder and a function unit per lane."""
    if table.lanes is None:
        return
    for unit in ("multiplier", "adder", "function"):
        price = table.area(unit)
        yield _Part(unit, round(table.lanes.value) * cores, price.value, (_basis(price), _basis(table.lanes)))


def _part(table: PriceTable, component: str, name: str, count: int) -> _Part:
    price = table.area(name)
    return _Part(component, count, price.value, (_basis(price),))


def _row(part: _Part) -> dict[str, Any]:
    """The row of a part; its mark is the weakest of what it rests on."""
    return {
        "component": part.component,
        "count": part.number,
        "area_m2": part.number * part.each,
        "mark": max((mark for mark, _ in part.basis), key=MARKS.index, default=""),
        "source": "; ".join(dict.fromkeys(source for _, source in part.basis)),
    }
