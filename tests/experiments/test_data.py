"""The vendored data sets, the script that makes them, and the readers."""

from __future__ import annotations

import hashlib
import importlib.util
import lzma
import re
from pathlib import Path
from types import ModuleType

import pytest

from crossbar_experiments import assets
from crossbar_experiments.assets import asset
from crossbar_experiments.datasets import Example, distinct, normalised, read
from crossbar_experiments.errors import BenchError

DATA = Path(__file__).parents[2] / "experiments" / "data"
TABLES = ("debtags", "wordnet")

PACKAGES = """\
Package: zeta
Section: games
Description: A board
 game
Tag: use::gameplaying, role::program,
 game::board

Package: alpha
Section: net
Description: An untagged package

Package: beta
Section: net
Tag: role::program
Description: A client
"""

LICENCE_LINE = "  1 This software and database is being provided to you\n"
SYNSET = "{offset} {lexname} {kind} 01 word 0 000 | {gloss}  \n"


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("vendored_data_build", DATA / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_files_are_the_ones_the_readme_describes_and_small() -> None:
    readme = (DATA / "README.md").read_text()
    for name in TABLES:
        packed = (DATA / f"{name}.tsv.xz").read_bytes()
        rows = lzma.decompress(packed).decode().count("\n") - 1
        columns = lzma.decompress(packed).decode().split("\n", 1)[0].replace("\t", ", ")
        digest = hashlib.sha256(packed).hexdigest()
        assert f"| `{name}.tsv.xz` | {columns} | {rows} | {len(packed)} | `{digest}` |" in readme
    assert sum((DATA / f"{name}.tsv.xz").stat().st_size for name in TABLES) < 1_500_000


def test_wordnet_carries_its_notice() -> None:
    notice = (DATA / "LICENSE.wordnet.txt").read_text()
    assert "WordNet 3.1 Copyright 2011 by Princeton University.  All rights reserved." in notice
    assert 'PROVIDED "AS IS"' in notice
    assert "shall at all times remain with" in notice


def test_build_keeps_tagged_packages_sorted(build: ModuleType) -> None:
    assert build.debtags_rows(PACKAGES) == [
        ("beta", "net", "role::program", "A client"),
        ("zeta", "games", "game::board role::program use::gameplaying", "A board game"),
    ]


@pytest.mark.parametrize(
    ("raw", "gloss"),
    [
        ('move fast; "run!"; "she ran"', "move fast"),
        ('away from: "he went off"', "away from"),
        ("a moth; red and black  ", "a moth; red and black"),
        ("the letter `a'", "the letter `a'"),
    ],
)
def test_glosses_lose_their_usage_examples(build: ModuleType, raw: str, gloss: str) -> None:
    assert build.gloss_of(raw) == gloss


def test_build_reads_synsets_and_limits_each_class(build: ModuleType, tmp_path: Path) -> None:
    for name in build.FILES.values():
        (tmp_path / name).write_text(LICENCE_LINE)
    verbs = [
        SYNSET.format(offset=f"{i:08d}", lexname=38, kind="v", gloss=f'go {i}; "go!"') for i in range(705)
    ]
    (tmp_path / "data.verb").write_text(LICENCE_LINE + "".join(verbs))
    (tmp_path / "data.adj").write_text(SYNSET.format(offset="00000007", lexname="00", kind="s", gloss="red"))
    rows = build.wordnet_rows(tmp_path)
    assert len(rows) == 701
    assert rows == sorted(rows)
    assert ("00000007-s", "adjective", "adj.all", "red") in rows
    number = int(rows[-1][0][:8])
    assert rows[-1] == (f"{number:08d}-v", "verb", "verb.motion", f"go {number}")


def test_build_writes_the_same_bytes_again(build: ModuleType, tmp_path: Path) -> None:
    for name in ("one", "two"):
        build.write(tmp_path / name, ("a", "b"), [("1", "ä"), ("2", "c")])
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert lzma.decompress((tmp_path / "one").read_bytes()).decode() == "a\tb\n1\tä\n2\tc\n"


def test_texts_differing_in_case_or_punctuation_are_one() -> None:
    assert normalised("  C-Library,\tfor_X11! ") == "c library for x11"
    assert normalised("ﬁle") == "file"


def test_duplicates_are_kept_once_and_contradictions_dropped() -> None:
    pairs = [
        ("An  editor", "a"),
        ("an editor", "a"),
        ("Game!", "a"),
        ("game", "b"),
        ("??", "a"),
        ("Bee", "b"),
    ]
    assert distinct(pairs) == [Example("An  editor", "a", "an editor"), Example("Bee", "b", "bee")]
    assert distinct(reversed(pairs)) == distinct(pairs)


def test_only_packages_with_one_tag_of_a_facet_count() -> None:
    table = lzma.decompress((DATA / "debtags.tsv.xz").read_bytes()).decode().splitlines()[1:]
    tags_of: dict[str, list[set[str]]] = {}
    for line in table:
        _, _, tags, synopsis = line.split("\t")
        tags_of.setdefault(normalised(synopsis), []).append(
            {t for t in tags.split() if t.startswith("use::")}
        )
    examples = read("debtags:use")
    assert len(examples) > 3000
    for example in examples:
        single = [tags for tags in tags_of[example.group] if len(tags) == 1]
        assert single
        assert all(tags == {example.label} for tags in single)


def test_wordnet_glosses_can_be_told_by_supersense_or_part_of_speech() -> None:
    by_pos = {example.group: example.label for example in read("wordnet:pos")}
    shared = [example for example in read("wordnet:lexname") if example.group in by_pos]
    assert len(shared) > 20_000
    for example in shared:
        prefix = example.label.split(".")[0]
        assert by_pos[example.group].startswith(re.sub("^adv$", "adverb", prefix))


def test_an_unknown_collection_is_named() -> None:
    with pytest.raises(BenchError, match="did you mean 'wordnet'"):
        read("wordnett:pos")


def test_assets_of_a_wheel_come_before_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "package"
    (tmp_path / "data").mkdir()
    package.mkdir()
    monkeypatch.setattr(assets, "files", lambda name: package)
    assert asset("data") == tmp_path / "data"
    (package / "_assets" / "data").mkdir(parents=True)
    assert asset("data") == package / "_assets" / "data"
    with pytest.raises(FileNotFoundError, match="asset 'pool': found neither"):
        asset("pool")
