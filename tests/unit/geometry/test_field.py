"""The fast signed distance equals the plain one; queries are drawn as configured."""

import numpy as np
import pytest

from unipart.geometry.components import PartsConfig, find_parts
from unipart.geometry.extract import extract_surface
from unipart.geometry.field import (
    NEAR,
    SHARP,
    VOLUME,
    QueryConfig,
    SignedDistance,
    draw_queries,
    signed_distance_reference,
    winding_number_reference,
)
from unipart.geometry.load import load_scene
from unipart.geometry.mesh import Mesh, Similarity
from unipart.geometry.surface import sample_surface
from unipart.geometry.watertight import RemeshConfig, remesh
from unipart.rng import derive


def box(half=(0.9, 0.5, 0.3)) -> Mesh:
    corners = np.array([[x, y, z] for x in (-1.0, 1) for y in (-1, 1) for z in (-1, 1)]) * half
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
    return Mesh(corners, np.array(faces))


def from_field(function, resolution=28) -> Mesh:
    axis = np.linspace(-1.01, 1.01, resolution + 1)
    return extract_surface(function(*np.meshgrid(axis, axis, axis, indexing="ij")))


def sphere() -> Mesh:
    return from_field(lambda x, y, z: 0.8 - np.sqrt(x**2 + y**2 + z**2), resolution=14)


def torus() -> Mesh:
    return from_field(lambda x, y, z: 0.2 - np.hypot(np.hypot(x, z) - 0.6, y), resolution=16)


def nested() -> Mesh:
    """A hollow ball: a cavity whose surface points inwards."""
    return from_field(lambda x, y, z: 0.2 - np.abs(np.sqrt(x**2 + y**2 + z**2) - 0.7), resolution=14)


def star() -> Mesh:
    """Sharp concave and convex edges and needle-like corners."""
    ball = sphere()
    spikes = 0.35 + 0.6 * derive(0).random(len(ball.vertices))
    return Mesh(ball.vertices * spikes[:, None], ball.faces)


def sheet() -> Mesh:
    """A solid much thinner than it is wide."""
    return box((0.95, 0.002, 0.95))


def tetrahedron() -> Mesh:
    corners = np.array([[0, 0, 0], [0.9, 0, 0], [0, 0.9, 0], [0, 0, 0.05]])
    return Mesh(corners, np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]]))


def queries_round(mesh: Mesh, count: int) -> np.ndarray:
    points = sample_surface(mesh, 2000, derive(1)).points
    config = QueryConfig(volume=count // 4, near=count // 2, sharp=count // 4)
    return draw_queries(points, mesh.vertices[:50], config, derive(2))[0]


@pytest.mark.parametrize("make", [box, sphere, torus, nested, star, sheet, tetrahedron])
def test_equals_the_plain_reference(make):
    mesh = make()
    queries = queries_round(mesh, 600)
    distance, face = SignedDistance(mesh)(queries)
    expected = signed_distance_reference(mesh, queries)
    assert np.abs(np.abs(distance) - np.abs(expected)).max() <= 1e-5
    clear = np.abs(expected) > 1e-5
    assert ((distance > 0) == (expected > 0))[clear].all()
    own = np.array(
        [
            abs(signed_distance_reference(Mesh(mesh.vertices, mesh.faces[[f]]), q[None])[0])
            for q, f in zip(queries[::20], face[::20], strict=True)
        ]
    )
    assert np.abs(own - np.abs(distance[::20])).max() <= 1e-5, "the face returned is the nearest one"


def test_analytic_values_of_a_box():
    inside = np.array([[0, 0, 0], [0.8, 0, 0], [1.9, 0, 0], [0.9 + 3, 0.5 + 4, 0]], np.float32)
    distance, face = SignedDistance(box())(inside)
    np.testing.assert_allclose(distance, [0.3, 0.1, -1.0, -5.0], atol=1e-6)
    assert (box().face_normals()[face[1]] == [1, 0, 0]).all()


def test_a_query_does_not_depend_on_the_others():
    mesh = star()
    queries = queries_round(mesh, 2000)
    field = SignedDistance(mesh)
    distance, face = field(queries)
    order = derive(3).permutation(len(queries))
    shuffled = field(queries[order])
    np.testing.assert_array_equal(shuffled[0], distance[order])
    np.testing.assert_array_equal(shuffled[1], face[order])
    np.testing.assert_array_equal(field(queries[:1])[0], distance[:1])


def test_many_faces_fill_several_levels():
    mesh = from_field(lambda x, y, z: 0.3 - np.hypot(np.hypot(x, z) - 0.6, y), resolution=80)
    assert len(mesh.faces) > 8**4
    queries = derive(0).uniform(-1, 1, (4000, 3)).astype(np.float32)
    x, y, z = queries.T
    expected = 0.3 - np.hypot(np.hypot(x, z) - 0.6, y)
    assert np.abs(SignedDistance(mesh)(queries)[0] - expected).max() < 2e-3


def test_ties_are_settled_without_regard_to_the_other_queries():
    """The centre of a box and points on its diagonals and edges are equally far from several faces."""
    mesh = box((0.5, 0.5, 0.5))
    corners = mesh.vertices.astype(np.float32)
    queries = np.concatenate([np.zeros((5, 3), np.float32), *(corners * np.float32(t) for t in (0.25, 0.5, 1, 1.5, 2))])
    field = SignedDistance(mesh)
    distance, face = field(queries)
    for i in range(len(queries)):
        alone = field(queries[i : i + 1])
        assert alone[0][0] == distance[i]
        assert alone[1][0] == face[i]
    np.testing.assert_allclose(np.abs(distance), np.abs(signed_distance_reference(mesh, queries)), atol=1e-6)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 33])
