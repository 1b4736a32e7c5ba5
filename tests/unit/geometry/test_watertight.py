"""The winding-number remesh against the plain winding number, and as a promise: always watertight."""

import numpy as np
import pytest
import scipy.sparse.csgraph
import trimesh

from unipart.errors import Reject
from unipart.geometry import _bits, _hash, _marching, _placing, _provenance, _ridges, _scan, _shell, _winding
from unipart.geometry.components import PartsConfig, find_parts
from unipart.geometry.load import load_scene
from unipart.geometry.mesh import Mesh, Similarity, concatenate
from unipart.geometry.watertight import RemeshConfig, Remeshed, check_watertight, remesh, remesh_dense, warm_up
from unipart.rng import derive

igl = pytest.importorskip("igl")


@pytest.fixture(autouse=True, scope="module")
def _compiled():
    warm_up()


def of_trimesh(shape, offset=(0.0, 0.0, 0.0)) -> Mesh:
    return Mesh(np.asarray(shape.vertices) + offset, np.asarray(shape.faces))


def box(size, centre=(0.0, 0.0, 0.0)) -> Mesh:
    return of_trimesh(trimesh.creation.box(size), centre)


def sphere(radius=1.0, centre=(0.0, 0.0, 0.0), subdivisions=3) -> Mesh:
    return of_trimesh(trimesh.creation.icosphere(subdivisions, radius), centre)


def without(mesh: Mesh, hole) -> Mesh:
    """Drops the faces whose centroid satisfies `hole`."""
    return mesh.select(~hole(mesh.vertices[mesh.faces].mean(axis=1)))


def solid_of(*meshes: Mesh, is_open=False, **config) -> Remeshed:
    """Remeshes meshes as one component and one part each; `is_open`: for all, or one each."""
    whole = concatenate(meshes)
    return remesh(
        whole, whole.part_of_face, np.resize(np.array(is_open), len(meshes)), RemeshConfig(**{"resolution": 48, **config})
    )


def assert_watertight(result: Remeshed):
    assert check_watertight(result.mesh.faces).watertight
    assert result.mesh.volume() > 0
    assert result.mesh.volume() == pytest.approx(result.stats["volume"], rel=1e-3)
    assert len(result.mesh.faces) == len(result.mesh.part_of_face)


def inside_bits(mesh: Mesh, is_open: bool, num_cells: int):
    """Returns the inside bits as the remesh decides them, and winding numbers at all corners (with the corners in voxels)."""
    grid = _scan.Grid(num_cells, 2.4 / num_cells, np.full(3, -1.2 - 0.0137))
    lines = _scan.find_crossings(mesh.vertices, mesh.faces, grid)
    bits = _bits.empty_bits(num_cells)
    membrane, queries = _winding.no_membrane(), 0
    if is_open:
        membrane, queries = _winding.find_membrane(mesh.vertices, mesh.faces, lines, grid, 2.0)
    _winding.fill_inside(lines[0], membrane, is_open, num_cells, bits)
    corners = np.arange((num_cells + 1) ** 3)
    points = grid.to_mesh(_bits.corner_positions(corners, num_cells))
    tree = igl.FastWindingNumberBVH()
    tree.init(mesh.vertices, mesh.faces, order=2)
    return _bits.are_set(bits, num_cells, corners), np.asarray(tree.winding_number(points, 3.0)), queries


def test_signs_of_closed_components_are_those_of_the_winding_number():
    mesh = concatenate([sphere(0.8), box((1.2, 0.5, 0.5), (0.4, 0, 0)), sphere(0.3, (-0.3, 0.6, 0), 1)])
    inside, winding, _ = inside_bits(mesh, False, 64)
    np.testing.assert_array_equal(inside, winding > 0.5)


HOLES = {
    "hemisphere": without(sphere(), lambda c: c[:, 1] > 0.02),
    "tube": without(of_trimesh(trimesh.creation.cylinder(0.4, 1.6, sections=24)), lambda c: np.abs(c[:, 2]) > 0.79),
    "a tenth of the faces missing": without(sphere(), lambda c: derive(0, "holes").random(len(c)) < 0.1),
    "box without two sides, wound inwards": without(
        Mesh(box((1, 1, 1)).vertices, box((1, 1, 1)).faces[:, ::-1]), lambda c: c[:, 0] > 0.4
    ),
}


