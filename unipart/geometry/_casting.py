"""First-hit queries along camera rays, by Embree where it exists and else by a z-buffer; both fill the same `Hits`."""

import importlib.util
import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numba import njit
from numpy.typing import NDArray

from unipart.geometry._cameras import Camera

MISS = -1
_STEP = np.float32(2e-5)
"""How far behind a hit the next layer begins, in GCS units."""


@dataclass(frozen=True)
class Hits:
    """The nearest surface per ray.

    Attributes:
        face: face index [R], `MISS` where nothing was hit.
        u, v: barycentric weights of the face's second and third corner [R].
        distance: along the unit ray direction [R].
    """

    face: NDArray[np.int32]
    u: NDArray[np.float32]
    v: NDArray[np.float32]
    distance: NDArray[np.float32]


class Caster(Protocol):
    """Answers first-hit queries for one mesh."""

    name: str

    def first_hits(self, camera: Camera, directions: NDArray[np.float32], after: NDArray[np.float32]) -> Hits:
        """Returns the nearest hit further away than `after` [R] (infinite: the ray is not asked about).

        `directions` [R 3] are those of the camera's square pixel grid.
        """
        ...

    def occluded(self, origins: NDArray[np.float32], directions: NDArray[np.float32], reach: float) -> NDArray[np.bool_]:
        """Returns whether something lies within reach along free rays [R 3]."""
        ...


def make_caster(vertices: NDArray[np.float32], faces: NDArray[np.int32], backend: str = "auto") -> Caster:
    """Returns the caster called "ray" or "raster"; "auto" takes "ray" where embreex is installed."""
    if backend == "auto":
        backend = "ray" if importlib.util.find_spec("embreex") else "raster"
    return {"ray": RayCaster, "raster": RasterCaster}[backend](vertices, faces)


class RayCaster:
    """Embree's triangle intersection (no system library, no driver, the same result on every host)."""

    name = "ray"

    def __init__(self, vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> None:
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        self._scene = EmbreeScene(robust=True)
        TriangleMesh(self._scene, np.ascontiguousarray(vertices), np.ascontiguousarray(faces))

    def first_hits(self, camera: Camera, directions: NDArray[np.float32], after: NDArray[np.float32]) -> Hits:
        """See `Caster.first_hits`."""
        count = len(directions)
        hits = Hits(np.full(count, MISS, np.int32), *(np.zeros(count, np.float32) for _ in range(3)))
        asked = np.flatnonzero(np.isfinite(after))
        if len(asked) == 0:
            return hits
        start = np.where(after[asked] > 0, after[asked] + _STEP, np.float32(0))
        origins = np.asarray(camera.eye, np.float32) + directions[asked] * start[:, None]
        found = self._scene.run(np.ascontiguousarray(origins), np.ascontiguousarray(directions[asked]), output=1)
        hits.face[asked] = found["primID"]
        hits.u[asked], hits.v[asked] = found["u"], found["v"]
        hits.distance[asked] = found["tfar"] + start
        return hits

    def occluded(self, origins: NDArray[np.float32], directions: NDArray[np.float32], reach: float) -> NDArray[np.bool_]:
        """See `Caster.occluded`."""
        limits = np.full(len(origins), reach, np.float32)
        return self._scene.run(origins, directions, dists=limits, query="OCCLUDED") != MISS


class RasterCaster:
    """A z-buffer over the pixel grid with exact ray-triangle tests; answers no free rays, so there is no ambient occlusion."""

    name = "raster"

    def __init__(self, vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> None:
        self._triangles = vertices[faces]

    def first_hits(self, camera: Camera, directions: NDArray[np.float32], after: NDArray[np.float32]) -> Hits:
        """See `Caster.first_hits`."""
        resolution = math.isqrt(len(directions))
        assert resolution**2 == len(directions), "the z-buffer needs the whole pixel grid"
        half = math.tan(math.radians(camera.fov_y_degrees) / 2)
        corners = (self._triangles.astype(np.float64) - np.asarray(camera.eye)) @ camera.axes().T
        boxes = _pixel_boxes(corners, half, resolution)
        local = np.ascontiguousarray(directions.astype(np.float64) @ camera.axes().T)
        return Hits(*_fill(corners, boxes, local, after.astype(np.float64), resolution))

    def occluded(self, origins: NDArray[np.float32], directions: NDArray[np.float32], reach: float) -> NDArray[np.bool_]:
        """Returns no occlusion: the fallback cannot tell."""
        return np.zeros(len(origins), np.bool_)


def _pixel_boxes(corners: NDArray[np.float64], half: float, resolution: int) -> NDArray[np.int64]:
    """Returns low x, high x, low y, high y (inclusive) per triangle [F 4]; all pixels for one that reaches behind the camera."""
    depth = corners[..., 2]
    behind = depth.min(axis=1) <= 1e-6
    pixels = corners[..., :2] / np.where(behind[:, None], 1.0, depth)[..., None] / half * np.array([1.0, -1.0])
    pixels = (pixels + 1) / 2 * resolution - 0.5
    low, high = np.floor(pixels.min(axis=1)), np.ceil(pixels.max(axis=1))
    low[behind], high[behind] = 0, resolution - 1
    low, high = np.clip(low, 0, resolution), np.clip(high, -1, resolution - 1)
    boxes = np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], axis=1).astype(np.int64)
    boxes[depth.max(axis=1) <= 1e-6, 1] = -1
    return boxes


@njit(cache=True)
def _fill(corners: Any, boxes: Any, directions: Any, after: Any, resolution: int) -> Any:  # pragma: no cover - compiled
    count = resolution * resolution
    face, best = np.full(count, -1, np.int32), np.full(count, np.inf, np.float64)
    weight_u, weight_v = np.zeros(count, np.float32), np.zeros(count, np.float32)
    for index in range(len(corners)):
        origin = corners[index, 0]
        edge_u, edge_v = corners[index, 1] - origin, corners[index, 2] - origin
        for y in range(boxes[index, 2], boxes[index, 3] + 1):
            for x in range(boxes[index, 0], boxes[index, 1] + 1):
                pixel = y * resolution + x
                ray = directions[pixel]
                # Moeller and Trumbore's test for a ray from the camera, which sits at 0
                px = ray[1] * edge_v[2] - ray[2] * edge_v[1]
                py = ray[2] * edge_v[0] - ray[0] * edge_v[2]
                pz = ray[0] * edge_v[1] - ray[1] * edge_v[0]
                det = edge_u[0] * px + edge_u[1] * py + edge_u[2] * pz
                if det == 0.0:
                    continue
                u = -(origin[0] * px + origin[1] * py + origin[2] * pz) / det
                if u < 0.0 or u > 1.0:
                    continue
                qx = -origin[1] * edge_u[2] + origin[2] * edge_u[1]
                qy = -origin[2] * edge_u[0] + origin[0] * edge_u[2]
                qz = -origin[0] * edge_u[1] + origin[1] * edge_u[0]
                v = (ray[0] * qx + ray[1] * qy + ray[2] * qz) / det
                if v < 0.0 or u + v > 1.0:
                    continue
                distance = (edge_v[0] * qx + edge_v[1] * qy + edge_v[2] * qz) / det
                start = after[pixel] + 2e-5 if after[pixel] > 0.0 else 0.0
                if start < distance < best[pixel]:
                    best[pixel], face[pixel] = distance, index
                    weight_u[pixel], weight_v[pixel] = u, v
    for pixel in range(count):
        if face[pixel] < 0:
            best[pixel] = 0.0
    return face, weight_u, weight_v, best.astype(np.float32)
