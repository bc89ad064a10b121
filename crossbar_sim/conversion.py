"""Move a model's linear and convolution layers onto a chip, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crossbar_sim import checkpoint, remainder
from crossbar_sim.array import ProgrammedArray
from crossbar_sim.chip import Chip
from crossbar_sim.conv import CrossbarConv2d
from crossbar_sim.errors import ConfigError, nearest
from crossbar_sim.layers import CrossbarLinear, CrossbarProduct, array_entries
from crossbar_sim.moment import Moment, moment, resume

Where = Callable[[str, nn.Module], bool] | Iterable[str] | None
_RECORD = "_crossbar_conversion"
ON_CHIP = CrossbarLinear | CrossbarConv2d
DECODED = ("decoder_input_ids", "decoder_inputs_embeds", "labels")
"""Arguments of an encoder-decoder model, which knows the first, that are as long as its decoder's texts."""
DIGITAL_ONLY = nn.modules.linear.NonDynamicallyQuantizableLinear
"""nn.MultiheadAttention reads this layer's weight and never calls it."""


@dataclass(frozen=True)
class _Record:
    """What revert needs."""

    originals: Mapping[str, nn.Module]
    hooks: tuple[Any, ...]
    arrays: tuple[ProgrammedArray, ...]


def get_layer(model: nn.Module, name: str) -> nn.Module:
    """The submodule called `name`.

    Raises:
        ConfigError: there is none; the nearest name is told.
    """
    try:
        return model.get_submodule(name)
    except AttributeError:
        names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d | ON_CHIP)]
        raise ConfigError(f"layer {name!r} is not in the model{nearest(name, names)}") from None


