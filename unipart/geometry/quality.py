"""How well a watertight surface stands for the mesh that it was made of: distances both ways, in voxels.

The way back leaves out what no one sees, for it is meant to go. A point of the original is hidden when

- both of its sides lie inside closed components of the original, such as the end of a chair's leg within the seat, or
- both sides lie deep inside the surface, such as parts of open components and the walls of filled cavities, or
- the free side of a closed component lies deep inside the surface, which is the wall of a filled cavity as well, a thin one.

What is left, the exterior, has places that no surface on this grid can follow: sheets, blades and tips thinner than a voxel, gaps
narrower than one. The figures named `resolved` leave them out; `narrow_share` says how much of the exterior they are. Caps of holes
lie off the original by design; `far_share` says how much of the surface they are.
"""

import numpy as np
from numpy.typing import NDArray

from unipart.geometry._sides import count_crossings
from unipart.geometry.field import SignedDistance
from unipart.geometry.mesh import Mesh
from unipart.geometry.surface import SurfaceDraw, sample_surface

NUM_POINTS = 16_384
_PROBE_VOXELS = 1.5
"""This far from an original point lies what is deep inside the surface. Gaps that wide are not to close, so no gap hides."""
_SIDE_VOXELS = 0.01
"""Where the sides of an original point are looked at."""
_NARROW_VOXELS = 1.0
"""Thinner solids and narrower gaps are below the grid."""
_FAR_VOXELS = 1.0


def measure_quality(
    original: Mesh,
    surface: Mesh,
    to_surface: SignedDistance,
    voxel: float,
    rng: np.random.Generator,
    is_closed: NDArray[np.bool_] | None = None,
) -> dict[str, float]:
    """Compares a remeshed surface with its original by random points on both.

    Args:
        original: the mesh before, open or not.
        surface: the watertight surface, in the same frame.
        to_surface: signed distance to it.
        voxel: edge length of a grid cell, in units of the frame.
        rng: the only source of randomness.
        is_closed: the faces of the original that belong to closed components, turned outwards [F]; none where nothing is said.

    Returns:
        In voxels: ``to_original_mean``, ``_p99``, ``_max`` (from the surface to the original), ``from_original_mean``, ``_p99``,
        ``_max`` (from the exterior of the original to the surface; 0 where all of it is hidden), ``resolved_mean``, ``_p99``,
        ``_max`` (the same without what is narrower than a voxel). As shares: ``far_share`` of the surface's area farther than a
        voxel from the original, ``hidden_share`` of the original's area, ``narrow_share`` of its exterior.
    """
    points = sample_surface(surface, NUM_POINTS, rng).points
    there = np.abs(SignedDistance(original)(points)[0]) / voxel
    draw = sample_surface(original, NUM_POINTS, rng)
    is_closed = np.zeros(len(original.faces), np.bool_) if is_closed is None else is_closed
    inside, is_free, narrow = _look_round(original, draw, voxel, is_closed)
    step = np.float32(_PROBE_VOXELS * voxel) * draw.normals
    hidden = inside | (to_surface(draw.points + step)[0] > 0) & (is_free | (to_surface(draw.points - step)[0] > 0))
    back = np.abs(to_surface(draw.points)[0]) / voxel
    return {
        **_spread("to_original", there),
        **_spread("from_original", back[~hidden]),
        **_spread("resolved", back[~hidden & ~narrow]),
        "far_share": float((there > _FAR_VOXELS).mean()),
        "hidden_share": float(hidden.mean()),
        "narrow_share": float(narrow[~hidden].mean()) if not hidden.all() else 0.0,
    }


def _look_round(
    original: Mesh, draw: SurfaceDraw, voxel: float, is_closed: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Tells which points lie inside closed components [Q], have free space before them [Q], or lie on a narrow solid or gap [Q]."""
    offset = np.array([_SIDE_VOXELS, -_SIDE_VOXELS, _NARROW_VOXELS, -_NARROW_VOXELS, _PROBE_VOXELS]) * voxel
    probes = draw.points + offset[:, None, None] * draw.normals
    inside = count_crossings(original.vertices, original.faces[is_closed], probes.reshape(-1, 3)) >= 1
    before, behind, far_before, far_behind, farther_before = inside.reshape(len(offset), -1)
    is_wall = is_closed[draw.faces] & ~before
    return before & behind, is_wall & ~farther_before, is_wall & (far_before | ~far_behind)


def _spread(name: str, distance: NDArray[np.floating]) -> dict[str, float]:
    distance = distance if len(distance) else np.zeros(1)
    figures = {"mean": distance.mean(), "p99": np.percentile(distance, 99), "max": distance.max()}
    return {f"{name}_{figure}": float(value) for figure, value in figures.items()}
