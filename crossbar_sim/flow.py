"""How vectors reach a product and come back: padding left out, on the host or on a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels import Kernels
from crossbar_sim.errors import ConfigError, MappingError
from crossbar_sim.periphery import finite

if TYPE_CHECKING:
    from crossbar_sim.array import ProgrammedArray

Vectors = NDArray[np.floating[Any]]
Rows = NDArray[np.uint32]


def through(
    array: ProgrammedArray,
    x: Any,
    shape: tuple[int, int],
    product: Callable[[Vectors, Rows, Kernels], NDArray[Any]],
) -> NDArray[Any]:
    """Apply a product of `shape` (results, inputs) to the real vectors of x [..., inputs]; 0 for the others.

    The result lies where x does; in between vectors are arrays of the array's kernels, which the product is given. Values on a device are not looked at.

    Raises:
        MappingError: the vectors have another length, or host arrays hold values that are not finite.
        ConfigError: a tensor on the meta device, which has no values.
    """
    if getattr(x, "is_meta", False):
        raise ConfigError(
            f"array {array.name!r}: a tensor on the meta device has no values to multiply; program the model on a PlannedChip"
        )
    home, kernels, (width, expected) = array.chip.kernels, array.kernels, shape
    vectors = kernels.asarray(x if kernels is home else home.to_host(x))
    if vectors.ndim < 1 or vectors.shape[-1] != expected:
        raise MappingError(
            f"array {array.name!r}: takes vectors of {expected} numbers (got shape {vectors.shape})"
        )
    lead = vectors.shape[:-1]
    flat = vectors.reshape(-1, expected)
    index, rows = array.chip.samples(lead, kernels)
    real = flat if index is None else kernels.take(flat, index)
    y = product(finite(real, array.name) if isinstance(real, np.ndarray) else real, rows, kernels)
    full = y if index is None else kernels.put(y, index, len(flat))
    result: NDArray[Any] = home.like(full.reshape(*lead, width), x)
    return result
