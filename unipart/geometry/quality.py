"""How well a watertight surface stands for the mesh that it was made of: distances both ways, in voxels.

The way back leaves out what no one sees: original faces deep inside the solid, such as the hidden ends of a chair's legs, are meant
to go. Caps of holes lie off the original by design; `far_share` says how much of the surface they are.
"""

import numpy as np
from numpy.typing import NDArray

from unipart.geometry.field import SignedDistance
from unipart.geometry.mesh import Mesh
from unipart.geometry.surface import sample_surface

NUM_POINTS = 16_384
_PROBE_VOXELS = 1.5
"""An original point with both sides this far inside the solid is hidden."""
_FAR_VOXELS = 1.0


def measure_quality(
    original: Mesh, surface: Mesh, to_surface: SignedDistance, voxel: float, rng: np.random.Generator
) -> dict[str, float]:
    """Compares a remeshed surface with its original by random points on both.

    Args:
        original: the mesh before, open or not.
        surface: the watertight surface, in the same frame.
        to_surface: signed distance to it.
        voxel: edge length of a grid cell, in units of the frame.
        rng: the only source of randomness.

    Returns:
        In voxels: ``to_original_mean``, ``_p99``, ``_max`` (from the surface to the original), ``from_original_mean``, ``_p99``,
        ``_max`` (from the visible original to the surface; 0 where all of it is hidden). As shares of the area: ``far_share`` of
        the surface farther than a voxel from the original, ``hidden_share`` of the original inside the solid.
    """
    points = sample_surface(surface, NUM_POINTS, rng).points
    there = np.abs(SignedDistance(original)(points)[0]) / voxel
    draw = sample_surface(original, NUM_POINTS, rng)
    step = np.float32(_PROBE_VOXELS * voxel) * draw.normals
    sides = [to_surface(draw.points + step)[0], to_surface(draw.points - step)[0]]
    hidden = (sides[0] > 0) & (sides[1] > 0)
    back = np.abs(to_surface(draw.points[~hidden])[0]) / voxel
    return {
        **_spread("to_original", there),
        **_spread("from_original", back),
        "far_share": float((there > _FAR_VOXELS).mean()),
        "hidden_share": float(hidden.mean()),
    }


def _spread(name: str, distance: NDArray[np.floating]) -> dict[str, float]:
    distance = distance if len(distance) else np.zeros(1)
    figures = {"mean": distance.mean(), "p99": np.percentile(distance, 99), "max": distance.max()}
    return {f"{name}_{figure}": float(value) for figure, value in figures.items()}
