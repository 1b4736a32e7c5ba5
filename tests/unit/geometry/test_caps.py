"""The winding number of an open surface by its boundary: equal to the sum over its faces."""

import numpy as np
import pytest

from unipart.geometry._caps import boundary_edges, close_holes, winding_number
from unipart.geometry._hash import edge_table
from unipart.geometry.field import winding_number_reference
from unipart.geometry.mesh import Mesh
from unipart.geometry.procedural import build
from unipart.rng import derive


def soup(num_faces: int, seed: int) -> Mesh:
    rng = derive(seed, "soup")
    return Mesh(rng.normal(size=(num_faces + 2, 3)), rng.integers(num_faces + 2, size=(num_faces, 3)))


@pytest.mark.parametrize("num_faces", [1, 17, 300])
def test_it_is_the_sum_of_the_solid_angles(num_faces):
    """More points than a block holds, more faces than the product takes before it is shortened, many full turns."""
    mesh, points = soup(num_faces, num_faces), derive(0, "points").normal(size=(200, 3))
    winding = winding_number(mesh.vertices, mesh.faces, points)
    np.testing.assert_allclose(winding, winding_number_reference(mesh, points), atol=1e-9)
    assert num_faces < 300 or np.abs(winding).max() > 1.5


def test_the_range_of_the_product_suffices_for_a_thousand_voxels():
    mesh, points = soup(200, 3), derive(0, "points").normal(size=(50, 3))
    winding = winding_number(mesh.vertices * 1000, mesh.faces, points * 1000)
    np.testing.assert_allclose(winding, winding_number_reference(mesh, points), atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_caps_close_any_surface(seed):
    """Holes, faces that share an edge three times, loose faces: with the caps every edge runs both ways equally often."""
    mesh = build("chair", seed)[0].mesh
    keep = derive(seed, "holes").random(len(mesh.faces)) < 0.6
    faces = np.concatenate([mesh.faces[keep], mesh.faces[keep][:3]]).astype(np.int64)
    boundary = boundary_edges(faces)
    points, caps = close_holes(mesh.vertices.astype(np.float64), boundary)
    assert len(caps) == len(boundary) > 0
    used = np.unique(boundary)
    joined = np.where(caps < len(used), used[np.minimum(caps, len(used) - 1)], caps + len(mesh.vertices))
    assert (edge_table(np.concatenate([faces, joined])).net == 0).all()
    np.testing.assert_array_equal(points[: len(used)], mesh.vertices[used])


def test_a_closed_surface_has_no_boundary():
    faces = build("rocket", 0)[0].mesh.faces.astype(np.int64)
    assert len(boundary_edges(faces)) == 0
