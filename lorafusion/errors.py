"""Errors of the adapter room: every one is a sentence that names the field, the value and the remedy."""

from __future__ import annotations


class LoraFusionError(ValueError):
    """A wrong name, value or combination in the adapter room."""


class PeftFormatError(LoraFusionError):
    """An adapter folder that is damaged, or that asks for something this project does not compute."""


class ModuleMismatchError(LoraFusionError):
    """LoRA modules that do not fit each other, or do not fit the model they are meant for."""
