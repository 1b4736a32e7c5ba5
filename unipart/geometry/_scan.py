"""Exact scan conversion: where the grid lines of the three axes cross the triangles, and from which side.

Vertices are snapped to even integers and grid corners are odd ones (2^20 units apart), so a corner never lies on an axis-parallel
face and the integer edge functions have no rounding; a tie on a slanted edge goes to one of the two triangles by a top-left rule.
Each line therefore crosses a closed surface equally often inwards and outwards, always.

Axes are cyclic: a line along `axis` has the coordinates p = axis + 1 and q = axis + 2 (mod 3) and the number q (N+1) + p.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unipart.geometry._bits import compiled

_SHIFT = 20
_STEP = 1 << _SHIFT
MAX_CELLS = 1024
"""Products of two lattice coordinates fit 64 bits up to here."""


class Grid(NamedTuple):
    """A cube of cells.

    Attributes:
        num_cells: N, along each axis.
        cell: edge length of a cell, in mesh units.
        origin: position of corner (0, 0, 0) [3], in mesh units.
    """

    num_cells: int
    cell: float
    origin: NDArray[np.float64]

    def to_voxels(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Maps points [... 3] from mesh units to voxels."""
        return (points - self.origin) / self.cell

    def to_mesh(self, points: NDArray[np.number]) -> NDArray[np.float64]:
        """Maps points [... 3] from voxels to mesh units."""
        return np.asarray(points, dtype=np.float64) * self.cell + self.origin


class Lines(NamedTuple):
    """The crossings of all grid lines of one axis, in ascending order along every line.

    Attributes:
        start: line l owns the crossings start[l] to start[l+1], int64 [(N+1)^2 + 1].
        position: coordinate along the axis in voxels, float32 [K].
        code: 2 * face + (1 where the line leaves the solid there, else 0), int32 [K].
    """

    start: NDArray[np.int64]
    position: NDArray[np.float32]
    code: NDArray[np.int32]