def test_any_number_of_queries_fills_its_packets(count):
    queries = queries_round(star(), 400)[:count]
    expected = signed_distance_reference(star(), queries)
    np.testing.assert_allclose(SignedDistance(star())(queries)[0], expected, atol=1e-5)


def test_equals_igl_on_a_remeshed_assembly():
    """Two intersecting solids remeshed: thousands of faces, sharp creases; libigl's distance and winding number as judges."""
    import igl

    first = box((0.6, 0.3, 0.5))
    second = Mesh(box((0.2, 0.8, 0.2)).vertices + np.array([0.3, 0.1, 0.0]), first.faces)
    soup = Mesh(np.concatenate([first.vertices, second.vertices]), np.concatenate([first.faces, second.faces + 8]))
    mesh = remesh(soup, np.repeat([0, 1], 12), np.zeros(2, np.bool_), RemeshConfig(resolution=48)).mesh
    queries = queries_round(mesh, 20_000)
    distance, face = SignedDistance(mesh)(queries)
    vertices, faces = mesh.vertices.astype(np.float64), mesh.faces.astype(np.int64)
    squared = igl.point_mesh_squared_distance(queries.astype(np.float64), vertices, faces)[0]
    assert np.abs(np.abs(distance) - np.sqrt(squared)).max() <= 1e-5
    inside = np.asarray(igl.fast_winding_number(vertices, faces, queries.astype(np.float64))) > 0.5
    assert ((distance > 0) == inside)[np.abs(distance) > 1e-5].all()
    own = igl.point_mesh_squared_distance(queries[:1].astype(np.float64), vertices, faces[face[:1]])[0]
    assert np.sqrt(own) == pytest.approx(abs(distance[0]), abs=1e-6)


def test_degenerate_faces_do_no_harm():
    mesh = box()
    spoiled = Mesh(mesh.vertices, np.concatenate([[[0, 0, 0], [1, 1, 3]], mesh.faces, [[2, 5, 5]]]))
    queries = queries_round(mesh, 400)
    distance, face = SignedDistance(spoiled)(queries)
    np.testing.assert_array_equal(distance, SignedDistance(mesh)(queries)[0])
    assert set(face.tolist()) <= set(range(2, 14))


def test_needles_are_measured_exactly():
    """Triangles whose height is a millionth of their length, edge to edge."""
    ends = np.array([[-0.9, 0, 0], [0.9, 0, 0], [0.1, 1e-6, 0], [0.2, 0, 1e-6]])
    mesh = Mesh(ends, np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]]))
    queries = derive(5).uniform(-1, 1, (500, 3)).astype(np.float32)
    np.testing.assert_allclose(
        np.abs(SignedDistance(mesh)(queries)[0]), np.abs(signed_distance_reference(mesh, queries)), atol=1e-6
    )


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="faces"):
        SignedDistance(Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64)))
    with pytest.raises(ValueError, match="area"):
        SignedDistance(Mesh(box().vertices, np.array([[0, 0, 1], [2, 2, 2]])))
    for bad in (np.nan, np.inf, 1e12):
        with pytest.raises(ValueError, match="finite"):
            SignedDistance(box())(np.array([[0, bad, 0]], np.float32))
    assert SignedDistance(box())(np.zeros((0, 3), np.float32))[0].shape == (0,)


