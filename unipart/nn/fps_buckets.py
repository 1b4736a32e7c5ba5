"""Farthest point sampling over buckets of nearby points: the numba kernel of `unipart.nn.fps`.

A new sample can only shorten the distances of points nearer to it than they already are to the chosen set. So a bucket whose box is
farther from the new sample than its largest remaining distance is skipped whole, which is exact and skips nearly all of them.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

BUCKET_POINTS = 256
"""Aimed-at points per bucket."""

Array = NDArray[Any]


def make_buckets(points: NDArray[np.float32]) -> tuple[Array, Array]:
    """Sorts a cloud [C 3] into grid cells of about BUCKET_POINTS points.

    Returns:
        order: point indices [C] int64 grouped by bucket, ascending inside each.
        bounds: [num_buckets + 1] int64 first position of each bucket in `order`.
    """
    # On a surface, cells of a cubic grid fill with the square of their number per axis.
    cells = max(1, min(64, math.isqrt(len(points) // (2 * BUCKET_POINTS))))
    low = points.min(axis=0)
    extent = float((points.max(axis=0) - low).max())
    cell = np.minimum((points - low) * (cells / extent if extent > 0 else 0.0), cells - 1).astype(np.int64)
    key = (cell[:, 0] * cells + cell[:, 1]) * cells + cell[:, 2]
    order = np.argsort(key, kind="stable")
    sorted_key = key[order]
    first = np.flatnonzero(np.concatenate([[True], sorted_key[1:] != sorted_key[:-1]]))
    return order, np.append(first, len(points))


def sample_buckets(points: Array, order: Array, bounds: Array, count: int, start: int) -> Array:
    """Returns the chosen indices [count]; compiled by `unipart.nn.fps` (plain Python without it).

    Args:
        points: [C 3] float32.
        order: point indices grouped by bucket.
        bounds: first position of each bucket in `order`, and the end.
        count: how many points to choose.
        start: index of the first.
    """
    num_points, num_buckets = len(points), len(bounds) - 1
    xs, ys, zs = np.zeros(num_points, np.float32), np.zeros(num_points, np.float32), np.zeros(num_points, np.float32)
    low, high = np.zeros((num_buckets, 3), np.float32), np.zeros((num_buckets, 3), np.float32)
    nearest = np.full(num_points, np.inf, np.float32)
    farthest = np.full(num_buckets, np.inf, np.float32)
    farthest_at = np.zeros(num_buckets, np.int64)
    for bucket in range(num_buckets):
        for axis in range(3):
            low[bucket, axis], high[bucket, axis] = np.inf, -np.inf
        for i in range(bounds[bucket], bounds[bucket + 1]):
            xs[i], ys[i], zs[i] = points[order[i], 0], points[order[i], 1], points[order[i], 2]
            for axis in range(3):
                low[bucket, axis] = min(low[bucket, axis], points[order[i], axis])
                high[bucket, axis] = max(high[bucket, axis], points[order[i], axis])

    chosen = np.zeros(count, np.int64)
    chosen[0] = start
    for k in range(1, count):
        px, py, pz = points[chosen[k - 1], 0], points[chosen[k - 1], 1], points[chosen[k - 1], 2]
        best, best_at = np.float32(-1), num_points
        for bucket in range(num_buckets):
            gx = max(low[bucket, 0] - px, px - high[bucket, 0], np.float32(0))
            gy = max(low[bucket, 1] - py, py - high[bucket, 1], np.float32(0))
            gz = max(low[bucket, 2] - pz, pz - high[bucket, 2], np.float32(0))
            if gx * gx + gy * gy + gz * gz < farthest[bucket]:
                largest = np.float32(-1)
                for i in range(bounds[bucket], bounds[bucket + 1]):
                    dx, dy, dz = xs[i] - px, ys[i] - py, zs[i] - pz
                    nearest[i] = min(nearest[i], dx * dx + dy * dy + dz * dz)
                    largest = max(largest, nearest[i])
                at = bounds[bucket]
                while nearest[at] != largest:
                    at += 1
                farthest[bucket], farthest_at[bucket] = largest, order[at]
            if farthest[bucket] > best or (farthest[bucket] == best and farthest_at[bucket] < best_at):
                best, best_at = farthest[bucket], farthest_at[bucket]
        chosen[k] = best_at
    return chosen
