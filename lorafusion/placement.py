"""Where trained matrices live: SRAM, arrays written once per task, or arrays rewritten at every step; alike for all methods.

A matrix has a *master*, the digital copy that the optimiser moves. In SRAM the master is what multiplies. Written once, it
is what multiplies until training is over; then cells take its place. Rewritten at every step, cells multiply from the
start and follow the master (docs/definitions.md, "LoRA on ReRAM at every step").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crossbar_sim.array import ProgrammedArray
from crossbar_sim.cost import MASTER_BITS
from crossbar_sim.errors import nearest
from crossbar_sim.layers import CrossbarProduct, DigitalProduct
from crossbar_sim.periphery import Ranges
from lorafusion.errors import LoraFusionError
from lorafusion.methods.base import Adaptation, Context

Array = NDArray[np.float64]
Trained = CrossbarProduct | DigitalProduct
"""What multiplies with a trained matrix."""
PLACEMENTS = ("sram", "reram_once", "reram_every_step", "reram_every_step_dense")
EVERY_STEP = ("reram_every_step", "reram_every_step_dense")
"""Cells whose target level changed are rewritten after every step; `_dense`: every cell is verified and brought to its target."""
HEADROOM = 2.0
"""A column scale that nothing but the start gives leaves room to grow, as its first doubling would: else step 1 doubles it."""

ROOM = 4.0
"""What is calibrated at such a start is widened by, two bits of the converters: sums of weights that learn grow by more than the weights."""
GROWING = {"A": (1.0, ROOM), "B": (ROOM, ROOM)}
"""Of the inputs and of the sums (ProgrammedArray.room), by matrix: what drives A is the model's, what drives B comes from A."""


@dataclass(frozen=True)
class Reference:
    """What is known, before training, of a matrix that trains on cells.

    Attributes:
        reach: largest weights that its kind took so far, one number or one per output [m]; None: nothing is known.
        ranges: converter ranges; None: they come from a calibration after the method is attached.
    """

    reach: Array | float | None = None
    ranges: Ranges | None = None


@dataclass(frozen=True)
class Slot:
    """A trained matrix's product: attribute `attribute` of `owner`; its address in the ledger and its array's name."""

    owner: nn.Module
    attribute: str
    layer: str
    matrix: str
    name: str

    @property
    def product(self) -> Trained:
        """What multiplies now."""
        product = getattr(self.owner, self.attribute)
        assert isinstance(product, CrossbarProduct | DigitalProduct)  # Placing made it
        return product


def check_placement(method: str, placement: str) -> None:
    """Refuse a placement that does not exist.

    Raises:
        LoraFusionError: no such placement; the nearest is told.
    """
    if placement not in PLACEMENTS:
        raise LoraFusionError(f"{method}.placement: {placement!r} is unknown{nearest(placement, PLACEMENTS)}")


