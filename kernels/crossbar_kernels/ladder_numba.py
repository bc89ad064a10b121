"""Compiled twin of `crossbar_kernels.ladder`: blocks of a grid, condensed to their edges, joined pairwise.

A block answers its edges' inputs u with outputs H u. Edges: left (in: voltage, out: current taken), right
(in: current drawn, out: voltage), bottom (in: voltage, out: current given), top (in: current fed, out:
voltage). In this mixed form segments and values of 0 are ordinary numbers, nothing cancels where segments are
small, and all pivots of a leaf are >= 1. Sums run in one order without contraction, so every machine and
every number of threads finds the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crossbar_kernels.philox_numba import compiled, inlined

PANEL = 96
"""Columns of right sides worked on at once: a panel stays in the second cache."""


@compiled
def leaves(g: Any, rows: Any, cols: Any, row_segment: Any, column_segment: Any) -> Any:
    """Blocks [R, C, 2 (rows + cols), same] of g [R rows, C cols]; edges: left, right, bottom, top."""
    down, across, size = g.shape[0] // rows, g.shape[1] // cols, 2 * (rows + cols)
    found = np.zeros((down, across, size, size))
    for a in range(down):
        for b in range(across):
            h = found[a, b]
            for i in range(rows):
                h[i, rows + i] = h[rows + i, i] = 1.0
            for j in range(cols):
                h[2 * rows + j, 2 * rows + cols + j] = h[2 * rows + cols + j, 2 * rows + j] = 1.0
            for i in range(rows):
                for j in range(cols):
                    value = g[a * rows + i, b * cols + j]
                    _add_cell(h, value, rows + i, 2 * rows + j, row_segment, column_segment)
    return found


@compiled
def _add_cell(h: Any, value: Any, right: Any, bottom: Any, row_segment: Any, column_segment: Any) -> None:
    """Lengthen a row by a segment and a value, and the column below that value by a segment.

    The value's current c = G (v_right - v_bottom) is drawn from the row and given to the column; solving for
    it and for the new segment's current are updates of rank one with pivots 1 + G R >= 1 and 1 + r Y >= 1.
    """
    size = h.shape[0]
    h[right, right] -= row_segment
    pull = h[:, right].copy()
    row = h[right].copy()
    row[bottom] -= 1.0
    scale = value / (1.0 - value * h[right, right])
    for o in range(size):
        weight = pull[o] * scale + (scale if o == bottom else 0.0)
        if weight != 0.0:
            for c in range(size):
                h[o, c] += weight * row[c]
    pull = h[:, bottom].copy()
    row = h[bottom].copy()
    scale = column_segment / (1.0 - column_segment * h[bottom, bottom])
    for o in range(size):
        weight = pull[o] * scale
        if weight != 0.0:
            for c in range(size):
                h[o, c] += weight * row[c]


@compiled
def join(one: Any, two: Any, first: Any, second: Any, place: Any, found: Any) -> None:
    """Join blocks one[n] and two[n] at a common edge into found[n].

    first, second = (outputs of the edge that meets, its inputs, remaining outputs, remaining inputs), by
    number; place = (outputs of one, of two, inputs of one, of two): where the remaining ones go. At the
    common edge x = A u1 + Z y and y = B u2 + Y x, hence (1 - Z Y) x = A u1 + Z B u2; -Z and Y are positive
    semidefinite.
    """
    split = len(first[3])
    for n in range(one.shape[0]):
        h1, h2 = one[n], two[n]
        z, y = _gather(h1, first[0], first[1]), _gather(h2, second[0], second[1])
        fed = _gather(h2, second[0], second[3])
        x1, x2 = _gather(h1, first[0], first[3]), np.zeros(fed.shape)
        _add_product(x2, z, fed, 1.0)
        x = np.empty((len(z), split + fed.shape[1]))
        x[:, :split], x[:, split:] = x1, x2
        system = np.eye(len(z))
        _add_product(system, z, y, -1.0)
        _solve(system, x)
        x1[:], x2[:] = x[:, :split], x[:, split:]
        back1 = np.zeros(x1.shape)
        _add_product(back1, y, x1, 1.0)
        _add_product(fed, y, x2, 1.0)
        _outputs(h1, first, back1, fed, place[0], place[2], place[3], found[n])
        _outputs(h2, second, x2, x1, place[1], place[3], place[2], found[n])


@compiled
def _outputs(h: Any, nodes: Any, own: Any, other: Any, rows: Any, mine: Any, others: Any, found: Any) -> None:
    """Fill `rows` of found: own inputs act directly and, as the other's, through the common edge."""
    through = _gather(h, nodes[2], nodes[1])
    values = _gather(h, nodes[2], nodes[3])
    _add_product(values, through, own, 1.0)
    _scatter(values, rows, mine, found)
    values = np.zeros((len(rows), len(others)))
    _add_product(values, through, other, 1.0)
    _scatter(values, rows, others, found)


