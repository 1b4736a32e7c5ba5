"""Signed distance at query points, and where to put the queries (geometry.md F, model.md §3.4 step 7).

`SignedDistance` is a hot path: `signed_distance_reference` is its plain form, `benchmarks/field.py` its measure.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unipart.config import Config
from unipart.geometry._bvh import build_tree
from unipart.geometry._hilbert import hilbert_order
from unipart.geometry._nearest import find_nearest
from unipart.geometry.mesh import Mesh
from unipart.geometry.surface import sample_surface
from unipart.rng import derive

FARTHEST = 1e9
"""Largest coordinate of a query: squares of distances must fit single precision."""

VOLUME, NEAR, SHARP = 0, 1, 2
"""Kinds of query: indices into `unipart.data.schema.QUERY_KINDS`."""


class SignedDistance:
    """Signed distance to a closed, consistently oriented mesh that does not cross itself; no igl needed.

    Single precision: exact to about 2e-7 of the coordinates' size, so use it in a normalised frame.

    Args:
        mesh: the surface; outside its assumptions the magnitude is right and the sign is that of the nearest face.

    Raises:
        ValueError: the mesh has no faces that have an area.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._tree = build_tree(mesh)

    def __call__(self, queries: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Returns the signed distance [Q], positive inside, and the nearest face [Q] of queries [Q 3].

        The answer for a query does not depend on the other queries.

        Raises:
            ValueError: a query is not finite, or farther away than `FARTHEST`.
        """
        queries = np.array(queries, dtype=np.float32, order="C")
        if not (np.abs(queries) <= FARTHEST).all():
            raise ValueError(f"queries must be finite and within +-{FARTHEST:g}")
        if len(queries) == 0:
            return np.zeros(0, np.float32), np.zeros(0, np.int32)
        return find_nearest(self._tree, queries, hilbert_order(queries))


def warm_up() -> None:
    """Compiles the kernels of distances and surface points, or loads them; call it once before forking workers."""
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    tetrahedron = Mesh(corners, np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]]))
    SignedDistance(tetrahedron)(corners)
    sample_surface(tetrahedron, 1, derive(0))


class QueryConfig(Config):
    """How many field queries a sample has and where: a quarter uniform, half near the surface, a quarter near sharp edges."""

    volume: int = 31_232
    """Uniform in the box."""
    near: int = 62_464
    """Surface points with Gaussian noise, shared equally by `near_sigmas`."""
    sharp: int = 31_232
    """Sharp-edge points with Gaussian noise, shared equally by `sharp_sigmas`; near the surface where there are no sharp edges."""
    near_sigmas: tuple[float, ...] = (0.005, 0.05)
    """Standard deviations, in units of the frame."""
    sharp_sigmas: tuple[float, ...] = (0.001, 0.003, 0.01, 0.02, 0.04, 0.06)
    """Standard deviations, in units of the frame."""
    box: float = 1.05
    """Half size of the box of the uniform queries."""

    @property
    def total(self) -> int:
        """Number of queries drawn."""
        return self.volume + self.near + self.sharp


def draw_queries(
    surface: NDArray[Any], sharp: NDArray[Any], config: QueryConfig, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Draws the query locations of one shape.

    Distances must be computed at the returned float32 values: rounding them afterwards flips signs near the surface.

    Args:
        surface: surface points [C 3].
        sharp: points on sharp edges [S 3]; S may be 0, then their share goes to the surface.
        config: counts and spreads.
        rng: the only source of randomness.

    Returns:
        Locations [Q 3] float32 and their kind [Q] uint8 (VOLUME, NEAR, SHARP), Q = `config.total`.

    Raises:
        ValueError: there are no surface points.
    """
    if len(surface) == 0:
        raise ValueError("near-surface queries need surface points")
    volume = rng.uniform(-config.box, config.box, (config.volume, 3))
    num_sharp = config.sharp if len(sharp) else 0
    num_near = config.near + config.sharp - num_sharp
    near = _jitter(surface, num_near, config.near_sigmas, rng)
    around_edges = _jitter(sharp, num_sharp, config.sharp_sigmas, rng)
    points = np.concatenate([volume, near, around_edges]).astype(np.float32)
    kind = np.repeat(np.array([VOLUME, NEAR, SHARP], np.uint8), [config.volume, num_near, num_sharp])
    return points, kind


def _jitter(points: NDArray[Any], count: int, sigmas: tuple[float, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    if count == 0:
        return np.zeros((0, 3))
    centres = points[rng.integers(len(points), size=count)]
    sigma = np.resize(np.asarray(sigmas), count)[:, None]
    return centres + rng.normal(size=(count, 3)) * sigma


def signed_distance_reference(mesh: Mesh, queries: NDArray[Any]) -> NDArray[np.float64]:
    """Plain form of `SignedDistance`, by another road: every triangle for every query, sign by the winding number.

    Args:
        mesh: the surface.
        queries: [Q 3].

    Returns:
        Signed distance [Q], positive inside.
    """
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    queries = np.asarray(queries, dtype=np.float64)
    squared = np.full(len(queries), np.inf)
    step = max(1, 1_000_000 // len(corners))
    for start in range(0, len(queries), step):
        chunk = queries[start : start + step, None]
        distance = _plane_distance(chunk, corners)
        for i in range(3):
            distance = np.minimum(distance, _segment_distance(chunk, corners[:, i], corners[:, (i + 1) % 3]))
        squared[start : start + step] = distance.min(axis=1)
    return np.where(winding_number_reference(mesh, queries) > 0.5, 1.0, -1.0) * np.sqrt(squared)


def winding_number_reference(mesh: Mesh, queries: NDArray[Any]) -> NDArray[np.float64]:
    """Returns the generalised winding number [Q] of queries [Q 3]: solid angles / 4 pi (Jacobson 2013; van Oosterom 1983)."""
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    queries = np.asarray(queries, dtype=np.float64)
    winding = np.zeros(len(queries))
    step = max(1, 1_000_000 // len(corners))
    for start in range(0, len(queries), step):
        a, b, c = (corners[None, :, i] - queries[start : start + step, None] for i in range(3))
        la, lb, lc = (np.linalg.norm(side, axis=-1) for side in (a, b, c))
        dot_ab, dot_bc, dot_ca = ((p * q).sum(axis=-1) for p, q in ((a, b), (b, c), (c, a)))
        volume = (a * np.cross(b, c)).sum(axis=-1)
        angle = 2 * np.arctan2(volume, la * lb * lc + dot_ab * lc + dot_bc * la + dot_ca * lb)
        winding[start : start + step] = angle.sum(axis=1) / (4 * np.pi)
    return winding


def _plane_distance(queries: NDArray[np.float64], corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared distance to the triangle's plane where the foot lies inside the triangle, else infinity [Q F]."""
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal = cross / np.maximum(np.linalg.norm(cross, axis=1, keepdims=True), 1e-300)
    inside = (cross**2).sum(axis=1) > 0
    for i in range(3):
        edge = corners[:, (i + 1) % 3] - corners[:, i]
        inside = inside & (((queries - corners[:, i]) * np.cross(normal, edge)).sum(axis=-1) >= 0)
    height = ((queries - corners[:, 0]) * normal).sum(axis=-1)
    return np.where(inside, height**2, np.inf)


def _segment_distance(queries: NDArray[np.float64], start: NDArray[np.float64], stop: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared distance to line segments [Q F]."""
    edge = stop - start
    along = ((queries - start) * edge).sum(axis=-1) / np.maximum((edge**2).sum(axis=-1), 1e-300)
    gap = queries - start - np.clip(along, 0, 1)[..., None] * edge
    return (gap**2).sum(axis=-1)
