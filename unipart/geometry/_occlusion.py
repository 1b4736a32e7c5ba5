"""Ambient occlusion: how much of the sky a point sees."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unipart.geometry._casting import Caster


def openness(caster: Caster, points: NDArray[Any], normals: NDArray[Any], num_rays: int, reach: float = 0.6) -> NDArray[np.float32]:
    """Returns the share of cosine-weighted rays that meet nothing within reach [R]; GCS units.

    Each point turns and shifts one stratified set of rays by the next term of Roberts' R2 sequence, so that neighbouring samples
    complement one another: fine noise that averages out over a pixel, no banding.
    """
    count = len(points)
    index = np.arange(count, dtype=np.float64)
    turn, shift = ((index * step % 1).astype(np.float32) for step in (0.7548776662466927, 0.5698402909980532))
    sign = np.where(normals[:, 2] >= 0, np.float32(1), np.float32(-1))
    a = -1 / (sign + normals[:, 2])
    b = normals[:, 0] * normals[:, 1] * a
    tangent = np.stack([1 + sign * normals[:, 0] ** 2 * a, sign * b, -sign * normals[:, 0]], axis=1)
    bitangent = np.stack([b, sign + normals[:, 1] ** 2 * a, -normals[:, 1]], axis=1)

    blocked = np.zeros(count, np.float32)
    for ray in range(num_rays):
        radius2 = (np.float32(ray) + shift) / np.float32(num_rays)
        angle = np.float32(2 * math.pi) * ((turn + np.float32(ray * 0.6180339887)) % 1)
        x, y = np.sqrt(radius2) * np.cos(angle), np.sqrt(radius2) * np.sin(angle)
        direction = tangent * x[:, None] + bitangent * y[:, None] + normals * np.sqrt(1 - radius2)[:, None]
        blocked += caster.occluded(points, direction.astype(np.float32, copy=False), reach)
    return 1 - blocked / np.float32(num_rays)
