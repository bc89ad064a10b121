"""Named transformer architectures on the meta device, and the names of the layers that adapters touch.

An architecture is a shape without weights: enough to count parameters, cells and operations of a model
that is too large to hold in memory. The sizes are those of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from crossbar_sim.errors import nearest
from crossbar_sim.layers import CrossbarLinear
from lorafusion.errors import LoraFusionError

QUERY_VALUE = ("attention.self.query", "attention.self.value")
ENCODER_LINEARS = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",  # the feed-forward output; it also matches attention.output.dense, which is wanted anyway
)


SUBLAYERS = (
    ("", "attention.output.dense"),
    ("", "SelfAttention.o"),
    ("", "EncDecAttention.o"),
    ("", "attention.attn.o"),
    ("", "self_attn.o_proj"),
    ("", "attention.o_proj"),
    ("intermediate.dense", "output.dense"),
    ("DenseReluDense.wi_0", "DenseReluDense.wo"),
    ("DenseReluDense.wi", "DenseReluDense.wo"),
    ("mlp.gate_proj", "mlp.down_proj"),
    ("mlp.fc1", "mlp.fc2"),
)
"""Endings of the linears that take a feed-forward part's input and that give a sub-layer's output, by architecture; attention
parts have no first linear. The first that fits counts."""


@dataclass(frozen=True)
class Sublayer:
    """A sub-layer by the names of its linears: `first` takes its input (None: an attention part), `last` gives its output."""

    first: str | None
    last: str


@dataclass(frozen=True)
class Architecture:
    """A transformer's shape: how to build it without weights and which linears LoRA usually adapts.

    Attributes:
        name: key in `ARCHITECTURES`.
        title: name for tables and figures.
        build: returns the model on the meta device.
        targets: suffixes of the adapted linears, see `adapted_layers`.
        on_chip: suffixes of the linears that go onto arrays; empty: every linear of the model.
    """

    name: str
    title: str
    build: Callable[[], nn.Module]
    targets: tuple[str, ...]
    on_chip: tuple[str, ...] = ()

    def chip_layers(self, model: nn.Module) -> tuple[str, ...] | None:
        """Names of the layers that go onto arrays; None: every linear (crossbar_sim.conversion.convert)."""
        return adapted_layers(model, self.on_chip) if self.on_chip else None


def architecture(name: str) -> Architecture:
    """The architecture of that name.

    Args:
        name: one of `ARCHITECTURES`.

    Returns:
        its description; nothing is built yet.

    Raises:
        LoraFusionError: for an unknown name, with the nearest known one.
    """
    if name not in ARCHITECTURES:
        raise LoraFusionError(f"architecture: {name!r} is not known{nearest(name, ARCHITECTURES)}")
    return ARCHITECTURES[name]


def adapted_layers(model: nn.Module, targets: Sequence[str]) -> tuple[str, ...]:
    """Names of the linears inside numbered blocks that the targets select, in the model's order.

    A target t selects a layer named t or ending in "." + t. A layer outside every numbered block (pooler,
    head, embedding projection) is never selected.

    Args:
        model: any model; only names and types are read, so the meta device will do.
        targets: names or name suffixes of `nn.Linear` layers.

    Returns:
        names as in `model.named_modules()`, each once.

    Raises:
        LoraFusionError: when a target selects no layer, or `targets` is a bare string or empty.
    """
    if isinstance(targets, str) or not targets:
        raise LoraFusionError(f"targets: must be a non-empty list of layer names (got {targets!r})")
    linears = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    inside = [name for name in linears if _block_end(name.split(".")) is not None]
    for target in targets:
        if not any(selects(target, name) for name in inside):
            raise LoraFusionError(
                f"targets: {target!r} selects no linear layer inside a block of {type(model).__name__}"
                f"{nearest(target, _suffixes(inside))}"
            )
    return tuple(name for name in inside if any(selects(target, name) for target in targets))


def blocks_of(layers: Iterable[str]) -> tuple[str, ...]:
    """The blocks that layers belong to, in their order, each once."""
    return tuple(dict.fromkeys(block_of(layer) for layer in layers))


def linears_of(model: nn.Module, layers: Iterable[str]) -> tuple[str, ...]:
    """Names of all linear layers, plain or on arrays, of the blocks that hold `layers`."""
    blocks = tuple(block + "." for block in blocks_of(layers))
    return tuple(
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | CrossbarLinear) and name.startswith(blocks)
    )


def sublayers_of(model: nn.Module, layers: Iterable[str]) -> tuple[Sublayer, ...]:
    """The attention and feed-forward sub-layers of the blocks that hold `layers`, in the model's order.

    Raises:
        LoraFusionError: the model names its linears unlike any architecture known here.
    """
    names = linears_of(model, layers)
    found = [part for name in names if (part := _sublayer(name, names)) is not None]
    if not found:
        raise LoraFusionError(
            f"architecture: {type(model).__name__} has no attention or feed-forward output of a known name; "
            f"known: {', '.join(last for _, last in SUBLAYERS)}"
        )
    return tuple(found)


def _sublayer(name: str, names: Sequence[str]) -> Sublayer | None:
    """The sub-layer whose last linear is called `name`, if it is one's."""
    for first, last in SUBLAYERS:
        if name.endswith("." + last):
            taken = name.removesuffix(last) + first if first else None
            if taken is None or taken in names:
                return Sublayer(taken, name)
    return None


