"""Forward hooks that book what a module computes in digital logic (crossbar_sim.remainder puts them there).

A hook sees a call when it is over: it books the call, what the backward pass will need of it where autograd records it, and the
backward pass when the gradient of the module's output arrives.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from crossbar_sim import cost
from crossbar_sim import cost_digital as digital
from crossbar_sim.chip import Site
from crossbar_sim.moment import valid_per_sample
from crossbar_sim.tally import Tally


class Batch:
    """How many texts the running batch has, for look-ups that are made once for all of them."""

    def __init__(self) -> None:
        self.texts: list[int] = []

    def begin(self, _model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """The forward pass begins."""
        tensors = (x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.ndim)
        first = next(tensors, None)
        self.texts.append(1 if first is None else len(first))

    def end(self, *_: Any) -> None:
        """It has ended, or failed."""
        if self.texts:
            self.texts.pop()

    def lead(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of indices as if every text had its own."""
        shared = shape[:1] == (1,) and self.texts
        return (self.texts[-1], *shape[1:]) if shared else shape


class Hook:
    """A forward hook that books a call of a module."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> None:
        """The module was called."""
        if torch.compiler.is_compiling():  # counts are kept outside of every graph
            torch.compiler.disable(self._book)(module, args, kwargs, output)
        else:
            self._book(module, args, kwargs, output)

    def _book(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        """Book the call."""
        raise NotImplementedError

    def vectors(self, lead: tuple[int, ...]) -> int:
        """How many vectors of a tensor of leading shape `lead` are real."""
        return int(valid_per_sample(self.site.chip, lead).sum())

    def own(self, each: cost.Counts) -> Tally:
        """Work of the method that trains a parameter of this module."""
        return Tally(Site(self.site.chip, self.site.layer, "own"), each)


def first_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The first tensor that a module was called with."""
    found: Tensor = args[0] if args else next(x for x in kwargs.values() if isinstance(x, Tensor))
    return found


def trains(module: nn.Module, name: str) -> bool:
    """Whether a module has this parameter, and it takes a gradient."""
    parameter = getattr(module, name, None)
    return isinstance(parameter, Tensor) and parameter.requires_grad


