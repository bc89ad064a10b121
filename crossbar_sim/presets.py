"""Device cards: what a chip is made of, every number with its source and its mark; and cards edited."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from crossbar_sim.card_file import (
    SECTIONS,
    Provenance,
    chain,
    field_value,
    folder,
    parse_card,
    price_table,
)
from crossbar_sim.circuit import Periphery, Process, Tiles, WeightMapping, Wires
from crossbar_sim.device import Device, Drift, Faults, OpenLoop, Programming, ReadNoise, Relaxation
from crossbar_sim.errors import ConfigError, nearest
from crossbar_sim.ledger import PHYSICAL, WRITING
from crossbar_sim.prices import MARKS, Price, PriceTable

__all__ = ["EFFECTS", "Preset", "Provenance", "edit", "only", "preset", "presets", "price_table"]

READ_ENTRIES = ("periphery.read_", "device.g_")
WRITE_ENTRIES = ("programming.", "open_loop.", "device.g_")
"""What the physics of reading and of writing rests on."""
LATENCIES = {
    "set_pulse": ("programming.pulse_width", "open_loop.set_width"),
    "reset_pulse": ("programming.pulse_width", "open_loop.reset_width"),
    "verify_read": ("programming.verify_width",),
    "array_read": ("periphery.read_width",),
}
"""The entries of a card that say how long an action takes."""
EFFECTS = (
    "levels",
    "programming",
    "relaxation",
    "read_noise",
    "converters",
    "spread",
    "faults",
    "wear",
    "ir_drop",
)
"""All non-idealities, by name (see `only`)."""
EDITED = "edited"
"""Key of the source that edited numbers have."""


@dataclass(frozen=True)
class Preset:
    """A card: everything the simulator knows of a chip. Change it with `edit` and `only`.

    `programming` (write-verify) and `open_loop` (counted pulses) are None where cells take any conductance at once, and at most one
    is given; `prices` is None where no energy is known, `process` where no node is. `sha256` covers the card's files, or, of an edited card, all it says.
    """

    name: str
    title: str
    device: Device
    tiles: Tiles
    periphery: Periphery
    programming: Programming | None = None
    open_loop: OpenLoop | None = None
    process: Process | None = None
    faults: Faults = field(default_factory=Faults)
    relaxation: Relaxation = field(default_factory=Relaxation)
    drift: Drift = field(default_factory=Drift)
    wires: Wires = field(default_factory=Wires)
    mapping: WeightMapping = field(default_factory=WeightMapping)
    read_noise: ReadNoise = field(default_factory=ReadNoise)
    prices: PriceTable | None = None
    provenance: Mapping[str, Provenance] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    sha256: str = ""

    def __post_init__(self) -> None:
        if self.programming is not None and self.open_loop is not None:
            raise ConfigError("Preset.open_loop: give programming (write-verify) or open_loop, not both")
        mapping = self.mapping
        if mapping.slices > 1 and not self.device.levels:
            raise ConfigError(
                f"WeightMapping.slices: {mapping.slices} slices need cells with levels (Device.levels is 0, continuous)"
            )
        self._check_slices()

    def _check_slices(self) -> None:
        """A slice whose digit is always 0 adds its cells' noise, by the largest factor of all, and nothing else."""
        mapping, levels = self.mapping, self.device.levels
        used, enough = mapping.largest_integer, 1
        while used >= levels**enough and enough < mapping.slices:
            enough += 1
        if used and enough < mapping.slices:
            raise ConfigError(
                f"WeightMapping.slices: {mapping.slices} slices of {levels} levels hold integers to "
                f"{levels**mapping.slices - 1}, but weight_bits {mapping.weight_bits} uses {used}, so the top slice would hold "
                f"nothing; use {enough} slice{'s' * (enough > 1)}, or weight_bits 0"
            )

    @property
    def writes_at_once(self) -> bool:
        """Whether cells take any conductance at once: the card knows no pulses."""
        return self.programming is None and self.open_loop is None

    def mark(self, action: str, precision: str = "", *, prices: PriceTable | None = None) -> str:
        """How sure the energy of an action is: the weakest mark among the numbers it rests on.

        Args:
            action: what was counted.
            precision: its precision.
            prices: the table it is priced by; None: the card's own.

        Raises:
            LedgerError: the action is priced and has no price.
        """
        prices = self.prices if prices is None else prices
        if action in WRITING and prices is not None and prices.write is not None:
            return prices.write.mark
        if action in PHYSICAL:
            entries = READ_ENTRIES if action == "array_read" else WRITE_ENTRIES
            marks = {origin.mark for path, origin in self.provenance.items() if path.startswith(entries)}
        else:
            marks = {prices.price(action, precision).mark} if prices is not None else set()
        return max(marks, key=MARKS.index, default="published")


