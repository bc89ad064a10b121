"""Card files: TOML in which every number carries its source and its mark; a card may build on another."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import lru_cache
from importlib.resources import files
from typing import Any, get_type_hints

from crossbar_sim.circuit import Periphery, Process, Tiles, WeightMapping, Wires
from crossbar_sim.device import Device, Drift, Faults, OpenLoop, Programming, ReadNoise, Relaxation
from crossbar_sim.errors import ConfigError, nearest
from crossbar_sim.prices import MARKS, Price, PriceTable

SECTIONS: dict[str, type[Any]] = {
    "device": Device,
    "programming": Programming,
    "open_loop": OpenLoop,
    "faults": Faults,
    "relaxation": Relaxation,
    "drift": Drift,
    "read_noise": ReadNoise,
    "tiles": Tiles,
    "process": Process,
    "wires": Wires,
    "mapping": WeightMapping,
    "periphery": Periphery,
}
REQUIRED = ("device", "tiles", "periphery")
ENTRY_KEYS = frozenset({"value", "mark", "source", "low", "high", "note"})
PRICE_KEYS = ENTRY_KEYS | {"node"}
PARTS = ("energy", "latency", "area", "digital")
"""Sections of a price table."""
HEADINGS = ("name", "title", "prices", "base", "sources")
"""What stands in a card beside its sections."""


@dataclass(frozen=True)
class Provenance:
    """Where a number comes from: `mark` published | derived | assumed; `low`, `high` bound assumed ones."""

    mark: str
    source: str
    low: Any = None
    high: Any = None
    note: str = ""


@dataclass(frozen=True)
class CardFile:
    """A card as its files state it: `parts` are the sections' descriptions, by section."""

    name: str
    title: str
    prices: PriceTable | None
    parts: Mapping[str, Any]
    provenance: Mapping[str, Provenance]
    sources: Mapping[str, str]


