"""Linear layers that carry an adapter. Each is built from products, on arrays or in digital logic.

A *product* maps x [..., in] to x @ W.T [..., out]; CrossbarProduct and DigitalProduct are the two kinds, so
the same layer runs on a chip and in plain torch, and no layer here knows a device. All forwards and backwards stay
N r wide (lorafusion.fused): no [out, in] matrix is ever formed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crossbar_sim import cost
from crossbar_sim import cost_digital as digital
from crossbar_sim.chip import Chip, Site
from crossbar_sim.layers import CrossbarProduct, Size, book_bias
from crossbar_sim.tally import Tally
from lorafusion.fused import Merge, Product, Step, fuse

MERGES = ("sum_of_products", "product_of_sums")
Norm = Callable[[Tensor | None], Tensor]


@dataclass(frozen=True)
class Work:
    """Digital work between an adapter's matrices: of one forward pass over some vectors, and of its backward pass.

    `kept` words per vector wait for the backward pass.
    """

    forward: Callable[[int], cost.Counts]
    backward: Callable[[int], cost.Counts]
    kept: int = 0

    def book(self, site: Site | None, x: Tensor, out: Tensor) -> None:
        """Book the forward work now and the backward work when the gradient of `out` arrives.

        A layer has two paths from x, so the gradient of x, where it is wanted, is one more addition per input.
        """
        if site is None:
            return
        vectors = site.chip.valid_vectors(x.shape[:-1])
        site.book(self.forward(vectors))
        if not out.requires_grad:
            return
        added = {"digital_add": x.shape[-1] * vectors} if x.requires_grad else {}
        words = self.kept * vectors
        site.book(digital.kept(words) if words else {})

        def back(_: Tensor) -> None:
            for counts in (self.backward(vectors), added, digital.fetched(words) if words else {}):
                site.book(counts)

        out.register_hook(back)


@dataclass(frozen=True)
class AdapterPool:
    """The stacked modules of one layer: A [N r, in] and B [out, N r] (scales folded into B), N modules."""

    a: Product
    b: Product
    modules: int

    @property
    def width(self) -> int:
        """Sum of the ranks, N r."""
        return self.a.out_features


def program_pool(chip: Chip, layer: str, a: Tensor, b: Tensor, *, modules: int) -> AdapterPool:
    """The stacks A [N r, in] and B [out, N r] of one layer's modules on arrays of their own, `<layer>.pool.A` and `.B`."""
    stacks: Any = (("A", a), ("B", b))  # tensors: a chip takes what NumPy does, a planned one any shape
    on_a, on_b = (
        CrossbarProduct(chip.program(stack, name=f"{layer}.pool.{matrix}", layer=layer, matrix=matrix))
        for matrix, stack in stacks
    )
    return AdapterPool(on_a, on_b, modules)


class LoraLinear(nn.Module):
    """y = W0 x + b + s B A x (Hu et al. 2021); A and B are products with trainable weights.

    With a `site` the additions of the two paths are booked, y's and those of the input's gradient (the constant s is
    free: it can be folded into B's words).
    """

    weight = None  # as CrossbarLinear's

    def __init__(
        self, base: nn.Module, a: nn.Module, b: nn.Module, scale: float, *, site: Site | None = None
    ) -> None:
        super().__init__()
        self.base, self.a, self.b, self.scale, self.site = base, a, b, scale, site

    def forward(self, x: Tensor) -> Tensor:
        """X [..., in] -> [..., out]."""
        out: Tensor = self.base(x) + self.scale * self.b(self.a(x))
        if self.site is not None:
            site, vectors = self.site, self.site.chip.valid_vectors(x.shape[:-1])
            site.book({"digital_add": out.shape[-1] * vectors})
            if x.requires_grad:
                added = x.shape[-1] * vectors
                out.register_hook(lambda _: site.book({"digital_add": added}))
        return out


