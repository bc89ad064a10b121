"""Chips as data: a card, what of it takes part, what is changed on it, and how the chip is simulated and aged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from crossbar_experiments.errors import BenchError
from crossbar_sim.chip import BACKWARD_MODES, GRIDS
from crossbar_sim.compensation import KINDS as COMPENSATIONS
from crossbar_sim.errors import nearest
from crossbar_sim.presets import EFFECTS, Preset, edit, only, preset

WIRES = "ir_drop"


@dataclass(frozen=True)
class ChipConfig:
    """A chip: card, seed, how it is simulated (crossbar_sim.Chip), and how old it is.

    Attributes:
        preset: the card's name or path.
        effects: the card's non-idealities that take part (crossbar_sim.presets.EFFECTS); None: all it states.
        set: entries of the card that are changed, by dotted name ("mapping.copies" = 4).
        ir_drop: whether wires have resistance. The only effect that is off unless asked for, as solving every tile's wires
            takes minutes.
        age: seconds from deployment to the task, which is trained and tested then.
        evaluate_age: seconds from deployment to the test alone, without another fit; None: tested at `age`.
        compensation: drift compensation whenever the chip has aged (Chip.compensate).
        refresh: whether base and pool are programmed again at `age`.
    """

    preset: str = "ideal"
    seed: int = 0
    grid: str = "int15"
    backend: str = "auto"
    statistical: bool = False
    backward: str = "transposed"
    effects: tuple[str, ...] | None = None
    set: Mapping[str, Any] = field(default_factory=dict)
    ir_drop: bool = False
    age: float = 0.0
    evaluate_age: float | None = None
    compensation: str = "none"
    refresh: bool = False

    def __post_init__(self) -> None:
        for name, known in (
            ("grid", GRIDS),
            ("backward", BACKWARD_MODES),
            ("compensation", COMPENSATIONS),
        ):
            value = getattr(self, name)
            if value not in known:
                raise BenchError(f"{name}: {value!r} is unknown{nearest(value, known)}")
        self._check_effects()
        self._check_ages()

    def _check_effects(self) -> None:
        for name in self.effects or ():
            if name not in EFFECTS:
                raise BenchError(f"effects: {name!r} is unknown{nearest(name, EFFECTS)}")
        if self.effects is not None and self.ir_drop != (WIRES in self.effects):
            told = "leaves it out" if self.ir_drop else "asks for it"
            raise BenchError(f"ir_drop: is {str(self.ir_drop).lower()}, but effects {told}; make them agree")
        wires = sorted(name for name in self.set if name.startswith("wires."))
        if wires and not self.ir_drop:
            raise BenchError(f"set.{wires[0]}: has no effect without ir_drop = true")

    def _check_ages(self) -> None:
        if self.age < 0:
            raise BenchError(f"age: must not be negative (got {self.age:g} s)")
        if self.evaluate_age is not None and self.evaluate_age < self.age:
            raise BenchError(
                f"evaluate_age: must not be less than age (got {self.evaluate_age:g} < {self.age:g} s)"
            )
        if self.refresh and not self.age:
            raise BenchError("refresh: happens at age, which is 0; state an age")

    def card(self) -> Preset:
        """The card with its effects and changes.

        Raises:
            ConfigError: no such card, or a change that it does not take.
        """
        card = preset(self.preset)
        return edit(card if self.effects is None else only(card, self.effects), self.set)

    def description(self) -> dict[str, Any]:
        """The settings as plain data; what is None is left out, as TOML has no word for it."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def dotted(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables by dotted names: {"mapping": {"copies": 4}} -> {"mapping.copies": 4}, as TOML's own dots nest."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            flat |= dotted(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
