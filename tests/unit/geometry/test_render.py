"""The renderer: geometry of the image, light, materials, alpha, maps, and that both backends see the same."""

import dataclasses
import math

import numpy as np
import pytest

from unipart.geometry.components import PartedMesh
from unipart.geometry.load import Material, Scene, load_scene
from unipart.geometry.mesh import Mesh, Similarity, concatenate
from unipart.geometry.render import (
    Camera,
    CameraConfig,
    Renderer,
    RenderMesh,
    bounding_radius,
    cameras,
    contact_sheet,
    fitted_camera,
    from_mesh,
    from_scene,
    linear_to_srgb,
    on_background,
    palette,
    render_figure,
    srgb_to_linear,
)
from unipart.rng import derive

FRONT = Camera.orbiting(0, 0, 30)


def sphere(radius=0.9, rings=24):
    theta, phi = np.meshgrid(np.linspace(0, np.pi, rings), np.linspace(0, 2 * np.pi, 2 * rings), indexing="ij")
    points = radius * np.stack([np.sin(theta) * np.sin(phi), np.cos(theta), np.sin(theta) * np.cos(phi)], -1).reshape(-1, 3)
    faces = []
    for i in range(rings - 1):
        for j in range(2 * rings - 1):
            a, b = i * 2 * rings + j, (i + 1) * 2 * rings + j
            faces += [[a, b, b + 1], [a, b + 1, a + 1]]
    mesh = Mesh(points, np.array(faces))
    return mesh.select(mesh.face_areas() > 1e-9)


def box(low, high):
    corners = np.array([[(low, high)[k >> axis & 1][axis] for axis in range(3)] for k in range(8)], float)
    quads = [[0, 4, 6, 2], [1, 3, 7, 5], [0, 1, 5, 4], [2, 6, 7, 3], [0, 2, 3, 1], [4, 5, 7, 6]]
    return Mesh(corners, np.array([t for q in quads for t in ([q[0], q[1], q[2]], [q[0], q[2], q[3]])]))


def quad(depth=0.0, half=0.8, part=0, material=0):
    """A square facing +z: vertices, faces, uv (v down), part and material per face."""
    points = np.array([[-half, -half, depth], [half, -half, depth], [half, half, depth], [-half, half, depth]])
    uv = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    return points, faces, uv[faces], np.full(2, part), np.full(2, material)


def quads(layers, materials):
    """One `RenderMesh` of several quads."""
    points, faces, uv, part, material = zip(*layers, strict=True)
    faces = np.concatenate([f + 4 * i for i, f in enumerate(faces)])
    n = len(faces)
    return RenderMesh(
        np.concatenate(points).astype(np.float32),
        faces.astype(np.int32),
        np.concatenate(part).astype(np.int32),
        np.concatenate(material).astype(np.int32),
        tuple(materials),
        np.concatenate(uv),
        np.ones((n, 3, 4), np.float32),
        np.zeros((n, 3, 3), np.float32),
    )


