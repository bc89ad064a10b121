"""Products of published simulators, code for code, said as ordinary cards (docs/peers.md).

Each expectation is a published law written out in float64 with plain loops; conductances are in units of g_max, in [g, 1]
with g = g_min/g_max, inputs in units of the DAC's full scale.
"""

from math import ceil
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossbar_sim import Chip, ConfigError, Ranges

G_MAX = 40e-6
X_MAX = 1.3
G = 0.0937
"""g_min/g_max, and ends of converters: such that sums of quantised cells do not meet the edges between codes."""
LOW, HIGH = -2.0213, 3.0471
SHAPES = [(1, 1), (3, 5), (7, 64), (33, 20)]
WIDE = (21, 40)
"""More outputs and inputs than one tile of `NARROW` holds."""
NARROW = {"rows": 16, "cols": 64}


class Law(NamedTuple):
    """How a peer makes a product: per slice (place value, conductances per sign), and what is subtracted per unit of input."""

    slices: list
    offset: float = 0.0

    @property
    def transposed(self):
        return Law([(u, [g.T for g in signs]) for u, signs in self.slices], self.offset)


def problem(shape, seed=0, vectors=6):
    """Weights, and inputs of which some exceed the DAC's full scale."""
    random = np.random.default_rng([seed, *shape])
    return random.standard_normal(shape), random.uniform(-1.2, 1.2, (vectors, shape[1])) * X_MAX


def dac(x, bits, *, signed=True):
    """Codes in units of full scale."""
    if signed:
        k = 2 ** (bits - 1) - 1
        return np.rint((np.clip(x, -1, 1) + 1) * k) / k - 1
    k = 2**bits - 1
    return np.rint(np.clip(x, 0, 1) * k) / k


