"""The fused layer against an independent dense formula, its memory, and what it does on a chip."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from crossbar_sim.chip import Chip, Site
from crossbar_sim.conversion import convert
from crossbar_sim.layers import CrossbarProduct, DigitalProduct
from crossbar_sim.presets import preset
from lorafusion.layers import MERGES, AdapterPool, FusedLoraLinear, LoraLinear, Magnitude, gram_norm
from lorafusion.methods import METHODS, Context

KINDS = ("off", "gain", "dora")
CARDS = ("ideal", "cmo_hfox")


@dataclass
class Case:
    """Random numbers of one layer: W0 [out, in], A_i [N, r, in], B_i [N, out, r], bias, c, m and x."""

    weight: Tensor
    a: Tensor
    b: Tensor
    bias: Tensor
    c: Tensor
    m: Tensor
    x: Tensor

    @property
    def modules(self) -> int:
        return len(self.c)

    @property
    def stacks(self) -> tuple[Tensor, Tensor]:
        return torch.cat(list(self.a)), torch.cat(list(self.b), dim=1)


def case(*, modules: int = 3, rank: int = 2, out: int = 7, inputs: int = 5, dtype=torch.float64) -> Case:
    g = torch.Generator().manual_seed(7 * modules + rank)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    return Case(
        normal(out, inputs), normal(modules, rank, inputs), normal(modules, out, rank), normal(out),
        normal(modules), 1 + 0.3 * normal(out), normal(4, 3, inputs),
    )  # fmt: skip


def dense_update(k: Case, c: Tensor, merge: str) -> Tensor:
    """The materialised D, module by module."""
    if merge == "sum_of_products":
        return sum(c[i] * k.b[i] @ k.a[i] for i in range(k.modules))
    return sum(c[i] * k.b[i] for i in range(k.modules)) @ sum(c[i] * k.a[i] for i in range(k.modules))


def dense_answer(k: Case, merge: str, kind: str, c: Tensor, m: Tensor, x: Tensor) -> Tensor:
    v = k.weight + dense_update(k, c, merge)
    z = x @ v.T
    if kind == "gain":
        z = m * z
    if kind == "dora":
        z = (m / v.detach().square().sum(1).sqrt()) * z
    return z + k.bias


def fused(k: Case, merge: str, kind: str, *, site: Site | None = None) -> FusedLoraLinear:
    a, b = k.stacks
    magnitude = None
    if kind != "off":
        pos = merge == "product_of_sums"
        norm = gram_norm(k.weight, a, b, k.modules, product_of_sums=pos) if kind == "dora" else None
        magnitude = Magnitude(len(k.m), norm=norm, start=k.m)
    return FusedLoraLinear(
        DigitalProduct(k.weight),
        nn.Parameter(k.bias),
        pool=AdapterPool(DigitalProduct(a), DigitalProduct(b), k.modules),
        coefficients=nn.Parameter(k.c.clone()),
        magnitude=magnitude,
        merge=merge,
        site=site,
    )


def gradients(y: Tensor, *inputs: Tensor | None) -> list[Tensor]:
    weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape)
    return list(torch.autograd.grad((weights * y).sum(), [i for i in inputs if i is not None]))


# -- the formula ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [2, 5])
@pytest.mark.parametrize("modules", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("merge", MERGES)
def test_forward_and_gradients_equal_the_dense_formula(merge, kind, modules, rank) -> None:
    k = case(modules=modules, rank=rank)
    layer = fused(k, merge, kind)
    x = k.x.clone().requires_grad_()
    m = None if layer.magnitude is None else layer.magnitude.weight
    y = layer(x)
    c_ref, x_ref = k.c.clone().requires_grad_(), k.x.clone().requires_grad_()
    m_ref = k.m.clone().requires_grad_()
    expected = dense_answer(k, merge, kind, c_ref, m_ref, x_ref)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    got = gradients(y, layer.coefficients, x, m)
    wanted = gradients(expected, c_ref, x_ref, None if m is None else m_ref)
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("merge", MERGES)
def test_the_two_merges_differ(merge) -> None:
    """A guard of the test above: the reference would not notice a merge that is ignored."""
    k = case()
    other = MERGES[1 - MERGES.index(merge)]
    wrong = dense_answer(k, other, "off", k.c, k.m, k.x)
    assert (fused(k, merge, "off")(k.x) - wrong).abs().max() > 0.1


@pytest.mark.parametrize("modules", [1, 3])
@pytest.mark.parametrize("merge", MERGES)
def test_the_gram_form_gives_the_row_norms(merge, modules) -> None:
    k = case(modules=modules, rank=5)
    norm = gram_norm(k.weight, *k.stacks, modules, product_of_sums=merge == "product_of_sums")
    for c in (k.c, -3 * k.c, torch.zeros_like(k.c)):
        expected = (k.weight + dense_update(k, c, merge)).norm(dim=1)
        torch.testing.assert_close(norm(c), expected, rtol=1e-10, atol=1e-10)


def test_the_norm_follows_the_coefficients_however_they_are_set() -> None:
    k = case()
    layer = fused(k, "sum_of_products", "dora")
    assert layer.coefficients is not None
    layer(k.x)
    for write in (
        lambda c, v: c.data.copy_(
            v
        ),  # as a stored task is brought back; leaves no trace in autograd's version
        lambda c, v: setattr(c, "data", v),
    ):
        with torch.no_grad():
            new = torch.randn(3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
            write(layer.coefficients, new * (1 + float(layer.coefficients[0].abs())))
            expected = dense_answer(k, "sum_of_products", "dora", layer.coefficients, k.m, k.x)
            torch.testing.assert_close(layer(k.x), expected, rtol=1e-10, atol=1e-10)


def test_the_norm_is_evaluated_once_for_each_value_of_the_coefficients() -> None:
    calls = []
    magnitude = Magnitude(2, norm=lambda c: calls.append(1) or torch.ones(2))
    c = nn.Parameter(torch.ones(3))
    for _ in range(3):
        magnitude.norms(c)
    assert len(calls) == 1
    with torch.no_grad():
        c += 1
    magnitude.norms(c)
    assert len(calls) == 2


def test_coefficients_of_another_precision_than_the_weights_are_accepted() -> None:
    k = case()
    for pos in (False, True):
        norm = gram_norm(k.weight, *k.stacks, 3, product_of_sums=pos)
        torch.testing.assert_close(norm(k.c.float()), norm(k.c), rtol=1e-6, atol=1e-6)


# -- one module ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("kind", ["gain", "dora"])
@pytest.mark.parametrize("merge", MERGES)
def test_one_module_gives_that_lora_on_the_ideal_chip(merge, kind, dtype, tolerance) -> None:
    k = case(modules=1, rank=4, out=300, inputs=270, dtype=dtype)
    scale = 2.0
    chip = Chip("ideal")

    def program(name: str, values: Tensor) -> CrossbarProduct:
        return CrossbarProduct(chip.program(values.double().numpy(), name=name))

    v = k.weight.double() + scale * k.b[0].double() @ k.a[0].double()
    norm = gram_norm(k.weight, k.a[0], scale * k.b[0], 1, product_of_sums=merge == "product_of_sums")
    start = v.norm(dim=1).to(dtype) if kind == "dora" else torch.ones(300, dtype=dtype)
    layer = FusedLoraLinear(
        program("w", k.weight),
        nn.Parameter(k.bias),
        pool=AdapterPool(program("a", k.a[0]), program("b", scale * k.b[0]), 1),
        coefficients=nn.Parameter(torch.ones(1, dtype=dtype)),
        magnitude=Magnitude(300, norm=norm if kind == "dora" else None, start=start),
        merge=merge,
    )
    base = nn.Linear(270, 300, dtype=dtype)
    base.weight.data, base.bias.data = k.weight, k.bias
    lora = LoraLinear(base, DigitalProduct(k.a[0]), DigitalProduct(k.b[0]), scale)
    expected = lora(k.x)
    assert layer(k.x).dtype == dtype
    # relative to the size of the outputs: single elements may cancel to nearly 0
    assert (layer(k.x) - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_zero_coefficients_are_a_stationary_point_of_the_product_of_sums(kind) -> None:
    k = case()
    k.c = torch.zeros_like(k.c)
    for merge, stationary in (("product_of_sums", True), ("sum_of_products", False)):
        layer = fused(k, merge, kind)
        (dc,) = gradients(layer(k.x), layer.coefficients)
        assert bool((dc == 0).all()) is stationary


def test_a_pool_without_coefficients_and_an_unknown_merge_are_refused() -> None:
    k = case()
    a, b = k.stacks
    pool = AdapterPool(DigitalProduct(a), DigitalProduct(b), 3)
    settings: dict[str, Any] = {"coefficients": None, "magnitude": None}
    with pytest.raises(ValueError, match="give both or neither"):
        FusedLoraLinear(DigitalProduct(k.weight), None, pool=pool, **settings)
    with pytest.raises(ValueError, match="'sum' is not one of sum_of_products"):
        FusedLoraLinear(DigitalProduct(k.weight), None, pool=None, merge="sum", **settings)


# -- memory --------------------------------------------------------------------------------------------------


class _Allocations(TorchDispatchMode):
    """Element counts of the tensors that operations make (views of older memory do not count)."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.held = list(known)  # kept alive, so that no address is used twice
        self.seen = {t.untyped_storage().data_ptr() for t in known}
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for t in tree_leaves(result):
            if isinstance(t, Tensor) and t.untyped_storage().data_ptr() not in self.seen:
                self.held.append(t)
                self.seen.add(t.untyped_storage().data_ptr())
                self.sizes.append(t.numel())
        return result


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("merge", MERGES)
def test_no_matrix_of_the_size_of_the_weight_is_formed(merge, kind) -> None:
    k = case(modules=2, rank=2, out=512, inputs=384, dtype=torch.float32)
    layer = fused(k, merge, kind)
    x = k.x.clone().requires_grad_()
    with _Allocations([*layer.parameters(), *layer.buffers(), x]) as seen:
        layer(x).square().sum().backward()
    assert x.grad is not None
    assert max(seen.sizes) < 512 * 384 / 10  # the largest is x or y: 12 vectors
    with _Allocations([k.weight, k.a, k.b]) as guard:
        dense_answer(k, merge, kind, k.c, k.m, k.x)
    assert max(guard.sizes) >= 512 * 384  # the instrument sees a dense update


