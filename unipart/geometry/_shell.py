"""Sheets and blades thinner than a voxel: where the solid misses its own surface, a thin shell round the faces takes its place.

Lost crossings show where. A rod along an axis may run between the grid lines and be crossed by none: its sides tell where it is.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unipart.geometry._bits import (
    Bits,
    are_set,
    compiled,
    corner_positions,
    empty_bits,
    get_bit,
    list_corners,
    set_corners,
    set_range,
)
from unipart.geometry._scan import Grid, Lines

_SEED_REACH = 2
"""Cells round a lost crossing in which not one corner is inside: the solid is missing there."""
_SEED_SHARE = 0.25
"""Or: share of lost crossings in the surrounding blocks."""
_GROW = 3
"""Lost crossings within this many cells of a seed belong to the same sheet."""
_THIN_SHARE = 0.1
"""Share of lost crossings from which on a component with a seed is a sheet all over: a shell of parts of it would be ragged."""
_COINCIDENT = 0.02
"""Sheets this close (voxels) are one."""
_REACH_OF_SHEETS = 4.0
"""Voxels round a sheet in which a corner can belong to its shell."""
ROD_VOXELS = 6.0
"""A component longer than this of which the grid shows little or nothing is a rod or a blade; a smaller one is debris."""


class Shell(NamedTuple):
    """The corners near a thin sheet.

    Attributes:
        corner: corner numbers, ascending, int64 [Q].
        distance: to the nearest face of the sheet, in voxels, float32 [Q].
        face: that face, int32 [Q].
        solid: inside even without the shell, bool [Q].
    """

    corner: NDArray[np.int64]
    distance: NDArray[np.float32]
    face: NDArray[np.int32]
    solid: NDArray[np.bool_]


def no_shell() -> Shell:
    """Returns a shell without corners."""
    return Shell(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.int32), np.zeros(0, np.bool_))


def count_lost(lines: tuple[Lines, Lines, Lines], bits: Bits, num_cells: int) -> int:
    """Returns the number of crossings whose two neighbouring corners are both outside."""
    return int(_outer_crossings(lines, bits, num_cells)[2].sum())


def _outer_crossings(
    lines: tuple[Lines, Lines, Lines], bits: Bits, num_cells: int
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.bool_]]:
    """Returns position in voxels [K 3] and face [K] of the crossings with a corner outside beside them, and if both are [K]."""
    found = [_outer_on_axis(lines[axis], bits, axis, num_cells) for axis in range(3)]
    points, faces, is_lost = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return points, faces, is_lost


def add_shell(
    vertices: NDArray[np.float64],
    faces: NDArray[np.int64],
    lines: tuple[Lines, Lines, Lines],
    rank: NDArray[np.int32],
    bits: Bits,
    grid: Grid,
    width: float,
) -> tuple[Shell, int]:
    """Sets the bits within `width` voxels of the faces that the solid misses; solid regions are not thickened.

    Args:
        vertices: [V 3], mesh units.
        faces: [F 3].
        lines: the crossings of all faces.
        rank: of the connected component of every face [F]; where two coincide the shell belongs to the lower one.
        bits: inside bits, changed in place.
        grid: the grid.
        width: half thickness of the shell in voxels; from 0.5 on at least one corner of every crossed edge is inside.

    Returns:
        The shell, and the number of crossings that the solid loses.
    """
    n = grid.num_cells
    points, crossed, is_lost = _outer_crossings(lines, bits, n)
    num_lost = int(is_lost.sum())
    voxels = grid.to_voxels(vertices)
    uncrossed = _uncrossed_rods(voxels, faces, lines, rank)
    if len(uncrossed):
        cells, passing = _walk_sides(voxels, faces, uncrossed, empty_bits(n), n)
        points, crossed = np.concatenate([points, cells]), np.concatenate([crossed, passing])
        is_lost = np.concatenate([is_lost, ~_any_within(cells, 1, bits, n)])
    seed = np.zeros(len(points), dtype=np.bool_)
    seed[is_lost] = _seeds(points[is_lost], lines, bits, n)
    if not seed.any():
        return no_shell(), num_lost
    seed_cells = empty_bits(n)
    _mark_cells(points[seed], 0, 0, seed_cells, n)
    chosen = is_lost & _any_within(points, _GROW, seed_cells, n) | _of_thin_components(rank[crossed], is_lost, seed)
    points, sheet = points[chosen], np.unique(crossed[chosen])
    sheet = np.union1d(sheet, uncrossed[np.isin(rank[uncrossed], rank[sheet])])

    reach = int(np.ceil(width))
    core, surround = empty_bits(n), empty_bits(n)
    _mark_cells(points, 1 - reach, reach, core, n)
    _mark_cells(points, -reach, reach + 1, surround, n)
    corners = list_corners(surround, n)
    distance, nearest = _distance_to_sheets(voxels, faces[sheet], rank[sheet], corner_positions(corners, n))
    solid = are_set(bits, n, corners)
    set_corners(bits, n, corners[(distance < width) & are_set(core, n, corners)])
    return Shell(corners, distance.astype(np.float32), sheet[nearest].astype(np.int32), solid), num_lost


def component_extents(vertices: NDArray[np.float64], faces: NDArray[np.int64], component: NDArray[np.int32]) -> NDArray[np.float64]:
    """Returns the longest side of the bounding box of every component (per face [F]); 0 where it has no face."""
    extent = np.zeros(int(component.max(initial=-1)) + 1)
    for axis in range(3):
        low, high = np.full(len(extent), np.inf), np.full(len(extent), -np.inf)
        corners = vertices[faces, axis]
        np.minimum.at(low, component, corners.min(axis=1))
        np.maximum.at(high, component, corners.max(axis=1))
        extent = np.maximum(extent, high - low)
    return extent


def _uncrossed_rods(
    vertices: NDArray[np.float64], faces: NDArray[np.int64], lines: tuple[Lines, Lines, Lines], component: NDArray[np.int32]
) -> NDArray[np.int64]:
    """Returns the faces of long components (vertices in voxels) that no grid line crosses."""
    is_crossed = np.zeros(int(component.max(initial=-1)) + 1, dtype=np.bool_)
    for axis in lines:
        is_crossed[component[axis.code >> 1]] = True
    faces_left = np.flatnonzero(~is_crossed[component])
    own = component[faces_left]
    return faces_left[component_extents(vertices, faces[faces_left], own)[own] > ROD_VOXELS]


def _distance_to_sheets(
    vertices: NDArray[np.float64], faces: NDArray[np.int64], rank: NDArray[np.int32], points: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Returns the distance of points [Q 3] to the faces [F 3] and the nearest face, all in voxels.

    Sheets that coincide would make the nearest face a matter of rounding: the first in the order of the ranks counts as nearest.
    """
    import igl

    distance, nearest = np.full(len(points), np.inf), np.zeros(len(points), dtype=np.int64)
    for one in np.unique(rank):
        chosen = np.flatnonzero(rank == one)
        own = np.ascontiguousarray(faces[chosen])
        corners = vertices[own].reshape(-1, 3)
        low, high = corners.min(axis=0) - _REACH_OF_SHEETS, corners.max(axis=0) + _REACH_OF_SHEETS
        close = np.flatnonzero(((points >= low) & (points <= high)).all(axis=1))
        tree = igl.AABB()
        tree.init(vertices, own)
        squared, found, _ = tree.squared_distance(vertices, own, points[close].astype(np.float64))
        found_distance = np.sqrt(np.asarray(squared))
        nearer = found_distance < distance[close] - _COINCIDENT
        nearest[close[nearer]] = chosen[np.asarray(found, dtype=np.int64)[nearer]]
        distance[close] = np.minimum(distance[close], found_distance)
    return distance, nearest


