"""PEFT adapter folders: the same function as stock peft in both directions, and every refusal by name."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lorafusion.errors import LoraFusionError, PeftFormatError
from lorafusion.module import LoraFactor, LoraLibrary, LoraModule
from lorafusion.peft_io import CONFIG_FILE, PICKLE_FILE, SAFETENSORS_FILE, read_adapter, write_adapter

LAYER = "encoder.layer.0.attention.self.query"
OTHER = "encoder.layer.1.attention.self.value"
PREFIX = "base_model.model."

QUIET_PEFT = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def make_module(name="m", ranks=(2, 2), scales=(2.0, 2.0), n=16) -> LoraModule:
    source = torch.Generator().manual_seed(0)

    def factor(rank, scale) -> LoraFactor:
        a, b = torch.randn(rank, n, generator=source), torch.randn(n, rank, generator=source)
        return LoraFactor(a / 4, b / 4, scale)

    return LoraModule(name, dict(zip((LAYER, OTHER), map(factor, ranks, scales), strict=True)), base="tiny")


@pytest.fixture
def folder(tmp_path) -> Path:
    write_adapter(tmp_path / "m", make_module())
    return tmp_path / "m"


def edit_config(folder: Path, **changes) -> None:
    config = json.loads((folder / CONFIG_FILE).read_text()) | changes
    (folder / CONFIG_FILE).write_text(json.dumps(config))


def edit_tensors(folder: Path, change) -> None:
    tensors = load_file(folder / SAFETENSORS_FILE)
    change(tensors)
    save_file(tensors, folder / SAFETENSORS_FILE)


def to_pickle(folder: Path) -> None:
    torch.save(load_file(folder / SAFETENSORS_FILE), folder / PICKLE_FILE)
    (folder / SAFETENSORS_FILE).unlink()


# --- against stock peft ---------------------------------------------------------------------------


def tiny_bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=40
        )
        return BertModel(config).eval()


def hidden(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(12).reshape(2, 6)).last_hidden_state


def merged(model: nn.Module, module: LoraModule) -> nn.Module:
    """The model with the module's dense updates added to its weights."""
    LoraLibrary((module,)).check(model)
    with torch.no_grad():
        for name, factor in module.factors.items():
            model.get_submodule(name).weight += factor.delta()
    return model


def peft_adapter(folder: Path, **settings) -> torch.Tensor:
    """Save a random adapter with stock peft; return what peft computes when it loads that folder again.

    Not what it computed before: peft sorts the keys it saves, so another of two patterns may come first.
    """
    peft = pytest.importorskip("peft")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = peft.LoraConfig(**(LORA | {"init_lora_weights": False} | settings))
        peft.get_peft_model(tiny_bert(), config).save_pretrained(folder)
    return hidden(peft.PeftModel.from_pretrained(tiny_bert(), folder).eval())


LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"]}
VARIANTS = {
    "lora": LORA,
    "rslora": {"r": 3, "lora_alpha": 5, "use_rslora": True, "target_modules": ["query", "dense"]},
    "regex": {"r": 2, "lora_alpha": 64, "target_modules": r".*layer\.1\..*(query|key)"},
    "patterns": {
        "target_modules": ["query", "value", "output.dense"],
        # the order counts where two patterns match: layer.1's query here, every value below
        "rank_pattern": {"layer.1.attention.self.query": 2, "query": 6, "^encoder.layer.0.output.dense": 1},
        "alpha_pattern": {"value": 3, r"layer\.[01]\.attention.*": 20},
    },
    "rslora patterns": {"use_rslora": True, "rank_pattern": {"query": 3}, "alpha_pattern": {"value": 1}},
}


@pytest.mark.peft
@QUIET_PEFT
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_peft_writes_computes_the_same_here_and_again_in_peft(variant, tmp_path) -> None:
    expected = peft_adapter(tmp_path / "theirs", **VARIANTS[variant])
    assert (expected - hidden(tiny_bert())).abs().max() > 0.01  # else the comparison says nothing
    module = read_adapter(tmp_path / "theirs")
    torch.testing.assert_close(hidden(merged(tiny_bert(), module)), expected, rtol=0, atol=2e-6)

    import peft

    write_adapter(tmp_path / "ours", module)
    again = peft.PeftModel.from_pretrained(tiny_bert(), tmp_path / "ours").eval()
    torch.testing.assert_close(hidden(again), expected, rtol=0, atol=1e-6)
    assert read_adapter(tmp_path / "ours").sha256 == module.sha256


