"""The errors a user can meet. Each message names the field, the value and the remedy."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

LISTED = 40
"""Names that an error lists at most; the layers of a model are hundreds."""


class CrossbarError(ValueError):
    """Root of the simulator's own errors."""


class ConfigError(CrossbarError):
    """A description (preset, price table, argument) that cannot be used as it is."""


class MappingError(CrossbarError):
    """A matrix that cannot be placed on the arrays."""


class CalibrationError(CrossbarError):
    """A product was asked for before the converters' ranges were set, or without data to set them."""


class LedgerError(CrossbarError):
    """A counted action that has no price, or an entry that is not a count."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The tail of an error about a wrong name, "; did you mean 'x'? (have: x, y, z)"; one for all rooms.

    The question is asked only where something is alike; of a long list the first `LISTED` names are given.
    """
    names = sorted(known)
    if not names:
        return " (there are none)"
    close = get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    more = f", and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{hint} (have: {', '.join(names[:LISTED])}{more})"
