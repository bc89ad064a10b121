"""The torch seam: products on the chip's arrays and in its digital logic, as modules with gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from crossbar_kernels.gemm import Product, pack
from crossbar_sim import checkpoint, cost
from crossbar_sim.array import ProgrammedArray
from crossbar_sim.chip import Site
from crossbar_sim.errors import ConfigError
from crossbar_sim.ledger import Ledger
from crossbar_sim.moment import at, moment


class CrossbarProduct(nn.Module):
    """x @ W.T on a programmed array; x [..., in] -> [..., out], no bias.

    Gradient (docs/definitions.md, "Backward modes"): straight through the converters. With respect to the
    input it is the product with the transposed array, noisy and booked like every read (`transposed`), with the
    weights the array was asked to hold (`nominal`, booked as a digital product whose weights come from DRAM once
    a step), or with the conductances as they are (`oracle`, not realisable). With respect to `master`, the digital
    copy of a matrix that is trained on the array, it is the outer product g x^T, booked as digital work; the
    input's gradient is then the digital product with the master in every mode. The backward pass reads with the
    mask, the sample numbers and the event of its forward pass. Works in train() and in eval().

    The array lives on the CPU: an input on another device is brought there and its product back. torch.compile breaks its graph
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

    def forward(self, x: Tensor, size: float = 1.0) -> Tensor:
        """The product. `size`: how much larger than at calibration x may be (ProgrammedArray.mvm)."""
        if (
            torch.compiler.is_compiling()
        ):  # asked for here, as a decorator would import the compiler with this module
            eager: Tensor = torch.compiler.disable(self._product)(x, size)
            return eager
        return self._product(x, size)

    def _product(self, x: Tensor, size: float) -> Tensor:
        result: Tensor = _Product.apply(x, self.master, self, size)  # type: ignore[no-untyped-call]
        return result

    def present_weights(self, dtype: torch.dtype) -> Tensor:
        """The weights that the cells hold now, [out, in], read once per state of the cells."""
        now = (self.array.moment, dtype)
        if self._present is None or self._present[0] != now:
            self._present = (now, torch.from_numpy(self.array.present_weights()).to(dtype))
        return self._present[1]

    def multiply(self, use: str, weight: Tensor, x: Tensor) -> Tensor:
        """X @ weight.T with a matrix that is packed again only when it is another one than at the last such use."""
        held = self._packed.get(use)
        if held is None or held[0] is not weight:
            held = self._packed[use] = (weight, pack(weight))
        return held[1](x)

    def backward_input(self, grad: Tensor) -> Tensor:
        """Gradient [..., in] of the input, by the chip's backward mode."""
        if self.master is not None:
            return grad @ self.master.detach().to(grad)
        chip = self.array.chip
        if chip.backward == "transposed" and not chip.exact:
            return torch.from_numpy(self.array.mvm_t(to_numpy(grad))).to(grad)
        nominal = chip.backward == "nominal"
        weight = self._nominal(grad.dtype) if nominal else self.present_weights(grad.dtype)
        if self._transposed is None or self._transposed[0] is not weight:
            self._transposed = (weight, weight.T.contiguous())
        return self.multiply("backward", self._transposed[1], grad.cpu()).to(grad.device)

    def _nominal(self, dtype: torch.dtype) -> Tensor:
        """The weights that the array was asked to hold, [out, in], computed once per programming."""
        now = (self.array.version, self.array.changes, dtype)
        if self._asked is None or self._asked[0] != now:
            self._asked = (now, torch.from_numpy(self.array.target_weights()).to(dtype))
        return self._asked[1]

    def book_backward(self, vectors: int, *, wants_input: bool, wants_master: bool) -> None:
        """Book the digital work of the backward pass; streamed weights come from DRAM once a step, however it is split.

        A transposed read has no digital product: the array books it (here on an exact chip, whose products torch computes).
        """
        m, n, site, chip = self.out_features, self.in_features, self.array.site, self.array.chip
        if wants_master:
            site.book(cost.weight_gradient(m, n, vectors))
        if not wants_input:
            return
        if self.master is None and chip.backward == "transposed":
            if chip.exact:
                self.array.readers[1].book(vectors, None)
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


def to_numpy(x: Tensor) -> NDArray[Any]:
    """The values of a tensor of any device and type; NumPy has no bfloat16."""
    x = x.detach().cpu()
    return np.asarray((x.float() if x.dtype == torch.bfloat16 else x).numpy())


