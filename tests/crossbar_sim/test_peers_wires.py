"""Products through wires with resistance against dense nodal analyses of every physical array.

The circuits are those of docs/design.md, section 4, and of crossbar_sim.wires.gated, written out here node by node.
"""

from dataclasses import replace

import numpy as np
import pytest

from crossbar_sim import Chip, ConfigError, Ranges, mapping
from crossbar_sim.device import ReadNoise, Relaxation

G_MIN, G_MAX = 4e-6, 90e-6
X_MAX = 1.3
DAC_BITS = 5
K = 2 ** (DAC_BITS - 1) - 1
LOW, HIGH = -1.0213, 1.4471
SHAPES = [(1, 1), (3, 5), (7, 13)]
LAYOUTS = {
    "pair in columns": {},
    "pair in rows": {"pair": "rows"},
    "pair in arrays": {"pair": "arrays"},
    "slices": {"slices": 3},
    "slices in rows": {"slices": 2, "pair": "rows"},
    "copies": {"copies": 2, "coding": "two_sided"},
    "slices and copies in arrays": {"slices": 2, "copies": 2, "pair": "arrays"},
    "offset": {"coding": "offset", "slices": 2},
    "unit column": {"coding": "offset", "slices": 2, "offset": "unit_column"},
}


# -- the circuits ----------------------------------------------------------------------------------------------


def between(nodes, conductances, size):
    """Nodal matrix of conductances between pairs of nodes; node -1 is a terminal of fixed voltage."""
    system = np.zeros((size, size))
    for (a, b), g in zip(nodes, conductances, strict=True):
        for one, other in ((a, b), (b, a)):
            if one >= 0:
                system[one, one] += g
                if other >= 0:
                    system[one, other] -= g
    return system


def crossbar(g, r_wl, r_bl):
    """Nodal matrix of one array, and the numbers of the nodes at the word lines' left and the bit lines' bottom ends."""
    rows, cols = g.shape
    word = np.arange(rows * cols).reshape(rows, cols)
    bit = word + rows * cols
    branches = [((word[i, j], bit[i, j]), g[i, j]) for i in range(rows) for j in range(cols)]
    branches += [
        ((word[i, j - 1] if j else -1, word[i, j]), 1 / r_wl) for i in range(rows) for j in range(cols)
    ]
    branches += [
        ((bit[i, j], bit[i + 1, j] if i + 1 < rows else -1), 1 / r_bl)
        for i in range(rows)
        for j in range(cols)
    ]
    return between(*zip(*branches, strict=True), 2 * rows * cols), word[:, 0], bit[-1]


def bit_line_currents(g, volts, r_wl, r_bl):
    """Word lines driven with volts [vectors, rows], currents out of the bit lines into 0 V [vectors, cols]."""
    system, left, bottom = crossbar(g, r_wl, r_bl)
    source = np.zeros((len(volts), len(system)))
    source[:, left] = volts / r_wl
    return np.linalg.solve(system, source.T)[bottom].T / r_bl


def word_line_currents(g, volts, r_wl, r_bl):
    """Bit lines driven at their bottom ends with volts [vectors, cols], currents out of the word lines [vectors, rows]."""
    system, left, bottom = crossbar(g, r_wl, r_bl)
    source = np.zeros((len(volts), len(system)))
    source[:, bottom] = volts / r_bl
    return np.linalg.solve(system, source.T)[left].T / r_wl


def ladder_current(g, active, r):
    """One gated column at 1 V: supply and sum line with a segment r before and after each cell; closed switches only."""
    n = len(g)
    branches = [((k - 1, k), 1 / r) for k in range(n)]  # supply; -1 is its 1 V
    branches += [((n + k, n + k + 1 if k + 1 < n else -1), 1 / r) for k in range(n)]
    branches += [((k, n + k), g[k]) for k in range(n) if active[k]]
    source = np.zeros(2 * n)
    source[0] = 1 / r
    return np.linalg.solve(between(*zip(*branches, strict=True), 2 * n), source)[-1] / r


# -- arrays of such circuits -------------------------------------------------------------------------------------


