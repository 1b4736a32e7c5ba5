"""Surface and edge samples lie where they should, in the right proportions."""

import numpy as np
import pytest

from unipart.geometry.mesh import Mesh
from unipart.geometry.surface import find_sharp_edges, sample_edges, sample_surface
from unipart.rng import derive


def box(size=(2.0, 2.0, 2.0)) -> Mesh:
    corners = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)]) * size
    faces = [
        [0, 1, 3],
        [0, 3, 2],
        [4, 6, 7],
        [4, 7, 5],
        [0, 4, 5],
        [0, 5, 1],
        [2, 3, 7],
        [2, 7, 6],
        [0, 2, 6],
        [0, 6, 4],
        [1, 5, 7],
        [1, 7, 3],
    ]
    return Mesh(corners, np.array(faces), np.arange(12) // 6)


def test_points_lie_on_their_face_with_its_normal():
    mesh = box()
    draw = sample_surface(mesh, 2000, derive(0))
    corners, normals = mesh.vertices[mesh.faces[draw.faces]], mesh.face_normals()[draw.faces]
    height = np.einsum("ij,ij->i", draw.points - corners[:, 0], normals)
    assert np.abs(height).max() < 1e-6
    assert np.abs(draw.points).max() <= 1 + 1e-6
    np.testing.assert_allclose(draw.normals, normals, atol=1e-6)
    assert (np.einsum("ij,ij->i", draw.points, draw.normals) > 0.9).all(), "normals of a box about 0 point out"
    assert (draw.points.dtype, draw.normals.dtype, draw.faces.dtype) == (np.float32, np.float32, np.int32)


def test_density_is_uniform_by_area_and_inside_a_triangle():
    mesh = box((4.0, 1.0, 1.0))
    draw = sample_surface(mesh, 40_000, derive(1))
    share = np.bincount(draw.faces, minlength=12) / 40_000
    np.testing.assert_allclose(share, mesh.face_areas() / mesh.face_areas().sum(), atol=0.01)
    triangle = Mesh(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), np.array([[0, 1, 2]]))
    centre = sample_surface(triangle, 40_000, derive(2)).points.mean(axis=0)
    np.testing.assert_allclose(centre, [1 / 3, 1 / 3, 0], atol=0.005)


def test_same_generator_same_points():
    one, other, third = (sample_surface(box(), 50, derive(seed)).points for seed in (3, 3, 4))
    assert (one == other).all()
    assert (one != third).any()


def test_faces_without_area_are_never_drawn_and_no_area_is_an_error():
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [2, 0, 0]])
    draw = sample_surface(Mesh(vertices, np.array([[0, 1, 3], [0, 1, 2], [0, 3, 1]])), 500, derive(5))
    assert set(draw.faces.tolist()) == {1}
    with pytest.raises(ValueError, match="without area"):
        sample_surface(Mesh(vertices, np.array([[0, 1, 3]])), 5, derive(0))


def test_sharp_edges_of_a_box_are_its_twelve_edges():
    mesh = box()
    edges = find_sharp_edges(mesh)
    assert len(edges) == 12
    apart = (mesh.vertices[edges[:, 0]] != mesh.vertices[edges[:, 1]]).sum(axis=1)
    assert (apart == 1).all(), "face diagonals are not sharp"
    assert len(find_sharp_edges(mesh, angle_degrees=91.0)) == 0


def test_edge_samples_lie_on_edges_and_show_both_sides():
    mesh = box((4.0, 1.0, 1.0))
    draw = sample_edges(mesh, find_sharp_edges(mesh)[:, ::-1], 4000, derive(0))
    on_side = np.isclose(np.abs(draw.points), np.array([2, 0.5, 0.5]), atol=1e-6).sum(axis=1)
    assert (on_side >= 2).all()
    along_x = ~np.isclose(np.abs(draw.points[:, 0]), 2)
    assert abs(along_x.mean() - 16 / 24) < 0.03, "uniform by length"
    np.testing.assert_allclose(draw.normals, mesh.face_normals()[draw.faces], atol=1e-6)
    top_front = np.isclose(draw.points[:, 1], 0.5) & np.isclose(draw.points[:, 2], 0.5)
    assert abs((draw.normals[top_front, 1] > 0.5).mean() - 0.5) < 0.1


def test_only_the_edges_asked_for_are_drawn():
    """The diagonal of a face joins two ends of wanted edges and is not wanted itself; a pair that is no edge is ignored."""
    mesh = box()
    side = np.array([[0, 1], [1, 3], [3, 2], [2, 0], [0, 7]])
    points = sample_edges(mesh, side, 500, derive(0)).points
    assert np.isclose(points[:, 0], -1).all(), "these four lie on one side"
    assert (np.isclose(np.abs(points[:, 1:]), 1).any(axis=1)).all()


def test_no_edges_no_points():
    empty = np.zeros((0, 2), np.int32)
    draw = sample_edges(box(), empty, 100, derive(0))
    assert draw.points.shape == (0, 3)
    assert len(draw.faces) == 0
