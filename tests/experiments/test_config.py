"""Configurations: strict, every mistake at once, and an identity that knows what changes an answer."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from crossbar_experiments.config import (
    Cell,
    ChipConfig,
    DataConfig,
    Experiment,
    ModelConfig,
    PoolConfig,
    configs,
    find_config,
    load_experiment,
    parse_experiment,
)
from crossbar_experiments.errors import BenchError
from crossbar_experiments.task_table import TASKS
from lorafusion.methods.fusion import FusionConfig
from lorafusion.train import Training


def plain() -> dict[str, Any]:
    return {
        "schema": 1,
        "name": "x",
        "title": "t",
        "baseline": "lora",
        "chips": {"ideal": {"preset": "ideal"}},
        "methods": {"lora": {"rank": 4}, "ours": {"method": "fusion", "merge": "product_of_sums"}},
        "grid": [{"chips": ["ideal"], "methods": ["lora", "ours"], "tasks": ["deb-use"], "seeds": [0, 1]}],
    }


def parse(data: dict[str, Any]) -> Experiment:
    return parse_experiment(data, origin="test.toml")


@pytest.mark.parametrize("name", configs())
def test_shipped_configurations_are_valid(name: str) -> None:
    experiment = load_experiment(find_config(name))
    assert experiment.cells()
    assert {cell.task for cell in experiment.cells()} <= {n for n, t in TASKS.items() if t.role == "target"}


def test_grid_becomes_cells_once_each() -> None:
    data = plain()
    data["grid"].append(dict(data["grid"][0]))
    cells = parse(data).cells()
    assert len(cells) == 4
    assert {(c.label, c.seed) for c in cells} == {("lora", 0), ("lora", 1), ("ours", 0), ("ours", 1)}
    assert cells[-1].method == FusionConfig(merge="product_of_sums")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema": 2}, "schema: must be 1"),
        ({"titel": "t"}, "titel"),
        ({"chips": {"ideal": {"preset": "idael"}}}, "did you mean 'ideal'"),
        ({"chips": {"ideal": {"preset": "ideal", "gird": "exact"}}}, "gird"),
        ({"chips": {"ideal": {"preset": "ideal", "grid": "int16"}}}, "int15"),
        ({"methods": {"lora": {"method": "lroa"}}}, "did you mean 'lora'"),
        ({"methods": {"lora": {"rnak": 4}}}, "rnak"),
        ({"methods": {"lora": {"rank": "4"}}}, "must be int"),
        ({"methods": {"lora": {"placement": "flash"}}}, "reram_once"),
        ({"baseline": "lor"}, "did you mean 'lora'"),
        (
            {"grid": [{"chips": ["ideal"], "methods": ["lora"], "tasks": ["deb-us"]}]},
            "did you mean 'deb-use'",
        ),
        ({"data": {"train": 10.5}}, "must be int"),
    ],
)
def test_mistakes_are_told_with_their_path(change: dict[str, Any], told: str) -> None:
    with pytest.raises(BenchError, match=r"test\.toml") as caught:
        parse(plain() | change)
    assert told in str(caught.value)


def test_all_mistakes_are_told_at_once() -> None:
    data = plain() | {"schema": 9, "methods": {"lora": {"rnak": 1}, "ours": {"method": "fusoin"}}, "extra": 1}
    with pytest.raises(BenchError) as caught:
        parse(data)
    for part in ("schema", "rnak", "fusoin", "extra"):
        assert part in str(caught.value)


def test_missing_and_unknown_files_are_clear() -> None:
    with pytest.raises(BenchError, match="did you mean 'demo'"):
        find_config("dmo")
    with pytest.raises(BenchError, match=r"no file 'nowhere\.toml'.*have: ablation, demo,"):
        find_config("nowhere.toml")
    with pytest.raises(BenchError, match=r"no file '/none/demo\.toml'; did you mean 'demo'"):
        find_config("/none/demo.toml")


def cell(**changes: Any) -> Cell:
    base = Cell(
        "x", "deb-use", "ours", FusionConfig(), "ideal", ChipConfig(), 0,
        ModelConfig(), PoolConfig(), DataConfig(), Training(),
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def test_identity_changes_with_everything_that_changes_the_answer() -> None:
    digests = {"base": "a", "card": "b", "split": "c"}
    variants = [
        cell(),
        cell(task="wn-pos"),
        cell(seed=1),
        cell(method=FusionConfig(merge="product_of_sums")),
        cell(chip=ChipConfig(seed=1)),
        cell(chip=ChipConfig(grid="int8")),
        cell(chip=ChipConfig(age=1.0)),
        cell(training=Training(steps=3)),
        cell(data=DataConfig(train=50)),
    ]
    identities = {variant.identity(digests) for variant in variants}
    assert len(identities) == len(variants)
    for name in digests:
        assert cell().identity(digests | {name: "other"}) not in identities


def test_identity_does_not_change_with_the_experiment_that_asks() -> None:
    assert cell().identity({}) == cell(experiment="y").identity({})
