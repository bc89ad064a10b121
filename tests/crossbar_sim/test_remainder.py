"""What stays digital in a transformer, against a walk that increments per token, head, key and word."""

import copy
import pickle
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    MPNetConfig,
    MPNetModel,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTModel,
)

from crossbar_sim import Chip, convert, revert
from crossbar_sim import cost_digital as digital
from crossbar_sim.chip import Site
from crossbar_sim.errors import ConfigError
from crossbar_sim.layers import CrossbarProduct, DigitalProduct

WORD = 16


ACTION = {
    "mul": "digital_mul",
    "add": "digital_add",
    "function": "digital_function",
    "read": "sram_read_bit",
    "write": "sram_write_bit",
    "keep": "activation_write_bit",
    "fetch": "activation_read_bit",
}


class Walk:
    """Counts of one pass forward and one backward; every method is one thing that a digital unit does, word by word."""

    def __init__(self):
        self.forward, self.backward = Counter(), Counter()

    def do(self, phase, **events):
        counts = getattr(self, phase)
        for event, count in events.items():
            if count:
                counts[ACTION[event]] += count

    def word(self, phase, operands=1, **events):
        """One element of a vector: operands come from SRAM, the result goes there."""
        self.do(phase, read=WORD * operands, write=WORD, **events)

    def added(self, phase, width):
        for _ in range(width):
            self.word(phase, 2, add=1)

    def lookup(self, width, rows):
        """A table of more than 8 KB is in DRAM."""
        source = "dram_read_bit" if rows * width * WORD > 8 * 1024 * 8 else "sram_read_bit"
        for _ in range(width):
            self.forward[source] += WORD
            self.forward["sram_write_bit"] += WORD

    def bias(self, width):
        for _ in range(width):
            self.do("forward", add=1)

    def macs(self, phase, count):
        for _ in range(count):
            self.do(phase, mul=1, add=1, read=WORD)

    def dense(self, outputs, inputs, *, biased, grad):
        self.macs("forward", outputs * inputs)
        if biased:
            self.bias(outputs)
        if grad:
            self.macs("backward", outputs * inputs)

    def norm(self, n, *, rms, grad):
        centred = not rms
        for i in range(n):
            if centred:
                self.do("forward", add=1 if i else 0)  # the sum of the mean
                self.do("forward", add=1)  # minus the mean
                self.do("forward", add=1)  # the shift
            self.do("forward", mul=1, add=1 if i else 0)  # squares and their sum
            self.word("forward", mul=2)  # times 1/sigma, times the gain
        self.do("forward", mul=1 + centred, add=1, function=1)
        if not grad:
            return
        for i in range(n):
            self.do("forward", keep=WORD)
            self.do("backward", fetch=WORD)
            self.do("backward", mul=1)  # gain
            self.do("backward", mul=1, add=1 if i else 0)  # g h and its sum
            if centred:
                self.do("backward", add=1 if i else 0)  # sum of g
                self.do("backward", add=1)
            self.do("backward", mul=1, add=1)  # minus h mean(g h)
            self.word("backward", mul=1)  # over sigma
        self.do("backward", mul=1 + centred, fetch=WORD)
        self.do("forward", keep=WORD)

    def activation(self, n, kind, *, grad, reaches=True):
        """`reaches`: whether a gradient comes back at all."""
        forward, backward, bits = {
            "relu": ({"add": 1}, {"add": 1}, 1),
            "gelu": ({"mul": 3, "add": 1, "function": 1}, {"mul": 7, "add": 2, "function": 2}, WORD),
            "gelu_tanh": ({"mul": 6, "add": 2, "function": 1}, {"mul": 10, "add": 5, "function": 1}, WORD),
            "silu": ({"mul": 1, "function": 1}, {"mul": 3, "add": 2, "function": 1}, WORD),
            "tanh": ({"function": 1}, {"mul": 2, "add": 1}, WORD),
        }[kind]
        for _ in range(n):
            self.word("forward", **forward, keep=bits if grad else 0)
            if grad and reaches:
                self.word("backward", **backward, fetch=bits)

    def gate(self, n, *, grad):
        for _ in range(n):
            self.word("forward", 2, mul=1, keep=2 * WORD if grad else 0)
            if grad:
                self.do("backward", mul=2, fetch=2 * WORD, read=WORD, write=2 * WORD)

    def rotate(self, phase, n):
        for _ in range(n):
            self.word(phase, 3, mul=2, add=1)

    def score(self, first, wants, *, width, scaled, biased):
        """One query, head and key; `first`: no key before it."""
        scores = bool(wants & {"q", "k"})
        self.macs("forward", 2 * width)
        self.do("forward", mul=scaled, add=biased, read=WORD * biased)
        self.do("forward", add=not first)  # the largest
        self.do("forward", add=1, function=1)  # exp(s - largest)
        self.do("forward", add=not first)  # their sum
        self.word("forward", mul=1)
        self.macs("backward", width * (("v" in wants) + scores + ("q" in wants) + ("k" in wants)))
        if wants:
            self.do("forward", keep=WORD)
            self.do("backward", fetch=WORD)
        if scores:
            self.word("backward", mul=2 + scaled, add=1 + (not first))

    def keep(self, words, needed):
        for _ in range(words if needed else 0):
            self.do("forward", keep=WORD)
            self.do("backward", fetch=WORD)

    def turn(self, width, needed):
        """A head of a query or key."""
        self.rotate("forward", width)
        self.rotate("backward", width if needed else 0)

    def attention(self, pairs, keys, *, shape, hidden, scaled, biased, wants, cross=False, turned=False):
        """A text's: `pairs` - for each query the number of keys that it sees; wants - which of q, k, v, x, states need a gradient."""
        heads, shared, width = shape
        for seen in pairs:
            for _ in range(heads):
                for key in range(seen):
                    self.score(key == 0, wants & set("qkv"), width=width, scaled=scaled, biased=biased)
                self.do("forward", function=1)  # one over the sum
                self.keep(width, "k" in wants)
            for letter, count in (("q", heads), ("k", shared)):
                for _ in range(count * turned):
                    self.turn(width, letter in wants)
            self.added("forward", hidden)
            for _ in range(("x" in wants) * (1 if cross else 3)):
                self.added("backward", hidden)
        for _ in range(keys):
            self.keep(shared * width, "q" in wants)
            self.keep(shared * width, wants & {"q", "k"})
            for _ in range(2 * ("states" in wants)):
                self.added("backward", hidden)