def program(card, shape, how, *, wires, seed=0, stuck=0.0, tiles=None, relax=False, **periphery):
    """Random weights on cells of 4 levels (16 where there is one slice), without converters unless given."""
    random = np.random.default_rng([seed, *shape])
    levels = 4 if how.get("slices", 1) > 1 else 16
    device = {"g_min": G_MIN, "g_max": G_MAX, "levels": levels}
    law = Relaxation((1.0, 86400.0), ((1e-6,), (6e-6,)), ((0.0,), (-2e-6,))) if relax else Relaxation()
    chosen = card(
        "ideal",
        device=device,
        mapping={"scale": "matrix"} | how,
        wires=wires,
        tiles=tiles or {"rows": 16, "cols": 48},
        periphery={"dac_bits": DAC_BITS} | periphery,
    )
    chosen = replace(chosen, relaxation=law)
    weight = random.standard_normal(shape)
    placement = mapping.place(*shape, chosen.tiles, chosen.mapping)
    held = None
    if stuck:
        broken = random.random(placement.shape) < stuck
        held = np.where(broken, random.choice([0.0, G_MIN, G_MAX], placement.shape), np.nan)
    chip = Chip(chosen, grid="exact", ir_drop=True)
    array = chip.program(weight, name="w", ranges=Ranges(X_MAX, LOW, HIGH), stuck=held)
    return array, random.uniform(-1.1, 1.1, (3, shape[1])) * X_MAX, np.abs(weight).max()


def codes(x):
    return (np.rint((np.clip(x, -1, 1) + 1) * K) - K).astype(int)


