"""Run folders `<root>/<experiment>/<cell-id>/`: written aside, sealed with digests, moved into place at once.

A cell is finished when its folder holds DONE and every file has the SHA-256 that DONE states. Work in
progress lives in `<cell-id>.partial-<pid>`: a killed process leaves nothing that could be taken for a result.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossbar_experiments.errors import BenchError
from crossbar_experiments.records import LEDGER, METRICS, PREDICTIONS, RecordError, Schema, read_csv, to_csv
from crossbar_sim.errors import nearest

if TYPE_CHECKING:
    import pandas as pd

SEAL = "DONE"
REQUIRED = ("cell.toml", "environment.json", "metrics.csv", "ledger.csv", "predictions.csv", "log.jsonl")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_ASIDE = re.compile(r"\.(partial|corrupt)-(\d+)")


class StoreError(BenchError):
    """A run folder cannot be named, written or read."""


@dataclass(frozen=True)
class Results:
    """All finished cells of an experiment: frames whose column `cell` holds the cell's id.

    Attributes:
        metrics: one row per cell.
        ledger: priced entries of every cell.
        predictions: one row per cell and test text.
        environments: what each cell ran on, by cell.
        chips: the settings of each cell's chip, by cell.
        rejected: folders left out, because they are unfinished or do not match their digests.
    """

    metrics: pd.DataFrame
    ledger: pd.DataFrame
    predictions: pd.DataFrame
    environments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rejected: tuple[str, ...] = ()
    chips: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def only(self, cells: Iterable[str]) -> Results:
        """The results of some cells; an experiment's folder may hold cells of an earlier configuration."""
        wanted = set(cells)

        def kept(frame: pd.DataFrame) -> pd.DataFrame:
            return frame[frame["cell"].isin(wanted)].reset_index(drop=True)

        def named(table: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
            return {cell: entry for cell, entry in table.items() if cell in wanted}

        return Results(
            kept(self.metrics),
            kept(self.ledger),
            kept(self.predictions),
            named(self.environments),
            self.rejected,
            named(self.chips),
        )

    def settings(self) -> dict[str, Mapping[str, Any]]:
        """The settings of every chip, by the chip's label; those of its first cell where seeds differ."""
        found: dict[str, Mapping[str, Any]] = {}
        for cell, chip in zip(self.metrics["cell"], self.metrics["chip"], strict=True):
            if cell in self.chips:
                found.setdefault(str(chip), self.chips[cell])
        return found


@dataclass(frozen=True)
class CellFolder:
    """The folder of a cell at work: `path` while it runs, `final` once it is finished."""

    path: Path
    final: Path

    @property
    def adapter(self) -> Path:
        """Where the trained state goes."""
        return self.path / "adapter"

    def log(self, event: str, **fields: Any) -> None:
        """Append one JSON line {"event": event, ...} to log.jsonl."""
        line = json.dumps({"event": event, **fields}, default=str)
        path = self.path / "log.jsonl"
        with _clear_errors("log.jsonl", path), path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def finish(
        self,
        metrics: Mapping[str, Any],
        ledger_rows: Sequence[Mapping[str, Any]],
        predictions: Sequence[Mapping[str, Any]],
        environment: Mapping[str, Any],
    ) -> Path:
        """Write what is left, seal the folder and move it into place; DONE is the last file written.

        Returns:
            The cell's folder. Where another process finished the same cell first, its folder stays and this
            one goes.

        Raises:
            StoreError: a row does not fit its table, or the disk refuses.
        """
        texts = {
            "metrics.csv": _csv("metrics", METRICS, [metrics]),
            "ledger.csv": _csv("ledger", LEDGER, ledger_rows),
            "predictions.csv": _csv("predictions", PREDICTIONS, predictions),
            "environment.json": json.dumps(environment, indent=2, sort_keys=True, default=str) + "\n",
        }
        with _clear_errors("finish", self.path):
            for name, text in texts.items():
                (self.path / name).write_text(text, encoding="utf-8")
            _seal(self.path)
            _move_into_place(self.path, self.final)
        return self.final

    def discard(self) -> None:
        """Remove the folder of a cell that failed."""
        shutil.rmtree(self.path, ignore_errors=True)


def begin(root: str | Path, experiment: str, cell_id: str, cell: Mapping[str, Any]) -> CellFolder:
    """A fresh folder for a cell at work, beside its final place; what dead processes left of it is removed.

    Raises:
        StoreError: a name that is no folder name, a cell that TOML cannot hold, or a disk that refuses.
    """
    import tomli_w

    final = _cell_path(root, experiment, cell_id)
    path = final.with_name(f"{cell_id}.partial-{os.getpid()}")
    try:
        text = tomli_w.dumps(dict(cell))
    except TypeError as error:
        raise StoreError(f"cell.toml: {error}; leave out what has no value") from None
    with _clear_errors("begin", path):
        final.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(final)
        (path / "adapter").mkdir(parents=True)
        (path / "cell.toml").write_text(text, encoding="utf-8")
        (path / "log.jsonl").touch()
    return CellFolder(path, final)


def done(root: str | Path, experiment: str, cell_id: str) -> bool:
    """Whether the cell is finished and none of its files has changed since."""
    return is_sealed(_cell_path(root, experiment, cell_id))


def is_sealed(folder: Path) -> bool:
    """Whether DONE is there and every file, none of the required ones missing, matches its digest."""
    try:
        digests = json.loads((folder / SEAL).read_text(encoding="utf-8"))["sha256"]
        return set(REQUIRED) <= digests.keys() and all(_sha256(folder / n) == d for n, d in digests.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def load(directory: str | Path) -> Results:
    """Every finished cell of an experiment's folder, in the order of the cell ids.

    Raises:
        StoreError: there is no such folder, or no finished cell in it.
    """
    import pandas as pd

    directory = Path(directory)
    if not directory.is_dir():
        raise StoreError(f"load: no folder {directory}{_neighbours(directory)}")
    folders = sorted(p for p in directory.iterdir() if p.is_dir() and _NAME.fullmatch(p.name))
    folders = [p for p in folders if not _ASIDE.search(p.name)]
    cells = [p for p in folders if is_sealed(p)]
    if not cells:
        raise StoreError(f"load: no finished cell in {directory}{_inside(directory)}")
    frames = {
        name: pd.concat([_frame(cell, name, schema) for cell in cells], ignore_index=True)
        for name, schema in (("metrics", METRICS), ("ledger", LEDGER), ("predictions", PREDICTIONS))
    }
    environments = {p.name: json.loads((p / "environment.json").read_text(encoding="utf-8")) for p in cells}
    chips = {p.name: tomllib.loads((p / "cell.toml").read_text("utf-8")).get("chip", {}) for p in cells}
    rejected = tuple(p.name for p in folders if p not in cells)
    return Results(**frames, environments=environments, rejected=rejected, chips=chips)


def _frame(cell: Path, name: str, schema: Schema) -> pd.DataFrame:
    try:
        frame = read_csv(cell / f"{name}.csv", schema)
    except ValueError as error:
        raise StoreError(
            f"load: {cell / name}.csv is from another version ({error}); run the cell again"
        ) from None
    frame.insert(0, "cell", cell.name)
    return frame


def _cell_path(root: str | Path, experiment: str, cell_id: str) -> Path:
    for what, name in (("experiment", experiment), ("cell", cell_id)):
        if not _NAME.fullmatch(name) or _ASIDE.search(name):
            raise StoreError(
                f"{what}: {name!r} is no folder name; use letters, digits and . _ - with no dot first "
                "and no '.partial-' or '.corrupt-' before digits"
            )
    return Path(root) / experiment / cell_id


def _neighbours(directory: Path) -> str:
    """The tail of an error about a folder that is missing."""
    found = _experiments(directory.parent)
    if not found:
        return "; run the experiment first, or give the folder of a run (runs/NAME)"
    return nearest(directory.name, (path.name for path in found))


def _inside(directory: Path) -> str:
    """The tail of an error about a folder without finished cells."""
    found = _experiments(directory)
    if not found:
        return "; run the experiment first"
    return f"; give one of the folders in it: {', '.join(map(str, found))}"


def _experiments(root: Path) -> list[Path]:
    """Folders in `root` that hold sealed cells, hence are ours; none where it cannot be read."""
    try:
        return sorted(path for path in root.iterdir() if path.is_dir() and _holds_cells(path))
    except OSError:
        return []


def _holds_cells(folder: Path) -> bool:
    """Whether any cell here is sealed; digests are not checked."""
    try:
        return any((cell / SEAL).is_file() for cell in folder.iterdir())
    except OSError:  # another user's folder
        return False


def _csv(table: str, schema: Schema, rows: Iterable[Mapping[str, Any]]) -> str:
    try:
        return to_csv(schema, rows)
    except RecordError as error:
        raise StoreError(f"{table}.{error}") from None


def _remove_stale(final: Path) -> None:
    """Remove partial folders of this cell whose process is dead, and any that this process left before."""
    for path in final.parent.glob(f"{final.name}.partial-*"):
        pid = path.name.rpartition("-")[2]
        if pid.isdecimal() and (int(pid) == os.getpid() or not _alive(int(pid))):
            shutil.rmtree(path)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _seal(folder: Path) -> None:
    """Bring every file to the disk, then write DONE with their digests."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    for path in files:
        _fsync(path)
    digests = {path.relative_to(folder).as_posix(): _sha256(path) for path in files}
    (folder / SEAL).write_text(json.dumps({"sha256": digests}, indent=2) + "\n", encoding="utf-8")
    _fsync(folder / SEAL)
    _fsync(folder)


def _move_into_place(path: Path, final: Path) -> None:
    """Rename onto a free place; a finished cell there wins, a broken one is set aside and kept."""
    while True:
        try:
            path.rename(final)
            break
        except OSError:
            if not final.exists():
                raise
        if is_sealed(final):
            shutil.rmtree(path)
            break
        with suppress(FileNotFoundError):  # another process has just set it aside
            _set_aside(final)
    _fsync(final.parent)


def _set_aside(final: Path) -> None:
    taken = {p.name for p in final.parent.glob(f"{final.name}.corrupt-*")}
    number = next(n for n in range(len(taken) + 1) if f"{final.name}.corrupt-{n}" not in taken)
    final.rename(final.with_name(f"{final.name}.corrupt-{number}"))


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _clear_errors(field: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        where = error.filename or path
        remedy = "free space, or choose a results folder that can be written"
        raise StoreError(f"{field}: cannot write {where} ({reason}); {remedy}") from None