@compiled
def _scatter(values: Any, rows: Any, cols: Any, found: Any) -> None:
    """found[rows][:, cols] = values."""
    for i in range(len(rows)):
        for j in range(len(cols)):
            found[rows[i], cols[j]] = values[i, j]


@compiled
def _gather(h: Any, rows: Any, cols: Any) -> Any:
    """h[rows][:, cols]."""
    found = np.empty((len(rows), len(cols)))
    for i in range(len(rows)):
        for j in range(len(cols)):
            found[i, j] = h[rows[i], cols[j]]
    return found


@compiled
def _add_product(c: Any, a: Any, b: Any, sign: Any) -> None:
    """Add sign a @ b to c, panel by panel of columns."""
    for start in range(0, b.shape[1], PANEL):
        end = min(start + PANEL, b.shape[1])
        for i in range(a.shape[0]):
            _add_rows(c[i, start:end], a[i], b, 0, start, sign)


@compiled
def _add_rows(target: Any, weights: Any, rows: Any, first: Any, start: Any, sign: Any) -> None:
    """Add sign sum_k weights[k] rows[first + k, start :] to target; eight rows per pass save stores of it."""
    w, end, count, k = weights, start + len(target), len(weights), 0
    while k + 8 <= count:
        p = first + k
        w0, w1, w2, w3 = sign * w[k], sign * w[k + 1], sign * w[k + 2], sign * w[k + 3]
        w4, w5, w6, w7 = sign * w[k + 4], sign * w[k + 5], sign * w[k + 6], sign * w[k + 7]
        r0, r1, r2 = rows[p, start:end], rows[p + 1, start:end], rows[p + 2, start:end]
        r3, r4, r5 = rows[p + 3, start:end], rows[p + 4, start:end], rows[p + 5, start:end]
        r6, r7 = rows[p + 6, start:end], rows[p + 7, start:end]
        for j in range(len(target)):
            half = (w0 * r0[j] + w1 * r1[j]) + (w2 * r2[j] + w3 * r3[j])
            target[j] += half + ((w4 * r4[j] + w5 * r5[j]) + (w6 * r6[j] + w7 * r7[j]))
        k += 8
    while k < count:
        w0 = sign * w[k]
        r0 = rows[first + k, start:end]
        for j in range(len(target)):
            target[j] += w0 * r0[j]
        k += 1


@compiled
def _solve(system: Any, x: Any) -> None:
    """Overwrite x with system^-1 x: factors with row exchanges, then substitution panel by panel."""
    size = len(system)
    for k in range(size):
        best = k + np.argmax(np.abs(system[k:, k]))
        if best != k:
            _exchange(system, k, best)
            _exchange(x, k, best)
        for i in range(k + 1, size):
            weight = system[i, k] / system[k, k]
            system[i, k] = weight
            _add_rows(system[i, k + 1 :], system[i, k : k + 1], system, k, k + 1, -1.0)
    for start in range(0, x.shape[1], PANEL):
        end = min(start + PANEL, x.shape[1])
        for i in range(size):
            _add_rows(x[i, start:end], system[i, :i], x, 0, start, -1.0)
        for i in range(size - 1, -1, -1):
            _add_rows(x[i, start:end], system[i, i + 1 :], x, i + 1, start, -1.0)
            pivot = system[i, i]
            for j in range(start, end):
                x[i, j] /= pivot


@inlined
def _exchange(h: Any, a: Any, b: Any) -> None:
    """Exchange two rows."""
    for j in range(h.shape[1]):
        h[a, j], h[b, j] = h[b, j], h[a, j]


@compiled
def gated_rows(conductance: Any, active: Any, segment: Any, found: Any) -> None:
    """`crossbar_kernels.ladder.gated` into found [inputs, cols]; the same operations, hence the same bits."""
    rows, cols = conductance.shape
    far, near, shunt = np.empty(cols), np.empty(cols), np.empty(cols)
    for n in range(len(active)):
        far[:], near[:], shunt[:] = 0.0, 0.0, np.inf
        for k in range(rows):
            if k > 0:
                for j in range(cols):
                    near[j] += 2.0 * segment
            if active[n, k]:
                _close(conductance[k], far, shunt, near)
        for j in range(cols):
            total = segment * (0.5 * (rows + 3)) + (shunt[j] + 0.25 * (far[j] + near[j]))
            found[n, j] = 1.0 / total


@compiled
def _close(g: Any, far: Any, shunt: Any, near: Any) -> None:
    """Connect one row of values: selects, no branches, so that the loop over columns vectorises."""
    for j in range(len(g)):
        old, end = shunt[j], near[j]
        first, change = old == np.inf, g[j] > 0.0
        shrink = 1.0 / (1.0 + g[j] * (end + old))
        more = far[j] + (g[j] * old) * (end * shrink)
        far[j] = (end if first else more) if change else far[j]
        shunt[j] = (1.0 / g[j] if first else old * shrink) if change else old
        near[j] = (0.0 if first else end * shrink) if change else end