def digits(x, bits, d, *, signed=True):
    """(weight, digits in units of the largest digit) of each plane of d bits, least significant first."""
    k = 2 ** (bits - signed) - 1
    codes = np.rint(dac(x, bits, signed=signed) * k).astype(int)
    count = ceil((bits - signed) / d)
    return [
        (2 ** (d * n) * (2**d - 1) / k, np.sign(codes) * (np.abs(codes) // 2 ** (d * n) % 2**d) / (2**d - 1))
        for n in range(count)
    ]


def one_sided(w, *, bits, g):
    """Balanced pair of cells of `bits` bits; weights below half a step are at g."""
    least = 2.0 ** -(bits + 1)
    top = 2**bits - 1
    raw = [np.where(side >= least, g + (1 - g) * side, g) for side in (w, -w)]
    cells = [g + (1 - g) * np.rint((one - g) / (1 - g) * top) / top for one in raw]
    return Law([(1 / (1 - g), cells)])


def digit(integers, slice_, bits):
    return integers // 2 ** (bits * slice_) % 2**bits


def sign_magnitude(w, *, weight_bits, bits, g):
    """Sign-magnitude integers of weight_bits bits in slices of `bits` bits, each in a balanced pair."""
    full, top = 2 ** (weight_bits - 1) - 1, 2**bits - 1
    integers = np.rint(w * full)
    slices = []
    for s in range(ceil((weight_bits - 1) / bits)):
        sides = [digit(np.abs(integers) * (integers * sign > 0), s, bits) for sign in (1, -1)]
        slices.append((2 ** (bits * s) * top / full / (1 - g), [g + (1 - g) * one / top for one in sides]))
    return Law(slices)


def offset_integers(w, *, weight_bits, bits, g):
    """Integers about 2^(weight_bits - 1) in slices of `bits` bits; digital offset with the cells' g."""
    half, top = 2 ** (weight_bits - 1), 2**bits - 1
    integers = np.rint((half - 1) * w + half)
    slices = [
        (2 ** (bits * s) * top / (half - 1) / (1 - g), [g + (1 - g) * digit(integers, s, bits) / top])
        for s in range(ceil(weight_bits / bits))
    ]
    return Law(slices, half / (half - 1) + sum(u * g for u, _ in slices))


def two_sided(w, *, bits, g):
    """Balanced pair about the middle of the range."""
    top = 2**bits - 1
    return Law([(1 / (1 - g), [g + (1 - g) * np.rint((1 + s * w) / 2 * top) / top for s in (1, -1)])])


def bands(size, limit, split="equal"):
    """Which inputs share a tile."""
    step = ceil(size / ceil(size / limit)) if split == "equal" else limit
    return [slice(k, k + step) for k in range(0, size, step)]


def product(law, planes, convert, *, tiles=(slice(None),), joined=True):
    """Sum over slices, planes and tiles of converted partial sums, [vectors, outputs].

    convert(y, slice, sign, tile) digitises; `joined`: the currents of a pair are subtracted before.
    """
    total = 0.0
    for s, (place, signs) in enumerate(law.slices):
        cells = [signs[0] - signs[1]] if joined and len(signs) == 2 else signs
        for weight, x in planes:
            for t, rows in enumerate(tiles):
                for k, g in enumerate(cells):
                    total = total + (-1) ** k * place * weight * convert(x[:, rows] @ g[:, rows].T, s, k, t)
    sums = sum(weight * x.sum(axis=1) for weight, x in planes)
    return total - law.offset * sums[:, None]


def program(card, weight, *, g=G, bits=4, ranges=None, stuck=None, ir_drop=False, **sections):
    """The weights on an ideal card with cells of `bits` bits; ranges (low, high) in units of g_max and of the largest input."""
    device = {"g_min": g * G_MAX, "g_max": G_MAX, "levels": 2**bits if bits else 0}
    sections["mapping"] = {"scale": "matrix"} | sections.get("mapping", {})
    chip = Chip(card("ideal", device=device, **sections), grid="exact", ir_drop=ir_drop)
    low, high = (-1.0, 1.0) if ranges is None else (np.asarray(end) / (1 - g) for end in ranges)
    return chip.program(weight, name="w", ranges=Ranges(X_MAX, low, high), stuck=stuck)


def same(got, right):
    """Equal within 1e-6 of full scale: no code differs."""
    np.testing.assert_allclose(got, right, rtol=0, atol=1e-6 * np.abs(right).max() + 1e-12)


# -- one pair of cells per weight ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("c", "b", "adc_bits", "g"), [(1, 2, 4, 0.0), (2, 8, 5, 0.1), (4, 6, 8, 0.02), (6, 8, 12, 0.5)]
)
def test_a_balanced_pair_between_a_signed_dac_and_an_adc_on_an_explicit_range(
    card, adc, shape, c, b, adc_bits, g
):
    weight, x = problem(shape)
    w_max, reach = np.abs(weight).max(), 0.4 * np.sqrt(shape[1])
    law = one_sided(weight / w_max, bits=c, g=g)
    array = program(
        card,
        weight,
        g=g,
        bits=c,
        ranges=(-reach, reach),
        periphery={"dac_bits": b, "adc_bits": adc_bits},
    )
    right = product(law, [(1.0, dac(x / X_MAX, b))], lambda y, *_: adc(y, -reach, reach, adc_bits))
    same(array.mvm(x), X_MAX * w_max * right)


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_an_unsigned_dac_drives_no_negative_input(card, adc, bits):
    weight, x = problem((5, 9))
    law = one_sided(weight / np.abs(weight).max(), bits=4, g=G)
    periphery = {"dac_bits": bits, "adc_bits": 7, "signed": False, "plane_bits": 0}
    array = program(card, weight, ranges=(LOW, HIGH), periphery=periphery)
    planes = [(1.0, dac(x / X_MAX, bits, signed=False))]
    right = product(law, planes, lambda y, *_: adc(y, LOW, HIGH, 7))
    same(array.mvm(x), X_MAX * np.abs(weight).max() * right)


# -- integers in slices, inputs in planes ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (19, 50)])
@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize(("weight_bits", "c"), [(8, 2), (8, 4), (8, 1), (5, 3), (4, 3)])
def test_sliced_weights_and_one_bit_planes_with_a_conversion_of_each(
    card, adc, shape, joined, weight_bits, c
):
    weight, x = problem(shape)
    w_max, g = np.abs(weight).max(), G
    law = sign_magnitude(weight / w_max, weight_bits=weight_bits, bits=c, g=g)
    count = len(law.slices)
    high = 0.6 * np.sqrt(shape[1]) * (1 + np.arange(count))
    low = (-0.83 if joined else -0.1) * high  # 0, a frequent sum, lies between two codes of symmetric ends
    array = program(
        card,
        weight,
        g=g,
        bits=c,
        ranges=(low.reshape(-1, 1, 1, 1), high.reshape(-1, 1, 1, 1)),
        mapping={"slices": count, "weight_bits": weight_bits},
        periphery={
            "dac_bits": 6,
            "adc_bits": 6,
            "plane_bits": 1,
            "accumulate": "digital",
            "subtract": "analog" if joined else "digital",
        },
    )
    planes = digits(x / X_MAX, 6, 1)
    right = product(law, planes, lambda y, s, *_: adc(y, low[s], high[s], 6), joined=joined)
    same(array.mvm(x), X_MAX * w_max * right)


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), WIDE])
@pytest.mark.parametrize(("weight_bits", "c"), [(8, 2), (6, 3), (4, 4), (7, 3)])
@pytest.mark.parametrize("offset", ["digital", "unit_column"])
def test_integers_about_an_offset_that_is_subtracted(card, adc, shape, weight_bits, c, offset):
    weight, x = problem(shape)
    w_max, g = np.abs(weight).max(), G
    law = offset_integers(weight / w_max, weight_bits=weight_bits, bits=c, g=g)
    periphery = {"dac_bits": 5, "adc_bits": 8, "plane_bits": 1, "accumulate": "digital"}
    mapping = {
        "coding": "offset",
        "slices": len(law.slices),
        "weight_bits": weight_bits,
        "offset": offset,
    }
    array = program(
        card,
        weight,
        g=g,
        bits=c,
        ranges=(2 * LOW, 2 * HIGH),
        tiles=NARROW,
        mapping=mapping,
        periphery=periphery,
    )
    planes, tiles = digits(x / X_MAX, 5, 1), bands(shape[1], NARROW["rows"])
    if offset == "unit_column":
        zero = offset_integers(np.zeros((1, shape[1])), weight_bits=weight_bits, bits=c, g=g)
        reference = product(
            zero._replace(offset=0.0),
            planes,
            lambda y, *_: adc(y, 2 * LOW, 2 * HIGH, 8),
            tiles=tiles,
            joined=False,
        )
        law = law._replace(offset=0.0)
    right = product(law, planes, lambda y, *_: adc(y, 2 * LOW, 2 * HIGH, 8), tiles=tiles, joined=False)
    same(array.mvm(x), X_MAX * w_max * (right - reference if offset == "unit_column" else right))


