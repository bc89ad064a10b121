"""Trained parameters and weights on arrays, from the architecture alone: on the meta device, without weights."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch

from crossbar_sim.conversion import get_layer
from crossbar_sim.errors import nearest
from crossbar_sim.layers import DigitalProduct
from lorafusion.architectures import adapted_layers, architecture
from lorafusion.errors import LoraFusionError
from lorafusion.layers import AdapterPool
from lorafusion.methods import METHODS, Context, Method
from lorafusion.methods.base import nominal_weight
from lorafusion.module import LoraLibrary

POOL_RANK = 16
"""Of a pool's modules where none is given."""


def method(name: str, **settings: Any) -> Method:
    """A method's configuration by name; settings that are None or that it does not have are left out.

    Raises:
        LoraFusionError: no such method; the nearest is told.
    """
    if name not in METHODS:
        raise LoraFusionError(f"method: {name!r} is unknown{nearest(name, METHODS)}")
    config = METHODS[name]()
    known = {f.name for f in fields(config)}  # type: ignore[arg-type]
    given = {key: value for key, value in settings.items() if value is not None and key in known}
    return replace(config, **given)  # type: ignore[type-var]


def count(
    arch: str,
    name: str,
    *,
    modules: int = 20,
    rank: int | None = None,
    targets: tuple[str, ...] = (),
    **settings: Any,
) -> dict[str, Any]:
    """What a method trains on an architecture, by group, and how many weights of its pool sit on arrays.

    Args:
        arch: one of lorafusion.architectures.ARCHITECTURES.
        name: one of METHODS.
        modules: modules of the pool, for methods that need one.
        rank: of the pool's modules (default 16), and of the method's own matrices (default: its own).
        targets: endings of the adapted layers' names; empty: the architecture's usual ones.
        settings: fields of the method's configuration.

    Raises:
        LoraFusionError: an unknown name, or targets that select nothing.
    """
    chosen = architecture(arch)
    config = method(name, rank=rank, **settings)
    model = chosen.build()
    layers = adapted_layers(model, targets or chosen.targets)
    pool: dict[str, AdapterPool] = {}
    stacks: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    if config.needs_pool:
        library = LoraLibrary.random(
            model, count=modules, rank=POOL_RANK if rank is None else rank, targets=targets or chosen.targets
        )
        for layer in layers:
            a, b, _ = library.stack(layer)
            stacks[layer] = (a, b)
            pool[layer] = AdapterPool(DigitalProduct(a), DigitalProduct(b), modules)
    base = sum(p.numel() for p in model.parameters())
    adapted = sum(nominal_weight(get_layer(model, layer)).numel() for layer in layers)
    context = Context(layers, torch.Generator().manual_seed(0), pool=pool, pool_weights=stacks)
    adaptation = config.attach(model, context)
    return {
        "arch": arch,
        "method": name,
        "trainable": adaptation.trainable,
        "groups": {group.name: group.count for group in adaptation.groups},
        "digital_words": adaptation.trainable + adaptation.digital_words,
        "pool_weights": sum(a.numel() + b.numel() for a, b in stacks.values()),
        "adapted_layers": len(layers),
        "adapted_weights": adapted,
        "model_parameters": base,
    }
