"""Points in the order of a space-filling curve, so that neighbours follow each other (geometry.md F).

Hilbert's curve never jumps, unlike Morton's: runs of consecutive points are compact.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from unipart.geometry._bits import compiled

_BITS = 10
"""Bits per axis."""


def hilbert_order(points: NDArray[Any]) -> NDArray[np.int64]:
    """Returns the order [Q] of finite points [Q 3] along a 30-bit Hilbert curve through their bounding cube.

    Points in one cell keep their order: the result is the same on every machine.
    """
    if len(points) == 0:
        return np.zeros(0, np.int64)
    # The index in the low half makes every key unique: one fast sort.
    keyed = _keys(np.array(points, dtype=np.float32, order="C"))
    keyed.sort()
    keyed &= np.uint64(0xFFFFFFFF)
    return keyed.view(np.int64)


@compiled
def _keys(points):
    """Returns the curve's position (high half) and the index (low half) of every point [Q] (Skilling 2004).

    Without branches, so that it runs in vector lanes.
    """
    low, high = points[0].copy(), points[0].copy()
    for i in range(len(points)):
        for axis in range(3):
            low[axis] = min(low[axis], points[i, axis])
            high[axis] = max(high[axis], points[i, axis])
    scale = np.float32(((1 << _BITS) - 1) / max((high - low).max(), 1e-12))
    keyed = np.zeros(len(points), np.uint64)
    one = np.uint32(1)
    for i in range(len(points)):
        x = np.uint32((points[i, 0] - low[0]) * scale)
        y = np.uint32((points[i, 1] - low[1]) * scale)
        z = np.uint32((points[i, 2] - low[2]) * scale)
        for step in range(_BITS - 1):
            bit = np.uint32(_BITS - 1 - step)
            below = np.uint32((one << bit) - one)
            x ^= below & -((x >> bit) & one)
            x, y = _turn(x, y, bit, below)
            x, z = _turn(x, z, bit, below)
        y ^= x
        z ^= y
        flips = np.uint32(0)
        for step in range(_BITS - 1):
            bit = np.uint32(_BITS - 1 - step)
            flips ^= np.uint32((one << bit) - one) & -((z >> bit) & one)
        code = _spread(x ^ flips) << np.uint32(2) | _spread(y ^ flips) << one | _spread(z ^ flips)
        keyed[i] = np.uint64(code) << np.uint64(32) | np.uint64(i)
    return keyed


@numba.njit(cache=True, inline="always")
def _turn(x, other, bit, below):
    """Inverts the lower bits of x where `other` has the bit, else exchanges them."""
    one = np.uint32(1)
    invert = np.uint32(-((other >> bit) & one))
    exchange = (x ^ other) & below & ~invert
    return x ^ (below & invert) ^ exchange, other ^ exchange


@numba.njit(cache=True, inline="always")
def _spread(value):
    """Returns 10 bits with two zeros between neighbours."""
    value = (value | (value << np.uint32(16))) & np.uint32(0x030000FF)
    value = (value | (value << np.uint32(8))) & np.uint32(0x0300F00F)
    value = (value | (value << np.uint32(4))) & np.uint32(0x030C30C3)
    return (value | (value << np.uint32(2))) & np.uint32(0x09249249)
