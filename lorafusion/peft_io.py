"""PEFT's adapter folders, read and written without peft.

A folder holds `adapter_config.json` and `adapter_model.safetensors` (or, from 2023, `adapter_model.bin`).
Whatever would change the result and is not computed here is refused by name, never silently ignored.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from lorafusion.errors import LoraFusionError, PeftFormatError
from lorafusion.module import LoraFactor, LoraModule

CONFIG_FILE = "adapter_config.json"
SAFETENSORS_FILE = "adapter_model.safetensors"
PICKLE_FILE = "adapter_model.bin"
ALPHA_LIMIT = 1e30  # beyond this, a float32 update overflows
WEIGHT_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

_TENSOR_NAME = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<factor>[AB])\.weight")
_READ_KEYS = frozenset({
    "peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules",
    "init_lora_weights", "bias", "base_model_name_or_path",
})  # fmt: skip
# How the adapter was trained, started or chosen. The tensors in the file already say which layers it
# adapts. fan_in_fan_out speaks of how the base weight is stored: A is [r, in], B is [out, r] either way.
_HARMLESS_KEYS = frozenset({
    "lora_dropout", "inference_mode", "task_type", "auto_mapping", "revision", "peft_version",
    "runtime_config", "exclude_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out",
    "merge_weights", "megatron_core", "qalora_group_size", "loftq_config", "eva_config", "corda_config",
    "lora_ga_config", "velora_config",
})  # fmt: skip
# Keys with a short list of honoured values. Of the starts, those not listed subtract from the base weight or
# quantise it, so that the saved factors belong to a base model which the folder does not contain.
_ALLOWED: Mapping[str, tuple[tuple[object, ...], str]] = MappingProxyType({
    "peft_type": (("LORA",), "only LoRA adapters ('LORA') can be read"),
    "use_rslora": ((None, True, False), "must be true or false; correct it"),
    "bias": ((None, "none"), "trained biases are not computed; retrain with bias='none'"),
    "init_lora_weights": (
        (None, True, False, "gaussian", "eva", "orthogonal", "mica"),
        "changes the base weights; save with peft's path_initial_model_for_weight_conversion",
    ),
})  # fmt: skip
_REMEDIES: Mapping[str, str] = MappingProxyType({
    "use_dora": "a DoRA magnitude belongs to one merged weight and cannot be fused; use plain LoRA modules",
    "lora_bias": "biases of the update are not computed; retrain with lora_bias=false",
    "modules_to_save": "whole layers saved beside LoRA would be lost; retrain without them",
    "layer_replication": "the adapter changes the model's depth; use one that keeps it",
    "enable_lora": "merged q, k, v projections are not supported; adapt separate projections",
})  # fmt: skip


def find_adapters(path: Path) -> list[Path]:
    """The adapter folders at a path: the folder itself, or those of its subfolders that look like adapters.

    Args:
        path: an adapter folder, or a folder of adapter folders.

    Returns:
        the folders, in the order of their names.

    Raises:
        PeftFormatError: when there is no such folder or it holds no adapter.
    """
    if not path.is_dir():
        raise PeftFormatError(f"{path}: is not a folder; give a PEFT adapter folder or a folder of them")
    if _is_adapter(path):
        return [path]
    found = sorted(each for each in path.iterdir() if each.is_dir() and _is_adapter(each))
    if not found:
        raise PeftFormatError(f"{path}: holds no adapter; expected {CONFIG_FILE} here or in a subfolder")
    return found


def read_adapter(folder: Path | str) -> LoraModule:
    """Read one LoRA adapter in PEFT's format.

    The scale of a layer is alpha / r, or alpha / sqrt(r) with `use_rslora` (Kalajdzievski 2023); r and alpha
    come from the first entry of `rank_pattern` and `alpha_pattern` that matches the layer's name, else from
    `r` and `lora_alpha`. peft sorts these patterns when it saves, so where several match one layer, the first
    in the file need not be the one that counted in training; like peft, this reads the first in the file.

    Args:
        folder: folder with the configuration and the weights.

    Returns:
        the module, named after the folder, with float32 tensors on the CPU.

    Raises:
        PeftFormatError: naming folder, key, value and remedy, for a damaged folder or an unsupported adapter.
    """
    folder = Path(folder)
    config = _read_config(folder)
    _check_config(folder, config)
    factors = {}
    for layer, (a, b) in _pair(folder, _read_tensors(folder)).items():
        _check_selected(folder, config.get("target_modules"), layer)
        rank = _rank(folder, config, layer, rows=a.shape[0] if a.ndim else 0)
        factors[layer] = _factor(folder, layer, a, b, _alpha(folder, config, layer) / _divisor(config, rank))
    base = config.get("base_model_name_or_path")
    return LoraModule(folder.resolve().name, factors, base=None if base is None else str(base))


def write_adapter(
    folder: Path | str,
    module: LoraModule,
    *,
    dtype: torch.dtype = torch.float32,
    base_name: str | None = None,
    extra: Mapping[str, object] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a module as an adapter folder that stock peft loads.

    The folder appears complete or not at all, and equal modules give equal bytes. The scale is written as
    alpha = s r, so a module read with `use_rslora` is written without it.

    Args:
        folder: where the adapter goes; its parent is created.
        module: what to write.
        dtype: type of the stored tensors.
        base_name: `base_model_name_or_path`; the module's own when omitted.
        extra: further configuration keys, e.g. {"lora_dropout": 0.1}.
        overwrite: replace an adapter that is already there.

    Raises:
        PeftFormatError: when the folder is in use, a key of `extra` could not be read back, or a value does
            not fit `dtype`.
    """
    folder = Path(folder)
    if dtype not in WEIGHT_DTYPES:
        raise PeftFormatError(
            f"{folder}: dtype: must be one of {', '.join(map(str, WEIGHT_DTYPES))} (got {dtype})"
        )
    config = _config_of(module, base_name=module.base if base_name is None else base_name)
    taken = sorted(set(extra or {}) & set(config) & _READ_KEYS)
    if taken:
        raise PeftFormatError(f"{folder}: extra: {taken[0]!r} follows from the module; remove it")
    config.update(extra or {})
    _check_config(folder, config)
    tensors = _tensors_of(folder, module, dtype)
    empty = folder.is_dir() and not any(folder.iterdir())
    if folder.exists() and not empty and not (overwrite and _is_adapter(folder)):
        raise PeftFormatError(f"{folder}: exists already; remove it, choose another, or overwrite an adapter")
    _publish(folder, json.dumps(config, indent=2, sort_keys=True) + "\n", tensors)