def set_layer(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put `layer` where the submodule `name` is."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)


def convert(model: nn.Module, chip: Chip, *, where: Where = None) -> nn.Module:
    """Program the model's linear and convolution layers onto the chip, in place; everything else stays digital.

    Embeddings stay digital, and so do the projections inside nn.MultiheadAttention, nn.Conv1d and the Conv1D layers of
    transformers (GPT-2): none of them is an nn.Linear or nn.Conv2d that its model calls.

    The model's `attention_mask` argument, where it is called with one, tells the chip which positions are padding: they are
    neither driven nor booked, in the forward pass, in the backward pass, and when torch.utils.checkpoint computes a
    part again (which is real work on the chip and booked as such). A layer that stands at several places of the
    model is programmed once.

    Args:
        model: any torch model.
        chip: where the weights go.
        where: layer names, or a filter (name, module) -> bool; default: every nn.Linear and nn.Conv2d.

    Returns:
        The model itself.

    Raises:
        ConfigError: a named layer does not exist or is neither nn.Linear nor nn.Conv2d, the model is converted
            already or is itself the layer, nothing is selected, or an argument is of a wrong type.
    """
    if not isinstance(chip, Chip):
        made = f"Chip({chip!r})" if isinstance(chip, str) else "Chip(card)"
        raise ConfigError(f"convert: chip must be a Chip (got {type(chip).__name__}); {made}")
    if isinstance(where, str):
        raise ConfigError(f'convert: where is a list of layer names: ["{where}"]')
    if hasattr(model, _RECORD):
        raise ConfigError("convert: the model is on a chip already; call revert(model) first")
    originals = _chosen(model, where)
    first = {layer: name for name, layer in reversed(originals.items())}
    layers = {layer: _on_chip(layer, chip, first[layer]) for layer in dict.fromkeys(originals.values())}
    for (
        name,
        layer,
    ) in originals.items():  # only now: a weight that cannot be programmed leaves the model whole
        set_layer(model, name, layers[layer])
    batches = _Batches(chip, list(signature(model.forward).parameters))
    hooks = (
        model.register_forward_pre_hook(batches.before, with_kwargs=True),
        model.register_forward_hook(batches.after, always_call=True),
        model.register_load_state_dict_pre_hook(_check_state),
        *remainder.install(model, chip),
    )
    arrays = tuple(
        p.array for layer in layers.values() for p in layer.modules() if isinstance(p, CrossbarProduct)
    )
    object.__setattr__(model, _RECORD, _Record(originals, hooks, arrays))
    return model


def revert(model: nn.Module) -> nn.Module:
    """Give a converted model its own layers back, and the chip its tiles.

    The chip remembers the cells (Chip.retire): converting a model with a layer of the same name and shape onto this chip
    again rewrites these very cells, which keep their wear and draw new numbers. Their converters have no ranges then.
    Copies of the model that still use the arrays go on computing with them.

    Raises:
        ConfigError: the model is not on a chip.
    """
    record: _Record | None = getattr(model, _RECORD, None)
    if record is None:
        raise ConfigError("revert: the model is not on a chip")
    for name, layer in record.originals.items():
        set_layer(model, name, layer)
    for hook in record.hooks:
        hook.remove()
    for array in record.arrays:
        if array.chip.arrays.get(array.name) is array:
            array.chip.retire(array.name)
    object.__delattr__(model, _RECORD)
    return model


def _on_chip(layer: nn.Module, chip: Chip, name: str) -> CrossbarLinear | CrossbarConv2d:
    if isinstance(layer, nn.Conv2d):
        kernels = layer.weight.detach().flatten(1).chunk(layer.groups)
        names = [name] if layer.groups == 1 else [f"{name}.{group}" for group in range(layer.groups)]
        products = [_program(chip, kernel, n, name) for kernel, n in zip(kernels, names, strict=True)]
        return CrossbarConv2d(products, layer)
    assert isinstance(layer, nn.Linear)  # _chosen looked
    return CrossbarLinear(_program(chip, layer.weight.detach(), name, name), layer.bias)


def _program(chip: Chip, weight: Tensor, name: str, layer: str) -> CrossbarProduct:
    values: Any = weight if weight.is_meta else weight.cpu().double().numpy()  # a PlannedChip takes shapes
    return CrossbarProduct(chip.program(values, name=name, layer=layer))


def _chosen(model: nn.Module, where: Where) -> dict[str, nn.Module]:
    """The selected layers by name; a layer with several names is there under each of them."""
    everywhere = list(model.named_modules(remove_duplicate=False))
    known = {
        name: module
        for name, module in everywhere
        if isinstance(module, nn.Linear | nn.Conv2d) and not isinstance(module, DIGITAL_ONLY)
    }
    if where is None:
        chosen = list(known)
    elif callable(where):
        chosen = [name for name, module in known.items() if where(name, module)]
    else:
        chosen = list(dict.fromkeys(where))
        for name in chosen:
            if name not in known:
                raise ConfigError(f"convert: no linear or convolution layer {name!r}{nearest(name, known)}")
    if not chosen:
        raise ConfigError(
            "convert: where selects no nn.Linear or nn.Conv2d layer of this model (nn.Conv1d, the Conv1D of transformers "
            "and the projections inside nn.MultiheadAttention stay digital)"
        )
    if "" in chosen:
        kind = "Conv2d" if isinstance(model, nn.Conv2d) else "Linear"
        raise ConfigError(
            f"convert: the model is itself a {kind} layer, which cannot be replaced in place; wrap it: "
            "convert(nn.Sequential(layer), chip)"
        )
    selected = {known[name] for name in chosen}
    return {name: module for name, module in known.items() if module in selected}


def _check_state(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before a state dict is loaded: every array's part must fit, so that a wrong one changes none of them."""
    found = []
    for name, module in model.named_modules():
        plain = f"{prefix}{name}.weight"
        if isinstance(module, ON_CHIP) and plain in state:
            raise ConfigError(
                f"load_state_dict: {plain!r} are plain weights, and the layer is on a chip; load plain weights before convert(), "
                "or revert(model) first"
            )
        if isinstance(module, CrossbarProduct):
            entries = array_entries(state, f"{prefix}{name}.".removeprefix("."))
            found += [(module.array, checkpoint.meta_of(entries[checkpoint.META]))] if entries else []
    checkpoint.set_clock(found)


class _Batches:
    """Hooks of a converted model: which vectors of its batch are real, also when the backward pass computes again."""

    def __init__(self, chip: Chip, names: list[str]) -> None:
        self.chip, self.names = chip, names
        self._outer: list[Any] = []

    def before(self, _model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The forward pass begins."""
        self._outer.append(moment(self.chip))
        given = {**dict(zip(self.names, args, strict=False)), **kwargs}
        mask = given.get("attention_mask")
        if mask is not None and mask.ndim == 2:
            real = _as_mask(mask)
            if DECODED[0] in self.names:
                _check_decoder(real, given)
            self.chip.begin_batch(real)

    def after(self, _model: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        """It has ended, or failed: its backward pass begins where its outputs' gradients arrive."""
        if not self._outer:  # another hook failed before ours
            return
        then = moment(self.chip)
        resume(self.chip, self._outer.pop())
        for node in {tensor.grad_fn for tensor in _tensors(output)}:
            if node is not None:
                node.register_prehook(partial(self._again, then))

    def _again(self, then: Moment, _grads: Any) -> None:
        """Recomputation reads at the forward pass's moment; when the backward pass is over, the chip is at its own."""
        task = torch._C._current_graph_task_id()  # of the running backward pass; one that failed is forgotten
        if self.chip.outside is None or self.chip.outside[0] != task:
            self.chip.outside = (task, moment(self.chip))
            torch.autograd.Variable._execution_engine.queue_callback(self._over)
        resume(self.chip, then)

    def _over(self) -> None:
        if self.chip.outside is not None:
            resume(self.chip, self.chip.outside[1])
            self.chip.outside = None


def _check_decoder(mask: NDArray[np.bool_], given: Mapping[str, Any]) -> None:
    """A mask is an encoder's where there is a decoder; vectors are told apart by their number of positions.

    Raises:
        ConfigError: the decoder's texts are as long as the encoder's, whose padding would silence them.
    """
    for name in DECODED:
        tokens = given.get(name)
        if tokens is not None and tuple(tokens.shape[:2]) == mask.shape and not mask.all():
            raise ConfigError(
                f"{name}: the decoder's texts are as long as the encoder's ({mask.shape[1]} positions), so that the attention "
                "mask would be taken for theirs too; pad the encoder's texts by one more position"
            )


def _as_mask(mask: Tensor) -> NDArray[np.bool_]:
    return mask.detach().cpu().numpy().astype(bool)


def _tensors(output: Any) -> Iterator[Tensor]:
    """The tensors in a model's output, however it nests them."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)