def presets() -> list[str]:
    """Names of the cards that come with the package."""
    return sorted(p.name.removesuffix(".toml") for p in folder().iterdir() if p.name.endswith(".toml"))


def preset(name_or_path: str | Path) -> Preset:
    """A card by name or by path of a TOML file.

    A card may name a `base`, another card or the path of one (relative to the card's own folder): it then
    states only the entries that differ.

    Raises:
        ConfigError: no such card, or a card with a wrong, missing or unmarked entry (all are listed).
    """
    name = str(name_or_path)
    home = Path(name).parent if name.endswith(".toml") else Path()

    def read(wanted: str) -> bytes:
        return _bytes(wanted if wanted == name else str(home / wanted) if _is_path(wanted) else wanted)

    return _load(chain(name, read), name)


def as_card(card: Preset | str | Path) -> Preset:
    """The card itself, or the one of that name or path (`preset`)."""
    return card if isinstance(card, Preset) else preset(card)


def _is_path(name: str) -> bool:
    return name.endswith(".toml")


def _bytes(name: str) -> bytes:
    if _is_path(name):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(
                f"preset: no file {name!r}; give the path of a TOML card, or a name: {', '.join(presets())}"
            )
        return path.read_bytes()
    if name not in presets():
        raise ConfigError(
            f"preset: {name!r} is unknown{nearest(name, presets())}; or the path of a card, my_cells.toml"
        )
    return bytes((folder() / f"{name}.toml").read_bytes())


@lru_cache(maxsize=64)
def _load(raws: tuple[bytes, ...], origin: str) -> Preset:
    card = parse_card(raws, origin=origin)
    made = Preset(
        name=card.name,
        title=card.title,
        provenance=card.provenance,
        sources=card.sources,
        **card.parts,
    )
    prices = _own_latencies(card.prices, made)
    digest = hashlib.sha256(b"".join(raws) + repr(prices).encode()).hexdigest()
    return replace(made, prices=prices, sha256=digest)


def _own_latencies(table: PriceTable | None, card: Preset) -> PriceTable | None:
    """The table with the latencies that the card states itself: pulses, verify reads and array reads."""
    if table is None:
        return None
    latencies = dict(table.latencies)
    for action, paths in LATENCIES.items():
        for path in paths:
            if path in card.provenance:
                origin = card.provenance[path]
                latencies[action] = Price(
                    _value(card, path), card.sources.get(origin.source, origin.source), origin.mark
                )
    return replace(table, latencies=latencies)


def _value(card: Preset, path: str) -> Any:
    section, name = path.split(".")
    return getattr(getattr(card, section), name)


def edit(card: Preset | str | Path, changes: Mapping[str, Any]) -> Preset:
    """The card (or the one of that name or path) with some entries changed, by dotted name.

    `edit(card, {"mapping.copies": 4, "programming.rounds": 3})`, for example. Changed entries are marked assumed, their source is "edited"; entries set to what they are already stay as they are.
    The sha256 changes with what changes, whatever the order of the edits.

    Raises:
        ConfigError: unknown entries, values of a wrong type or out of bounds, sections that the card lacks (all are listed).
    """
    card = as_card(card)
    problems: list[str] = []
    wanted: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        _sort_in(card, path, value, wanted, problems)
    parts: dict[str, Any] = {}
    for section, values in wanted.items():
        try:
            parts[section] = replace(getattr(card, section), **values)
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError(f"card {card.name!r}, edited: " + "; ".join(problems))
    edited = {
        f"{section}.{name}": Provenance("assumed", EDITED, low=value, high=value, note="set by the user")
        for section, values in wanted.items()
        for name, value in values.items()
    }
    if not edited:
        return card
    sources = {**card.sources, EDITED: "Set by the user in place of the card's own number"}
    return _stamped(replace(card, provenance={**card.provenance, **edited}, sources=sources, **parts))