def test_one_cell_about_the_middle_leaves_its_lowest_level_unused(card):
    # CrossSim's unsliced offset core compresses the range so that a weight of 0 has a level
    weight, _ = problem((6, 9))
    w, g, bits = weight / np.abs(weight).max(), 0.1, 3
    span = (1 - g) * (2**bits - 2) / (2**bits - 1)
    step = (1 - g) / (2**bits - 1)
    right = g + np.rint((1 - span + span * (w / 2 + 0.5) - g) / step) * step
    array = program(card, weight, g=g, bits=bits, mapping={"coding": "offset"})
    np.testing.assert_allclose(array.conductance()[0, 0, 0, 0].T / G_MAX, right, rtol=1e-12)
    assert right.min() > g + 0.9 * step


@pytest.mark.parametrize("d", [1, 2, 4])
@pytest.mark.parametrize("b", [5, 6, 8])
def test_planes_that_are_halved_into_one_capacitor_and_converted_once(card, adc, d, b):
    weight, x = problem((6, 11))
    w_max, g, low, high = np.abs(weight).max(), G, LOW, HIGH
    law = one_sided(weight / w_max, bits=4, g=g)
    ((place, (plus, minus)),) = law.slices
    held, k = 0.0, 2 ** (b - 1) - 1
    planes = digits(x / X_MAX, b, d)
    for _, plane in planes:
        held = (held + (2**d - 1) * plane @ (plus - minus).T) / 2**d
    full = k / 2.0 ** (d * len(planes))  # what the largest code leaves in the capacitor
    right = place * adc(held, low * full, high * full, 7) / full
    array = program(
        card, weight, g=g, ranges=(low, high), periphery={"dac_bits": b, "adc_bits": 7, "plane_bits": d}
    )
    same(array.mvm(x), X_MAX * w_max * right)