@pytest.mark.peft
@QUIET_PEFT
def test_a_bin_file_with_legacy_keys_is_read(tmp_path) -> None:
    expected = peft_adapter(tmp_path / "old", **VARIANTS["lora"])
    to_pickle(tmp_path / "old")
    edit_config(tmp_path / "old", enable_lora=None, merge_weights=False)
    torch.testing.assert_close(
        hidden(merged(tiny_bert(), read_adapter(tmp_path / "old"))), expected, rtol=0, atol=2e-6
    )


@pytest.mark.peft
@QUIET_PEFT
def test_a_written_mixed_module_computes_the_same_in_peft(tmp_path) -> None:
    peft = pytest.importorskip("peft")
    module = make_module(ranks=(2, 5), scales=(0.7, 1.5))
    write_adapter(tmp_path / "m", module)
    theirs = peft.PeftModel.from_pretrained(tiny_bert(), tmp_path / "m").eval()
    torch.testing.assert_close(hidden(theirs), hidden(merged(tiny_bert(), module)), rtol=0, atol=2e-6)


@pytest.mark.peft
@QUIET_PEFT
@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["pooler"]}, "modules_to_save"),
        ({"target_modules": ["query", "word_embeddings"]}, "lora_embedding_A"),
    ],
)
def test_what_peft_does_beyond_lora_is_refused(settings, key, tmp_path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(**({"r": 2, "target_modules": ["query"]} | settings))
    peft.get_peft_model(tiny_bert(), config).save_pretrained(tmp_path / "theirs")
    with pytest.raises(PeftFormatError, match=key):
        read_adapter(tmp_path / "theirs")


@pytest.mark.peft
@QUIET_PEFT
def test_every_key_of_pefts_default_configuration_is_accepted(tmp_path) -> None:
    peft = pytest.importorskip("peft")
    peft_adapter(tmp_path / "m", **VARIANTS["lora"])
    known = set(json.loads((tmp_path / "m" / CONFIG_FILE).read_text()))
    assert set(peft.LoraConfig().to_dict()) - {"runtime_config"} <= known
    assert read_adapter(tmp_path / "m").factors


# --- writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_round_trip_keeps_numbers_names_and_base(dtype, tmp_path) -> None:
    module = make_module("pool-7", ranks=(2, 3), scales=(5 / 49, 1.25))
    write_adapter(tmp_path / "pool-7", module, dtype=dtype)
    back = read_adapter(tmp_path / "pool-7")
    assert (back.name, back.base) == ("pool-7", "tiny")
    assert load_file(tmp_path / "pool-7" / SAFETENSORS_FILE)[f"{PREFIX}{LAYER}.lora_A.weight"].dtype == dtype
    for layer, factor in module.factors.items():
        assert back.factors[layer].a.dtype == torch.float32
        assert torch.equal(back.factors[layer].a, factor.a.to(dtype).float())
        assert back.factors[layer].scale == pytest.approx(factor.scale, rel=1e-14)


def test_equal_modules_give_equal_bytes_whatever_their_order(tmp_path) -> None:
    module = make_module(ranks=(2, 3))
    shuffled = LoraModule("m", dict(reversed(module.factors.items())), base="tiny")
    write_adapter(tmp_path / "a", module)
    write_adapter(tmp_path / "b", shuffled)
    for name in (CONFIG_FILE, SAFETENSORS_FILE):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "b"]


def test_factors_that_share_memory_are_written(tmp_path) -> None:
    stack = torch.randn(4, 16, generator=torch.Generator().manual_seed(3))
    halves = [LoraFactor(stack[i : i + 2], stack[i : i + 2].T, 1.0) for i in (0, 2)]
    write_adapter(tmp_path / "m", LoraModule("m", dict(zip((LAYER, OTHER), halves, strict=True))))
    assert torch.equal(read_adapter(tmp_path / "m").factors[OTHER].b, stack[2:].T)