def _sort_in(
    card: Preset, path: str, value: Any, wanted: dict[str, dict[str, Any]], problems: list[str]
) -> None:
    """Put one change into `wanted`, by section, if it changes anything, or say into `problems` why it cannot be."""
    section, _, name = path.partition(".")
    if section not in SECTIONS:
        problems.append(f"{path}: unknown section {section!r}{nearest(section, SECTIONS)}")
        return
    names = [f.name for f in fields(SECTIONS[section])]
    if name not in names:
        problems.append(f"{path}: unknown entry {name!r}{nearest(name, names)}")
        return
    if getattr(card, section) is None:
        problems.append(f"{path}: this card has no section {section!r}, so nothing of it can be changed")
        return
    try:
        new = field_value(SECTIONS[section], name, value)
    except ConfigError as error:
        problems.append(f"{path}: {error}")
        return
    if new != _value(card, path):
        wanted.setdefault(section, {})[name] = new


def only(card: Preset | str | Path, effects: Iterable[str]) -> Preset:
    """The card (or the one of that name or path) with the named non-idealities alone; all others are switched off.

    levels: conductances in steps, and weights in slices; else continuous. programming: write-verify or counted pulses, with
    what they leave; else exact writes. relaxation: relaxation and drift (published relaxation is the total error about the target: alone, it
    holds the programming error too). read_noise. converters: DAC, ADC with its noise, and what the columns can deliver; else exact. spread: device to device
    and cycle to cycle. faults: stuck cells. wear: endurance. ir_drop: wire resistance; else 0 ohm.

    Raises:
        ConfigError: an unknown name, or a name in place of a list of names.
    """
    if isinstance(effects, str):
        raise ConfigError(f'effects: give a list of names: ["{effects}"]')
    card, wanted = as_card(card), set(effects)
    for name in sorted(wanted - set(EFFECTS)):
        raise ConfigError(f"effects: {name!r} is unknown{nearest(name, EFFECTS)}")
    off = {
        path: value
        for name in EFFECTS
        if name not in wanted
        for path, value in _OFF[name].items()
        if getattr(card, _section(path)) is not None and _value(card, path) != value
    }
    if "programming" not in wanted:
        off = {path: value for path, value in off.items() if _section(path) not in _WRITING}
    parts: dict[str, Any] = {
        section: replace(getattr(card, section), **_of_section(off, section))
        for section in set(map(_section, off))
    }
    if "programming" not in wanted:
        parts |= {section: None for section in _WRITING if getattr(card, section) is not None}
    if not parts:
        return card
    bare = [section for section, part in parts.items() if part is None]
    kept = {
        path: origin
        for path, origin in card.provenance.items()
        if path not in off and _section(path) not in bare
    }
    return _stamped(replace(card, provenance=kept, **parts))


def _section(path: str) -> str:
    return path.partition(".")[0]


def _of_section(values: Mapping[str, Any], section: str) -> dict[str, Any]:
    start = f"{section}."
    return {path.removeprefix(start): value for path, value in values.items() if path.startswith(start)}


def _defaults(section: str, *names: str) -> dict[str, Any]:
    """The named entries of a section (none: all) as they are by default, by path."""
    return {
        f"{section}.{f.name}": getattr(SECTIONS[section](), f.name)
        for f in fields(SECTIONS[section])
        if not names or f.name in names
    }


_WRITING = ("programming", "open_loop")
_OFF: dict[str, dict[str, Any]] = {
    "levels": {"device.levels": 0, "mapping.slices": 1, "mapping.weight_bits": 0},
    "programming": {},
    "relaxation": _defaults("relaxation") | _defaults("drift"),
    "read_noise": _defaults("read_noise"),
    "converters": _defaults(
        "periphery",
        "dac_bits",
        "adc_bits",
        "plane_bits",
        "adc_offset",
        "adc_gain",
        "adc_noise",
        "column_clip",
    ),
    "spread": {
        "device.strength_spread": 0.0,
        "device.low_spread": 0.0,
        "device.high_spread": 0.0,
        "programming.cycle_spread": 0.0,
        "open_loop.cycle_spread": 0.0,
        "open_loop.cycle_noise": 0.0,
    },
    "faults": _defaults("faults"),
    "wear": {"device.endurance": 0.0, "device.endurance_decades": 0.0},
    "ir_drop": _defaults("wires", "r_wl", "r_bl"),
}
"""The entries that switch a non-ideality off."""


def _stamped(card: Preset) -> Preset:
    """The card with its own latencies in the prices and the sha256 of all that it says."""
    priced = replace(card, prices=_own_latencies(card.prices, card), sha256="")
    said = {f.name: getattr(priced, f.name) for f in fields(Preset)}
    said |= {name: sorted(said[name].items()) for name in ("provenance", "sources")}
    return replace(priced, sha256=hashlib.sha256(repr(sorted(said.items())).encode()).hexdigest())
