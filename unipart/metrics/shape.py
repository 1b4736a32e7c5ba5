"""How close two meshes are: Chamfer distance, F-score, IoU of filled voxels (model.md §6.2)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.spatial import KDTree

from unipart.config import Config
from unipart.geometry._hilbert import hilbert_order
from unipart.geometry.mesh import Mesh, Similarity
from unipart.geometry.surface import sample_surface
from unipart.metrics._voxels import Voxels, iou, voxelise
from unipart.rng import derive

EMPTY_DISTANCE = 2 * np.sqrt(3)
"""Chamfer value of an empty prediction: the diagonal of the box [-1, 1]^3, so that means stay meaningful."""


class MetricsConfig(Config):
    """The protocol of an evaluation."""

    num_points: int = Field(default=204_800, ge=1)
    """Area-uniform points per mesh."""
    thresholds: tuple[float, ...] = (0.01, 0.02, 0.05, 0.10)
    """Distances of the F-scores, in a box of half size 1."""
    iou_resolution: int = 64
    """Voxels a side over [-1, 1]; the metric is called iou64 whatever it is."""
    part_points: int = 10_000
    """Points per part of the part-level metrics (at most `num_points`)."""
    normalise: bool = True
    """Centre each mesh's bounding box and scale its max half extent to 1; off compares the meshes as they are."""
    seed: int = 0
    """Where the random points come from."""


@dataclass(frozen=True)
class Measured:
    """A mesh, measured once for any number of comparisons.

    Attributes:
        points: area-uniform points [P 3].
        tree: KD-tree of the points.
        voxels: filled voxels over [-1, 1].
    """

    points: NDArray[np.float64]
    tree: KDTree
    voxels: Voxels


def is_empty(mesh: Mesh | None) -> bool:
    """Says whether there is nothing to measure: no mesh, no faces, or no area."""
    return mesh is None or len(mesh.faces) == 0 or not mesh.face_areas().sum() > 0


def draw_points(mesh: Mesh, count: int, seed: int) -> NDArray[np.float64]:
    """Draws area-uniform points [P 3], ordered along a space-filling curve.

    The same mesh and seed give the same points: identical meshes are at distance 0, not at the distance of two random draws.
    """
    points = sample_surface(mesh, count, derive(seed, "metric points")).points
    # In this order a nearest-neighbour search starts where the last one ended in the cache: three times as fast.
    return points[hilbert_order(points)].astype(np.float64)


def measure(mesh: Mesh, config: MetricsConfig, seed: int) -> Measured:
    """Samples and voxelises a mesh that is in the evaluation frame."""
    points = draw_points(mesh, config.num_points, seed)
    return Measured(points, nearest_tree(points), voxelise(mesh, config.iou_resolution))


def nearest_tree(points: NDArray[np.float64]) -> KDTree:
    """Builds the KD-tree of points [P 3] with the leaf size that is best when prediction and truth are far apart."""
    return KDTree(points, leafsize=32)


def normalisation(mesh: Mesh, config: MetricsConfig) -> Similarity:
    """Returns the map to the evaluation frame: bounding box centred at 0, max half extent 1 (or the identity)."""
    if not config.normalise:
        return Similarity.identity()
    return Similarity.to_unit_box(mesh.vertices[np.unique(mesh.faces)], half_extent=1.0)


def point_metrics(to_truth: NDArray[Any], to_prediction: NDArray[Any], thresholds: Iterable[float]) -> dict[str, float]:
    """Computes Chamfer distances and F-scores.

    Args:
        to_truth: distance of every predicted point to the truth [P].
        to_prediction: distance of every true point to the prediction [T].
        thresholds: distances of the F-scores.

    Returns:
        ``cd_l1_sum`` (unsquared, both directions added: PartCrafter and UniPart v1), ``cd_l1_mean`` (half of it),
        ``cd_l2sq_sum`` (squared, both directions added: UniPart v3), ``f@.01`` ...
    """
    l1 = float(to_truth.mean() + to_prediction.mean())
    scores = {"cd_l1_sum": l1, "cd_l2sq_sum": float((to_truth**2).mean() + (to_prediction**2).mean()), "cd_l1_mean": l1 / 2}
    for threshold in thresholds:
        precision, recall = float((to_truth < threshold).mean()), float((to_prediction < threshold).mean())
        total = precision + recall
        scores[f_name(threshold)] = 2 * precision * recall / total if total > 0 else 0.0
    return scores


def compare(prediction: Measured, truth: Measured, config: MetricsConfig) -> dict[str, float]:
    """Returns the metrics of §6.2 of two measured meshes in one frame."""
    to_truth, to_prediction = truth.tree.query(prediction.points)[0], prediction.tree.query(truth.points)[0]
    overlap = iou(prediction.voxels.filled, truth.voxels.filled)
    return {**point_metrics(to_truth, to_prediction, config.thresholds), "iou64": overlap}


def empty_metrics(config: MetricsConfig) -> dict[str, float]:
    """Returns the scores of an empty prediction: every Chamfer value 2 sqrt(3), F and IoU 0."""
    distances = dict.fromkeys(("cd_l1_sum", "cd_l2sq_sum", "cd_l1_mean"), float(EMPTY_DISTANCE))
    return {**distances, **{f_name(threshold): 0.0 for threshold in config.thresholds}, "iou64": 0.0}


def shape_metrics(prediction: Mesh | None, truth: Mesh, config: MetricsConfig, rng: np.random.Generator) -> dict[str, float]:
    """Compares two meshes as they stand, each normalised on its own (`config.normalise`).

    Args:
        prediction: a mesh, or None when nothing was generated.
        truth: the true mesh.
        config: the protocol.
        rng: the only source of randomness.

    Returns:
        The metrics of `point_metrics`, ``iou64``, ``iou_fallback`` (1 where a mesh was not closed and its winding numbers are
        estimates) and ``empty`` (1 for an empty prediction).

    Raises:
        ValueError: the truth has no area.
    """
    seed = draw_seed(rng)
    if is_empty(truth):
        raise ValueError("the true mesh has no area")
    if prediction is None or is_empty(prediction):
        return {**empty_metrics(config), "iou_fallback": 0.0, "empty": 1.0}
    measured, true = (measure(mesh.transformed(normalisation(mesh, config)), config, seed) for mesh in (prediction, truth))
    return {**compare(measured, true, config), "iou_fallback": fallback(measured, true), "empty": 0.0}


def fallback(*measured: Measured) -> float:
    """Returns 1 where the winding numbers of one of the meshes are estimates, else 0."""
    return float(any(one.voxels.leaky for one in measured))


def f_name(threshold: float) -> str:
    """Names an F-score: ``f@.05`` for 0.05."""
    return f"f@{threshold:.2f}".replace("@0.", "@.")


def draw_seed(rng: np.random.Generator) -> int:
    """Draws a seed that several meshes can share."""
    return int(rng.integers(2**62))