def planes(code, d):
    """(place value, digit / largest digit / K) of d-bit planes; d 0: the code itself."""
    if not d:
        return [(1.0, code / K)]
    count, top = -(-(DAC_BITS - 1) // d), 2**d - 1
    return [
        (2 ** (d * n) * top / K, np.sign(code) * (np.abs(code) // 2 ** (d * n) % 2**d) / top)
        for n in range(count)
    ]


def forward(array, x, solve, convert=lambda y: y, *, joined=True, d=0):
    """D x by a circuit per physical array: lines driven as the layout says, conversions as the converters do."""
    p, card = array.placement, array.chip.preset
    code = mapping.code(card.mapping, card.device)
    arrays = mapping.assemble(array.conductance(), p)
    total = np.zeros((len(x), p.col_tiles * p.cols_per_tile))
    padded = np.zeros((len(x), p.row_tiles * p.rows_per_tile), int)
    padded[:, : p.inputs] = codes(x / X_MAX)
    for tile in range(p.tiles):
        r, c = divmod(tile, p.col_tiles)
        here = slice(c * p.cols_per_tile, (c + 1) * p.cols_per_tile)
        for weight, digit in planes(padded[:, r * p.rows_per_tile : (r + 1) * p.rows_per_tile], d):
            y = currents(arrays, tile, digit, p, solve) / card.device.span  # [vectors, columns, slice, sign]
            for s, place in enumerate(code.coefficients):
                parts = (
                    [y[:, :, s, 0] - y[:, :, s, 1]]
                    if joined and y.shape[3] == 2
                    else np.moveaxis(y[:, :, s], 2, 0)
                )
                part = sum((-1) ** k * convert(one) for k, one in enumerate(parts))
                total[:, here] += (
                    weight
                    * place
                    * (part[:, : p.cols_per_tile] - (part[:, p.cols_per_tile :] if p.unit else 0))
                )
    offset = (
        0.0 if p.signs == 2 or p.unit else code.offset + sum(code.coefficients) * G_MIN / card.device.span
    )
    return total[:, : p.outputs] - offset * padded.sum(1, keepdims=True) / K


def currents(arrays, tile, digit, p, solve):
    """Mean current of a tile's copies per volt of the largest input, [vectors, columns, slice, sign (1 for row pairs)]."""
    volts = np.stack([digit, -digit], -1).reshape(len(digit), -1) if p.word_lines == 2 else digit
    if p.arrays > p.tiles:
        both = [
            solve(arrays[2 * tile + k], volts).reshape(len(volts), p.columns, p.slices, p.copies)
            for k in (0, 1)
        ]
        return np.stack(both, 3).mean(-1)
    signs = 2 if p.signs == 2 and p.word_lines == 1 else 1
    return solve(arrays[tile], volts).reshape(len(volts), p.columns, p.slices, signs, p.copies).mean(-1)


def backward(array, u, solve):
    """D^T u: each slice's bit lines driven alone, its copies together, word lines sensed."""
    p, card = array.placement, array.chip.preset
    code = mapping.code(card.mapping, card.device)
    arrays = mapping.assemble(array.conductance(), p)
    padded = np.zeros((len(u), p.col_tiles * p.cols_per_tile))
    padded[:, : p.outputs] = u
    total = np.zeros((len(u), p.row_tiles * p.rows_per_tile))
    for tile in range(p.tiles):
        r, c = divmod(tile, p.col_tiles)
        part = padded[:, c * p.cols_per_tile : (c + 1) * p.cols_per_tile]
        for s, place in enumerate(code.coefficients):
            for k in range(p.arrays // p.tiles):
                signs = 2 if p.bit_lines == 2 * p.slices * p.copies else 1
                volts = np.zeros((len(u), p.columns, p.slices, signs, p.copies))
                for sign in range(signs):
                    volts[:, : p.cols_per_tile, s, sign] = ((-1) ** sign * part)[:, :, None]
                out = solve(arrays[p.arrays // p.tiles * tile + k], volts.reshape(len(u), -1))
                out = out[:, ::2] - out[:, 1::2] if p.word_lines == 2 else out
                total[:, r * p.rows_per_tile : (r + 1) * p.rows_per_tile] += (-1) ** k * place * out
    offset = 0.0 if p.signs == 2 else code.offset + sum(code.coefficients) * G_MIN / card.device.span
    return total[:, : p.inputs] / card.device.span / p.copies - offset * u.sum(1, keepdims=True)


def same(got, right):
    np.testing.assert_allclose(got, right, rtol=0, atol=1e-6 * np.abs(right).max())


# -- driven word lines ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_product_with_ir_drop_is_that_of_the_circuit(card, shape, how):
    wires = {"r_wl": 3.0, "r_bl": 11.0}
    array, x, w_max = program(card, shape, how, wires=wires, stuck=0.1)

    def solve(g, volts):
        return bit_line_currents(g, volts, **wires)

    right = forward(array, x, solve)
    same(array.mvm(x), X_MAX * w_max * right)
    if shape != (1, 1):
        ideal = forward(array, x, lambda g, volts: volts @ g)
        assert np.abs(right - ideal).max() > 1e-3 * np.abs(ideal).max()  # the wires matter
    u = np.random.default_rng(1).standard_normal((2, shape[0]))
    full = 2.0 ** np.ceil(np.log2(np.abs(u * w_max).max(axis=1, keepdims=True)))
    driven = codes(u * w_max / full) / K
    array.backward_ranges = Ranges(1.0, LOW, HIGH)
    same(
        array.mvm_t(u), full * backward(array, driven, lambda g, volts: word_line_currents(g, volts, **wires))
    )


@pytest.mark.parametrize("how", [LAYOUTS[name] for name in ("slices", "pair in rows", "unit column")])
def test_matrices_beyond_one_tile_lose_voltage_in_each_of_their_arrays(card, how):
    wires = {"r_wl": 2.0, "r_bl": 7.0}
    array, x, w_max = program(
        card, (11, 19), how, wires=wires, tiles={"rows": 9, "cols": 8 if "pair" in how else 18}
    )
    assert array.placement.row_tiles > 1
    assert array.placement.col_tiles > 1
    same(array.mvm(x), X_MAX * w_max * forward(array, x, lambda g, v: bit_line_currents(g, v, **wires)))


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("how", [LAYOUTS[name] for name in ("slices", "offset", "copies")])
def test_planes_and_conversions_see_the_currents_of_the_circuit(card, adc, how, joined):
    wires = {"r_wl": 3.0, "r_bl": 11.0}
    array, x, w_max = program(
        card,
        (5, 12),
        how,
        wires=wires,
        stuck=0.1,
        adc_bits=6,
        plane_bits=1,
        accumulate="digital",
        subtract="analog" if joined else "digital",
    )
    right = forward(
        array,
        x,
        lambda g, v: bit_line_currents(g, v, **wires),
        lambda y: adc(y, LOW, HIGH, 6),
        joined=joined,
        d=1,
    )
    same(array.mvm(x), X_MAX * w_max * right)


def test_the_circuit_is_solved_anew_when_time_has_moved_the_cells(card):
    wires = {"r_wl": 3.0, "r_bl": 11.0}
    array, x, w_max = program(card, (5, 12), {"copies": 2}, wires=wires, stuck=0.1, relax=True)

    def right():
        return X_MAX * w_max * forward(array, x, lambda g, v: bit_line_currents(g, v, **wires))

    before = array.mvm(x)
    same(before, right())
    array.chip.advance(86400.0)
    after = array.mvm(x)
    same(after, right())
    assert np.abs(after - before).max() > 1e-2 * np.abs(before).max()


# -- gated columns -------------------------------------------------------------------------------------------------


def gated(g, volts, r):
    """Column currents of one-bit inputs of either sign: rows of +1 and of -1 are closed one after the other."""
    return np.array(
        [[ladder_current(col, v > 0, r) - ladder_current(col, v < 0, r) for col in g.T] for v in volts]
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "how",
    [LAYOUTS[name] for name in ("pair in columns", "pair in arrays", "slices", "copies", "unit column")],
)
@pytest.mark.parametrize("joined", [True, False])
def test_a_product_through_gated_columns_is_that_of_the_ladders(card, adc, shape, how, joined):
    array, x, w_max = program(
        card,
        shape,
        how,
        wires={"r_bl": 40.0, "ladder": "gated"},
        stuck=0.1,
        adc_bits=6,
        plane_bits=1,
        accumulate="digital",
        subtract="analog" if joined else "digital",
    )
    right = forward(
        array,
        x,
        lambda g, v: gated(g, v, 40.0),
        lambda y: adc(y, LOW, HIGH, 6),
        joined=joined,
        d=1,
    )
    same(array.mvm(x), X_MAX * w_max * right)


def test_gated_planes_that_are_added_before_one_conversion(card, adc):
    wires = {"r_bl": 40.0, "ladder": "gated"}
    array, x, w_max = program(card, (5, 12), {}, wires=wires, plane_bits=1, adc_bits=6)
    sums = forward(array, x, lambda g, v: gated(g, v, 40.0), d=1)
    same(array.mvm(x), X_MAX * w_max * adc(sums, LOW, HIGH, 6))
    ideal = forward(array, x, lambda g, v: v @ g, d=1)
    assert np.abs(sums - ideal).max() > 1e-2 * np.abs(ideal).max()


@pytest.mark.parametrize("grid", ["exact", "int15", "int8"])
def test_read_noise_of_gated_columns_does_not_depend_on_the_grid(card, grid):
    sigma, vectors = 2e-6, 4000
    chosen = card(
        "ideal",
        device={"g_min": G_MIN, "g_max": G_MAX},
        read_noise=ReadNoise(constant=sigma),
        wires={"r_bl": 0.5, "ladder": "gated"},
        periphery={"dac_bits": DAC_BITS, "plane_bits": 1},
    )
    chip = Chip(chosen, grid=grid, ir_drop=True)
    array = chip.program(np.ones((1, 4)), name="w", ranges=Ranges(1.0, LOW, HIGH))
    y = array.mvm(np.ones((vectors, 4)))
    # every plane reads both cells of 4 pairs once: variance 8 sigma^2 sum_k 4^k, in units of the largest code
    expected = np.sqrt(8 * sum(4**k for k in range(DAC_BITS - 1))) / K * sigma / (G_MAX - G_MIN)
    assert y.std() == pytest.approx(expected, rel=4 / np.sqrt(2 * vectors))


def test_gated_columns_take_one_bit_planes_and_have_no_transposed_read(card):
    wires = {"r_bl": 1.0, "ladder": "gated"}
    with pytest.raises(ConfigError, match=r"gated columns .* take one-bit planes"):
        program(card, (2, 2), {}, wires=wires, plane_bits=2)
    array, *_ = program(card, (2, 2), {}, wires=wires, plane_bits=1)
    with pytest.raises(ConfigError, match="no transposed read"):
        array.mvm_t(np.ones((1, 2)))
