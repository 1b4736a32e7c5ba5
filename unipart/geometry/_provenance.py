"""What the vertices' source faces tell about the extracted surface: the label of every face, and the creases."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unipart.geometry._bits import compiled
from unipart.geometry._placing import Surface
from unipart.geometry.field import SignedDistance
from unipart.geometry.mesh import Mesh

_UNKNOWN = -1


def label_faces(
    surface: Surface, vertices: NDArray[np.float64], faces: NDArray[np.int64], label: NDArray[np.int16]
) -> NDArray[np.int16]:
    """Returns the label of every extracted face: that of the original face it lies on [F'].

    Where the original faces that its vertices lie on have different labels, the nearest one decides; where one is unknown, on a
    membrane, the nearest of all.

    Args:
        surface: the extracted surface, vertices in the same units as `vertices`.
        vertices: of the original mesh [V 3].
        faces: of the original mesh [F 3].
        label: of the original faces [F], none negative.
    """
    found = _label_by_vertices(surface.vertices, surface.faces, surface.source, vertices, faces, label)
    unknown = np.flatnonzero(found == _UNKNOWN)
    if len(unknown):
        centroids = surface.vertices[surface.faces[unknown]].mean(axis=1, dtype=np.float64)
        found[unknown] = label[SignedDistance(Mesh(vertices, faces))(centroids)[1]]
    return found


def mend_isolated(faces: NDArray[np.int32], label: NDArray[Any]) -> NDArray[Any]:
    """Gives every face whose three neighbours all have another label their most common one.

    Args:
        faces: closed, manifold faces [F 3].
        label: per face [F].
    """
    candidates = np.flatnonzero(_all_corners_mixed(faces, label))
    if len(candidates) == 0:
        return label
    # Neighbours across an edge share a vertex with it, and both of its ends are mixed: only such half-edges can match.
    touched = np.zeros(int(faces.max()) + 1, dtype=np.bool_)
    touched[faces[candidates]] = True
    near = np.flatnonzero(touched[faces].sum(axis=1) >= 2)
    start, end = faces[near].ravel().astype(np.int64), np.roll(faces[near], -1, axis=1).ravel().astype(np.int64)
    key, opposite = start * len(touched) + end, end * len(touched) + start
    order = np.argsort(key)
    slot = np.minimum(np.searchsorted(key, opposite, sorter=order), len(order) - 1)
    twin = np.where(key[order[slot]] == opposite, near[order[slot] // 3], -1).reshape(-1, 3)
    neighbours = twin[np.searchsorted(near, candidates)]
    isolated = (neighbours >= 0).all(axis=1) & (label[neighbours] != label[candidates, None]).all(axis=1)
    around = label[neighbours[isolated]]
    mended = label.copy()
    mended[candidates[isolated]] = np.where(around[:, 1] == around[:, 2], around[:, 1], around[:, 0])
    return mended


@compiled
def find_creases(faces, source, normals, cosine):
    """Returns the edges [E 2] whose two vertices lie on source faces with normals further apart than the angle of `cosine`.

    Args:
        faces: closed, manifold faces [F 3].
        source: source face per vertex [V], -1 where unknown.
        normals: unit normals of the source faces.
        cosine: of the smallest angle of a crease.
    """
    edges = np.zeros((1024, 2), dtype=np.int32)
    count = 0
    for face in range(len(faces)):
        for side in range(3):
            a, b = faces[face, side], faces[face, (side + 1) % 3]
            if a > b or source[a] < 0 or source[b] < 0 or source[a] == source[b]:
                continue
            p, q = normals[source[a]], normals[source[b]]
            if p[0] * q[0] + p[1] * q[1] + p[2] * q[2] < cosine:
                if count == len(edges):
                    edges = np.concatenate((edges, np.zeros_like(edges)))
                edges[count] = a, b
                count += 1
    return edges[:count].copy()


@compiled
def component_volumes(vertices, faces, label, num_components):
    """Returns the signed volume of every closed component [num_components]; `label` [F] names a face's component."""
    volumes = np.zeros(num_components)
    for face in range(len(faces)):
        a, b, c = _corners(vertices, faces, face)
        volumes[label[face]] += _dot(a, _cross(b, c)) / 6
    return volumes


@compiled
def _all_corners_mixed(faces, label):
    """Tells per face whether each of its vertices also touches a face with another label."""
    seen = np.full(faces.max() + 1, -1, dtype=np.int64)
    mixed = np.zeros(len(seen), dtype=np.bool_)
    for face in range(len(faces)):
        for side in range(3):
            vertex = faces[face, side]
            if seen[vertex] < 0:
                seen[vertex] = label[face]
            elif seen[vertex] != label[face]:
                mixed[vertex] = True
    result = np.zeros(len(faces), dtype=np.bool_)
    for face in range(len(faces)):
        result[face] = mixed[faces[face, 0]] and mixed[faces[face, 1]] and mixed[faces[face, 2]]
    return result


@compiled
def _label_by_vertices(surface_vertices, surface_faces, source, vertices, faces, label):
    result = np.zeros(len(surface_faces), dtype=np.int16)
    for face in range(len(surface_faces)):
        first, second, third = source[surface_faces[face, 0]], source[surface_faces[face, 1]], source[surface_faces[face, 2]]
        if first < 0 or second < 0 or third < 0:
            result[face] = _UNKNOWN
            continue
        result[face] = label[first]
        if label[second] == label[first] and label[third] == label[first]:
            continue
        a, b, c = _corners(surface_vertices, surface_faces, face)
        centroid = ((a[0] + b[0] + c[0]) / 3, (a[1] + b[1] + c[1]) / 3, (a[2] + b[2] + c[2]) / 3)
        best = np.inf
        for candidate in (first, second, third):
            distance = _squared_distance(centroid, *_corners(vertices, faces, candidate))
            if distance < best:
                best = distance
                result[face] = label[candidate]
    return result


@compiled
def _corners(vertices, faces, face):
    a, b, c = vertices[faces[face, 0]], vertices[faces[face, 1]], vertices[faces[face, 2]]
    return (
        (np.float64(a[0]), np.float64(a[1]), np.float64(a[2])),
        (np.float64(b[0]), np.float64(b[1]), np.float64(b[2])),
        (np.float64(c[0]), np.float64(c[1]), np.float64(c[2])),
    )


@compiled
def _minus(a, b):
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


@compiled
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@compiled
def _cross(a, b):
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@compiled
def _squared_distance_to_segment(point, a, b):
    along, off = _minus(b, a), _minus(point, a)
    length = _dot(along, along)
    share = min(max(_dot(off, along) / length, 0.0), 1.0) if length > 0 else 0.0
    gap = (off[0] - share * along[0], off[1] - share * along[1], off[2] - share * along[2])
    return _dot(gap, gap)


@compiled
def _squared_distance(point, a, b, c):
    """Returns the squared distance of a point to a triangle: to its plane above the inside, else to the nearest edge."""
    normal = _cross(_minus(b, a), _minus(c, a))
    size = _dot(normal, normal)
    sides = (
        _dot(_cross(_minus(b, a), _minus(point, a)), normal),
        _dot(_cross(_minus(c, b), _minus(point, b)), normal),
        _dot(_cross(_minus(a, c), _minus(point, c)), normal),
    )
    if size > 0 and min(sides) >= 0:
        height = _dot(_minus(point, a), normal)
        return height * height / size
    nearest = min(_squared_distance_to_segment(point, a, b), _squared_distance_to_segment(point, b, c))
    return min(nearest, _squared_distance_to_segment(point, c, a))
