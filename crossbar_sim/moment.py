"""The moment of a read: what its mask and its draws depend on beside the cells, so that a backward pass can return to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from crossbar_sim.chip import Chip


class Moment(NamedTuple):
    """The running batch with its mask (None: every vector is real), its first sample's number, and the read event."""

    batch: Any
    first_sample: int
    event: int


def moment(chip: Chip) -> Moment:
    """The chip's present moment."""
    return Moment(chip._batch, chip._first_sample, chip.event)


def resume(chip: Chip, then: Moment) -> None:
    """Bring the chip to another moment; its clock and its cells are not touched."""
    chip._batch, chip._first_sample, chip.event = then.batch, then.first_sample, then.event


@contextmanager
def at(chip: Chip, then: Moment) -> Iterator[None]:
    """Read as at `then`; afterwards the chip is at its own moment again."""
    now = moment(chip)
    resume(chip, then)
    try:
        yield
    finally:
        resume(chip, now)


def valid_per_sample(chip: Chip, lead: tuple[int, ...]) -> NDArray[np.int64]:
    """How many vectors of each sample [samples] are real, of an input of leading shape `lead` (samples, positions, ...).

    The running batch's mask tells where it has that many samples and positions; otherwise all are real.
    """
    batch = chip._batch
    if batch is not None and lead[:2] == batch.mask.shape:
        lengths: NDArray[np.int64] = batch.lengths
        return lengths if len(lead) == 2 else lengths * prod(lead[2:])
    return np.full(lead[0] if lead else 1, prod(lead[1:]), np.int64)