@dataclass
class Placing:
    """The trained matrices of one method that is being attached, all in the same placement.

    `product` gives what multiplies with a master, `seat` says which layer holds it, and `finish` hangs the writing onto
    the adaptation's steps. Arrays are named `<layer>.<family>.<matrix>`.

    Attributes:
        family: the method's name in the names of its arrays and in errors.
        placement: one of PLACEMENTS.
        context: where the method is attached.
        arrays: what the task has written so far, shared with the adaptation.

    Raises:
        LoraFusionError: arrays are asked for, and there is no chip.
    """

    family: str
    placement: str
    context: Context
    slots: list[Slot] = field(default_factory=list)
    arrays: list[ProgrammedArray] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.placement != "sram" and self.context.chip is None:
            raise LoraFusionError(
                f"{self.family}.placement: {self.placement!r} needs a chip; use 'sram' without one"
            )

    @property
    def every_step(self) -> bool:
        """Whether cells follow the masters during training."""
        return self.placement in EVERY_STEP

    def product(
        self, layer: str, matrix: str, master: nn.Parameter, reference: Callable[[], Reference]
    ) -> Trained:
        """What multiplies with a master [out, in] during training; `reference` is asked only for a matrix that trains on cells."""
        if not self.every_step:
            return DigitalProduct(master, site=self.context.site(layer, matrix))
        known = reference()
        values = numbers(master)
        scale = None if master.is_meta else column_scale(values, known.reach)
        array = self._program(layer, matrix, values, scale=scale, ranges=known.ranges)
        array.room = GROWING.get(matrix, array.room)
        return CrossbarProduct(array, master=master)

    def seat(self, owner: nn.Module, layer: str, **attributes: str) -> None:
        """Say that the attributes of `owner` hold the products of these matrices of `layer` (a="A")."""
        for attribute, matrix in attributes.items():
            self.slots.append(Slot(owner, attribute, layer, matrix, self._name(layer, matrix)))

    def finish(self, adaptation: Adaptation) -> None:
        """Write when the placement says so: after every step, or after the training."""
        adaptation.arrays = self.arrays
        if self.every_step:
            sparse = self.placement == "reram_every_step"
            adaptation.after_step = lambda: rewrite(
                (slot.product for slot in self.slots), changed_only=sparse
            )
        if self.placement == "reram_once":
            adaptation.after_training = self.write

    def write(self) -> None:
        """Write the trained matrices onto arrays; their converters have no ranges until Chip.calibrate."""
        for slot in self.slots:
            product = slot.product
            if isinstance(product, DigitalProduct):
                array = self._program(slot.layer, slot.matrix, numbers(product.weight))
                setattr(slot.owner, slot.attribute, CrossbarProduct(array))

    def _name(self, layer: str, matrix: str) -> str:
        return f"{layer}.{self.family}.{matrix}"

    def _program(self, layer: str, matrix: str, values: Any, **known: Any) -> ProgrammedArray:
        assert self.context.chip is not None  # __post_init__ looked
        name = self._name(layer, matrix)
        array = self.context.chip.program(values, name=name, layer=layer, matrix=matrix, **known)
        self.arrays.append(array)
        return array


def numbers(master: Tensor) -> Any:
    """A matrix as what programming takes: float64 numbers, or itself on the meta device, where only its shape is known."""
    held = master.detach()
    return held if held.is_meta else held.double().cpu().numpy()


def column_scale(values: Array, reach: Array | float | None) -> Array:
    """Weight that stands for full-scale conductance, per output [m], of a matrix that will train on its cells.

    The reach of its kind where that exceeds what the start [m, n] needs, else HEADROOM times the start's (an output
    that starts at 0: the whole matrix's).

    Args:
        values: the start.
        reach: see Reference.
    """
    start = np.abs(values).max(axis=1)
    own = np.where(start > 0, start, float(start.max()) or 1.0)
    known = np.broadcast_to(np.float64(0.0) if reach is None else reach, start.shape)
    return np.where(known > start, known, HEADROOM * own)


def pool_reference(method: str, context: Context, layer: str, matrix: str) -> Reference:
    """Column scale and converter ranges of the pool's stack of the same kind: A's for an A, B's for a B.

    Raises:
        LoraFusionError: there is no pool on the chip to take them from.
    """
    pool = (context.pool or {}).get(layer)
    if pool is None or layer not in context.pool_weights:
        raise LoraFusionError(
            f"{method}.placement: matrices that train on cells take their column scales and converter ranges from a pool; "
            "give Context.pool and Context.pool_weights"
        )
    product = pool.a if matrix == "A" else pool.b
    stack = context.pool_weights[layer][0 if matrix == "A" else 1]
    ranges = product.array.ranges if isinstance(product, CrossbarProduct) else None
    return Reference(None if stack.is_meta else float(stack.abs().max()), ranges)


@torch.no_grad()
def rewrite(products: Iterable[nn.Module], *, changed_only: bool = True) -> None:
    """Bring the cells to the masters, by published pulse statistics; an outgrown column scale is doubled first.

    Args:
        products: products on arrays, each with a master.
        changed_only: leave cells alone whose target level stays, instead of verifying them too.
    """
    for product in products:
        assert isinstance(product, CrossbarProduct)
        assert product.master is not None
        array, values = product.array, numbers(product.master)
        if not product.master.is_meta:
            reach = np.abs(values).max(axis=1)
            while (reach > array.scale).any():
                array.scale = array.scale * 2
        array.site.book({"sram_read_bit": MASTER_BITS * product.master.numel()})
        array.reprogram(values, statistical=True, changed_only=changed_only)