# -- on a chip -----------------------------------------------------------------------------------------------


def on_chip(k: Case, chip: Chip, merge: str = "sum_of_products", kind: str = "gain") -> FusedLoraLinear:
    """The layer programmed and calibrated with c = 1 on k.x."""

    def program(matrix: str, values: Tensor) -> CrossbarProduct:
        name = f"layer.{matrix}"
        return CrossbarProduct(chip.program(values.numpy(), name=name, layer="layer", matrix=matrix))

    layer = fused(k, merge, kind, site=Site(chip, "layer", "own"))
    a, b = k.stacks
    layer.product, layer.a, layer.b = program("base", k.weight), program("A", a), program("B", b)
    if not chip.exact:
        assert layer.coefficients is not None
        layer.coefficients.data.fill_(1.0)
        with torch.no_grad():
            chip.calibrate(layer, [{"x": k.x.float()}])
        layer.coefficients.data.copy_(k.c)
    return layer


def quiet(**periphery: Any) -> Any:
    """The card without read noise and relaxation, so that only converters and cells err."""
    card = preset("cmo_hfox")
    return replace(
        card,
        read_noise=replace(card.read_noise, log10_slope=0.0),
        relaxation=replace(card.relaxation, times=(), sigma=(), mean=()),
        periphery=replace(card.periphery, **periphery),
    )


