"""The fused operation against the graph of small operations that it stands for: answers, gradients and bookings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from crossbar_sim import cost
from crossbar_sim.chip import Chip, Site
from crossbar_sim.layers import CrossbarProduct, DigitalProduct
from lorafusion.layers import MERGES, AdapterPool, FusedLoraLinear, Magnitude

KINDS = ("off", "gain", "dora")
MODULES, RANK, OUT, IN = 3, 2, 7, 5
MASK = np.array([[True, True, True], [True, False, False], [True, True, False], [True, True, True]])
Trained = tuple[str, ...]
ALL: Trained = ("x", "c", "m", "bias")


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)


@dataclass
class Setup:
    """One layer's parts; `graph` computes with them by autograd, `layer` is the fused layer of the same parts."""

    merge: str = "sum_of_products"
    kind: str = "gain"
    pool: bool = True
    bias: bool = True
    trained: Trained = ALL
    matrices: Trained = ()
    dtype: torch.dtype = torch.float64
    chip: Chip | None = None
    digital: bool = False
    products: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shapes = {"base": (OUT, IN), "A": (MODULES * RANK, IN), "B": (OUT, MODULES * RANK)}
        for seed, (name, shape) in enumerate(shapes.items()):
            self.products[name] = self._product(name, normal(seed, *shape, dtype=self.dtype))
        c, bias, m = 3 * normal(3, MODULES), normal(4, OUT), 1 + 0.3 * normal(5, OUT)
        self.c = self._parameter("c", c) if self.pool else None
        self.b = self._parameter("bias", bias) if self.bias else None
        norm = normal(6, OUT).abs().add(1).to(self.dtype)
        self.norm = (lambda _: norm) if self.kind == "dora" else None
        start = m.to(self.dtype)
        self.magnitude = None if self.kind == "off" else Magnitude(OUT, norm=self.norm, start=start)
        if self.magnitude is not None:
            self.magnitude.weight.requires_grad_("m" in self.trained)
        self.x = normal(7, 4, 3, IN).to(self.dtype)
        self.site = None if self.chip is None else Site(self.chip, "layer", "own")

    def _parameter(self, name: str, values: Tensor) -> nn.Parameter:
        return nn.Parameter(values.to(self.dtype), requires_grad=name in self.trained)

    def _product(self, name: str, weight: Tensor) -> CrossbarProduct | DigitalProduct:
        held = nn.Parameter(weight, requires_grad=name in self.matrices)
        if self.chip is None or self.digital:
            return DigitalProduct(held, site=None if self.chip is None else Site(self.chip, "layer", name))
        array = self.chip.program(weight.double().numpy(), name=name, layer="layer", matrix=name)
        return CrossbarProduct(array, master=held if name in self.matrices else None)

    @property
    def layer(self) -> FusedLoraLinear:
        p = self.products
        return FusedLoraLinear(
            p["base"],
            self.b,
            pool=AdapterPool(p["A"], p["B"], MODULES) if self.pool else None,
            coefficients=self.c,
            magnitude=self.magnitude,
            merge=self.merge,
            site=self.site,
        )

    def graph(self, x: Tensor) -> Tensor:
        """The same by small operations, which autograd turns around."""
        z = self.products["base"](x)
        if self.c is not None:
            u = self.products["A"](x).unflatten(-1, (MODULES, -1))
            size = float(self.c.detach().abs().max())
            inner = self.c[:, None] * u
            if self.merge == "product_of_sums":
                size *= float(self.c.detach().norm())
                inner = self.c[:, None] * inner.sum(-2, keepdim=True)
            z = z + self.products["B"](inner.flatten(-2), size)
        y = z
        if self.magnitude is not None:
            m = self.magnitude.weight
            y = z * (m if self.norm is None else m / self.norm(self.c))
        self._book(x, y)
        if self.b is None:
            return y
        return self._biased(y + self.b)

    def _biased(self, y: Tensor) -> Tensor:
        if self.chip is not None and self.b is not None:
            own, count = Site(self.chip, "layer", "own"), {"digital_add": y.shape[-1] * self._vectors(y)}
            Site(self.chip, "layer", "rest").book(count)
            if self.b.requires_grad:
                y.register_hook(lambda _: own.book(count))
        return y

    def _vectors(self, y: Tensor) -> int:
        assert self.chip is not None
        return self.chip.valid_vectors(y.shape[:-1])

    def _kept(self) -> int:
        """Words per vector that wait for the gradients of what trains: u, for products of sums h too, and z."""
        width = MODULES * RANK + (RANK if self.merge == "product_of_sums" else 0)
        of_c = self.c is not None and self.c.requires_grad
        of_m = self.magnitude is not None and self.magnitude.weight.requires_grad
        return width * of_c + OUT * of_m

    def _book(self, x: Tensor, y: Tensor) -> None:
        if self.site is None:
            return
        site, vectors = self.site, self.site.chip.valid_vectors(x.shape[:-1])
        n, merge = MODULES * self.pool, {"product_of_sums": self.merge == "product_of_sums"}
        site.book(cost.fusion_forward(n * RANK, n, OUT, vectors, **merge))
        if self.magnitude is not None:
            site.book(cost.magnitude_forward(OUT, vectors))
        wants_input = x.requires_grad and self.pool

        def backward(_: Tensor) -> None:
            site.book(cost.fusion_backward(n * RANK, n, vectors, **merge))
            if wants_input:
                site.book({"digital_add": IN * vectors})
            if self.magnitude is not None:
                site.book(cost.magnitude_backward(OUT, vectors))
            if self._kept():
                site.book({"activation_read_bit": 16 * self._kept() * vectors})

        if y.requires_grad:
            if self._kept():
                site.book({"activation_write_bit": 16 * self._kept() * vectors})
            y.register_hook(backward)

    def calibrate(self) -> None:
        if self.chip is not None and not self.digital and not self.chip.exact:
            with torch.no_grad():
                self.chip.calibrate(self.layer, [{"x": self.x}])

    def input(self) -> Tensor:
        return self.x.clone().requires_grad_("x" in self.trained)

    def leaves(self, x: Tensor) -> dict[str, Tensor]:
        """Everything that trains, by name."""
        m = None if self.magnitude is None else self.magnitude.weight
        named = {"x": x, "c": self.c, "m": m, "bias": self.b}
        named |= {name: p.matrix for name, p in self.products.items() if self.pool or name == "base"}
        return {name: t for name, t in named.items() if t is not None and t.requires_grad}


