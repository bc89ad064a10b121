"""Digital work that repeats: what one vector takes is addressed in the ledger once, and then only multiplied."""

from __future__ import annotations

from crossbar_sim.chip import Site
from crossbar_sim.cost import Counts
from crossbar_sim.ledger import Entry


class Tally:
    """Counts per vector (or per element, per pair) at one address; `book(n)` books them n times under the ledger's present scope."""

    def __init__(self, site: Site, each: Counts) -> None:
        self.site = site
        self.each = {action: count for action, count in each.items() if count}
        self._entries: tuple[tuple[str, str], tuple[Entry, ...]] | None = None

    def book(self, times: int) -> None:
        """Book `times` times what one takes."""
        ledger = self.site.chip.ledger
        scope = ledger.task, ledger.phase
        if self._entries is None or self._entries[0] != scope:
            self._entries = (scope, self.site.entries(self.each, slots={}))
        if times:
            ledger.book_times(self._entries[1], times)