def _seeds(points: NDArray[np.float32], lines: tuple[Lines, Lines, Lines], bits: Bits, num_cells: int) -> NDArray[np.bool_]:
    """Tells which lost crossings show a sheet, and not just a corner or an edge that the grid cut off."""
    from scipy.ndimage import uniform_filter

    if len(points) == 0:
        return np.zeros(0, dtype=np.bool_)
    blocks = np.zeros((num_cells // 4 + 1,) * 3, dtype=np.float32)
    lost_blocks = np.zeros_like(blocks)
    for axis in range(3):
        _count_in_blocks(lines[axis], axis, num_cells, blocks)
    i, j, k = np.clip(points.astype(np.int64), 0, num_cells).T // 4
    np.add.at(lost_blocks, (i, j, k), 1)
    for counts in (blocks, lost_blocks):
        uniform_filter(counts, 3, output=counts, mode="constant")
    return (lost_blocks[i, j, k] > _SEED_SHARE * blocks[i, j, k]) | ~_any_within(points, _SEED_REACH, bits, num_cells)


def _of_thin_components(component: NDArray[np.int32], is_lost: NDArray[np.bool_], seed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Tells which crossings belong to a component that is missing somewhere and thin all over."""
    crossings, lost = np.bincount(component), np.bincount(component, is_lost)
    is_thin = (lost > _THIN_SHARE * crossings) & (np.bincount(component, seed) > 0)
    return is_thin[component]


@compiled
def _point_on(line, position, axis, num_cells):
    """Returns (x, y, z) of a crossing in voxels (`_scan` says how lines are numbered)."""
    p, q = np.float32(line % (num_cells + 1)), np.float32(line // (num_cells + 1))
    if axis == 0:
        return position, p, q
    if axis == 1:
        return q, position, p
    return p, q, position


@compiled
def _corner_inside(bits, num_cells, i, j, k):
    return get_bit(bits, k * (num_cells + 1) + j, i)


@compiled
def _outer_on_axis(lines, bits, axis, num_cells):
    points = np.zeros((len(lines.code), 3), dtype=np.float32)
    faces = np.zeros(len(lines.code), dtype=np.int32)
    is_lost = np.zeros(len(lines.code), dtype=np.bool_)
    count = 0
    for line in range(len(lines.start) - 1):
        for c in range(lines.start[line], lines.start[line + 1]):
            x, y, z = _point_on(line, lines.position[c], axis, num_cells)
            i, j, k = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
            inside = _corner_inside(bits, num_cells, i, j, k)
            inside += _corner_inside(bits, num_cells, i + (axis == 0), j + (axis == 1), k + (axis == 2))
            if inside < 2:
                points[count] = x, y, z
                faces[count] = lines.code[c] >> 1
                is_lost[count] = inside == 0
                count += 1
    return points[:count].copy(), faces[:count].copy(), is_lost[:count].copy()


@compiled
def _walk_sides(vertices, faces, chosen, met, num_cells):
    """Returns the cells that the sides of the chosen faces run through [K 3], each once, and a face in each [K]."""
    cells, passing = np.zeros((1024, 3), np.float32), np.zeros(1024, np.int32)
    count = 0
    for face in chosen:
        for side in range(3):
            a, b = vertices[faces[face, side]], vertices[faces[face, (side + 1) % 3]]
            steps = int(2 * np.abs(b - a).max()) + 1
            for step in range(steps + 1):
                x, y, z = a + step / steps * (b - a)
                i, j, k = int(x), int(y), int(z)
                if _corner_inside(met, num_cells, i, j, k):
                    continue
                set_range(met, k * (num_cells + 1) + j, i, i)
                if count == len(passing):
                    cells, passing = np.concatenate((cells, cells)), np.concatenate((passing, passing))
                cells[count] = i, j, k
                passing[count] = face
                count += 1
    return cells[:count].copy(), passing[:count].copy()


@compiled
def _count_in_blocks(lines, axis, num_cells, blocks):
    """Adds every crossing to its block of 4^3 cells."""
    for line in range(len(lines.start) - 1):
        for c in range(lines.start[line], lines.start[line + 1]):
            x, y, z = _point_on(line, lines.position[c], axis, num_cells)
            blocks[int(x) >> 2, int(y) >> 2, int(z) >> 2] += 1


@compiled
def _any_within(points, reach, bits, num_cells):
    """Tells per point whether a set corner lies within `reach` cells of its cell."""
    found = np.zeros(len(points), dtype=np.bool_)
    for q in range(len(points)):
        i, j, k = int(points[q, 0]), int(points[q, 1]), int(points[q, 2])
        for z in range(max(0, k - reach + 1), min(num_cells, k + reach) + 1):
            for y in range(max(0, j - reach + 1), min(num_cells, j + reach) + 1):
                for x in range(max(0, i - reach + 1), min(num_cells, i + reach) + 1):
                    found[q] |= _corner_inside(bits, num_cells, x, y, z) == 1
    return found


@compiled
def _mark_cells(points, low, high, bits, num_cells):
    """Sets the corners low..high (relative to the point's cell, all axes) round every point."""
    for q in range(len(points)):
        i, j, k = int(points[q, 0]), int(points[q, 1]), int(points[q, 2])
        for z in range(max(0, k + low), min(num_cells, k + high) + 1):
            for y in range(max(0, j + low), min(num_cells, j + high) + 1):
                set_range(bits, z * (num_cells + 1) + y, max(0, i + low), min(num_cells, i + high))
