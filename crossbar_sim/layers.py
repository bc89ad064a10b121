"""The torch seam: products on the chip's arrays and in its digital logic, as modules with gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from crossbar_kernels.gemm import Product, pack
from crossbar_sim import checkpoint, cost
from crossbar_sim import cost_digital as digital
from crossbar_sim.array import ProgrammedArray
from crossbar_sim.chip import Site
from crossbar_sim.errors import ConfigError
from crossbar_sim.ledger import Ledger
from crossbar_sim.moment import Moment, at, moment
from crossbar_sim.tensors import own, to_numpy, to_tensor

Size = float | Tensor
"""How much larger than at calibration an input may be; a tensor of no dimensions where asking for its value would wait for a device."""


@dataclass(frozen=True)
class Trace:
    """What a product's backward pass must know of its forward pass: how many vectors were real, and (on arrays) the moment."""

    vectors: int
    moment: Moment | None = None


class CrossbarProduct(nn.Module):
    """x @ W.T on a programmed array; x [..., in] -> [..., out], no bias.

    Gradient (docs/definitions.md, "Backward modes"): straight through the converters. With respect to the
    input it is the product with the transposed array, noisy and booked like every read (`transposed`), with the
    weights the array was asked to hold (`nominal`, booked as a digital product whose weights come from DRAM once
    a step), or with the conductances as they are (`oracle`, not realisable). With respect to `master`, the digital
    copy of a matrix that is trained on the array, it is the outer product g x^T, booked as digital work; the
    input's gradient is then the digital product with the master in every mode. The backward pass reads with the
    mask, the sample numbers and the event of its forward pass. Works in train() and in eval().

    An input that lies on the device of the chip's backend stays there (docs/gpu.md), and so does an ideal chip's on any device; others are brought to
    the CPU and their products back. torch.compile breaks its graph
    here: reads count and draw, which no graph may leave out. `state_dict` holds the
    state of the cells as tensors (crossbar_sim.checkpoint); copies sit on the same cells, pickles take the chip along.
    """

    def __init__(self, array: ProgrammedArray, *, master: nn.Parameter | None = None) -> None:
        super().__init__()
        self.array = array
        self.master = master
        self._forget()

    def _forget(self) -> None:
        self._streamed: tuple[Ledger, str, int] | None = None
        self._present: tuple[tuple[Any, ...], Tensor] | None = None
        self._asked: tuple[tuple[Any, ...], Tensor] | None = None
        self._packed: dict[str, tuple[Tensor, Product]] = {}
        self._transposed: tuple[Tensor, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what can be computed again (packed matrices cannot be pickled)."""
        kept = object.__new__(CrossbarProduct)
        kept.__dict__.update(self.__dict__)
        kept._forget()
        return kept.__dict__

    @property
    def in_features(self) -> int:
        """Number of inputs (word-line vectors) n."""
        return self.array.placement.inputs

    @property
    def out_features(self) -> int:
        """Number of outputs m."""
        return self.array.placement.outputs

    def forward(self, x: Tensor, size: Size = 1.0, bias: Tensor | None = None) -> Tensor:
        """The product, and `bias` [out]. `size`: how much larger than at calibration x may be (ProgrammedArray.mvm)."""
        if (
            torch.compiler.is_compiling()
        ):  # asked for here, as a decorator would import the compiler with this module
            eager: Tensor = torch.compiler.disable(self._product)(x, size, bias)
            return eager
        return self._product(x, size, bias)

    def _product(self, x: Tensor, size: Size, bias: Tensor | None) -> Tensor:
        result: Tensor = _Product.apply(x, self.master, bias, self, size)  # type: ignore[no-untyped-call]
        book_bias(self.array.site, bias, result)
        if result.requires_grad and self.master is not None and self.master.requires_grad:
            self.book_kept(self.array.chip.valid_vectors(x.shape[:-1]))
        return result

    @property
    def matrix(self) -> nn.Parameter | None:
        """The digital matrix [out, in] that may train; None where only cells hold it."""
        return self.master

    def run(self, x: Tensor, size: Size = 1.0) -> tuple[Tensor, Trace]:
        """The product without a gradient, and what `pull_back` needs of it."""
        array, chip = self.array, self.array.chip
        trace = Trace(chip.valid_vectors(x.shape[:-1]), moment(chip))
        if chip.exact and not chip.planned:
            array.book_reads(trace.vectors)
            return self.multiply("forward", self.present_weights(x), x), trace
        return to_tensor(array.mvm(self._vectors(x), size=size, dtype=own(x)), x), trace

    def _vectors(self, x: Tensor) -> Any:
        """What the array takes of a tensor: itself on the device of the chip's backend, else NumPy's view or copy.

        A planned array takes the shape of a tensor on the meta device (crossbar_sim.plan); others refuse it.
        """
        if x.is_meta:
            return x
        if x.is_cpu or x.device.type != self.array.chip.kernels.DEVICE:
            return to_numpy(x)
        return (x.float() if x.dtype == torch.bfloat16 else x).detach()

    def pull_back(
        self, grad: Tensor, trace: Trace, matrix: Tensor | None, *, wants_input: bool, wants_matrix: bool
    ) -> Tensor | None:
        """Gradient [..., in] of the input, if wanted, read at the moment of `run`; a wanted gradient of `matrix` is booked only."""
        assert trace.moment is not None  # `run` made it
        with at(self.array.chip, trace.moment):
            self.book_backward(trace.vectors, wants_input=wants_input, wants_master=wants_matrix)
            return self._input_gradient(grad, matrix) if wants_input else None

    def present_weights(self, like: Tensor) -> Tensor:
        """The weights that the cells hold now, [out, in], read once per state of the cells; of the type and on the device of `like`."""
        now = (self.array.moment, like.dtype, like.device)
        if self._present is None or self._present[0] != now:
            self._present = (now, torch.from_numpy(self.array.present_weights()).to(like))
        return self._present[1]

    def multiply(self, use: str, weight: Tensor, x: Tensor) -> Tensor:
        """X @ weight.T with a matrix that is packed again only when it is another one than at the last such use."""
        held = self._packed.get(use)
        if held is None or held[0] is not weight:
            held = self._packed[use] = (weight, pack(weight))
        return held[1](x)

    def _input_gradient(self, grad: Tensor, master: Tensor | None) -> Tensor:
        """Gradient [..., in] of the input, by the chip's backward mode."""
        if master is not None:
            return grad @ master.detach().to(grad)
        chip = self.array.chip
        if chip.backward == "transposed" and not chip.exact:
            return to_tensor(self.array.mvm_t(self._vectors(grad), dtype=own(grad)), grad)
        if grad.is_meta:
            return grad.new_empty(*grad.shape[:-1], self.in_features)
        weight = self._nominal(grad) if chip.backward == "nominal" else self.present_weights(grad)
        if self._transposed is None or self._transposed[0] is not weight:
            self._transposed = (weight, weight.T.contiguous())
        return self.multiply("backward", self._transposed[1], grad)

    def _nominal(self, like: Tensor) -> Tensor:
        """The weights that the array was asked to hold, [out, in], computed once per programming."""
        now = (self.array.version, self.array.changes, like.dtype, like.device)
        if self._asked is None or self._asked[0] != now:
            self._asked = (now, torch.from_numpy(self.array.kept(self.array.target_weights())).to(like))
        return self._asked[1]

    def book_kept(self, vectors: int) -> None:
        """Book that the input of that many vectors is kept for the gradient of the trained matrix."""
        self.array.site.book(digital.kept(self.in_features * vectors))

    def book_backward(self, vectors: int, *, wants_input: bool, wants_master: bool) -> None:
        """Book the digital work of the backward pass; streamed weights come from DRAM once a step, however it is split.

        A transposed read has no digital product: the array books it (here on an exact chip, whose products torch computes).
        """
        m, n, site, chip = self.out_features, self.in_features, self.array.site, self.array.chip
        if wants_master:
            site.book(cost.weight_gradient(m, n, vectors))
            site.book(digital.fetched(n * vectors))
        if not wants_input:
            return
        if self.master is None and chip.backward == "transposed":
            if chip.exact:
                self.array.readers[1].book(vectors)
            return
        site.book(cost.dense(m, n, vectors))
        step = (chip.ledger, chip.ledger.task, chip.event)
        if self.master is None and self._streamed != step:
            self._streamed = step
            site.book(cost.stream_from_dram(m, n))

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for key, values in checkpoint.array_state(self.array).items():
            destination[f"{prefix}{key}"] = torch.from_numpy(values)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Bring the cells to a saved state; what was saved from another matrix, card or chip changes nothing.

        Raises:
            ConfigError: the state does not fit this array.
        """
        local_metadata, strict, missing, unexpected, errors = args
        entries = array_entries(state_dict, prefix)
        rest = {key: value for key, value in state_dict.items() if key.removeprefix(prefix) not in entries}
        super()._load_from_state_dict(rest, prefix, local_metadata, strict, missing, unexpected, errors)
        if not entries:
            missing.append(prefix + checkpoint.META)
            return
        checkpoint.restore_array(self.array, entries)

    def extra_repr(self) -> str:
        """Shape and name for print(model)."""
        return f"{self.in_features} -> {self.out_features}, array={self.array.name!r}"


def array_entries(state_dict: dict[str, Any], prefix: str) -> dict[str, NDArray[Any]]:
    """The entries below `prefix` that describe an array, by their names in checkpoint.array_state; none without META."""
    if prefix + checkpoint.META not in state_dict:
        return {}
    below = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    return {key: to_numpy(value) for key, value in below.items() if key.startswith(checkpoint.ENTRIES)}


class _Product(torch.autograd.Function):
    """Forward on the array, backward as CrossbarProduct says."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        master: Tensor | None,
        bias: Tensor | None,
        product: CrossbarProduct,
        size: Size,
    ) -> Tensor:
        ctx.save_for_backward(None if master is None else x, master)
        ctx.product = product
        y, ctx.trace = product.run(x, size)
        return y if bias is None else plus(y, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        (grad,) = grads
        x, master = ctx.saved_tensors
        wants_input, wants_master, wants_bias = ctx.needs_input_grad[:3]
        grad_x = ctx.product.pull_back(
            grad, ctx.trace, master, wants_input=wants_input, wants_matrix=wants_master
        )
        grad_bias = grad.reshape(-1, grad.shape[-1]).sum(0) if wants_bias else None
        return grad_x, outer(grad, x) if wants_master else None, grad_bias, None, None


def plus(y: Tensor, bias: Tensor) -> Tensor:
    """Y + bias, in place where their types allow it.

    By NumPy: torch would wake its threads for so little work, which on a busy machine takes longer than the product.
    """
    if not y.is_cpu or y.dtype != bias.dtype or y.dtype == torch.bfloat16:
        return y + bias
    values = y.numpy()
    values += bias.detach().numpy()
    return y


def outer(grad: Tensor, x: Tensor) -> Tensor:
    """Gradient [out, in] of a matrix: g x^T summed over the vectors."""
    return grad.reshape(-1, grad.shape[-1]).T @ x.reshape(-1, x.shape[-1]).to(grad.dtype)


class DigitalProduct(nn.Module):
    """x @ W.T in the chip's digital logic, weights in SRAM; books itself when it has a `site`."""

    def __init__(self, weight: Tensor, *, site: Site | None = None) -> None:
        super().__init__()
        self.weight = (
            weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight, requires_grad=False)
        )
        self.site = site

    @property
    def in_features(self) -> int:
        """Number of inputs n."""
        return int(self.weight.shape[1])

    @property
    def out_features(self) -> int:
        """Number of outputs m."""
        return int(self.weight.shape[0])

    @property
    def matrix(self) -> nn.Parameter:
        """The digital matrix [out, in] that may train."""
        return self.weight

    def forward(self, x: Tensor, size: Size = 1.0) -> Tensor:
        """The product; `size` is accepted for symmetry with CrossbarProduct and has no effect."""
        out, trace = self.run(x, size)
        if self.site is not None and out.requires_grad:
            wants_input = x.requires_grad
            if self.weight.requires_grad:
                self.book_kept(trace.vectors)
            out.register_hook(
                lambda _: self._book_backward(
                    trace, wants_input=wants_input, wants_matrix=self.weight.requires_grad
                )
            )
        return out

    def run(self, x: Tensor, size: Size = 1.0) -> tuple[Tensor, Trace]:
        """The product and what `pull_back` needs of it; `size` has no effect."""
        del size
        out = nn.functional.linear(x, self.weight)
        if self.site is None:
            return out, Trace(0)
        trace = Trace(self.site.chip.valid_vectors(x.shape[:-1]))
        self.site.book(cost.dense(self.out_features, self.in_features, trace.vectors))
        return out, trace

    def pull_back(
        self, grad: Tensor, trace: Trace, matrix: Tensor | None, *, wants_input: bool, wants_matrix: bool
    ) -> Tensor | None:
        """Gradient [..., in] of the input, if wanted; a wanted gradient of `matrix` is booked only."""
        self._book_backward(trace, wants_input=wants_input, wants_matrix=wants_matrix)
        if not wants_input:
            return None
        assert matrix is not None  # as in `run`
        return grad @ (matrix if matrix.dtype == grad.dtype else matrix.to(grad))

    def _book_backward(self, trace: Trace, *, wants_input: bool, wants_matrix: bool) -> None:
        if self.site is None:
            return
        if wants_input:
            self.site.book(cost.dense(self.out_features, self.in_features, trace.vectors))
        if wants_matrix:
            self.site.book(cost.weight_gradient(self.out_features, self.in_features, trace.vectors))
            self.site.book(digital.fetched(self.in_features * trace.vectors))

    def book_kept(self, vectors: int) -> None:
        """Book that the input of that many vectors is kept for the gradient of the trained matrix."""
        if self.site is not None:
            self.site.book(digital.kept(self.in_features * vectors))


