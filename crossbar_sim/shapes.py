"""Shapes of common operations, without torch's slow way to them.

On the meta device torch decomposes an elementwise operation in Python, at half a millisecond each. A large model's pass
takes thousands of them, and all that is wanted is an empty tensor of the broadcast shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
PAIRS = frozenset({aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor, aten.div.Tensor})
"""Two operands, each a tensor or a number: the broadcast shape, the promoted type."""
ALONE = frozenset(
    {
        aten.mul.Scalar,
        aten.div.Scalar,
        aten.pow.Tensor_Scalar,
        aten.rsqrt.default,
        aten.abs.default,
        aten.tanh.default,
        aten.gelu.default,
        aten.silu.default,
        aten.relu.default,
        aten._softmax.default,
        aten._safe_softmax.default,
    }
)
"""The shape and the type of the first operand, where that is of a floating type and no other type is asked for."""
BACKWARD = frozenset(
    {aten._softmax_backward_data.default, aten.tanh_backward.default, aten.gelu_backward.default}
)
"""A gradient, and a tensor of the same shape and type, give one more, where no other type is asked for."""


class QuickShapes(TorchDispatchMode):
    """Inside, the operations above give empty meta tensors at once; whatever else happens is left to torch.

    Results are contiguous.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """One operation."""
        given = kwargs or {}
        if func in PAIRS and not set(given) - {"alpha"}:
            return _pair(func, args[0], args[1], given)
        alone = func in ALONE and _meta_float(args[0]) and not given
        back = func in BACKWARD and _alike(*args[:2]) and not set(given) - {"approximate"}
        if (alone or back) and not _retyped(args):
            return torch.empty(args[0].shape, dtype=args[0].dtype, device="meta")
        return func(*args, **given)


def _pair(func: Callable[..., Any], a: Any, b: Any, given: dict[str, Any]) -> Any:
    if not (_meta_float(a) and (_meta_float(b) or isinstance(b, int | float))):
        return func(a, b, **given)
    shape = (
        a.shape
        if not isinstance(b, Tensor) or a.shape == b.shape
        else torch.broadcast_shapes(a.shape, b.shape)
    )
    return torch.empty(shape, dtype=torch.result_type(a, b), device="meta")


def _retyped(args: tuple[Any, ...]) -> bool:
    """Whether the operation asks for another type than its first operand's (half_to_float, or a type)."""
    return any(arg is True or (isinstance(arg, torch.dtype) and arg != args[0].dtype) for arg in args)


def _alike(a: Any, b: Any) -> bool:
    return _meta_float(a) and _meta_float(b) and (a.shape, a.dtype) == (b.shape, b.dtype)


def _meta_float(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_meta and x.is_floating_point()
