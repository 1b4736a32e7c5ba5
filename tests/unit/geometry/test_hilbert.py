"""The curve visits every cell, never jumps, and keeps neighbours together."""

import numpy as np
import pytest

from unipart.geometry._hilbert import hilbert_order
from unipart.rng import derive


def test_the_curve_goes_from_cell_to_neighbouring_cell():
    side = 16
    cells = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    # The last point stretches the bounding cube to 1024 cells, so that each of ours is one of the curve's.
    points = np.concatenate([cells * 64 + 32, [[0, 0, 0], [1023, 1023, 1023]]]).astype(np.float32)
    order = hilbert_order(points)
    order = order[order < len(cells)]
    assert (np.sort(order) == np.arange(len(cells))).all()
    assert (np.abs(np.diff(cells[order], axis=0)).sum(axis=1) == 1).all()


def test_neighbours_follow_each_other_and_equal_points_keep_their_order():
    points = derive(0).random((5000, 3)).astype(np.float32)
    order = hilbert_order(points)
    assert (np.sort(order) == np.arange(5000)).all()
    step = np.linalg.norm(np.diff(points[order], axis=0), axis=1).mean()
    assert step < 0.15 * np.linalg.norm(np.diff(points, axis=0), axis=1).mean()
    assert hilbert_order(np.zeros((3, 3), np.float32)).tolist() == [0, 1, 2]
    assert len(hilbert_order(np.zeros((0, 3)))) == 0


@pytest.mark.parametrize("offset", [-1e6, 0.0, 1e6])
def test_points_far_from_the_origin_are_ordered_too(offset):
    points = derive(1).random((100, 3)) + offset
    assert sorted(hilbert_order(points).tolist()) == list(range(100))