def relative_error(got: Tensor, expected: Tensor) -> float:
    got, expected = got.detach().double(), expected.detach().double()
    return float((got - expected).norm() / expected.norm())


def small() -> Case:
    k = case(modules=3, rank=4, out=40, inputs=30, dtype=torch.float32)
    k.x = torch.randn(64, 1, 30, generator=torch.Generator().manual_seed(1))
    return k


def test_a_3_bit_adc_between_the_arrays_changes_the_answer() -> None:
    k = small()
    expected = dense_answer(k, "sum_of_products", "gain", k.c, k.m, k.x)
    errors = {}
    for bits in (3, 8):
        layer = on_chip(k, Chip(quiet(adc_bits=bits), statistical=True))
        errors[bits] = relative_error(layer(k.x), expected)
    assert errors[8] < 0.1
    assert errors[3] > 2 * errors[8]
    # the A-stack's ADC alone: its outputs are rounded before they meet the coefficients
    fine, coarse = (on_chip(k, Chip(quiet(), statistical=True)) for _ in range(2))
    assert coarse.a is not None
    coarse.a = on_chip(k, Chip(quiet(adc_bits=3), statistical=True)).a
    assert relative_error(coarse(k.x), expected) > 2 * relative_error(fine(k.x), expected)


@torch.no_grad()
def b_stack_error(
    layer: FusedLoraLinear, k: Case, merge: str, factor: float, *, follow: bool = True
) -> float:
    """Relative error of the B-stack's answer with all coefficients `factor` times those of the case."""
    assert layer.coefficients is not None
    assert layer.a is not None
    assert layer.b is not None
    layer.coefficients.copy_(factor * k.c)
    if follow:
        got = layer(k.x) - k.bias - layer.product(k.x)  # without noise the base's part is the same every time
    else:
        c = layer.coefficients
        got = layer.b(layer.merge.drive(layer.a(k.x), c, layer.merge.spread(c, layer.width))[0], 1.0)
    return relative_error(got, k.x @ dense_update(k, factor * k.c, merge).T)


