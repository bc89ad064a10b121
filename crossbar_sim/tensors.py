"""From torch's tensors to what arrays take and give, and back, without a copy where none is needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack


def own(x: Tensor) -> type[np.floating[Any]]:
    """In which type results for a tensor leave the array: its own where NumPy and the array have it, else float64."""
    return np.float32 if x.dtype == torch.float32 else np.float64


def to_tensor(result: Any, like: Tensor) -> Tensor:
    """A result of an array as a tensor of the type and on the device of `like`, where it lies already without a copy."""
    if isinstance(result, Tensor) and result.is_meta:  # a planned array's
        return result.to(like)
    y = torch.from_numpy(result) if isinstance(result, np.ndarray) else from_dlpack(result)
    return y.to(like)


def to_numpy(x: Tensor) -> NDArray[Any]:
    """The values of a tensor of any device and type; NumPy has no bfloat16."""
    return np.asarray((x.float() if x.dtype == torch.bfloat16 else x).numpy(force=True))
