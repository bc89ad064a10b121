"""Experiments as data: TOML to frozen dataclasses, every mistake reported with its path."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cattrs
import cattrs.v

from crossbar_experiments.assets import asset
from crossbar_experiments.chips import ChipConfig, dotted
from crossbar_experiments.errors import BenchError
from crossbar_experiments.task_table import TASKS
from crossbar_kernels import NUMERICS as KERNELS_NUMERICS
from crossbar_sim.errors import CrossbarError, nearest
from lorafusion.errors import LoraFusionError
from lorafusion.methods import METHODS, Method
from lorafusion.train import Training

SCHEMA = 1
NUMERICS = 3
"""Version of the numbers a cell gives, beside that of the kernels; a golden test fails when they change without either."""


@dataclass(frozen=True)
class ModelConfig:
    """The base model: "minilm" (the pinned package) or the folder of a Hugging Face model."""

    base: str = "minilm"
    max_tokens: int = 32


@dataclass(frozen=True)
class PoolConfig:
    """The LoRA modules: a folder of PEFT adapters ("shipped": the project's own), and which of them (empty: all)."""

    folder: str = "shipped"
    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataConfig:
    """Texts per target: training, validation (choices), test."""

    train: int = 100
    validation: int = 200
    test: int = 1000
    evaluate: str = "test"

    def __post_init__(self) -> None:
        if self.evaluate not in ("test", "validation"):
            raise BenchError(f"evaluate: {self.evaluate!r} is not one of test, validation")


@dataclass(frozen=True)
class GridConfig:
    """A block of cells: every combination of these."""

    chips: tuple[str, ...]
    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Cell:
    """One run: one method on one task on one chip with one seed."""

    experiment: str
    task: str
    label: str
    method: Method
    chip_label: str
    chip: ChipConfig
    seed: int
    model: ModelConfig
    pool: PoolConfig
    data: DataConfig
    training: Training

    def description(self) -> dict[str, Any]:
        """Everything that was asked for, as plain data (cell.toml)."""
        parts = {name: asdict(getattr(self, name)) for name in ("model", "pool", "data", "training")}
        method = {"name": self.method.name, **asdict(self.method)}  # type: ignore[call-overload]
        own = {"experiment": self.experiment, "task": self.task, "label": self.label, "seed": self.seed}
        return {
            "schema": SCHEMA,
            "numerics": NUMERICS,
            "kernels": KERNELS_NUMERICS,
            **own,
            "chip_label": self.chip_label,
            "method": method,
            "chip": self.chip.description(),
            **parts,
        }

    def identity(self, digests: Mapping[str, str]) -> str:
        """The cell's id: a hash of everything that changes its answer.

        Args:
            digests: sha256 of what the description only names: base weights, pool modules, split, card.
        """
        answer = {k: v for k, v in self.description().items() if k != "experiment"}
        canonical = json.dumps([answer, dict(digests)], sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Experiment:
    """A configuration file."""

    name: str
    title: str
    baseline: str
    chips: Mapping[str, ChipConfig]
    methods: Mapping[str, Method]
    grid: tuple[GridConfig, ...]
    model: ModelConfig = field(default_factory=ModelConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: Training = field(default_factory=Training)

    def cells(self) -> list[Cell]:
        """Every cell once, chip by chip (a deployed chip serves all cells that name it)."""
        found: dict[tuple[str, str, str, int], Cell] = {}
        for block in self.grid:
            for key in _product(block):
                chip, task, label, seed = key
                found[key] = Cell(
                    self.name, task, label, self.methods[label], chip, self.chips[chip], seed,
                    self.model, self.pool, self.data, self.training,
                )  # fmt: skip
        return sorted(found.values(), key=lambda cell: list(self.chips).index(cell.chip_label))


def _product(block: GridConfig) -> Iterator[tuple[str, str, str, int]]:
    for chip in block.chips:
        for task in block.tasks:
            for seed in block.seeds:
                for label in block.methods:
                    yield chip, task, label, seed


def configs() -> list[str]:
    """Names of the configurations that come with the program."""
    return sorted(path.stem for path in asset("configs").glob("*.toml"))


def find_config(name_or_path: str) -> Path:
    """A configuration by name or path.

    Raises:
        BenchError: there is none; the nearest name is told.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml":
        if path.is_file():
            return path
        raise BenchError(f"config: no file {name_or_path!r}{nearest(path.stem, configs())}")
    if name_or_path in configs():
        return asset("configs") / f"{name_or_path}.toml"
    raise BenchError(
        f"config: {name_or_path!r} is unknown{nearest(name_or_path, configs())}; or give a .toml file"
    )


def load_experiment(path: Path) -> Experiment:
    """Read a configuration.

    Raises:
        BenchError: with every mistake and its path.
    """
    try:
        data = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise BenchError(f"{path}: cannot be read as TOML ({error})") from None
    return parse_experiment(data, origin=str(path))


def parse_experiment(data: Mapping[str, Any], *, origin: str) -> Experiment:
    """A configuration from plain data. See `load_experiment`."""
    raw = dict(data)
    problems: list[str] = []
    if raw.pop("schema", None) != SCHEMA:
        problems.append(f"schema: must be {SCHEMA}")
    raw["methods"] = _methods(raw.get("methods", {}), problems)
    experiment = None
    try:
        experiment = _converter().structure(raw, Experiment)
    except cattrs.BaseValidationError as error:
        problems.extend(_lines(error, "config"))
    if experiment is not None:
        problems.extend(_unknown_names(experiment))
    if problems or experiment is None:
        raise BenchError(f"{origin}: " + "; ".join(problems))
    return experiment


def _methods(tables: Any, problems: list[str]) -> dict[str, Method]:
    """Method configurations by label; each table names its `method`."""
    if not isinstance(tables, dict):
        problems.append("methods: must be tables, [methods.LABEL]")
        return {}
    found: dict[str, Method] = {}
    for label, table in tables.items():
        settings = dict(table) if isinstance(table, dict) else {}
        name = settings.pop("method", label)
        if name not in METHODS:
            problems.append(f"methods.{label}.method: {name!r} is unknown{nearest(str(name), METHODS)}")
            continue
        try:
            found[label] = _converter().structure(settings, METHODS[name])
        except cattrs.BaseValidationError as error:
            problems.extend(_lines(error, f"methods.{label}"))
        except LoraFusionError as error:
            problems.append(f"methods.{label}: {error}")
    return found


def _unknown_names(experiment: Experiment) -> Iterator[str]:
    known = {"chips": experiment.chips, "methods": experiment.methods, "tasks": TASKS}
    for i, block in enumerate(experiment.grid):
        for part, names in known.items():
            for name in getattr(block, part):
                if name not in names:
                    yield f"grid[{i}].{part}: {name!r} is unknown{nearest(name, names)}"
    for label, chip in experiment.chips.items():
        try:
            chip.card()
        except CrossbarError as error:
            yield f"chips.{label}.{error}"
    if experiment.methods and experiment.baseline not in experiment.methods:
        yield f"baseline: {experiment.baseline!r} is not among the methods{nearest(experiment.baseline, experiment.methods)}"


def _lines(error: cattrs.BaseValidationError, path: str) -> list[str]:
    """Every mistake of a validation error, its path first."""
    told = cattrs.transform_error(error, path=path, format_exception=_reason)
    parts = (line.rpartition(" @ ") for line in told)
    return [f"{where}: {text}" if where else text for text, _, where in parts]


def _reason(error: BaseException, kind: type | None) -> str:
    """Our own sentence where there is one; cattrs' otherwise."""
    if (
        isinstance(error, ValueError | TypeError)
        and str(error)
        and not isinstance(error, cattrs.errors.ForbiddenExtraKeysError)
    ):
        return str(error)
    return cattrs.v.format_exception(error, kind)


def _converter() -> cattrs.Converter:
    """Strict: unknown keys are errors, and a text is never taken for a number."""
    converter = cattrs.Converter(forbid_extra_keys=True)
    for kind in (str, int, bool):
        converter.register_structure_hook(kind, _exactly(kind))
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook_func(lambda kind: kind == tuple[str, ...], _names)
    converter.register_structure_hook_func(lambda kind: kind == Mapping[str, Any], _changes)
    converter.register_structure_hook_func(lambda kind: kind is Method, lambda value, _: value)
    return converter


def _exactly(kind: type[Any]) -> Any:
    def check(value: Any, _: Any) -> Any:
        if type(value) is not kind:
            raise TypeError(f"must be {kind.__name__} (got {value!r})")
        return value

    return check


def _names(value: Any, _: Any) -> tuple[str, ...]:
    """A list of names; a single text would otherwise be taken letter by letter."""
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise TypeError(f"must be a list of names (got {value!r})")
    return tuple(value)


def _changes(value: Any, _: Any) -> dict[str, Any]:
    """Changes to a card by dotted names; the card itself says which entries and kinds there are."""
    if not isinstance(value, Mapping):
        raise TypeError(f'must be a table such as {{ "mapping.copies" = 4 }} (got {value!r})')
    return dotted(value)


def _number(value: Any, _: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"must be a number (got {value!r})")
    return float(value)
