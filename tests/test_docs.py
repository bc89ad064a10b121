"""The pages that are the law name what is there, and nothing that a newcomer cannot find."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAW = ("docs/design.md", "docs/definitions.md", "kernels/README.md", "CONTRIBUTING.md")
ROOMS = (
    "kernels/crossbar_kernels",
    "crossbar_sim",
    "lorafusion",
    "lorafusion/methods",
    "experiments/crossbar_experiments",
)


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def modules(room: str) -> set[str]:
    return {path.name for path in (ROOT / room).glob("*.py")} - {"__init__.py"}


def listed(room: str) -> str:
    """What docs/design.md lists under the room's folder."""
    block = page("docs/design.md").split("```")[3]
    parts = re.split(r"^(\w+)/ ", block, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))[room.partition("/")[0]]


@pytest.mark.parametrize("room", ROOMS)
def test_design_lists_every_file_of_a_room(room: str) -> None:
    assert modules(room) <= set(re.findall(r"\w+\.py\b", listed(room)))


@pytest.mark.parametrize("room", ROOMS)
def test_files_of_design_that_are_not_there_are_planned(room: str) -> None:
    there = {path.name for path in (ROOT / room.partition("/")[0]).rglob("*.py")}
    present, planned = (
        {name for part in parts for name in re.findall(r"\w+\.py\b", part)}
        for parts in (re.split(r"planned: .*", listed(room)), re.findall(r"planned: .*", listed(room)))
    )
    assert present <= there
    assert not planned & there


def test_the_kernels_page_lists_every_file() -> None:
    assert modules("kernels/crossbar_kernels") <= set(re.findall(r"`(\w+\.py)`", page("kernels/README.md")))


def test_methods_are_named_and_those_that_are_not_there_are_planned() -> None:
    from lorafusion.methods import METHODS

    found = re.search(r"Names: (.*?) \(and .*?planned methods: (.*?)\.\n", page("docs/design.md"), re.DOTALL)
    assert found is not None
    there, planned = (set(part.split()) for part in found.groups())
    assert there == set(METHODS)
    assert not planned & set(METHODS)


def test_commands_are_named_and_those_that_are_not_there_are_planned() -> None:
    from crossbar_experiments import cli

    text = page("docs/design.md")
    there, _, planned = text[text.index("Command line `lorafusion`") :].partition("Planned: ")
    planned = planned.partition("`--help`")[0]
    groups = {str(group.name): group.typer_instance for group in cli.app.registered_groups}
    called = {command.callback.__name__ for command in cli.app.registered_commands if command.callback}
    assert {word.split()[0] for word in re.findall(r"`([a-z][^`]*)`", there)} - {
        "lorafusion"
    } == called | set(groups)
    assert {command.name for command in groups["presets"].registered_commands} == set(
        there.split("`presets ")[1].split("`")[0].split("|")
    )
    assert not {word.split()[0] for word in re.findall(r"`([a-z][^`]*)`", planned)} & called


@pytest.mark.parametrize("name", LAW)
def test_no_page_points_to_what_is_not_in_the_repository(name: str) -> None:
    text = page(name)
    assert not re.search(r"facts/|seeds/|DEFINITIONS|DESIGN\.md|\bthe issues?\b", text)
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((ROOT / name).parent / link).exists(), link
