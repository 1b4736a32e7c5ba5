"""Exploding moves parts apart and changes nothing else."""

import numpy as np

from unipart.geometry.explode import explode
from unipart.geometry.mesh import Mesh

TRIANGLE = Mesh(np.array([[-0.1, -0.1, 0.0], [0.1, -0.1, 0.0], [0.0, 0.1, 0.0]], np.float32), np.array([[0, 1, 2]]))


def at(x: float, y: float, z: float) -> Mesh:
    return Mesh(TRIANGLE.vertices + np.array([x, y, z], np.float32), TRIANGLE.faces)


def test_parts_move_away_from_the_object_centre_by_the_factor():
    parts = [at(1, 0, 0), at(-1, 0, 0), at(0, 0, 0)]
    moved = explode(parts, factor=0.5)
    shift = [new.vertices[0] - old.vertices[0] for new, old in zip(moved, parts, strict=True)]
    np.testing.assert_allclose(shift, [[0.5, 0, 0], [-0.5, 0, 0], [0, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(moved[0].vertices - moved[0].vertices[0], parts[0].vertices - parts[0].vertices[0], atol=1e-6)
    assert moved[0].vertices.dtype == np.float32


def test_an_object_off_the_origin_explodes_about_its_own_centre():
    moved = explode([at(11, 0, 0), at(9, 0, 0)], factor=1.0)
    np.testing.assert_allclose([mesh.vertices[:, 0].mean() for mesh in moved], [12, 8], atol=1e-5)


def test_factor_zero_and_empty_meshes():
    empty = Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int64))
    parts = [at(1, 0, 0), empty, at(0, 2, 0)]
    for old, new in zip(parts, explode(parts, factor=0.0), strict=True):
        np.testing.assert_array_equal(old.vertices, new.vertices)
    assert explode([]) == []
    assert len(explode([empty])[0].vertices) == 0
