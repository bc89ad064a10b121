"""Digital work that a transformer keeps beside its arrays: how many operations and how much memory traffic it takes.

Conventions (docs/energy.md): words have WORD_BITS; a product reads its second operand from SRAM for every vector (no reuse); an
elementwise operation reads each operand once and writes its result once, and what follows it directly on the same element
is part of it; its own constants (gains, shifts) sit in registers. A comparison counts as an addition. exp, erf, tanh, the sigmoid, the logarithm, the
reciprocal and the reciprocal root are one `digital_function` each. What the backward pass needs is written to and read
from the memory of activations. Only real tokens are counted: pads are never computed.
"""

from __future__ import annotations

from collections import Counter
from types import MappingProxyType
from typing import NamedTuple

from crossbar_sim.cost import WORD_BITS, Counts

SRAM_BITS = 8 * 8192
"""What the SRAM holds that the prices are of: 8 KB."""


def total(*parts: Counts) -> Counts:
    """The sum of counts by action; actions that do not happen are left out."""
    summed: Counter[str] = Counter()
    for part in parts:
        summed.update(part)
    return {action: count for action, count in summed.items() if count}


def elementwise(elements: int, *, mul: int = 0, add: int = 0, function: int = 0, operands: int = 1) -> Counts:
    """So many operations per element of a vector whose operands come from SRAM and whose result goes there."""
    return {
        "digital_mul": mul * elements,
        "digital_add": add * elements,
        "digital_function": function * elements,
        "sram_read_bit": WORD_BITS * operands * elements,
        "sram_write_bit": WORD_BITS * elements,
    }


def kept(words: int, *, bits: int = WORD_BITS) -> Counts:
    """Words written in the forward pass for the backward pass."""
    return {"activation_write_bit": bits * words}


def fetched(words: int, *, bits: int = WORD_BITS) -> Counts:
    """Kept words read by the backward pass."""
    return {"activation_read_bit": bits * words}


def bias(outputs: int, vectors: int) -> Counts:
    """One addition per output, on its way to SRAM; the gradient of a trained bias takes as many."""
    return {"digital_add": outputs * vectors}


def added(vectors: int, width: int) -> Counts:
    """The sum of two vectors in SRAM: a residual connection, or gradients that meet where the forward pass branches."""
    return elementwise(width * vectors, add=1, operands=2)


def attention_products(pairs: int, heads: int, width: int, *, products: int = 2) -> Counts:
    """Products of attention: Q K^T and P V take `pairs` x heads x width multiply-adds each.

    pairs = sum over the texts of (query, key) pairs of real tokens: q k, or q (q + 1) / 2 where a token sees itself and those before
    it. The backward pass has up to four: dV = P^T dO, dP = dO V^T, dQ = dS K, dK = dS^T Q.
    """
    macs = products * pairs * heads * width
    return {"digital_mul": macs, "digital_add": macs, "sram_read_bit": WORD_BITS * macs}


def softmax(rows: int, scores: int, *, scaled: bool = False, biased: bool = False) -> Counts:
    """Probabilities of `scores` scores in `rows` rows: p = exp(s - max) / sum, where s is scaled, and biased by position, on the way.

    Per row of k: k - 1 comparisons, k subtractions, k exponentials, k - 1 additions, one reciprocal, k multiplications.
    """
    return {
        "digital_mul": (1 + scaled) * scores,
        "digital_add": (3 + biased) * scores - 2 * rows,
        "digital_function": scores + rows,
        "sram_read_bit": WORD_BITS * (1 + biased) * scores,
        "sram_write_bit": WORD_BITS * scores,
    }


def softmax_backward(rows: int, scores: int, *, scaled: bool = False) -> Counts:
    """Ds = p (dp - sum p dp), per row of k: 2 k multiplications, k - 1 additions, k subtractions; scaled as the scores are."""
    return {
        "digital_mul": (2 + scaled) * scores,
        "digital_add": 2 * scores - rows,
        "sram_read_bit": WORD_BITS * scores,
        "sram_write_bit": WORD_BITS * scores,
    }


def rotary(vectors: int, width: int) -> Counts:
    """Rotation of queries or keys by position: x cos + rotated(x) sin (Su et al. 2021); backward the same. Tables in SRAM."""
    return elementwise(width * vectors, mul=2, add=1, operands=3)


def norm(vectors: int, width: int, *, rms: bool, gain: bool = True, shift: bool = True) -> Counts:
    """Normalisation of vectors x [n] by mean and variance (Ba et al. 2016) or by the mean square (`rms`, Zhang & Sennrich 2019).

    Mean: n - 1 additions, 1 multiplication; centring: n subtractions (both left out by `rms`). Mean square: n multiplications,
    n - 1 additions, 1 multiplication; then 1 addition (epsilon) and 1 reciprocal root; n multiplications; gain and shift n each.
    """
    mul, add = width + 1 + width + gain * width, width + shift * width
    if not rms:
        mul, add = mul + 1, add + 2 * width - 1
    return {
        **elementwise(width * vectors),
        "digital_mul": mul * vectors,
        "digital_add": add * vectors,
        "digital_function": vectors,
    }


def norm_backward(vectors: int, width: int, *, rms: bool, gain: bool = True) -> Counts:
    """Dx = (g - mean(g) - h mean(g h)) / sigma with g = gain dy and h = (x - mean) / sigma; `rms` has no mean(g).

    gain: n multiplications; mean(g h): n + 1 and n - 1 additions; h times it, and 1/sigma: n each; n subtractions;
    mean(g): 1, n - 1 additions, and n subtractions.
    """
    mul, add = gain * width + (width + 1) + 2 * width, 2 * width - 1
    if not rms:
        mul, add = mul + 1, add + 2 * width - 1
    return {**elementwise(width * vectors), "digital_mul": mul * vectors, "digital_add": add * vectors}


