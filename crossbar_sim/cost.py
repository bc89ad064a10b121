"""How many physical events an operation takes: pure functions of shapes and of the chip's description.

Symbols follow docs/definitions.md: a matrix has m outputs and n inputs and sits in N_r x N_c tiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from crossbar_sim.circuit import Periphery
from crossbar_sim.mapping import Placement

Counts = Mapping[str, int]
"""Action -> number of events."""

WORD_BITS = 16
"""Width of a digital activation, weight or coefficient word."""
MASTER_BITS = 32
"""Width of a trained parameter and of its optimiser state."""


@dataclass(frozen=True)
class Read:
    """Events of products with one placed matrix, and the sequential slots they take."""

    counts: Counts
    slots: Counts


def read(layout: Placement, converters: Periphery, vectors: int, *, transposed: bool = False) -> Read:
    """Products of `vectors` vectors with one placed matrix, word lines driven or (`transposed`) bit lines.

    T = planes; S slices; q = 2 where the currents of a pair are subtracted after conversion, else 1; c = T where planes are, else 1.

    Forward: dac_drive = T n word lines N_c, sample_hold = adc_conversion = shift_add = c S q m N_r (and N_r N_c unit columns).
    Transposed: slices share the word lines and are driven one after another: dac_drive = T m bit lines N_r, conversions c S q n N_c.
    array_read = T cells (a transposed read leaves unit columns out). The input is read from SRAM once per tile that it drives, the output written once; the column scale
    is one multiplication per output, a range per vector one comparison and one multiplication per input and one multiplication
    per result, an offset the sum of the inputs and one subtraction per result.
    """
    planes, drives = converters.planes, _drives(layout, transposed=transposed)
    codes = conversions(layout, converters, transposed=transposed)
    inputs, results = (layout.outputs, layout.inputs) if transposed else (layout.inputs, layout.outputs)
    fans = layout.row_tiles if transposed else layout.col_tiles
    own_range = transposed or converters.scaling == "per_vector_absmax"
    add = own_range * inputs + (layout.signs == 1) * (
        results if layout.unit and not transposed else inputs + results
    )
    counts = {
        "dac_drive": planes * drives,
        "array_read": planes * (layout.weight_cells if transposed else layout.cells),
        "sample_hold": codes,
        "adc_conversion": codes,
        "shift_add": codes,
        "sram_read_bit": (converters.dac_bits or WORD_BITS) * inputs * fans,
        "sram_write_bit": WORD_BITS * results,
        "digital_mul": layout.outputs + own_range * (inputs + results),
    }
    if add:
        counts["digital_add"] = add
    per_tile = layout.rows_per_tile if transposed else layout.cols_per_tile + layout.unit
    shared = min(converters.columns_per_adc, per_tile) * codes // _sensed(layout, transposed=transposed)
    phases = planes * (layout.slices if transposed else 1)
    slots = {"array_read": phases * vectors, "adc_conversion": shared * vectors}
    return Read({action: count * vectors for action, count in counts.items()}, slots)


def conversions(layout: Placement, converters: Periphery, *, transposed: bool) -> int:
    """ADC conversions of one product."""
    accumulated = converters.planes if converters.accumulate == "digital" else 1
    on_line = layout.pair == ("columns" if transposed else "rows")
    apart = layout.signs == 2 and not on_line and converters.subtract == "digital"
    return accumulated * layout.slices * (2 if apart else 1) * _sensed(layout, transposed=transposed)


def _sensed(layout: Placement, *, transposed: bool) -> int:
    """Lines that carry one result of one tile each."""
    if transposed:
        return layout.inputs * layout.col_tiles
    return (layout.outputs + layout.unit * layout.col_tiles) * layout.row_tiles


def _drives(layout: Placement, *, transposed: bool) -> int:
    """Lines driven in one phase, over all slices of a transposed read."""
    twice = layout.arrays // layout.tiles
    if transposed:
        return layout.outputs * layout.bit_lines * layout.row_tiles * twice
    return layout.inputs * layout.word_lines * layout.col_tiles * twice


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