def middle(image):
    return image[image.shape[0] // 2, image.shape[1] // 2].astype(int)


def test_a_white_diffuse_sphere_does_not_clip_from_any_side():
    mesh = from_mesh(sphere(), np.ones((1, 3)))
    white = dataclasses.replace(mesh, materials=(Material("white", (1, 1, 1, 1), None, 0.0, 1.0, (0, 0, 0), "OPAQUE", 0.5),))
    renderer = Renderer(white)
    for azimuth, elevation in ((0, 0), (30, 30), (180, 10), (-90, 60), (20, -60)):
        rgba = renderer.render(Camera.orbiting(azimuth, elevation, 40), 48, maps=False).rgba
        colors = rgba[rgba[..., 3] == 255][:, :3]
        assert colors.max() < 250
        assert colors.min() > 90


def test_brightness_follows_the_albedo():
    levels = []
    for albedo in (0.2, 0.4, 0.8):
        colors = np.full((1, 3), linear_to_srgb(np.array(albedo)))
        rgba = Renderer(from_mesh(box([-0.9] * 3, [0.9] * 3), colors)).render(FRONT, 32, maps=False).rgba
        levels.append(srgb_to_linear(middle(rgba)[:3] / 255).mean())
    assert levels[1] / levels[0] == pytest.approx(2, rel=0.15)  # not exactly 2: the highlight does not depend on the albedo
    assert levels[2] / levels[1] == pytest.approx(2, rel=0.15)


def test_metal_reflects_and_wild_factors_are_clamped():
    def level(metallic, roughness):
        metal = Material("m", (0.9, 0.9, 0.9, 1.0), None, metallic, roughness, (0, 0, 0), "OPAQUE", 0.5)
        rgba = (
            Renderer(dataclasses.replace(from_mesh(sphere(), np.ones((1, 3))), materials=(metal,)))
            .render(FRONT, 32, maps=False)
            .rgba
        )
        return rgba[rgba[..., 3] == 255][:, :3].mean()

    assert 90 < level(1.0, 0.2) < 240
    assert 90 < level(1.0, 1.0) < 240
    assert level(1.5, 2.67) == level(1.0, 1.0)


def test_the_image_is_where_the_camera_says():
    mesh = from_mesh(concatenate([box([0.5, 0.5, -0.1], [0.9, 0.9, 0.1]), box([-0.9, -0.3, -0.1], [-0.6, 0.0, 0.1])]))
    ids = Renderer(mesh).render(FRONT, 100, supersample=1).part_ids
    distance = np.linalg.norm(FRONT.eye)
    for part, (x, y) in ((1, (0.7, 0.7)), (2, (-0.75, -0.15))):
        rows, columns = np.nonzero(ids == part)
        scale = 50 / math.tan(math.radians(15)) / (distance - 0.1)
        assert columns.mean() == pytest.approx(49.5 + x * scale, abs=1)
        assert rows.mean() == pytest.approx(49.5 - y * scale, abs=1)


def test_same_input_same_bytes():
    mesh = from_mesh(sphere())
    camera = Camera.orbiting(20, 10, 35)
    one = Renderer(mesh).render(camera, 40, ambient_occlusion=2)
    two = Renderer(mesh).render(camera, 40, ambient_occlusion=2)
    for field in ("rgba", "part_ids", "normals"):
        np.testing.assert_array_equal(getattr(one, field), getattr(two, field))


def test_edges_are_straight_alpha_without_dark_fringes():
    rgba = Renderer(from_mesh(sphere(), np.ones((1, 3)))).render(FRONT, 64, maps=False).rgba
    edge, inside = (rgba[..., 3] > 0) & (rgba[..., 3] < 255), rgba[..., 3] == 255
    assert edge.sum() > 20
    assert rgba[edge][:, :3].mean() > 0.8 * rgba[inside][:, :3].mean()
    assert (rgba[rgba[..., 3] == 0] == 0).all()


def test_part_ids_are_labels_only_and_normals_point_to_the_viewer():
    mesh = concatenate([box([-0.9, -0.9, -0.5], [0, 0.9, 0.5]), box([0, -0.9, -0.5], [0.9, 0.9, 0.5])])
    view = Renderer(from_mesh(mesh)).render(FRONT, 64)
    assert set(np.unique(view.part_ids)) == {0, 1, 2}
    assert (view.normals[view.part_ids == 0] == 128).all()
    np.testing.assert_allclose(middle(view.normals), [128, 128, 255], atol=1)
    flipped = Mesh(mesh.vertices, mesh.faces[:, ::-1], mesh.part_of_face)
    np.testing.assert_array_equal(Renderer(from_mesh(flipped)).render(FRONT, 64).normals, view.normals)


def test_textures_have_v_down_and_repeat():
    texture = np.zeros((2, 2, 4), np.uint8)
    texture[..., 3] = 255
    texture[0, 0], texture[0, 1], texture[1, 0] = (255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255)
    texture = np.repeat(np.repeat(texture, 8, axis=0), 8, axis=1)
    painted = Material("t", (1, 1, 1, 1), texture, 0.0, 1.0, (0, 0, 0), "OPAQUE", 0.5)
    mesh = quads([quad()], [painted])
    rgba = Renderer(mesh).render(FRONT, 64, maps=False).rgba.astype(int)
    rows, columns = np.nonzero(rgba[..., 3] == 255)
    top, bottom, left, right = rows.min() + 3, rows.max() - 3, columns.min() + 3, columns.max() - 3
    assert [int(rgba[p][:3].argmax()) for p in ((top, left), (top, right), (bottom, left))] == [0, 1, 2]
    assert rgba[bottom, right, :3].max() < 80
    moved = dataclasses.replace(mesh, corner_uv=mesh.corner_uv + np.float32(3))
    again = Renderer(moved).render(FRONT, 64, maps=False).rgba.astype(int)
    assert np.abs(again - rgba).max() <= 2


def test_a_fine_texture_far_away_is_its_mean():
    checker = np.kron(np.indices((64, 64)).sum(axis=0) % 2, np.ones((4, 4))).astype(np.uint8) * 255
    texture = np.dstack([checker] * 3 + [np.full_like(checker, 255)])
    rgba = (
        Renderer(quads([quad()], [Material("t", (1, 1, 1, 1), texture, 0.0, 1.0, (0, 0, 0), "OPAQUE", 0.5)])).render(FRONT, 16).rgba
    )
    inside = rgba[5:11, 5:11, 0].astype(float)
    assert inside.std() < 4


def test_mask_cuts_and_blend_blends():
    hole = np.full((8, 8, 4), 255, np.uint8)
    hole[2:6, 2:6, 3] = 0
    red, green = (1.0, 0.0, 0.0, 1.0), (0.0, 1.0, 0.0, 1.0)
    cut = Material("cut", red, hole, 0.0, 1.0, (0, 0, 0), "MASK", 0.5)
    glass = Material("glass", (1.0, 0.0, 0.0, 0.5), None, 0.0, 1.0, (0, 0, 0), "BLEND", 0.5)
    back = Material("back", green, None, 0.0, 1.0, (0, 0, 0), "OPAQUE", 0.5)

    through = Renderer(quads([quad(0.3, 0.8, 0, 0), quad(-0.3, 0.6, 1, 1)], [cut, back])).render(FRONT, 48)
    assert middle(through.rgba)[1] > 150 > middle(through.rgba)[0]
    assert middle(through.part_ids[..., None])[0] == 2

    blended = Renderer(quads([quad(0.3, 0.8, 0, 0), quad(-0.3, 0.6, 1, 1)], [glass, back])).render(FRONT, 48)
    red_level, green_level = middle(blended.rgba)[:2]
    assert red_level > 100
    assert green_level > 100
    assert middle(blended.part_ids[..., None])[0] == 1

    alone = Renderer(quads([quad(0, 0.8, 0, 0)], [glass])).render(FRONT, 48).rgba
    assert middle(alone)[3] == pytest.approx(128, abs=2)
    assert middle(alone)[0] > 150  # straight alpha: the colour is not darkened by the transparency


def test_opaque_ignores_texture_alpha():
    clear = np.full((2, 2, 4), (255, 255, 255, 0), np.uint8)
    solid = Material("s", (1, 1, 1, 1), clear, 0.0, 1.0, (0, 0, 0), "OPAQUE", 0.5)
    assert middle(Renderer(quads([quad()], [solid])).render(FRONT, 24).rgba)[3] == 255


def test_crease_normals_keep_boxes_flat_and_spheres_round():
    boxed = Renderer(from_mesh(box([-0.8] * 3, [0.8] * 3))).render(Camera.orbiting(35, 25, 30), 80, supersample=1)
    seen = boxed.normals[boxed.part_ids > 0]
    assert len(np.unique(seen, axis=0)) == 3
    rounded = Renderer(from_mesh(sphere())).render(FRONT, 80, supersample=1)
    rows, columns = np.nonzero(rounded.part_ids)
    decoded = rounded.normals[rows, columns] / 127.5 - 1
    scale = 40 / math.tan(math.radians(15)) / np.linalg.norm(FRONT.eye)
    expected = (columns - 39.5) / scale / 0.9
    assert np.abs(decoded[:, 0] - expected).mean() < 0.06


def test_both_backends_see_the_same():
    mesh = from_mesh(concatenate([sphere(0.6), box([-0.9, -0.9, -0.9], [0.9, -0.7, 0.9])]))
    camera = Camera.orbiting(30, 25, 30)
    ray, raster = (Renderer(mesh, backend).render(camera, 64) for backend in ("ray", "raster"))
    assert Renderer(mesh, "ray").backend == "ray"
    assert (ray.part_ids == raster.part_ids).mean() > 0.998
    assert (np.abs(ray.rgba.astype(int) - raster.rgba).max(axis=2) <= 2).mean() > 0.99


def test_raster_sees_through_layers_and_from_inside():
    glass = Material("glass", (1.0, 0.0, 0.0, 0.5), None, 0.0, 1.0, (0, 0, 0), "BLEND", 0.5)
    back = Material("back", (0.0, 1.0, 0.0, 1.0), None, 0.0, 1.0, (0, 0, 0), "OPAQUE", 0.5)
    mesh = quads([quad(0.3, 0.8, 0, 0), quad(-0.3, 0.6, 1, 1)], [glass, back])
    ray, raster = (Renderer(mesh, backend).render(FRONT, 32, maps=False).rgba.astype(int) for backend in ("ray", "raster"))
    assert np.abs(ray - raster).max() <= 2
    inside = Camera((0, 0, 0), (0, 0, -1), (0, 1, 0), 60)
    assert (Renderer(from_mesh(sphere()), "raster").render(inside, 16).part_ids == 1).all()


def test_ambient_occlusion_darkens_a_corner():
    mesh = concatenate([box([-0.9, -0.9, -0.9], [0.9, -0.8, 0.9]), box([-0.9, -0.8, -0.9], [0.9, 0.9, -0.8])])
    renderer = Renderer(from_mesh(mesh, np.full((2, 3), 0.8)))
    camera = Camera.orbiting(0, 40, 30)
    plain, shaded = (renderer.render(camera, 64, ambient_occlusion=rays, maps=False).rgba.astype(int) for rays in (0, 8))
    change = (plain - shaded)[..., :3].sum(axis=2)
    assert change.max() > 60
    assert np.median(change[plain[..., 3] == 255]) < change.max() / 2
    assert (shaded[..., 3] == plain[..., 3]).all()


def test_hammersley_cameras_see_the_unit_box_from_everywhere():
    config = CameraConfig(kind="hammersley", views=64)
    views = cameras(config, derive(0, "cameras"))
    assert views == cameras(config, derive(0, "cameras"))
    assert views != cameras(config, derive(1, "cameras"))
    directions = np.array([np.array(c.eye) / np.linalg.norm(c.eye) for c in views])
    assert np.abs(directions.mean(axis=0)).max() < 0.1
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    for camera in views:
        right, up, forward = camera.axes()
        local = (corners - camera.eye) @ np.stack([right, up, forward]).T
        assert (np.abs(local[:, :2]).max(axis=1) / local[:, 2]).max() <= math.tan(math.radians(camera.fov_y_degrees / 2)) + 1e-9
        assert 10 <= camera.fov_y_degrees <= 70
    inverse_square = np.array([1 / np.dot(c.eye, c.eye) for c in cameras(config.replace(views=2000), derive(0, "many"))])
    low, high = inverse_square.min(), inverse_square.max()
    assert np.mean(inverse_square < (low + high) / 2) == pytest.approx(0.5, abs=0.05)


def test_orbit_stays_in_its_ranges():
    config = CameraConfig(kind="orbit", views=12, azimuth_degrees=(-60.0, 60.0), elevation_degrees=(5.0, 30.0))
    for camera in cameras(config, derive(3, "orbit")):
        x, y, z = np.array(camera.eye) / np.linalg.norm(camera.eye)
        assert -60 <= math.degrees(math.atan2(x, z)) <= 60
        assert 5 - 1e-9 <= math.degrees(math.asin(y)) <= 30 + 1e-9
        assert Camera.from_dict(camera.to_dict()) == camera


def test_a_known_radius_brings_the_camera_closer():
    mesh = sphere(0.5)
    near = cameras(CameraConfig(views=3), derive(0, "r"), bounding_radius(mesh.vertices))
    for camera in near:
        ids = Renderer(from_mesh(mesh)).render(camera, 64).part_ids
        assert 58 <= np.ptp(np.nonzero(ids)[0]) + 1 <= 64


@pytest.mark.parametrize("elevation", [90.0, -90.0, 0.0])
def test_fitted_camera_fills_the_image(elevation):
    mesh = box([-0.2, -0.7, 0.1], [0.5, 0.7, 0.4])
    rgba = Renderer(from_mesh(mesh)).render(fitted_camera(mesh.vertices, 40, elevation), 100, maps=False).rgba
    rows, columns = np.nonzero(rgba[..., 3])
    assert max(np.ptp(rows), np.ptp(columns)) > 80
    assert min(rows.min(), columns.min(), 99 - rows.max(), 99 - columns.max()) >= 1


def test_palette_is_distinct_and_stable():
    colors = palette(40)
    assert colors.min() >= 0
    assert colors.max() <= 1
    np.testing.assert_array_equal(palette(5), colors[:5])
    gaps = np.linalg.norm(colors[:20, None] - colors[None, :20], axis=2) + np.eye(20)
    assert gaps.min() > 0.08
    np.testing.assert_allclose(linear_to_srgb(srgb_to_linear(colors)), colors, atol=1e-6)


def test_too_many_parts_are_refused():
    mesh = box([-1] * 3, [1] * 3)
    with pytest.raises(ValueError, match="255 parts"):
        Renderer(from_mesh(Mesh(mesh.vertices, mesh.faces, np.full(12, 255)), np.ones((256, 3))))


def test_figures_and_contact_sheet():
    figure = render_figure(concatenate([box([-0.9] * 3, [0] * 3), box([0] * 3, [0.9] * 3)]), size=48)
    assert figure.shape == (48, 48, 4)
    assert figure[..., 3].max() == 255
    assert render_figure(Mesh(np.zeros((0, 3)), np.zeros((0, 3), int)), size=16).max() == 0
    flat = on_background(figure, (10, 20, 30))
    np.testing.assert_array_equal(flat[0, 0], [10, 20, 30])
    sheet = contact_sheet([("one", [figure, flat]), ("two", [figure])], ("a", "b"))
    assert sheet.size[0] == 8 + 2 * 56
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])