@pytest.mark.parametrize("merge", MERGES)
def test_the_range_of_the_b_stack_follows_the_coefficients(merge) -> None:
    k = small()
    layer = on_chip(k, Chip(quiet(), statistical=True), merge, "off")
    error = b_stack_error(layer, k, merge, 1.0)
    assert error < 0.15
    for factor in (1 / 8, 8.0):  # with the range, a power of two leaves every code as it is
        assert b_stack_error(layer, k, merge, factor) == pytest.approx(error, rel=1e-3)
    for factor in (0.03, 0.3, 5.3):
        assert b_stack_error(layer, k, merge, factor) < 3 * error
    # with a range that stays, large drives are cut off and small ones lose their resolution
    for factor in (1 / 64, 8.0):
        assert b_stack_error(layer, k, merge, factor, follow=False) > 3 * error


def loop_kept(k: Case, merge: str, kind: str) -> int:
    """Bits that wait for the gradient: every u_ij, every h_j of a product of sums, and every z_o that a magnitude scales."""
    r, bits = k.a.shape[1], 0
    for _ in range(k.x.shape[0] * k.x.shape[1]):
        for _word in range(k.modules * r + (r if merge == "product_of_sums" else 0)):
            bits += 16
        for _word in k.m if kind != "off" else ():
            bits += 16
    return bits


