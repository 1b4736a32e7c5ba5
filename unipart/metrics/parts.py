"""How well an object was taken apart: matched parts, and segmentation of surface points (model.md §6.2, §6.3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial import KDTree

from unipart.geometry.extract import vertex_components
from unipart.geometry.mesh import Mesh, concatenate
from unipart.metrics._voxels import pairwise_iou, voxelise
from unipart.metrics.align import turn
from unipart.metrics.shape import (
    MetricsConfig,
    draw_points,
    draw_seed,
    empty_metrics,
    is_empty,
    nearest_tree,
    normalisation,
    point_metrics,
)


def part_metrics(
    pred_parts: Sequence[Mesh], true_parts: Sequence[Mesh], config: MetricsConfig, rng: np.random.Generator, quarter_turns: int = 0
) -> dict[str, float]:
    """Compares the parts of an object with the true parts.

    Both objects are normalised as wholes (`config.normalise`), the prediction is turned, and parts are matched one to one so that
    the sum of the IoU64 is largest (Hungarian). A true part without a match scores as an empty prediction does.

    Args:
        pred_parts: predicted parts in one frame; empty meshes are left out.
        true_parts: true parts in one frame.
        config: the protocol; `part_points` points a part.
        rng: the only source of randomness.
        quarter_turns: how often the prediction is turned by 90 degrees about y (``rotation`` of `best_rotation` / 90).

    Returns:
        ``part_<metric>`` for every metric of §6.2, mean over the true parts; ``part_count_error`` (predicted - true, absolute);
        ``part_scale_error`` (|predicted / true - 1| of the longest side of the box, mean over the true parts; 1 without a match);
        ``part_overlap`` (volume that predicted parts share, as a share of their union); ``part_watertight`` (share of predicted
        parts without a leak); ``part_floaters`` (connected components beyond the first, mean per predicted part).

    Raises:
        ValueError: there is no true part with area.
    """
    seed = draw_seed(rng)
    true_parts = [mesh for mesh in true_parts if not is_empty(mesh)]
    pred_parts = [mesh for mesh in pred_parts if not is_empty(mesh)]
    if not true_parts:
        raise ValueError("the true object has no part with area")
    report = {"part_count_error": float(abs(len(pred_parts) - len(true_parts)))}
    if not pred_parts:
        empty = {f"part_{name}": value for name, value in empty_metrics(config).items()}
        missing = {"part_overlap": 0.0, "part_watertight": 0.0, "part_floaters": 0.0, "part_scale_error": 1.0}
        return empty | report | missing
    predicted, true = _in_frame(pred_parts, config), _in_frame(true_parts, config)
    predicted = [Mesh(turn(mesh.vertices, quarter_turns), mesh.faces) for mesh in predicted]
    grids = [voxelise(mesh, config.iou_resolution) for mesh in predicted]
    true_grids = [voxelise(mesh, config.iou_resolution).filled for mesh in true]
    overlap = pairwise_iou(np.stack([grid.filled for grid in grids]), np.stack(true_grids))
    partner = _match(overlap)
    report["part_scale_error"] = _scale_error(predicted, true, partner)
    matched = _matched_scores(predicted, true, partner, overlap, config, seed)
    report |= {f"part_{name}": float(np.mean([scores[name] for scores in matched])) for name in matched[0]}
    depth = np.sum([grid.solid for grid in grids], axis=0)
    union = np.count_nonzero(depth)
    report["part_overlap"] = float(np.maximum(depth - 1, 0).sum() / union) if union else 0.0
    report["part_watertight"] = float(np.mean([not grid.leaky for grid in grids]))
    report["part_floaters"] = float(np.mean([vertex_components(mesh).max() for mesh in pred_parts]))
    return report


def _in_frame(parts: Sequence[Mesh], config: MetricsConfig) -> list[Mesh]:
    frame = normalisation(concatenate(parts), config)
    return [mesh.transformed(frame) for mesh in parts]


def _match(overlap: NDArray[np.float64]) -> dict[int, int]:
    """Returns the predicted part of each true part that has one."""
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    return dict(zip(columns.tolist(), rows.tolist(), strict=True))


def _scale_error(predicted: Sequence[Mesh], true: Sequence[Mesh], partner: dict[int, int]) -> float:
    """How much too large or too small parts are, wherever they are."""
    errors = [abs(_longest_side(predicted[row]) / _longest_side(true[column]) - 1) for column, row in partner.items()]
    return float(np.mean(errors + [1.0] * (len(true) - len(partner))))


def _longest_side(mesh: Mesh) -> float:
    return float(np.ptp(mesh.vertices, axis=0).max())


def _matched_scores(
    predicted: Sequence[Mesh],
    true: Sequence[Mesh],
    partner: dict[int, int],
    overlap: NDArray[np.float64],
    config: MetricsConfig,
    seed: int,
) -> list[dict[str, float]]:
    """Scores of every true part [M] with the predicted part that the matching gives it."""
    count = min(config.part_points, config.num_points)
    scores = []
    for index, mesh in enumerate(true):
        if index not in partner:
            scores.append(empty_metrics(config))
            continue
        one, other = (draw_points(part, count, seed) for part in (predicted[partner[index]], mesh))
        points = point_metrics(nearest_tree(other).query(one)[0], nearest_tree(one).query(other)[0], config.thresholds)
        scores.append({**points, "iou64": float(overlap[partner[index], index])})
    return scores


@dataclass(frozen=True)
class MaskIous:
    """IoU of every true mask of an object with the predicted parts.

    Attributes:
        best: IoU with the predicted part that covers it best [G].
        matched: IoU with its partner in a one-to-one matching, 0 without one [G].
    """

    best: NDArray[np.float64]
    matched: NDArray[np.float64]


def mask_ious(predicted: NDArray[Any], truth: NDArray[Any]) -> MaskIous:
    """Compares two labellings of the same points.

    Args:
        predicted: label per point [P]; negative means no part.
        truth: label per point [P]; negative means no part.

    Raises:
        ValueError: the labellings differ in length, or no point has a true label.
    """
    if predicted.shape != truth.shape or predicted.ndim != 1:
        raise ValueError(f"labels must be two arrays [P] of one length, got {predicted.shape} and {truth.shape}")
    masks, guesses = np.unique(truth[truth >= 0]), np.unique(predicted[predicted >= 0])
    if len(masks) == 0:
        raise ValueError("no point has a true label")
    if len(guesses) == 0:
        return MaskIous(np.zeros(len(masks)), np.zeros(len(masks)))
    overlap = pairwise_iou(predicted[None] == guesses[:, None], truth[None] == masks[:, None])
    matched = np.zeros(len(masks))
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    matched[columns] = overlap[rows, columns]
    return MaskIous(overlap.max(axis=0), matched)


def pool_masks(objects: Sequence[MaskIous]) -> dict[str, float]:
    """Averages masks over objects.

    Returns:
        ``miou_best``: mean over the masks of an object, then over objects; ``miou_masks``: mean over all masks of all objects, the
        headline; ``miou_hungarian``: as miou_best with one-to-one matching.

    Raises:
        ValueError: there are no objects.
    """
    if not objects:
        raise ValueError("no object to average over")
    return {
        "miou_best": float(np.mean([one.best.mean() for one in objects])),
        "miou_masks": float(np.concatenate([one.best for one in objects]).mean()),
        "miou_hungarian": float(np.mean([one.matched.mean() for one in objects])),
    }


def segmentation_iou(predicted: NDArray[Any], truth: NDArray[Any]) -> dict[str, float]:
    """Scores the labelling of one object's points [P]; pool several objects with `mask_ious` and `pool_masks`."""
    return pool_masks([mask_ious(predicted, truth)])


def nearest_labels(points: NDArray[Any], anchors: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    """Gives each point [P 3] the label of its nearest anchor [L 3]: from latents to the points that are scored (§6.3)."""
    return labels[KDTree(anchors).query(points)[1]]
