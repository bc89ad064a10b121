"""Digital factors against drift: known vectors are read and compared with what the target weights give."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from crossbar_sim.cost import WORD_BITS
from crossbar_sim.periphery import dac_codes
from crossbar_sim.reading import PROBE_EVENT

if TYPE_CHECKING:
    from crossbar_sim.array import ProgrammedArray

Array = NDArray[np.float64]
KINDS = ("none", "global", "column")
PROBES = 32
"""Known vectors per array."""


def factors(array: ProgrammedArray, kind: str) -> float | Array:
    """The factor, one ("global") or per output ("column"), that brings the results nearest to the targets' in least squares.

    The reads are booked in phase `calibrate`; what the target weights give is computed off the chip and read as words from SRAM. An
    output that ought to be, or is, 0 keeps the factor 1.
    """
    if kind == "none":
        return 1.0
    probes = _probes(array)
    with array.chip.ledger.scope(phase="calibrate"):
        found = _results(array, probes)
        sums = 2 * found.size
        array.site.book({"sram_read_bit": WORD_BITS * found.size, "digital_mul": sums, "digital_add": sums})
    expected = probes @ array.kept(array.target_weights()).T
    axis = None if kind == "global" else 0
    match, power = (expected * found).sum(axis=axis), (found * found).sum(axis=axis)
    usable = (power > 0) & (match != 0)
    return np.where(usable, match / np.where(usable, power, 1.0), 1.0)


def _results(array: ProgrammedArray, probes: Array) -> Array:
    if array.chip.exact:
        array.book_reads(len(probes))
        return np.asarray(probes @ array.kept(array.read_weights()).T)
    rows = np.arange(2**32 - len(probes), 2**32, dtype=np.uint64).astype(np.uint32)  # no batch's noise
    kernels = array.kernels
    return kernels.to_host(array.readers[0].product(probes, rows, kernels, columns=array.scale))


def _probes(array: ProgrammedArray) -> Array:
    """Known inputs that use the converters' range: normal vectors at a third of full scale, as the DAC drives them."""
    kernels, forward = array.chip.host, array.readers[0]
    index = np.arange(PROBES, dtype=np.uint32)
    z = kernels.normals(index, array.placement.inputs, key=array.key, stream=0, event=PROBE_EVENT)
    if array.chip.exact:
        return z.astype(np.float64)
    full, converters = forward.needed_ranges().dac, forward.converters
    x = z.astype(np.float64) * (full / 3)
    if not converters.dac_bits:
        return x
    return np.asarray(dac_codes(x, full, converters, kernels) * (full / converters.dac_scale), np.float64)
