"""Gate 4: the mesh is where the field is."""

import numpy as np
import pytest
import trimesh

from unipart.geometry.extract import drop_small_components, extract_surface, vertex_components
from unipart.geometry.mesh import Mesh, Similarity, concatenate


def sphere_field(resolution: int, radius: float, centre=(0.0, 0.0, 0.0), box: float = 1.01) -> np.ndarray:
    axis = np.linspace(-box, box, resolution + 1)
    x, y, z = np.meshgrid(*(axis - shift for shift in centre), indexing="ij")
    return (radius - np.sqrt(x**2 + y**2 + z**2)).astype(np.float32)


@pytest.mark.parametrize("resolution", [64, 128])
def test_gate_4_sphere(resolution):
    mesh = extract_surface(sphere_field(resolution, 0.7))
    radius = np.linalg.norm(mesh.vertices, axis=1)
    cell = 2 * 1.01 / resolution
    assert np.abs(radius - 0.7).max() < cell / 2
    assert np.abs(mesh.vertices.mean(axis=0)).max() < 1e-3
    assert mesh.volume() == pytest.approx(4 / 3 * np.pi * 0.7**3, rel=0.01), "faces point out, scale is right"


def test_off_centre_sphere_stays_in_place():
    centre = np.array([0.25, -0.4, 0.1])
    mesh = extract_surface(sphere_field(64, 0.3, centre, box=1.05), box=1.05)
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices - centre, axis=1), 0.3, atol=2e-3)


def test_every_edge_has_two_opposite_faces():
    field = np.maximum(sphere_field(40, 0.5, (0.3, 0, 0)), sphere_field(40, 0.5, (-0.3, 0, 0)))
    faces = extract_surface(field).faces
    half_edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    forward = np.sort(half_edges @ np.array([len(half_edges), 1]))
    backward = np.sort(half_edges @ np.array([1, len(half_edges)]))
    assert (np.diff(forward) > 0).all()
    assert (forward == backward).all()


def test_a_field_that_goes_on_beyond_the_box_gives_a_closed_mesh_that_ends_there():
    corner, box = sphere_field(40, 0.9, (0.7, 0.6, 0.5)), 1.01
    mesh = extract_surface(corner, box)
    assert trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).is_watertight
    assert mesh.vertices.max() == pytest.approx(box, abs=1e-3)
    radius = np.linalg.norm(mesh.vertices - np.float32([0.7, 0.6, 0.5]), axis=1)
    within = (mesh.vertices < box - 2.02 / 40).all(axis=1)
    assert np.abs(radius[within] - 0.9).max() < 0.02, "inside the box nothing has moved"


def test_tsdf_clipping_and_level_keep_the_surface():
    field = np.clip(128 * sphere_field(96, 0.6), -1, 1)
    radius = np.linalg.norm(extract_surface(field).vertices, axis=1)
    assert np.abs(radius - 0.6).max() < 1.01 / 96
    inner = extract_surface(sphere_field(64, 0.6), level=0.2)
    assert np.linalg.norm(inner.vertices, axis=1).mean() == pytest.approx(0.4, abs=0.01)


def test_nothing_crosses_gives_an_empty_mesh():
    for value in (-1.0, 1.0):
        mesh = extract_surface(np.full((9, 9, 9), value, np.float32))
        assert mesh.faces.shape == (0, 3)
        assert mesh.vertices.shape == (0, 3)
    beyond = np.full((9, 9, 9), -1, np.float32)
    beyond[0, 4, 4] = 0.5
    assert len(extract_surface(beyond).faces) == 0, "what is inside on the box alone has no volume"


def test_wrong_grids_are_refused():
    with pytest.raises(ValueError, match="cube"):
        extract_surface(np.zeros((4, 4, 5), np.float32))
    field = sphere_field(8, 0.5)
    field[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        extract_surface(field)


def test_small_components_go_and_the_largest_stays():
    ball = extract_surface(sphere_field(24, 0.7))
    crumb = ball.transformed(Similarity.of(0.05, (0.9, 0.9, 0.9)))
    both = concatenate([crumb, ball])
    assert len(np.unique(vertex_components(both))) == 2
    kept = drop_small_components(both, 0.01)
    assert len(kept.faces) == len(ball.faces)
    assert kept.vertices.max() < 0.8
    assert kept.part_of_face is not None
    assert (kept.part_of_face == 1).all()
    assert len(drop_small_components(both, 1e-4).faces) == len(both.faces)
    assert len(drop_small_components(both, 2.0).faces) == len(ball.faces)
    assert len(drop_small_components(Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int32)), 0.5).faces) == 0
