"""Where the files that travel with the program are: data sets, configurations, the pool of LoRA modules."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Literal

Kind = Literal["data", "configs", "pool"]


def asset(kind: Kind) -> Path:
    """The folder of one kind of asset, in an installed wheel or in a checkout.

    Args:
        kind: "data", "configs" or "pool".

    Raises:
        FileNotFoundError: the folder is in neither place, so the installation is incomplete.
    """
    here = Path(str(files("crossbar_experiments")))
    places = (here / "_assets" / kind, here.parent / kind)  # wheel, checkout
    for place in places:
        if place.is_dir():
            return place
    looked = " nor ".join(str(place) for place in places)
    raise FileNotFoundError(f"asset {kind!r}: found neither at {looked}; install the project again")
