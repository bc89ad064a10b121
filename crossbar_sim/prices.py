"""Prices: joules per counted event and seconds per sequential slot, each with a source and a mark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import nan

from crossbar_sim.errors import LedgerError

MARKS = ("published", "derived", "assumed")


@dataclass(frozen=True)
class Price:
    """One number: its value (J, s or m2), where it comes from, how sure it is, and the technology node it is for (nm; 0: none)."""

    value: float
    source: str
    mark: str
    node: int = 0


ADC = "adc_conversion"
"""The action that a converter is priced by."""
IDEAL = "0b"
"""Precision of a converter that quantises nothing."""


@dataclass(frozen=True)
class PriceTable:
    """Prices by `action` or `action.precision` (J), latencies by action (s per slot; of digital work and DRAM per operation and bit), areas by component (m2).

    `lanes`: operations that the digital units do side by side. `write`: price of a cell_write (J) that stands for everything that a
    write takes; None: pulses and verify reads cost what the cells dissipate.
    """

    name: str
    energies: Mapping[str, Price] = field(default_factory=dict)
    latencies: Mapping[str, Price] = field(default_factory=dict)
    areas: Mapping[str, Price] = field(default_factory=dict)
    lanes: Price | None = None
    write: Price | None = None

    def price(self, action: str, precision: str = "") -> Price:
        """The energy price of an action.

        Raises:
            LedgerError: there is none; a counted action is never free by default.
        """
        name = f"{action}.{precision}" if precision else action
        if name not in self.energies:
            raise LedgerError(
                f"price table {self.name!r}: no price for {name!r}; add it to the table (have: "
                f"{', '.join(sorted(self.energies))})"
            )
        return self.energies[name]

    def energy(self, action: str, precision: str = "") -> float:
        """Joules per event; NaN for a conversion by an ideal converter (0 bits): not zero, and not known."""
        if precision == IDEAL:
            return nan
        return self.price(action, precision).value

    def seconds(self, action: str, precision: str = "") -> float:
        """Seconds per sequential slot: those of `action.precision`, or else of the action.

        Raises:
            LedgerError: the action took slots and has no latency.
        """
        found = self.latencies.get(f"{action}.{precision}", self.latencies.get(action))
        if found is None:
            name = f"{action}.{precision}" if precision else action
            raise LedgerError(f"price table {self.name!r}: no latency for {name!r}; add it to the table")
        return found.value

    def with_converters(self, converters: PriceTable) -> PriceTable:
        """This table with the other one's ADC: no conversion keeps its old price or latency."""
        parts = (self.energies, converters.energies), (self.latencies, converters.latencies)
        energies, latencies = (
            {name: price for name, price in own.items() if name.partition(".")[0] != ADC} | dict(new)
            for own, new in parts
        )
        return replace(self, energies=energies, latencies=latencies)

    def area(self, component: str) -> Price:
        """Area of one component, m2.

        Raises:
            LedgerError: there is none; a component is never free by default.
        """
        if component not in self.areas:
            raise LedgerError(
                f"price table {self.name!r}: no area for {component!r}; add it to the table (have: "
                f"{', '.join(sorted(self.areas))})"
            )
        return self.areas[component]
