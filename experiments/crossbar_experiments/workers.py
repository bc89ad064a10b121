"""Cells on worker processes, one thread each: a worker keeps its deployed chip as long as there are cells for it."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from crossbar_experiments.config import Cell
from crossbar_experiments.errors import BenchError

Progress = Callable[[Cell, int, int, str], None]
"""Called with the cell, steps done, steps in all, and what is being done."""
PATIENCE = 5.0
"""Seconds that an idle worker has to end."""
TRIES = 2
"""How often a cell is started before a worker's death is taken for the cell's own fault."""


@dataclass
class _Worker:
    process: BaseProcess
    link: Connection
    cell: Cell | None = None
    chip: object = None


def run_cells(
    cells: list[Cell], root: Path, *, workers: int, progress: Progress
) -> Iterator[tuple[Cell, str]]:
    """Run cells on `workers` processes; yields each with its id as it is finished.

    A cell whose worker dies is started once more on a new worker. Results do not depend on which worker runs what.

    Raises:
        BenchError: a cell failed (its own message), or its workers died.
    """
    left, tries = list(cells), {id(cell): 0 for cell in cells}
    team = [_start(root) for _ in range(min(workers, len(cells)))]
    try:
        for worker in team:
            _give(worker, left, tries)
        while any(worker.cell is not None for worker in team):
            for link in wait([worker.link for worker in team if worker.cell is not None]):
                worker = next(w for w in team if w.link is link)
                cell = worker.cell
                assert cell is not None  # only busy workers are waited for
                message = _receive(worker)
                if message is None:
                    _replace(worker, cell, left, tries, root)
                elif message[0] == "step":
                    progress(cell, *message[1:])
                else:
                    yield cell, _result(message, cell)
                    _give(worker, left, tries)
    finally:
        for worker in team:
            _dismiss(worker)


def _start(root: Path) -> _Worker:
    ours, theirs = mp.get_context("spawn").Pipe()
    process = mp.get_context("spawn").Process(target=_work, args=(theirs, root), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _dismiss(worker: _Worker) -> None:
    """Let an idle worker end by itself, which gives its semaphores back; stop one that is busy."""
    worker.link.close()
    if worker.cell is None:
        worker.process.join(PATIENCE)
    worker.process.terminate()
    worker.process.join()


def _give(worker: _Worker, left: list[Cell], tries: dict[int, int]) -> None:
    """The next cell of the worker's own chip, else of the chip with most cells left."""
    worker.cell = None
    if not left:
        return
    chips = [(cell.chip, cell.model, cell.pool) for cell in left]
    own = [i for i, chip in enumerate(chips) if chip == worker.chip]
    at = own[0] if own else max(range(len(left)), key=lambda i: (chips.count(chips[i]), -i))
    worker.chip, worker.cell = chips[at], left.pop(at)
    tries[id(worker.cell)] += 1
    worker.link.send(worker.cell)


def _receive(worker: _Worker) -> tuple[Any, ...] | None:
    """A worker's message; None when it is dead."""
    try:
        message: tuple[Any, ...] = worker.link.recv()
    except (EOFError, ConnectionResetError):
        return None
    return message


def _replace(worker: _Worker, cell: Cell, left: list[Cell], tries: dict[int, int], root: Path) -> None:
    if tries[id(cell)] >= TRIES:
        raise BenchError(
            f"cell {cell.task} / {cell.label} / {cell.chip_label}: its worker process died {TRIES} times "
            "(out of memory?); try --workers 1"
        )
    left.insert(0, cell)
    fresh = _start(root)
    worker.process, worker.link, worker.chip = fresh.process, fresh.link, None
    _give(worker, left, tries)


def _result(message: tuple[Any, ...], cell: Cell) -> str:
    kind, text = message
    if kind == "failed":
        raise BenchError(f"cell {cell.task} / {cell.label} / {cell.chip_label}: {text}")
    return str(text)


def _work(link: Connection, root: Path) -> None:
    """A worker's life: cells in, progress and ids out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    one_thread()
    from crossbar_experiments.run import Bench, run_cell

    bench = Bench()
    while True:
        try:
            cell = link.recv()
        except EOFError:
            return
        try:
            link.send(
                ("done", run_cell(cell, bench, root, progress=lambda *step: link.send(("step", *step))))
            )
        except ValueError as error:
            link.send(("failed", str(error)))


def one_thread() -> None:
    """Keep this process's libraries to one thread each: the workers share the cores."""
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    import torch

    torch.set_num_threads(1)