def booked(chip, phase):
    """The digital remainder's totals by action."""
    counts = Counter()
    for key, count in chip.ledger.counts.items():
        if key.matrix == "rest" and key.phase == phase and count:
            counts[key.action] += count
    return counts


def step(model, chip, loss, **inputs):
    """One pass forward and, where something needs a gradient, backward."""
    with chip.ledger.scope(phase="forward"):
        value = loss(model(**inputs))
    if value.requires_grad:
        with chip.ledger.scope(phase="backward"):
            value.backward()


def frozen(model):
    return model.eval().requires_grad_(False)


def mask_of(lengths):
    mask = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, length in zip(mask, lengths, strict=True):
        row[:length] = 1
    return mask


def on_blocks(name, module):
    return any(part.isdecimal() for part in name.split("."))


TABLES = (5000, 512, 2)
"""Rows of the word, position and type tables."""
LENGTHS = st.lists(st.integers(1, 4), min_size=1, max_size=3)


def walk_bert(
    walk, lengths, *, hidden, heads, inner, layers, trained, kind, tables=TABLES, scaled=1, biased=0
):
    """trained: the linears whose bias trains, as (layer, q | k | v | o | in | out)."""
    widths = {"shape": (heads, heads, hidden // heads), "hidden": hidden}
    for n in lengths:
        for _ in range(n):
            for look, rows in enumerate(tables):
                walk.lookup(hidden, rows)
                if look:
                    walk.added("forward", hidden)
            walk.norm(hidden, rms=False, grad=False)
        x = False
        for layer in range(layers):
            wants = {p for p in "qkv" if x or (layer, p) in trained} | ({"x"} if x else set())
            walk.attention([n] * n, n, **widths, scaled=scaled, biased=biased, wants=wants)
            mid = x or bool(wants) or (layer, "o") in trained
            up = mid or (layer, "in") in trained
            for _ in range(n):
                for width in (hidden, hidden, hidden, hidden, inner, hidden):
                    walk.bias(width)
                walk.norm(hidden, rms=False, grad=mid)
                walk.activation(inner, kind, grad=up)
                walk.added("forward", hidden)
                if mid:
                    walk.added("backward", hidden)
            x = up or (layer, "out") in trained
            for _ in range(n):
                walk.norm(hidden, rms=False, grad=x)
        walk.dense(hidden, hidden, biased=True, grad=False)
        walk.activation(hidden, "tanh", grad=x, reaches=False)
    return walk


BERT_LINEARS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "o": "attention.output.dense",
    "in": "intermediate.dense",
    "out": "output.dense",
}


def bert(heads, width, inner, layers, act="gelu"):
    sizes = {"hidden_size": heads * width, "num_hidden_layers": layers, "num_attention_heads": heads}
    return frozen(BertModel(BertConfig(**sizes, intermediate_size=inner, vocab_size=5000, hidden_act=act)))


@settings(max_examples=120, deadline=None)
@given(
    lengths=LENGTHS,
    heads=st.integers(1, 3),
    width=st.integers(2, 3),
    inner=st.integers(1, 6),
    layers=st.integers(1, 2),
    act=st.sampled_from([("gelu", "gelu"), ("relu", "relu"), ("gelu_new", "gelu_tanh"), ("silu", "silu")]),
    data=st.data(),
)
def test_a_bert_books_what_a_walk_over_tokens_heads_and_keys_counts(
    lengths, heads, width, inner, layers, act, data
):
    model, chip = bert(heads, width, inner, layers, act[0]), Chip("ideal")
    convert(model, chip, where=on_blocks)
    places = st.tuples(st.integers(0, layers - 1), st.sampled_from(sorted(BERT_LINEARS)))
    trained = data.draw(st.sets(places, max_size=3))
    for layer, part in trained:
        model.get_submodule(f"encoder.layer.{layer}.{BERT_LINEARS[part]}").bias.requires_grad_(True)
    mask = mask_of(lengths)
    step(
        model,
        chip,
        lambda out: out.last_hidden_state.sum(),
        input_ids=torch.zeros_like(mask),
        attention_mask=mask,
    )
    sizes = {"hidden": heads * width, "heads": heads, "inner": inner, "layers": layers}
    walk = walk_bert(Walk(), lengths, **sizes, trained=trained, kind=act[1])
    assert booked(chip, "forward") == walk.forward
    assert booked(chip, "backward") == walk.backward


@pytest.mark.parametrize("family", ["roberta", "mpnet"])
def test_its_relatives_are_recognised(family):
    sizes = {"hidden_size": 4, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 5}
    config, model = {"roberta": (RobertaConfig, RobertaModel), "mpnet": (MPNetConfig, MPNetModel)}[family]
    chip, lengths = Chip("ideal"), [3, 1, 4]
    encoder = convert(frozen(model(config(**sizes, vocab_size=5000))), chip, where=on_blocks)
    mask = mask_of(lengths)
    step(encoder, chip, lambda out: out.last_hidden_state.sum(), input_ids=5 + mask, attention_mask=mask)
    # MPNet has no token types; its positions bias the scores
    about = {"tables": TABLES, "biased": 0} if family == "roberta" else {"tables": (5000, 512), "biased": 1}
    walk = walk_bert(
        Walk(), lengths, hidden=4, heads=2, inner=5, layers=2, trained=set(), kind="gelu", **about
    )
    assert booked(chip, "forward") == walk.forward


class T5Walk(Walk):
    """The walk through a T5 of these sizes."""

    def __init__(self, *, hidden, heads, width, inner, layers, gated, vocabulary):
        super().__init__()
        self.hidden, self.inner, self.layers, self.gated, self.vocabulary = (
            hidden,
            inner,
            layers,
            gated,
            vocabulary,
        )
        self.sizes = {"shape": (heads, heads, width), "hidden": hidden, "scaled": 0}

    def norms(self, tokens, grad):
        for _ in range(tokens):
            self.norm(self.hidden, rms=True, grad=grad)

    def feed_forward(self, tokens, grad):
        self.norms(tokens, grad)
        for _ in range(tokens):
            self.activation(self.inner, "gelu_tanh" if self.gated else "relu", grad=grad)
            if self.gated:
                self.gate(self.inner, grad=grad)
            self.added("forward", self.hidden)
            for _ in range((1 + self.gated) * grad):
                self.added("backward", self.hidden)

    def self_attention(self, pairs, grad):
        self.norms(len(pairs), grad)
        wants = set("qkvx") if grad else set()
        self.attention(pairs, len(pairs), **self.sizes, biased=1, wants=wants)

    def encode(self, n, grad):
        for _ in range(self.layers):
            self.self_attention([n] * n, grad)
            self.feed_forward(n, grad)
        self.norms(n, grad)

    def decode(self, n, m, x, states):
        """m tokens that look at n states; x, states: whether their gradients are wanted."""
        for _ in range(self.layers):
            self.self_attention([i + 1 for i in range(m)], x)
            self.norms(m, x)
            wants = (set("qx") if x else set()) | ({"k", "v", "states"} if states else set())
            self.attention([n] * m, n, **self.sizes, biased=0, wants=wants, cross=True)
            x = x or states
            self.feed_forward(m, x)
        self.norms(m, x)
        for _ in range(m):
            self.dense(self.vocabulary, self.hidden, biased=False, grad=x)


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(st.tuples(st.integers(1, 4), st.just(2)), min_size=1, max_size=3),
    heads=st.integers(1, 2),
    width=st.integers(1, 3),
    hidden=st.integers(2, 5),
    gated=st.booleans(),
    encoder=st.booleans(),
    decoder=st.booleans(),
)
def test_a_t5_books_what_the_walk_counts(texts, heads, width, hidden, gated, encoder, decoder):
    sources, targets = [n for n, _ in texts], [m for _, m in texts]
    sources = [3, *sources[1:]] if max(sources) == targets[0] else sources  # as long as the decoder's texts
    sizes = {
        "d_model": hidden,
        "d_kv": width,
        "num_heads": heads,
        "d_ff": 3,
        "num_layers": 2,
        "vocab_size": 5,
    }
    config = T5Config(**sizes, feed_forward_proj="gated-gelu" if gated else "relu", decoder_start_token_id=0)
    model, chip = frozen(T5ForConditionalGeneration(config)), Chip("ideal")
    convert(model, chip, where=on_blocks)
    mask = mask_of(sources)
    inputs = {
        "inputs_embeds": torch.zeros(*mask.shape, hidden, requires_grad=encoder),
        "decoder_inputs_embeds": torch.zeros(len(targets), targets[0], hidden, requires_grad=decoder),
    }
    step(model, chip, lambda out: out.logits.sum(), attention_mask=mask, **inputs)
    about = {"hidden": hidden, "heads": heads, "width": width, "inner": 3, "layers": 2, "gated": gated}
    walk = T5Walk(**about, vocabulary=5)
    for n, m in zip(sources, targets, strict=True):
        walk.encode(n, encoder)
        walk.decode(n, m, decoder, encoder)
    assert booked(chip, "forward") == walk.forward
    assert booked(chip, "backward") == walk.backward


