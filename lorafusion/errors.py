"""Errors of the adapter room: every one is a sentence that names the field, the value and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LoraFusionError(ValueError):
    """A wrong name, value or combination in the adapter room."""


class PeftFormatError(LoraFusionError):
    """An adapter folder that is damaged, or that asks for something this project does not compute."""


class ModuleMismatchError(LoraFusionError):
    """LoRA modules that do not fit each other, or do not fit the model they are meant for."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name most similar to `name`, as a hint for error messages.

    Args:
        name: the name that was not found.
        known: the names that exist.

    Returns:
        " (nearest: 'x')", or an empty string where nothing is known or nothing is alike.
    """
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.3)
    return f" (nearest: {found[0]!r})" if found else ""