# --- configuration --------------------------------------------------------------------------------


def _read_config(folder: Path) -> dict[str, object]:
    """The configuration as a dictionary."""
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PeftFormatError(f"{folder}: has no {CONFIG_FILE}; give a PEFT adapter folder") from None
    except (OSError, ValueError, RecursionError) as error:
        raise PeftFormatError(f"{path}: is not readable JSON ({error}); copy the file again") from error
    if not isinstance(config, dict):
        raise PeftFormatError(
            f"{path}: must hold a JSON object (got {type(config).__name__}); copy the file again"
        )
    return config


def _check_config(folder: Path, config: Mapping[str, object]) -> None:
    """Refuse every key whose value would change the result and is not honoured here."""
    for key in ("peft_type", "r", "lora_alpha"):
        if key not in config:
            raise PeftFormatError(f"{folder}: {key}: is missing from {CONFIG_FILE}; restore it")
    for key, (allowed, remedy) in _ALLOWED.items():
        value = config.get(key)
        if not any(value is each or (isinstance(value, str) and value == each) for each in allowed):
            raise _refusal(folder, key, value, remedy)
    for key in sorted(set(config) - _READ_KEYS - _HARMLESS_KEYS):
        if config[key] not in (None, False, "", [], {}):
            raise _refusal(
                folder, key, config[key], _REMEDIES.get(key, "not understood here; retrain without it")
            )


def _refusal(folder: Path, key: str, value: object, remedy: str) -> PeftFormatError:
    """The error for one key of the configuration."""
    return PeftFormatError(f"{folder}: {key} = {reprlib.repr(value)}: {remedy}")


