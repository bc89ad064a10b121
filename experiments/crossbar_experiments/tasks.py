"""The tasks' texts: which half of a data set a task sees, and their split into training, validation and test.

The texts of every data set are halved by a hash of their normalised form. Source tasks see half A only,
target tasks (their training, validation and test texts) half B only, so no text of a target is in any
source, whatever the tasks are.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from crossbar_experiments.datasets import Example, read
from crossbar_experiments.errors import BenchError
from crossbar_experiments.fetch import NotFetchedError
from crossbar_experiments.task_table import TASKS, Task
from crossbar_sim.errors import nearest

Part = Literal["train", "validation", "test"]

MAX_PER_CLASS = 600
RESERVED_PER_CLASS = 5  # kept out of validation and test, so that training texts of a rare class are left


class TaskError(BenchError, LookupError):
    """A task that does not exist, or that cannot be split as asked."""


class TaskUnavailable(TaskError):  # noqa: N818 - the name is part of the bench's interface
    """A task whose data set has to be fetched first."""


@dataclass(frozen=True)
class Split:
    """The texts of one task in three disjoint parts; `Example.label` is the readable class name."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    classes: tuple[str, ...]

    def part(self, part: Part) -> tuple[Example, ...]:
        """The examples of one part."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[part]

    def labels(self, part: Part) -> list[int]:
        """The class index of every example of one part."""
        index = {name: i for i, name in enumerate(self.classes)}
        return [index[example.label] for example in self.part(part)]

    def digest(self) -> str:
        """Sha256 over classes, texts and labels of all parts, hexadecimal."""
        parts = [[(e.text, e.label) for e in part] for part in (self.train, self.validation, self.test)]
        return hashlib.sha256(json.dumps([self.classes, parts]).encode()).hexdigest()


def task(name: str) -> Task:
    """The task of that name.

    Raises:
        TaskError: there is none; the message names the nearest.
    """
    if name not in TASKS:
        raise TaskError(f"task {name!r}: unknown{nearest(name, TASKS)}")
    return TASKS[name]


def load(name: str, *, seed: int, train: int, validation: int, test: int) -> Split:
    """Split a task's texts.

    Validation and test texts are the last and the first in the order of a hash, whatever the seed is.
    Training texts are drawn without replacement from what is left, at least one of each class. Where texts
    are short, the test set shrinks.

    Args:
        name: key in `TASKS`.
        seed: of the draw of training texts.
        train: number of training texts, at least one per class.
        validation: number of validation texts.
        test: largest number of test texts.

    Raises:
        TaskError: unknown name, a size that is negative, or too few texts for the training set.
        TaskUnavailable: the data set has to be fetched first.
    """
    chosen = task(name)
    pool = texts(name)
    classes = tuple(dict.fromkeys(chosen.classes.values()))
    if min(validation, test) < 0 or train < len(classes):
        raise TaskError(
            f"task {name!r}: train must be >= {len(classes)} (one text per class), validation and test >= 0 "
            f"(got train={train}, validation={validation}, test={test})"
        )
    reserved = _reserved(pool)
    free = [example for example in pool if example.group not in reserved]
    size = min(test, len(free) - validation, len(pool) - validation - train)
    if size < min(test, 1):
        raise TaskError(
            f"task {name!r}: train={train} and validation={validation} leave no test text of {len(pool)}; "
            "ask for fewer"
        )
    held_test, held_validation = free[:size], free[len(free) - validation :]
    held = {example.group for example in (*held_test, *held_validation)}
    left = [example for example in pool if example.group not in held]
    rng = np.random.default_rng([seed, int.from_bytes(_hash("task", name)[:8])])
    return Split(tuple(_draw(left, train, rng)), tuple(held_validation), tuple(held_test), classes)


def digest(name: str, *, seed: int, train: int, validation: int, test: int) -> str:
    """Sha256 of what `load` gives for the same arguments; part of a cell's identity."""
    return load(name, seed=seed, train=train, validation=validation, test=test).digest()


def texts(name: str) -> list[Example]:
    """All texts of a task: its half, its classes under their readable names, capped per class, in hash order.

    Raises:
        TaskError: unknown name.
        TaskUnavailable: the data set has to be fetched first.
    """
    chosen = task(name)
    try:
        examples = read(chosen.dataset)
    except NotFetchedError as error:
        raise TaskUnavailable(
            f"task {name!r} needs a data set that is not here: run 'lorafusion data fetch'"
        ) from error
    wanted = "A" if chosen.role == "source" else "B"
    mine = [e for e in examples if e.label in chosen.classes and half(e.group) == wanted]
    readable = (replace(e, label=chosen.classes[e.label]) for e in _shuffled(mine, "cap"))
    # Not the cap's order again: there capped classes crowd at the front, that is in the test set.
    return _shuffled(_first_per_class(readable, MAX_PER_CLASS), "order")


def half(group: str) -> Literal["A", "B"]:
    """The half a normalised text belongs to: the parity of the first byte of its sha256."""
    return "A" if hashlib.sha256(group.encode()).digest()[0] % 2 == 0 else "B"


def _hash(purpose: str, text: str) -> bytes:
    return hashlib.sha256(f"{purpose}:{text}".encode()).digest()


def _shuffled(examples: Iterable[Example], purpose: str) -> list[Example]:
    """The examples in an order that looks random and is the same everywhere, another one for each purpose."""
    return sorted(examples, key=lambda example: _hash(purpose, example.group))


def _first_per_class(examples: Iterable[Example], size: int) -> Iterable[Example]:
    """The first `size` examples of each class, in the order given."""
    seen: Counter[str] = Counter()
    for example in examples:
        seen[example.label] += 1
        if seen[example.label] <= size:
            yield example


def _reserved(pool: list[Example]) -> set[str]:
    """Groups that no validation or test set takes."""
    return {e.group for e in _first_per_class(_shuffled(pool, "reserve"), RESERVED_PER_CLASS)}


def _draw(left: list[Example], size: int, rng: np.random.Generator) -> list[Example]:
    """`size` examples without replacement, the first ones one of each class."""
    shuffled = [left[i] for i in rng.permutation(len(left))]
    firsts = list(_first_per_class(shuffled, 1))
    taken = {example.group for example in firsts}
    others = [example for example in shuffled if example.group not in taken]
    drawn = [*firsts, *others[: size - len(firsts)]]
    return [drawn[i] for i in rng.permutation(len(drawn))]
