"""Where the condition views are taken from: the camera and the two laws that place it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from unipart.config import Config

Vector = tuple[float, float, float]

BOUNDING_RADIUS = math.sqrt(3.0)
"""Radius of the sphere round the GCS box [-1,1]^3: what a camera of either law must see."""


@dataclass(frozen=True)
class Camera:
    """A square pinhole camera in GCS (y up, the object's front looks along +z).

    Attributes:
        eye: position.
        target: the point in the middle of the image.
        up: rough up direction.
        fov_y_degrees: full opening angle, the same both ways because images are square.
    """

    eye: Vector
    target: Vector
    up: Vector
    fov_y_degrees: float

    @classmethod
    def orbiting(cls, azimuth: float, elevation: float, fov_y_degrees: float, radius: float = BOUNDING_RADIUS) -> Self:
        """Looks at the origin so that a sphere of the given radius just fits.

        Args:
            azimuth: degrees from the front (+z) towards the object's left (+x).
            elevation: degrees above the horizon.
            fov_y_degrees: opening angle.
            radius: of the sphere that must be seen.
        """
        distance = radius / math.sin(math.radians(fov_y_degrees) / 2)
        eye = direction_of(azimuth, elevation) * distance
        return cls(_vector(eye), (0.0, 0.0, 0.0), (0.0, 1.0, 0.0), float(fov_y_degrees))

    def axes(self) -> NDArray[np.float64]:
        """Returns the unit vectors right, up and forward as rows [3 3]."""
        forward = _unit(np.subtract(self.target, self.eye))
        right = np.cross(forward, self.up)
        if np.linalg.norm(right) < 1e-6:  # looking straight along `up`: any right vector serves, this one is stable
            right = np.cross(forward, (0.0, 0.0, -1.0))
        right = _unit(right)
        return np.stack([right, np.cross(right, forward), forward])

    def directions(self, resolution: int) -> NDArray[np.float32]:
        """Returns the unit ray direction through each pixel centre [resolution^2 3], row by row from the top left."""
        right, up, forward = self.axes()
        half = math.tan(math.radians(self.fov_y_degrees) / 2)
        steps = ((np.arange(resolution) + 0.5) / resolution * 2 - 1) * half
        rows = forward - steps[:, None] * up
        grid = rows[:, None, :] + steps[None, :, None] * right
        grid /= np.sqrt(1 + steps[:, None] ** 2 + steps[None, :] ** 2)[..., None]
        return grid.reshape(-1, 3).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Returns a JSON form."""
        return {"eye": list(self.eye), "target": list(self.target), "up": list(self.up), "fov_y_degrees": self.fov_y_degrees}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Reads what `to_dict` wrote."""
        return cls(_vector(data["eye"]), _vector(data["target"]), _vector(data["up"]), float(data["fov_y_degrees"]))


class CameraConfig(Config):
    """How the views of an object are placed."""

    kind: Literal["hammersley", "orbit"] = "hammersley"
    """hammersley: all over the sphere, as Hunyuan3D-2.1 renders; orbit: a band round the object, evenly in azimuth."""
    views: int = Field(default=4, ge=1)
    """Views an object."""
    fov_degrees: tuple[float, float] = (10.0, 70.0)
    """Range of the opening angle; drawn uniform in 1/distance^2, so that narrow angles do not dominate."""
    azimuth_degrees: tuple[float, float] = (-180.0, 180.0)
    """orbit: range of the azimuth, 0 = front."""
    elevation_degrees: tuple[float, float] = (-5.0, 40.0)
    """orbit: range of the elevation."""


def cameras(config: CameraConfig, rng: np.random.Generator, radius: float = BOUNDING_RADIUS) -> tuple[Camera, ...]:
    """Draws the cameras of one object.

    The sphere of the given radius just fits into each image. By default that is the sphere round the GCS box, as upstream has it;
    a mesh's own bounding radius (`bounding_radius`) gives larger objects.

    hammersley follows Hunyuan3D-2.1 tools/render/render.py:70-109 with our box (half extent 1 where theirs is 1/2): a
    Hammersley set on the sphere shifted by a random offset.
    """
    count = config.views
    offset = rng.random(2)
    turn = (np.arange(count) + offset[0]) / count
    if config.kind == "hammersley":
        azimuth = 360.0 * (np.array([_radical_inverse(i) for i in range(count)]) + offset[1])
        elevation = np.degrees(np.arcsin(1 - 2 * turn))
    else:
        low, high = config.azimuth_degrees
        azimuth = low + turn * (high - low)
        elevation = rng.uniform(*config.elevation_degrees, size=count)
    near, far = (math.sin(math.radians(fov) / 2) for fov in config.fov_degrees)
    # fov = 2 asin(R / distance) and 1/distance^2 uniform: the sine squared is uniform
    fov = 2 * np.degrees(np.arcsin(np.sqrt(rng.uniform(near**2, far**2, size=count))))
    return tuple(Camera.orbiting(float(a), float(e), float(f), radius) for a, e, f in zip(azimuth, elevation, fov, strict=True))


def fitted_camera(
    vertices: NDArray[Any], azimuth: float, elevation: float, fov_y_degrees: float = 25.0, margin: float = 0.05
) -> Camera:
    """Returns the camera of the given angles that fills the image with the vertices [V 3], for figures.

    Raises:
        ValueError: no vertices.
    """
    if len(vertices) == 0:
        raise ValueError("a camera cannot be fitted to a mesh without vertices")
    right, up, forward = Camera.orbiting(azimuth, elevation, fov_y_degrees).axes()
    points = np.asarray(vertices, np.float64) @ np.stack([right, up, forward]).T
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    points -= centre
    half = math.tan(math.radians(fov_y_degrees) / 2) * (1 - margin)
    distance = float((np.abs(points[:, :2]).max(axis=1) / half - points[:, 2]).max())
    target = centre @ np.stack([right, up, forward])
    return Camera(_vector(target - forward * max(distance, 1e-3)), _vector(target), (0.0, 1.0, 0.0), float(fov_y_degrees))


def bounding_radius(vertices: NDArray[Any]) -> float:
    """Returns the radius of the sphere round the origin that holds the vertices [V 3]."""
    return float(np.sqrt((np.asarray(vertices, np.float64) ** 2).sum(axis=1).max()))


def direction_of(azimuth: float, elevation: float) -> NDArray[np.float64]:
    """Returns the unit vector from the origin towards the given angles in degrees."""
    a, e = math.radians(azimuth), math.radians(elevation)
    return np.array([math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e)])


def _radical_inverse(index: int) -> float:
    """Returns the bits of the index mirrored at the binary point (van der Corput)."""
    value, weight = 0.0, 0.5
    while index:
        value += weight * (index & 1)
        index >>= 1
        weight /= 2
    return value


def _unit(vector: NDArray[Any]) -> NDArray[Any]:
    return vector / np.linalg.norm(vector)


def _vector(values: NDArray[Any] | Sequence[float]) -> Vector:
    x, y, z = (float(value) for value in values)
    return x, y, z
