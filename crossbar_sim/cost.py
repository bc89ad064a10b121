"""How many physical events an operation takes: pure functions of shapes and of the chip's description.

Symbols follow docs/definitions.md: a matrix has m outputs and n inputs and sits in N_r x N_c tiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from crossbar_sim.active import Active
from crossbar_sim.circuit import Periphery
from crossbar_sim.mapping import Placement

Counts = Mapping[str, int]
"""Action -> number of events."""

WORD_BITS = 16
"""Width of a digital activation, weight or coefficient word."""
MASTER_BITS = 32
"""Width of a trained parameter and of its optimiser state."""


def precision(action: str, *, adc_bits: int) -> str:
    """The precision tag of an action: of conversions the ADC's bits, of arithmetic the width of its words; "" for others."""
    if action == "adc_conversion":
        return f"{adc_bits}b"
    if action in ("digital_mul", "digital_add", "digital_function"):
        return f"fp{WORD_BITS}"
    return f"fp{MASTER_BITS}" if action == "opt_update" else ""


@dataclass(frozen=True)
class Read:
    """Events of products with one placed matrix, and the sequential slots they take."""

    counts: Counts
    slots: Counts


def read(
    layout: Placement,
    converters: Periphery,
    vectors: int,
    *,
    transposed: bool = False,
    active: Active | None = None,
) -> Read:
    """Products of `vectors` vectors with one placed matrix, word lines driven or (`transposed`) bit lines.

    T = planes; S slices; q = 2 where the currents of a pair are subtracted after conversion, else 1; c = T where planes are, else 1.

    Forward: dac_drive = T n word lines N_c, sample_hold = adc_conversion = shift_add = c S q m N_r (and N_r N_c unit columns).
    Transposed: slices share the word lines and are driven one after another: dac_drive = T m bit lines N_r, conversions c S q n N_c.
    array_read = T cells (a transposed read leaves unit columns out). The input is read from SRAM once per tile that it drives, the output written once; the column scale
    is one multiplication per output, a range per vector one comparison and one multiplication per input and one multiplication
    per result, an offset the sum of the inputs and one subtraction per result.

    `active`: only some outputs and inputs take part. The same formulas hold then with m and n those that are on, and N_r and N_c the rows and columns of
    tiles in which one is, since a tile is touched when an input and an output of it are on: its drives are those of its rows that are on, once per phase, its
    conversions those of its columns that are on (and its unit column), its cells those where both meet. With all of either off
    nothing happens. Sequential conversions are those of the busiest ADC, by its columns that are on.
    """
    whole, layout = layout, layout if active is None else active.within(layout)
    if not layout.tiles:
        return Read({}, {})
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
    shared = _shared(whole, converters, active, transposed=transposed)
    in_turn = shared * codes // _sensed(layout, transposed=transposed)
    phases = planes * (layout.slices if transposed else 1)
    slots = {"array_read": phases * vectors, "adc_conversion": in_turn * vectors}
    return Read({action: count * vectors for action, count in counts.items()}, slots)


def conversions(layout: Placement, converters: Periphery, *, transposed: bool) -> int:
    """ADC conversions of one product."""
    accumulated = converters.planes if converters.accumulate == "digital" else 1
    on_line = layout.pair == ("columns" if transposed else "rows")
    apart = layout.signs == 2 and not on_line and converters.subtract == "digital"
    return accumulated * layout.slices * (2 if apart else 1) * _sensed(layout, transposed=transposed)


def _shared(layout: Placement, converters: Periphery, active: Active | None, *, transposed: bool) -> int:
    """Lines that the busiest ADC converts one after another."""
    if active is not None:
        return active.busiest(layout, converters.columns_per_adc, transposed=transposed)
    per_tile = layout.rows_per_tile if transposed else layout.cols_per_tile + layout.unit
    return min(converters.columns_per_adc, per_tile)


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


def selection(modules: int, keep: int) -> Counts:
    """Which of N coefficients stay: read once, written back with zeros, and one bit of the gate's register per module.

    A threshold is one comparison per coefficient; the `keep` largest take so many searches of a maximum among those left,
    sum_k (N - 1 - k) comparisons. A comparison counts as an addition.
    """
    compared = sum(max(modules - 1 - k, 0) for k in range(keep)) if keep else modules
    words = MASTER_BITS * modules
    return {"digital_add": compared, "sram_read_bit": words, "sram_write_bit": words + modules}


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


def dora_norm(outputs: int, inputs: int, rank: int) -> Counts:
    """One evaluation of the DoRA row norm while A and B train, from nominal weights (Liu et al. 2024, eq. 5).

    n_o^2 = ||W0_o||^2 + 2 s B_o . U_o + s^2 B_o G B_o^T: U = W0 A^T takes m n r products, G = A A^T n r^2, and each output
    r (B_o . U_o) + r^2 (B_o G) + r (with B_o). W0 comes from DRAM, as nothing on the chip gives it without error. Then per
    output the two factors and sums with ||W0_o||^2, one reciprocal root, and the factor m.
    """
    macs = outputs * inputs * rank + inputs * rank**2 + outputs * rank * (rank + 2)
    return {
        **stream_from_dram(outputs, inputs),
        "digital_mul": macs + 3 * outputs,
        "digital_add": macs + 2 * outputs,
        "digital_function": outputs,
        "sram_read_bit": WORD_BITS * macs,
    }


def dora_setup(outputs: int, inputs: int) -> Counts:
    """||W0_o||^2 and ||W0_o||, once per layer: m n products and m roots."""
    macs = outputs * inputs
    return {
        **stream_from_dram(outputs, inputs),
        "digital_mul": macs,
        "digital_add": macs,
        "digital_function": outputs,
        "sram_read_bit": WORD_BITS * macs,
    }


def vera_forward(rank: int, outputs: int, vectors: int) -> Counts:
    """Digital work of y = W0 x + b * (B (d * (A x))) between its matrices: d * u (r), b * w (m), and the sum of the paths (m)."""
    return {"digital_mul": (rank + outputs) * vectors, "digital_add": outputs * vectors}


def vera_backward(rank: int, outputs: int, vectors: int) -> Counts:
    """Db = sum g w and b * g (m each), dd = sum t u and d * t (r each)."""
    return {"digital_mul": 2 * (rank + outputs) * vectors, "digital_add": (rank + outputs) * vectors}


def bottleneck_forward(width: int, outputs: int, vectors: int) -> Counts:
    """Digital work of h + W_up relu(W_down x + b_down) + b_up between its matrices: biases, one comparison per ReLU, the sum.

    A constant scale is free: it can be folded into the words of W_up and b_up.
    """
    return {"digital_add": 2 * (width + outputs) * vectors}


def bottleneck_backward(width: int, outputs: int, vectors: int) -> Counts:
    """Db_up = sum g (m), the ReLU's mask (r multiplications), and db_down = sum t (r)."""
    return {"digital_mul": width * vectors, "digital_add": (width + outputs) * vectors}


def optimiser_step(parameters: int) -> Counts:
    """One Adam step: `opt_update` per parameter (its price holds the arithmetic and the state traffic)."""
    return {"opt_update": parameters}
