"""A triangle mesh prepared for closest-point search: an implicit 8-ary tree of boxes (geometry.md F); `_nearest` searches it.

The triangles are sorted along a Hilbert curve, so that every run of 8**k of them is compact in space; node i of a level then covers
the runs 8i..8i+7 of the level below and the tree needs no pointers.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unipart.geometry._bits import compiled
from unipart.geometry._hilbert import hilbert_order
from unipart.geometry.mesh import Mesh

FANOUT = 8
FAR = np.float32(1e18)
"""Bound of an empty child slot; its square still fits float32."""


class Tree(NamedTuple):
    """A mesh prepared for `find_nearest`; triangles are in the order of the curve.

    Attributes:
        corners: [F 3 3] float32.
        frames: per triangle a plane with its longest edge on the x axis [F 14] float32: corner a, unit vectors x and y, then in the
            plane b = (length, 0), c = (cx, cy) and 1 / the squared lengths of ac and bc.
        normals: unit face normals [F 3] float32.
        faces: vertex indices [F 3] int32.
        vertex_normals: angle-weighted sums of face normals [V 3] float64, not normalised (only their sign is used).
        source: index of each triangle in the mesh's own order [F] int64.
        boxes: per node, the bounds of its 8 children: low xyz, high xyz [G 6 8] float32; level 0 (children = triangles) first.
        level_starts: first node of every level, and the total [levels + 1] int64.
        longest: length of the longest edge.
    """

    corners: NDArray[np.float32]
    frames: NDArray[np.float32]
    normals: NDArray[np.float32]
    faces: NDArray[np.int32]
    vertex_normals: NDArray[np.float64]
    source: NDArray[np.int64]
    boxes: NDArray[np.float32]
    level_starts: NDArray[np.int64]
    longest: float


def build_tree(mesh: Mesh) -> Tree:
    """Sorts the triangles, describes each and stacks the levels of boxes; triangles without area are never found.

    Raises:
        ValueError: no triangle has an area.
    """
    # Copies: a kernel would compile again for arrays that are read-only or strided.
    vertices = np.array(mesh.vertices, dtype=np.float32, order="C")
    unsorted = np.array(mesh.faces, dtype=np.int32, order="C")
    source = hilbert_order(_centroids(vertices, unsorted))
    faces = unsorted[source]
    corners, normals, vertex_normals = _describe_faces(vertices, faces)
    if not normals.any():
        raise ValueError("a distance needs a mesh with faces that have an area")
    frames, longest = _plane_frames(corners)
    num_nodes = [-(-len(faces) // FANOUT)]
    while num_nodes[-1] > 1:
        num_nodes.append(-(-num_nodes[-1] // FANOUT))
    level_starts = np.cumsum([0, *num_nodes], dtype=np.int64)
    return Tree(
        corners=corners,
        frames=frames,
        normals=normals,
        faces=faces,
        vertex_normals=vertex_normals,
        source=source,
        boxes=_stack_boxes(corners, normals, level_starts),
        level_starts=level_starts,
        longest=longest,
    )


@compiled
def _centroids(vertices, faces):
    """Returns three times the centroid of every triangle [F 3]; only the order counts."""
    sums = np.zeros((len(faces), 3), np.float32)
    for f in range(len(faces)):
        for axis in range(3):
            sums[f, axis] = vertices[faces[f, 0], axis] + vertices[faces[f, 1], axis] + vertices[faces[f, 2], axis]
    return sums


@compiled
def _describe_faces(vertices, faces):
    """Returns `Tree.corners`, `normals` (0 where degenerate) and `vertex_normals` (Baerentzen and Aanaes 2005)."""
    corners = np.zeros((len(faces), 3, 3), np.float32)
    normals = np.zeros((len(faces), 3), np.float32)
    vertex_normals = np.zeros((len(vertices), 3), np.float64)
    for f in range(len(faces)):
        for i in range(3):
            for axis in range(3):
                corners[f, i, axis] = vertices[faces[f, i], axis]
        bx, by, bz = _edge(corners, f, 0, 1)
        cx, cy, cz = _edge(corners, f, 0, 2)
        nx, ny, nz = by * cz - bz * cy, bz * cx - bx * cz, bx * cy - by * cx
        twice_area = np.sqrt(nx * nx + ny * ny + nz * nz)
        if not twice_area > 0:
            continue
        nx, ny, nz = nx / twice_area, ny / twice_area, nz / twice_area
        normals[f, 0], normals[f, 1], normals[f, 2] = nx, ny, nz
        for i in range(3):
            ax, ay, az = _edge(corners, f, i, (i + 1) % 3)
            bx, by, bz = _edge(corners, f, i, (i + 2) % 3)
            angle = np.arctan2(twice_area, ax * bx + ay * by + az * bz)
            vertex_normals[faces[f, i], 0] += angle * nx
            vertex_normals[faces[f, i], 1] += angle * ny
            vertex_normals[faces[f, i], 2] += angle * nz
    return corners, normals, vertex_normals


@compiled
def _plane_frames(corners):
    """Returns `Tree.frames` and the longest edge; a degenerate triangle becomes a segment or a point."""
    frames = np.zeros((len(corners), 14), np.float32)
    longest = 0.0
    for f in range(len(corners)):
        first, most = 0, -1.0
        for i in range(3):
            x, y, z = _edge(corners, f, i, (i + 1) % 3)
            if x * x + y * y + z * z > most:
                first, most = i, x * x + y * y + z * z
        length = np.sqrt(most)
        longest = max(longest, length)
        ux, uy, uz = _edge(corners, f, first, (first + 1) % 3)
        if length > 0:
            ux, uy, uz = ux / length, uy / length, uz / length
        else:
            ux, uy, uz = 1.0, 0.0, 0.0
        vx, vy, vz = _edge(corners, f, first, (first + 2) % 3)
        cx = vx * ux + vy * uy + vz * uz
        vx, vy, vz = vx - cx * ux, vy - cx * uy, vz - cx * uz
        cy = height = np.sqrt(vx * vx + vy * vy + vz * vz)
        if not height > 1e-9 * length:
            vx, vy, vz = (0.0, uz, -uy) if abs(ux) < 0.6 else (-uy, ux, 0.0)
            cy, height = 0.0, np.sqrt(vx * vx + vy * vy + vz * vz)
        for axis in range(3):
            frames[f, axis] = corners[f, first, axis]
        frames[f, 3], frames[f, 4], frames[f, 5] = ux, uy, uz
        frames[f, 6], frames[f, 7], frames[f, 8] = vx / height, vy / height, vz / height
        frames[f, 9], frames[f, 10], frames[f, 11] = length, cx, cy
        frames[f, 12] = 1 / max(cx * cx + cy * cy, 1e-30)
        frames[f, 13] = 1 / max((cx - length) ** 2 + cy * cy, 1e-30)
    return frames, longest


@compiled
def _edge(corners, face, start, stop):
    """Returns the vector from one corner of a face to another, in double precision."""
    return (
        np.float64(corners[face, stop, 0]) - np.float64(corners[face, start, 0]),
        np.float64(corners[face, stop, 1]) - np.float64(corners[face, start, 1]),
        np.float64(corners[face, stop, 2]) - np.float64(corners[face, start, 2]),
    )


@compiled
def _stack_boxes(corners, normals, level_starts):
    """Returns `Tree.boxes`; an empty slot has low > high: far from every point, and neutral in the bounds of its parent."""
    boxes = np.zeros((level_starts[-1], 6, FANOUT), np.float32)
    boxes[:, :3], boxes[:, 3:] = FAR, -FAR
    for f in range(len(corners)):
        if normals[f, 0] == 0 and normals[f, 1] == 0 and normals[f, 2] == 0:
            continue
        node, slot = f // FANOUT, f % FANOUT
        for axis in range(3):
            a, b, c = corners[f, 0, axis], corners[f, 1, axis], corners[f, 2, axis]
            boxes[node, axis, slot] = min(a, b, c)
            boxes[node, 3 + axis, slot] = max(a, b, c)
    for level in range(1, len(level_starts) - 1):
        for child in range(level_starts[level - 1], level_starts[level]):
            index = child - level_starts[level - 1]
            node, slot = level_starts[level] + index // FANOUT, index % FANOUT
            for axis in range(3):
                boxes[node, axis, slot] = boxes[child, axis].min()
                boxes[node, 3 + axis, slot] = boxes[child, 3 + axis].max()
    return boxes
