"""Points on surfaces and on their sharp edges (geometry.md F)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unipart.geometry._bits import compiled
from unipart.geometry.mesh import Mesh


@dataclass(frozen=True)
class SurfaceDraw:
    """Random surface points.

    Attributes:
        points: positions [C 3] float32, in the mesh's frame.
        normals: unit normal of the face each point lies on [C 3] float32.
        faces: index of that face [C] int32; `mesh.part_of_face[faces]` are the part labels.
    """

    points: NDArray[np.float32]
    normals: NDArray[np.float32]
    faces: NDArray[np.int32]


def sample_surface(mesh: Mesh, count: int, rng: np.random.Generator) -> SurfaceDraw:
    """Draws points uniformly by area.

    Raises:
        ValueError: the mesh has no area.
    """
    # Copies: the kernel would compile again for arrays that are read-only or strided.
    vertices = np.array(mesh.vertices, dtype=np.float64, order="C")
    twice_area = _twice_areas(vertices, np.array(mesh.faces, dtype=np.int64, order="C"))
    if not twice_area.sum() > 0:
        raise ValueError("a mesh without area has no surface points")
    face = _pick(twice_area, count, rng)
    # The square root makes the density uniform in the triangle (Osada et al. 2002).
    from_a = np.sqrt(rng.random((count, 1)))
    to_c = rng.random((count, 1))
    corners = vertices[mesh.faces[face]]
    points = (1 - from_a) * corners[:, 0] + from_a * (1 - to_c) * corners[:, 1] + from_a * to_c * corners[:, 2]
    return SurfaceDraw(points.astype(np.float32), _normals(corners), face.astype(np.int32))


def find_sharp_edges(mesh: Mesh, angle_degrees: float = 30.0) -> NDArray[np.int32]:
    """Returns the edges [E 2] between two faces whose normals differ by more than an angle.

    For meshes whose creases are in the mesh itself; a remeshed surface knows them better (`watertight.Remeshed.sharp_edges`).
    Edges with one face or with more than two are left out.
    """
    edges, sides = _two_sided_edges(mesh, np.ones(len(mesh.vertices), np.bool_))
    normals = mesh.face_normals()
    cosine = np.einsum("ij,ij->i", normals[sides[:, 0]], normals[sides[:, 1]])
    area = mesh.face_areas()
    solid = (area[sides] > 0).all(axis=1)
    return edges[solid & (cosine < np.cos(np.radians(angle_degrees)))].astype(np.int32)


def sample_edges(mesh: Mesh, edges: NDArray[Any], count: int, rng: np.random.Generator) -> SurfaceDraw:
    """Draws points uniformly by length on mesh edges.

    Normal and face are those of one of the two faces at the edge, each with probability 1/2, so that both sides (and both labels,
    where two parts meet) are represented.

    Args:
        mesh: the surface.
        edges: vertex pairs [E 2]; pairs that are not an edge between two faces are ignored.
        count: number of points.
        rng: the only source of randomness.

    Returns:
        `count` points; none when there are no edges of positive length.
    """
    candidates = np.zeros(len(mesh.vertices), np.bool_)
    candidates[edges] = True
    known, sides = _two_sided_edges(mesh, candidates)
    wanted = np.isin(_edge_key(known, len(mesh.vertices)), _edge_key(np.sort(edges, axis=1), len(mesh.vertices)))
    known, sides = known[wanted], sides[wanted]
    start, stop = (mesh.vertices[known[:, i]].astype(np.float64) for i in range(2))
    length = np.linalg.norm(stop - start, axis=1)
    if not length.sum() > 0:
        return SurfaceDraw(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32), np.zeros(0, np.int32))
    edge = _pick(length, count, rng)
    along = rng.random((count, 1))
    points = (1 - along) * start[edge] + along * stop[edge]
    face = sides[edge, rng.integers(2, size=count)]
    return SurfaceDraw(points.astype(np.float32), _normals(mesh.vertices[mesh.faces[face]]), face.astype(np.int32))


def _pick(weights: NDArray[np.float64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draws indices [count] with probability proportional to the weights; never one of weight zero."""
    total = np.cumsum(weights)
    drawn = rng.random(count) * total[-1]
    order = np.argsort(drawn)  # neighbours in the table follow each other: half the time of a search in random order
    index = np.zeros(count, np.int64)
    index[order] = np.searchsorted(total, drawn[order], side="right")
    return np.minimum(index, np.flatnonzero(weights)[-1])


def _edge_key(edges: NDArray[Any], num_vertices: int) -> NDArray[np.int64]:
    """One integer per edge [E 2] whose smaller vertex comes first."""
    return edges[:, 0].astype(np.int64) * num_vertices + edges[:, 1]


def _two_sided_edges(mesh: Mesh, candidates: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the edges [E 2] between candidates [V] that have exactly two faces, smaller vertex first, and those faces [E 2]."""
    half_edges = mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    where = np.flatnonzero(candidates[half_edges[:, 0]] & candidates[half_edges[:, 1]])
    half_edges = np.sort(half_edges[where].astype(np.int64), axis=1)
    key = _edge_key(half_edges, len(mesh.vertices))
    order = np.argsort(key, kind="stable")
    first = np.flatnonzero(np.diff(key[order], prepend=-1))
    uses = np.diff(first, append=len(key))
    pair = first[uses == 2]
    return half_edges[order[pair]], where[np.stack([order[pair], order[pair + 1]], axis=1)] // 3


def _normals(corners: NDArray[Any]) -> NDArray[np.float32]:
    """Returns the unit normals [C 3] of triangles [C 3 3]."""
    corners = corners.astype(np.float64, copy=False)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return (cross / np.maximum(np.linalg.norm(cross, axis=1, keepdims=True), 1e-300)).astype(np.float32)


@compiled
def _twice_areas(vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns twice the area of every face [F]."""
    areas = np.zeros(len(faces))
    for f in range(len(faces)):
        a, b, c = faces[f]
        bx, by, bz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        cx, cy, cz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        nx, ny, nz = by * cz - bz * cy, bz * cx - bx * cz, bx * cy - by * cx
        areas[f] = np.sqrt(nx * nx + ny * ny + nz * nz)
    return areas
