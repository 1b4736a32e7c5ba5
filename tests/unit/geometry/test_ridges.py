"""Sharp edges and corners of the remesh: they are where they were, and the surface stays sound."""

import numpy as np
import pytest
import scipy.spatial
import trimesh

from unipart.geometry.field import SignedDistance
from unipart.geometry.mesh import Mesh, concatenate
from unipart.geometry.surface import find_sharp_edges, sample_edges, sample_surface
from unipart.geometry.watertight import RemeshConfig, Remeshed, check_watertight, remesh
from unipart.rng import derive

TURN = trimesh.transformations.rotation_matrix(0.7, (1, 2, 3))[:3, :3]


def of_trimesh(shape) -> Mesh:
    return Mesh(np.asarray(shape.vertices) @ TURN.T, np.asarray(shape.faces))


def remeshed(*meshes: Mesh, resolution: int = 64) -> Remeshed:
    whole = concatenate(meshes)
    return remesh(whole, whole.part_of_face, np.zeros(len(meshes), bool), RemeshConfig(resolution=resolution))


def distances(points: np.ndarray, result: Remeshed) -> np.ndarray:
    """Returns distances to the result in voxels."""
    return np.abs(SignedDistance(result.mesh)(points)[0]) / result.stats["voxel"]


@pytest.mark.parametrize("resolution", [32, 64, 100])
def test_edges_and_corners_of_a_turned_box_are_kept(resolution):
    box = of_trimesh(trimesh.creation.box((2, 1.2, 0.7)))
    result = remeshed(box, resolution=resolution)
    assert check_watertight(result.mesh.faces).watertight
    surface = distances(sample_surface(box, 20_000, derive(0)).points, result)
    assert np.percentile(surface, 99) < 0.1
    # Where an edge just enters a cell of no other surface it is cut off still.
    assert surface.max() < 0.6
    edges = distances(sample_edges(box, find_sharp_edges(box), 4000, derive(0)).points, result)
    assert edges.mean() < 0.06
    assert np.median(edges) < 0.01
    assert result.mesh.volume() == pytest.approx(box.volume(), rel=0.002)


def test_concave_edges_and_the_curves_where_parts_meet_are_kept():
    column, plate = trimesh.creation.cylinder(0.35, 1.8, sections=5), trimesh.creation.box((1.6, 1.6, 0.3))
    parts = [of_trimesh(column), of_trimesh(plate)]
    result = remeshed(*parts)
    assert check_watertight(result.mesh.faces).watertight
    # The outline of the column on the plate's upper side.
    ring = np.asarray(column.vertices)[np.abs(np.asarray(column.vertices)[:, 0]) > 1e-6]
    angle = np.unique(np.arctan2(ring[:, 1], ring[:, 0]).round(9))
    corners = 0.35 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    along = np.linspace(0, 1, 40)[:, None]
    curve = np.concatenate([a * (1 - along) + b * along for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True)])
    curve = np.column_stack([curve, np.full(len(curve), 0.15)]) @ TURN.T
    assert np.median(distances(curve, result)) < 0.02
    assert distances(curve, result).mean() < 0.06
    creases = result.mesh.vertices[result.sharp_edges].mean(axis=1)
    off = np.linalg.norm(creases[:, None] - curve[None], axis=-1).min(axis=0) / result.stats["voxel"]
    assert off.max() < 1.5, "the curve is among the sharp edges"


def test_a_smooth_surface_is_left_as_it_is():
    ball = of_trimesh(trimesh.creation.icosphere(5))
    result = remeshed(ball)
    assert len(result.sharp_edges) == 0
    euler = len(result.mesh.vertices) - len(result.mesh.faces) // 2
    assert euler == 2
    assert distances(sample_surface(ball, 4000, derive(0)).points, result).max() < 0.1


@pytest.mark.parametrize("seed", range(4))
def test_any_soup_of_sharp_things_stays_sound(seed):
    rng = derive(seed, "soup")
    parts = []
    for _ in range(12):
        shape = trimesh.creation.box(rng.uniform(0.05, 0.8, 3))
        turn = trimesh.transformations.rotation_matrix(rng.uniform(0, 6), rng.normal(size=3))[:3, :3]
        parts.append(Mesh(np.asarray(shape.vertices) @ turn.T + rng.uniform(-0.5, 0.5, 3), np.asarray(shape.faces)))
    result = remeshed(*parts, resolution=48)
    assert check_watertight(result.mesh.faces).watertight
    assert count_crossing_faces(result) == 0


def count_crossing_faces(result: Remeshed) -> int:
    """Returns how many edges of the surface pierce a face that they have no vertex in common with."""
    points = result.mesh.vertices.astype(float) / result.stats["voxel"]
    faces = result.mesh.faces
    edges = np.unique(np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1), axis=0)
    centres = points[faces].mean(axis=1)
    near = scipy.spatial.cKDTree(centres).query_ball_point(points[edges].mean(axis=1), 2.5)
    edge = np.repeat(np.arange(len(edges)), [len(found) for found in near])
    face = np.concatenate([np.asarray(found, int) for found in near])
    apart = (faces[face][:, :, None] != edges[edge][:, None]).all(axis=(1, 2))
    edge, face = edge[apart], face[apart]
    start, stop = points[edges[edge, 0]], points[edges[edge, 1]]
    a, b, c = (points[faces[face, i]] for i in range(3))

    def volume(p, q, r, s):
        return np.einsum("ij,ij->i", np.cross(q - p, r - p), s - p)

    ends = volume(a, b, c, start) * volume(a, b, c, stop) < -1e-12
    sides = np.stack([volume(start, stop, a, b), volume(start, stop, b, c), volume(start, stop, c, a)])
    return int((ends & ((sides > 1e-9).all(axis=0) | (sides < -1e-9).all(axis=0))).sum())
