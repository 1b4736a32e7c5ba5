"""Gate 10, the rotation half."""

import numpy as np
import pytest

from unipart.geometry.mesh import Mesh, Similarity, concatenate
from unipart.metrics._voxels import voxelise
from unipart.metrics.align import best_rotation, turn
from unipart.metrics.shape import MetricsConfig
from unipart.rng import derive

FAST = MetricsConfig(num_points=3000)


def box(half, centre=(0.0, 0.0, 0.0)) -> Mesh:
    corners = np.array([[x, y, z] for x in (-1.0, 1) for y in (-1, 1) for z in (-1, 1)]) * half + np.array(centre)
    faces = [
        [0, 1, 3],
        [0, 3, 2],
        [4, 6, 7],
        [4, 7, 5],
        [0, 4, 5],
        [0, 5, 1],
        [2, 3, 7],
        [2, 7, 6],
        [0, 2, 6],
        [0, 6, 4],
        [1, 5, 7],
        [1, 7, 3],
    ]
    return Mesh(corners, np.array(faces))


def lopsided() -> Mesh:
    """An L with a nose: no symmetry about y."""
    return concatenate([box((0.9, 0.2, 0.2)), box((0.2, 0.2, 0.6), (0.7, 0, 0.6)), box((0.1, 0.4, 0.1), (-0.7, 0.4, 0.0))])


def turned(mesh: Mesh, quarter_turns: int) -> Mesh:
    return Mesh(turn(mesh.vertices, quarter_turns), mesh.faces)


def test_turn_is_a_rotation_about_y():
    np.testing.assert_allclose(turn(np.array([[1.0, 2.0, 0.0]]), 1), [[0, 2, -1]])
    points = derive(0).normal(size=(5, 3))
    np.testing.assert_allclose(turn(turn(points, 1), 3), points)
    np.testing.assert_allclose(turn(turn(points, 1), 1), turn(points, 2))


@pytest.mark.parametrize("quarter_turns", range(4))
def test_a_turned_moved_scaled_copy_scores_zero(quarter_turns):
    truth = lopsided()
    copy = turned(truth, quarter_turns).transformed(Similarity.of(0.3, (1.0, 2.0, 3.0)))
    scores = best_rotation(copy, truth, FAST, derive(0))
    assert scores["rotation"] == 90 * (-quarter_turns % 4)
    assert scores["cd_l1_sum"] < 1e-5
    assert scores["f@.01"] == 1
    assert scores["iou64"] > 0.98
    assert scores["best_per_metric:cd_l1_sum"] == scores["cd_l1_sum"]
    if quarter_turns:
        assert scores["rot0:cd_l1_sum"] > 0.05
        assert scores["rot0:iou64"] < 0.7
    else:
        assert scores["rot0:cd_l1_sum"] == scores["cd_l1_sum"]


def test_best_per_metric_is_never_worse():
    scores = best_rotation(box((0.9, 0.5, 0.4)), lopsided(), FAST, derive(0))
    names = [name for name in scores if f"best_per_metric:{name}" in scores]
    assert set(names) == {"cd_l1_sum", "cd_l2sq_sum", "cd_l1_mean", "f@.01", "f@.02", "f@.05", "f@.10", "iou64"}
    for name in names:
        best = scores[f"best_per_metric:{name}"]
        assert best <= scores[name] if name.startswith("cd_") else best >= scores[name]
        assert f"rot0:{name}" in scores


def test_turning_voxels_is_voxelising_the_turned_mesh():
    mesh = lopsided().transformed(Similarity.of(0.7, (0.05, 0.0, -0.2)))
    for quarter_turns in range(4):
        expected, found = voxelise(turned(mesh, quarter_turns), 24), voxelise(mesh, 24).turned(quarter_turns)
        assert (expected.solid != found.solid).mean() < 0.002


def test_empty_predictions_have_every_name():
    full = best_rotation(lopsided(), lopsided(), FAST, derive(0))
    empty = best_rotation(None, lopsided(), FAST, derive(0))
    assert set(full) == set(empty)
    assert empty["empty"] == 1
    assert empty["rot0:cd_l1_sum"] == empty["best_per_metric:cd_l1_sum"] == pytest.approx(2 * np.sqrt(3))
