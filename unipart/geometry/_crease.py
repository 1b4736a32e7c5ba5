"""Corner normals for meshes that bring none: smooth surfaces, hard edges where the surface bends sharply."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def crease_normals(
    vertices: NDArray[Any], faces: NDArray[Any], group_of_face: NDArray[Any], angle_degrees: float = 30.0
) -> NDArray[np.float32]:
    """Returns a unit normal per corner [F 3 3], averaged over the faces that a corner is smoothly joined to.

    Two faces of one group (part) are smoothly joined across an edge that only they share when they bend by less than the angle.
    Vertices at one position count as one: files split them at texture seams.
    """
    if len(faces) == 0:
        return np.zeros((0, 3, 3), np.float32)
    a, b, c = (vertices[faces[:, i]].astype(np.float64) for i in range(3))
    cross = np.cross(b - a, c - a)
    unit = cross / np.maximum(np.linalg.norm(cross, axis=1, keepdims=True), 1e-300)

    first, second = _smooth_edge_pairs(_weld(vertices)[faces], group_of_face, unit, math.cos(math.radians(angle_degrees)))
    links = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(faces.size, faces.size))
    count, smooth_group = connected_components(links, directed=False)

    summed = np.zeros((count, 3))
    corner_cross = np.repeat(cross, 3, axis=0)
    for axis in range(3):
        summed[:, axis] = np.bincount(smooth_group, weights=corner_cross[:, axis], minlength=count)
    normals = summed[smooth_group]
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = np.where(length > 1e-30, normals / np.maximum(length, 1e-300), np.repeat(unit, 3, axis=0))
    return normals.reshape(-1, 3, 3).astype(np.float32)


def _weld(vertices: NDArray[Any]) -> NDArray[np.int64]:
    """Returns an id per vertex, equal where positions are equal in float32 (adding 0 makes -0 and 0 the same)."""
    points = vertices.astype(np.float32) + np.float32(0)
    order = np.lexsort(points.T)
    changed = np.any(points[order[1:]] != points[order[:-1]], axis=1)
    ids = np.zeros(len(points), np.int64)
    ids[order[1:]] = np.cumsum(changed)
    return ids


def _smooth_edge_pairs(
    corners: NDArray[np.int64], group_of_face: NDArray[Any], unit: NDArray[np.float64], min_cosine: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns pairs of corner indices (3 face + k) that meet at a vertex across a smooth edge."""
    num_faces = len(corners)
    start = np.arange(3 * num_faces)
    end = start.reshape(-1, 3)[:, [1, 2, 0]].ravel()
    position = corners.ravel()
    flipped = position[start] > position[end]
    low, high = np.where(flipped, end, start), np.where(flipped, start, end)  # corner indices, ordered by position

    group = np.repeat(np.asarray(group_of_face, np.int64), 3)
    order = np.lexsort((group, position[high], position[low]))
    key = np.stack([position[low], position[high], group])[:, order]
    same_as_next = np.all(key[:, 1:] == key[:, :-1], axis=0)
    starts_run = np.concatenate([[True], ~same_as_next])
    run_length = np.diff(np.append(np.flatnonzero(starts_run), len(order)))
    head = np.flatnonzero(starts_run)[run_length == 2]
    one, two = order[head], order[head + 1]

    bend = np.einsum("ij,ij->i", unit[one // 3], unit[two // 3])
    one, two = one[bend >= min_cosine], two[bend >= min_cosine]
    return np.concatenate([low[one], high[one]]), np.concatenate([low[two], high[two]])