@dataclass
class _Draft:
    """What has been read of a card so far; mistakes are collected, so that all can be told at once."""

    sources: Mapping[str, str]
    parts: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Provenance] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def read_toml(raw: bytes, origin: str) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        ConfigError: not a TOML file.
    """
    try:
        return tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{origin}: not a TOML file ({error})") from None


def chain(name: str, read: Callable[[str], bytes]) -> tuple[bytes, ...]:
    """The bytes of a card's file, of its base's file, and so on.

    Args:
        name: of the card, as `read` understands it.
        read: gives a file's bytes, or raises ConfigError.

    Raises:
        ConfigError: a base that is not there, not a text, or builds on the card itself.
    """
    names: list[str] = []
    found: list[bytes] = []
    following: Any = name
    while following is not None:
        if not isinstance(following, str):
            raise ConfigError(
                f"preset {names[-1]}: base: must be a card's name or a path (got {following!r})"
            )
        if following in names:
            raise ConfigError(
                f"preset {name}: base: {' -> '.join([*names, following])} goes in a circle; "
                "one of these cards must stand alone"
            )
        names.append(following)
        found.append(read(following))
        following = read_toml(found[-1], following).get("base")
    return tuple(found)


@lru_cache(maxsize=64)
def parse_card(raws: tuple[bytes, ...], *, origin: str) -> CardFile:
    """A card from the bytes of its file and of its bases' (the card first).

    Raises:
        ConfigError: wrong, missing or unmarked entries (all are listed).
    """
    data, problems = _merged([read_toml(raw, origin) for raw in raws])
    draft = _Draft(_strings(data.pop("sources", {}), "sources", problems), problems=problems)
    heading = {key: data.pop(key, None) for key in HEADINGS if key != "sources"}
    problems.extend(f"{key}: is missing" for key in ("name", "title") if not heading[key])
    for section, kind in SECTIONS.items():
        table = data.pop(section, None)
        if table is not None:
            _section(draft, section, kind, table)
        elif section in REQUIRED:
            problems.append(f"{section}: this section is missing")
    problems.extend(f"{key}: unknown section{nearest(key, SECTIONS)}" for key in data)
    prices = None if heading["prices"] is None else _named_table(str(heading["prices"]), problems)
    if problems:
        raise ConfigError(f"preset {origin}: " + "; ".join(problems))
    return CardFile(
        str(heading["name"]), str(heading["title"]), prices, draft.parts, draft.provenance, draft.sources
    )


def _merged(cards: list[dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """The card over its bases, entry by entry, and the problems found.

    Name and title are the card's own. A source's key keeps one text: a card that changed it would change where its base's
    numbers come from.
    """
    own, *bases = cards
    merged: dict[str, Any] = {key: own[key] for key in ("name", "title") if key in own}
    problems: list[str] = []
    for data in reversed([own, *bases]):
        for key, table in data.items():
            if key in ("name", "title", "base"):
                continue
            before = merged.get(key)
            if not (isinstance(before, dict) and isinstance(table, dict)):
                merged[key] = dict(table) if isinstance(table, dict) else table
                continue
            if key == "sources":
                problems.extend(
                    f"sources.{k}: is already a source of the base, with another text; choose another key"
                    for k in table
                    if k in before and before[k] != table[k]
                )
            merged[key] = {**before, **table}
    return merged, problems


def _strings(table: Any, where: str, problems: list[str]) -> dict[str, str]:
    if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
        problems.append(f"{where}: must be a table of texts")
        return {}
    return dict(table)


def _section(draft: _Draft, section: str, kind: type[Any], table: Any) -> None:
    """Read one section into the draft."""
    if not isinstance(table, dict):
        draft.problems.append(f"{section}: must be a section of entries")
        return
    before = len(draft.problems)
    known = {f.name: f for f in fields(kind)}
    values: dict[str, Any] = {}
    for name, entry in table.items():
        path = f"{section}.{name}"
        if name not in known:
            draft.problems.append(f"{path}: unknown entry{nearest(name, known)}")
            continue
        problem, origin = entry_provenance(entry, draft.sources)
        if problem:
            draft.problems.append(f"{path}: {problem}")
            continue
        draft.provenance[path] = origin
        try:
            values[name] = field_value(kind, name, entry["value"])
        except ConfigError as error:
            draft.problems.append(f"{path}: {error}")
    draft.problems.extend(
        f"{section}.{n}: is missing"
        for n, f in known.items()
        if n not in table and f.default is MISSING and f.default_factory is MISSING
    )
    if len(draft.problems) == before:
        _build(draft, section, kind, values)


def _build(draft: _Draft, section: str, kind: type[Any], values: dict[str, Any]) -> None:
    try:
        draft.parts[section] = kind(**values)
    except ConfigError as error:
        draft.problems.append(str(error))


def entry_provenance(
    entry: Any, sources: Mapping[str, str], keys: frozenset[str] = ENTRY_KEYS
) -> tuple[str, Provenance]:
    """What is wrong with an entry { value, mark, source, ... } ("": nothing), and where its number comes from."""
    empty = Provenance("", "")
    if not isinstance(entry, dict) or "value" not in entry:
        return "must be a table { value, mark, source }", empty
    unknown = [key for key in entry if key not in keys]
    if unknown:
        return f"unknown key {unknown[0]!r}{nearest(unknown[0], keys)}", empty
    if entry.get("mark") not in MARKS:
        return f"mark must be one of {', '.join(MARKS)} (got {entry.get('mark')!r})", empty
    if entry.get("source") not in sources:
        return f"source {entry.get('source')!r} is not in [sources]", empty
    if entry["mark"] == "assumed" and not {"low", "high"} <= entry.keys():
        return "assumed numbers need low and high", empty
    return "", Provenance(
        entry["mark"], entry["source"], entry.get("low"), entry.get("high"), entry.get("note", "")
    )


def field_value(kind: type[Any], name: str, value: Any) -> Any:
    """The value as a description's field wants it: whole numbers become floats where floats are due, lists tuples.

    Raises:
        ConfigError: the value is of another type.
    """
    hint = get_type_hints(kind)[name]
    try:
        return _convert(value, hint)
    except (TypeError, ValueError):
        wanted = hint.__name__ if isinstance(hint, type) else hint
        raise ConfigError(f"value {value!r} is not of type {wanted}") from None


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
    return _tuple(value, hint)


def _tuple(value: Any, hint: Any) -> Any:
    """A (nested) tuple of floats; `hint` is tuple[X, ...]."""
    if not isinstance(value, list | tuple):
        raise TypeError
    return tuple(_convert(item, hint.__args__[0]) for item in value)


@lru_cache(maxsize=16)
def price_table(name: str) -> PriceTable:
    """A price table that comes with the package. Its `adc` names the converters' own table.

    Raises:
        ConfigError: no such table, or an entry without value, mark or source.
    """
    data = price_file(name)
    read = {part: prices_of(data, part, name) for part in PARTS}
    table = PriceTable(name, read["energy"], read["latency"], read["area"], read["digital"].get("lanes"))
    return table.with_converters(converter_table(data["adc"])) if "adc" in data else table


def converter_table(name: str) -> PriceTable:
    """The prices of an ADC by its resolution, as its table lists them."""
    data = price_file(name, "adc")
    return PriceTable(name, prices_of(data, "energy", name), prices_of(data, "latency", name))


def price_file(name: str, part: str = "") -> dict[str, Any]:
    """What a file of prices/`part` says.

    Raises:
        ConfigError: no such file; the nearest right name is told.
    """
    home = folder() / "prices" / part
    known = price_files(part)
    if name not in known:
        raise ConfigError(f"{part or 'prices'}: {name!r} is unknown{nearest(name, known)}")
    return read_toml((home / f"{name}.toml").read_bytes(), name)


def price_files(part: str = "") -> list[str]:
    """Names of the files of prices/`part`."""
    home = folder() / "prices" / part
    return sorted(p.name.removesuffix(".toml") for p in home.iterdir() if p.name.endswith(".toml"))


def prices_of(data: Mapping[str, Any], part: str, name: str) -> dict[str, Price]:
    """The prices of one section of a price file; of a section that is not there, none.

    Raises:
        ConfigError: an entry without value, mark or source.
    """
    entries = price_entries(data, part, name)
    return {
        action: Price(
            float(entry["value"]), data["sources"][entry["source"]], entry["mark"], entry.get("node", 0)
        )
        for action, entry in entries.items()
    }


def price_entries(data: Mapping[str, Any], part: str, name: str) -> dict[str, Any]:
    """The entries of one section of a price file, checked: each has its value, mark and source.

    Raises:
        ConfigError: an entry that lacks one of them.
    """
    for action, entry in data.get(part, {}).items():
        problem, _ = entry_provenance(entry, data.get("sources", {}), PRICE_KEYS)
        if problem:
            raise ConfigError(f"price table {name!r}: {action}: {problem}")
    return dict(data.get(part, {}))


def _named_table(name: str, problems: list[str]) -> PriceTable | None:
    try:
        return price_table(name)
    except ConfigError as error:
        problems.append(str(error))
        return None


def folder() -> Any:
    """Where the cards that come with the package are."""
    return files("crossbar_sim") / "presets"