@pytest.mark.parametrize("name", HOLES)
def test_signs_of_open_components_are_those_of_the_winding_number(name):
    inside, winding, queries = inside_bits(HOLES[name], True, 48)
    wrong = inside != (np.abs(winding) > 0.5)
    assert np.abs(np.abs(winding[wrong]) - 0.5).max(initial=0) < 0.01
    assert 0.001 < inside.mean() < 0.5
    assert queries < len(inside)


@pytest.mark.parametrize(("gap", "moved"), [(10.0, 0.05), (0.04, 0.02)])
def test_evaluations_keep_clear_of_faces(gap, moved):
    """A face through a corner, and another one `gap` voxels behind it: the point goes to 0.05 voxels or to the middle."""
    sheet = np.array([(8.0, -40.0, -40.0), (8.0, 60.0, -40.0), (8.0, -40.0, 60.0)])
    mesh = concatenate([Mesh(sheet + np.array([shift, 0, 0]), np.array([(0, 1, 2)])) for shift in (0.0, gap)])
    lines = _scan.find_crossings(mesh.vertices, mesh.faces, _scan.Grid(16, 1.0, np.zeros(3)))
    corner = _bits.corner_numbers(np.array([(8, 5, 5)]), 16)
    point = _winding._clear_of_faces(corner, lines, 16, np.float32(0.05))[0]
    np.testing.assert_allclose(np.abs(point - (8, 5, 5)), (moved, 0, 0), atol=1e-5)


@pytest.mark.parametrize("name", HOLES)
def test_holes_are_capped(name):
    result = solid_of(HOLES[name], is_open=True)
    assert_watertight(result)
    assert result.stats["num_open_components"] == 1
    assert "volume_ratio" not in result.stats


@pytest.mark.parametrize("resolution", [64, 128])
def test_a_closed_surface_is_met_to_hundredths_of_a_voxel(resolution):
    mesh = sphere(subdivisions=4)
    result = solid_of(mesh, resolution=resolution)
    assert_watertight(result)
    voxel = 2 / (resolution - 6)
    centroids = result.mesh.vertices[result.mesh.faces].mean(axis=1).astype(float)
    distance = np.sqrt(igl.point_mesh_squared_distance(centroids, mesh.vertices, mesh.faces)[0]) / voxel
    assert distance.mean() < 0.03
    assert distance.max() < 0.5
    assert result.stats["volume_ratio"] == pytest.approx(1, abs=2e-3)
    assert result.stats["winding_queries"] == 0


def test_the_plain_reference_gives_the_same_solid():
    parts = [sphere(0.8), box((1.6, 0.4, 0.4))]
    result = solid_of(*parts, resolution=40)
    reference = remesh_dense(concatenate(parts), 40)
    assert check_watertight(reference.faces).watertight
    assert result.mesh.volume() == pytest.approx(reference.volume(), rel=0.02)


@pytest.mark.parametrize("seed", range(4))
def test_random_triangles_become_watertight(seed):
    rng = derive(seed, "soup")
    count = 300
    corners = rng.uniform(-1, 1, (count, 1, 3)) + rng.normal(0, 0.3, (count, 3, 3))
    mesh = Mesh(corners.reshape(-1, 3), np.arange(3 * count).reshape(-1, 3))
    for is_open in (True, False):  # wrong flags too must not break the promise
        assert_watertight(remesh(mesh, np.arange(count), np.full(count, is_open), RemeshConfig(resolution=48)))


def test_overlapping_sheets_do_not_leak_out_of_the_grid():
    """Four sheets of one orientation: the summed winding number exceeds 1/2 far outside their box."""
    sheet = np.array([(-1.0, -1.0, 0.0), (1.0, -1.0, 0.0), (1.0, 1.0, 0.0), (-1.0, 1.0, 0.0)])
    stack = [Mesh(sheet + np.array([0, 0, 0.2 * level]), np.array([(0, 1, 2), (0, 2, 3)])) for level in range(4)]
    assert_watertight(solid_of(*stack, is_open=True))