def test_reference_signs():
    """Gate of model.md §3.4 step 8: sphere, cavity, inverted cube, open hemisphere."""
    centre = np.zeros((1, 3))
    assert signed_distance_reference(sphere(), centre)[0] > 0
    assert signed_distance_reference(nested(), centre)[0] < 0
    inverted = Mesh(box().vertices, box().faces[:, ::-1])
    assert winding_number_reference(inverted, centre)[0] == pytest.approx(-1)
    ball = sphere()
    half = ball.select(ball.vertices[ball.faces][:, :, 1].mean(axis=1) < 0)
    assert winding_number_reference(half, np.array([[0, -0.4, 0], [0, 0.4, 0]])) == pytest.approx([0.66, 0.34], abs=0.1)


def test_queries_have_the_configured_counts_and_spread():
    surface, edge = np.array([[0.8, 0, 0]], np.float32), np.array([[0, 0.8, 0]], np.float32)
    config = QueryConfig(volume=3000, near=4000, sharp=1200)
    points, kind = draw_queries(surface, edge, config, derive(1))
    assert points.dtype == np.float32
    assert kind.dtype == np.uint8
    assert len(points) == len(kind) == config.total
    assert np.bincount(kind).tolist() == [3000, 4000, 1200]
    volume = points[kind == VOLUME]
    assert 1.0 < np.abs(volume).max() <= 1.05
    assert np.abs(volume.mean(axis=0)).max() < 0.05
    away = np.linalg.norm(points[kind == NEAR] - surface, axis=1)
    assert (away < 4 * 0.005).mean() == pytest.approx(0.5, abs=0.02), "half of them at sigma .005, half at .05"
    assert away.max() < 5 * 0.05
    assert np.median(np.linalg.norm(points[kind == SHARP] - edge, axis=1)) < 0.03


def test_queries_without_sharp_points_and_reproducibility():
    surface = sample_surface(sphere(), 100, derive(0)).points
    config = QueryConfig(volume=10, near=20, sharp=30)
    nothing = np.zeros((0, 3), np.float32)
    points, kind = draw_queries(surface, nothing, config, derive(1))
    assert np.bincount(kind).tolist() == [10, 50]
    assert (draw_queries(surface, nothing, config, derive(1))[0] == points).all()
    assert (draw_queries(surface, nothing, config, derive(2))[0] != points).any()
    with pytest.raises(ValueError, match="surface points"):
        draw_queries(nothing, nothing, config, derive(0))


def test_signs_hold_away_from_the_origin():
    mesh = torus().transformed(Similarity.of(0.1, (0.8, -0.8, 0.8)))
    queries = queries_round(mesh, 400)
    expected = signed_distance_reference(mesh, queries)
    assert np.abs(SignedDistance(mesh)(queries)[0] - expected).max() <= 1e-5


@pytest.mark.corpus
@pytest.mark.parametrize(
    "name", ["kaykit-city/car_sedan.gltf", "quaternius/crops__Tomato_Harvested.glb", "bullet3/franka_panda.glb"]
)
def test_equals_igl_on_real_meshes(corpus, name):
    import igl

    scene = load_scene(corpus / "dev" / name)
    parted = find_parts(scene.vertices, scene.faces, scene.node_of_face, scene.node_names, PartsConfig(max_parts=10_000))
    mesh = remesh(parted.mesh, parted.component_of_face, parted.open_component, RemeshConfig(resolution=96)).mesh
    queries = queries_round(mesh, 20_000)
    distance, _ = SignedDistance(mesh)(queries)
    points, vertices, faces = queries.astype(np.float64), mesh.vertices.astype(np.float64), mesh.faces.astype(np.int64)
    expected = np.sqrt(igl.point_mesh_squared_distance(points, vertices, faces)[0])
    assert np.abs(np.abs(distance) - expected).max() <= 1e-5
    inside = np.asarray(igl.fast_winding_number(vertices, faces, points)) > 0.5
    assert ((distance > 0) == inside)[expected > 1e-5].all()
