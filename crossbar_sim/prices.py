"""Prices: joules per counted event and seconds per sequential slot, each with a source and a mark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import nan

from crossbar_sim.errors import LedgerError

MARKS = ("published", "derived", "assumed")


@dataclass(frozen=True)
class Price:
    """One number: its value (J or s), where it comes from, and how sure it is."""

    value: float
    source: str
    mark: str


IDEAL = "0b"
"""Precision of a converter that quantises nothing."""


@dataclass(frozen=True)
class PriceTable:
    """Prices by `action` or `action.precision`; latencies by action."""

    name: str
    energies: Mapping[str, Price] = field(default_factory=dict)
    latencies: Mapping[str, Price] = field(default_factory=dict)

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

    def seconds(self, action: str) -> float:
        """Seconds per sequential slot.

        Raises:
            LedgerError: the action took slots and has no latency.
        """
        if action not in self.latencies:
            raise LedgerError(f"price table {self.name!r}: no latency for {action!r}; add it to the table")
        return self.latencies[action].value
