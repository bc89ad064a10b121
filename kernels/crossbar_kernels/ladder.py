"""Networks of resistances that crossbar wires form: the NumPy specification.

`transfer`: line i of a grid is driven at its first node through one segment, column j is drained at its last
node through one segment into 0; value [i, j] connects them. `gated`: two lines run along a column of values;
selected values connect them. The compiled twin (crossbar_kernels.ladder_numba) agrees to rounding for
`transfer` and in every bit for `gated`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def transfer(conductance: Array, row_segment: float, column_segment: float) -> Array:
    """Drained current [rows, cols] of each column per unit of drive on each row, by one dense solution.

    The cell currents c = G d, d = v_i - (R c), where R c adds the drops of every segment that cell currents
    share: min(j, j') + 1 row segments between cells of one row, rows - max(i, i') column segments between
    cells of one column. (1 + diag(G) R) c = G v holds for segments and values of 0 too. Order (rows cols)^3:
    for small arrays.
    """
    rows, cols = conductance.shape
    j, i = np.arange(cols), np.arange(rows)
    along_row = row_segment * (np.minimum.outer(j, j) + 1.0)
    along_column = column_segment * (rows - np.maximum.outer(i, i)).astype(np.float64)
    shared = np.kron(np.eye(rows), along_row) + np.kron(along_column, np.eye(cols))
    g = conductance.reshape(-1)
    drive = g[:, None] * np.repeat(np.eye(rows), cols, axis=0)
    currents = np.linalg.solve(np.eye(g.size) + g[:, None] * shared, drive).reshape(rows, cols, rows)
    return np.ascontiguousarray(currents.sum(axis=0).T)


def gated(conductance: Array, active: NDArray[np.bool_], segment: float) -> Array:
    """Drained current [inputs, cols] per unit of drive of columns with their `active` [inputs, rows] values.

    Supply line: driven before the first row, `segment` before every row. Sum line: `segment` after every row,
    into 0 after the last. Supply and sum current add up to the total I at every height, so the drops d across
    the pair obey d[k-1] - 2 d[k] + d[k+1] = 2 segment g[k] d[k]: one line of segments 2 `segment` with I/2
    fed in at both ends. Seen from its ends that line is a star (far, shunt, near), which every row changes by
    positive terms alone: 1/I = segment (rows + 3)/2 + shunt + (far + near)/4.
    """
    rows, cols = conductance.shape
    far, near = np.zeros((2, len(active), cols))
    shunt = np.full((len(active), cols), np.inf)
    with np.errstate(invalid="ignore", divide="ignore"):
        for k in range(rows):
            near = near + (2.0 * segment if k else 0.0)
            g = np.broadcast_to(conductance[k], near.shape)
            first = np.isinf(shunt)
            shrink = 1.0 / (1.0 + g * (near + shunt))
            more = far + (g * shunt) * (near * shrink)
            change = active[:, k, None] & (g > 0)
            far = np.where(change, np.where(first, near, more), far)
            shunt = np.where(change, np.where(first, 1.0 / g, shunt * shrink), shunt)
            near = np.where(change, np.where(first, 0.0, near * shrink), near)
    currents: Array = 1.0 / (segment * (0.5 * (rows + 3)) + (shunt + 0.25 * (far + near)))
    return currents
