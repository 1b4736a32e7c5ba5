"""Which grid corners are inside: winding numbers carried along the x lines by integer jumps.

The winding number of a closed surface is an integer that changes by one at every crossing, so the crossings of `_scan` give it.
The number of an open surface (Jacobson 2013) is any real; its rounding jumps at crossings too, and besides where the number passes
through a half-integer. Away from the triangles the number is harmonic, so these level sets ("membranes") start at the boundary of
the surface: the number is evaluated (`_caps`) at the corners next to boundary edges, and on along the membranes only.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unipart.geometry._bits import (
    compiled,
    corner_numbers,
    corner_positions,
    empty_bits,
    is_set,
    set_corners,
    set_range,
)
from unipart.geometry._caps import boundary_edges, close_holes, winding_number
from unipart.geometry._scan import Grid, Lines, find_crossings

_CLEARANCE = 0.05
"""Voxels that libigl's evaluation keeps from the faces: on a face its single precision is noise."""
_CAP_CLEARANCE = 1e-3
"""Voxels that ours keeps from the caps: more than the crossings are rounded by, so that both name the same side."""

_MOST_BOUNDARY_EDGES = 4096
"""With more, a sum over all of them is slower than libigl's fast winding number of the faces."""

_GUARD_CELLS = 32


class Membrane(NamedTuple):
    """The evaluated corners.

    Attributes:
        corner: corner numbers, ascending, int64 [Q].
        winding: winding number of the open components there, float32 [Q].
    """

    corner: NDArray[np.int64]
    winding: NDArray[np.float32]


class _Known(NamedTuple):
    """Hash table corner -> winding number; -1 marks a free slot."""

    corner: NDArray[np.int64]
    winding: NDArray[np.float32]
    filled: NDArray[np.int64]


def no_membrane() -> Membrane:
    """Returns a membrane without corners."""
    return Membrane(np.zeros(0, np.int64), np.zeros(0, np.float32))


@compiled
def fill_inside(x_lines, membrane, either_sign, num_cells, bits):
    """Sets the bits of the corners with a rounded winding number >= 1 (or <= -1 too, with `either_sign`).

    The number is 0 where a line starts, changes at every crossing, and is reset at every corner of the membrane.
    """
    n = num_cells + 1
    known = 0
    for row in range(n * n):
        c, end = x_lines.start[row], x_lines.start[row + 1]
        winding, since = 0, 0
        while True:
            crossing = int(np.ceil(x_lines.position[c])) if c < end else n
            reset = n
            if known < len(membrane.corner) and membrane.corner[known] < (row + 1) * n:
                reset = membrane.corner[known] - row * n
            until = max(min(crossing, reset, n), since)
            if until > since and (winding >= 1 or (either_sign and winding <= -1)):
                set_range(bits, row, since, until - 1)
            since = until
            if crossing <= reset and crossing < n:
                winding -= 1 if x_lines.code[c] & 1 else -1
                c += 1
            elif reset < n:
                winding = _rounded(membrane.winding[known])
                known += 1
            else:
                break


def find_membrane(
    vertices: NDArray[np.float64], faces: NDArray[np.int64], lines: tuple[Lines, Lines, Lines], grid: Grid, accuracy: float
) -> tuple[Membrane, int]:
    """Evaluates the winding number of an open surface at every corner next to its boundary and its membranes.

    Args:
        vertices: [V 3], mesh units.
        faces: the open components' faces [F 3].
        lines: crossings with these faces only.
        grid: the grid.
        accuracy: libigl's `accuracy_scale`: 2 keeps the error below 0.005. Surfaces of few boundary edges have no error.

    Returns:
        The evaluated corners, and the number of evaluations made (the coarse guard included).
    """
    boundary = boundary_edges(faces)
    if len(boundary) <= _MOST_BOUNDARY_EDGES:
        evaluate = _exact_winding(vertices, boundary, lines[0], grid)
    else:
        evaluate = _fast_winding(vertices, faces, lines, grid, accuracy)
    coarse = _coarse_corners(grid.num_cells)
    guard = _segments_with_membrane(coarse, evaluate(coarse), lines, grid.num_cells, _guard_stride(grid.num_cells))
    fresh = np.union1d(_boundary_corners(vertices, boundary, grid), guard)
    asked, known = empty_bits(grid.num_cells), _new_table(4 * len(fresh))
    set_corners(asked, grid.num_cells, fresh)
    num_queries = len(coarse)
    while len(fresh):
        num_queries += len(fresh)
        winding = evaluate(fresh)
        known = _store(known, fresh, winding)
        fresh = _follow_membranes(fresh, winding, known, asked, lines, grid.num_cells)
    used = np.flatnonzero(known.corner >= 0)
    order = used[np.argsort(known.corner[used])]
    return Membrane(known.corner[order], known.winding[order]), num_queries