def find_crossings(vertices: NDArray[np.float64], faces: NDArray[np.int64], grid: Grid) -> tuple[Lines, Lines, Lines]:
    """Returns the crossings of the x, y and z lines with the triangles (vertices [V 3] in mesh units, faces [F 3])."""
    lattice = 2 * np.rint(grid.to_voxels(vertices) * (_STEP // 2)).astype(np.int64)
    lines = [Lines(*_scan_axis(lattice, faces, axis, grid.num_cells)) for axis in range(3)]
    return lines[0], lines[1], lines[2]


@compiled
def select_lines(lines, chosen):
    """Returns the crossings with the faces where chosen [F] is set."""
    start = np.zeros_like(lines.start)
    keep = np.zeros(len(lines.code), dtype=np.bool_)
    for line in range(len(start) - 1):
        start[line + 1] = start[line]
        for c in range(lines.start[line], lines.start[line + 1]):
            keep[c] = chosen[lines.code[c] >> 1]
            start[line + 1] += keep[c]
    return Lines(start, lines.position[keep], lines.code[keep])


@compiled
def _scan_axis(lattice, faces, axis, num_cells):
    """Crosses every face with the lines of one axis; returns start, position and code of `Lines`."""
    p_axis, q_axis = (axis + 1) % 3, (axis + 2) % 3
    line, position, code = np.zeros(1024, np.int32), np.zeros(1024, np.float32), np.zeros(1024, np.int32)
    count = 0
    for face in range(len(faces)):
        a, b, c = lattice[faces[face, 0]], lattice[faces[face, 1]], lattice[faces[face, 2]]
        ap, aq, bp, bq, cp, cq = a[p_axis], a[q_axis], b[p_axis], b[q_axis], c[p_axis], c[q_axis]
        area = (bp - ap) * (cq - aq) - (bq - aq) * (cp - ap)
        if area == 0:
            continue
        # Seen along the axis a counter-clockwise face points with it, so the line leaves the solid.
        leaving = 1 if area > 0 else 0
        edges = (
            _edge_function(ap, aq, bp, bq, leaving),
            _edge_function(bp, bq, cp, cq, leaving),
            _edge_function(cp, cq, ap, aq, leaving),
        )
        along_b, along_c = np.float64(b[axis] - a[axis]), np.float64(c[axis] - a[axis])
        slope_p = (along_b * (cq - aq) - along_c * (bq - aq)) / area
        slope_q = (along_c * (bp - ap) - along_b * (cp - ap)) / area
        lowest, highest = min(a[axis], b[axis], c[axis]), max(a[axis], b[axis], c[axis])
        first, last = max(_corner_from(min(ap, bp, cp)), 0), min(_corner_to(max(ap, bp, cp)), num_cells)
        for row in range(max(_corner_from(min(aq, bq, cq)), 0), min(_corner_to(max(aq, bq, cq)), num_cells) + 1):
            q = (row << _SHIFT) + 1
            low, high = first, last
            for e in range(3):
                low, high = _clip(edges[e], q, low, high)
            if count + high - low >= len(line):
                line, position, code = _longer(line), _longer(position), _longer(code)
            for column in range(low, high + 1):
                height = a[axis] + slope_q * (q - aq) + slope_p * ((column << _SHIFT) + 1 - ap)
                line[count] = row * (num_cells + 1) + column
                position[count] = (min(max(height, lowest), highest) - 1) / _STEP
                code[count] = 2 * face + leaving
                count += 1
    return _sort_into_lines(line[:count], position, code, (num_cells + 1) ** 2)


@compiled
def _corner_from(value):
    """Returns the first corner at or above a lattice coordinate."""
    return (value - 2 + _STEP) >> _SHIFT


@compiled
def _corner_to(value):
    """Returns the last corner at or below a lattice coordinate."""
    return (value - 1) >> _SHIFT


@compiled
def _edge_function(ap, aq, bp, bq, counter_clockwise):
    """Returns (dp, dq, constant): the point (p, q) is on the inner side of edge a -> b where dp q - dq p + constant >= 0."""
    dp, dq = bp - ap, bq - aq
    if not counter_clockwise:
        dp, dq = -dp, -dq
    constant = dq * ap - dp * aq
    owns_ties = dq > 0 or (dq == 0 and dp < 0)
    return dp, dq, constant if owns_ties else constant - 1


@compiled
def _clip(edge, q, low, high):
    """Narrows the columns low..high of the corner row at q to the inner side of an edge."""
    dp, dq, constant = edge
    value = dp * q - dq + constant
    if dq > 0:
        high = min(high, value // (dq << _SHIFT))
    elif dq < 0:
        low = max(low, -(value // (-dq << _SHIFT)))
    elif value < 0:
        high = low - 1
    return low, high


@compiled
def _longer(array):
    """Returns a copy with room for the longest row more than twice the entries."""
    result = np.zeros(2 * len(array) + MAX_CELLS, dtype=array.dtype)
    result[: len(array)] = array
    return result


@compiled
def _sort_into_lines(line, position, code, num_lines):
    """Bins crossings by line, then sorts each line by position (few crossings each, so by insertion)."""
    start = np.zeros(num_lines + 1, dtype=np.int64)
    for c in range(len(line)):
        start[line[c] + 1] += 1
    for number in range(num_lines):
        start[number + 1] += start[number]
    end = start[:-1].copy()
    sorted_position = np.zeros(len(line), dtype=np.float32)
    sorted_code = np.zeros(len(line), dtype=np.int32)
    for c in range(len(line)):
        slot = end[line[c]]
        while slot > start[line[c]] and sorted_position[slot - 1] > position[c]:
            sorted_position[slot] = sorted_position[slot - 1]
            sorted_code[slot] = sorted_code[slot - 1]
            slot -= 1
        sorted_position[slot] = position[c]
        sorted_code[slot] = code[c]
        end[line[c]] += 1
    return start, sorted_position, sorted_code
