"""How figures look: one style sheet, colours that colour-blind readers can tell apart, a marker per chip."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib.resources import as_file, files

INK = "#010203"
"""The colour of text and axes; `figures.svg` turns it into the colour of the text around the figure."""

CYCLE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B8A900", "#7F7F7F")
"""After Okabe and Ito (2008), with a darker yellow, to be seen on white, and grey in place of black."""

MARKERS = "osD^vPX*"
FUSION = frozenset({"fusion", "lorafusion_published", "coefficients_only", "magnitude_only"})
"""Methods that learn a task with the pool's modules and write no cell."""
RIVAL = "lora"


def family_colour(method: str) -> str:
    """Blue for the fusion methods, orange for LoRA, grey for the others."""
    if method in FUSION:
        return CYCLE[0]
    return CYCLE[5] if method == RIVAL else CYCLE[7]


def applied() -> AbstractContextManager[None]:
    """A context in which matplotlib uses the project's style sheet and nothing of the user's."""
    import matplotlib as mpl
    from matplotlib import rc_context, rc_params_from_file

    with as_file(files("crossbar_experiments") / "style.mplstyle") as path:
        sheet = rc_params_from_file(path, use_default_template=False)
    return rc_context({**mpl.rcParamsDefault, "backend": mpl.rcParams["backend"], **sheet})