def block_of(layer_name: str) -> str:
    """The block a layer belongs to: its name up to and including the first integer component.

    Args:
        layer_name: name as in `model.named_modules()`, e.g. "encoder.layer.3.attention.self.query".

    Returns:
        e.g. "encoder.layer.3".

    Raises:
        LoraFusionError: when no component of the name is an integer.
    """
    parts = layer_name.split(".")
    end = _block_end(parts)
    if end is None:
        raise LoraFusionError(
            f"layer name: {layer_name!r} has no numbered block; adapt layers inside a stack of blocks"
        )
    return ".".join(parts[:end])


def _block_end(parts: Sequence[str]) -> int | None:
    """Number of leading components that name the block, or None outside every block."""
    return next((i + 1 for i, part in enumerate(parts) if part.isdecimal()), None)


def selects(target: str, name: str) -> bool:
    """Whether a target selects a layer, at a dot boundary."""
    return name == target or name.endswith("." + target)


def _suffixes(names: Sequence[str]) -> list[str]:
    """What follows the block in each name, and the last component: the targets one could have meant."""
    tails = {name.removeprefix(block_of(name) + ".") for name in names}
    return sorted(tails | {tail.rpartition(".")[2] for tail in tails})


def _t5(*, d_model: int, d_ff: int, layers: int, heads: int) -> nn.Module:
    """A Flan-T5 of that size (Chung et al. 2022) on the meta device, with d_kv = 64 and an untied head."""
    from transformers import T5Config, T5ForConditionalGeneration

    # tie_word_embeddings: T5 v1.1 does not scale the decoder's outputs, and this is the key that says so
    unscaled: dict[str, Any] = {"tie_word_embeddings": False}
    config = T5Config(
        d_model=d_model, d_kv=64, d_ff=d_ff, num_layers=layers, num_decoder_layers=layers, num_heads=heads,
        vocab_size=32128, feed_forward_proj="gated-gelu", **unscaled,
    )  # fmt: skip
    with torch.device("meta"):
        model = T5ForConditionalGeneration(config)
        # transformers 5 ties T5's head to the embedding whatever the config says; Flan-T5's is separate
        model.lm_head = nn.Linear(d_model, config.vocab_size, bias=False)
    return model


def _bert(*, hidden: int, layers: int, pooler: bool = True) -> nn.Module:
    """A BERT encoder (Devlin et al. 2019) on the meta device: 12 heads, feed-forward 4 x hidden."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=12,
        intermediate_size=4 * hidden, vocab_size=30522,
    )  # fmt: skip
    with torch.device("meta"):
        return BertModel(config, add_pooling_layer=pooler)


def _roberta() -> nn.Module:
    """RoBERTa-base (Liu et al. 2019) on the meta device."""
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(
        vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5
    )
    with torch.device("meta"):
        return RobertaModel(config)


def _mpnet() -> nn.Module:
    """MPNet-base (Song et al. 2020) on the meta device."""
    from transformers import MPNetConfig, MPNetModel

    config = MPNetConfig(vocab_size=30527, max_position_embeddings=514, layer_norm_eps=1e-5)
    with torch.device("meta"):
        return MPNetModel(config)


def _smollm2() -> nn.Module:
    """SmolLM2-135M (Allal et al. 2025), a small Llama with grouped queries, on the meta device."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, vocab_size=49152, max_position_embeddings=8192, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        return LlamaForCausalLM(config)


_T5_SIZES = {
    "small": {"d_model": 512, "d_ff": 1024, "layers": 8, "heads": 6},
    "base": {"d_model": 768, "d_ff": 2048, "layers": 12, "heads": 12},
    "large": {"d_model": 1024, "d_ff": 2816, "layers": 24, "heads": 16},
    "xl": {"d_model": 2048, "d_ff": 5120, "layers": 24, "heads": 32},
}

_ALL = (
    *(
        Architecture(f"flan-t5-{s}", f"Flan-T5-{s}", partial(_t5, **n), ("q", "v"))
        for s, n in _T5_SIZES.items()
    ),
    Architecture(
        "minilm-l6",
        "MiniLM-L6",
        partial(_bert, hidden=384, layers=6, pooler=False),  # the sentence encoder means over its tokens
        ENCODER_LINEARS,
        ENCODER_LINEARS,
    ),
    Architecture("bert-base", "BERT-base", partial(_bert, hidden=768, layers=12), QUERY_VALUE),
    Architecture("roberta-base", "RoBERTa-base", _roberta, QUERY_VALUE),
    Architecture("mpnet-base", "MPNet-base", _mpnet, ("attention.attn.q", "attention.attn.v")),
    Architecture("smollm2-135m", "SmolLM2-135M (Llama)", _smollm2, ("q_proj", "v_proj")),
)

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType({each.name: each for each in _ALL})
