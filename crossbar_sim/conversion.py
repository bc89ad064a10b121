"""Move a model's linear layers onto a chip, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from inspect import signature
from typing import Any

import numpy as np
from torch import nn

from crossbar_sim.chip import Chip
from crossbar_sim.errors import ConfigError, nearest
from crossbar_sim.layers import CrossbarLinear, CrossbarProduct

Where = Callable[[str, nn.Module], bool] | Iterable[str] | None
_RECORD = "_crossbar_conversion"


def get_layer(model: nn.Module, name: str) -> nn.Module:
    """The submodule called `name`.

    Raises:
        ConfigError: there is none; the nearest name is told.
    """
    try:
        return model.get_submodule(name)
    except AttributeError:
        names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | CrossbarLinear)]
        raise ConfigError(f"layer {name!r} is not in the model{nearest(name, names)}") from None


def set_layer(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put `layer` where the submodule `name` is."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)


def convert(model: nn.Module, chip: Chip, *, where: Where = None) -> nn.Module:
    """Program the model's linear layers onto the chip, in place.

    The model's `attention_mask` argument, where it is called with one, tells the chip which positions are padding: they are
    neither driven nor booked.

    Args:
        model: any torch model.
        chip: where the weights go.
        where: layer names, or a filter (name, module) -> bool; default: every nn.Linear.

    Returns:
        The model itself.

    Raises:
        ConfigError: a named layer does not exist or is not an nn.Linear, the model is converted already, or
            nothing is selected.
    """
    if hasattr(model, _RECORD):
        raise ConfigError("convert: the model is on a chip already; call revert(model) first")
    chosen = _chosen(model, where)
    originals = {name: get_layer(model, name) for name in chosen}
    layers = {name: _on_chip(linear, chip, name) for name, linear in originals.items()}
    for name, layer in layers.items():  # only now: a weight that cannot be programmed leaves the model whole
        set_layer(model, name, layer)
    hooks = (
        model.register_forward_pre_hook(_note_mask(model, chip), with_kwargs=True),
        model.register_forward_hook(lambda *_: chip.begin_batch(None), always_call=True),
    )
    object.__setattr__(model, _RECORD, (originals, hooks))
    return model


def _on_chip(linear: nn.Module, chip: Chip, name: str) -> CrossbarLinear:
    assert isinstance(linear, nn.Linear)  # _chosen looked
    weight = linear.weight.detach().cpu().numpy().astype(np.float64)
    return CrossbarLinear(CrossbarProduct(chip.program(weight, name=name, layer=name)), linear.bias)


def revert(model: nn.Module) -> nn.Module:
    """Give a converted model its own linear layers back.

    Raises:
        ConfigError: the model is not on a chip.
    """
    if not hasattr(model, _RECORD):
        raise ConfigError("revert: the model is not on a chip")
    originals, hooks = getattr(model, _RECORD)
    for name, layer in originals.items():
        set_layer(model, name, layer)
    for hook in hooks:
        hook.remove()
    object.__delattr__(model, _RECORD)
    return model


def _chosen(model: nn.Module, where: Where) -> list[str]:
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if where is None:
        chosen = list(linears)
    elif callable(where):
        chosen = [name for name, module in linears.items() if where(name, module)]
    else:
        chosen = list(dict.fromkeys(where))
        for name in chosen:
            if name not in linears:
                raise ConfigError(f"convert: no linear layer {name!r}{nearest(name, linears)}")
    if not chosen:
        raise ConfigError("convert: where selects no nn.Linear layer of this model")
    return chosen


def _note_mask(model: nn.Module, chip: Chip) -> Callable[..., None]:
    parameters = list(signature(model.forward).parameters)
    place = parameters.index("attention_mask") if "attention_mask" in parameters else None

    def hook(_model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        mask = kwargs.get("attention_mask")
        if place is not None and place < len(args):
            mask = args[place]
        if mask is not None and mask.ndim == 2:
            chip.begin_batch(mask.detach().cpu().numpy().astype(bool))

    return hook