def _exact_winding(
    vertices: NDArray[np.float64], boundary: NDArray[np.int64], x_lines: Lines, grid: Grid
) -> Callable[[NDArray[np.int64]], NDArray[np.float32]]:
    """Returns the function corner numbers [Q] -> winding numbers [Q] by crossings and caps."""
    capped, caps = close_holes(vertices, boundary)
    cap_lines = find_crossings(capped, caps, grid)
    capped = grid.to_voxels(capped)

    def evaluate(corners: NDArray[np.int64]) -> NDArray[np.float32]:
        together = _crossings_before(corners, x_lines, grid.num_cells) + _crossings_before(corners, cap_lines[0], grid.num_cells)
        points = _clear_of_faces(corners, cap_lines, grid.num_cells, np.float32(_CAP_CLEARANCE))
        return np.asarray(together - winding_number(capped, caps, points), dtype=np.float32)

    return evaluate


def _fast_winding(
    vertices: NDArray[np.float64], faces: NDArray[np.int64], lines: tuple[Lines, Lines, Lines], grid: Grid, accuracy: float
) -> Callable[[NDArray[np.int64]], NDArray[np.float32]]:
    """Returns the function corner numbers [Q] -> winding numbers [Q] by libigl's tree (Barill 2018)."""
    import igl

    tree = igl.FastWindingNumberBVH()
    tree.init(vertices, np.ascontiguousarray(faces), order=2)

    def evaluate(corners: NDArray[np.int64]) -> NDArray[np.float32]:
        points = grid.to_mesh(_clear_of_faces(corners, lines, grid.num_cells, np.float32(_CLEARANCE)))
        return np.asarray(tree.winding_number(points, accuracy), dtype=np.float32)

    return evaluate


def _boundary_corners(vertices: NDArray[np.float64], boundary: NDArray[np.int64], grid: Grid) -> NDArray[np.int64]:
    """Returns the 8 corners of every cell that a boundary edge passes through (walked in quarter-voxel steps)."""
    ends = grid.to_voxels(vertices)[boundary]
    steps = np.ceil(4 * np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1)).astype(np.int64) + 1
    edge = np.repeat(np.arange(len(ends)), steps + 1)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(steps + 1) - steps - 1, steps + 1)
    share = (step / steps[edge])[:, None]
    cells = np.floor(ends[edge, 0] * (1 - share) + ends[edge, 1] * share).astype(np.int64)
    cells = corner_positions(np.unique(corner_numbers(cells, grid.num_cells)), grid.num_cells)
    corners = cells[:, None] + np.indices((2, 2, 2)).reshape(3, 8).T
    return np.unique(corner_numbers(corners.reshape(-1, 3), grid.num_cells))


