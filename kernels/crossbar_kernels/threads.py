"""Rows shared among plain threads, and torch's own threads left as they were found."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK = 128
"""Most input rows per pass: the partial products of a tile stay in the second cache."""
SMALL = 2**16
"""Conversions below which handing work to threads costs more than it saves."""


def share_rows(work: Callable[[slice], None], rows: int, size: int) -> None:
    """Do `work` on slices of at most CHUNK rows, large work (`size` numbers) on threads.

    Plain threads, each with torch on one thread, serve the products and the pass after them: the OpenMP pools of torch
    and Numba spin at their barriers and slow each other down 30 to 100 times on a busy machine.
    """
    workers = _threads() if size >= SMALL else 1
    rounds = -(-rows // (CHUNK * workers))
    chunk = -(-rows // max(1, rounds * workers))
    parts = [slice(first, min(first + chunk, rows)) for first in range(0, rows, max(1, chunk))]
    lanes = [parts[lane::workers] for lane in range(min(workers, len(parts)))]
    with one_torch_thread():
        if len(lanes) < 2:
            _do(work, parts)
            return
        # this thread takes a lane too: it is awake, and those that are woken find the other cores idle
        others = [_pool(workers - 1, os.getpid()).submit(_do, work, lane) for lane in lanes[1:]]
        try:
            _do(work, lanes[0])
        finally:
            wait(others)  # nobody writes any more when an error is told
        for other in others:
            other.result()


def _do(work: Callable[[slice], None], parts: list[slice]) -> None:
    for part in parts:
        work(part)


def _threads() -> int:
    """As many threads as both Numba and torch are set to use."""
    import numba  # here: a process that is to have one thread says so before Numba is loaded

    torch = torch_or_none()
    if torch is None:
        return int(numba.get_num_threads())
    own = int(torch.get_num_threads())
    # the first question starts Numba's pool, which sets OpenMP's number of threads, and with it torch's
    count = int(numba.get_num_threads())
    if torch.get_num_threads() != own:
        torch.set_num_threads(own)
    return min(count, own)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch use one thread of its own, and afterwards as many as before."""
    torch = torch_or_none()
    if torch is None:
        yield
        return
    found = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(found)


@cache
def _pool(workers: int, process: int) -> ThreadPoolExecutor:
    """Threads of this process; a forked process makes its own."""
    torch = torch_or_none()
    start = None if torch is None else partial(torch.set_num_threads, 1)
    return ThreadPoolExecutor(workers, f"crossbar-{process}", initializer=start)


_own = threading.local()


def scratch(name: str, shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
    """Memory of this thread, not cleared, that the next caller with this name overwrites.

    Fresh memory for the partial sums of every product would cost as much time as the products: each page is cleared by the system.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    held = getattr(_own, name, None)
    if held is None or held.nbytes < size:
        held = np.empty(size, np.uint8)
        setattr(_own, name, held)
    return held[:size].view(dtype).reshape(shape)


@cache
def torch_or_none() -> Any:
    """Torch, or None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    return torch