class Norm(Hook):
    """A normalisation, and the gradients of a gain and of a shift that train."""

    def __init__(self, site: Site, module: nn.Module) -> None:
        super().__init__(site)
        self.axes = len(getattr(module, "normalized_shape", (0,)))
        weight, shift = getattr(module, "weight", None), getattr(module, "bias", None)
        width = prod(getattr(module, "normalized_shape", ())) if weight is None else weight.numel()
        rms = not isinstance(module, nn.LayerNorm) and shift is None
        gain = weight is not None
        words = digital.norm_kept(width)
        self.forward = Tally(site, digital.norm(1, width, rms=rms, gain=gain, shift=shift is not None))
        self.kept = Tally(site, digital.kept(words))
        backward = digital.norm_backward(1, width, rms=rms, gain=gain)
        self.backward = Tally(site, digital.total(backward, digital.fetched(words)))
        self.gain = self.own(digital.gain_gradient(1, width))
        self.shift = self.own(digital.bias(width, 1))
        self.kept_for_gain, self.fetched_for_gain = (
            self.own(counts) for counts in (digital.kept(width), digital.fetched(width))
        )

    def _book(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        x = first_of(args, kwargs)
        n = self.vectors(x.shape[: -self.axes])
        self.forward.book(n)
        if not output.requires_grad:
            return
        gain, shift = trains(module, "weight"), trains(module, "bias")
        back = [self.backward] * x.requires_grad + [self.gain] * gain + [self.shift] * shift
        if x.requires_grad:
            self.kept.book(n)
        elif gain:  # the normalised vector is kept for it alone
            self.kept_for_gain.book(n)
            back.append(self.fetched_for_gain)
        for tally in back:
            output.register_hook(lambda _, tally=tally: tally.book(n))


class Activation(Hook):
    """An activation function."""

    def __init__(self, site: Site, kind: str) -> None:
        super().__init__(site)
        bits = digital.ACTIVATIONS[kind].bits
        self.forward = Tally(site, digital.activation(1, kind))
        self.kept = Tally(site, digital.kept(1, bits=bits))
        backward = digital.activation_backward(1, kind)
        self.backward = Tally(site, digital.total(backward, digital.fetched(1, bits=bits)))

    def _book(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        n = self.vectors(output.shape[:-1]) * output.shape[-1]
        self.forward.book(n)
        if output.requires_grad:
            self.kept.book(n)
            output.register_hook(lambda _: self.backward.book(n))


class FeedForward(Hook):
    """What a feed-forward does beside its linears and its activation: the gate's product, and the residual sum that follows it.

    It is gated where it holds three linear layers. Backward: both branches' gradients meet in the block's input.
    """

    def __init__(self, site: Site, module: nn.Module) -> None:
        super().__init__(site)
        outputs: list[Any] = [
            child.out_features for child in module.children() if hasattr(child, "out_features")
        ]
        self.width = int(outputs[0]) if len(outputs) >= 3 else 0
        self.forward = Tally(site, digital.gate(self.width))
        self.kept = Tally(site, digital.kept(2 * self.width))
        backward = digital.total(digital.gate_backward(self.width), digital.fetched(2 * self.width))
        self.backward = Tally(site, backward)
        self.sum = Tally(site, digital.added(1, 1))

    def _book(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        x = first_of(args, kwargs)
        n = self.vectors(x.shape[:-1])
        self.sum.book(n * x.shape[-1])
        self.forward.book(n)
        if not output.requires_grad:
            return
        self.kept.book(n)
        sums = n * x.shape[-1] * (2 if self.width else 1) if x.requires_grad else 0

        def back(_: Tensor) -> None:
            self.backward.book(n)
            self.sum.book(sums)

        output.register_hook(back)


class Positions(Hook):
    """The sum with position vectors that are a parameter of the module, and their gradient where they train."""

    def __init__(self, site: Site, name: str) -> None:
        super().__init__(site)
        self.name = name
        self.sum, self.gradient = Tally(site, digital.added(1, 1)), self.own(digital.added(1, 1))

    def _book(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        n = self.vectors(output.shape[:-1]) * output.shape[-1]
        self.sum.book(n)
        if output.requires_grad and trains(module, self.name):
            output.register_hook(lambda _: self.gradient.book(n))


class Embedding(Hook):
    """A look-up per real token, and its sum with the look-ups before it in the same module.

    Where the table trains, every look-up's gradient is added to the sum of its row.
    """

    def __init__(self, site: Site, module: nn.Embedding, parent: nn.Module, batch: Batch) -> None:
        super().__init__(site)
        width, self.batch = module.embedding_dim, batch
        first = next(child for child in parent.children() if isinstance(child, nn.Embedding))
        summed = {} if first is module else digital.added(1, width)
        self.forward = Tally(
            site, digital.total(digital.embedding(1, width, rows=module.num_embeddings), summed)
        )
        self.gradient = self.own(digital.added(1, width))

    def _book(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        n = self.vectors(self.batch.lead(first_of(args, kwargs).shape))
        self.forward.book(n)
        if output.requires_grad and trains(module, "weight"):
            output.register_hook(lambda _: self.gradient.book(n))


class Linear(Hook):
    """A linear layer that is not on the chip: a digital product from SRAM."""

    def __init__(self, site: Site, module: nn.Linear) -> None:
        super().__init__(site)
        m, n = module.out_features, module.in_features
        shift = {} if module.bias is None else digital.bias(m, 1)
        self.forward = Tally(site, digital.total(cost.dense(m, n, 1), shift))
        self.backward = Tally(site, cost.dense(m, n, 1))
        self.kept = self.own(digital.kept(n))
        self.weight = self.own(digital.total(cost.weight_gradient(m, n, 1), digital.fetched(n)))
        self.shift = self.own(digital.bias(m, 1))

    def _book(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        x = first_of(args, kwargs)
        n = self.vectors(x.shape[:-1])
        self.forward.book(n)
        if not output.requires_grad:
            return
        wanted = (
            (x.requires_grad, self.backward),
            (trains(module, "weight"), self.weight),
            (trains(module, "bias"), self.shift),
        )
        if wanted[1][0]:
            self.kept.book(n)
        for needed, tally in wanted:
            if needed:
                output.register_hook(lambda _, tally=tally: tally.book(n))