@pytest.mark.parametrize("argument", ["decoder_input_ids", "labels"])
def test_a_mask_that_could_be_taken_for_the_decoders_is_refused(argument):
    sizes = {"d_model": 4, "d_kv": 2, "num_heads": 1, "d_ff": 3, "num_layers": 1, "vocab_size": 5}
    config = T5Config(**sizes, decoder_start_token_id=0, pad_token_id=0)
    model, chip = frozen(T5ForConditionalGeneration(config)), Chip("ideal")
    convert(model, chip)
    ids = torch.ones(2, 3, dtype=torch.long)
    inputs = {"input_ids": ids, argument: ids}
    with pytest.raises(ConfigError, match=rf"{argument}: .* \(3 positions\).*pad the encoder's texts"):
        model(**inputs, attention_mask=mask_of([3, 2]))
    model(**inputs)  # nothing is left of the mask
    model(**inputs, attention_mask=mask_of([3, 3]))  # nothing is padding
    model(**{**inputs, argument: ids[:, :2].clone()}, attention_mask=mask_of([3, 2]))


@settings(max_examples=50, deadline=None)
@given(
    lengths=LENGTHS,
    shared=st.integers(1, 2),
    groups=st.integers(1, 2),
    width=st.sampled_from([2, 4]),
    inner=st.integers(1, 5),
    grad=st.booleans(),
    cache=st.booleans(),
)
def test_a_llama_books_what_the_walk_counts(lengths, shared, groups, width, inner, grad, cache):
    heads = shared * groups
    hidden = heads * width
    sizes = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": 2, "vocab_size": 7}
    many = {"num_attention_heads": heads, "num_key_value_heads": shared}
    model, chip = frozen(LlamaForCausalLM(LlamaConfig(**sizes, **many))), Chip("ideal")
    convert(model, chip, where=on_blocks)
    mask = mask_of(lengths)
    x = torch.zeros(*mask.shape, hidden, requires_grad=grad)
    step(model, chip, lambda out: out.logits.sum(), inputs_embeds=x, attention_mask=mask, use_cache=cache)
    walk = Walk()
    for n in lengths:
        for _ in range(2):
            for _ in range(n):
                walk.norm(hidden, rms=True, grad=grad)
                walk.norm(hidden, rms=True, grad=grad)
                walk.activation(inner, "silu", grad=grad)
                walk.gate(inner, grad=grad)
                walk.added("forward", hidden)
                for _ in range(2 * grad):
                    walk.added("backward", hidden)
            about = {"shape": (heads, shared, width), "hidden": hidden}
            seen = [i + 1 for i in range(n)]
            wants = set("qkvx") if grad else set()
            walk.attention(seen, n, **about, scaled=1, biased=0, wants=wants, turned=True)
        for _ in range(n):
            walk.norm(hidden, rms=True, grad=grad)
            walk.dense(7, hidden, biased=False, grad=grad)
    assert booked(chip, "forward") == walk.forward
    assert booked(chip, "backward") == walk.backward