def test_an_existing_folder_is_replaced_only_on_request_and_only_if_it_is_an_adapter(
    folder, tmp_path
) -> None:
    with pytest.raises(PeftFormatError, match="exists already"):
        write_adapter(folder, make_module())
    write_adapter(folder, make_module(scales=(3.0, 3.0)), overwrite=True)
    assert read_adapter(folder).factors[LAYER].scale == 3.0
    (tmp_path / "notes").mkdir()
    write_adapter(tmp_path / "notes", make_module())  # an empty folder is free
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("keep me")
    with pytest.raises(PeftFormatError, match="exists already"):
        write_adapter(tmp_path / "mine", make_module(), overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "keep me"


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch) -> None:
    def fail(*_args, **_kwargs) -> bytes:
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save", fail)
    with pytest.raises(OSError, match="disk full"):
        write_adapter(tmp_path / "m", make_module())
    assert list(tmp_path.iterdir()) == []


def test_extra_keys_are_written_and_those_that_lie_are_refused(tmp_path) -> None:
    write_adapter(tmp_path / "m", make_module(), base_name="other", extra={"lora_dropout": 0.1})
    config = json.loads((tmp_path / "m" / CONFIG_FILE).read_text())
    assert (config["lora_dropout"], config["base_model_name_or_path"]) == (0.1, "other")
    for extra in ({"r": 3}, {"use_dora": True}, {"surprise": 1}):
        with pytest.raises(PeftFormatError, match=next(iter(extra))):
            write_adapter(tmp_path / "n", make_module(), extra=extra)


def test_values_that_do_not_fit_are_not_written(tmp_path) -> None:
    big = LoraModule("m", {LAYER: LoraFactor(torch.full((1, 2), 1e5), torch.ones(2, 1), 1.0)})
    with pytest.raises(PeftFormatError, match=re.escape("overflows torch.float16")):
        write_adapter(tmp_path / "m", big, dtype=torch.float16)
    with pytest.raises(PeftFormatError, match=re.escape("dtype: must be one of torch.float32")):
        write_adapter(tmp_path / "m", big, dtype=torch.int8)
    meta = torch.empty(2, 2, device="meta")
    with pytest.raises(PeftFormatError, match="meta"):
        write_adapter(tmp_path / "m", LoraModule("m", {LAYER: LoraFactor(meta, meta, 1.0)}))


# --- refusals -------------------------------------------------------------------------------------

REFUSED = {
    "peft_type": ["LOHA", None, "lora"],
    "r": [0, -1, 3, "4", True, 2.0, None, 10**400],
    "lora_alpha": ["8", None, True, float("nan"), float("inf"), 10**400],
    "use_rslora": ["yes", 2],
    "rank_pattern": [{"query": 3}, {"query": "2"}, {"(": 2}, ["query"], "query"],
    "alpha_pattern": [{"query": None}, {"*": 2}, [1]],
    "target_modules": [["key"], "query", "(", ["uery"], {"query": 1}, 3],
    "bias": ["all", "lora_only", True],
    "init_lora_weights": ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "unheard of"],
    "modules_to_save": [["classifier"]],
    "layer_replication": [[[0, 2]]],
    "enable_lora": [[True, False, True]],
    "trainable_token_indices": [[1, 2]],
    "target_parameters": [["experts.up"]],
    "alora_invocation_tokens": [[1]],
    **dict.fromkeys(("use_dora", "lora_bias", "use_qalora", "ensure_weight_tying"), (True,)),
    **dict.fromkeys(("megatron_config", "arrow_config", "use_bdlora", "kasa_config"), ({"any": 1},)),
    "a_key_of_the_future": [True, 1, "on", [0]],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key in REFUSED for value in REFUSED[key]])
def test_a_configuration_that_is_not_honoured_is_refused_by_key(key, value, folder) -> None:
    edit_config(folder, **{key: value})
    with pytest.raises(PeftFormatError, match=rf"{re.escape(str(folder))}: {key}"):
        read_adapter(folder)


@pytest.mark.parametrize(
    "neutral",
    [
        {"a_key_of_the_future": None, "another": [], "third": {}, "fourth": False},
        {"enable_lora": None, "merge_weights": True, "lora_dropout": 0.3, "fan_in_fan_out": True},
        {"init_lora_weights": "gaussian", "task_type": "SEQ_2_SEQ_LM"},
        {"rank_pattern": None, "alpha_pattern": None, "use_rslora": None, "modules_to_save": []},
        {"target_modules": "all-linear"},
        {"target_modules": None},
        {"rank_pattern": {"quer": 7, "uery": 7}},  # neither is a whole name component
    ],
)
def test_what_does_not_change_the_result_is_accepted(neutral, folder) -> None:
    before = read_adapter(folder).sha256
    edit_config(folder, **neutral)
    assert read_adapter(folder).sha256 == before


