"""Triangles of simple polygons, convex or not."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAX_EAR_CORNERS = 4096
"""Clipping costs the square of the corners; a larger concave polygon becomes a fan."""
_SLIVER = 1e-7
"""Share of the square of the extent that twice the area of an ear exceeds."""


def triangulate(vertices: NDArray[Any], polygons: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cuts polygons with the same number of corners into triangles.

    Convex ones become fans; the others lose one ear at a time. Winding is kept.

    Args:
        vertices: positions [V 3].
        polygons: vertex indices [P N], N >= 3.

    Returns:
        Positions of the triangles' corners in their polygon [P N-2 3].
    """
    count, size = polygons.shape
    fan = np.array([[0, i, i + 1] for i in range(1, size - 1)], dtype=np.int64)
    corners = np.tile(fan, (count, 1, 1))
    if size == 3:
        return corners
    points = vertices[polygons].astype(np.float64)
    ahead = np.roll(points, -1, axis=1)
    turns = np.cross(points - np.roll(points, 1, axis=1), ahead - points)
    normals = np.cross(points - points[:, :1], ahead - points[:, :1]).sum(axis=1)
    with np.errstate(invalid="ignore"):
        concave = ((turns * normals[:, None]).sum(axis=-1) < 0).any(axis=1)
    if size > _MAX_EAR_CORNERS or not concave.any():
        return corners

    from unipart.geometry._ears import clip_ears  # Numba takes long to import, and most files need none

    for index in np.flatnonzero(concave):
        flat = _flatten(points[index], normals[index])
        corners[index] = clip_ears(flat, _SLIVER * np.ptp(flat, axis=0).max() ** 2)
    return corners


def _flatten(points: NDArray[np.float64], normal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Drops the axis that the normal is closest to, so that the polygon stays counter-clockwise."""
    axis = int(np.argmax(np.abs(normal)))
    flat = points[:, [(axis + 1) % 3, (axis + 2) % 3]]
    return np.ascontiguousarray(flat if normal[axis] > 0 else flat * (1, -1))
