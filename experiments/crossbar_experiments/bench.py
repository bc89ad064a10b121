"""The bench as a command: runs the scripts that time kernels, layers and peers, one process each, and collects what they report."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from crossbar_experiments.errors import BenchError
from crossbar_sim.errors import nearest

Report = dict[str, Any]
"""What a script saves: bench, date, machine, notes, rows."""
SCRIPTS = {
    "mvm": "crossbar_kernels",
    "layers": "crossbar_experiments",
    "memory": "crossbar_kernels",
    "wires": "crossbar_kernels",
    "programming": "crossbar_kernels",
    "peers": "crossbar_kernels",
}
"""Part -> the package beside which its script bench_PART.py lies."""
PEERS = "peers"


def parts_of(wanted: Sequence[str], *, peers: bool) -> list[str]:
    """The parts to run: those asked for, else all but the peers, which take part when they are asked for.

    Raises:
        BenchError: there is no such part.
    """
    for part in wanted:
        if part not in SCRIPTS:
            raise BenchError(f"bench: {part!r} is unknown{nearest(part, SCRIPTS)}")
    chosen = list(dict.fromkeys(wanted)) or [part for part in SCRIPTS if part != PEERS]
    return [*chosen, PEERS] if peers and PEERS not in chosen else chosen


DRAWN = ("mvm", "layers", PEERS)
"""Parts whose ratios a figure shows."""


def check_drawn(parts: Sequence[str]) -> None:
    """Refuse a figure without bars.

    Raises:
        BenchError: none of the parts has ratios that are drawn.
    """
    if not set(parts) & set(DRAWN):
        raise BenchError(
            f"--figure: nothing to draw of {', '.join(parts)}; run one of {', '.join(DRAWN)} too"
        )


def script(part: str) -> Path:
    """The script of a part, in an installed wheel or in a checkout.

    Raises:
        BenchError: it is in neither place.
    """
    here = Path(str(files(SCRIPTS[part])))
    places = [folder / f"bench_{part}.py" for folder in (here / "_bench", here.parent / "bench")]
    for place in places:
        if place.is_file():
            return place
    looked = " nor ".join(str(place) for place in places)
    raise BenchError(f"bench: found neither {looked}; install the project again")


def run_bench(parts: Sequence[str], arguments: Sequence[str], *, quiet: bool) -> dict[str, Report]:
    """Run the parts one after another; their reports by name.

    Args:
        parts: from `parts_of`.
        arguments: options for every script.
        quiet: whether their tables are kept from standard output.

    Raises:
        BenchError: a script failed; it has told why on standard error.
    """
    out = subprocess.DEVNULL if quiet else None
    found = {}
    with TemporaryDirectory(prefix="lorafusion-bench-") as folder:
        for part in parts:
            saved = Path(folder) / f"{part}.json"
            command = [sys.executable, str(script(part)), "--save", str(saved), *arguments]
            if (code := subprocess.call(command, stdout=out)) != 0:
                raise BenchError(f"bench: {part} ended with exit code {code}; what it said stands above")
            found[part] = json.loads(saved.read_text(encoding="utf-8"))
    return found
