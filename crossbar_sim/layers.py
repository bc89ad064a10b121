"""The torch seam: products on the chip's arrays and in its digital logic, as modules with gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from crossbar_kernels.gemm import Product, pack
from crossbar_sim import cost
from crossbar_sim.array import ProgrammedArray
from crossbar_sim.chip import Site
from crossbar_sim.errors import ConfigError
from crossbar_sim.ledger import Ledger


class CrossbarProduct(nn.Module):
    """x @ W.T on a programmed array; x [..., in] -> [..., out], no bias.

    Gradient (docs/definitions.md, "Backward modes"): straight through the converters. With respect to the
    input it is the product with the weights the array was asked to hold (`nominal`, booked as a digital
    product whose weights come from DRAM once a step) or with the conductances as they are (`oracle`, not
    realisable). With respect to `master`, the digital copy of a matrix that is trained on the array, it is the
    outer product g x^T, booked as digital work. Works in train() and in eval().
    """

    def __init__(self, array: ProgrammedArray, *, master: nn.Parameter | None = None) -> None:
        super().__init__()
        self.array = array
        self.master = master
        self._streamed: tuple[Ledger, str, int] | None = None
        self._present: tuple[tuple[int, float, torch.dtype], Tensor] | None = None
        self._asked: tuple[tuple[int, torch.dtype], Tensor] | None = None
        self._packed: dict[str, tuple[Tensor, Product]] = {}
        self._transposed: tuple[Tensor, Tensor] | None = None

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
        result: Tensor = _Product.apply(x, self.master, self, size)  # type: ignore[no-untyped-call]
        return result

    def present_weights(self, dtype: torch.dtype) -> Tensor:
        """The weights that the cells hold now, [out, in], read once per state of the cells."""
        moment = (self.array.version, self.array.chip.time, dtype)
        if self._present is None or self._present[0] != moment:
            self._present = (moment, torch.from_numpy(self.array.read_weights()).to(dtype))
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
            return grad @ self.master.detach().to(grad.dtype)
        oracle = self.array.chip.backward == "oracle"
        weight = self.present_weights(grad.dtype) if oracle else self._nominal(grad.dtype)
        if self._transposed is None or self._transposed[0] is not weight:
            self._transposed = (weight, weight.T.contiguous())
        return self.multiply("backward", self._transposed[1], grad)

    def _nominal(self, dtype: torch.dtype) -> Tensor:
        """The weights that the array was asked to hold, [out, in], computed once per programming."""
        moment = (self.array.version, dtype)
        if self._asked is None or self._asked[0] != moment:
            self._asked = (moment, torch.from_numpy(self.array.target_weights()).to(dtype))
        return self._asked[1]

    def book_backward(self, vectors: int, *, wants_input: bool, wants_master: bool) -> None:
        """Book the digital backward product; the weights come from DRAM once a step, however it is split."""
        m, n, site, chip = self.out_features, self.in_features, self.array.site, self.array.chip
        if wants_master:
            site.book(cost.weight_gradient(m, n, vectors))
        if not wants_input:
            return
        site.book(cost.dense(m, n, vectors))
        moment = (chip.ledger, chip.ledger.task, chip.event)
        if self.master is None and self._streamed != moment:
            self._streamed = moment
            site.book(cost.stream_from_dram(m, n))

    def extra_repr(self) -> str:
        """Shape and name for print(model)."""
        return f"{self.in_features} -> {self.out_features}, array={self.array.name!r}"


class _Product(torch.autograd.Function):
    """Forward on the array, backward as CrossbarProduct says."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, master: Tensor | None, product: CrossbarProduct, size: float) -> Tensor:
        ctx.product = product
        ctx.save_for_backward(x if master is not None else x.new_empty(0))
        ctx.vectors = product.array.chip.valid_vectors(x.shape[:-1])
        array = product.array
        if array.chip.exact:
            array.book_reads(ctx.vectors, None)
            return product.multiply("forward", product.present_weights(x.dtype), x)
        out = array.mvm(x.detach().numpy(), size=size)
        return torch.from_numpy(out).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (grad,) = grads
        product: CrossbarProduct = ctx.product
        wants_input, wants_master = ctx.needs_input_grad[:2]
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