def loop_counts(k: Case, merge: str, kind: str) -> tuple[Counter[str], Counter[str]]:
    """Digital events of the fused layer's forward and backward, one by one (no function of cost.py is used)."""
    n, r, out, inputs = k.modules, k.a.shape[1], len(k.m), k.a.shape[2]
    forward: Counter[str] = Counter()
    backward: Counter[str] = Counter()
    for _ in range(k.x.shape[0] * k.x.shape[1]):
        if merge == "sum_of_products":
            for _i in range(n):
                for _j in range(r):
                    forward["digital_mul"] += 1  # c_i u_ij
                    backward["digital_mul"] += 2  # t_ij u_ij, c_i t_ij
                    backward["digital_add"] += 1  # into dc_i
        else:
            for i in range(n):
                for _j in range(r):
                    forward["digital_mul"] += 2  # c_i u_ij and c_i h_j
                    forward["digital_add"] += i > 0  # into h_j, whose first term needs no addition
                    backward["digital_mul"] += 4  # c_i t_ij, t_ij h_j, tbar_j u_ij, c_i tbar_j
                    backward["digital_add"] += 2 + (i > 0)  # two terms into dc_i, one into tbar_j
        for _o in range(out):
            forward["digital_add"] += 1  # W0 x + the B-stack's
            backward["digital_add"] += 1  # into the bias's gradient
            if kind != "off":
                forward["digital_mul"] += 1  # m_o z_o
                backward["digital_mul"] += 2  # g_o z_o, m_o g_o
                backward["digital_add"] += 1  # into dm_o
        for _p in range(inputs):
            backward["digital_add"] += 1  # dx through W0 + dx through the A-stack
    return forward, backward


@pytest.mark.parametrize("kind", ["off", "gain"])
@pytest.mark.parametrize("merge", MERGES)
def test_digital_counts_equal_a_count_in_loops(merge, kind) -> None:
    k = case(modules=3, rank=2, out=6, inputs=5)
    chip = Chip("ideal")
    layer = on_chip(k, chip, merge, kind)
    x = k.x.clone().requires_grad_()
    with chip.ledger.scope(phase="forward"):
        y = layer(x)
    with chip.ledger.scope(phase="backward"):
        y.sum().backward()
    for phase, expected in zip(("forward", "backward"), loop_counts(k, merge, kind), strict=True):
        for action in ("digital_mul", "digital_add"):
            assert chip.ledger.total(action, matrix="own", phase=phase) == expected[action], (phase, action)
    kept = loop_kept(k, merge, kind)
    assert chip.ledger.total("activation_write_bit", matrix="own", phase="forward") == kept
    assert chip.ledger.total("activation_read_bit", matrix="own", phase="backward") == kept
    with chip.ledger.scope(phase="eval"), torch.no_grad():
        layer(x)
    assert chip.ledger.total("activation_write_bit") == kept  # nothing waits without a gradient
    assert chip.ledger.total("digital_add", matrix="rest", phase="forward") == y.numel()  # the bias


def test_an_input_that_wants_no_gradient_saves_its_sum_in_the_same_layer_too() -> None:
    k = small()
    chip = Chip("ideal")
    layer, added = on_chip(k, chip), []
    for wanted in (True, False, True):
        with chip.ledger.scope(task=f"call {len(added)}", phase="backward"):
            layer(k.x.clone().requires_grad_(wanted)).sum().backward()
        added.append(chip.ledger.total("digital_add", task=f"call {len(added)}", matrix="own"))
    assert added[0] - added[1] == k.x.numel()
    assert added[2] == added[0]


def test_lora_books_the_sum_of_its_two_paths() -> None:
    k = case(modules=1, rank=2, out=6, inputs=5)
    chip = Chip("ideal")
    site = Site(chip, "layer", "own")
    lora = LoraLinear(
        nn.Linear(5, 6).double(), DigitalProduct(k.a[0]), DigitalProduct(k.b[0]), 2.0, site=site
    )
    with chip.ledger.scope(phase="forward"):
        y = lora(k.x.clone().requires_grad_())
    with chip.ledger.scope(phase="backward"):
        y.sum().backward()
    assert chip.ledger.total("digital_add", phase="forward", matrix="own") == 12 * 6
    assert chip.ledger.total("digital_add", phase="backward", matrix="own") == 12 * 5


