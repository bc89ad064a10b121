"""Device cards and price tables: TOML data in which every number carries its source and its mark."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from crossbar_sim.circuit import Periphery, Tiles, WeightMapping, Wires
from crossbar_sim.device import Device, Drift, Faults, OpenLoop, Programming, ReadNoise, Relaxation
from crossbar_sim.errors import ConfigError, nearest
from crossbar_sim.ledger import PHYSICAL
from crossbar_sim.prices import MARKS, Price, PriceTable

T = TypeVar("T")
SECTIONS: dict[str, type[Any]] = {
    "device": Device,
    "programming": Programming,
    "open_loop": OpenLoop,
    "faults": Faults,
    "relaxation": Relaxation,
    "drift": Drift,
    "read_noise": ReadNoise,
    "tiles": Tiles,
    "wires": Wires,
    "mapping": WeightMapping,
    "periphery": Periphery,
}
REQUIRED = ("device", "tiles", "periphery")
READ_ENTRIES = ("periphery.read_", "device.g_")
WRITE_ENTRIES = ("programming.", "device.g_")
"""What the physics of reading and of writing rests on."""
ENTRY_KEYS = frozenset({"value", "mark", "source", "low", "high", "note"})


@dataclass(frozen=True)
class Provenance:
    """Where a number comes from: `mark` published | derived | assumed; `low`, `high` bound assumed ones."""

    mark: str
    source: str
    low: Any = None
    high: Any = None
    note: str = ""


@dataclass(frozen=True)
class Preset:
    """A card: everything the simulator knows of a chip. Edit with dataclasses.replace.

    `programming` (write-verify) and `open_loop` (counted pulses) are None where cells take any conductance at once, and at most one
    is given; `prices` is None where no energy is known.
    """

    name: str
    title: str
    device: Device
    tiles: Tiles
    periphery: Periphery
    programming: Programming | None = None
    open_loop: OpenLoop | None = None
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

    def mark(self, action: str, precision: str = "") -> str:
        """How sure the energy of an action is: the weakest mark among the numbers it rests on.

        Raises:
            LedgerError: the action is priced and has no price.
        """
        if action in PHYSICAL:
            entries = READ_ENTRIES if action == "array_read" else WRITE_ENTRIES
            marks = {origin.mark for path, origin in self.provenance.items() if path.startswith(entries)}
        else:
            marks = {self.prices.price(action, precision).mark} if self.prices is not None else set()
        return max(marks, key=MARKS.index, default="published")


def presets() -> list[str]:
    """Names of the cards that come with the package."""
    return sorted(p.name.removesuffix(".toml") for p in _folder().iterdir() if p.name.endswith(".toml"))


def preset(name_or_path: str | Path) -> Preset:
    """A card by name or by path of a TOML file.

    Raises:
        ConfigError: no such card, or a card with a wrong, missing or unmarked entry (all are listed).
    """
    return _load(str(name_or_path))


def _load(name: str) -> Preset:
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(
                f"preset: no file {name!r}; give the path of a TOML card, or a name: {', '.join(presets())}"
            )
        raw = path.read_bytes()
    elif name in presets():
        raw = (_folder() / f"{name}.toml").read_bytes()
    else:
        raise ConfigError(f"preset: {name!r} is unknown{nearest(name, presets())}")
    return parse_preset(raw, origin=name)


@lru_cache(maxsize=64)
def parse_preset(raw: bytes, *, origin: str) -> Preset:
    """A card from the bytes of its TOML file. See `preset`."""
    data = _toml(raw, origin)
    problems: list[str] = []
    provenance: dict[str, Provenance] = {}
    sources = _strings(data.pop("sources", {}), "sources", problems)
    name, title = str(data.pop("name", "")), str(data.pop("title", ""))
    problems.extend(f"{key}: is missing" for key, text in (("name", name), ("title", title)) if not text)
    price_name = data.pop("prices", None)
    parts: dict[str, Any] = {}
    for section, kind in SECTIONS.items():
        table = data.pop(section, None)
        if table is None:
            if section in REQUIRED:
                problems.append(f"{section}: this section is missing")
            continue
        values = _entries(table, section, kind, sources, provenance, problems)
        if values is not None:
            _build(parts, section, kind, values, problems)
    problems.extend(f"{key}: unknown section{nearest(key, SECTIONS)}" for key in data)
    table = None if price_name is None else _named_table(str(price_name), problems)
    if problems:
        raise ConfigError(f"preset {origin}: " + "; ".join(problems))
    prices = None if table is None else with_device_latencies(table, parts, provenance)
    digest = hashlib.sha256(raw + repr(prices).encode()).hexdigest()
    return Preset(
        name=name, title=title, prices=prices, provenance=provenance, sources=sources, sha256=digest, **parts
    )


def _build(
    parts: dict[str, Any], section: str, kind: type[Any], values: dict[str, Any], problems: list[str]
) -> None:
    try:
        parts[section] = kind(**values)
    except ConfigError as error:
        problems.append(str(error))


def _named_table(name: str, problems: list[str]) -> PriceTable | None:
    try:
        return price_table(name)
    except ConfigError as error:
        problems.append(str(error))
        return None


def _toml(raw: bytes, origin: str) -> dict[str, Any]:
    try:
        return tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{origin}: not a TOML file ({error})") from None


def _strings(table: Any, where: str, problems: list[str]) -> dict[str, str]:
    if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
        problems.append(f"{where}: must be a table of texts")
        return {}
    return dict(table)


def _entries(
    table: Any,
    section: str,
    kind: type[Any],
    sources: Mapping[str, str],
    provenance: dict[str, Provenance],
    problems: list[str],
) -> dict[str, Any] | None:
    """Values of one section; its provenance and problems are added to the collections given."""
    if not isinstance(table, dict):
        problems.append(f"{section}: must be a section of entries")
        return None
    before = len(problems)
    known = {f.name: f for f in fields(kind)}
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for name, entry in table.items():
        path = f"{section}.{name}"
        if name not in known:
            problems.append(f"{path}: unknown entry{nearest(name, known)}")
            continue
        problem, origin = _provenance(entry, sources)
        if problem:
            problems.append(f"{path}: {problem}")
            continue
        provenance[path] = origin
        try:
            values[name] = _convert(entry["value"], hints[name])
        except (TypeError, ValueError):
            problems.append(f"{path}: value {entry['value']!r} is not of type {hints[name]}")
    missing = [
        n
        for n, f in known.items()
        if n not in table and f.default is MISSING and f.default_factory is MISSING
    ]
    problems.extend(f"{section}.{name}: is missing" for name in missing)
    return values if len(problems) == before else None


def _provenance(entry: Any, sources: Mapping[str, str]) -> tuple[str, Provenance]:
    empty = Provenance("", "")
    if not isinstance(entry, dict) or "value" not in entry:
        return "must be a table { value, mark, source }", empty
    unknown = [key for key in entry if key not in ENTRY_KEYS]
    if unknown:
        return f"unknown key {unknown[0]!r}{nearest(unknown[0], ENTRY_KEYS)}", empty
    if entry.get("mark") not in MARKS:
        return f"mark must be one of {', '.join(MARKS)} (got {entry.get('mark')!r})", empty
    if entry.get("source") not in sources:
        return f"source {entry.get('source')!r} is not in [sources]", empty
    if entry["mark"] == "assumed" and not {"low", "high"} <= entry.keys():
        return "assumed numbers need low and high", empty
    return "", Provenance(
        entry["mark"], entry["source"], entry.get("low"), entry.get("high"), entry.get("note", "")
    )


def _convert(value: Any, hint: Any) -> Any:
    if hint is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError
        return float(value)
    if hint in (int, bool, str):
        if type(value) is not hint:
            raise TypeError
        return value
    if hint == float | None:
        return _convert(value, float)
    return _tuple(value)


def _tuple(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuple(v) for v in value)
    return _convert(value, float)


@lru_cache(maxsize=16)
def price_table(name: str) -> PriceTable:
    """A price table that comes with the package.

    Raises:
        ConfigError: no such table, or an entry without value, mark or source.
    """
    known = [p.name.removesuffix(".toml") for p in (_folder() / "prices").iterdir()]
    if name not in known:
        raise ConfigError(f"prices: {name!r} is unknown{nearest(name, known)}")
    data = _toml((_folder() / "prices" / f"{name}.toml").read_bytes(), name)
    sources = data["sources"]
    return PriceTable(
        name, dict(_prices(data["energy"], sources, name)), dict(_prices(data["latency"], sources, name))
    )


def _prices(table: Mapping[str, Any], sources: Mapping[str, str], name: str) -> Iterator[tuple[str, Price]]:
    for action, entry in table.items():
        problem, origin = _provenance(entry, sources)
        if problem:
            raise ConfigError(f"price table {name!r}: {action}: {problem}")
        yield action, Price(float(entry["value"]), sources[origin.source], origin.mark)


def with_device_latencies(
    table: PriceTable, parts: Mapping[str, Any], provenance: Mapping[str, Provenance]
) -> PriceTable:
    """The table with the latencies that a card states itself: pulses, verify reads and array reads."""
    widths = {
        "set_pulse": "programming.pulse_width",
        "reset_pulse": "programming.pulse_width",
        "verify_read": "programming.verify_width",
        "array_read": "periphery.read_width",
    }
    latencies = dict(table.latencies)
    for action, path in widths.items():
        section, entry = path.split(".")
        if path in provenance:
            value = getattr(parts[section], entry)
            latencies[action] = Price(value, provenance[path].source, provenance[path].mark)
    return replace(table, latencies=latencies)


def _folder() -> Any:
    return files("crossbar_sim") / "presets"