def test_from_scene_keeps_the_faces_that_became_parts():
    red, blue = Material("r", (1.0, 0, 0, 1.0)), Material("b", (0, 0, 1.0, 1.0))
    left, junk, right = box([-3, -1, -1], [-1, 1, 1]), box([7, 7, 7], [8, 8, 8]), box([1, -1, -1], [3, 1, 1])
    whole = concatenate([left, junk, right])
    num = len(whole.faces)
    node = whole.part_of_face.astype(np.int32)
    material = np.where(node == 2, 1, 0).astype(np.int32)
    zeros = np.zeros((num, 3, 3), np.float32)
    scene = Scene(
        whole.vertices,
        whole.faces,
        node,
        ("a", "junk", "b"),
        material,
        (red, blue),
        zeros[..., :2],
        np.ones((num, 3, 4), np.float32),
        zeros,
        (),
    )
    source = np.flatnonzero(node != 1)[::-1]
    to_gcs = Similarity(0.3, (0.0, 0.0, 0.0))
    mesh = Mesh(to_gcs.apply(whole.vertices), whole.faces[source][:, ::-1], (node[source] // 2).astype(np.int32))
    parted = PartedMesh(mesh, node[source], np.zeros(2, bool), source, to_gcs, (), {})
    view = Renderer(from_scene(scene, parted)).render(FRONT, 64)
    assert set(np.unique(view.part_ids)) == {0, 1, 2}
    assert view.rgba[view.part_ids == 1][:, :3].mean(axis=0).argmax() == 0
    assert view.rgba[view.part_ids == 2][:, :3].mean(axis=0).argmax() == 2
    assert np.nonzero(view.part_ids == 1)[1].max() < np.nonzero(view.part_ids == 2)[1].min()


@pytest.mark.corpus
@pytest.mark.parametrize("name", ["kaykit-furniture/couch.gltf", "playcanvas/glass-table.glb", "trimesh-models/rabbit.obj"])
def test_real_objects(corpus, name):
    scene = load_scene(corpus / "dev" / name)
    vertices = Similarity.to_unit_box(scene.vertices).apply(scene.vertices).astype(np.float32)
    mesh = RenderMesh(
        vertices,
        scene.faces.astype(np.int32),
        scene.node_of_face,
        scene.material_of_face,
        scene.materials,
        scene.corner_uv,
        scene.corner_color,
        scene.corner_normal,
    )
    view = Renderer(mesh).render(Camera.orbiting(30, 20, 40), 96)
    inside = view.rgba[..., 3] > 128
    assert 0.02 < inside.mean() < 0.9
    assert view.rgba[inside][:, :3].std() > 4
    assert (view.part_ids[view.rgba[..., 3] == 0] == 0).all()
