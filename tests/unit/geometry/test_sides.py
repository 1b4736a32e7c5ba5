"""Winding numbers of closed surfaces at single points."""

import numpy as np
import trimesh

from unipart.geometry._sides import count_crossings
from unipart.geometry.field import winding_number_reference
from unipart.geometry.mesh import Mesh, concatenate
from unipart.rng import derive


def of_trimesh(shape, offset=(0.0, 0.0, 0.0)) -> Mesh:
    return Mesh(np.asarray(shape.vertices) + offset, np.asarray(shape.faces))


def test_the_numbers_are_those_of_the_reference():
    ball = of_trimesh(trimesh.creation.icosphere(3), (0.4, 0, 0))
    cavity = Mesh(ball.vertices * 0.5, ball.faces[:, ::-1])
    mesh = concatenate([ball, cavity, of_trimesh(trimesh.creation.box((2, 0.5, 0.5)))])
    points = derive(0).uniform(-1.5, 1.5, (4000, 3))
    expected = winding_number_reference(mesh, points)
    np.testing.assert_array_equal(count_crossings(mesh.vertices, mesh.faces, points), np.rint(expected))
    assert set(np.rint(expected).astype(int)) == {0, 1, 2}


def test_rays_through_edges_and_vertices_count_once():
    box = of_trimesh(trimesh.creation.box((2, 2, 2)))
    y, z = np.meshgrid([-0.5, 0.0, 0.5], [-0.5, 0.0, 0.5])
    inner = np.stack([np.full(9, -0.5), y.ravel(), z.ravel()], axis=1)  # the diagonals of the sides pass through these
    aside = np.array([2.0, 0.0, 0.0])
    np.testing.assert_array_equal(count_crossings(box.vertices, box.faces, inner), 1)
    np.testing.assert_array_equal(count_crossings(box.vertices, box.faces, inner - aside), 0)
    np.testing.assert_array_equal(count_crossings(box.vertices, box.faces, inner + aside), 0)


def test_nothing_has_no_sides():
    box = of_trimesh(trimesh.creation.box((1, 1, 1)))
    assert count_crossings(box.vertices, box.faces[:0], np.zeros((2, 3))).tolist() == [0, 0]
    assert count_crossings(box.vertices, box.faces, np.zeros((0, 3))).shape == (0,)
