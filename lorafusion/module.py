"""Pretrained LoRA modules as plain tensors, and a library of them that fits one model.

A LoRA module (Hu et al. 2021) adds to each adapted linear layer W0 [out, in] the product dW = s B A with
A [r, in], B [out, r] and a scale s. Layers are matched by name, never by the order of keys in a file.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from crossbar_sim.errors import nearest
from lorafusion.architectures import adapted_layers
from lorafusion.errors import LoraFusionError, ModuleMismatchError


@dataclass(frozen=True, eq=False)
class LoraFactor:
    """The low-rank update of one linear layer, dW = s B A.

    Attributes:
        a: A [r, in], a floating-point tensor.
        b: B [out, r], of A's type and on A's device.
        scale: s, usually alpha / r or alpha / sqrt(r) (Kalajdzievski 2023); dimensionless.
    """

    a: Tensor
    b: Tensor
    scale: float

    def __post_init__(self) -> None:
        """Refuse factors whose product does not exist."""
        shapes = f"got A {list(self.a.shape)}, B {list(self.b.shape)}"
        if self.a.ndim != 2 or self.b.ndim != 2 or self.a.shape[0] != self.b.shape[1] or self.a.shape[0] == 0:
            raise LoraFusionError(
                f"LoraFactor: needs A [r, in] and B [out, r] with one rank r >= 1 ({shapes})"
            )
        if not self.a.is_floating_point() or self.a.dtype != self.b.dtype or self.a.device != self.b.device:
            kinds = f"{self.a.dtype} on {self.a.device} and {self.b.dtype} on {self.b.device}"
            raise LoraFusionError(
                f"LoraFactor: A and B need one floating-point type and one device (got {kinds})"
            )
        if not math.isfinite(self.scale):
            raise LoraFusionError(f"LoraFactor.scale: must be finite (got {self.scale})")

    @property
    def rank(self) -> int:
        """The rank r."""
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in): the shape of the weight this factor adapts."""
        return self.b.shape[0], self.a.shape[1]

    def delta(self) -> Tensor:
        """The dense update s B A, [out, in]; for tests and merging, never for a crossbar."""
        return self.scale * (self.b @ self.a)


@dataclass(frozen=True, eq=False)
class LoraModule:
    """One pretrained LoRA module: a factor for each layer it adapts.

    Attributes:
        name: the module's name, usually that of its folder.
        factors: layer name -> factor; names as in `named_modules()` of the base model.
        base: name of the model it was trained on, where known.
        sha256: digest of what the module computes (layers, shapes, scales, values), whatever file it came
            from; computed when left empty.
    """

    name: str
    factors: Mapping[str, LoraFactor]
    base: str | None = None
    sha256: str = ""

    def __post_init__(self) -> None:
        """Copy the mapping, so that the description stays as it was made, and fill in the digest."""
        if not self.factors:
            raise LoraFusionError(
                f"LoraModule.factors: module {self.name!r} adapts no layer; give at least one"
            )
        object.__setattr__(self, "factors", dict(self.factors))
        object.__setattr__(self, "sha256", self.sha256 or _digest(self.factors))


