"""How many physical events an operation takes: pure functions of shapes and of the chip's description.

Symbols follow docs/definitions.md: a matrix has m outputs and n inputs, a differential pair takes two
columns, `row_tiles` x `col_tiles` tiles hold it, T = 1 drive phase (the DAC drives a whole level), and one
conversion is made per output and row tile, because the pair is subtracted before the ADC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

Counts = Mapping[str, int]
"""Action -> number of events."""

WORD_BITS = 16
"""Width of a digital activation, weight or coefficient word."""
MASTER_BITS = 32
"""Width of a trained parameter and of its optimiser state."""


class Layout(Protocol):
    """What the counts need to know of a placement."""

    @property
    def outputs(self) -> int:
        """Outputs m."""
        ...

    @property
    def inputs(self) -> int:
        """Inputs n."""
        ...

    @property
    def row_tiles(self) -> int:
        """Tiles along the inputs."""
        ...

    @property
    def col_tiles(self) -> int:
        """Tiles along the outputs."""
        ...

    @property
    def cols_per_tile(self) -> int:
        """Outputs of one tile."""
        ...


class Converters(Protocol):
    """What the counts need to know of the periphery."""

    @property
    def dac_bits(self) -> int:
        """Bits of an input code; 0: ideal."""
        ...

    @property
    def columns_per_adc(self) -> int:
        """Columns that share an ADC."""
        ...


@dataclass(frozen=True)
class Read:
    """Events of products with one placed matrix, and the sequential slots they take."""

    counts: Counts
    slots: Counts


def forward(layout: Layout, converters: Converters, vectors: int) -> Read:
    """Products of `vectors` input vectors with one placed matrix.

    dac_drive = n col_tiles, array_read = 2 m n cells, sample_hold = adc_conversion = shift_add = m row_tiles;
    the input is read from and the output written to SRAM, the column scale is one multiplication per output.
    Tiles work in parallel; `columns_per_adc` conversions of a tile are made one after another.
    """
    m, n = layout.outputs, layout.inputs
    codes = m * layout.row_tiles * vectors
    counts = {
        "dac_drive": n * layout.col_tiles * vectors,
        "array_read": 2 * m * n * vectors,
        "sample_hold": codes,
        "adc_conversion": codes,
        "shift_add": codes,
        "sram_read_bit": (converters.dac_bits or WORD_BITS) * n * layout.col_tiles * vectors,
        "sram_write_bit": WORD_BITS * m * vectors,
        "digital_mul": m * vectors,
    }
    shared = min(converters.columns_per_adc, layout.cols_per_tile)
    return Read(counts, {"array_read": vectors, "adc_conversion": vectors * shared})


def dense(outputs: int, inputs: int, vectors: int) -> Counts:
    """A digital matrix product from SRAM: every vector reads every weight (no reuse is assumed)."""
    macs = outputs * inputs * vectors
    return {"digital_mul": macs, "digital_add": macs, "sram_read_bit": WORD_BITS * macs}


def weight_gradient(outputs: int, inputs: int, vectors: int) -> Counts:
    """Outer products g x^T summed over the vectors; g and x come from SRAM, the sums stay in registers."""
    macs = outputs * inputs * vectors
    operands = WORD_BITS * (outputs + inputs) * vectors
    return {"digital_mul": macs, "digital_add": macs, "sram_read_bit": operands}


def stream_from_dram(outputs: int, inputs: int) -> Counts:
    """A weight matrix brought from DRAM into SRAM, once."""
    bits = WORD_BITS * outputs * inputs
    return {"dram_read_bit": bits, "sram_write_bit": bits}


def fusion_forward(width: int, modules: int, outputs: int, vectors: int, *, product_of_sums: bool) -> Counts:
    """Digital work of one fused linear between its arrays; width = sum of the ranks.

    Sum of products: c_i u_i. Product of sums: c_i u_i, their sum over the modules, and c_i times that sum.
    Then y = W0 x + (B-stack output), one addition per output. `modules` = 0: no fusion.
    """
    if modules == 0:
        return {}
    rank = width // modules
    mul = 2 * width if product_of_sums else width
    add = outputs + ((modules - 1) * rank if product_of_sums else 0)
    return {"digital_mul": mul * vectors, "digital_add": add * vectors}


def fusion_backward(width: int, modules: int, vectors: int, *, product_of_sums: bool) -> Counts:
    """Gradient of the coefficients and of the A-stack's outputs.

    dc_i = sum t_i . u_i and c_i t_i (sum of products); t_i . h + tbar . u_i, tbar = sum c_i t_i and
    c_i tbar (product of sums).
    """
    if modules == 0:
        return {}
    rank = width // modules
    if not product_of_sums:
        return {"digital_mul": 2 * width * vectors, "digital_add": width * vectors}
    return {
        "digital_mul": 4 * width * vectors,
        "digital_add": (2 * width + (modules - 1) * rank) * vectors,
    }


def magnitude_forward(outputs: int, vectors: int) -> Counts:
    """Y = g z: one multiplication per output."""
    return {"digital_mul": outputs * vectors}


def magnitude_backward(outputs: int, vectors: int) -> Counts:
    """Dg = sum g_y z and dz = g g_y."""
    return {"digital_mul": 2 * outputs * vectors, "digital_add": outputs * vectors}


def norm_update(width: int, modules: int, outputs: int, *, product_of_sums: bool) -> Counts:
    """One evaluation of the DoRA row norm from its Gram form (docs/energy.md).

    Sum of products: N c_i p_i and N^2 c_i c_j q_ij terms per output. Product of sums: B_m and U_m (2 N r),
    G_m (N^2 r^2, shared), and r + r^2 + r products per output.
    """
    if modules == 0:
        return {}
    rank = width // modules
    if product_of_sums:
        macs = outputs * (2 * width + rank * (rank + 2)) + width * width
    else:
        macs = outputs * (modules + modules * modules)
    return {"digital_mul": macs, "digital_add": macs, "sram_read_bit": WORD_BITS * macs}


def norm_words(width: int, modules: int, outputs: int, *, product_of_sums: bool) -> int:
    """Digital words that the Gram form of the DoRA norm needs beside the magnitude itself."""
    if modules == 0:
        return outputs
    if product_of_sums:
        return outputs * (2 * width + 1) + width * width
    return outputs * (modules * modules + modules + 1)


def norm_setup(width: int, modules: int, outputs: int, inputs: int, *, product_of_sums: bool) -> Counts:
    """The Gram form's constants, once per pool: U = W0 A^T and G = A A^T; for sums of products also p and q."""
    if modules == 0:
        return {}
    macs = outputs * inputs * width + inputs * width * width
    if not product_of_sums:
        macs += outputs * width + outputs * width * width
    return {"digital_mul": macs, "digital_add": macs, "sram_read_bit": WORD_BITS * macs}


def optimiser_step(parameters: int) -> Counts:
    """One Adam step: `opt_update` per parameter (its price holds the arithmetic and the state traffic)."""
    return {"opt_update": parameters}
