"""Ear clipping of polygons in the plane."""

import numpy as np

from unipart.geometry._bits import compiled


@compiled
def clip_ears(points, sliver):
    """Cuts a counter-clockwise polygon [N 2] into triangles [N-2 3]: ears of which twice the area exceeds `sliver`.

    The search goes on where the last ear was; where there is none left (self-crossing input) the corner there is cut off.
    """
    size = len(points)
    before, after = np.arange(-1, size - 1), np.arange(1, size + 1)
    before[0], after[-1] = size - 1, 0
    triangles = np.zeros((size - 2, 3), dtype=np.int64)
    corner = 0
    for made in range(size - 2):
        tried = 0
        while tried < size - made and not _is_ear(points, before[corner], corner, after, sliver):
            corner = after[corner]
            tried += 1
        low, high = before[corner], after[corner]
        triangles[made] = low, corner, high
        after[low], before[high] = high, low
        corner = high
    return triangles


@compiled
def _is_ear(points, low, corner, after, sliver):
    """Tells whether the triangle of a corner and its neighbours turns left and holds no other corner."""
    a, b, c = points[low], points[corner], points[after[corner]]
    if not _turn(a, b, c) > sliver:
        return False
    other = after[after[corner]]
    while other != low:
        p = points[other]
        if _turn(a, b, p) >= 0 and _turn(b, c, p) >= 0 and _turn(c, a, p) >= 0:
            return False
        other = after[other]
    return True


@compiled
def _turn(a, b, c):
    """Returns twice the signed area of a triangle."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