@dataclass(frozen=True, eq=False)
class LoraLibrary:
    """Modules that adapt the same layers of the same model, each layer with the same shape.

    Attributes:
        modules: the modules, in the order of their coefficients.
    """

    modules: tuple[LoraModule, ...]

    def __post_init__(self) -> None:
        """Refuse modules that cannot stand in one library."""
        repeated = [name for name, count in Counter(self.names).items() if count > 1]
        if repeated:
            raise LoraFusionError(
                f"LoraLibrary.modules: the name {repeated[0]!r} occurs twice; rename one folder"
            )
        for module in self.modules[1:]:
            _check_same_layers(self.modules[0], module)

    @classmethod
    def load(cls, paths: Path | str | Iterable[Path | str]) -> LoraLibrary:
        """Read PEFT adapters from disk, without peft.

        Args:
            paths: a folder that is one adapter, a folder of adapter folders (in the order of their names), or
                several of either.

        Returns:
            the library, tensors in float32.

        Raises:
            PeftFormatError: for a folder without adapters, or with one that cannot be read.
            ModuleMismatchError: when the modules adapt different layers.
        """
        from lorafusion.peft_io import find_adapters, read_adapter  # peft_io imports this module

        given = [paths] if isinstance(paths, (str, Path)) else list(paths)
        return cls(tuple(read_adapter(folder) for path in given for folder in find_adapters(Path(path))))

    @classmethod
    def random(
        cls,
        model: nn.Module,
        *,
        count: int,
        rank: int,
        targets: Sequence[str],
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> LoraLibrary:
        """Modules of random numbers for a model: for counting (meta device) and for tests.

        A ~ U(-1, 1) / sqrt(in) and B ~ U(-1, 1) / sqrt(r), scale 1: unlike a fresh LoRA, B is not 0.

        Args:
            model: the base model; may be on the meta device.
            count: number of modules N.
            rank: rank r of every factor.
            targets: which linears to adapt, see `adapted_layers`.
            generator: source of the numbers; a fresh one seeded with 0 when omitted.
            device: where the factors live; each layer's own device when omitted.

        Returns:
            modules named "random-0" ... "random-(N-1)".

        Raises:
            LoraFusionError: for a count or rank below 1, or a target that selects nothing.
        """
        if count < 1 or rank < 1:
            raise LoraFusionError(f"LoraLibrary.random: count and rank must be >= 1 (got {count} and {rank})")
        source = torch.Generator().manual_seed(0) if generator is None else generator
        found = {name: model.get_submodule(name) for name in adapted_layers(model, targets)}
        layers = {name: layer for name, layer in found.items() if isinstance(layer, nn.Linear)}

        def factors() -> Iterator[tuple[str, LoraFactor]]:
            for name, layer in layers.items():
                place = layer.weight.device if device is None else torch.device(device)
                a = _uniform((rank, layer.in_features), layer.in_features, source, place)
                yield name, LoraFactor(a, _uniform((layer.out_features, rank), rank, source, place), 1.0)

        return cls(tuple(LoraModule(f"random-{i}", dict(factors())) for i in range(count)))

    @property
    def names(self) -> tuple[str, ...]:
        """The modules' names, in order."""
        return tuple(module.name for module in self.modules)

    @property
    def layers(self) -> tuple[str, ...]:
        """The adapted layers' names, sorted; the same for every module."""
        return tuple(sorted(self.modules[0].factors)) if self.modules else ()

    def stack(self, layer: str) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """All modules' factors of one layer, side by side, as they are programmed onto two arrays.

        With coefficients c spread over the ranks, sum_i c_i s_i B_i A_i = B_stack diag(c) A_stack.

        Args:
            layer: one of `layers`.

        Returns:
            A_stack [sum r_i, in], B_stack [out, sum r_i] with each s_i folded into its columns, and the r_i.

        Raises:
            LoraFusionError: for a layer the modules do not adapt, with the nearest one.
        """
        if layer not in self.layers:
            raise LoraFusionError(f"layer: no module adapts {layer!r}{nearest(layer, self.layers)}")
        factors = [module.factors[layer] for module in self.modules]
        b_stack = torch.cat([factor.scale * factor.b for factor in factors], dim=1)
        return torch.cat([factor.a for factor in factors]), b_stack, tuple(factor.rank for factor in factors)

    def select(self, names: Iterable[str]) -> LoraLibrary:
        """The library of some of the modules, in the order asked for.

        Args:
            names: modules' names.

        Returns:
            a library that shares the tensors.

        Raises:
            LoraFusionError: for an unknown or repeated name.
        """
        known = dict(zip(self.names, self.modules, strict=True))
        wanted = list(names)
        for name in wanted:
            if name not in known:
                raise LoraFusionError(f"module: {name!r} is not in the library{nearest(name, known)}")
        return LoraLibrary(tuple(known[name] for name in wanted))

    def check(self, model: nn.Module) -> None:
        """Assert that every adapted layer exists in the model, as a linear layer of the right shape.

        Args:
            model: the base model; may be on the meta device.

        Raises:
            ModuleMismatchError: naming module and layer, both shapes, and the nearest layer name.
        """
        found = dict(model.named_modules())
        linears = {
            name: shape for name, layer in found.items() if (shape := _weight_shape(layer)) is not None
        }
        for module in self.modules:
            for name, factor in module.factors.items():
                _check_fits(module.name, name, factor.shape, linears)


def _check_fits(
    module: str, layer: str, shape: tuple[int, int], linears: Mapping[str, tuple[int, int]]
) -> None:
    """Assert that one factor fits the model's linear layer of that name."""
    if layer not in linears:
        raise ModuleMismatchError(
            f"module {module!r} adapts {layer!r}, which this model does not have as a linear layer"
            f"{nearest(layer, linears)}; use the model the module was trained on"
        )
    if linears[layer] != shape:
        raise ModuleMismatchError(
            f"module {module!r}, layer {layer!r}: the module's update is {list(shape)} [out, in], the "
            f"model's weight {list(linears[layer])}; use a model of the size the module was trained on"
        )


def _check_same_layers(first: LoraModule, other: LoraModule) -> None:
    """Assert that two modules adapt the same layers with the same shapes."""
    for owner, lacking in ((first, other), (other, first)):
        missing = sorted(set(owner.factors) - set(lacking.factors))
        if missing:
            raise ModuleMismatchError(
                f"module {lacking.name!r} does not adapt {missing[0]!r}, which module {owner.name!r} adapts "
                f"({len(missing)} such layers){nearest(missing[0], lacking.factors)}; "
                "select modules that adapt equal layers"
            )
    for layer, factor in first.factors.items():
        if other.factors[layer].shape != factor.shape:
            raise ModuleMismatchError(
                f"layer {layer!r}: module {first.name!r} is {list(factor.shape)} [out, in], module "
                f"{other.name!r} {list(other.factors[layer].shape)}; select modules of one base model"
            )


def _weight_shape(layer: nn.Module) -> tuple[int, int] | None:
    """(out, in) of anything that multiplies by a matrix, None for everything else."""
    if isinstance(layer, (nn.Embedding, nn.Bilinear)):  # a matrix, but not one that multiplies the input
        return None
    sizes = getattr(layer, "out_features", None), getattr(layer, "in_features", None)
    if isinstance(sizes[0], int) and isinstance(sizes[1], int):
        return sizes[0], sizes[1]
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        return None
    rows, cols = weight.shape
    # transformers' Conv1D (GPT-2) is a linear layer that stores its weight as [in, out]
    return (cols, rows) if hasattr(layer, "nf") else (rows, cols)


def _uniform(shape: tuple[int, int], fan: int, source: torch.Generator, device: torch.device) -> Tensor:
    """U(-1, 1) / sqrt(fan), or only the shape on the meta device."""
    if device.type == "meta":
        return torch.empty(shape, device=device)
    values = torch.rand(shape, generator=source, device=source.device)
    return ((2 * values - 1) / math.sqrt(fan)).to(device)


def _digest(factors: Mapping[str, LoraFactor]) -> str:
    """SHA-256 over names, shapes, scales and values in sorted order; on the meta device without values.

    The scale enters with eight digits: it is stored as alpha, and alpha / r may differ in its last bit.
    """
    digest = hashlib.sha256()
    for layer in sorted(factors):
        factor = factors[layer]
        digest.update(f"{layer} {factor.rank} {factor.shape} {factor.scale:.7e}".encode())
        for values in (factor.a, factor.b):
            if values.device.type != "meta":
                digest.update(values.detach().to("cpu", torch.float32).numpy().astype("<f4").tobytes())
    return digest.hexdigest()
