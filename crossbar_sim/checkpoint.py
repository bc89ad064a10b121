"""Chips and arrays as plain tensors: what a state_dict holds of an array, and a whole chip in one .safetensors file."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from crossbar_sim.array import ProgrammedArray
from crossbar_sim.chip import Chip, Site
from crossbar_sim.errors import ConfigError
from crossbar_sim.ledger import Key, Ledger, ReadEnergy
from crossbar_sim.periphery import Ranges
from crossbar_sim.presets import Preset

Entries = Mapping[str, NDArray[Any]]
META = "array_meta"
"""The entry that says whose state the others are: JSON, as uint8 (a state_dict holds tensors only)."""
FORMAT = "crossbar_sim chip 2"
CELLS, RANGES = "cells.", {"ranges": "ranges.", "backward_ranges": "backward_ranges."}
PLAIN = ("scale", "order", "compensation", "asked")
GATE = "gate."
ENTRIES = (META, CELLS, *RANGES.values(), *PLAIN, GATE)
"""How the entries of an array begin."""
OPTIONS = ("backend", "seed", "grid", "statistical", "backward", "ir_drop")
BOOKS = ("counts", "slots", "row_slots", "joules")
WORDS = frozenset({"name", "title", "prices", "process", "provenance", "sources", "sha256"})
"""Fields of a card that do not change what the cells and converters do."""


def card_digest(card: Preset) -> str:
    """SHA-256 of a card's physics; names, sources and prices do not matter."""
    parts = {f.name: getattr(card, f.name) for f in fields(card) if f.name not in WORDS}
    text = json.dumps(parts, sort_keys=True, default=_numbers)
    return hashlib.sha256(text.encode()).hexdigest()


def _numbers(part: Any) -> Any:
    return asdict(part) if is_dataclass(part) and not isinstance(part, type) else part.item()


# -- one array -----------------------------------------------------------------------------------------------------


def array_state(array: ProgrammedArray) -> dict[str, NDArray[Any]]:
    """Everything an array needs to go on as if nothing had happened, as arrays of its own.

    Returns:
        META, the column scale, the columns after a repair, the factors of drift compensation, the conductances asked for, the
        converters' ranges and the gate (where there are any), and the state of the cells.
    """
    parts: dict[str, Any] = {
        "scale": array.scale,
        "order": array.order,
        "compensation": array.compensation,
        "asked": array.target_conductance(),
    }
    for name, prefix in RANGES.items():
        ranges = getattr(array, name)
        parts |= {} if ranges is None else {prefix + field: value for field, value in vars(ranges).items()}
    if array.active is not None:
        parts |= {GATE + side: on for side, on in vars(array.active).items()}
    parts |= {CELLS + name: value for name, value in array.cells.state().items()}
    return {
        META: _as_bytes(_meta(array)),
        **{key: np.array(value, order="C") for key, value in parts.items()},
    }


def _meta(array: ProgrammedArray) -> dict[str, Any]:
    chip = array.chip
    return {
        "name": array.name,
        "layer": array.site.layer,
        "matrix": array.site.matrix,
        "placement": asdict(array.placement),
        "version": array.version,
        "card_name": chip.preset.name,
        "card": card_digest(chip.preset),
        "grid": chip.grid,
        "seed": chip.seed,
        "time": chip.time,
        "event": chip.event,
    }


def meta_of(entry: NDArray[Any]) -> dict[str, Any]:
    """What a META entry says.

    Raises:
        ConfigError: it is not one.
    """
    try:
        found = json.loads(np.asarray(entry, np.uint8).tobytes())
    except ValueError as error:
        raise ConfigError(f"{META}: does not describe an array ({error}); save the model again") from None
    if not isinstance(found, dict) or "name" not in found:
        raise ConfigError(f"{META}: does not describe an array; save the model again")
    return found


def check_array(array: ProgrammedArray, meta: Mapping[str, Any]) -> None:
    """Whether a saved state belongs to this array; `meta`: what META says of it.

    Raises:
        ConfigError: it was saved from another matrix, shape, card, grid or seed.
    """
    own = _meta(array)
    for field, remedy in (
        ("name", "convert the same layers under the same names"),
        ("card", "make the chip with the same card"),  # before what follows from it
        ("placement", "convert a model of the same shape"),
        ("grid", "make the chip with the same grid"),
        ("seed", "make the chip with the same seed"),
    ):
        if meta.get(field) != own[field]:
            raise ConfigError(
                f"array {array.name!r}: its saved state has another {field} "
                f"(saved: {_short(meta, field)}, here: {_short(own, field)}); {remedy}"
            )


