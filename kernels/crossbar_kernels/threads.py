"""Rows shared among plain threads, and torch's own threads left as they were found."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import numba

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
    parts = [slice(first, first + chunk) for first in range(0, rows, max(1, chunk))]
    with _one_torch_thread():
        if workers == 1 or len(parts) == 1:
            for part in parts:
                work(part)
        else:
            for _ in _pool(workers, os.getpid()).map(work, parts):
                pass


def _threads() -> int:
    """As many threads as both Numba and torch are set to use."""
    count, torch = int(numba.get_num_threads()), torch_or_none()
    return count if torch is None else min(count, int(torch.get_num_threads()))


@contextmanager
def _one_torch_thread() -> Iterator[None]:
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


@cache
def torch_or_none() -> Any:
    """Torch, or None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    return torch