@pytest.mark.parametrize("first", [True, False])
def test_the_attention_of_torch_books_its_projections_too(first):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.attention = (
                nn.Linear(4, 4, bias=False),
                nn.MultiheadAttention(4, 2, batch_first=first),
            )

        def forward(self, x, y):
            return self.attention(self.linear(x), y, y)[0]

    model, chip = frozen(Model()), Chip("ideal")
    convert(model, chip)
    x, y = torch.zeros(2, 3, 4, requires_grad=True), torch.zeros(2, 5, 4)
    x, y = (x, y) if first else (x.detach().transpose(0, 1).requires_grad_(True), y.transpose(0, 1))
    step(model, chip, torch.Tensor.sum, x=x, y=y)
    walk = Walk()
    for _ in range(2):
        walk.attention([5] * 3, 5, shape=(2, 2, 2), hidden=4, scaled=1, biased=0, wants=set("qx"), cross=True)
        for _ in range(2 * 3):
            walk.dense(4, 4, biased=True, grad=True)
        for _ in range(2 * 5):
            walk.dense(4, 4, biased=True, grad=False)
    assert booked(chip, "forward") == walk.forward
    assert booked(chip, "backward") == walk.backward


def test_a_text_that_is_continued_sees_the_keys_of_earlier_calls():
    sizes = {"hidden_size": 4, "intermediate_size": 3, "num_hidden_layers": 1, "vocab_size": 7}
    model, chip = frozen(LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=1))), Chip("ideal")
    convert(model, chip, where=on_blocks)
    at_once = torch.zeros(1, 5, dtype=torch.long)
    with chip.ledger.scope(task="at once"), torch.no_grad():
        model(input_ids=at_once)
    with chip.ledger.scope(task="in parts"), torch.no_grad():
        past = model(input_ids=at_once[:, :3], use_cache=True).past_key_values
        for _ in range(2):
            past = model(input_ids=at_once[:, :1], use_cache=True, past_key_values=past).past_key_values
    for action in ("digital_mul", "digital_function", "sram_write_bit"):
        together = chip.ledger.total(action, task="at once", matrix="rest")
        assert together == chip.ledger.total(action, task="in parts", matrix="rest") > 0


