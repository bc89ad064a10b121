"""What every method gives the training loop, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from crossbar_sim.array import ProgrammedArray
from crossbar_sim.chip import Chip, Site
from crossbar_sim.conversion import get_layer, set_layer
from crossbar_sim.layers import CrossbarProduct, split
from crossbar_sim.plan import PlannedChip
from lorafusion.layers import AdapterPool


@dataclass(frozen=True)
class Context:
    """Where a method is attached: the adapted layers, the chip and the pool (both optional), and the seed's generator."""

    layers: tuple[str, ...]
    generator: torch.Generator
    chip: Chip | None = None
    pool: Mapping[str, AdapterPool] | None = None
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    """Base weights [out, in] by layer as they were before deployment; default: what the layers were asked to hold."""
    pool_weights: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Nominal stacks (A [N r, in], B [out, N r]) by layer, for the DoRA norm and for column scales."""

    def site(self, layer: str, matrix: str) -> Site | None:
        """The ledger's address of a matrix of a layer, on a chip."""
        return None if self.chip is None else Site(self.chip, layer, matrix)


@dataclass(frozen=True)
class ParameterGroup:
    """Trained parameters that share a learning rate."""

    name: str
    parameters: tuple[nn.Parameter, ...]
    learning_rate: float
    weight_decay: float = 0.0

    @property
    def count(self) -> int:
        """Number of scalars."""
        return sum(p.numel() for p in self.parameters)


@dataclass
class Adaptation:
    """A method attached to a model."""

    model: nn.Module
    groups: tuple[ParameterGroup, ...] = ()
    penalty: Callable[[], Tensor] | None = None
    after_step: Callable[[], None] | None = None
    after_training: Callable[[], None] | None = None
    """Writes what was trained onto arrays, once; they need calibration then."""
    prune: Callable[[], None] | None = None
    """Called once after the last step (lorafusion.train): switches off what the trained task does not need."""
    restore: Callable[[], None] | None = None
    """Takes back what attaching and training changed beside the layers."""
    modules_active: float | None = None
    """Modules of the pool that are read, on average over the layers; None: all that there are."""
    digital_words: int = 0
    """Words of digital state beside the trained parameters (the Gram form of a DoRA norm)."""
    replaced: dict[str, nn.Module] = field(default_factory=dict)
    arrays: list[ProgrammedArray] = field(default_factory=list)
    """Arrays whose cells the training of this task writes (lorafusion.placement); what a chip holds for all tasks is not among them."""

    @property
    def trainable(self) -> int:
        """Number of trained scalars."""
        return sum(group.count for group in self.groups)

    def parameters(self) -> Iterable[nn.Parameter]:
        """All trained parameters."""
        for group in self.groups:
            yield from group.parameters

    def state(self) -> dict[str, Tensor]:
        """The task's state, by group: what a chip must store to come back to the task."""
        return {f"{g.name}.{i}": p.detach().clone() for g in self.groups for i, p in enumerate(g.parameters)}

    def install(self, name: str, layer: nn.Module) -> None:
        """Put `layer` where the model's layer `name` was, and remember the old one."""
        self.replaced.setdefault(name, get_layer(self.model, name))
        set_layer(self.model, name, layer)

    def detach(self) -> None:
        """Give the model its own layers back, and the chip the task's tiles: the next task's arrays of these names get the same cells."""
        for name, layer in self.replaced.items():
            set_layer(self.model, name, layer)
        self.replaced.clear()
        for array in self.arrays:
            if array.chip.arrays.get(array.name) is array:
                array.chip.retire(array.name)
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        if self.restore is not None:
            self.restore()


@runtime_checkable
class Method(Protocol):
    """A method is a frozen dataclass of its settings that can attach itself to a model."""

    name: ClassVar[str]
    needs_pool: ClassVar[bool]

    def attach(self, model: nn.Module, context: Context) -> Adaptation:
        """Install the method's layers and say what is trained."""
        ...


def freeze(model: nn.Module) -> None:
    """No parameter of the model trains unless a method says so."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)


def nominal_weight(layer: nn.Module) -> Tensor:
    """The weights [out, in] that a layer was asked to hold."""
    product, _ = split(layer)
    if isinstance(product, CrossbarProduct):
        asked: Any = product.array.target_weights()
        return (asked if isinstance(asked, Tensor) else torch.from_numpy(asked)).float()
    return product.get_parameter("weight").detach()


def shape(layer: nn.Module) -> tuple[int, int]:
    """Outputs and inputs of a linear layer, in whatever it is wrapped."""
    product, _ = split(layer)
    return product.out_features, product.in_features


def like_weight(layer: nn.Module, context: Context) -> Tensor:
    """An empty tensor of the type and on the device that new matrices beside a layer take."""
    like = next(layer.parameters(), None)
    if like is not None:
        return like.detach().new_empty(0)
    return torch.empty(0, device="meta" if isinstance(context.chip, PlannedChip) else "cpu")
