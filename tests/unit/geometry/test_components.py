"""Hygiene and part labels."""

import csv
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from unipart.errors import Reject
from unipart.geometry._contacts import count_contacts
from unipart.geometry.components import PartedMesh, PartsConfig, find_parts
from unipart.geometry.load import load_scene
from unipart.geometry.mesh import Mesh, concatenate
from unipart.rng import derive

CORNERS = np.array([(x, y, z) for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
QUADS = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
BOX_FACES = np.array([(a, b, c) for a, b, c, _ in QUADS] + [(a, c, d) for a, _, c, d in QUADS])


def box(size=(1.0, 1.0, 1.0), centre=(0.0, 0.0, 0.0)) -> Mesh:
    return Mesh(CORNERS * size + centre, BOX_FACES)


CHAIR = [
    box((1, 0.1, 1), (0, 0, 0)),
    *(box((0.1, 1, 0.1), (x, -0.55, z)) for x in (-0.4, 0.4) for z in (-0.4, 0.4)),
    box((0.9, 1, 0.1), (0, 0.55, -0.4)),
]


def parts_of(meshes, one_node=True, config=None, edit=None) -> PartedMesh:
    whole = concatenate(meshes)
    vertices, faces = whole.vertices, whole.faces
    node = np.zeros(len(faces), np.int32) if one_node else whole.part_of_face
    if edit is not None:
        vertices, faces = edit(vertices, faces)
        node = np.resize(node, len(faces))
    return find_parts(vertices, faces, node, tuple(f"node {i}" for i in range(len(meshes))), config or PartsConfig())


def soup(vertices, faces, noise=0.0, seed=0):
    corners = vertices[faces].reshape(-1, 3)
    return corners + derive(seed, "noise").uniform(-noise, noise, corners.shape), np.arange(len(corners)).reshape(-1, 3)


def flip(faces, chosen):
    flipped = faces.copy()
    flipped[chosen] = flipped[chosen][:, ::-1]
    return flipped


DAMAGE = {
    "clean": lambda v, f: (v, f),
    "unmerged": soup,
    "noisy seams": lambda v, f: soup(v, f, noise=3e-6),
    "every face twice": lambda v, f: (v, np.tile(f, (2, 1))),
    "double sided": lambda v, f: (v, np.concatenate([f, f[:, ::-1]])),
    "inside out": lambda v, f: (v, f[:, ::-1]),
    "every second face flipped": lambda v, f: (v, flip(f, slice(None, None, 2))),
    "zero-area faces": lambda v, f: (v, np.concatenate([f, [(0, 0, 5), (3, 3, 3), (1, 9, 1)]])),
    "unused NaN and far vertices": lambda v, f: (np.concatenate([v, [[np.nan] * 3, [1e6] * 3]]), f),
    "tiny": lambda v, f: (v * 1e-30, f),
    "huge": lambda v, f: (v * 1e30, f),
    "far away": lambda v, f: (v + 1e4, f),
    "float32": lambda v, f: (v.astype(np.float32), f.astype(np.int32)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_chairs_become_the_same_six_closed_parts(damage):
    reference = parts_of(CHAIR)
    parted = parts_of(CHAIR, edit=DAMAGE[damage])
    assert [part.num_faces for part in parted.parts] == [12] * 6
    assert not parted.open_component.any()
    assert all(part.watertight_original for part in parted.parts)
    np.testing.assert_allclose([part.volume for part in parted.parts], [part.volume for part in reference.parts], rtol=1e-4)
    np.testing.assert_allclose([part.box_low for part in parted.parts], [part.box_low for part in reference.parts], atol=1e-4)


def test_the_result_is_normalised_and_traceable_to_the_input():
    vertices, faces = soup(*(lambda m: (m.vertices * 7 + 3, m.faces))(concatenate(CHAIR)))
    parted = find_parts(vertices, faces, np.zeros(len(faces), int), ("chair",), PartsConfig())
    assert np.abs(parted.mesh.vertices).max() == pytest.approx(0.9999)
    source = parted.to_gcs.apply(vertices[faces[parted.source_face]])
    np.testing.assert_allclose(parted.mesh.vertices[parted.mesh.faces], source, atol=1e-4)
    assert parted.mesh.faces.dtype == np.int64
    assert parted.mesh.part_of_face.dtype == np.int32


def test_parts_are_ordered_by_height_then_x_then_z():
    orders = []
    for seed in range(3):
        order = derive(seed, "order").permutation(6)
        parted = parts_of([CHAIR[i] for i in order])
        boxes = np.array([(part.box_low, part.box_high) for part in parted.parts])
        centre = boxes.mean(axis=1).round(3)
        assert (np.lexsort((centre[:, 2], centre[:, 0], centre[:, 1])) == np.arange(6)).all()
        orders.append(boxes)
    np.testing.assert_array_equal(orders[0], orders[1])
    np.testing.assert_array_equal(orders[0], orders[2])


@pytest.mark.parametrize("seed", range(20))
def test_welding_joins_pairs_on_both_sides_of_any_cell_border(seed):
    rng = derive(seed, "straddle")
    offset = rng.uniform(-1, 1, 3)
    parted = parts_of(CHAIR, edit=lambda v, f: soup(v + offset, f, noise=4e-6, seed=seed))
    assert len(parted.mesh.vertices) == 48
    assert not parted.open_component.any()


def test_parts_of_two_nodes_never_fuse():
    shelf = [box((1, 1, 1), (0, 0, 0)), box((1, 1, 1), (1, 0, 0))]
    assert len(parts_of(shelf, one_node=False).parts) == 2
    assert [part.name for part in parts_of(shelf, one_node=False).parts] == ["node 0", "node 1"]
    with pytest.raises(Reject) as caught:
        parts_of(shelf, one_node=True)
    assert caught.value.reason == "single_component"


def test_a_vertex_shared_by_two_nodes_does_not_join_them():
    shelf = concatenate([box(), box(centre=(1, 1, 1))])
    faces = np.where(shelf.faces == 8, 7, shelf.faces)
    node = shelf.part_of_face
    assert len(find_parts(shelf.vertices, faces, node, ("a", "b"), PartsConfig()).parts) == 2


def test_an_inner_wall_between_welded_boxes_keeps_them_closed():
    parted = parts_of([box(), box(centre=(1, 0, 0)), box(centre=(5, 0, 0))])
    assert len(parted.parts) == 2
    assert not parted.open_component.any()
    assert sum(part.num_faces for part in parted.parts) == 36


def test_connectivity_by_edge_separates_boxes_that_touch_in_one_vertex():
    touching = [box(), box(centre=(1, 1, 1))]
    assert len(parts_of(touching, config=PartsConfig(connectivity="edge")).parts) == 2
    with pytest.raises(Reject, match="single_component"):
        parts_of(touching)


def test_a_component_repeated_in_place_is_one_part():
    mirrored = Mesh(CHAIR[1].vertices * (-1, 1, 1), CHAIR[1].faces[:, ::-1])  # lands on another leg
    parted = parts_of([*CHAIR, CHAIR[0], mirrored], one_node=False)
    assert len(parted.parts) == 6
    assert parted.stats["repeated_components"] == 2


def test_small_components_join_the_neighbour_they_touch():
    knob = box((0.05, 0.05, 0.05), (0.5, 0.2, 0.0))
    body, lid, far = box(), box((1, 0.3, 1), (0, 0.7, 0)), box((0.05, 0.05, 0.05), (3, 0, 0))
    parted = parts_of([body, lid, knob], one_node=False)
    assert [part.num_faces for part in parted.parts] == [24, 12]
    assert parted.component_of_face.max() == 2
    assert len(parts_of([body, lid, far], one_node=False).parts) == 3
    assert len(parts_of([body, lid, knob], one_node=False, config=PartsConfig(merge_small=False)).parts) == 3


def test_many_small_components_in_one_place_take_little_memory():
    boxes = concatenate([box((1 - 0.001 * i,) * 3) for i in range(60)])
    assert boxes.part_of_face is not None
    tracemalloc.start()
    contacts = count_contacts(boxes, boxes.part_of_face.astype(np.int32), np.arange(60) > 0, 16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
    assert all(len(of_one) == 59 for of_one in contacts)
    assert contacts[1][0] == contacts[0][1] > 1000


def test_small_components_prefer_their_own_node():
    """A knob sunk into the body but modelled with the door stays with the door."""
    whole = concatenate([box(), box((0.1, 1, 1), (0.55, 0, 0)), box((0.06, 0.06, 0.06), (0.5, 0.2, 0.53))])
    node = np.array([0, 1, 1])[whole.part_of_face]
    parted = find_parts(whole.vertices, whole.faces, node, ("body", "door"), PartsConfig(weld_tolerance=1e-6))
    assert {part.name: part.num_faces for part in parted.parts} == {"body": 12, "door": 24}


def test_missing_sides_are_flagged_open():
    open_box = Mesh(CORNERS, np.delete(BOX_FACES, [0, 6], axis=0))
    parted = parts_of([open_box, box(centre=(2, 0, 0))])
    assert [part.watertight_original for part in parted.parts] == [False, True]
    assert parted.open_component.sum() == 1


def rejected(vertices, faces, **config) -> str:
    with pytest.raises(Reject) as caught:
        find_parts(np.asarray(vertices, float), np.asarray(faces), np.zeros(len(faces), int), ("node",), PartsConfig(**config))
    return caught.value.reason


def test_reasons_of_rejection():
    chair = concatenate(CHAIR)
    broken = chair.vertices.copy()
    broken[3, 1] = np.nan
    line = [(0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0)]
    assert rejected(np.zeros((0, 3)), np.zeros((0, 3), int)) == "no_faces"
    assert rejected(broken, chair.faces) == "non_finite_vertices"
    assert rejected(line, [(0, 1, 2), (1, 2, 3), (0, 0, 1)]) == "degenerate_geometry"
    assert rejected(np.ones((3, 3)), [(0, 1, 2)]) == "degenerate_geometry"
    assert rejected([(0, 0, 0), (1, 0, 0), (0, 1, 0)], [(0, 1, 2)]) == "too_few_faces"
    assert rejected(CORNERS, BOX_FACES) == "single_component"
    assert rejected(chair.vertices, chair.faces, max_parts=5) == "too_many_parts"
    assert rejected(chair.vertices, chair.faces, max_components=5) == "too_many_parts"
    floor = concatenate([*CHAIR, box((200, 0.1, 200), (0, -1.2, 0))])
    assert rejected(floor.vertices, floor.faces) == "extreme_part_scale"


def test_a_node_of_another_scale_is_named_even_when_the_others_vanish():
    vast = Mesh(CHAIR[0].vertices * 1e20, CHAIR[0].faces)
    with pytest.raises(Reject, match="extreme_part_scale"):
        parts_of([vast, *CHAIR[1:]], one_node=False)


def test_stats_are_plain_numbers():
    stats = parts_of(CHAIR, edit=soup).stats
    assert all(type(value) in (int, float) for value in stats.values())
    assert stats["num_components_raw"] == 6


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("control_good_chair.glb", 6),
        ("nan_vertices.obj", "non_finite_vertices"),
        ("inf_vertices.obj", "non_finite_vertices"),
        ("nan_unreferenced.obj", 6),
        ("stray_vertex.obj", 6),
        ("huge_coordinates.obj", 6),
        ("tiny_coordinates.obj", 6),
        ("single_component_box.glb", "single_component"),
        ("all_zero_area.obj", "degenerate_geometry"),
        ("some_zero_area.obj", 6),
        ("duplicate_faces.obj", 6),
        ("double_sided_faces.obj", 6),
        ("inverted_normals.obj", 6),
        ("mixed_winding.obj", 6),
        ("coincident_parts.glb", 6),
        ("split_vertices.glb", 6),
        ("noisy_split_vertices.obj", 6),
        ("open_surfaces.glb", 6),
        ("nested_parts.glb", 2),
        ("ten_thousand_parts.ply", "too_many_parts"),
        ("object_on_huge_floor.glb", "extreme_part_scale"),
        ("mirrored_Node_NegativeScale_12.gltf", 2),
        ("mirrored_half_chair.glb", 4),
        ("zero_scale_node.glb", 5),
        ("huge_scale_node.glb", "extreme_part_scale"),
        ("quads_and_ngon.obj", 2),
        ("sparse_accessor.gltf", "single_component"),
        ("skinned_node_transform.glb", 2),
    ],
)
def test_verdicts_on_awkward_files(corpus: Path, name, expected):
    def parts() -> PartedMesh:
        scene = load_scene(corpus / "bad" / name)
        return find_parts(scene.vertices, scene.faces, scene.node_of_face, scene.node_names, PartsConfig())

    if isinstance(expected, int):
        assert len(parts().parts) == expected
    else:
        with pytest.raises(Reject) as caught:
            parts()
        assert caught.value.reason == expected


def test_closed_parts_a_hairs_breadth_apart_stay_two_and_open_seams_close():
    near = [box(), box(centre=(1 + 1e-5, 0, 0))]
    assert len(parts_of(near).parts) == 2
    split = parts_of(near, edit=soup)
    assert len(split.parts) == 2
    assert not split.open_component.any()
    touching = [box(), box(centre=(1, 0, 0))]
    with pytest.raises(Reject, match="single_component"):
        parts_of(touching)
    far = parts_of([box(), box(centre=(3, 0, 0))], edit=lambda v, f: soup(*DAMAGE["double sided"](v, f), noise=3e-6))
    assert len(far.parts) == 2
    assert not far.open_component.any()


@pytest.mark.corpus
@pytest.mark.parametrize(("name", "count"), [("bullet3/teddy_large.glb", 15), ("kaykit-furniture/shelf_A_big.gltf", 3)])
def test_real_parts_closer_than_the_tolerance(corpus: Path, name, count):
    scene = load_scene(corpus / "dev" / name)
    assert len(find_parts(scene.vertices, scene.faces, scene.node_of_face, scene.node_names).parts) == count


@pytest.mark.corpus
def test_component_counts_agree_with_the_survey_of_the_corpus(corpus: Path):
    """The survey merged at 1e-8 of the box; a looser tolerance may fuse float noise, and repeats in place go."""
    with (corpus / "dev" / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))[::40]
    agree = 0
    for row in rows:
        scene = load_scene(corpus / "dev" / row["path"])
        config = PartsConfig(min_parts=1, max_parts=1000, min_rest_extent=0.0)
        parted = find_parts(scene.vertices, scene.faces, scene.node_of_face, scene.node_names, config)
        agree += parted.stats["num_components_raw"] == int(row["n_components_per_node"])
    assert agree >= 0.9 * len(rows)