class Magnitude(nn.Module):
    """A trained vector that scales a layer's outputs, one number per output.

    `gain`: y = g z, g from 1. `dora`: y = (m/n) z, n = ||V_o|| the row norm of the adapted weight, detached
    (Liu et al. 2024, section 4.3), m from ||W0_o||; `norm(c)` supplies n. The layer applies it (lorafusion.fused).
    """

    def __init__(self, outputs: int, *, norm: Norm | None = None, start: Tensor | None = None) -> None:
        super().__init__()
        self.norm = norm
        self.weight = nn.Parameter(torch.ones(outputs) if start is None else start.clone())
        self._cached: tuple[Tensor | None, Tensor] | None = None

    def norms(self, coefficients: Tensor | None) -> Tensor | None:
        """What the vector is divided by, [out]; evaluated anew only after the coefficients have moved (once per optimiser step).

        Coefficients on a device are not looked at, as that would wait: then always anew.
        """
        if self.norm is None:
            return None
        if self._cached is None or not _equal(self._cached[0], coefficients):
            with torch.no_grad():
                held = None if coefficients is None else coefficients.detach().clone()
                self._cached = (held, self.norm(coefficients))
        return self._cached[1]


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b if a is None or b is None else b.is_cpu and torch.equal(a, b)


class FusedLoraLinear(nn.Module):
    """A frozen linear layer with a frozen pool of LoRA modules, fused by coefficients c and a magnitude.

    sum_of_products:  V = W0 + sum_i c_i B_i A_i
    product_of_sums:  V = W0 + (sum_i c_i B_i)(sum_j c_j A_j)       (LoRAHub, LoRAFusion 2025)
    y = magnitude(V x) + b. `coefficients` [N] may be shared between layers (one vector per block). Without a
    pool (`pool` None) only the magnitude acts.
    """

    weight = None  # as CrossbarLinear's

    def __init__(
        self,
        product: Product,
        bias: nn.Parameter | None,
        *,
        pool: AdapterPool | None,
        coefficients: nn.Parameter | None,
        magnitude: Magnitude | None,
        merge: str = "sum_of_products",
        site: Site | None = None,
    ) -> None:
        super().__init__()
        if merge not in MERGES:
            raise ValueError(f"merge: {merge!r} is not one of {', '.join(MERGES)}")
        if (pool is None) != (coefficients is None):
            raise ValueError("pool and coefficients: give both or neither")
        self.product, self.bias, self.magnitude = product, bias, magnitude
        self.a: Product | None = pool.a if pool is not None else None
        self.b: Product | None = pool.b if pool is not None else None
        self.modules_count = pool.modules if pool is not None else 0
        self.width = pool.width if pool is not None else 0
        self.modules_on, self.width_on = self.modules_count, self.width
        self.coefficients = coefficients
        self.merge = Merge(self.modules_count, merge == "product_of_sums")
        self.site = site
        self._sized: tuple[tuple[torch.dtype, list[float]], Size] | None = None
        self._tallies: dict[tuple[Any, ...], Tally] = {}

    def forward(self, x: Tensor) -> Tensor:
        """X [..., in] -> [..., out]."""
        if torch.compiler.is_compiling():  # reads count and draw, which no graph may leave out
            eager: Tensor = torch.compiler.disable(self._fused)(x)
            return eager
        return self._fused(x)

    def gate(self, on: Tensor | None) -> None:
        """Switch modules off: the A-stack's outputs and the B-stack's inputs of those that `on` [N] denies; None: all on.

        Their coefficients must be 0. Arrays read less then, and so does the digital work between them; a pool in digital logic computes on.
        """
        if self.a is None or self.b is None:
            return
        self.modules_on = self.modules_count if on is None else int(on.sum())
        rank = self.width // self.modules_count
        self.width_on = self.modules_on * rank
        lines = None if on is None else on.repeat_interleave(rank).numpy()
        for product, gated in ((self.a, {"outputs": lines}), (self.b, {"inputs": lines})):
            if isinstance(product, CrossbarProduct):
                product.array.gate(**gated)

    def _fused(self, x: Tensor) -> Tensor:
        c, magnitude = self.coefficients, self.magnitude
        step = Step(
            (self.product,) if self.a is None or self.b is None else (self.product, self.a, self.b),
            self.merge,
            1.0 if c is None else self._size(c),
            None if magnitude is None else magnitude.norms(c),
            self._backward_booking(x),
            self.site is not None and not self.site.chip.exact,
        )
        m = None if magnitude is None else magnitude.weight
        y = fuse(x, step, coefficients=c, magnitude=m, bias=self.bias)
        self._book_forward(y)
        return y

    def _size(self, c: Tensor) -> Size:
        """The drives' size (Merge.size), computed anew only after the coefficients have moved, on a device always."""
        if not c.is_cpu:
            return self.merge.size(c)
        now = c.dtype, c.tolist()
        if self._sized is None or self._sized[0] != now:
            self._sized = (now, self.merge.size(c))
        return self._sized[1]

    def _book_forward(self, y: Tensor) -> None:
        """Book the digital work between the arrays."""
        if self.site is None:
            return
        vectors = self.site.chip.valid_vectors(y.shape[:-1])
        self._tally(self.site, back=False, words=self._kept_words() if y.requires_grad else 0).book(vectors)
        book_bias(self.site, self.bias, y)
        if not y.requires_grad:
            return
        for product in (self.product, self.a, self.b):
            if product is not None and product.matrix is not None and product.matrix.requires_grad:
                product.book_kept(vectors)

    def _kept_words(self) -> int:
        """Words per vector that the backward pass needs: the A-stack's outputs (and their sum), and what the magnitude scales."""
        c, magnitude = self.coefficients, self.magnitude
        words = 0
        if c is not None and c.requires_grad:
            words = self.width_on + self.merge.product_of_sums * (self.width_on // max(self.modules_on, 1))
        if magnitude is not None and magnitude.weight.requires_grad:
            words += self.product.out_features
        return words

    def _backward_booking(self, x: Tensor) -> Callable[[], None] | None:
        """What books the digital work between the arrays when the gradient comes back."""
        if self.site is None:
            return None
        site, vectors = self.site, self.site.chip.valid_vectors(x.shape[:-1])
        # dx is the sum of the gradients through W0 and through the A-stack
        added = x.shape[-1] if x.requires_grad and self.modules_on else 0
        return lambda: self._tally(site, back=True, words=self._kept_words(), added=added).book(vectors)

    def _tally(self, site: Site, *, back: bool, words: int, added: int = 0) -> Tally:
        """What one vector takes between the arrays, forward or `back`, with the words kept for the backward pass and further additions."""
        now = site, back, words, added, self.width_on
        if now not in self._tallies:
            size, sums = (self.width_on, self.modules_on), self.merge.product_of_sums
            outputs = self.product.out_features
            if back:
                parts = [cost.fusion_backward(*size, 1, product_of_sums=sums), digital.fetched(words)]
            else:
                parts = [cost.fusion_forward(*size, outputs, 1, product_of_sums=sums), digital.kept(words)]
            if self.magnitude is not None:
                scale = cost.magnitude_backward if back else cost.magnitude_forward
                parts.append(scale(outputs, 1))
            self._tallies[now] = Tally(site, digital.total(*parts, {"digital_add": added}))
        return self._tallies[now]


def gram_norm(weight: Tensor, a: Tensor, b: Tensor, modules: int, *, product_of_sums: bool) -> Norm:
    """Row norms of V as a function of c, from quantities computed once (no [out, in] temporary per step).

    n_o^2 = ||W0_o||^2 + 2 <W0_o, D_o> + ||D_o||^2 with D = sum_i c_i B_i A_i or (sum c_i B_i)(sum c_j A_j).
    Sum of products: <W0_o, D_o> = sum_i c_i p_io and ||D_o||^2 = sum_ij c_i c_j q_ijo.
    Product of sums: B_m . U_m and B_m G_m B_m^T with U_i = W0 A_i^T, G_ij = A_i A_j^T.

    Args:
        weight: W0 [out, in].
        a: A-stack [N r, in].
        b: B-stack [out, N r].
        modules: N.
        product_of_sums: which merge.
    """
    base = weight.square().sum(1)
    u = (weight @ a.T).unflatten(-1, (modules, -1))  # [out, N, r]
    gram = (a @ a.T).unflatten(0, (modules, -1)).unflatten(-1, (modules, -1))  # [N, r, N, r]
    split_b = b.unflatten(-1, (modules, -1))  # [out, N, r]
    if product_of_sums:

        def norm_of_product(c: Tensor | None) -> Tensor:
            assert c is not None
            c = c.to(base.dtype)
            b_m = torch.einsum("i,oir->or", c, split_b)
            u_m = torch.einsum("i,oir->or", c, u)
            g_m = torch.einsum("i,irjs,j->rs", c, gram, c)
            squared: Tensor = base + 2 * (b_m * u_m).sum(1) + ((b_m @ g_m) * b_m).sum(1)
            return squared.clamp_min(0).sqrt()

        return norm_of_product
    p = (split_b * u).sum(-1)  # [out, N]
    q = torch.einsum("oir,irjs,ojs->oij", split_b, gram, split_b)

    def norm_of_sum(c: Tensor | None) -> Tensor:
        assert c is not None
        c = c.to(base.dtype)
        squared: Tensor = base + 2 * (p @ c) + torch.einsum("i,oij,j->o", c, q, c)
        return squared.clamp_min(0).sqrt()

    return norm_of_sum
