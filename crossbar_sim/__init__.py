"""Simulate ReRAM crossbar chips: devices, arrays, periphery, and what each task costs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from crossbar_sim.chip import Chip
from crossbar_sim.errors import CalibrationError, ConfigError, CrossbarError, LedgerError, MappingError
from crossbar_sim.ledger import Ledger
from crossbar_sim.periphery import Ranges
from crossbar_sim.presets import Preset, preset, presets

if TYPE_CHECKING:
    from crossbar_sim.conversion import convert, revert

__all__ = [
    "CalibrationError",
    "Chip",
    "ConfigError",
    "CrossbarError",
    "Ledger",
    "LedgerError",
    "MappingError",
    "Preset",
    "Ranges",
    "convert",
    "preset",
    "presets",
    "revert",
]


def __getattr__(name: str) -> Any:
    """`convert` and `revert` need torch, which the rest does without."""
    if name in ("convert", "revert"):
        return getattr(import_module("crossbar_sim.conversion"), name)
    raise AttributeError(f"module 'crossbar_sim' has no attribute {name!r}")