def gain_gradient(vectors: int, width: int) -> Counts:
    """Gradient of a trained gain: the sum of dy h over the vectors, h = the normalised vector; the sums stay in registers."""
    return {"digital_mul": width * vectors, "digital_add": width * vectors}


def norm_kept(width: int) -> int:
    """Words per vector that a normalisation keeps: the normalised vector and 1/sigma."""
    return width + 1


class Activation(NamedTuple):
    """Multiplications, additions and functions per element, forward and backward, and the bits kept of it."""

    forward: tuple[int, int, int]
    backward: tuple[int, int, int]
    bits: int = WORD_BITS


ACTIVATIONS = MappingProxyType(
    {
        # max(x, 0): a comparison; dy where x > 0: a selection by the bit that was kept
        "relu": Activation((0, 1, 0), (0, 1, 0), 1),
        # y = 1 / (1 + exp(-x)); dx = dy y (1 - y), y kept
        "sigmoid": Activation((0, 0, 1), (2, 1, 0)),
        # dx = dy (1 - y^2), y kept
        "tanh": Activation((0, 0, 1), (2, 1, 0)),
        # x s(x); dx = dy s (1 + x (1 - s))
        "silu": Activation((1, 0, 1), (3, 2, 1)),
        # x s(1.702 x); dx = dy s (1 + 1.702 x (1 - s))
        "quick_gelu": Activation((2, 0, 1), (4, 2, 1)),
        # x/2 (1 + erf(x / sqrt 2)); dx = dy (F(x) + x exp(-x^2 / 2) / sqrt(2 pi)), F(x) = (1 + erf(x / sqrt 2)) / 2
        "gelu": Activation((3, 1, 1), (7, 2, 2)),
        # x/2 (1 + t), t = tanh(a (x + b x^3)); dx = dy/2 ((1 + t) + x (1 - t^2) a (1 + 3 b x^2))
        "gelu_tanh": Activation((6, 2, 1), (10, 5, 1)),
    }
)


def activation(elements: int, kind: str) -> Counts:
    """An activation function of ACTIVATIONS."""
    mul, add, function = ACTIVATIONS[kind].forward
    return elementwise(elements, mul=mul, add=add, function=function)


def activation_backward(elements: int, kind: str) -> Counts:
    """Its derivative from what was kept, times the gradient."""
    mul, add, function = ACTIVATIONS[kind].backward
    return elementwise(elements, mul=mul, add=add, function=function)


def gate(elements: int) -> Counts:
    """The product of a gated feed-forward's two branches (Shazeer 2020)."""
    return elementwise(elements, mul=1, operands=2)


def gate_backward(elements: int) -> Counts:
    """The gradients of both branches from one gradient: a multiplication by the other branch each."""
    return {
        "digital_mul": 2 * elements,
        "sram_read_bit": WORD_BITS * elements,
        "sram_write_bit": WORD_BITS * 2 * elements,
    }


def embedding(vectors: int, width: int, *, rows: int) -> Counts:
    """Rows of a table copied into a vector in SRAM, one per real token; a table of more than SRAM_BITS is in DRAM."""
    bits = WORD_BITS * width * vectors
    source = "dram_read_bit" if WORD_BITS * width * rows > SRAM_BITS else "sram_read_bit"
    return {source: bits, "sram_write_bit": bits}


def mean_pool(texts: int, vectors: int, width: int) -> Counts:
    """The mean of a text's vectors: a sum over its real tokens, times the reciprocal of their number."""
    return {
        "digital_add": width * (vectors - texts),
        "digital_mul": width * texts,
        "digital_function": texts,
        "sram_read_bit": WORD_BITS * width * vectors,
        "sram_write_bit": WORD_BITS * width * texts,
    }


def mean_pool_backward(texts: int, vectors: int, width: int) -> Counts:
    """The text's gradient times the reciprocal, written for each of its tokens."""
    return {
        "digital_mul": width * texts,
        "sram_read_bit": WORD_BITS * width * texts,
        "sram_write_bit": WORD_BITS * width * vectors,
    }


def unit_length(vectors: int, width: int) -> Counts:
    """X / ||x||: n multiplications and n - 1 additions, one reciprocal root, n multiplications."""
    return {
        **elementwise(width * vectors),
        "digital_mul": 2 * width * vectors,
        "digital_add": (width - 1) * vectors,
        "digital_function": vectors,
    }


def unit_length_backward(vectors: int, width: int) -> Counts:
    """Dx = (dy - y (y . dy)) / ||x||: 3 n multiplications, n - 1 additions, n subtractions; y and 1/||x|| were kept."""
    return {**elementwise(width * vectors, mul=3), "digital_add": (2 * width - 1) * vectors}


def cross_entropy(texts: int, classes: int) -> Counts:
    """The loss of `texts` rows of scores: a softmax and a logarithm per text."""
    return total(softmax(texts, texts * classes), {"digital_function": texts})


def cross_entropy_backward(texts: int, classes: int) -> Counts:
    """(p - label) / texts: a subtraction per text, a multiplication per score; the probabilities are at hand."""
    return {
        "digital_mul": texts * classes,
        "digital_add": texts,
        "sram_read_bit": WORD_BITS * texts * classes,
        "sram_write_bit": WORD_BITS * texts * classes,
    }