@pytest.mark.parametrize("d", [2, 3, 4])
def test_wide_planes_with_a_conversion_of_each(card, adc, d):
    weight, x = problem((6, 11))
    law = one_sided(weight / np.abs(weight).max(), bits=4, g=G)
    periphery = {"dac_bits": 8, "adc_bits": 7, "plane_bits": d, "accumulate": "digital"}
    array = program(card, weight, ranges=(LOW, HIGH), periphery=periphery)
    right = product(law, digits(x / X_MAX, 8, d), lambda y, *_: adc(y, LOW, HIGH, 7))
    same(array.mvm(x), X_MAX * np.abs(weight).max() * right)


# -- tiles, pairs, copies and scales ---------------------------------------------------------------------------------

LAYOUTS = st.fixed_dictionaries(
    {
        "coding": st.sampled_from(["one_sided", "two_sided", "offset"]),
        "pair": st.sampled_from(["columns", "rows", "arrays"]),
        "copies": st.integers(1, 3),
        "split": st.sampled_from(["equal", "full"]),
        "scale": st.sampled_from(["matrix", "column"]),
    }
)
CONVERTERS = st.fixed_dictionaries(
    {
        "dac_bits": st.integers(3, 8),
        "signed": st.booleans(),
        "plane_bits": st.integers(0, 2),
        "subtract": st.sampled_from(["analog", "digital"]),
    }
)
SIZES = st.tuples(st.integers(1, 23), st.integers(1, 41))


def law_of(w, coding, *, bits, g):
    """One cell (pair) per weight, by its coding."""
    if coding == "offset":
        return offset_integers(w, weight_bits=bits, bits=bits, g=g)
    return (one_sided if coding == "one_sided" else two_sided)(w, bits=bits, g=g)


def is_joined(mapping, periphery, *, line="rows"):
    """Whether a pair's currents are subtracted before conversion; always where the pair shares the sensed line."""
    return mapping["pair"] == line or periphery["subtract"] == "analog"


