"""A layer with a pool of modules and a magnitude as one differentiable operation, its backward pass written out.

Forward: z = W0 x + B d(A x), y = g z + b, with d the drives of the B-stack (Merge) and g = m, or m / n for a detached
norm n. Backward, with dy the gradient of y: dg = sum dy z, dz = g dy, t = B^T dz, dc and du by the merge from t, and
dx = W0^T dz + A^T du. Each product is read by its own `run` and `pull_back`, which book themselves and read backward at
the moment of the forward pass; autograd sees one node. A backward pass that is asked for some of the gradients reads as
for all of them; a second derivative is refused, as by the arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from crossbar_kernels.threads import one_torch_thread
from crossbar_sim.layers import Size, Trace, outer


class Product(Protocol):
    """A product x [..., in] -> x @ W.T [..., out] that books itself: on an array or in digital logic."""

    @property
    def in_features(self) -> int:
        """Number of inputs."""
        ...

    @property
    def out_features(self) -> int:
        """Number of outputs."""
        ...

    @property
    def matrix(self) -> nn.Parameter | None:
        """The digital matrix [out, in] that may train; None where only cells hold it."""
        ...

    def run(self, x: Tensor, size: Size = 1.0) -> tuple[Tensor, Trace]:
        """The product and what `pull_back` needs of it; `size`: how much larger than at calibration x may be."""
        ...

    def pull_back(
        self, grad: Tensor, trace: Trace, matrix: Tensor | None, *, wants_input: bool, wants_matrix: bool
    ) -> Tensor | None:
        """Gradient [..., in] of the input, if wanted; a wanted gradient of `matrix` is booked only."""
        ...

    def book_kept(self, vectors: int) -> None:
        """Book that the input of that many vectors is kept for the gradient of the trained matrix."""
        ...


@dataclass(frozen=True)
class Merge:
    """How the A-stack's outputs u_i [..., r] of N modules become the B-stack's drives d_i, with coefficients c [N].

    Sum of products: d_i = c_i u_i. Product of sums: d_i = c_i h with h = sum_j c_j u_j.
    """

    modules: int
    product_of_sums: bool

    def size(self, c: Tensor) -> Size:
        """How much larger than u the drives are; the B-stack's DAC range follows it by a power of two.

        max|c| (sum of products) or max|c| ||c|| (product of sums: the inner sum of N uncorrelated outputs grows as ||c||).
        """
        c = c.detach()
        if not c.is_cpu:  # the numbers stay on the device: asking for them would wait
            c = c.double()
            return c.abs().max() * c.norm() if self.product_of_sums else c.abs().max()
        largest = float(c.abs().max())
        return largest * float(c.norm()) if self.product_of_sums else largest

    def spread(self, c: Tensor, width: int) -> Tensor:
        """The coefficient of each of `width` = N r columns: long rows multiply faster than N short ones."""
        return c[:, None].expand(self.modules, width // self.modules).flatten()

    def drive(self, u: Tensor, c: Tensor, columns: Tensor) -> tuple[Tensor, Tensor | None]:
        """The drives [..., N r] of u [..., N r], and h [..., 1, r] of a product of sums; `columns`: c, spread."""
        scaled = u * columns
        if not self.product_of_sums:
            return scaled, None
        h = self._split(scaled).sum(-2, keepdim=True)
        return (c[:, None] * h).flatten(-2), h

    def pull_back(
        self, t: Tensor, u: Tensor, h: Tensor | None, c: Tensor, columns: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The gradients of c [N], summed over the vectors, and of u [..., N r] from that of the drives, t [..., N r].

        Sum of products: dc_i = sum t_i . u_i and du_i = c_i t_i. Product of sums, with tbar = sum_k c_k t_k:
        dc_i = sum t_i . h + tbar . u_i and du_i = c_i tbar.
        """
        scaled = t * columns
        if h is None:
            return self._summed(self._split(t * u)), scaled
        gathered = self._split(scaled).sum(-2, keepdim=True)
        terms = self._split(t) * h + self._split(u) * gathered
        return self._summed(terms), (c[:, None] * gathered).flatten(-2)

    def _summed(self, terms: Tensor) -> Tensor:
        """[..., N, r] summed to [N]."""
        return terms.sum_to_size(self.modules, 1)[:, 0]

    def _split(self, flat: Tensor) -> Tensor:
        """[..., N r] as [..., N, r]."""
        return flat.view(*flat.shape[:-1], self.modules, flat.shape[-1] // self.modules)


class Step(NamedTuple):
    """What one call of a fused layer is made of, beside its tensors."""

    products: tuple[Product, ...]
    """The base and, with a pool, the A-stack and the B-stack."""
    merge: Merge
    size: Size
    """Of the B-stack's drives (Merge.size)."""
    norm: Tensor | None
    """What the magnitude is divided by, [out]; None: by nothing."""
    book: Callable[[], None] | None
    """Books the digital work of the backward pass."""
    alone: bool
    """Whether the arithmetic between the products stays on one thread: see `_between`."""


def fuse(
    x: Tensor, step: Step, *, coefficients: Tensor | None, magnitude: Tensor | None, bias: Tensor | None
) -> Tensor:
    """X [..., in] -> y [..., out], with gradients of x, the coefficients, the magnitude, the bias and the products' matrices."""
    matrices = (product.matrix for product in step.products)
    y: Tensor = _Fused.apply(step, x, coefficients, magnitude, bias, *matrices)  # type: ignore[no-untyped-call]
    return y


class _Read(NamedTuple):
    """One product's forward pass: what it must know to go back, and the types of its input and output."""

    product: Product
    trace: Trace
    taken: torch.dtype
    given: torch.dtype

    def back(
        self, grad: Tensor, matrix: Tensor | None, x: Tensor | None, *, wants_input: bool, wants_matrix: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of the input and of the matrix, each if wanted; `x` is needed for the matrix's."""
        if not (wants_input or wants_matrix):
            return None, None
        grad = _as(grad, self.given)
        dx = self.product.pull_back(
            grad, self.trace, matrix, wants_input=wants_input, wants_matrix=wants_matrix
        )
        d_matrix = outer(grad, x) if wants_matrix and x is not None else None
        return None if dx is None else _as(dx, self.taken), d_matrix


def _as(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x.to(dtype)`, without the price of the call where nothing is to be done."""
    return x if x.dtype == dtype else x.to(dtype)


def _read(product: Product, x: Tensor, size: Size = 1.0) -> tuple[Tensor, _Read]:
    y, trace = product.run(x, size)
    return y, _Read(product, trace, x.dtype, y.dtype)


def _between(step: Step) -> AbstractContextManager[None]:
    """Around the arithmetic between products.

    Products on arrays share their rows among plain threads. Waking torch's own threads for as little as a sum over the
    vectors can take longer, on a busy machine, than the products themselves.
    """
    return one_torch_thread() if step.alone else nullcontext()


class _Fused(torch.autograd.Function):
    """The formulas of the module's docstring; without a pool z = W0 x, without a magnitude g = 1."""

    @staticmethod
    def forward(
        ctx: Any,
        step: Step,
        x: Tensor,
        c: Tensor | None,
        m: Tensor | None,
        bias: Tensor | None,
        *matrices: Tensor | None,
    ) -> Tensor:
        z, base = _read(step.products[0], x)
        ctx.step, ctx.reads, u, h, columns, update = step, (base,), None, None, None, None
        if c is not None:
            u, a = _read(step.products[1], x)
            with _between(step):
                columns = step.merge.spread(c, u.shape[-1])
                drive, h = step.merge.drive(u, c, columns)
            update, b = _read(step.products[2], drive, step.size)
            ctx.reads = base, a, b
        gain = m if m is None or step.norm is None else m / step.norm
        with _between(step):
            z = z if update is None else z + update
            y = z if gain is None else z * gain
            y = y if bias is None else y + bias
        _, _, _, wants_m, _, *trains = ctx.needs_input_grad
        kept = x if any(trains[:2]) else None, z if wants_m else None
        ctx.save_for_backward(*kept, gain, step.norm, u, h, c, columns, *matrices)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dy,) = grads
        # asked for once: a checkpoint recomputes them for one reader
        x, z, gain, norm, *rest = ctx.saved_tensors
        _, wants_x, wants_c, wants_m, wants_bias, *trains = ctx.needs_input_grad
        dm, dz = None, dy
        with _between(ctx.step):
            d_bias = dy.sum_to_size(dy.shape[-1]) if wants_bias else None
            if wants_m:
                dm = (dy * z).sum_to_size(dy.shape[-1])
                dm = dm if norm is None else dm / norm
            if gain is not None:
                dz = dy * gain
        if not (wants_x or wants_c or wants_m or any(trains)):
            return (None, None, None, None, d_bias, *(None for _ in trains))
        if ctx.step.book is not None:
            ctx.step.book()
        dx, dc, *d_matrices = _through_products(ctx, dz, x, *rest)
        return (None, dx, dc, dm, d_bias, *d_matrices)


def _through_products(ctx: Any, dz: Tensor, x: Tensor | None, *saved: Any) -> tuple[Tensor | None, ...]:
    """Gradients of x, of the coefficients and of the products' matrices from that of z."""
    u, h, c, columns, *matrices = saved
    _, wants_x, wants_c, _, _, *trains = ctx.needs_input_grad
    base, *pool = ctx.reads
    dx, d_base = base.back(dz, matrices[0], x, wants_input=wants_x, wants_matrix=trains[0])
    if not pool:
        return dx, None, d_base
    merge, (a, b), wants_u = ctx.step.merge, pool, wants_x or trains[1]
    with _between(ctx.step):
        drive = merge.drive(u, c, columns)[0] if trains[2] else None
    t, d_b = b.back(dz, matrices[2], drive, wants_input=wants_c or wants_u, wants_matrix=trains[2])
    if t is None:
        return dx, None, d_base, None, d_b
    with _between(ctx.step):
        dc, du = merge.pull_back(t, u, h, c, columns)
    from_a, d_a = a.back(du, matrices[1], x, wants_input=wants_x, wants_matrix=trains[1])
    if from_a is not None:
        with _between(ctx.step):
            dx = dx + from_a
    return dx, dc if wants_c else None, d_base, d_a, d_b