def _split(k: Case, card: str, merge: str, parts: tuple[int, ...]) -> tuple[Chip, Tensor, list[Tensor]]:
    """One optimiser step of 8 texts of 4 tokens, some of them padding, in parts."""
    chip = Chip(card, statistical=True)
    layer = on_chip(k, chip, merge)
    x = torch.randn(8, 4, 30, generator=torch.Generator().manual_seed(2)).requires_grad_()
    mask = np.ones((8, 4), dtype=bool)
    mask[1, 2:] = mask[6, 1:] = False
    keep = torch.from_numpy(mask)[..., None]
    answers, first = [], 0
    chip.next_event()
    with chip.ledger.scope(task="t"):
        for size in parts:
            at = slice(first, first + size)
            with chip.samples_from(first):
                chip.begin_batch(mask[at])
                with chip.ledger.scope(phase="forward"):
                    y = layer(x[at]) * keep[at]
                chip.begin_batch(None)
                with chip.ledger.scope(phase="backward"):
                    y.sum().backward()
            answers.append(y.detach())
            first += size
    assert layer.coefficients is not None
    assert layer.coefficients.grad is not None
    assert x.grad is not None
    return chip, torch.cat(answers), [layer.coefficients.grad, x.grad]


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("card", CARDS)
def test_bookings_and_answers_do_not_depend_on_how_a_batch_is_split(card, merge) -> None:
    k = small()
    whole, y, grads = _split(k, card, merge, (8,))
    parts, y_parts, grads_parts = _split(k, card, merge, (1, 5, 2))
    assert dict(parts.ledger.counts) == dict(whole.ledger.counts)
    own = [key for key in whole.ledger.counts if key.task == "t"]
    assert {key.phase for key in own} == {"forward", "backward"}
    rows = (chip.ledger.rows(chip.preset.prices) for chip in (whole, parts))
    for ours, theirs in zip(*rows, strict=True):
        assert ours["energy_J"] == pytest.approx(theirs["energy_J"], rel=1e-12, nan_ok=True)
        assert ours["time_s"] == pytest.approx(theirs["time_s"], rel=1e-12, nan_ok=True)
    torch.testing.assert_close(y_parts, y, rtol=1e-5, atol=1e-6)
    for a, b in zip(grads, grads_parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_padding_is_neither_driven_nor_booked() -> None:
    k = small()
    chip, y, _ = _split(k, "ideal", "sum_of_products", (8,))
    vectors = 8 * 4 - 2 - 3
    assert chip.ledger.total("array_read", task="t", matrix="base", phase="forward") == 2 * 40 * 30 * vectors
    assert chip.ledger.total("digital_mul", task="t", matrix="own", phase="forward") == (12 + 40) * vectors
    assert y.shape == (8, 4, 40)


class _Half(nn.Module):
    """Two linears of one block, of which the first goes onto the chip."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList([nn.ModuleDict({"on": nn.Linear(4, 5), "off": nn.Linear(5, 3)})])

    def forward(self, x: Tensor) -> Tensor:
        block = self.layer[0]
        return block["off"](block["on"](x))


@pytest.mark.parametrize("method", ["magnitude_only", "dora", "lora"])
def test_an_adapted_layer_that_is_not_on_the_chip_books_its_product(method) -> None:
    rows = []
    for adapted in (False, True):
        model, chip = _Half().requires_grad_(False), Chip("ideal")
        convert(model, chip, where=["layer.0.on"])
        if adapted:
            METHODS[method]().attach(model, Context(("layer.0.off",), torch.Generator(), chip))
        model(torch.zeros(6, 4, requires_grad=True)).sum().backward()
        rows.append({k: n for k, n in chip.ledger.counts.items() if n and k[2:4] == ("layer.0.off", "rest")})
    assert rows[0] == rows[1]
    (macs,) = {n for key, n in rows[0].items() if key.action == "digital_mul"}
    assert macs == 2 * 6 * 3 * 5  # forward and backward
