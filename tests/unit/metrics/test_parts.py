"""Parts are matched, missing ones cost, segmentation scores follow their definitions."""

import numpy as np
import pytest

from unipart.geometry.mesh import Mesh, concatenate
from unipart.metrics.align import turn
from unipart.metrics.parts import mask_ious, nearest_labels, part_metrics, pool_masks, segmentation_iou
from unipart.metrics.shape import MetricsConfig
from unipart.rng import derive

FAST = MetricsConfig(num_points=2000, iou_resolution=32)


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


def table() -> list[Mesh]:
    return [box((1, 0.1, 0.6), (0, 0.5, 0)), box((0.1, 0.5, 0.1), (-0.8, 0, 0.3)), box((0.15, 0.5, 0.15), (0.7, 0, -0.4))]


def test_the_same_parts_in_another_order_are_perfect():
    scores = part_metrics(table()[::-1], table(), FAST, derive(0))
    assert scores["part_cd_l1_sum"] == 0
    assert scores["part_iou64"] == scores["part_f@.01"] == scores["part_watertight"] == 1
    assert scores["part_count_error"] == scores["part_floaters"] == 0


def test_a_part_of_the_wrong_size_shows_in_the_scale_error():
    true = table()
    shrunk = Mesh((true[1].vertices - true[1].vertices.mean(0)) * 0.9 + true[1].vertices.mean(0), true[1].faces)
    assert part_metrics(true, true, FAST, derive(0))["part_scale_error"] == 0
    assert part_metrics([true[0], shrunk, true[2]], true, FAST, derive(0))["part_scale_error"] == pytest.approx(0.1 / 3)


def test_a_missing_part_counts_as_empty():
    scores = part_metrics(table()[:2], [*table()[:2], table()[0]], FAST, derive(0))
    assert scores["part_count_error"] == 1
    assert scores["part_iou64"] == pytest.approx(2 / 3)
    assert scores["part_cd_l1_sum"] == pytest.approx(2 * np.sqrt(3) / 3, abs=1e-6)


def test_one_big_part_instead_of_three():
    scores = part_metrics([concatenate(table())], table(), FAST, derive(0))
    assert scores["part_count_error"] == 2
    assert scores["part_iou64"] < 0.5
    assert scores["part_floaters"] == 2


def test_the_prediction_is_turned_first():
    pieces = [Mesh(turn(mesh.vertices, 1), mesh.faces) for mesh in table()]
    assert part_metrics(pieces, table(), FAST, derive(0), quarter_turns=3)["part_iou64"] > 0.95
    assert part_metrics(pieces, table(), FAST, derive(0))["part_iou64"] < 0.7


def test_overlap_volume_and_leaks():
    half_shared = [box((0.5, 0.5, 0.5), (-0.25, 0, 0)), box((0.5, 0.5, 0.5), (0.25, 0, 0))]
    assert part_metrics(half_shared, half_shared, FAST, derive(0))["part_overlap"] == pytest.approx(1 / 3, abs=0.05)
    open_box = half_shared[0].select(np.arange(12) > 1)
    assert part_metrics([open_box, half_shared[1]], half_shared, FAST, derive(0))["part_watertight"] == 0.5


def test_no_predicted_part_has_every_name():
    full, empty = (part_metrics(pieces, table(), FAST, derive(0)) for pieces in (table(), []))
    assert set(full) == set(empty)
    assert empty["part_count_error"] == 3
    assert empty["part_iou64"] == 0
    with pytest.raises(ValueError, match="true object"):
        part_metrics(table(), [], FAST, derive(0))


def test_segmentation_by_hand():
    truth = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    merged = np.array([5, 5, 5, 5, 9, 9, 9, 9])
    scores = mask_ious(merged, truth)
    np.testing.assert_allclose(scores.best, [1, 0.5, 0.5])
    np.testing.assert_allclose(sorted(scores.matched), [0, 0.5, 1])
    assert segmentation_iou(merged, truth) == pytest.approx({"miou_best": 2 / 3, "miou_masks": 2 / 3, "miou_hungarian": 0.5})
    assert segmentation_iou(truth[::-1].copy() * 0 + truth, truth)["miou_best"] == 1


def test_negative_labels_are_no_part():
    truth = np.array([0, 0, 1, 1, -1, -1])
    np.testing.assert_allclose(mask_ious(np.array([3, 3, -1, -1, 3, 3]), truth).best, [0.5, 0])
    assert mask_ious(np.full(6, -1), truth).best.tolist() == [0, 0]
    with pytest.raises(ValueError, match="true label"):
        mask_ious(truth, np.full(6, -1))
    with pytest.raises(ValueError, match="one length"):
        mask_ious(truth, truth[:3])


def test_pooling_weighs_masks_or_objects():
    good = mask_ious(np.array([0, 1]), np.array([0, 1]))
    bad = mask_ious(np.full(6, -1), np.arange(6))
    pooled = pool_masks([good, bad])
    assert pooled["miou_best"] == 0.5
    assert pooled["miou_masks"] == 2 / 8
    with pytest.raises(ValueError, match="no object"):
        pool_masks([])


def test_labels_come_from_the_nearest_anchor():
    anchors = np.array([[0.0, 0, 0], [1, 0, 0]])
    labels = nearest_labels(np.array([[0.4, 1, 0], [0.6, 1, 0]]), anchors, np.array([7, 9]))
    assert labels.tolist() == [7, 9]
