"""The winding number of an open surface from its boundary alone.

A surface and the caps that close its holes have an integer winding number together, and the crossings of `_scan` give it. That of
the surface itself is therefore the integer less the caps' own number: a sum of solid angles over as many triangles as there are
boundary edges, whatever the number of faces. It is exact, and defined on the faces too. Any caps will do; these are fans.
"""

import numpy as np
from numpy.typing import NDArray

from unipart.geometry._bits import compiled
from unipart.geometry._hash import edge_table, label_components

_BLOCK = 128
"""Points that share a pass over the faces. What a pass keeps for them lies in one array at fixed places: a compiler that had to
allow for overlapping arrays would not vectorise it."""
_REAL, _IMAGINARY, _TURNS, _X, _Y, _Z, _TO_A, _TO_B, _TO_C = (place * _BLOCK for place in range(9))

_FACES_IN_RANGE = 16
"""Factors of up to 1e11 (a cube of distances in voxels) that a product takes before it leaves the range of its type."""


def boundary_edges(faces: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the directed edges [B 2] that the faces [F 3] run along more often one way than the other, as often as they do."""
    edges = edge_table(faces)
    first = np.unique(edges.of_half_edge, return_index=True)[1]
    ends = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], axis=2).reshape(-1, 2)[first], axis=1)
    ends = np.where(edges.net[:, None] < 0, ends[:, ::-1], ends)
    return np.repeat(ends, np.abs(edges.net), axis=0)


def close_holes(vertices: NDArray[np.float64], boundary: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Returns a triangle [B 3] per boundary edge [B 2] of a surface, from the edge to the middle of its piece, and their vertices.

    A boundary leaves and enters each of its vertices equally often, so surface and triangles together have none.
    """
    used, ends = np.unique(boundary, return_inverse=True)
    points, ends = vertices[used], ends.reshape(-1, 2)
    piece, num_pieces = label_components(np.column_stack([ends, ends[:, :1]]), len(used))
    size = np.bincount(piece, minlength=num_pieces)
    apexes = np.stack([np.bincount(piece, points[ends[:, 0], axis], num_pieces) / size for axis in range(3)], axis=1)
    # Against the edge, so that it cancels the surface's own run along it.
    fans = np.column_stack([ends[:, ::-1], len(used) + piece.astype(np.int64)])
    return np.concatenate([points, apexes]), fans


@compiled
def winding_number(vertices, faces, points):
    """Returns the winding number of faces at points [Q 3], float64 [Q], by the solid angle of every face (van Oosterom 1983).

    Half a solid angle is the argument of a complex number, and a sum of angles that of a product: the only arc tangent is the last,
    with the full turns counted on the way. With the distances to the vertices at hand a face takes no root either.
    """
    result = np.zeros(len(points))
    squared_sides, normals = np.zeros((len(faces), 3)), np.zeros((len(faces), 4))
    for face in range(len(faces)):
        a, b, c = vertices[faces[face, 0]], vertices[faces[face, 1]], vertices[faces[face, 2]]
        ab, ac, bc = b - a, c - a, c - b
        squared_sides[face] = (ab * ab).sum(), (bc * bc).sum(), (ac * ac).sum()
        normal = np.cross(ab, ac)
        normals[face, :3], normals[face, 3] = normal, (normal * a).sum()
    distance = np.zeros((len(vertices), _BLOCK))
    lanes = np.zeros(9 * _BLOCK)
    for start in range(0, len(points), _BLOCK):
        count = min(_BLOCK, len(points) - start)
        for q in range(count):
            lanes[_X + q], lanes[_Y + q], lanes[_Z + q] = points[start + q]
        for v in range(len(vertices)):
            _distances(lanes, vertices[v], distance[v])
        lanes[_REAL : _REAL + _BLOCK] = 1.0
        lanes[_IMAGINARY : _TURNS + _BLOCK] = 0.0
        for face in range(len(faces)):
            for side in range(3):
                lanes[_TO_A + side * _BLOCK : _TO_A + (side + 1) * _BLOCK] = distance[faces[face, side]]
            _turn(lanes, squared_sides[face], normals[face])
            if face % _FACES_IN_RANGE == 0:
                _shorten(lanes)
        for q in range(count):
            result[start + q] = np.arctan2(lanes[_IMAGINARY + q], lanes[_REAL + q]) / (2 * np.pi) + lanes[_TURNS + q]
    return result


@compiled
def _distances(lanes, vertex, result):
    for q in range(_BLOCK):
        x, y, z = lanes[_X + q] - vertex[0], lanes[_Y + q] - vertex[1], lanes[_Z + q] - vertex[2]
        result[q] = np.sqrt(x * x + y * y + z * z)


@compiled
def _turn(lanes, squared_sides, normal):
    """Multiplies each point's product by the complex number of a face's half solid angle; without branches, to be vectorised."""
    nx, ny, nz, offset = normal[0], normal[1], normal[2], normal[3]
    ab, bc, ca = squared_sides[0], squared_sides[1], squared_sides[2]
    for q in range(_BLOCK):
        la, lb, lc = lanes[_TO_A + q], lanes[_TO_B + q], lanes[_TO_C + q]
        sine = offset - (nx * lanes[_X + q] + ny * lanes[_Y + q] + nz * lanes[_Z + q])
        aa, bb, cc = la * la, lb * lb, lc * lc
        # The products of the vectors to the corners, by the law of cosines.
        cosine = la * lb * lc + 0.5 * ((aa + bb - ab) * lc + (bb + cc - bc) * la + (cc + aa - ca) * lb)
        real, before = lanes[_REAL + q], lanes[_IMAGINARY + q]
        after = real * sine + before * cosine
        lanes[_REAL + q] = real * cosine - before * sine
        lanes[_IMAGINARY + q] = after
        forward = (before >= 0) & (sine >= 0) & (after < 0)
        backward = (before < 0) & (sine < 0) & (after >= 0)
        lanes[_TURNS + q] += np.float64(forward) - np.float64(backward)


@compiled
def _shorten(lanes):
    for q in range(_BLOCK):
        size = abs(lanes[_REAL + q]) + abs(lanes[_IMAGINARY + q])
        scale = 1.0 / size if size > 0 else 0.0
        lanes[_REAL + q] *= scale
        lanes[_IMAGINARY + q] *= scale