@pytest.mark.parametrize("grad", [False, True])
def test_a_vit_books_what_the_walk_counts(grad):
    hidden, heads, inner, side = 4, 2, 5, 2
    sizes = {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": 2,
        "image_size": 2 * side,
    }
    config = ViTConfig(**sizes, num_attention_heads=heads, patch_size=2, num_channels=1)
    model, chip = frozen(ViTModel(config, add_pooling_layer=False)), Chip("ideal")
    convert(model, chip)
    images = torch.zeros(3, 1, 2 * side, 2 * side, requires_grad=grad)
    step(model, chip, lambda out: out.last_hidden_state.sum(), pixel_values=images)
    walk, n = Walk(), side * side + 1
    about = {"shape": (heads, heads, hidden // heads), "hidden": hidden}
    for _ in range(3):
        for _ in range(side * side):
            walk.bias(hidden)
        for _ in range(n):
            walk.added("forward", hidden)
        for _ in range(2):
            wants = set("qkvx") if grad else set()
            walk.attention([n] * n, n, **about, scaled=1, biased=0, wants=wants)
            for _ in range(n):
                for width in (hidden, hidden, hidden, hidden, inner, hidden):
                    walk.bias(width)
                walk.norm(hidden, rms=False, grad=grad)
                walk.norm(hidden, rms=False, grad=grad)
                walk.activation(inner, "gelu", grad=grad)
                walk.added("forward", hidden)
                if grad:
                    walk.added("backward", hidden)
        for _ in range(n):
            walk.norm(hidden, rms=False, grad=grad)
    assert booked(chip, "forward") == walk.forward
    assert booked(chip, "backward") == walk.backward


@pytest.mark.parametrize("size", [1, 7])
def test_the_same_texts_in_other_batches_book_the_same(size):
    lengths = [5, 2, 1, 4, 3, 5, 2, 2, 1, 6]
    rows = []
    for batch in (64, size):
        model, chip = bert(2, 2, 5, 2), Chip("ideal")
        convert(model, chip)
        model.encoder.layer[0].attention.self.query.bias.requires_grad_(True)
        for first in range(0, len(lengths), batch):
            mask = mask_of(lengths[first : first + batch])
            ids = torch.zeros_like(mask)
            step(model, chip, lambda out: out.last_hidden_state.sum(), input_ids=ids, attention_mask=mask)
        rows.append({key: count for key, count in chip.ledger.counts.items() if count})
    assert rows[0] == rows[1]
    assert any(key.matrix == "rest" and key.phase == "backward" for key in rows[0])


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_is_computed_again_is_booked_again(reentrant):
    def counts(again):
        model, chip = bert(2, 2, 5, 1), Chip("ideal")
        convert(model, chip)
        block, states = model.encoder.layer[0], torch.zeros(2, 3, 4, requires_grad=True)
        run = torch.utils.checkpoint.checkpoint if again else lambda f, x, **_: f(x)
        early = torch.utils.checkpoint.set_checkpoint_early_stop  # torch leaves out what nothing reads
        with chip.ledger.scope(phase="forward"), early(False):
            out = run(block, states, use_reentrant=reentrant)
        with chip.ledger.scope(phase="backward"):
            out.sum().backward()
        return booked(chip, "forward"), booked(chip, "backward")

    plain, again = counts(False), counts(True)
    arithmetic = {k: n for k, n in plain[0].items() if k != "activation_write_bit"}
    assert {k: n for k, n in again[0].items() if k != "activation_write_bit"} == arithmetic
    assert Counter(again[1]) == plain[0] + plain[1]


def test_without_a_gradient_nothing_is_kept():
    model, chip = bert(2, 2, 5, 2), Chip("ideal")
    convert(model, chip)
    ids = torch.zeros(2, 3, dtype=torch.long)
    model(input_ids=ids)
    model.encoder.layer[1].output.dense.bias.requires_grad_(True)
    with torch.no_grad():
        model(input_ids=ids)
    assert not chip.ledger.total("activation_write_bit")
    model(input_ids=ids)
    # only the last block's normalisation and the pooler's tanh lie above what trains
    assert chip.ledger.total("activation_write_bit") == WORD * (2 * 3 * (4 + 1) + 2 * 4)


def test_what_is_kept_is_read_once():
    model, chip = bert(2, 2, 5, 2), Chip("ideal")
    convert(model, chip, where=on_blocks)
    x = torch.zeros(2, 3, 4, requires_grad=True)
    model(inputs_embeds=x).pooler_output.sum().backward()
    kept, read = (chip.ledger.total(f"activation_{way}_bit") for way in ("write", "read"))
    assert kept == read > 0


def test_a_trained_shift_books_its_gradient_as_the_methods_own():
    model, chip = bert(1, 4, 5, 1), Chip("ideal")
    convert(model, chip)
    layer = model.encoder.layer[0]
    layer.output.LayerNorm.bias.requires_grad_(True)
    layer.output.dense.bias.requires_grad_(True)
    model(input_ids=torch.zeros(2, 3, dtype=torch.long)).last_hidden_state.sum().backward()
    for name in ("encoder.layer.0.output.LayerNorm", "encoder.layer.0.output.dense"):
        assert chip.ledger.total("digital_add", matrix="own", layer=name) == 2 * 3 * 4


def own(chip, layer):
    """What the method itself books at a layer, by action."""
    rows = chip.ledger.counts.items()
    return Counter({key.action: n for key, n in rows if (key.layer, key.matrix) == (layer, "own") and n})


def test_gains_and_tables_that_train_book_their_gradients_as_the_methods_own():
    model, chip, lengths = bert(1, 4, 5, 1), Chip("ideal"), (3, 1)
    convert(model, chip, where=on_blocks)
    tables = [f"embeddings.{kind}_embeddings" for kind in ("word", "position", "token_type")]
    norms = [n for n, _ in model.named_modules() if n.endswith("LayerNorm")]
    for name in (*tables, *norms):
        model.get_submodule(name).weight.requires_grad_(True)
    ids = torch.zeros(2, 3, dtype=torch.long)
    step(model, chip, lambda out: out.last_hidden_state.sum(), input_ids=ids, attention_mask=mask_of(lengths))
    row, gain = Walk(), Walk()
    for _ in range(4 * sum(lengths)):
        row.word("backward", 2, add=1)  # the row's sum so far, plus a gradient
        gain.do("backward", mul=1, add=1)  # the sum so far, plus dy h
    assert [own(chip, name) for name in tables] == [
        row.backward
    ] * 3  # positions too, though looked up once for all texts
    assert len(norms) == 3
    assert [own(chip, name) for name in norms] == [gain.backward] * 3


def test_position_vectors_that_train_gather_their_gradient_from_every_text():
    config = ViTConfig(
        hidden_size=4, intermediate_size=5, num_hidden_layers=1, num_attention_heads=1, image_size=4,
        patch_size=2, num_channels=1,
    )  # fmt: skip
    model, chip = frozen(ViTModel(config, add_pooling_layer=False)), Chip("ideal")
    convert(model, chip)
    model.embeddings.position_embeddings.requires_grad_(True)
    step(model, chip, lambda out: out.last_hidden_state.sum(), pixel_values=torch.zeros(3, 1, 4, 4))
    walk = Walk()
    for _ in range(3 * 5):  # texts, and patches with the class's token
        walk.added("backward", 4)
    assert own(chip, "embeddings") == walk.backward


def test_a_gain_alone_keeps_the_normalised_vector_for_itself():
    model, chip = nn.Sequential(nn.RMSNorm(3), nn.Linear(3, 2)), Chip("ideal")
    convert(model, chip, where=["1"])
    model(torch.ones(5, 3)).sum().backward()
    vectors = {"activation_write_bit": WORD * 5 * 3, "activation_read_bit": WORD * 5 * 3}
    assert own(chip, "0") == {"digital_mul": 5 * 3, "digital_add": 5 * 3, **vectors}


def test_a_bias_by_position_that_trains_gathers_its_gradient_from_every_score():
    heads, lengths, targets = 2, (3, 1), 2
    sizes = {"d_model": 4, "d_kv": 2, "num_heads": heads, "d_ff": 3, "num_layers": 2, "vocab_size": 5}
    model, chip = (
        frozen(T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0))),
        Chip("ideal"),
    )
    convert(model, chip, where=on_blocks)
    for side in (model.encoder, model.decoder):
        side.block[0].layer[0].SelfAttention.relative_attention_bias.weight.requires_grad_(True)
    inputs = {"input_ids": torch.zeros(2, 3, dtype=torch.long), "attention_mask": mask_of(lengths)}
    decoder = torch.zeros(2, targets, dtype=torch.long)
    step(model, chip, lambda out: out.logits.sum(), **inputs, decoder_input_ids=decoder)
    seen = {"encoder": 0, "decoder": 0}
    for n in lengths:
        seen["encoder"] += n * n * heads
        for query in range(targets):
            seen["decoder"] += (query + 1) * heads
    for side, scores in seen.items():
        for block in range(2):
            assert own(chip, f"{side}.block.{block}.layer.0.SelfAttention") == {"digital_add": scores}
    assert not own(chip, "decoder.block.0.layer.1.EncDecAttention")


