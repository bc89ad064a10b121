"""The tail of an error about a wrong name; not the simulator's, which imports the numeric libraries."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str]) -> str:
    """Text such as "; did you mean 'x'? (have: x, y, z)", the question only where something is alike."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    question = f"; did you mean {close[0]!r}?" if close else ""
    return f"{question} (have: {', '.join(names)})"
