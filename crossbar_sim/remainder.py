"""What a model on a chip keeps digital, booked under the matrix `rest`: hooks that `convert` puts on its modules.

Modules are recognised by what they are made of, not by a list of models: normalisations, embeddings, activation functions,
attentions (heads and a head's width), feed-forwards (what holds an activation function in a block with attention), linear layers that are not on the chip. Hooks
look at shapes and at the chip's mask, never at values. A call that autograd records books what it keeps for the backward pass
when it runs, and its backward pass when the gradient arrives; recomputation is booked like any other call. Operations that are no
module (a functional ReLU, a sum outside the known places) are not seen.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from crossbar_sim.chip import Chip, Site
from crossbar_sim.digital_attention import HEADS, Attention, Projections, heads_of, number_of
from crossbar_sim.digital_hooks import (
    Activation,
    Batch,
    Embedding,
    FeedForward,
    Hook,
    Linear,
    Norm,
    Positions,
)

KINDS = {
    "ReLU": "relu",
    "GELU": "gelu",
    "GELUActivation": "gelu",
    "GELUTanh": "gelu_tanh",
    "NewGELUActivation": "gelu_tanh",
    "FastGELUActivation": "gelu_tanh",
    "AccurateGELUActivation": "gelu_tanh",
    "QuickGELUActivation": "quick_gelu",
    "SiLU": "silu",
    "SiLUActivation": "silu",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
}
"""Activation functions by the name of their class."""


def install(model: nn.Module, chip: Chip) -> tuple[RemovableHandle, ...]:
    """Hooks that book the digital work of a model whose linear layers are on the chip.

    Warns:
        UserWarning: an activation function is not among KINDS; its work is not booked.
    """
    batch = Batch()
    handles = [
        model.register_forward_pre_hook(batch.begin, with_kwargs=True),
        model.register_forward_hook(batch.end, always_call=True),
    ]
    hooks = _hooks(model, chip, batch)
    handles += [module.register_forward_hook(hook, with_kwargs=True) for module, hook in hooks]
    return tuple(handles)


def _hooks(model: nn.Module, chip: Chip, batch: Batch) -> Iterator[tuple[nn.Module, Hook]]:
    """Every module that books, and how."""
    modules = dict(model.named_modules())
    blocks = {_block(name) for name, module in modules.items() if heads_of(module)} - {""}
    for name, module in modules.items():
        site = Site(chip, name or type(module).__name__, "rest")
        if isinstance(module, nn.Embedding):
            parent = modules[name.rpartition(".")[0]]
            if (
                number_of(parent, HEADS) != module.embedding_dim
            ):  # else: a bias per head, read with the scores
                yield module, Embedding(site, module, parent, batch)
        for hook in _hooks_of(module, name, site):
            yield module, hook
        if _block(name) in blocks and any(_is_activation(child) for child in module.children()):
            yield module, FeedForward(site, module)


def _hooks_of(module: nn.Module, name: str, site: Site) -> Iterator[Hook]:
    """How a module books that is recognised by itself."""
    if heads_of(module):
        yield Attention(site, module)
        if isinstance(module, nn.MultiheadAttention):
            yield Projections(site, module)
    elif isinstance(module, nn.Linear):
        yield Linear(site, module)
    elif _is_norm(module):
        yield Norm(site, module)
    elif _is_activation(module, name):
        yield Activation(site, _kind(module))
    tables = (key for key, p in module.named_parameters(recurse=False) if "position" in key and p.ndim == 3)
    if table := next(tables, ""):
        yield Positions(site, table)


def _block(name: str) -> str:
    """The numbered block of a module, "" outside every block."""
    parts = name.split(".")
    end = next((i + 1 for i, part in enumerate(parts) if part.isdecimal()), 0)
    return ".".join(parts[:end])


def _is_norm(module: nn.Module) -> bool:
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return True
    weight = getattr(module, "weight", None)
    named = type(module).__name__.endswith(("LayerNorm", "RMSNorm"))
    return named and isinstance(weight, Tensor) and weight.ndim == 1


def _kind(module: nn.Module) -> str:
    """The name of an activation function in cost_digital.ACTIVATIONS; "" for another module."""
    if isinstance(module, nn.GELU) and module.approximate == "tanh":
        return "gelu_tanh"
    return KINDS.get(type(module).__name__, "")


def _is_activation(module: nn.Module, name: str = "") -> bool:
    """Whether a module is a known activation function; one that is not known is told of under its name."""
    if _kind(module):
        return True
    kind = type(module)
    unknown = kind.__name__.endswith("Activation") or kind.__module__ == nn.ReLU.__module__
    if name and unknown and kind not in (nn.MultiheadAttention, nn.Softmax, nn.Identity):
        warnings.warn(
            f"convert: the digital work of {name!r} ({kind.__name__}) is not counted; counted are "
            f"{', '.join(sorted(set(KINDS.values())))}",
            stacklevel=6,
        )
    return False