def test_a_digital_linear_that_trains_books_its_gradient_as_the_methods_own():
    model, chip = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), Chip("ideal")
    convert(model, chip, where=["0"])
    model(torch.zeros(5, 3)).sum().backward()
    assert chip.ledger.total("digital_mul", layer="1", matrix="rest") == 2 * (5 * 4 * 2)
    assert chip.ledger.total("digital_mul", layer="1", matrix="own") == 5 * 4 * 2
    assert chip.ledger.total("activation_write_bit", layer="1", matrix="own") == WORD * 5 * 4


@pytest.mark.parametrize("digital_product", [True, False])
def test_the_input_of_a_matrix_that_trains_is_kept(digital_product):
    chip, weight = Chip("ideal"), torch.ones(4, 3)
    master = nn.Parameter(weight)
    product = DigitalProduct(master, site=Site(chip, "layer", "A"))
    if not digital_product:
        product = CrossbarProduct(chip.program(weight.numpy(), name="a", matrix="A"), master=master)
    with torch.no_grad():
        product(torch.zeros(5, 3))
    assert not chip.ledger.total("activation_write_bit")
    product(torch.zeros(5, 3)).sum().backward()
    for way in ("write", "read"):
        assert chip.ledger.total(f"activation_{way}_bit", matrix="A") == WORD * 5 * 3


