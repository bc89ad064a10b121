"""LoRA factors, modules and libraries: algebra, matching by name, and refusals."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from lorafusion.architectures import architecture
from lorafusion.errors import LoraFusionError, ModuleMismatchError, PeftFormatError
from lorafusion.module import LoraFactor, LoraLibrary, LoraModule
from lorafusion.peft_io import CONFIG_FILE, SAFETENSORS_FILE, write_adapter


def factor(rank=2, n_in=5, n_out=3, scale=2.0, seed=0) -> LoraFactor:
    source = torch.Generator().manual_seed(seed)
    return LoraFactor(
        torch.randn(rank, n_in, generator=source), torch.randn(n_out, rank, generator=source), scale
    )


def module(name="m", layers=("0.q", "0.v"), **kwargs) -> LoraModule:
    return LoraModule(name, {layer: factor(**kwargs) for layer in layers})


class Toy(nn.Module):
    def __init__(self, n_in=5, n_out=3) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            nn.ModuleDict({"q": nn.Linear(n_in, n_out), "v": nn.Linear(n_in, n_out)}) for _ in range(2)
        )
        self.embed = nn.Embedding(3, 5)
        self.norm = nn.LayerNorm(5)


def test_delta_is_scale_b_a() -> None:
    given = factor()
    assert given.rank == 2
    assert given.shape == (3, 5)
    torch.testing.assert_close(given.delta(), 2.0 * given.b @ given.a)


@pytest.mark.parametrize(
    ("a", "b", "scale", "word"),
    [
        (torch.ones(2, 5), torch.ones(3, 4), 1.0, "rank"),
        (torch.ones(2, 5, 1), torch.ones(3, 2), 1.0, "rank"),
        (torch.ones(0, 5), torch.ones(3, 0), 1.0, "rank"),
        (torch.ones(2, 5, dtype=torch.int32), torch.ones(3, 2, dtype=torch.int32), 1.0, "floating"),
        (torch.ones(2, 5), torch.ones(3, 2).double(), 1.0, "one floating-point type"),
        (torch.ones(2, 5), torch.ones(3, 2, device="meta"), 1.0, "one device"),
        (torch.ones(2, 5), torch.ones(3, 2), float("nan"), "finite"),
    ],
)
def test_factors_that_cannot_be_multiplied_are_refused(a, b, scale, word) -> None:
    with pytest.raises(LoraFusionError, match=word):
        LoraFactor(a, b, scale)


def test_a_module_needs_a_layer_and_keeps_its_own_mapping() -> None:
    with pytest.raises(LoraFusionError, match="adapts no layer"):
        LoraModule("empty", {})
    factors = {"0.q": factor()}
    made = LoraModule("m", factors)
    factors.clear()
    assert list(made.factors) == ["0.q"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.name = "other"


def test_the_digest_follows_the_content_and_not_the_order_or_the_name() -> None:
    one, two = factor(seed=1), factor(seed=2)
    digest = LoraModule("m", {"0.q": one, "0.v": two}).sha256
    assert len(digest) == 64
    assert LoraModule("n", {"0.v": two, "0.q": one}, base="b").sha256 == digest
    others = [{"0.q": two, "0.v": one}, {"0.q": one, "0.k": two}, {"0.q": one}]
    others.append({"0.q": dataclasses.replace(one, scale=1.0), "0.v": two})
    others.append({"0.q": one, "0.v": dataclasses.replace(two, b=two.b + 1e-6)})
    assert digest not in {LoraModule("m", each).sha256 for each in others}


def test_stacks_give_the_weighted_sum_of_products() -> None:
    modules = (module("a", rank=2, seed=1), module("b", rank=4, seed=2, scale=0.5), module("c", seed=3))
    library = LoraLibrary(modules)
    a_stack, b_stack, ranks = library.stack("0.q")
    assert ranks == (2, 4, 2)
    assert (a_stack.shape, b_stack.shape) == ((8, 5), (3, 8))
    coefficients = torch.tensor([0.3, -1.0, 2.0])
    spread = coefficients.repeat_interleave(torch.tensor(ranks))
    expected = sum(c * m.factors["0.q"].delta() for c, m in zip(coefficients, modules, strict=True))
    torch.testing.assert_close(b_stack @ torch.diag(spread) @ a_stack, expected)


def test_stack_refuses_a_layer_that_no_module_adapts() -> None:
    with pytest.raises(LoraFusionError, match=r"'0\.qq'.*did you mean '0\.q'"):
        LoraLibrary((module(),)).stack("0.qq")


def test_layers_are_matched_by_name_and_sorted() -> None:
    library = LoraLibrary((module("a", ("10.q", "2.q", "1.v")), module("b", ("1.v", "10.q", "2.q"))))
    assert library.layers == ("1.v", "10.q", "2.q")
    assert library.names == ("a", "b")
    assert LoraLibrary(()).layers == ()


@pytest.mark.parametrize("swap", [False, True])
def test_modules_of_different_layers_are_refused_by_name(swap) -> None:
    pair = [module("full", ("0.q", "0.v")), module("half", ("0.q",))]
    with pytest.raises(ModuleMismatchError, match=r"'half' does not adapt '0\.v'"):
        LoraLibrary(tuple(reversed(pair) if swap else pair))


def test_modules_of_different_shapes_are_refused() -> None:
    with pytest.raises(ModuleMismatchError, match=r"'a' is \[3, 5\].*'b' \[3, 6\]"):
        LoraLibrary((module("a"), module("b", n_in=6)))


def test_select_keeps_the_order_asked_for() -> None:
    library = LoraLibrary((module("a"), module("b"), module("c")))
    assert library.select(["c", "a"]).names == ("c", "a")
    with pytest.raises(LoraFusionError, match="'d' is not in the library"):
        library.select(["d"])
    with pytest.raises(LoraFusionError, match="'a' occurs twice"):
        library.select(["a", "a"])


def test_check_accepts_the_model_the_modules_were_made_for() -> None:
    LoraLibrary((module("a", ("block.0.q", "block.1.v")),)).check(Toy())


def test_check_accepts_a_linear_layer_that_stores_its_weight_transposed() -> None:
    from transformers.pytorch_utils import Conv1D

    LoraLibrary((module("a", ("0",)),)).check(nn.Sequential(Conv1D(nf=3, nx=5)))
    with pytest.raises(ModuleMismatchError, match=r"weight \[5, 3\]"):
        LoraLibrary((module("a", ("0",)),)).check(nn.Sequential(Conv1D(nf=5, nx=3)))


@pytest.mark.parametrize(
    ("layer", "pattern"),
    [
        (
            "block.0.query",
            r"module 'a' adapts 'block.0.query', which this model does not have.*did you mean 'block.0.q'",
        ),
        ("embed", "as a linear layer"),
        ("norm", "as a linear layer"),
    ],
)
def test_check_refuses_a_layer_the_model_lacks(layer, pattern) -> None:
    with pytest.raises(ModuleMismatchError, match=pattern):
        LoraLibrary((module("a", (layer,)),)).check(Toy())


def test_check_refuses_another_size_with_both_shapes() -> None:
    with pytest.raises(ModuleMismatchError, match=r"'block.1.v'.*\[3, 5\].*\[4, 5\]"):
        LoraLibrary((module("a", ("block.1.v",)),)).check(Toy(n_out=4))


def test_random_modules_repeat_for_a_seed_and_fit_the_model() -> None:
    def make(seed) -> LoraLibrary:
        source = torch.Generator().manual_seed(seed)
        return LoraLibrary.random(Toy(), count=2, rank=2, targets=["q"], generator=source)

    library = make(1)
    library.check(Toy())
    assert library.names == ("random-0", "random-1")
    assert library.layers == ("block.0.q", "block.1.q")
    digests = [each.sha256 for each in library.modules]
    assert len(set(digests)) == 2
    assert digests == [each.sha256 for each in make(1).modules]
    assert digests[0] != make(2).modules[0].sha256
    assert library.modules[0].factors["block.0.q"].delta().abs().max() > 0


def test_random_modules_leave_the_global_generator_alone() -> None:
    model = Toy()
    before = torch.get_rng_state()
    LoraLibrary.random(model, count=1, rank=1, targets=["q"])
    assert torch.equal(before, torch.get_rng_state())


def test_flan_t5_large_is_counted_on_the_meta_device() -> None:
    chosen = architecture("flan-t5-large")
    library = LoraLibrary.random(chosen.build(), count=20, rank=16, targets=chosen.targets)
    first = library.modules[0].factors.values()
    assert sum(each.a.numel() + each.b.numel() for each in first) == 4_718_592
    a_stack, b_stack, _ = library.stack(library.layers[0])
    assert (a_stack.shape, b_stack.shape, a_stack.device.type) == ((320, 1024), (1024, 320), "meta")


@pytest.mark.parametrize("wrong", [{"count": 0}, {"rank": 0}])
def test_random_refuses_nothing(wrong) -> None:
    with pytest.raises(LoraFusionError, match=">= 1"):
        LoraLibrary.random(Toy(), **({"count": 1, "rank": 1, "targets": ["q"]} | wrong))


def test_a_folder_of_adapters_is_read_in_the_order_of_names(tmp_path) -> None:
    for name in ("c", "a", "b"):
        write_adapter(tmp_path / "pool" / name, module())
    (tmp_path / "pool" / "figures").mkdir()
    (tmp_path / "pool" / "README.md").write_text("modules")
    assert LoraLibrary.load(tmp_path / "pool").names == ("a", "b", "c")
    assert LoraLibrary.load(str(tmp_path / "pool" / "b")).names == ("b",)
    some = [tmp_path / "pool" / "c", str(tmp_path / "pool" / "a")]
    assert LoraLibrary.load(some).names == ("c", "a")


def test_loading_nothing_is_refused(tmp_path) -> None:
    write_adapter(tmp_path / "m", module())
    (tmp_path / "empty").mkdir()
    with pytest.raises(PeftFormatError, match="holds no adapter"):
        LoraLibrary.load(tmp_path / "empty")
    for path in (tmp_path / "absent", tmp_path / "m" / CONFIG_FILE):
        with pytest.raises(PeftFormatError, match="is not a folder"):
            LoraLibrary.load(path)
    with pytest.raises(LoraFusionError, match="'m' occurs twice"):
        LoraLibrary.load([tmp_path / "m", tmp_path / "m"])


def test_half_an_adapter_in_a_pool_is_an_error_and_not_skipped(tmp_path) -> None:
    for name, file in (("a", CONFIG_FILE), ("b", SAFETENSORS_FILE)):
        write_adapter(tmp_path / name / "m", module())
        (tmp_path / name / "m" / file).unlink()
        with pytest.raises(PeftFormatError, match=r"has no adapter_config|has neither"):
            LoraLibrary.load(tmp_path / name)


def test_a_module_for_another_architecture_is_named() -> None:
    library = LoraLibrary((module(layers=("encoder.layer.0.attention.self.query",)),))
    with pytest.raises(
        ModuleMismatchError, match=r"module 'm' adapts 'encoder\.layer\.0.*does not have.*have: "
    ):
        library.check(architecture("flan-t5-small").build())
    with pytest.raises(ModuleMismatchError, match=r"\[3, 5\].*\[384, 384\]"):
        library.check(architecture("minilm-l6").build())