@given(SIZES, LAYOUTS, CONVERTERS, st.integers(4, 20), st.integers(0, 2**20))
@settings(max_examples=80, deadline=None)
def test_every_layout_has_an_adc_per_tile_and_forward_and_transposed_reads_of_the_same_law(
    card, adc, shape, mapping, periphery, height, seed
):
    if mapping["pair"] == "rows" and mapping["coding"] != "offset":
        periphery = periphery | {"subtract": "analog"}
    weight, x = problem(shape, seed)
    g, low, high = G, LOW * np.sqrt(shape[1]) / 4, HIGH * np.sqrt(shape[1]) / 4
    scale = np.abs(weight).max(axis=1 if mapping["scale"] == "column" else None, keepdims=True)
    law = law_of(weight / scale, mapping["coding"], bits=3, g=g)
    periphery = periphery | {"adc_bits": 9, "accumulate": "digital"}
    tiles = {"rows": height, "cols": 24}
    array = program(
        card, weight, g=g, bits=3, ranges=(low, high), tiles=tiles, mapping=mapping, periphery=periphery
    )
    per_input = 2 if mapping["pair"] == "rows" and mapping["coding"] != "offset" else 1
    per_output = mapping["copies"] * (
        2 if mapping["pair"] == "columns" and mapping["coding"] != "offset" else 1
    )
    b, d, signed = (periphery[name] for name in ("dac_bits", "plane_bits", "signed"))

    def convert(y, *_):
        return adc(y, low, high, 9)

    planes = digits(x / X_MAX, b, d, signed=signed) if d else [(1.0, dac(x / X_MAX, b, signed=signed))]
    held = bands(shape[1], height // per_input, mapping["split"])
    right = product(law, planes, convert, tiles=held, joined=is_joined(mapping, periphery))
    same(array.mvm(x), X_MAX * scale.ravel() * right)

    array.backward_ranges = Ranges(1.0, low / (1 - g), high / (1 - g))
    u = np.random.default_rng(seed).standard_normal((4, shape[0])) * scale.ravel()
    full = 2.0 ** np.ceil(np.log2(np.abs(u).max(axis=1, keepdims=True)))
    planes = digits(u / full, b, d) if d else [(1.0, dac(u / full, b))]
    held = bands(shape[0], 24 // per_output, mapping["split"])
    right = product(
        law.transposed, planes, convert, tiles=held, joined=is_joined(mapping, periphery, line="columns")
    )
    same(array.mvm_t(u / scale.ravel()), full * right)


@pytest.mark.parametrize("coding", ["sign_magnitude", "offset", "unit_column"])
@pytest.mark.parametrize("pair", ["columns", "arrays"])
def test_slices_are_driven_one_after_another_from_the_bit_lines(card, adc, coding, pair):
    weight, _ = problem(WIDE)
    w_max, g, bits = np.abs(weight).max(), G, 2
    law = (sign_magnitude if coding == "sign_magnitude" else offset_integers)(
        weight / w_max, weight_bits=6, bits=bits, g=g
    )
    mapping = {"slices": 3, "weight_bits": 6, "pair": pair}
    if coding != "sign_magnitude":
        mapping |= {"coding": "offset", "offset": "digital" if coding == "offset" else "unit_column"}
    periphery = {
        "dac_bits": 5,
        "adc_bits": 8,
        "plane_bits": 2,
        "accumulate": "digital",
        "subtract": "digital",
    }
    array = program(card, weight, g=g, bits=bits, tiles=NARROW, mapping=mapping, periphery=periphery)
    low, high = LOW * np.array([1.0, 1.5, 2.0]), HIGH * np.array([1.0, 1.3, 0.7])
    array.backward_ranges = Ranges(
        1.0, low.reshape(-1, 1, 1, 1) / (1 - g), high.reshape(-1, 1, 1, 1) / (1 - g)
    )
    u = np.random.default_rng(5).standard_normal((4, WIDE[0]))
    full = 2.0 ** np.ceil(np.log2(np.abs(u * w_max).max(axis=1, keepdims=True)))
    held = bands(WIDE[0], array.placement.cols_per_tile, "full")
    right = product(
        law.transposed,
        digits(u * w_max / full, 5, 2),
        lambda y, s, *_: adc(y, low[s], high[s], 8),
        tiles=held,
        joined=pair == "columns",
    )
    same(array.mvm_t(u), full * right)


def test_copies_that_differ_count_by_their_mean(card, adc):
    weight, x = problem((5, 8))
    g, random = G, np.random.default_rng(2)
    mapping, periphery = {"copies": 3}, {"dac_bits": 6, "adc_bits": 8}
    shape = program(card, weight, mapping=mapping, periphery=periphery).conductance().shape
    stuck = np.where(random.random(shape) < 0.2, random.uniform(0, G_MAX, shape), np.nan)
    array = program(card, weight, g=g, ranges=(LOW, HIGH), stuck=stuck, mapping=mapping, periphery=periphery)
    ((place, signs),) = one_sided(weight / np.abs(weight).max(), bits=4, g=g).slices
    copies = [
        [np.where(np.isnan(one.T), cell, one.T / G_MAX) for one in stuck[0, 0, k]]
        for k, cell in enumerate(signs)
    ]
    law = Law([(place, [np.mean(of, axis=0) for of in copies])])
    planes = [(1.0, dac(x / X_MAX, 6))]
    right = product(law, planes, lambda y, *_: adc(y, LOW, HIGH, 8))
    same(array.mvm(x), X_MAX * np.abs(weight).max() * right)


# -- converters that are not ideal --------------------------------------------------------------------------------------


def faulty(y, low, high, bits, *, offset, gain, limit):
    """A column that delivers at most `limit`, then a converter that sees (1 + gain) y + offset steps."""
    step = (high - low) / (2**bits - 1)
    seen = (1 + gain) * np.clip(y, -limit, limit) + offset * step
    return low + np.rint((np.clip(seen, low, high) - low) / step) * step


@pytest.mark.parametrize("subtract", ["analog", "digital"])
@pytest.mark.parametrize("limit", [np.inf, 0.9, 0.3])
@pytest.mark.parametrize("accumulate", ["analog", "digital"])
def test_every_adc_has_its_own_offset_and_gain_behind_a_column_that_saturates(
    card, subtract, limit, accumulate
):
    weight, x = problem(WIDE)
    g, low, high = G, LOW / 3, HIGH / 2
    periphery = {
        "dac_bits": 6,
        "adc_bits": 6,
        "plane_bits": 2,
        "accumulate": accumulate,
        "subtract": subtract,
        "adc_offset": 1.5,
        "adc_gain": 0.05,
        "columns_per_adc": 4,
        "column_clip": 0.0 if np.isinf(limit) else limit / (1 - g),
    }
    array = program(card, weight, g=g, ranges=(low, high), tiles=NARROW, periphery=periphery)
    drawn = array.readers[0]._adc_errors()
    tiles = bands(WIDE[1], NARROW["rows"])
    assert drawn.offset.shape == drawn.gain.shape == (len(tiles), WIDE[0])
    assert len(np.unique(drawn.offset)) == len(tiles) * ceil(WIDE[0] / 4)

    def convert(y, _s, _k, t):
        return faulty(y, low, high, 6, offset=drawn.offset[t], gain=drawn.gain[t], limit=limit)

    law = one_sided(weight / np.abs(weight).max(), bits=4, g=g)
    planes = digits(x / X_MAX, 6, 2) if accumulate == "digital" else [(1.0, dac(x / X_MAX, 6))]
    right = product(law, planes, convert, tiles=tiles, joined=subtract == "analog")
    same(array.mvm(x), X_MAX * np.abs(weight).max() * right)


@pytest.mark.parametrize(("low", "high"), [(LOW, HIGH), (0.5, 1.5), (-1.5, -0.5)])
def test_a_column_saturates_before_its_converter_sees_it(card, low, high):
    # a range that the column cannot reach gives its nearest code
    weight, x = problem(WIDE)
    periphery = {"dac_bits": 6, "adc_bits": 5, "column_clip": 0.2 / (1 - G)}
    array = program(card, weight, g=G, ranges=(low, high), tiles=NARROW, periphery=periphery)
    law, tiles = one_sided(weight / np.abs(weight).max(), bits=4, g=G), bands(WIDE[1], NARROW["rows"])
    planes = [(1.0, dac(x / X_MAX, 6))]
    right = product(
        law, planes, lambda y, *_: faulty(y, low, high, 5, offset=0, gain=0, limit=0.2), tiles=tiles
    )
    same(array.mvm(x), X_MAX * np.abs(weight).max() * right)


def test_a_transposed_read_has_errors_of_its_own_converters(card):
    weight, _ = problem(WIDE)
    g, low, high = G, LOW, HIGH
    periphery = {"dac_bits": 6, "adc_bits": 6, "adc_offset": 1.5, "adc_gain": 0.05}
    array = program(card, weight, g=g, tiles=NARROW, mapping={"slices": 2}, periphery=periphery, bits=2)
    array.backward_ranges = Ranges(1.0, low / (1 - g), high / (1 - g))
    forward, drawn = (reader._adc_errors() for reader in array.readers)
    held = bands(WIDE[0], NARROW["cols"] // 4)
    assert drawn.offset.shape == (len(held), WIDE[1])
    assert not np.intersect1d(forward.offset, drawn.offset).size

    def convert(y, _s, _k, t):
        return faulty(y, low, high, 6, offset=drawn.offset[t], gain=drawn.gain[t], limit=np.inf)

    w_max = np.abs(weight).max()
    law = sign_magnitude(weight / w_max, weight_bits=5, bits=2, g=g)
    law = Law([(u * 15 / (2**4 - 1), signs) for u, signs in law.slices])
    u = np.random.default_rng(4).standard_normal((5, WIDE[0]))
    full = 2.0 ** np.ceil(np.log2(np.abs(u * w_max).max(axis=1, keepdims=True)))
    right = product(law.transposed, [(1.0, dac(u * w_max / full, 6))], convert, tiles=held)
    same(array.mvm_t(u), full * right)


# -- what cannot be said -------------------------------------------------------------------------------------------------


def test_pairs_whose_currents_meet_on_one_line_cannot_be_subtracted_digitally(card):
    with pytest.raises(ConfigError, match=r"impossible with WeightMapping\.pair 'rows'"):
        program(
            card, np.ones((2, 2)), mapping={"pair": "rows"}, periphery={"dac_bits": 4, "subtract": "digital"}
        )


def test_a_column_clip_without_an_adc_is_refused_rather_than_ignored(card):
    with pytest.raises(ConfigError, match=r"Periphery\.column_clip: needs an ADC"):
        program(card, np.ones((2, 2)), periphery={"dac_bits": 4, "column_clip": 0.5})