def test_revert_takes_the_hooks_away_and_convert_puts_them_there_once():
    model, chip = bert(2, 2, 5, 1), Chip("ideal")
    ids = torch.zeros(2, 3, dtype=torch.long)

    def run(task):
        with chip.ledger.scope(task=task), torch.no_grad():
            model(input_ids=ids)
        return {key._replace(task=""): n for key, n in chip.ledger.counts.items() if key.task == task}

    first = run_converted = (convert(model, chip), run("a"))[1]
    revert(model)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not run("b")
    convert(model, chip)
    assert run("c") == first == run_converted != {}


def test_copies_and_pickles_of_a_model_book_too():
    model, chip = bert(2, 2, 5, 1), Chip("ideal")
    convert(model, chip)
    ids = torch.zeros(2, 3, dtype=torch.long)
    with chip.ledger.scope(task="model"):
        model(input_ids=ids)
    with chip.ledger.scope(task="copy"):
        copy.deepcopy(model)(input_ids=ids)
    counts = [chip.ledger.total("digital_function", task=task) for task in ("model", "copy")]
    assert counts[0] == counts[1] > 0
    again = pickle.loads(pickle.dumps(model))
    chips = {p.array.chip for m in again.modules() for p in m.children() if hasattr(p, "array")}
    assert len(chips) == 1
    again(input_ids=ids)
    assert chips.pop().ledger.total("digital_function") == sum(counts) + counts[0]


def test_an_activation_that_is_not_known_is_told_of():
    model = nn.Sequential(nn.Linear(2, 2), nn.Softplus())
    with pytest.warns(UserWarning, match=r"'1' \(Softplus\) is not counted"):
        convert(model, Chip("ideal"))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (digital.mean_pool(1, 3, 2), {"digital_add": 4, "digital_mul": 2, "digital_function": 1}),
        (digital.unit_length(1, 3), {"digital_add": 2, "digital_mul": 6, "digital_function": 1}),
        (digital.cross_entropy(1, 2), {"digital_add": 4, "digital_mul": 2, "digital_function": 4}),
    ],
)
def test_the_head_by_hand(counts, expected):
    assert {k: v for k, v in counts.items() if k.startswith("digital")} == expected