def test_a_sheet_becomes_a_thin_shell():
    sheet = Mesh(
        np.array([(-1.0, -1.0, 0.0), (1.0, -1.0, 0.3), (1.0, 1.0, 0.3), (-1.0, 1.0, 0.0)]), np.array([(0, 1, 2), (0, 2, 3)])
    )
    result = solid_of(sheet, is_open=True)
    assert_watertight(result)
    thickness = result.mesh.volume() / sheet.face_areas().sum() / (2 / 42)
    assert thickness == pytest.approx(1.5, rel=0.15)
    assert result.stats["shell_used"] > 0
    with pytest.raises(Reject, match="empty_remesh"):
        solid_of(sheet, is_open=True, thin_shell=False)


def test_a_blade_thinner_than_a_voxel_survives_and_the_solid_beside_it_is_not_thickened():
    handle, blade = box((0.4, 0.4, 0.4)), box((2, 0.3, 0.004), (1.2, 0, 0.01))
    result = solid_of(handle, blade, resolution=64)
    assert_watertight(result)
    assert result.stats["parts_seen"] == 2
    assert result.mesh.vertices[:, 0].max() > 2.1
    lower = result.mesh.vertices[result.mesh.vertices[:, 0] < -0.05]
    assert lower[:, 1].max() == pytest.approx(0.2, abs=0.01)


def test_solid_objects_fire_no_shell_and_no_debris():
    result = solid_of(box((1, 1, 1)), sphere(0.4, (0.5, 0.5, 0)))
    assert result.stats["shell_used"] == 0
    assert result.stats["dropped_components"] == 0


def test_a_rod_thinner_than_a_voxel_stays_in_one_piece():
    """Slanted, it meets a corner here and there: the solid alone is a row of crumbs, or of dashes."""
    turn = trimesh.transformations.rotation_matrix(0.5, (0.2, 1, 0.4))[:3, :3]
    for thickness in (0.6, 0.8, 1.0):
        rod = box((1.8, thickness * 2 / 58, thickness * 2 / 58))
        rod = Mesh(rod.vertices @ turn.T, rod.faces)
        result = solid_of(box((0.3, 0.3, 0.3), (0, 0, 0.9)), rod, resolution=64)
        assert_watertight(result)
        ends = np.array([(-0.9, 0, 0), (0.9, 0, 0)]) @ turn.T
        of_rod = result.mesh.select(result.mesh.part_of_face == 1)
        assert np.linalg.norm(of_rod.vertices[:, None] - ends, axis=2).min(axis=0).max() < 3 * 2 / 58
        neighbours = scipy.sparse.coo_array(
            (np.ones(3 * len(of_rod.faces)), (of_rod.faces.ravel(), np.roll(of_rod.faces, 1, 1).ravel()))
        )
        assert scipy.sparse.csgraph.connected_components(neighbours)[0] == 1


@pytest.mark.parametrize("axis", range(3))
def test_a_rod_between_the_grid_lines_gets_a_shell(axis):
    """No line crosses it."""
    rod = box(np.roll((2.0, 0.002, 0.002), axis))
    alone = solid_of(rod)
    assert_watertight(alone)
    assert np.ptp(alone.mesh.vertices, axis=0)[axis] == pytest.approx(2, abs=2 * alone.stats["voxel"])
    assert np.delete(np.ptp(alone.mesh.vertices, axis=0), axis).max() < 1.6 * alone.stats["voxel"]
    beside = solid_of(box(np.roll((0.5, 1, 1), axis), np.roll((0, 1, 0), axis)), rod)
    assert_watertight(beside)
    assert beside.stats["parts_seen"] == 2
    hidden = solid_of(box((2.2, 2.2, 2.2)), rod)
    assert hidden.stats["shell_used"] == 0


def test_debris_is_dropped_but_not_the_only_component():
    crumb = box((0.05, 0.05, 0.05), (0.9, 0.9, 0.9))
    assert solid_of(sphere(), crumb).stats["dropped_components"] == 1
    assert solid_of(sphere(), crumb, min_component_voxels=0.1).stats["dropped_components"] == 0
    assert_watertight(solid_of(sphere(), min_component_voxels=1e9))


def test_a_cavity_is_filled_unless_it_holds_something():
    bottle = [sphere(0.9), Mesh(sphere(0.7).vertices, sphere(0.7).faces[:, ::-1])]
    bottle = Mesh(concatenate(bottle).vertices, concatenate(bottle).faces)
    shell, ball = bottle.volume(), sphere(0.3)
    filled = solid_of(bottle)
    assert filled.mesh.volume() == pytest.approx(sphere(0.9).volume(), rel=0.01)
    held = solid_of(bottle, ball)
    assert_watertight(held)
    assert held.stats["parts_seen"] == 2
    assert held.mesh.volume() == pytest.approx(shell + ball.volume(), rel=0.01)
    assert held.stats["volume_ratio"] == pytest.approx(1, abs=0.01)


