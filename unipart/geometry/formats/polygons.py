"""Triangles of simple polygons, convex or not."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAX_EAR_CORNERS = 4096
"""Clipping costs the square of the corners; a larger concave polygon becomes a fan."""


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
    for index in np.flatnonzero(concave) if size <= _MAX_EAR_CORNERS else ():
        corners[index] = _clip_ears(_flatten(points[index], normals[index]))
    return corners


def _flatten(points: NDArray[np.float64], normal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Drops the axis that the normal is closest to, so that the polygon stays counter-clockwise."""
    axis = int(np.argmax(np.abs(normal)))
    flat = points[:, [(axis + 1) % 3, (axis + 2) % 3]]
    return flat if normal[axis] > 0 else flat * (1, -1)


def _clip_ears(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Cuts a counter-clockwise polygon [N 2]; falls back to the next corner where no ear is found (self-crossing input)."""
    left = list(range(len(points)))
    sliver = 1e-7 * np.ptp(points, axis=0).max() ** 2  # a NumPy number: overflow is inf, not an error
    triangles = []
    while len(left) > 3:
        ears = (i for i in range(len(left)) if _is_ear(points, left, i, sliver))
        i = next(ears, 0)
        triangles.append((left[i - 1], left[i], left[(i + 1) % len(left)]))
        del left[i]
    return np.array([*triangles, tuple(left)], dtype=np.int64)


def _is_ear(points: NDArray[np.float64], left: list[int], i: int, sliver: float) -> bool:
    corners = [left[i - 1], left[i], left[(i + 1) % len(left)]]
    a, b, c = points[corners]
    if _turn(a, b, c) <= sliver:
        return False
    others = points[[k for k in left if k not in corners]]
    return not ((_turn(a, b, others) >= 0) & (_turn(b, c, others) >= 0) & (_turn(c, a, others) >= 0)).any()


def _turn(a: NDArray[np.float64], b: NDArray[np.float64], c: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns twice the signed area of (a, b, c) for points c [2] or [N 2]."""
    return (b[0] - a[0]) * (c[..., 1] - a[1]) - (b[1] - a[1]) * (c[..., 0] - a[0])
