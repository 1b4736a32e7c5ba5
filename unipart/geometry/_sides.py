"""Which side of a point on a closed surface is inside: the signed crossings of a ray along x, counted exactly.

Unlike `_scan`, which knows the numbers at grid corners only, this answers anywhere, for a few thousand points.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unipart.geometry._bits import compiled

_MOST_BINS = 256
"""Along y and along z. A face is looked at by the rays that start in its bins only."""
_MOST_ENTRIES = 1 << 21
"""Bins are made larger, down to a single one, until large faces have no more entries than that (or one each)."""


class _Bins(NamedTuple):
    """The faces seen along x.

    Attributes:
        low: least y and z [2].
        scale: bins per unit of y and of z [2].
        per_axis: bins along y and along z.
        start: bin z per_axis + y has the entries start[b] to start[b+1] of `face`.
        face: [K].
    """

    low: NDArray[np.float64]
    scale: NDArray[np.float64]
    per_axis: int
    start: NDArray[np.int64]
    face: NDArray[np.int32]


def count_crossings(vertices: NDArray[Any], faces: NDArray[Any], points: NDArray[Any]) -> NDArray[np.int32]:
    """Returns the winding number [Q] of a closed surface (vertices [V 3], faces [F 3]) at points [Q 3] that are not on it."""
    # Copies: a kernel would compile again for arrays that are read-only or strided.
    corners = np.array(vertices, dtype=np.float64, order="C")
    triangles = np.array(faces, dtype=np.int64, order="C")
    queries = np.array(points, dtype=np.float64, order="C")
    if len(triangles) == 0 or len(queries) == 0:
        return np.zeros(len(queries), np.int32)
    y, z = corners[triangles, 1], corners[triangles, 2]
    boxes = np.stack([y.min(axis=1), y.max(axis=1), z.min(axis=1), z.max(axis=1)], axis=1)
    return _count(corners, triangles, queries, _Bins(*_bin_faces(boxes)))


@compiled
def _bin(value, low, scale, count):
    return min(max(int((value - low) * scale), 0), count - 1)


@compiled
def _bins_of(box, low, scale, count):
    """Returns the first and last bin of a box along y, then along z."""
    return (
        _bin(box[0], low[0], scale[0], count),
        _bin(box[1], low[0], scale[0], count),
        _bin(box[2], low[1], scale[1], count),
        _bin(box[3], low[1], scale[1], count),
    )


@compiled
def _bin_faces(boxes):
    """Returns the fields of `_Bins`; boxes [F 4] are least and greatest y, then z."""
    low = np.array([boxes[:, 0].min(), boxes[:, 2].min()])
    extent = np.array([boxes[:, 1].max(), boxes[:, 3].max()]) - low
    count = _MOST_BINS
    while True:
        scale, entries = count / np.maximum(extent, 1e-300), 0
        for face in range(len(boxes)):
            first_y, last_y, first_z, last_z = _bins_of(boxes[face], low, scale, count)
            entries += (last_y - first_y + 1) * (last_z - first_z + 1)
        if count == 1 or entries <= _MOST_ENTRIES:
            break
        count //= 2
    start = np.zeros(count * count + 1, dtype=np.int64)
    binned = np.zeros(entries, dtype=np.int32)
    for filling in (False, True):  # counts first
        for face in range(len(boxes) - 1, -1, -1):
            first_y, last_y, first_z, last_z = _bins_of(boxes[face], low, scale, count)
            for at_z in range(first_z, last_z + 1):
                for at in range(at_z * count + first_y, at_z * count + last_y + 1):
                    if filling:
                        start[at] -= 1
                        binned[start[at]] = face
                    else:
                        start[at] += 1
        if not filling:
            start = np.cumsum(start)
    return low, scale, count, start, binned


@compiled
def _count(corners, faces, points, bins):
    result = np.zeros(len(points), dtype=np.int32)
    for q in range(len(points)):
        x, y, z = points[q]
        at = _bin(z, bins.low[1], bins.scale[1], bins.per_axis) * bins.per_axis + _bin(y, bins.low[0], bins.scale[0], bins.per_axis)
        for entry in range(bins.start[at], bins.start[at + 1]):
            face = bins.face[entry]
            a, b, c = corners[faces[face, 0]], corners[faces[face, 1]], corners[faces[face, 2]]
            # Each side is looked at from its lower end, so that both faces at it see the ray on the same side of it.
            inside = _passes(a, b, y, z) ^ _passes(b, c, y, z) ^ _passes(c, a, y, z)
            if not inside:
                continue
            uy, uz, vy, vz = b[1] - a[1], b[2] - a[2], c[1] - a[1], c[2] - a[2]
            area = uy * vz - uz * vy
            if area == 0:
                continue
            s, t = ((y - a[1]) * vz - (z - a[2]) * vy) / area, ((z - a[2]) * uy - (y - a[1]) * uz) / area
            if a[0] + s * (b[0] - a[0]) + t * (c[0] - a[0]) > x:
                result[q] += 1 if area > 0 else -1
    return result


@compiled
def _passes(a, b, y, z):
    """Tells whether the ray from (y, z) along y passes the side a - b of a face seen along x (ends belong to the upper half)."""
    if (a[2] <= z) == (b[2] <= z):
        return False
    if a[2] > b[2]:
        a, b = b, a
    return (y - a[1]) * (b[2] - a[2]) < (z - a[2]) * (b[1] - a[1])
