"""Between a part's own frame (NCS) and the object's (GCS): fit, and place a generated part (model.md §5.4)."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.spatial import KDTree

from unipart.config import Config
from unipart.geometry.extract import drop_small_components
from unipart.geometry.mesh import Mesh, Similarity
from unipart.geometry.surface import sample_surface

_FLAT = 1e-3
"""Sides below this share of the longest one tell no scale."""


class PlacementConfig(Config):
    """How the mesh generated in NCS is put where its twin generated in GCS says."""

    method: Literal["bbox", "robust", "icp"] = "icp"
    """bbox: bounding boxes (the paper). robust: percentile boxes of area samples. icp: closest-point steps from such boxes, which a
    piece of a neighbour that shows in one of the meshes hardly moves."""
    num_points: int = 8192
    """Area samples per mesh (robust, icp)."""
    percentiles: tuple[float, float] = (1.0, 99.0)
    """Bounds of the robust box."""
    min_area_fraction: float = 0.01
    """Components below this share of the area are debris (robust, icp)."""
    icp_steps: int = 20
    """Closest-point steps at most."""
    trust: float = Field(default=0.9, gt=0, le=1)
    """Share of the closest pairs that the steps follow; the others are taken for what only one of the meshes has."""


def fit_ncs(mesh: Mesh | NDArray[Any]) -> Similarity:
    """Returns the map gcs -> ncs: the part's bounding box centred at 0, max half extent 0.9999.

    Args:
        mesh: the part in GCS, or points [V 3] with the same bounding box.

    Raises:
        ValueError: there are no points, or they have no extent.
    """
    points = mesh.vertices[np.unique(mesh.faces)] if isinstance(mesh, Mesh) else mesh
    return Similarity.to_unit_box(points)


def place_part(ncs_mesh: Mesh, gcs_mesh: Mesh, config: PlacementConfig, rng: np.random.Generator) -> Similarity:
    """Measures scale and position on the GCS mesh and returns the map ncs -> gcs for the NCS mesh.

    x -> s (x - c_ncs) + c_gcs with c the box centre, e the box extent and s = max(e_gcs) / max(e_ncs); icp starts from the median
    of e_gcs / e_ncs over the axes.

    Args:
        ncs_mesh: the detailed part in NCS.
        gcs_mesh: the same part in GCS, coarser, possibly with debris.
        config: method and its settings.
        rng: the only source of randomness.

    Raises:
        ValueError: one of the meshes is empty or has no extent.
    """
    if config.method == "bbox":
        boxes = [mesh.vertices[np.unique(mesh.faces)] for mesh in (ncs_mesh, gcs_mesh)]
        if not all(len(points) for points in boxes):
            raise ValueError("a part without faces cannot be placed")
        ncs_box, gcs_box = ((points.min(axis=0), points.max(axis=0)) for points in boxes)
        return _box_to_box(ncs_box, gcs_box)
    ncs_points, gcs_points = (
        sample_surface(drop_small_components(mesh, config.min_area_fraction), config.num_points, rng).points.astype(np.float64)
        for mesh in (ncs_mesh, gcs_mesh)
    )
    low, high = config.percentiles
    boxes = [(np.percentile(points, low, axis=0), np.percentile(points, high, axis=0)) for points in (ncs_points, gcs_points)]
    if config.method == "robust":
        return _box_to_box(boxes[0], boxes[1])
    return _refine(_box_to_box(boxes[0], boxes[1], all_sides=True), ncs_points, gcs_points, config)


def _box_to_box(
    ncs_box: tuple[NDArray[Any], NDArray[Any]], gcs_box: tuple[NDArray[Any], NDArray[Any]], all_sides: bool = False
) -> Similarity:
    """Maps a box's centre to the other's; the scale is that of the longest sides, or the median over all sides."""
    ncs_low, ncs_high, gcs_low, gcs_high = (np.asarray(bound, np.float64) for bound in (*ncs_box, *gcs_box))
    ncs_extent, gcs_extent = ncs_high - ncs_low, gcs_high - gcs_low
    if not (ncs_extent.max() > 0 and gcs_extent.max() > 0):
        raise ValueError("a part without extent cannot be placed")
    scale = gcs_extent.max() / ncs_extent.max()
    if all_sides:
        solid = (ncs_extent > _FLAT * ncs_extent.max()) & (gcs_extent > 0)
        scale = np.median(gcs_extent[solid] / ncs_extent[solid])
    return Similarity.of(scale, (gcs_low + gcs_high) / 2 - scale * (ncs_low + ncs_high) / 2)


def _refine(start: Similarity, ncs_points: NDArray[Any], gcs_points: NDArray[Any], config: PlacementConfig) -> Similarity:
    """Iterated closest points over scale and offset; keeps a step only while the trimmed Chamfer distance falls.

    Pairs go both ways: pairs from one side alone would shrink the scale.
    """
    gcs_tree = KDTree(gcs_points)
    best, best_distance = start, np.inf
    current = start
    for _ in range(config.icp_steps + 1):
        moved = current.apply(ncs_points)
        to_gcs, nearest_gcs = gcs_tree.query(moved)
        to_ncs, nearest_ncs = KDTree(moved).query(gcs_points)
        ours, theirs = (np.flatnonzero(far <= np.quantile(far, config.trust)) for far in (to_gcs, to_ncs))
        distance = to_gcs[ours].mean() + to_ncs[theirs].mean()
        if distance >= best_distance:
            break
        best, best_distance = current, distance
        source = np.concatenate([ncs_points[ours], ncs_points[np.take(nearest_ncs, theirs)]])
        target = np.concatenate([gcs_points[np.take(nearest_gcs, ours)], gcs_points[theirs]])
        current = _least_squares(source, target)
    return best


def _least_squares(source: NDArray[np.float64], target: NDArray[np.float64]) -> Similarity:
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    spread = source - source_mean
    scale = float((spread * (target - target_mean)).sum() / (spread**2).sum())
    return Similarity.of(scale, target_mean - scale * source_mean)
