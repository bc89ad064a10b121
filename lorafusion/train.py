"""One training loop for every method."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from crossbar_sim import cost
from crossbar_sim.chip import Chip, Site
from lorafusion.errors import LoraFusionError
from lorafusion.methods.base import Adaptation

B = TypeVar("B")
"""Whatever the loss takes for a batch."""


@dataclass(frozen=True)
class Training:
    """How long and how: steps, batch size, and a linear decay of every learning rate to zero."""

    steps: int = 125
    batch: int = 16

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise LoraFusionError(f"Training.{name}: must be at least 1 (got {getattr(self, name)})")


def train(
    adaptation: Adaptation,
    batches: Iterable[B],
    loss: Callable[[nn.Module, B], Tensor],
    *,
    training: Training,
    chip: Chip | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train an attached method; Adam, linear decay, one read event per step.

    Args:
        adaptation: what trains, and on which model.
        batches: at least `training.steps` of them.
        loss: mean loss of a batch.
        training: steps and schedule.
        chip: its clock of events and its ledger; None without a chip.
        on_step: called with the step's number and loss (progress, logs).

    Returns:
        The loss of every step.

    Raises:
        LoraFusionError: the batches ran out.
    """
    if not adaptation.trainable:
        return []
    optimiser = begin(adaptation)
    decay = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1.0 - step / training.steps)
    losses: list[float] = []
    for step, batch in zip(range(training.steps), batches, strict=False):
        value = train_step(adaptation, lambda batch=batch: loss(adaptation.model, batch), optimiser, chip)  # type: ignore[misc]
        losses.append(float(value.detach()))
        decay.step()
        if on_step is not None:
            on_step(step, losses[-1])
    if len(losses) < training.steps:
        raise LoraFusionError(
            f"batches: ran out after {len(losses)} of {training.steps} steps; give more, or lower Training.steps"
        )
    end(adaptation, chip)
    return losses


def begin(adaptation: Adaptation) -> torch.optim.Optimizer:
    """Let the trained parameters take gradients, and make their optimiser."""
    for parameter in adaptation.parameters():
        parameter.requires_grad_(True)
    groups = [
        {"params": list(g.parameters), "lr": g.learning_rate, "weight_decay": g.weight_decay}
        for g in adaptation.groups
    ]
    return torch.optim.AdamW(groups)


def train_step(
    adaptation: Adaptation,
    loss: Callable[[], Tensor],
    optimiser: torch.optim.Optimizer,
    chip: Chip | None = None,
) -> Tensor:
    """One step, one read event, each part booked in its phase; the loss.

    Works on the meta device too, where it books what the step costs and computes nothing.
    """
    if chip is not None:
        chip.next_event()
    with _phase(chip, "forward"):
        value = loss()
        objective = value if adaptation.penalty is None else value + adaptation.penalty()
    with _phase(chip, "backward"):
        optimiser.zero_grad(set_to_none=True)
        objective.backward()
    with _phase(chip, "update"):
        optimiser.step()
        if chip is not None:
            Site(chip, "optimiser", "own").book(cost.optimiser_step(adaptation.trainable))
        if adaptation.after_step is not None:
            adaptation.after_step()
    return value


def end(adaptation: Adaptation, chip: Chip | None = None) -> None:
    """After the last step: switch off what the trained task does not need."""
    if adaptation.prune is not None:
        with _phase(chip, "update"):
            adaptation.prune()


def keep_state(adaptation: Adaptation, chip: Chip) -> None:
    """Book the task's state: written once into SRAM, and fetched from there when the chip comes back to the task.

    The same for every method and placement: what was trained, in words of 32 bits.
    """
    bits = cost.MASTER_BITS * adaptation.trainable
    if bits:
        Site(chip, "task state", "own").book({"sram_write_bit": bits, "sram_read_bit": bits})


def _phase(chip: Chip | None, phase: str) -> AbstractContextManager[Any]:
    return nullcontext() if chip is None else chip.ledger.scope(phase=phase)
