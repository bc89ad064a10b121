"""Energy and latency of a SAR converter from NeuroSim's fit, by resolution and node."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, log10
from typing import Any

from crossbar_sim.card_file import converter_table, price_entries, price_file
from crossbar_sim.errors import ConfigError, nearest
from crossbar_sim.prices import ADC, MARKS, Price, PriceTable


def power(bits: int, coefficients: tuple[float, ...], *, resistance: float) -> float:
    """Watts of a converter of L = 2^bits levels: (a log2 L + b) 1e-6 + c exp(d log10 R).

    Args:
        bits: log2 L.
        coefficients: a and b in uW, c in W, d.
        resistance: of the column that it reads, ohm.
    """
    a, b, c, d = coefficients
    return (a * bits + b) * 1e-6 + c * exp(d * log10(resistance))


def seconds(bits: int) -> float:
    """One conversion: log2 L + 1 steps of 1 ns."""
    return (bits + 1) * 1e-9


def sar_table(name: str, data: Mapping[str, Any], node: str = "") -> PriceTable:
    """Energies and latencies of every resolution in `bits`, by the coefficients of a node (nm; "": the table's own).

    Energy is power x latency. Its mark is the weakest of the coefficients' and the column's, and never "published".

    Raises:
        ConfigError: the fit has no such node.
    """
    fits = price_entries(data, "coefficients", name)
    column = price_entries(data, "column", name)["resistance"]
    chosen = node or str(data["node"])
    if chosen not in fits:
        raise ConfigError(f"adc: {name} has no fit for {chosen!r} nm{nearest(chosen, fits)}")
    fit = fits[chosen]
    mark = max("derived", fit["mark"], column["mark"], key=MARKS.index)
    source = f"{data['sources'][fit['source']]}; {data['sources'][column['source']]}"
    low, high = data["bits"]
    energies, latencies = {}, {}
    for bits in range(low, high + 1):
        watts = power(bits, tuple(fit["value"]), resistance=column["value"])
        action = f"{ADC}.{bits}b"
        energies[action] = Price(watts * seconds(bits), source, mark, int(chosen))
        latencies[action] = Price(seconds(bits), data["sources"][fit["source"]], "derived", int(chosen))
    return PriceTable(f"{name}:{chosen}", energies, latencies)


def converters(name: str) -> PriceTable:
    """The ADC of that name; "neurosim_sar:45": a fit's converter at that node (nm).

    Raises:
        ConfigError: no such table or node.
    """
    table, _, node = name.partition(":")
    data = price_file(table, "adc")
    if "coefficients" in data:
        return sar_table(table, data, node)
    if node:
        raise ConfigError(f"adc: {table} lists prices for one node alone; ask for {table!r} (got {name!r})")
    return converter_table(table)