def test_labels_agree_with_the_nearest_face():
    parts = [sphere(0.7), box((1.8, 0.3, 0.3)), sphere(0.35, (0, 0.7, 0))]
    whole = concatenate(parts)
    result = solid_of(*parts, resolution=96)
    centroids = result.mesh.vertices[result.mesh.faces].mean(axis=1).astype(float)
    nearest = igl.point_mesh_squared_distance(centroids, whole.vertices, whole.faces)[1]
    area = result.mesh.face_areas()
    assert area[whole.part_of_face[nearest] != result.mesh.part_of_face].sum() < 0.005 * area.sum()


def test_flush_parts_do_not_speckle():
    """A small box let into a large one, faces coplanar: the shared surface belongs to the small one."""
    turn = trimesh.transformations.rotation_matrix(0.6, (1, 2, 3))[:3, :3]
    parts = [Mesh(part.vertices @ turn.T, part.faces) for part in (box((2, 1, 1)), box((0.8, 0.8, 0.6), (0, 0.0, 0.2)))]
    result = solid_of(*parts, resolution=96)
    local = (result.mesh.vertices[result.mesh.faces].mean(axis=1)) @ turn
    top = local[:, 2] > 0.49
    inlay = top & (np.abs(local[:, 0]) < 0.37) & (np.abs(local[:, 1]) < 0.37)
    around = top & ((np.abs(local[:, 0]) > 0.43) | (np.abs(local[:, 1]) > 0.43))
    assert (result.mesh.part_of_face[inlay] == 1).mean() > 0.98
    assert (result.mesh.part_of_face[around] == 0).mean() > 0.98


def test_an_isolated_label_is_mended():
    mesh = sphere(subdivisions=2)
    label = (mesh.vertices[mesh.faces].mean(axis=1)[:, 0] > 0).astype(np.int16)
    clean = label.copy()
    lonely = np.flatnonzero(np.abs(mesh.vertices[mesh.faces].mean(axis=1)[:, 0]) > 0.7)[[3, 40]]
    label[lonely] = 2
    np.testing.assert_array_equal(_provenance.mend_isolated(mesh.faces.astype(np.int32), label), clean)


def test_sharp_edges_lie_on_the_creases_of_a_cube_and_cover_them():
    result = solid_of(box((2, 2, 2)), resolution=64)
    voxel = 2 / 58
    ends = result.mesh.vertices[result.sharp_edges]
    off_crease = np.sort(1 - np.abs(ends.mean(axis=1)), axis=1)[:, 1]
    assert off_crease.max() < 0.01 * voxel
    top_edge = ends.mean(axis=1)[(ends.mean(axis=1)[:, 1:] > 1 - voxel).all(axis=1)][:, 0]
    assert np.diff(np.sort(top_edge)).max() < 1.5 * voxel
    assert len(solid_of(sphere(subdivisions=4)).sharp_edges) == 0


def test_the_result_does_not_depend_on_frame_or_run():
    parts = [sphere(0.8), without(box((1.6, 0.4, 0.4)), lambda c: c[:, 0] > 0.7)]
    first = solid_of(*parts, is_open=[False, True])
    again = solid_of(*parts, is_open=[False, True])
    np.testing.assert_array_equal(first.mesh.vertices, again.mesh.vertices)
    np.testing.assert_array_equal(first.mesh.faces, again.mesh.faces)
    assert first.stats == again.stats
    moved = Similarity.of(16.0, (32.0, -8.0, 4.0))
    shifted = solid_of(*(part.transformed(moved) for part in parts), is_open=[False, True])
    np.testing.assert_array_equal(shifted.mesh.faces, first.mesh.faces)
    np.testing.assert_allclose(moved.invert().apply(shifted.mesh.vertices), first.mesh.vertices, atol=1e-4)


def test_dtypes_and_stats():
    result = solid_of(sphere())
    assert (result.mesh.vertices.dtype, result.mesh.faces.dtype, result.mesh.part_of_face.dtype) == (np.float32, np.int32, np.int16)
    assert result.sharp_edges.dtype == np.int32
    assert all(type(value) in (int, float) and np.isfinite(value) for value in result.stats.values())


