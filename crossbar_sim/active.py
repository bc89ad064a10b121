"""Which outputs and inputs of a placed matrix take part in products; the others are switched off."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels import Kernels
from crossbar_sim import mapping
from crossbar_sim.errors import ConfigError
from crossbar_sim.mapping import Placement

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)  # compared by identity: a new gate is a new state of the array
class Active:
    """Outputs [m] and inputs [n] that take part.

    An output that is off is neither sampled nor converted in a forward product and not driven in a transposed one; an input that is off is not
    driven forward and not converted transposed. The cells of either carry no current. Made by `active`.
    """

    outputs: Mask
    inputs: Mask

    def within(self, layout: Placement) -> Placement:
        """What is left of a placement: the outputs and inputs that are on, and the tiles that are touched.

        A tile is touched when one of its inputs and one of its outputs are on. `rows_per_tile` and `cols_per_tile` stay those of the whole.
        """
        rows, cols = np.flatnonzero(self.inputs), np.flatnonzero(self.outputs)
        if not (rows.size and cols.size):
            return replace(layout, outputs=0, inputs=0, row_tiles=0, col_tiles=0)
        return replace(
            layout,
            outputs=int(cols.size),
            inputs=int(rows.size),
            row_tiles=int(np.unique(rows // layout.rows_per_tile).size),
            col_tiles=int(np.unique(cols // layout.cols_per_tile).size),
        )

    def busiest(self, layout: Placement, columns_per_adc: int, *, transposed: bool) -> int:
        """The most lines that one ADC converts: each serves `columns_per_adc` neighbouring lines of a tile, a unit column is the last."""
        on, per_tile = (
            (self.inputs, layout.rows_per_tile) if transposed else (self.outputs, layout.cols_per_tile)
        )
        tile, line = np.divmod(np.flatnonzero(on), per_tile)
        if layout.unit and not transposed:
            touched = np.unique(tile)
            tile, line = np.append(tile, touched), np.append(line, np.full(touched.size, per_tile))
        return int(np.unique(tile * (per_tile + 1) + line // columns_per_adc, return_counts=True)[1].max())

    def driven(self, *, transposed: bool) -> Mask:
        """Which elements of a vector are driven."""
        return self.outputs if transposed else self.inputs

    def sensed(self, *, transposed: bool) -> Mask:
        """Which results are converted."""
        return self.inputs if transposed else self.outputs

    def weights(self, weights: Array) -> Array:
        """Weights [m, n] with zeros where an output or an input is off."""
        return weights * np.outer(self.outputs, self.inputs)

    def cells(self, cells: Array, layout: Placement, order: NDArray[np.intp]) -> Array:
        """Conductances [tile, slice, sign, copy, rows, cols] with zeros, open cells, where they carry no current.

        A unit column is on in the tiles that are touched, in the rows that are.
        """
        return cells * mapping.used(layout, order, np.outer(self.outputs, self.inputs))


def active(layout: Placement, outputs: Any = None, inputs: Any = None) -> Active | None:
    """The gate of a placement from masks of truth values [m] and [n]; None stands for all, as the result does.

    Where all outputs or all inputs are off, nothing takes part: then both are, wholly.

    Raises:
        ConfigError: a mask has another shape, or holds something else than truth values.
    """
    both = []
    for name, mask, size in (("outputs", outputs, layout.outputs), ("inputs", inputs, layout.inputs)):
        on = np.ones(size, bool) if mask is None else np.array(mask)
        if on.shape != (size,) or on.dtype != np.bool_:
            raise ConfigError(
                f"gate.{name}: must hold one truth value for each of {size} {name} (got shape {on.shape} of {on.dtype})"
            )
        both.append(on)
    if all(on.all() for on in both):
        return None
    return Active(*(on & all(each.any() for each in both) for on in both))


class Zeros:
    """Exact zeros in vectors where a mask says no; the mask lies where the kernels compute, brought there once."""

    def __init__(self) -> None:
        self._placed: tuple[Mask, Kernels, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: it can be made again."""
        return {"_placed": None}

    def where_off(self, x: Any, on: Mask, kernels: Kernels) -> Any:
        """Vectors [v, n] of these kernels with zeros where the mask [n] says no."""
        if self._placed is None or self._placed[0] is not on or self._placed[1] is not kernels:
            self._placed = (on, kernels, kernels.asarray(on.astype(np.float64)))
        dtype = np.float32 if x.dtype == np.float32 else np.float64
        return kernels.decode(x, 1.0, self._placed[2], unit=1.0, dtype=dtype)