def _lookup(
    folder: Path, config: Mapping[str, object], *, key: str, pattern_key: str, layer: str
) -> tuple[str, object]:
    """A layer's value and where it stands: the first pattern that matches the name or its end after a dot.

    Where no pattern matches, the value of `key` counts.
    """
    patterns = config.get(pattern_key) or {}
    if not isinstance(patterns, dict):
        raise _refusal(folder, pattern_key, patterns, "must map layer names to numbers; correct it")
    for pattern, value in patterns.items():
        if _matches(folder, pattern_key, rf"(.*\.)?({pattern})", layer):
            return f"{pattern_key}[{pattern!r}]", value
    return key, config[key]


def _matches(folder: Path, key: str, pattern: str, layer: str) -> bool:
    """Whether a pattern from the configuration matches a layer's whole name."""
    try:
        return re.fullmatch(pattern, layer) is not None
    except re.error as error:
        raise PeftFormatError(f"{folder}: {key}: {pattern!r} is no pattern ({error}); correct it") from error


def _rank(folder: Path, config: Mapping[str, object], layer: str, *, rows: int) -> int:
    """The layer's rank r, which the rows of its lora_A must confirm."""
    key, rank = _lookup(folder, config, key="r", pattern_key="rank_pattern", layer=layer)
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise _refusal(folder, key, rank, "must be a whole number >= 1; correct it")
    if rank != rows:
        remedy = f"lora_A of {layer!r} has {rows} rows; restore the configuration that belongs to the weights"
        raise _refusal(folder, key, rank, remedy)
    return rank


def _alpha(folder: Path, config: Mapping[str, object], layer: str) -> float:
    """The layer's alpha."""
    key, alpha = _lookup(folder, config, key="lora_alpha", pattern_key="alpha_pattern", layer=layer)
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool) or not abs(alpha) < ALPHA_LIMIT:
        raise _refusal(folder, key, alpha, f"must be a number below {ALPHA_LIMIT:g}; correct it")
    return float(alpha)


def _divisor(config: Mapping[str, object], rank: int) -> float:
    """What alpha is divided by."""
    return math.sqrt(rank) if config.get("use_rslora") else float(rank)


def _check_selected(folder: Path, targets: object, layer: str) -> None:
    """Refuse tensors of a layer that the configuration would not have adapted: peft would drop them."""
    if targets is None or targets == "all-linear":
        return
    if isinstance(targets, str):
        selected = _matches(folder, "target_modules", targets, layer)
    else:
        selected = isinstance(targets, list) and any(layer == t or layer.endswith(f".{t}") for t in targets)
    if not selected:
        raise PeftFormatError(
            f"{folder}: target_modules = {targets!r}: does not select {layer!r}, which the weights adapt; "
            "restore the configuration that belongs to the weights"
        )


# --- tensors --------------------------------------------------------------------------------------


def _is_adapter(folder: Path) -> bool:
    """Whether a folder holds any of an adapter's files."""
    return any((folder / name).is_file() for name in (CONFIG_FILE, SAFETENSORS_FILE, PICKLE_FILE))


def _read_tensors(folder: Path) -> Mapping[str, Tensor]:
    """All tensors of the adapter; safetensors first, as peft does."""
    from safetensors.torch import load_file

    path = next((folder / n for n in (SAFETENSORS_FILE, PICKLE_FILE) if (folder / n).is_file()), None)
    if path is None:
        raise PeftFormatError(f"{folder}: has neither {SAFETENSORS_FILE} nor {PICKLE_FILE}; copy the weights")
    try:
        if path.name == SAFETENSORS_FILE:
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises whatever the garbled instruction leads to
        reason = str(error).partition("\n")[0]
        raise PeftFormatError(f"{path}: cannot be read ({reason}); copy the file again") from error
    named = isinstance(tensors, dict) and all(isinstance(name, str) for name in tensors)
    if not named or not all(isinstance(values, Tensor) for values in tensors.values()):
        raise PeftFormatError(f"{path}: must hold a dictionary of tensors (got {type(tensors).__name__})")
    return dict(tensors)