def _guard_stride(num_cells: int) -> int:
    return -(-num_cells // _GUARD_CELLS)


def _coarse_corners(num_cells: int) -> NDArray[np.int64]:
    """Returns every stride-th corner along each axis, about 33^3."""
    axis = np.arange(0, num_cells + 1, _guard_stride(num_cells))
    k, j, i = np.meshgrid(axis, axis, axis, indexing="ij")
    return corner_numbers(np.stack([i.ravel(), j.ravel(), k.ravel()], axis=1), num_cells)


@compiled
def _rounded(winding):
    return int(np.floor(winding + 0.5))


@compiled
def _line_of(position, axis, num_cells):
    """Returns the number of the line along `axis` through corner (i, j, k)."""
    return position[(axis + 2) % 3] * (num_cells + 1) + position[(axis + 1) % 3]


@compiled
def _position_of(corner, num_cells):
    n = num_cells + 1
    return corner % n, corner // n % n, corner // (n * n)


@compiled
def _jump(lines, line, low, high):
    """Returns how much the winding number changes between the corners low and high of a line."""
    jump = 0
    for c in range(lines.start[line], lines.start[line + 1]):
        if low < lines.position[c] <= high:
            jump -= 1 if lines.code[c] & 1 else -1
    return jump


@compiled
def _crossings_before(corners, x_lines, num_cells):
    """Returns the winding number at corners [Q] that the crossings of their x lines give, 0 where a line starts."""
    result = np.zeros(len(corners), dtype=np.int64)
    for q, corner in enumerate(corners):
        result[q] = _jump(x_lines, corner // (num_cells + 1), -np.inf, corner % (num_cells + 1))
    return result


@compiled
def _clear_of_faces(corners, lines, num_cells, clearance):
    """Returns the corners in voxels [Q 3], moved along their lines to `clearance` from a crossing (or the middle between two)."""
    points = np.zeros((len(corners), 3))
    for q, corner in enumerate(corners):
        position = _position_of(corner, num_cells)
        for axis in range(3):
            at = np.float32(position[axis])
            below, above = np.float32(-1e9), np.float32(1e9)
            line = _line_of(position, axis, num_cells)
            for c in range(lines[axis].start[line], lines[axis].start[line + 1]):
                crossing = lines[axis].position[c]
                if crossing <= at:
                    below = crossing
                elif crossing < above:
                    above = crossing
            middle = (below + above) / 2
            if at - below < above - at:
                points[q, axis] = max(at, min(below + clearance, middle))
            else:
                points[q, axis] = min(at, max(above - clearance, middle))
    return points


@compiled
def _segments_with_membrane(coarse, winding, lines, num_cells, stride):
    """Returns the corners between coarse neighbours whose rounded numbers differ by more than the crossings in between explain.

    The argument that every membrane starts at a boundary edge is no proof; a membrane that closes round several of them shows here.
    """
    n = num_cells + 1
    per_axis = num_cells // stride + 1
    hops = (1, per_axis, per_axis * per_axis)
    strides = (1, n, n * n)
    found = np.zeros(3 * len(coarse) * (stride + 1), dtype=np.int64)
    count = 0
    for q, corner in enumerate(coarse):
        position = _position_of(corner, num_cells)
        for axis in range(3):
            if position[axis] + stride > num_cells:
                continue
            jump = _jump(lines[axis], _line_of(position, axis, num_cells), position[axis], position[axis] + stride)
            if _rounded(winding[q + hops[axis]]) != _rounded(winding[q]) + jump:
                for step in range(stride + 1):
                    found[count] = corner + step * strides[axis]
                    count += 1
    return found[:count]


@compiled
def _new_table(least):
    size = 1024
    while size < least:
        size *= 2
    return _Known(np.full(size, -1, np.int64), np.full(size, np.nan, np.float32), np.zeros(1, np.int64))


@compiled
def _slot(known, corner):
    """Returns where a corner is, or the free slot where it belongs."""
    mask = len(known.corner) - 1
    # Eight neighbours along x stay together: they are looked up together.
    slot = (((corner >> 3) * 0x9E3779B97F4A7C1) >> 20 << 3 | (corner & 7)) & mask
    while known.corner[slot] != -1 and known.corner[slot] != corner:
        slot = (slot + 1) & mask
    return slot


@compiled
def _put(known, corner, winding):
    """Writes an entry; returns the table, a larger one when it was half full."""
    if 2 * known.filled[0] >= len(known.corner):
        larger = _new_table(4 * len(known.corner))
        for slot in range(len(known.corner)):
            if known.corner[slot] != -1:
                to = _slot(larger, known.corner[slot])
                larger.corner[to], larger.winding[to] = known.corner[slot], known.winding[slot]
        larger.filled[0] = known.filled[0]
        known = larger
    slot = _slot(known, corner)
    known.filled[0] += known.corner[slot] == -1
    known.corner[slot], known.winding[slot] = corner, winding
    return known


@compiled
def _store(known, corners, winding):
    for q in range(len(corners)):
        known = _put(known, corners[q], winding[q])
    return known


@compiled
def _follow_membranes(fresh, winding, known, asked, lines, num_cells):
    """Returns the corners to evaluate next, and sets their bits in `asked`.

    Where a fresh corner and an evaluated neighbour differ by more than the crossings explain, a membrane cuts the edge between
    them: the corners of the four cells round that edge follow.
    """
    n = num_cells + 1
    strides = (1, n, n * n)
    following = np.zeros(1024, dtype=np.int64)
    count = 0
    for number, corner in enumerate(fresh):
        position = _position_of(corner, num_cells)
        for axis in range(3):
            for side in range(2):
                low = position[axis] - 1 + side
                neighbour = corner + (2 * side - 1) * strides[axis]
                if low < 0 or low >= num_cells or not is_set(asked, num_cells, neighbour):
                    continue
                slot = _slot(known, neighbour)
                if known.corner[slot] == -1:
                    continue
                jump = _jump(lines[axis], _line_of(position, axis, num_cells), low, low + 1)
                if _rounded(known.winding[slot]) == _rounded(winding[number]) + (2 * side - 1) * jump:
                    continue
                if count + 18 > len(following):
                    following = np.concatenate((following, np.zeros_like(following)))
                count = _ask_round(min(corner, neighbour), axis, asked, num_cells, following, count)
    return following[:count]


@compiled
def _ask_round(lower, axis, asked, num_cells, following, count):
    """Lists the corners, not asked for yet, of the four cells round the edge from corner `lower` along `axis`."""
    n = num_cells + 1
    strides = (1, n, n * n)
    position = _position_of(lower, num_cells)
    across, up = (axis + 1) % 3, (axis + 2) % 3
    for da in range(-1, 2):
        for du in range(-1, 2):
            if not (0 <= position[across] + da <= num_cells and 0 <= position[up] + du <= num_cells):
                continue
            for along in range(2):
                corner = lower + along * strides[axis] + da * strides[across] + du * strides[up]
                if not is_set(asked, num_cells, corner):
                    set_range(asked, corner // n, corner % n, corner % n)
                    following[count] = corner
                    count += 1
    return count