def set_clock(found: Sequence[tuple[ProgrammedArray, Mapping[str, Any]]]) -> None:
    """Bring the chip to the time and event at which the states of these arrays were saved, before they are restored.

    Raises:
        ConfigError: a state does not fit its array, they were saved at different times, or an array that is not
            among them would change its age. Nothing is changed then.
    """
    for array, meta in found:
        check_array(array, meta)
    own = {array.name for array, _ in found}
    for array, meta in found:
        _check_clock(array, meta, strangers=sorted(set(array.chip.arrays) - own))
    if len({(meta["time"], meta["event"]) for _, meta in found}) > 1:
        raise ConfigError("state: its arrays were saved at different times; load what one state_dict() gave")
    for array, meta in found:
        array.chip.time, array.chip.event = float(meta["time"]), int(meta["event"])


def _check_clock(array: ProgrammedArray, meta: Mapping[str, Any], *, strangers: Sequence[str]) -> None:
    now, then = array.chip.time, meta["time"]
    if then != now and strangers:
        raise ConfigError(
            f"array {array.name!r}: was saved at {then:g} s and the chip is at {now:g} s; array {strangers[0]!r}, which "
            "is not in the saved state, would change its age; load onto a chip of its own"
        )


def _short(meta: Mapping[str, Any], field: str) -> str:
    if field == "card":
        return f"{meta.get('card_name')!r} {str(meta.get('card'))[:8]}"
    if field == "placement":
        place = meta.get("placement") or {}
        return f"{place.get('outputs')} x {place.get('inputs')} on {place.get('row_tiles')} x {place.get('col_tiles')} tiles"
    return repr(meta.get(field))


def restore_array(array: ProgrammedArray, entries: Entries) -> None:
    """Bring an array, its chip's clock and its chip's event to a saved state.

    Raises:
        ConfigError: the state does not fit (check_array, set_clock) or is not complete; nothing is changed then.
    """
    meta = meta_of(entries[META])
    lacking = [name for name in PLAIN if name not in entries]
    if lacking:
        raise ConfigError(
            f"array {array.name!r}: its saved state has no entry {lacking[0]!r}; save the model again"
        )
    ranges = {name: _ranges(_below(entries, prefix)) for name, prefix in RANGES.items()}
    set_clock([(array, meta)])
    array.cells.restore(_below(entries, CELLS))
    array.scale, array.order = np.array(entries["scale"]), np.array(entries["order"])
    array.compensation = _plain(entries["compensation"])
    array.ranges, array.backward_ranges = ranges["ranges"], ranges["backward_ranges"]
    array.gate(**{side: np.asarray(on, bool) for side, on in _below(entries, GATE).items()})
    array.restore(np.array(entries["asked"]))


def _ranges(entries: Entries) -> Ranges | None:
    return Ranges(**{field: _plain(value) for field, value in entries.items()}) if entries else None


def _plain(value: NDArray[Any]) -> Any:
    return value.item() if value.ndim == 0 else np.array(value)


# -- a whole chip --------------------------------------------------------------------------------------------------


def save(chip: Chip, path: str | Path) -> None:
    """Write a chip to one .safetensors file: arrays (also retired ones) with their wear, clock, event, seed, options, ledger.

    The file is written beside its place and renamed, so that there is the old one or the whole new one.

    Raises:
        ConfigError: the path's folder does not exist.
    """
    place = Path(path)
    if not place.parent.is_dir():
        raise ConfigError(f"save: no folder {place.parent}; make it first")
    parts: dict[str, NDArray[Any]] = {"chip": _as_bytes(_about(chip))}
    for number, array in enumerate([*chip.arrays.values(), *chip._retired.values()]):
        parts |= {f"arrays/{number}/{key}": value for key, value in array_state(array).items()}
    parts |= _ledger_entries(chip.ledger)
    handle, temporary = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.")
    os.close(handle)
    try:
        save_file(parts, temporary, metadata={"format": FORMAT})
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, place)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _about(chip: Chip) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "card_name": chip.preset.name,
        "card": card_digest(chip.preset),
        "options": {name: getattr(chip, name) for name in OPTIONS},
        "redraw_programming": chip.redraw_programming,
        "time": chip.time,
        "event": chip.event,
        "arrays": len(chip.arrays),
        "retired": len(chip._retired),
    }


