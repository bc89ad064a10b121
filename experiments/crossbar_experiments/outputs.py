"""Files that a command is asked to write: checked before the work starts, refused in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crossbar_experiments.errors import BenchError


def check_file(option: str, path: Path, *, suffix: str) -> None:
    """Whether a file may go there, so that nobody waits for a result that cannot be kept.

    Args:
        option: the command line's name of it, which the error gives.
        path: where the file goes.
        suffix: what it must end with, ".svg".

    Raises:
        BenchError: another ending, a folder of that name, or no folder to hold it.
    """
    if path.suffix.lower() != suffix:
        raise BenchError(f"{option}: {path}: only {suffix} is written; name it {path.stem or 'file'}{suffix}")
    if path.is_dir():
        raise BenchError(f"{option}: {path} is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise BenchError(f"{option}: no folder {path.parent}; make it first")


@contextmanager
def writing(option: str, path: Path) -> Iterator[None]:
    """Tell what the disk refuses.

    Raises:
        BenchError: the file or folder, and the reason.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise BenchError(
            f"{option}: cannot write {error.filename or path} ({reason}); choose another place, or free space"
        ) from None
