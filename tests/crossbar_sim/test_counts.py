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


def tiles(array):
    """Tiles of a placed matrix: number, word lines and outputs, found by cutting the matrix into blocks."""
    p = array.placement
    assert p.rows_per_tile <= array.chip.preset.tiles.rows
    assert 2 * p.cols_per_tile <= array.chip.preset.tiles.cols
    for tr in range(p.row_tiles):
        for tc in range(p.col_tiles):
            rows = range(tr * p.rows_per_tile, min((tr + 1) * p.rows_per_tile, p.inputs))
            cols = range(tc * p.cols_per_tile, min((tc + 1) * p.cols_per_tile, p.outputs))
            yield tr * p.col_tiles + tc, rows, cols


def walk_a_word_line(array, x, cells, counts, joules):
    """One input drives one word line of one tile; cells [sign, cols]."""
    p = array.chip.preset.periphery
    k = 2 ** (p.dac_bits - 1) - 1
    for _ in range(p.dac_bits):
        counts["sram_read_bit"] += 1
    counts["dac_drive"] += 1
    code = np.rint((np.clip(x / array.ranges.dac, -1, 1) + 1) * k) - k
    for cell in cells.ravel():
        counts["array_read"] += 1
        joules.append((code / k * p.read_voltage) ** 2 * cell * p.read_width)


def walk(array, x):
    """Play products with x [vectors, n] event by event; returns counts, slots and the energy of the cells in J."""
    counts, slots, joules = Counter(), Counter(), []
    g = array.conductance()
    for vector in x:
        in_turn = 0
        for tile, rows, cols in tiles(array):
            for i in rows:
                walk_a_word_line(array, vector[i], g[tile, 0, :, i - rows[0], : len(cols)], counts, joules)
            for _ in cols:
                for event in ("sample_hold", "adc_conversion", "shift_add"):
                    counts[event] += 1
            in_turn = max(in_turn, min(array.chip.preset.periphery.columns_per_adc, len(cols)))
        slots["array_read"] += 1  # all tiles at once
        slots["adc_conversion"] += in_turn
        for _ in range(array.placement.outputs):
            counts["digital_mul"] += 1
            for _ in range(16):
                counts["sram_write_bit"] += 1
    return counts, slots, fsum(joules)


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 11)),
    size=st.tuples(st.integers(1, 6), st.integers(2, 9)),
    per_adc=st.integers(1, 5),
    vectors=st.integers(0, 3),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_counts_time_and_energy_of_products(card, shape, size, per_adc, vectors, seed):
    rng = np.random.default_rng(seed)
    preset = card(
        relaxation=True,
        tiles={"rows": size[0], "cols": size[1]},
        periphery={"columns_per_adc": per_adc, "dac_bits": 5},
    )
    chip = Chip(preset, statistical=True)
    array = chip.program(rng.standard_normal(shape), name="w", ranges=Ranges(0.8, -3, 3))
    x = rng.standard_normal((vectors, shape[1]))
    with chip.ledger.scope(phase="forward"):
        array.mvm(x)
    counts, slots, joules = walk(array, x)
    rows = {r["action"]: r for r in chip.ledger.rows(preset.prices) if r["phase"] == "forward"}
    assert {a: r["count"] for a, r in rows.items() if r["count"]} == counts
    assert rows["array_read"]["energy_J"] == pytest.approx(joules, rel=1e-12)
    assert rows["array_read"]["time_s"] == pytest.approx(slots["array_read"] * 2.7e-7)
    assert rows["adc_conversion"]["time_s"] == pytest.approx(slots["adc_conversion"] * 0.83e-9)


@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 7)),
    size=st.tuples(st.integers(1, 5), st.integers(2, 7)),
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


def test_a_worked_example(card):
    # 10 x 300 on tiles of 128 x 64, 8 bits: 3 tiles; drives 300, cells 6,000, conversions 30, input bits 2,400
    chip = Chip(card(tiles={"rows": 128, "cols": 64}), statistical=True)
    array = chip.program(np.ones((10, 300)), name="w", ranges=Ranges(1.0, -1, 1))
    with chip.ledger.scope(phase="forward"):
        array.mvm(np.ones(300))
    got = {
        a: chip.ledger.total(a, phase="forward")
        for a in ("dac_drive", "array_read", "adc_conversion", "sram_read_bit")
    }
    assert got == {"dac_drive": 300, "array_read": 6000, "adc_conversion": 30, "sram_read_bit": 2400}
    assert chip.tiles_used == 3


def test_the_backward_product_is_booked_and_its_weights_come_from_dram_once_a_step(card):
    chip = Chip(card())
    layer = convert(torch.nn.Sequential(torch.nn.Linear(4, 3)), chip)
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
