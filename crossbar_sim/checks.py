"""Checks that descriptions make of themselves; each error names the field, the value and the remedy."""

from __future__ import annotations

from math import isfinite

from crossbar_sim.errors import ConfigError, nearest


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