def test_a_mesh_without_extent_is_refused():
    for mesh in (Mesh(np.zeros((3, 3)), np.array([(0, 1, 2)])), Mesh(np.zeros((0, 3)), np.zeros((0, 3), int))):
        with pytest.raises(Reject, match="degenerate_geometry"):
            remesh(mesh, np.zeros(len(mesh.faces), int), np.zeros(1, bool))


@pytest.mark.parametrize("seed", range(3))
def test_marching_cubes_is_manifold_for_any_pattern_of_corners(seed):
    num_cells = 20
    bits = _bits.empty_bits(num_cells)
    _bits.set_corners(bits, num_cells, np.flatnonzero(derive(seed, "bits").random((num_cells + 1) ** 3) < 0.2 + 0.3 * seed))
    _bits.clear_border(bits, num_cells)
    nothing = _scan.find_crossings(np.zeros((0, 3)), np.zeros((0, 3), np.int64), _scan.Grid(num_cells, 1.0, np.zeros(3)))
    evidence = _placing.Evidence(nothing, np.zeros(0, np.int32), _shell.no_shell(), np.float32(0.75), _winding.no_membrane())
    surface = _placing.place_vertices(_marching.march(bits, num_cells), evidence, num_cells)
    assert check_watertight(surface.faces).watertight
    inside = _bits.list_corners(bits, num_cells)
    volume = Mesh(surface.vertices, surface.faces).volume()
    assert 0 < volume < 1.5 * len(inside)


def test_check_watertight_sees_every_defect():
    cube = box((1, 1, 1)).faces
    assert check_watertight(cube).watertight
    hole = check_watertight(cube[1:])
    assert (hole.watertight, hole.edge_manifold) == (False, False)
    turned = check_watertight(np.concatenate([cube[:1, ::-1], cube[1:]]))
    assert (turned.watertight, turned.edge_manifold, turned.oriented) == (False, True, False)
    tetrahedron = np.array([(0, 2, 1), (0, 1, 3), (1, 2, 3), (2, 0, 3)])
    in_vertex = check_watertight(np.concatenate([tetrahedron, np.array([0, 4, 5, 6])[tetrahedron]]))
    assert (in_vertex.watertight, in_vertex.edge_manifold, in_vertex.vertex_manifold) == (False, True, False)
    along_edge = check_watertight(np.concatenate([tetrahedron, np.array([0, 1, 4, 5])[tetrahedron]]))
    assert (along_edge.watertight, along_edge.edge_manifold) == (False, False)
    assert not check_watertight(np.zeros((0, 3), int)).watertight


def test_inputs_of_any_layout_use_the_kernels_compiled_by_warm_up():
    mesh = sphere()
    vertices, faces = np.asfortranarray(mesh.vertices.astype(np.float32)), mesh.faces.astype(np.int32)[:, ::1]
    component, is_open = np.zeros(len(faces), np.int64), np.zeros(1, bool)
    for array in (vertices, faces, component, is_open):
        array.setflags(write=False)
    modules = (_bits, _hash, _marching, _placing, _provenance, _ridges, _scan, _shell, _winding)
    kernels = [value for module in modules for value in vars(module).values() if hasattr(value, "signatures")]
    before = [len(kernel.signatures) for kernel in kernels]
    assert len(kernels) > 40
    assert _shell._walk_sides.signatures
    find_parts(vertices, faces, component, ("sphere",), PartsConfig(min_parts=1))
    remesh(Mesh(vertices, faces), component, is_open)
    assert [len(kernel.signatures) for kernel in kernels] == before


@pytest.mark.corpus
@pytest.mark.parametrize(
    "path",
    [
        "quaternius/medieval_weapons__Spear.glb",
        "pmndrs-market/ferris-wheel.glb",
        "kaykit-furniture/cabinet_small.gltf",
        "mujoco/car.glb",
    ],
)
def test_real_objects_become_watertight(corpus, path):
    scene = load_scene(corpus / "dev" / path)
    parted = find_parts(scene.vertices, scene.faces, scene.node_of_face, scene.node_names, PartsConfig(min_parts=1))
    result = remesh(parted.mesh, parted.component_of_face, parted.open_component, RemeshConfig(resolution=96))
    assert_watertight(result)
    assert result.stats["parts_seen"] >= 0.8 * len(parted.parts)