@pytest.mark.parametrize("key", ["peft_type", "r", "lora_alpha"])
def test_a_missing_key_is_named(key, folder) -> None:
    config = json.loads((folder / CONFIG_FILE).read_text())
    del config[key]
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(PeftFormatError, match=f": {key}"):
        read_adapter(folder)


A = f"{PREFIX}{LAYER}.lora_A.weight"
B = f"{PREFIX}{LAYER}.lora_B.weight"
BAD_TENSORS = {
    "lora_B of .* is missing": lambda t: t.pop(B),
    "lora_A of .* is missing": lambda t: t.pop(A),
    "holds no tensors": lambda t: t.clear(),
    "lora_magnitude_vector.* is not understood": lambda t: t.update(
        {f"{PREFIX}{LAYER}.lora_magnitude_vector": torch.ones(16)}
    ),
    "classifier.weight.* is not understood": lambda t: t.update({f"{PREFIX}classifier.weight": t[A].clone()}),
    "no prefix.* is not understood": lambda t: t.update({"no prefix.lora_A.weight": t[A].clone()}),
    "lora_B.bias.* is not understood": lambda t: t.update({f"{PREFIX}{LAYER}.lora_B.bias": torch.ones(16)}),
    "lora_A .* is not finite": lambda t: t[A].view(-1)[3:4].fill_(float("nan")),
    "lora_B .* is not finite": lambda t: t[B].view(-1)[3:4].fill_(float("inf")),
    "not finite in float32": lambda t: t.update({A: torch.full((2, 16), 1e300, dtype=torch.float64)}),
    "torch.int8; store floats": lambda t: t.update({A: torch.ones(2, 16, dtype=torch.int8)}),
    "only linear layers": lambda t: t.update({A: torch.ones(2, 16, 3, 3)}),
    "one rank": lambda t: t.update({B: torch.ones(16, 3)}),
    "r = 2: lora_A of .* has 3 rows": lambda t: t.update({A: torch.ones(3, 16), B: torch.ones(16, 3)}),
}


@pytest.mark.parametrize("pattern", BAD_TENSORS)
@pytest.mark.parametrize("pickled", [False, True])
def test_weights_that_are_not_plain_lora_are_refused(pattern, pickled, folder) -> None:
    edit_tensors(folder, BAD_TENSORS[pattern])
    if pickled:
        to_pickle(folder)
    with pytest.raises(PeftFormatError, match=pattern):
        read_adapter(folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b'"LORA"', b"null", b"[" * 100_000, b"{'r': 2}", b"\x00", b"\xff\xfe{}"],
    ids=range(9),
)
def test_a_configuration_that_is_not_an_object_is_refused(content, folder) -> None:
    (folder / CONFIG_FILE).write_bytes(content)
    with pytest.raises(PeftFormatError, match=CONFIG_FILE):
        read_adapter(folder)


@pytest.mark.parametrize("pickled", [False, True])
def test_truncated_and_corrupted_weights_end_in_one_kind_of_error(pickled, folder) -> None:
    if pickled:
        to_pickle(folder)
    path = folder / (PICKLE_FILE if pickled else SAFETENSORS_FILE)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, max(1, len(whole) // 23)):
        path.write_bytes(whole[:length])
        with pytest.raises(PeftFormatError, match=path.name):
            read_adapter(folder)
    source = torch.Generator().manual_seed(0)
    for position in torch.randint(len(whole), (150,), generator=source).tolist():
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        with contextlib.suppress(LoraFusionError):  # a flipped bit of a weight goes unseen
            read_adapter(folder)


def test_a_pickle_that_would_run_code_is_refused(folder, tmp_path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)

    to_pickle(folder)
    torch.save({A: Attack()}, folder / PICKLE_FILE)
    with pytest.raises(PeftFormatError, match="cannot be read"):
        read_adapter(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [[torch.ones(1)], {"a": 1}, {1: torch.ones(1)}, torch.ones(2)])
def test_a_pickle_of_something_else_is_refused(content, folder) -> None:
    to_pickle(folder)
    torch.save(content, folder / PICKLE_FILE)
    with pytest.raises(PeftFormatError, match="dictionary of tensors"):
        read_adapter(folder)


def test_reading_needs_no_peft(folder) -> None:
    code = (
        "import sys; sys.modules['peft'] = None; from lorafusion.module import LoraLibrary as L; "
        f"assert L.load({str(folder)!r}).names == ('m',); assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