def load(path: str | Path, *, preset: Preset | str | None = None, backend: str | None = None) -> Chip:
    """The chip in a file that `save` wrote: the same products, wear and later draws, bit for bit.

    The file knows arrays, not models. Its arrays go on by themselves (`chip.arrays[name].mvm`). A converted model goes on by
    its state_dict, loaded into the same model converted onto a new chip of the same card and seed, or by a pickle (torch.save), which takes
    the chip along.

    Args:
        path: the file.
        preset: the card it was made with; default: the shipped card of that name.
        backend: the arithmetic; default: the one it had.

    Raises:
        ConfigError: there is no such file, it holds no chip, or the card is another one.
    """
    entries = _read(Path(path))
    about = json.loads(entries["chip"].tobytes())
    options = {**about["options"], **({} if backend is None else {"backend": backend})}
    chip = Chip(about["card_name"] if preset is None else preset, **options)
    if card_digest(chip.preset) != about["card"]:
        raise ConfigError(
            f"load: {path} was saved from a card {about['card_name']!r} with other numbers than "
            f"{chip.preset.name!r} has here; give that card: load(path, preset=...)"
        )
    chip.time, chip.event = float(about["time"]), int(about["event"])
    chip.redraw_programming = bool(about["redraw_programming"])
    for number in range(about["arrays"] + about["retired"]):
        array = _array(chip, _below(entries, f"arrays/{number}/"))
        (chip.arrays if number < about["arrays"] else chip._retired)[array.name] = array
    chip.ledger = _ledger(entries)
    return chip


def _read(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise ConfigError(f"load: no file {path}; give a file that save(chip, path) wrote")
    try:
        entries: dict[str, NDArray[Any]] = load_file(path)
        known = json.loads(entries["chip"].tobytes()).get("format")
    except (SafetensorError, KeyError, ValueError):
        raise ConfigError(
            f"load: {path} does not hold a chip; give a file that save(chip, path) wrote"
        ) from None
    if known != FORMAT:
        raise ConfigError(f"load: {path} has the format {known!r}; this version reads {FORMAT!r}")
    return entries


def _array(chip: Chip, entries: Entries) -> ProgrammedArray:
    meta = meta_of(entries[META])
    place = meta["placement"]
    site = Site(chip, meta["layer"], meta["matrix"])
    shape = (place["outputs"], place["inputs"])
    array = chip.blank(shape, site, name=meta["name"], scale=entries["scale"])
    restore_array(array, entries)
    return array


def _below(entries: Entries, prefix: str) -> dict[str, NDArray[Any]]:
    return {key.removeprefix(prefix): value for key, value in entries.items() if key.startswith(prefix)}


# -- the ledger ----------------------------------------------------------------------------------------------------


def _ledger_entries(ledger: Ledger) -> dict[str, NDArray[Any]]:
    book = {
        "scope": [ledger.task, ledger.phase],
        **{name: [[*key, value] for key, value in getattr(ledger, name).items()] for name in BOOKS},
        "reads": [[[*key], [*state], entry.unit] for (key, state), entry in ledger.reads.items()],
    }
    parts = {"ledger": _as_bytes(book)}
    for number, entry in enumerate(ledger.reads.values()):
        parts[f"ledger/{number}/squares"] = np.array(entry.squares)
        parts[f"ledger/{number}/conductance"] = np.array(entry.conductance)
    return parts


def _ledger(entries: Entries) -> Ledger:
    book = json.loads(entries["ledger"].tobytes())
    ledger = Ledger(*book["scope"])
    for name in BOOKS:
        getattr(ledger, name).update({Key(*key): value for *key, value in book[name]})
    for number, (key, state, unit) in enumerate(book["reads"]):
        squares, conductance = (entries[f"ledger/{number}/{part}"] for part in ("squares", "conductance"))
        name, digest = state
        ledger.reads[Key(*key), (name, digest)] = ReadEnergy(squares.copy(), conductance.copy(), unit)
    return ledger


def _as_bytes(value: Any) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(value).encode(), np.uint8).copy()
