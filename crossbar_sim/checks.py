"""Checks that descriptions make of themselves; each error names the field, the value and the remedy."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crossbar_sim.errors import ConfigError, nearest

if TYPE_CHECKING:
    from crossbar_sim.circuit import Periphery, WeightMapping


def require(condition: bool, field: str, problem: str) -> None:
    """Raise ConfigError unless the condition holds."""
    if not condition:
        raise ConfigError(f"{field}: {problem}")


def one_of(field: str, value: str, known: tuple[str, ...]) -> None:
    """The value must be one of those known."""
    require(value in known, field, f"{value!r} is unknown{nearest(value, known)}")


def finite(owner: object, *names: str) -> None:
    """The named fields of a description must be finite numbers."""
    for name in names:
        value = getattr(owner, name)
        require(isfinite(value), f"{type(owner).__name__}.{name}", f"must be finite (got {value:g})")


def not_negative(owner: object, *names: str) -> None:
    """The named fields of a description must be at least 0, and finite."""
    finite(owner, *names)
    for name in names:
        value = getattr(owner, name)
        require(value >= 0, f"{type(owner).__name__}.{name}", f"must not be negative (got {value:g})")


def positive(owner: object, *names: str) -> None:
    """The named fields of a description must exceed 0 and be finite."""
    finite(owner, *names)
    for name in names:
        value = getattr(owner, name)
        require(value > 0, f"{type(owner).__name__}.{name}", f"must be positive (got {value:g})")


def weights_of(weight: Any, name: str) -> NDArray[np.float64]:
    """A weight as numbers [out, in], for the array called `name`."""
    require(
        not getattr(weight, "is_meta", False),
        "weight",
        f"array {name!r} was given a tensor on the meta device, which has no values; use a PlannedChip",
    )
    values = np.asarray(weight, np.float64)
    require(values.ndim == 2, "weight", f"array {name!r} needs a matrix [out, in] (got shape {values.shape})")
    return values


def wiring(mapping: WeightMapping, periphery: Periphery, *, gated: bool) -> None:
    """Refuse periphery that a mapping, or columns that are read as gated ladders, cannot have.

    Raises:
        ConfigError: pairs in rows are subtracted on the bit line, before any conversion; gated columns take one-bit
            planes, and one supply voltage for both cells of a pair.
    """
    rows = mapping.pair == "rows" and mapping.signs == 2
    require(
        not (rows and periphery.subtract == "digital"),
        "Periphery.subtract",
        "'digital' is impossible with WeightMapping.pair 'rows', whose currents meet on one bit line; use "
        "'analog', or pair 'columns'",
    )
    require(
        not gated or periphery.plane_bits == 1,
        "Periphery.plane_bits",
        f"gated columns (Wires.ladder) take one-bit planes (got {periphery.plane_bits}); use 1",
    )
    require(
        not (gated and rows),
        "WeightMapping.pair",
        "'rows' needs +V and -V, which gated columns do not have; use 'columns'",
    )
