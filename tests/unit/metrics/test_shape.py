"""Gate 10, the analytic half: known distances, known overlaps, empty predictions."""

import numpy as np
import pytest

from unipart.geometry.field import winding_number_reference
from unipart.geometry.mesh import Mesh, Similarity, concatenate
from unipart.metrics._voxels import iou, pairwise_iou, voxelise
from unipart.metrics.shape import MetricsConfig, point_metrics, shape_metrics
from unipart.rng import derive

FAST = MetricsConfig(num_points=4000)
EMPTY = Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64))


def box(half=(1.0, 1.0, 1.0), centre=(0.0, 0.0, 0.0)) -> Mesh:
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


def plane(y: float) -> Mesh:
    return Mesh(np.array([[-9.0, y, -9], [-9, y, 9], [9, y, 9], [9, y, -9]]), np.array([[0, 1, 2], [0, 2, 3]]))


def test_identical_meshes_are_perfect():
    scores = shape_metrics(box((0.8, 0.3, 0.5)), box((0.8, 0.3, 0.5)), FAST, derive(0))
    assert scores["cd_l1_sum"] == scores["cd_l2sq_sum"] == scores["cd_l1_mean"] == 0
    assert [scores[f"f@.{t}"] for t in ("01", "02", "05", "10")] == [1, 1, 1, 1]
    assert scores["iou64"] == 1
    assert scores["iou_fallback"] == scores["empty"] == 0


def test_scale_and_place_are_normalised_away_unless_asked():
    moved = box((0.8, 0.3, 0.5)).transformed(Similarity.of(3.0, (5.0, 1.0, 0.0)))
    assert shape_metrics(moved, box((0.8, 0.3, 0.5)), FAST, derive(0))["cd_l1_sum"] < 1e-6
    raw = shape_metrics(box((0.4, 0.4, 0.4)), box((0.8, 0.8, 0.8)), FAST.replace(normalise=False), derive(0))
    assert raw["cd_l1_sum"] > 0.5


def test_two_parallel_planes_match_the_closed_form():
    config = FAST.replace(normalise=False, num_points=40_000, thresholds=(0.5, 1.2))
    scores = shape_metrics(plane(1.0), plane(0.0), config, derive(0))
    assert scores["cd_l1_sum"] == pytest.approx(2, abs=0.02)
    assert scores["cd_l1_mean"] == pytest.approx(1, abs=0.01)
    assert scores["cd_l2sq_sum"] == pytest.approx(2, abs=0.04)
    assert scores["f@.50"] == 0
    assert scores["f@1.20"] == 1


def test_f_score_is_the_harmonic_mean_of_precision_and_recall():
    scores = point_metrics(np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.0, 1.0, 1.0, 1.0]), (0.05,))
    assert scores["f@.05"] == pytest.approx(2 * 0.5 * 0.25 / 0.75)
    assert scores["cd_l1_sum"] == pytest.approx(0.5 + 0.75)
    assert point_metrics(np.ones(3), np.ones(3), (0.05,))["f@.05"] == 0


@pytest.mark.parametrize("prediction", [None, EMPTY, Mesh(np.zeros((3, 3)), np.array([[0, 1, 2]]))])
def test_an_empty_prediction_has_the_worst_score_and_is_counted(prediction):
    scores = shape_metrics(prediction, box(), FAST, derive(0))
    assert scores["cd_l1_sum"] == pytest.approx(2 * np.sqrt(3))
    assert scores["f@.10"] == scores["iou64"] == 0
    assert scores["empty"] == 1
    assert set(scores) == set(shape_metrics(box(), box(), FAST, derive(0)))
    with pytest.raises(ValueError, match="true mesh"):
        shape_metrics(box(), EMPTY, FAST, derive(0))


def test_same_seed_same_scores():
    one, same, other = (shape_metrics(box((1, 0.5, 0.5)), box(), FAST, derive(seed))["cd_l1_sum"] for seed in (0, 0, 1))
    assert one == same
    assert one != other
    assert one == pytest.approx(other, rel=0.05)


def test_iou_of_boxes_matches_their_volumes():
    one, other = (voxelise(box((0.5, 0.5, 0.5), (x, 0, 0)), 64) for x in (0.0, 0.5))
    assert one.solid.sum() == 32**3
    assert iou(one.solid, other.solid) == pytest.approx(1 / 3, abs=0.01)
    assert iou(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) == 0
    pairs = pairwise_iou(np.stack([one.solid, other.solid]), np.stack([one.solid]))
    np.testing.assert_allclose(pairs[:, 0], [1, 1 / 3], atol=0.01)


def jagged(seed: int) -> Mesh:
    """A closed, random, self-crossing body: a box with every vertex moved."""
    rng = derive(seed, "jagged")
    return Mesh(box().vertices * rng.uniform(0.3, 0.95, (8, 1)) + rng.uniform(-0.04, 0.04, (8, 3)), box().faces)


@pytest.mark.parametrize("seed", range(4))
def test_voxels_equal_the_winding_number(seed):
    mesh = concatenate([jagged(seed), jagged(seed + 10).transformed(Similarity.of(0.7, (0.2, 0.1, 0)))])
    resolution = 12
    centres = (np.arange(resolution) + 0.5) * 2 / resolution - 1
    queries = np.stack(np.meshgrid(centres, centres, centres, indexing="ij"), axis=-1).reshape(-1, 3)
    expected = np.abs(winding_number_reference(mesh, queries)) > 0.5
    voxels = voxelise(mesh, resolution)
    assert not voxels.leaky
    assert (voxels.solid.ravel() != expected).mean() < 0.002, "all but centres right on the surface"


def test_closed_overlapping_and_unwelded_parts_are_one_solid():
    parts = [box((0.5, 0.5, 0.5)), box((0.5, 0.2, 0.2), (0.4, 0, 0))]
    voxels = voxelise(concatenate(parts), 32)
    assert (voxels.solid == voxelise(parts[0], 32).solid | voxelise(parts[1], 32).solid).all()
    soup = Mesh(parts[0].vertices[parts[0].faces].reshape(-1, 3), np.arange(36).reshape(-1, 3))
    assert (voxelise(soup, 32).solid == voxelise(parts[0], 32).solid).all()
    assert not voxelise(soup, 32).leaky
    inverted = Mesh(parts[0].vertices, parts[0].faces[:, ::-1])
    assert (voxelise(inverted, 32).solid == voxelise(parts[0], 32).solid).all()


def test_open_boxes_are_filled_and_reported():
    closed = box((0.6, 0.6, 0.6))
    without_lid = closed.select(np.arange(12) // 2 != 3)
    voxels = voxelise(without_lid, 32)
    assert voxels.leaky
    assert iou(voxels.filled, voxelise(closed, 32).filled) > 0.95
    assert shape_metrics(without_lid, closed, FAST, derive(0))["iou_fallback"] == 1


def test_thin_sheets_count_as_filled():
    voxels = voxelise(box((0.8, 0.001, 0.8)), 64)
    assert voxels.filled.any(axis=1).mean() > 0.6
    tilted = Mesh(
        np.array([[-0.9, -0.7, -0.9], [-0.9, 0.1, 0.9], [0.9, 0.7, 0.9], [0.9, -0.1, -0.9]]), np.array([[0, 1, 2], [0, 2, 3]])
    )
    assert voxelise(tilted, 32).filled.any(axis=1).mean() > 0.7