class CrossbarLinear(nn.Module):
    """A linear layer whose weight sits on an array and whose bias is digital."""

    weight = None
    """What models find that look for a tensor here before they call the layer (T5's feed-forward part): none."""

    def __init__(self, product: CrossbarProduct, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.product = product
        self.bias = bias

    @property
    def in_features(self) -> int:
        """Number of inputs."""
        return self.product.in_features

    @property
    def out_features(self) -> int:
        """Number of outputs."""
        return self.product.out_features

    def forward(self, x: Tensor) -> Tensor:
        """X [..., in] -> [..., out]."""
        out: Tensor = self.product(x, bias=self.bias)
        return out


def book_bias(site: Site, bias: Tensor | None, out: Tensor) -> None:
    """Book the addition of a bias [out] to results [..., out], the model's own work, and the gradient of one that trains."""
    if bias is None:
        return
    counts = digital.bias(out.shape[-1], site.chip.valid_vectors(out.shape[:-1]))
    Site(site.chip, site.layer, "rest").book(counts)
    if bias.requires_grad and out.requires_grad:
        own = Site(site.chip, site.layer, "own")
        out.register_hook(lambda _: own.book(counts))


def split(
    layer: nn.Module, *, site: Site | None = None
) -> tuple[CrossbarProduct | DigitalProduct, nn.Parameter | None]:
    """The product and the bias of a linear layer, on the chip or not; one that is not books its product at `site`.

    Raises:
        ConfigError: the layer is neither nn.Linear nor CrossbarLinear.
    """
    if isinstance(layer, CrossbarLinear):
        return layer.product, layer.bias
    if isinstance(layer, nn.Linear):
        return DigitalProduct(layer.weight, site=site), layer.bias
    raise ConfigError(f"cannot adapt a {type(layer).__name__}: only nn.Linear and CrossbarLinear layers")
