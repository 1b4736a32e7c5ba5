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

    Away from other parts the face that a vertex lies on tells. At the border of parts, and on membranes, where a vertex lies on
    none, it is the nearest of all original faces.

    Args:
        surface: the extracted surface, vertices in the same units as `vertices`.
        vertices: of the original mesh [V 3].
        faces: of the original mesh [F 3].
        label: of the original faces [F], none negative.
    """
    if (label == label[0]).all():
        return np.full(len(surface.faces), label[0], np.int16)
    found = _label_by_vertices(surface.faces, surface.source, label)
    unknown = np.flatnonzero(found == _UNKNOWN)
    if len(unknown):
        a, b, c = surface.vertices.astype(np.float64)[surface.faces[unknown].T]
        centroids = (a + b + c) / 3
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
def find_creases(surface, turned, normals, cosine):
    """Returns the edges [E 2] with original faces on their two sides whose normals are further apart than the angle of `cosine`.

    Args:
        surface: the extracted surface. An edge between vertices of grid edges crosses a crease, with one of them on each side.
        turned: edges along creases [T 4], with a vertex on each side: see `sharpen`.
        normals: unit normals of the original faces.
        cosine: of the smallest angle of a crease.
    """
    edges = np.zeros((1024, 2), dtype=np.int32)
    count = 0
    for along in turned:
        if _is_crease(surface.source[along[2]], surface.source[along[3]], normals, cosine):
            count, edges = _append(edges, count, along[0], along[1])
    faces = surface.faces
    for face in range(len(faces)):
        for side in range(3):
            a, b = faces[face, side], faces[face, (side + 1) % 3]
            if a < b < len(surface.outside) and _is_crease(surface.source[a], surface.source[b], normals, cosine):
                count, edges = _append(edges, count, a, b)
    return edges[:count].copy()


@compiled
def _is_crease(one, other, normals, cosine):
    """Tells whether two original faces, if known, bend by more than the angle."""
    if one < 0 or other < 0 or one == other:
        return False
    return normals[one, 0] * normals[other, 0] + normals[one, 1] * normals[other, 1] + normals[one, 2] * normals[other, 2] < cosine


@compiled
def _append(edges, count, a, b):
    """Adds an edge; returns how many there are and the (maybe larger) array."""
    if count == len(edges):
        edges = np.concatenate((edges, np.zeros_like(edges)))
    edges[count, 0], edges[count, 1] = a, b
    return count + 1, edges


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
def _label_by_vertices(surface_faces, source, label):
    """Returns the label that the vertices of a face and of all faces round them have in common [F'], or unknown."""
    # Of a vertex: the label of its source face, or unknown on a membrane.
    common = np.full(len(source), _UNKNOWN, dtype=np.int16)
    for vertex in range(len(source)):
        if source[vertex] >= 0:
            common[vertex] = label[source[vertex]]
    result = np.zeros(len(surface_faces), dtype=np.int16)
    is_border = np.zeros(len(source), dtype=np.bool_)
    for face in range(len(surface_faces)):
        a, b, c = surface_faces[face, 0], surface_faces[face, 1], surface_faces[face, 2]
        if common[a] != common[b] or common[b] != common[c]:
            is_border[a] = is_border[b] = is_border[c] = True
    for face in range(len(surface_faces)):
        a, b, c = surface_faces[face, 0], surface_faces[face, 1], surface_faces[face, 2]
        result[face] = _UNKNOWN if is_border[a] or is_border[b] or is_border[c] else common[a]
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
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@compiled
def _cross(a, b):
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]
