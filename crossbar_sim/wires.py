"""Exact currents of arrays whose wires have resistance (IR drop).

Circuit of `effective` and `node_voltages`: word line i is driven at its left end through one segment r_wl,
its right end is open; bit line j is sensed at its bottom end (the last row) through one segment r_bl into 0
V, its top end is open. So a word line has `cols` segments and a bit line `rows`. Devices are linear,
unselected rows are driven to 0 V, a segment may have 0 ohm and a cell 0 S (open). As everything is linear, IR
drop turns the conductances into effective ones, once; products then cost nothing more.

Wires are a property of the array, not of a backend: the arithmetic is that of `crossbar_kernels.ladder`, in
float64 and with the same bits for any number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossbar_sim.checks import require

Array = NDArray[np.float64]


def effective(conductance: ArrayLike, *, r_wl: float, r_bl: float) -> Array:
    """Effective conductances with IR drop: output currents = voltages.T @ G_eff, exactly.

    Blocks of the array are condensed to their edges and joined pairwise (nested dissection; George 1973), in
    a mixed form of voltages and currents that stays well conditioned for segments from 0 ohm upwards. No
    iteration.

    Args:
        conductance: cells in S [..., rows, cols], each last pair of axes one array; arrays are shared among
            threads.
        r_wl: one word-line segment (ohm).
        r_bl: one bit-line segment (ohm).

    Returns:
        G_eff in S, the shape of `conductance`; [i, j] is the current of bit line j per volt on word line i
        alone.

    Raises:
        ConfigError: a value is negative or not finite, or there are fewer than two axes.
    """
    g = _checked("conductance", conductance)
    require(g.ndim >= 2, "conductance", f"must have axes [..., rows, cols] (got shape {g.shape})")
    _check_segments(r_wl=r_wl, r_bl=r_bl)
    if g.size == 0 or (r_wl == 0 and r_bl == 0):
        return g.copy()
    from crossbar_kernels.ladder_join import transfer

    found = transfer(g.reshape(-1, *g.shape[-2:]), float(r_wl), float(r_bl)).reshape(g.shape)
    # Resistances never reverse a current; rounding may, by 1e-16 of full scale.
    return np.maximum(found, 0.0, out=found)


def node_voltages(
    conductance: ArrayLike, voltages: ArrayLike, *, r_wl: float, r_bl: float
) -> tuple[Array, Array]:
    """Voltages of all nodes by a direct sparse solution of Kirchhoff's current law.

    Args:
        conductance: cells in S [rows, cols].
        voltages: drive of the word lines in V [rows, inputs].
        r_wl: one word-line segment (ohm).
        r_bl: one bit-line segment (ohm).

    Returns:
        Word-line and bit-line voltages at the cells in V, each [rows, cols, inputs].

    Raises:
        ConfigError: a conductance or segment is negative, a value is not finite, or the shapes do not fit.
    """
    g = _checked("conductance", conductance)
    require(g.ndim == 2, "conductance", f"must be [rows, cols] (got shape {g.shape})")
    v = _checked("voltages", voltages, least=-np.inf)
    require(
        v.ndim == 2 and len(v) == len(g),
        "voltages",
        f"must be [rows, inputs] with {len(g)} rows (got shape {v.shape})",
    )
    _check_segments(r_wl=r_wl, r_bl=r_bl)
    return _nodes(g, v, r_wl, r_bl)


def gated(conductance: ArrayLike, active: ArrayLike, *, segment: float) -> Array:
    """Currents of 1T1R columns at 1 V, where one-bit inputs connect whole rows of cells.

    Along every column run a supply line and a sum line, cells between them. The supply is driven with 1 V at
    the first row's end and has one segment before each cell; the sum line has one segment after each cell and
    ends behind the last row in 0 V. Rows that are not active are open but lengthen both lines, so every
    cell's current passes rows + 1 segments. The switches are ideal. This is the circuit "non-interleaved,
    separate source" of CrossSim (Sandia National Laboratories) with equal resistances of both lines, solved
    exactly instead of iteratively, in O(rows) per column and input.

    Args:
        conductance: cells in S [rows, cols].
        active: which rows are connected, bool [inputs, rows].
        segment: one segment of either line (ohm).

    Returns:
        Column currents in A [inputs, cols].

    Raises:
        ConfigError: a conductance or the segment is negative or not finite, or the shapes do not fit.
    """
    g = _checked("conductance", conductance)
    require(g.ndim == 2, "conductance", f"must be [rows, cols] (got shape {g.shape})")
    rows = np.asarray(active)
    require(rows.dtype == np.bool_, "active", f"must be of type bool (got {rows.dtype})")
    require(
        rows.ndim == 2 and rows.shape[1] == len(g),
        "active",
        f"must be [inputs, rows] with {len(g)} rows (got shape {rows.shape})",
    )
    _check_segments(segment=segment)
    from crossbar_kernels.ladder_join import gated as ladder

    return ladder(g, np.ascontiguousarray(rows), float(segment))


def read_variance(conductance: ArrayLike, effective: ArrayLike, variance: ArrayLike) -> Array:
    """Cell variances as the sense amplifiers see them: var I_j = sum_i V_i^2 read_variance_ij.

    To first order a deviation of cell (a, b) changes I_j by d_ab a_abj: the voltage across the cell times the
    part of its current that arrives at j. Both fall along the wires; their product at b = j is close to V_a
    G_eff/G, so the variance is attenuated by min(1, G_eff/G)^2 (1 where G is 0: the noise of an open cell is
    not attenuated). `variance` itself is the unattenuated upper estimate: a cell that is driven alone is
    attenuated, never amplified.

    How far off, against exact sensitivities with standard deviations proportional to G, 16 x 16 to 64 x 64
    cells up to 100 uS and 0.35 to 5 ohm: never more than 2 % too small. Inputs of both signs: at most 30 %
    too large while the smallest G_eff/G is above 0.4. Inputs of one sign lift the bit lines and so lower d:
    random conductances at 64 x 64 read up to 7 % too large at 0.35 ohm, 18 % at 1 ohm, 1.8-fold at 5 ohm (all
    cells 100 uS: 10 %, 28 %, 2.3-fold). What is left out, the noise of cells in rows that are driven with 0 V
    under a lifted bit line, matters only where such cells are far noisier than those in the driven rows.

    Args:
        conductance: cells in S, any shape.
        effective: G_eff of the same cells (S).
        variance: variance of each cell's conductance (S^2).

    Returns:
        Effective variances in S^2, same shape.

    Raises:
        ConfigError: a value is negative or not finite, or shapes differ.
    """
    g, reached = _checked("conductance", conductance), _checked("effective", effective)
    spread = _checked("variance", variance)
    require(reached.shape == g.shape, "effective", f"must have shape {g.shape} (got {reached.shape})")
    require(spread.shape == g.shape, "variance", f"must have shape {g.shape} (got {spread.shape})")
    part = np.divide(reached, g, out=np.ones_like(g), where=g > reached)
    return spread * part * part


def _checked(name: str, value: ArrayLike, *, least: float = 0.0) -> Array:
    """A contiguous float64 array of finite values >= least."""
    found = np.ascontiguousarray(value, dtype=np.float64)
    require(bool(np.isfinite(found).all()), name, "must be finite; give 0 S for an open cell")
    low = float(found.min(initial=0.0))
    require(low >= least, name, f"must not be negative (least value {low:g})")
    return found


def _check_segments(**ohms: float) -> None:
    """Segments are resistances of 0 ohm or more."""
    for name, value in ohms.items():
        require(0 <= value < np.inf, name, f"must be a resistance of 0 ohm or more (got {value:g})")


def _nodes(g: Array, v: Array, r_wl: float, r_bl: float) -> tuple[Array, Array]:
    """Node voltages; lines without resistance are known, so that only the others are solved for."""
    (rows, cols), cells = g.shape, _cells(g)
    shape, flat = (rows, cols, v.shape[1]), (rows * cols, v.shape[1])
    word: Array = np.repeat(v[:, None, :], cols, axis=1)
    bit: Array = np.zeros(shape)
    fed: Array = np.zeros(shape)
    if r_wl == 0:
        if r_bl > 0:
            drive = (g[:, :, None] * word).reshape(flat)
            bit = _solve(cells + _bit_lines(rows, cols, r_bl), drive).reshape(shape)
        return word, bit
    fed[:, 0] = v / r_wl
    rail = cells + _word_lines(rows, cols, r_wl)
    if r_bl == 0:
        return _solve(rail, fed.reshape(flat)).reshape(shape), bit
    from scipy.sparse import block_array

    system = block_array([[rail, -cells], [-cells, cells + _bit_lines(rows, cols, r_bl)]])
    both = _solve(system, np.concatenate([fed.reshape(flat), np.zeros(flat)])).reshape(2, *shape)
    return both[0], both[1]


def _cells(g: Array) -> Any:
    """Diagonal matrix of the cells, numbered row by row."""
    from scipy.sparse import diags_array

    return diags_array(g.reshape(-1))


def _word_lines(rows: int, cols: int, segment: float) -> Any:
    """Nodal matrix of all word lines: anchored at the left, open at the right."""
    from scipy.sparse import eye_array, kron

    return kron(eye_array(rows), _line(cols, segment))


def _bit_lines(rows: int, cols: int, segment: float) -> Any:
    """Nodal matrix of all bit lines: anchored at the bottom, open at the top."""
    from scipy.sparse import eye_array, kron

    return kron(_line(rows, segment)[::-1, ::-1], eye_array(cols))


def _line(nodes: int, segment: float) -> Any:
    """Nodal matrix of a line whose first node is anchored through a segment and whose last end is open."""
    from scipy.sparse import diags_array

    middle = np.full(nodes, 2.0)
    middle[-1] = 1.0
    aside = np.full(nodes - 1, -1.0)
    line = diags_array([middle, aside, aside], offsets=[0, 1, -1], shape=(nodes, nodes))
    return line.tocsr() / segment


def _solve(system: Any, right: Array) -> Array:
    """Direct solution of a symmetric positive definite sparse system."""
    from scipy.sparse.linalg import splu

    factors = splu(
        system.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )
    return np.asarray(factors.solve(right))