class _Product(torch.autograd.Function):
    """Forward on the array, backward as CrossbarProduct says."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, master: Tensor | None, product: CrossbarProduct, size: float) -> Tensor:
        array = product.array
        chip = array.chip
        ctx.product, ctx.moment = product, moment(chip)
        ctx.save_for_backward(x if master is not None else x.new_empty(0))
        ctx.vectors = chip.valid_vectors(x.shape[:-1])
        if chip.exact:
            array.book_reads(ctx.vectors)
            return product.multiply("forward", product.present_weights(x.dtype), x.cpu()).to(x.device)
        return torch.from_numpy(array.mvm(to_numpy(x), size=size)).to(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (grad,) = grads
        product: CrossbarProduct = ctx.product
        wants_input, wants_master = ctx.needs_input_grad[:2]
        with at(product.array.chip, ctx.moment):
            product.book_backward(ctx.vectors, wants_input=wants_input, wants_master=wants_master)
            grad_x = product.backward_input(grad) if wants_input else None
        grad_master = None
        if wants_master:
            (x,) = ctx.saved_tensors
            grad_master = grad.reshape(-1, grad.shape[-1]).T @ x.reshape(-1, x.shape[-1])
        return grad_x, grad_master, None, None


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

    def forward(self, x: Tensor, size: float = 1.0) -> Tensor:
        """The product; `size` is accepted for symmetry with CrossbarProduct and has no effect."""
        del size
        out = nn.functional.linear(x, self.weight)
        if self.site is None:
            return out
        vectors = self.site.chip.valid_vectors(x.shape[:-1])
        self.site.book(cost.dense(self.out_features, self.in_features, vectors))
        if out.requires_grad:
            wants_input = x.requires_grad
            out.register_hook(lambda grad: self._book_backward(vectors, wants_input=wants_input))
        return out

    def _book_backward(self, vectors: int, *, wants_input: bool) -> None:
        assert self.site is not None  # the hook is only set with a site
        if wants_input:
            self.site.book(cost.dense(self.out_features, self.in_features, vectors))
        if self.weight.requires_grad:
            self.site.book(cost.weight_gradient(self.out_features, self.in_features, vectors))


class CrossbarLinear(nn.Module):
    """A linear layer whose weight sits on an array and whose bias is digital."""

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
        out: Tensor = self.product(x)
        return out if self.bias is None else out + self.bias


class CrossbarConv2d(nn.Module):
    """A two-dimensional convolution on arrays: every window of the image is one input vector (im2col).

    y[o, p] = sum_i W[o, i] x[i, p] with i over (channel, kernel row, kernel column), the array's word lines, and p
    over the output positions. Each of the `groups` has its own array. Stride, padding, padding mode and dilation
    as in nn.Conv2d. A convolution of B images with P output positions drives B P vectors per array; the image counts
    as the sample, the output position as the position in it.

    Args:
        products: one per group, each [channels out / groups, channels in / groups * kernel].
        like: the layer whose geometry is taken over.
    """

    def __init__(self, products: list[CrossbarProduct], like: nn.Conv2d) -> None:
        super().__init__()
        self.products = nn.ModuleList(products)
        self.bias = like.bias
        self.in_channels, self.out_channels, self.groups = like.in_channels, like.out_channels, like.groups
        self.kernel_size, self.stride, self.dilation = like.kernel_size, like.stride, like.dilation
        self.padding, self.padding_mode = like.padding, like.padding_mode
        # left, right, top, bottom: "same" may need one more on one side
        self.border: list[int] = list(like._reversed_padding_repeated_twice)

    def forward(self, x: Tensor) -> Tensor:
        """X [B, C, H, W] or [C, H, W] -> [B, C out, H out, W out] or without B."""
        if x.dim() == 3:
            single: Tensor = self.forward(x[None])[0]
            return single
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        padded = nn.functional.pad(x, self.border, mode=mode)
        columns = nn.functional.unfold(
            padded, self.kernel_size, dilation=self.dilation, stride=self.stride
        ).transpose(1, 2)
        parts = columns.chunk(self.groups, -1)  # channels are the slowest of an unfolded vector's indices
        results = [product(part) for product, part in zip(self.products, parts, strict=True)]
        out = results[0] if self.groups == 1 else torch.cat(results, -1)
        out = out if self.bias is None else out + self.bias
        return out.transpose(1, 2).reshape(len(x), self.out_channels, *self._positions(padded))

    def _positions(self, padded: Tensor) -> tuple[int, int]:
        """Output rows and columns."""
        height, width = (
            (size - reach * (kernel - 1) - 1) // step + 1
            for size, kernel, reach, step in zip(
                padded.shape[-2:], self.kernel_size, self.dilation, self.stride, strict=True
            )
        )
        return height, width

    def extra_repr(self) -> str:
        """The geometry for print(model)."""
        return (
            f"{self.in_channels} -> {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}"
        )


def split(layer: nn.Module) -> tuple[nn.Module, nn.Parameter | None]:
    """The product and the bias of a linear layer, on the chip or not.

    Raises:
        ConfigError: the layer is neither nn.Linear nor CrossbarLinear.
    """
    if isinstance(layer, CrossbarLinear):
        return layer.product, layer.bias
    if isinstance(layer, nn.Linear):
        return DigitalProduct(layer.weight), layer.bias
    raise ConfigError(f"cannot adapt a {type(layer).__name__}: only nn.Linear and CrossbarLinear layers")