def _pair(folder: Path, tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of every layer, by the layer's name in the base model."""
    halves: dict[str, dict[str, Tensor]] = {}
    for key in sorted(tensors):
        match = _TENSOR_NAME.fullmatch(key)
        if match is None:
            raise PeftFormatError(
                f"{folder}: tensor {key!r} is not understood (expected base_model.model.<layer>.lora_A.weight"
                " or lora_B); retrain with plain LoRA on linear layers"
            )
        halves.setdefault(match["layer"], {})[match["factor"]] = tensors[key]
    if not halves:
        raise PeftFormatError(f"{folder}: the weights file holds no tensors; copy it again")
    for layer, half in halves.items():
        if len(half) != 2:
            lacking = "lora_B" if "A" in half else "lora_A"
            raise PeftFormatError(f"{folder}: {lacking} of {layer!r} is missing; copy the weights again")
    return {layer: (half["A"], half["B"]) for layer, half in halves.items()}


def _factor(folder: Path, layer: str, a: Tensor, b: Tensor, scale: float) -> LoraFactor:
    """One layer's factor in float32, refused where a number is not finite or the shapes do not fit."""
    for label, values in (("lora_A", a), ("lora_B", b)):
        if values.dtype not in WEIGHT_DTYPES:
            raise PeftFormatError(f"{folder}: {label} of {layer!r} is {values.dtype}; store floats")
        if not torch.isfinite(values.float()).all():
            raise PeftFormatError(f"{folder}: {label} of {layer!r} is not finite in float32; retrain")
    try:
        return LoraFactor(a.detach().float().contiguous(), b.detach().float().contiguous(), scale)
    except LoraFusionError as error:
        raise PeftFormatError(f"{folder}: {layer!r}: {error}; only linear layers are supported") from error


# --- writing --------------------------------------------------------------------------------------


def _config_of(module: LoraModule, *, base_name: str | None) -> dict[str, object]:
    """The configuration that makes peft compute what the module computes."""
    factors = module.factors
    rank, rank_pattern = _with_exceptions({name: factors[name].rank for name in factors})
    alpha, alpha_pattern = _with_exceptions({name: _alpha_of(factors[name]) for name in factors})
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": rank_pattern,
        "alpha_pattern": alpha_pattern,
        "target_modules": sorted(module.factors),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }


def _with_exceptions(values: Mapping[str, float]) -> tuple[float, dict[str, float]]:
    """The commonest value, and the layers that differ, as patterns that match one full name each.

    Without the anchor, "layer.1.q" would also match "decoder.layer.1.q".
    """
    counts = Counter(values.values())
    common = min(counts, key=lambda value: (-counts[value], value))
    return common, {f"^{re.escape(name)}": values[name] for name in sorted(values) if values[name] != common}


def _alpha_of(factor: LoraFactor) -> float:
    """Return alpha = s r, a whole number where rounding in s alone has hidden one."""
    alpha = factor.scale * factor.rank
    return round(alpha) if math.isclose(alpha, round(alpha), rel_tol=1e-12) else alpha


def _tensors_of(folder: Path, module: LoraModule, dtype: torch.dtype) -> dict[str, Tensor]:
    """The module's tensors under peft's names."""
    tensors = {}
    for layer, factor in module.factors.items():
        for label, values in (("lora_A", factor.a), ("lora_B", factor.b)):
            if values.device.type == "meta":
                raise PeftFormatError(f"{folder}: {label} of {layer!r} is on the meta device; load values")
            # copied, because safetensors refuses tensors that share memory, as slices of one stack do
            stored = values.detach().to("cpu", dtype, copy=True).contiguous()
            if not torch.isfinite(stored).all():
                raise PeftFormatError(f"{folder}: {label} of {layer!r} overflows {dtype}; use a wider one")
            tensors[f"base_model.model.{layer}.{label}.weight"] = stored
    return tensors


def _publish(folder: Path, config: str, tensors: dict[str, Tensor]) -> None:
    """Put both files into place at once: written beside the target, then renamed."""
    from safetensors.torch import save

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        fresh = Path(scratch, "new")
        fresh.mkdir()
        (fresh / CONFIG_FILE).write_text(config, encoding="utf-8")
        (fresh / SAFETENSORS_FILE).write_bytes(save(tensors, metadata={"format": "pt"}))
        if folder.exists():
            folder.rename(Path(scratch, "old"))
        fresh.rename(folder)
