"""Event counts against an instrumented reference that walks through the hardware and counts what happens."""

from collections import Counter
from math import fsum

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertModel

from crossbar_sim import Chip, Ranges, convert


def blocks(array):
    """Tiles of a placed matrix: number, inputs and outputs, found by cutting the matrix into blocks."""
    p, tiles = array.placement, array.chip.preset.tiles
    assert p.rows_per_tile * p.word_lines <= tiles.rows
    assert p.columns * p.bit_lines <= tiles.cols
    for tr in range(p.row_tiles):
        for tc in range(p.col_tiles):
            rows = range(tr * p.rows_per_tile, min((tr + 1) * p.rows_per_tile, p.inputs))
            cols = range(tc * p.cols_per_tile, min((tc + 1) * p.cols_per_tile, p.outputs))
            yield tr * p.col_tiles + tc, rows, cols


def drive(array, vector, *, transposed):
    """Digits of one vector, [plane][line], by the formulas of docs/design.md, section 4, and the largest digit."""
    p = array.chip.preset.periphery
    signed = p.signed or transposed
    k = 2 ** (p.dac_bits - signed) - 1
    if transposed:
        vector = vector * array.scale
        full = 2.0 ** np.ceil(np.log2(np.abs(vector).max()))
    else:
        full = np.abs(vector).max() if p.scaling == "per_vector_absmax" else array.ranges.dac
    low = -1 if signed else 0
    codes = np.rint((np.clip(vector / full, low, 1) - low) * k) + low * k
    if not p.plane_bits:
        return [codes], k
    base, places = 2**p.plane_bits, -(-(p.dac_bits - signed) // p.plane_bits)
    return [np.abs(codes) // base**j % base * np.sign(codes) for j in range(places)], base - 1


def lines(array, *, transposed):
    """What is driven for one input, [phase][line][(slice, sign, copy) of the cells on it]."""
    p = array.placement
    signs = list(range(p.signs))
    together = [signs] if p.pair == ("rows" if transposed else "columns") else [[k] for k in signs]
    if transposed:  # slices share the word lines that are sensed: one after the other; every copy has a bit line of its own
        return [
            [[(s, sign, copy) for sign in line] for line in together for copy in range(p.copies)]
            for s in range(p.slices)
        ]
    cells = [(s, copy) for s in range(p.slices) for copy in range(p.copies)]
    return [[[(s, sign, copy) for sign in line for s, copy in cells] for line in together]]


def convert_one(array, counts, *, transposed):
    """What one line that is sensed takes to become a number, in units of one after the other."""
    p, c = array.placement, array.chip.preset.periphery
    joined = p.pair == ("columns" if transposed else "rows") or c.subtract == "analog"
    in_turn = 0
    for _ in range(p.slices):
        for _ in range(1 if joined else p.signs):
            for _ in range(planes_of(array, transposed=transposed) if c.accumulate == "digital" else 1):
                for event in ("sample_hold", "adc_conversion", "shift_add"):
                    counts[event] += 1
                in_turn += 1
    return in_turn


def planes_of(array, *, transposed):
    return len(
        drive(array, np.ones(1 if not transposed else array.placement.outputs), transposed=transposed)[0]
    )


def digital_work(array, counts, on, *, transposed):
    """The arithmetic beside the converters, for one vector; `on`: which outputs and inputs take part."""
    p, c = array.placement, array.chip.preset.periphery
    inputs, results = on if transposed else on[::-1]
    own_range = transposed or c.scaling == "per_vector_absmax"
    for _ in on[0]:
        counts["digital_mul"] += 1  # the column scale
    for _ in inputs:
        if own_range:
            counts["digital_add"] += 1  # is it the largest?
            counts["digital_mul"] += 1
        if p.signs == 1 and (transposed or not p.unit):
            counts["digital_add"] += 1  # the sum of the inputs
    for _ in results:
        counts["sram_write_bit"] += 16
        if own_range:
            counts["digital_mul"] += 1
        if p.signs == 1:
            counts["digital_add"] += 1  # minus the offset


def drive_tile(array, tile, inputs, across, volts, *, transposed):
    """Drive every line of one tile once per plane; yields the conductance and the voltage of every cell that is read, per drive.

    `inputs`: place in the tile and number of each input; `across`: places of what is sensed.
    """
    g = array.conductance()[tile]
    for i, at in inputs:
        for phase in lines(array, transposed=transposed):
            for line in phase:
                for plane in volts:
                    yield [
                        (g[s, sign, copy][(j, i) if transposed else (i, j)], plane[at])
                        for s, sign, copy in line
                        for j in across
                    ]


def touched(array, on):
    """The tiles of which an input and an output are on, and (place in the tile, number) of each of these inputs and outputs."""
    for tile, rows, cols in blocks(array):
        inputs = [(i, at) for i, at in enumerate(rows) if at in on[1]]
        outputs = [(j, at) for j, at in enumerate(cols) if at in on[0]]
        if inputs and outputs:
            yield tile, inputs, outputs


def walk(array, x, *, on, transposed=False):
    """Play products with x event by event; returns counts, slots and the energy of the cells in J.

    `on`: the numbers of the outputs and of the inputs that take part.
    """
    counts, slots, joules = Counter(), Counter(), []
    p, c = array.placement, array.chip.preset.periphery
    for vector in x if on[0] and on[1] else ():
        present = np.isin(np.arange(vector.size), on[0 if transposed else 1])
        digits, largest = drive(array, np.where(present, vector, 0), transposed=transposed)
        volts = [plane / largest * c.read_voltage for plane in digits]
        busiest = 0
        for tile, rows, cols in touched(array, on):
            inputs, results = (cols, rows) if transposed else (rows, cols)
            for _ in inputs:
                counts["sram_read_bit"] += c.dac_bits
            unit = [p.cols_per_tile] if p.unit and not transposed else []
            across = [*(j for j, _ in results), *unit]
            for cells in drive_tile(array, tile, inputs, across, volts, transposed=transposed):
                counts["dac_drive"] += 1
                for cell, voltage in cells:
                    counts["array_read"] += 1
                    joules.append(voltage**2 * cell * c.read_width)
            in_turn = Counter()
            for j in across:  # neighbouring lines share a converter, whether they are on or off
                in_turn[j // c.columns_per_adc] += convert_one(array, counts, transposed=transposed)
            busiest = max(busiest, *in_turn.values())
        slots["array_read"] += len(lines(array, transposed=transposed)) * len(digits)  # all tiles at once
        slots["adc_conversion"] += busiest
        digital_work(array, counts, on, transposed=transposed)
    return counts, slots, fsum(joules)


def check(array, x, *, transposed=False, on=None):
    """The ledger's rows of products with x are what the walk finds; `on`: the outputs and inputs that a gate leaves on."""
    chip, p = array.chip, array.placement
    array.backward_ranges = Ranges(1.0, -3, 3)
    if on is None:
        on = list(range(p.outputs)), list(range(p.inputs))
    else:
        array.gate(outputs=np.isin(np.arange(p.outputs), on[0]), inputs=np.isin(np.arange(p.inputs), on[1]))
    with chip.ledger.scope(phase="forward"):
        array.mvm_t(x) if transposed else array.mvm(x)
    counts, slots, joules = walk(array, x, on=on, transposed=transposed)
    prices = chip.preset.prices
    rows = {r["action"]: r for r in chip.ledger.rows(prices) if r["phase"] == "forward"}
    assert {a: r["count"] for a, r in rows.items() if r["count"]} == {a: n for a, n in counts.items() if n}
    assert fsum(r["energy_J"] for a, r in rows.items() if a == "array_read") == pytest.approx(
        joules, rel=1e-12
    )
    for action, taken in slots.items():
        assert rows[action]["time_s"] == pytest.approx(taken * prices.seconds(action))


mappings = st.one_of(
    st.fixed_dictionaries(
        {
            "coding": st.sampled_from(("one_sided", "two_sided")),
            "pair": st.sampled_from(("columns", "rows", "arrays")),
        }
    ),
    st.fixed_dictionaries(
        {"coding": st.just("offset"), "offset": st.sampled_from(("digital", "unit_column"))}
    ),
)
converters = st.fixed_dictionaries(
    {
        "columns_per_adc": st.integers(1, 4),
        "dac_bits": st.integers(3, 6),
        "plane_bits": st.integers(0, 2),
        "accumulate": st.sampled_from(("analog", "digital")),
        "subtract": st.sampled_from(("analog", "digital")),
        "scaling": st.sampled_from(("static", "per_vector_absmax")),
        "signed": st.booleans(),
    }
)  # fmt: skip


def programmed(card, shape, size, mapping, times, converters, seed):
    """A matrix of random weights under this mapping, on tiles that hold at least one of its weights, and its random numbers."""
    rng = np.random.default_rng(seed)
    if mapping.get("pair") == "rows":
        converters = converters | {"subtract": "analog"}
    slices, copies = times
    preset = card(
        programming=None,
        mapping={"pair": "columns"} | mapping | {"slices": slices, "copies": copies},
        tiles={"rows": size[0], "cols": max(size[1] * 2 * slices * copies, 2)},
        periphery=converters,
    )
    return Chip(preset).program(rng.standard_normal(shape), name="w", ranges=Ranges(0.8, -3, 3)), rng


described = {
    "shape": st.tuples(st.integers(1, 7), st.integers(1, 7)),
    "size": st.tuples(st.integers(2, 6), st.integers(1, 3)),
    "mapping": mappings,
    "times": st.tuples(st.integers(1, 3), st.integers(1, 2)),
    "converters": converters,
    "seed": st.integers(0, 99),
}


@given(transposed=st.booleans(), **described)
@settings(max_examples=200, deadline=None)
def test_counts_time_and_energy_of_products(card, transposed, shape, seed, **parts):
    array, rng = programmed(card, shape, seed=seed, **parts)
    check(array, rng.standard_normal((seed % 3, shape[0] if transposed else shape[1])), transposed=transposed)


@given(
    transposed=st.booleans(),
    part=st.tuples(st.sampled_from((0.0, 0.3, 0.7, 1.0)), st.sampled_from((0.3, 0.7, 1.0))),
    **described,
)
@settings(max_examples=200, deadline=None)
def test_counts_time_and_energy_of_products_of_which_a_gate_leaves_a_part(
    card, transposed, part, shape, seed, **parts
):
    array, rng = programmed(card, shape, seed=seed, **parts)
    on = [np.flatnonzero(rng.random(n) < share).tolist() for n, share in zip(shape, part, strict=True)]
    x = rng.standard_normal((1 + seed % 2, shape[0] if transposed else shape[1]))
    check(array, x, transposed=transposed, on=on)


def test_counts_time_and_energy_of_cells_with_their_own_conductances(card):
    # 10 x 11 on tiles of 3 x 4 weights, written by published statistics, relaxed, in both directions
    rng = np.random.default_rng(0)
    preset = card(relaxation=True, tiles={"rows": 6, "cols": 4}, periphery={"columns_per_adc": 3})
    for transposed, width in ((False, 11), (True, 10)):
        chip = Chip(preset, statistical=True)
        array = chip.program(rng.standard_normal((10, 11)), name="w", ranges=Ranges(0.8, -3, 3))
        chip.advance(5e4)
        check(array, rng.standard_normal((4, width)), transposed=transposed)


@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 7)),
    size=st.tuples(st.integers(2, 5), st.integers(2, 7)),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_used_cells_do_not_depend_on_the_tile_size(card, shape, size, seed):
    weight = np.random.default_rng(seed).standard_normal(shape)
    chip = Chip(card(tiles={"rows": size[0], "cols": size[1]}))
    array = chip.program(weight, name="w")
    assert array.placement.cells == 2 * shape[0] * shape[1]
    reads = 0
    for pulses in array.wear[np.nonzero(array.conductance())]:
        reads += 2 + int(pulses)
    assert chip.ledger.total("verify_read") == reads


@pytest.mark.parametrize(
    ("pair", "tiles", "drives", "codes"),
    [("columns", 3, 300, 30), ("rows", 5, 600, 50), ("arrays", 6, 600, 30)],
)
def test_a_worked_example(card, pair, tiles, drives, codes):
    # 10 x 300 on tiles of 128 x 64, 8 bits; cells 6,000, input bits 2,400. A row pair halves the inputs of a tile (64), and drives
    # two word lines per input; a pair in two arrays takes two arrays, and one word line of each
    chip = Chip(card(tiles={"rows": 128, "cols": 64}, mapping={"pair": pair}), statistical=True)
    array = chip.program(np.ones((10, 300)), name="w", ranges=Ranges(1.0, -1, 1))
    with chip.ledger.scope(phase="forward"):
        array.mvm(np.ones(300))
    got = {
        a: chip.ledger.total(a, phase="forward")
        for a in ("dac_drive", "array_read", "adc_conversion", "sram_read_bit")
    }
    assert got == {"dac_drive": drives, "array_read": 6000, "adc_conversion": codes, "sram_read_bit": 2400}
    assert chip.tiles_used == tiles


def test_the_backward_product_is_booked_and_its_weights_come_from_dram_once_a_step(card):
    chip = Chip(card(), backward="nominal")
    layer = convert(torch.nn.Sequential(torch.nn.Linear(4, 3, bias=False)), chip)
    chip.arrays["0"].ranges = Ranges(1.0, -3, 3)
    for step in range(2):
        chip.next_event()
        for _ in range(2):
            x = torch.ones(5, 4, requires_grad=True)
            out = layer(x).sum()
            with chip.ledger.scope(phase="backward"):
                out.backward()
        booked = {
            a: chip.ledger.total(a, phase="backward")
            for a in ("digital_mul", "digital_add", "dram_read_bit", "sram_write_bit")
        }
        macs = 2 * (step + 1) * 5 * 12
        assert booked == {
            "digital_mul": macs,
            "digital_add": macs,
            "dram_read_bit": (step + 1) * 16 * 12,
            "sram_write_bit": (step + 1) * 16 * 12,
        }


@pytest.fixture(scope="module")
def bert():
    """A tiny BERT in float64 (so that no rounding moves a code), 64 texts of 1 to 9 tokens."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    model = BertModel(BertConfig(vocab_size=50, max_position_embeddings=16, **sizes)).double().eval()
    lengths = torch.randint(1, 10, (64,))
    return model, [torch.randint(1, 50, (int(n),)) for n in lengths]


def batches(texts, size):
    for start in range(0, len(texts), size):
        chunk = texts[start : start + size]
        ids = torch.nn.utils.rnn.pad_sequence(chunk, batch_first=True)
        lengths = torch.tensor([len(t) for t in chunk])
        mask = (torch.arange(ids.shape[1])[None, :] < lengths[:, None]).long()
        yield start, {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def test_pads_are_neither_driven_nor_booked_so_batching_changes_no_row(card, bert):
    model, texts = bert
    chip = Chip(card(relaxation=True, noise=True), statistical=True)
    convert(model, chip)
    chip.calibrate(model, [b for _, b in batches(texts, 16)])
    results = {}
    for size in (1, 7, 64):
        with chip.ledger.scope(task=f"batches of {size}", phase="eval"):
            for start, batch in batches(texts, size):
                with chip.samples_from(start):
                    hidden = model(**batch).last_hidden_state
                for i, row in enumerate(hidden):
                    n = len(texts[start + i])
                    results.setdefault(start + i, []).append(row[:n].numpy())
    rows = chip.ledger.rows(chip.preset.prices)
    by_size = {
        size: [
            {**r, "task": ""} for r in rows if r["task"] == f"batches of {size}"
        ]
        for size in (1, 7, 64)
    }  # fmt: skip
    for size in (7, 64):
        for a, b in zip(by_size[1], by_size[size], strict=True):
            assert {**a, "energy_J": 0} == {**b, "energy_J": 0}
            assert a["energy_J"] == pytest.approx(b["energy_J"], rel=1e-9)
    tokens = sum(len(t) for t in texts)
    query = "encoder.layer.0.attention.self.query"
    assert chip.ledger.total("adc_conversion", task="batches of 7", layer=query) == tokens * 16
    assert chip.ledger.total("adc_conversion", task="batches of 7", layer="pooler.dense") == 64 * 16
    for single, seven, all_at_once in results.values():
        np.testing.assert_allclose(seven, single, atol=1e-9)
        np.testing.assert_allclose(all_at_once, single, atol=1e-9)