def outcome(
    setup: Setup, run: Callable[[Tensor], Tensor], *, mask: Any = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The answer and all gradients of one step; the chip has gone on between forward and backward."""
    x, chip = setup.input(), setup.chip
    if chip is not None:
        chip.next_event()
        chip.begin_batch(mask)
        chip.ledger.task, chip.ledger.phase = "t", "forward"
    y = run(x)
    if chip is not None:
        chip.begin_batch(None)
        chip.next_event()
        chip.ledger.phase = "backward"
    leaves = setup.leaves(x)
    if leaves:
        weights = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).reshape(y.shape).to(y.dtype)
        y.backward(weights)
    return y.detach(), {name: leaf.grad for name, leaf in leaves.items()}


def rows(chip: Chip) -> list[dict[str, Any]]:
    return [row for row in chip.ledger.rows(chip.preset.prices) if row["task"] == "t"]


def assert_same_rows(ours: Chip, theirs: Chip) -> None:
    assert {row["phase"] for row in rows(theirs)} == {"forward", "backward"}
    for a, b in zip(rows(ours), rows(theirs), strict=True):
        np.testing.assert_equal(a, b)  # the joules of an ideal chip are NaN


def assert_same(ours: Any, theirs: Any, *, tolerance: float) -> None:
    torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=0)
    assert ours[1].keys() == theirs[1].keys()
    for name, wanted in theirs[1].items():
        got = ours[1][name]
        assert (got is None) == (wanted is None), name
        if wanted is not None:
            assert got.dtype == wanted.dtype
            near = tolerance * max(wanted.abs().flatten().tolist(), default=0.0)
            torch.testing.assert_close(got, wanted, rtol=0, atol=near, msg=name)


def both(tolerance: float = 1e-12, mask: Any = None, make_chip: Any = None, **settings: Any) -> None:
    """Fused and graph give the same bits, gradients and ledger rows."""
    setups = [Setup(chip=make_chip() if make_chip else None, **settings) for _ in range(2)]
    for setup in setups:
        setup.calibrate()
    ours = outcome(setups[0], setups[0].layer, mask=mask)
    theirs = outcome(setups[1], setups[1].graph, mask=mask)
    assert_same(ours, theirs, tolerance=tolerance)
    if make_chip:
        assert_same_rows(setups[0].chip, setups[1].chip)


SUBSETS = [
    ALL, ("x",), ("c",), ("m",), ("bias",), ("c", "m"), ("x", "m"), ("x", "c"), ("m", "bias"), (),
]  # fmt: skip


@pytest.mark.parametrize("trained", SUBSETS, ids=lambda t: "+".join(t) or "none")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("merge", MERGES)
def test_every_choice_of_what_trains_gives_the_graph_s_gradients(merge, kind, trained) -> None:
    for pool in (True, False):
        for bias in (True, False):
            both(merge=merge, kind=kind, trained=trained, pool=pool, bias=bias)


@pytest.mark.parametrize("mode", ["transposed", "nominal", "oracle"])
@pytest.mark.parametrize("card", ["ideal", "cmo_hfox", "hfo2_neurram"])
@pytest.mark.parametrize("merge", MERGES)
def test_a_chip_draws_and_books_the_same(merge, card, mode) -> None:
    for kind, trained in (("gain", ALL), ("dora", ("c", "m")), ("off", ("x",)), ("gain", ("m",))):
        both(
            make_chip=lambda: Chip(card, statistical=True, backward=mode, seed=3),
            merge=merge, kind=kind, trained=trained, dtype=torch.float32, mask=MASK, tolerance=1e-6,
        )  # fmt: skip


@pytest.mark.parametrize("digital", [False, True])
@pytest.mark.parametrize("matrices", [("base",), ("A",), ("B",), ("base", "A", "B")], ids="+".join)
@pytest.mark.parametrize("merge", MERGES)
def test_matrices_that_train_get_their_gradients_and_book_them(merge, matrices, digital) -> None:
    for trained in (ALL, ()):
        both(
            make_chip=lambda: Chip("cmo_hfox", statistical=True), matrices=matrices, digital=digital,
            merge=merge, trained=trained, dtype=torch.float32, mask=MASK, tolerance=1e-6,
        )  # fmt: skip


def test_digital_products_on_a_chip_book_the_same() -> None:
    for trained in ALL, ("c",), ("m",), ("x",):
        both(make_chip=lambda: Chip("ideal"), digital=True, trained=trained, mask=MASK)


@pytest.mark.parametrize("kind", ["gain", "dora"])
@pytest.mark.parametrize("merge", MERGES)
def test_numerical_derivatives_agree(merge, kind) -> None:
    setup = Setup(merge=merge, kind=kind, matrices=("base", "A", "B"))
    layer, x = setup.layer, setup.input()
    leaves = setup.leaves(x)
    assert torch.autograd.gradcheck(lambda *_: layer(x), tuple(leaves.values()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("card", [None, "ideal", "hfo2_neurram"])
@pytest.mark.parametrize("merge", MERGES)
def test_short_and_long_floats_go_in_and_come_out(merge, card, dtype) -> None:
    tolerance = 1e-10 if dtype == torch.float64 else 4 * torch.finfo(dtype).eps
    chip = None if card is None else lambda: Chip(card, statistical=True)
    both(merge=merge, kind="dora", dtype=dtype, make_chip=chip, tolerance=tolerance)


def test_parameters_of_another_precision_promote_as_the_graph_does() -> None:
    results = []
    for fused in (True, False):
        setup = Setup(dtype=torch.float32, merge="product_of_sums")
        assert setup.c is not None
        setup.c.data = setup.c.data.double()
        assert setup.magnitude is not None
        setup.magnitude.weight.data = setup.magnitude.weight.data.double()
        setup.products["B"].weight.data = setup.products["B"].weight.data.double()
        results.append(outcome(setup, setup.layer if fused else setup.graph))
    assert results[0][0].dtype == torch.float64
    assert_same(*results, tolerance=1e-6)


@pytest.mark.parametrize("mode", ["transposed", "nominal"])
@pytest.mark.parametrize("merge", MERGES)
def test_gradients_reach_each_array_in_the_precision_of_its_outputs(merge, mode) -> None:
    results = []
    for fused in (True, False):
        setup = Setup(chip=Chip("cmo_hfox", statistical=True, backward=mode), merge=merge)
        setup.calibrate()
        setup.x = setup.x.bfloat16()
        results.append(outcome(setup, setup.layer if fused else setup.graph))
    assert results[0][1]["x"].dtype == torch.bfloat16
    assert results[0][1]["x"].equal(results[1][1]["x"])


@pytest.mark.parametrize("merge", MERGES)
def test_automatic_mixed_precision_gives_the_graph_s_gradients(merge) -> None:
    results = []
    for fused in (True, False):
        setup = Setup(dtype=torch.float32, merge=merge, matrices=("A",))
        x = setup.input()
        with torch.autocast("cpu", torch.bfloat16):
            y = (setup.layer if fused else setup.graph)(x)
        y.square().sum().backward()
        results.append((y.detach(), {name: t.grad for name, t in setup.leaves(x).items()}))
    assert_same(*results, tolerance=0.02)


def test_autograd_sees_one_operation() -> None:
    setup = Setup()
    y = setup.layer(setup.input())
    below = [node for node, _ in y.grad_fn.next_functions if node is not None]
    assert len(below) == 4  # x, c, m and the bias, nothing between
    assert {type(node).__name__ for node in below} == {"AccumulateGrad"}


def test_a_bias_that_trains_alone_asks_nothing_of_the_chip() -> None:
    """Its gradient is the sum of what comes back: no array is read and no product is made for it."""
    setup = Setup(chip=Chip("cmo_hfox", statistical=True), trained=("bias",), dtype=torch.float32)
    setup.calibrate()
    _, gradients = outcome(setup, setup.layer)
    assert gradients["bias"] is not None
    backward = [row for row in rows(setup.chip) if row["phase"] != "forward"]
    assert [(row["matrix"], row["action"], row["count"]) for row in backward] == [
        ("own", "digital_add", 4 * 3 * OUT)
    ]


@pytest.mark.parametrize("trained", [ALL, ("x", "c")])
def test_outputs_are_only_kept_for_a_magnitude_that_trains(trained) -> None:
    kept: list[Tensor] = []
    setup = Setup(trained=trained)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = setup.layer(setup.input())
    assert (max(t.numel() for t in kept) >= y.numel()) is ("m" in trained)


def test_a_layer_used_twice_and_coefficients_that_are_shared_add_their_gradients() -> None:
    results = []
    for fused in (True, False):
        first, second = Setup(), Setup(merge="product_of_sums")
        second.c = first.c
        runs = [(s.layer if fused else s.graph) for s in (first, second)]
        x = first.input()
        y = runs[0](x) * runs[1](x.flip(0)) + runs[0](2 * x)
        y.square().sum().backward()
        results.append((y.detach(), {name: t.grad for name, t in first.leaves(x).items()}))
    assert_same(*results, tolerance=1e-12)


@pytest.mark.parametrize("lead", [(), (0,), (2, 0), (1,), (2, 1, 3)])
@pytest.mark.parametrize("merge", MERGES)
def test_any_leading_shape_is_taken(merge, lead) -> None:
    results = []
    for fused in (True, False):
        setup = Setup(merge=merge, kind="dora")
        setup.x = normal(8, *lead, IN)
        results.append(outcome(setup, setup.layer if fused else setup.graph))
    assert results[0][0].shape == (*lead, OUT)
    assert_same(*results, tolerance=1e-12)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpoint_recomputes_the_same_bits(reentrant) -> None:
    setup = Setup(chip=Chip("cmo_hfox", statistical=True), dtype=torch.float32)
    setup.calibrate()
    layer, gradients = setup.layer, []

    def block(x: Tensor) -> Tensor:
        return layer(layer(x)[..., :IN]).square()

    for again in (False, True):
        x = setup.input()
        y = checkpoint(block, x, use_reentrant=reentrant) if again else block(x)
        y.sum().backward()
        gradients.append([t.grad for t in setup.leaves(x).values()])
        layer.zero_grad()
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_a_compiled_layer_is_run_as_it_is() -> None:
    setup = Setup(chip=Chip("cmo_hfox", statistical=True), dtype=torch.float32)
    setup.calibrate()
    compiled = torch.compile(setup.layer, backend="eager")
    with torch.no_grad():
        assert compiled(setup.x).equal(setup.layer(setup.x))


@pytest.mark.parametrize("matrices", [(), ("base",)])
def test_what_is_changed_between_forward_and_backward_is_noticed(matrices) -> None:
    setup = Setup(matrices=matrices)
    y = setup.layer(setup.input())
    with torch.no_grad():
        (setup.products["base"].weight if matrices else setup.c).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_the_size_of_the_drives_follows_the_coefficients_however_they_are_set() -> None:
    setup = Setup(merge="product_of_sums")
    layer, sizes = setup.layer, []
    for values in (torch.ones(3), torch.tensor([3.0, 0.0, -4.0]), torch.ones(3)):
        setup.c.data.copy_(values)  # leaves no trace in autograd's version
        sizes.append(layer._size(setup.c))
    assert sizes == pytest.approx([3**0.5, 20.0, 3**0.5])


def test_a_second_derivative_is_refused() -> None:
    setup = Setup()
    x = setup.input()
    (first,) = torch.autograd.grad(setup.layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


class _Threads(TorchDispatchMode):
    """On how many of torch's threads the arithmetic runs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, set[int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.setdefault(func.overloadpacket.__name__, set()).add(torch.get_num_threads())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("card", "threads"), [(None, 2), ("ideal", 2), ("hfo2_neurram", 1)])
def test_arithmetic_between_arrays_wakes_no_threads_and_leaves_them_as_found(card, threads) -> None:
    setup = Setup(chip=None if card is None else Chip(card, statistical=True), dtype=torch.float32)
    setup.calibrate()
    found = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with _Threads() as seen:
            setup.layer(setup.input()).backward(torch.ones(4, 3, OUT))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(found)
    assert [seen.seen[name] for name in ("add", "mul", "sum")] == [{threads}] * 3
