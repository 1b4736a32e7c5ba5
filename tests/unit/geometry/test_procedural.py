"""Every procedural object is made of a few closed, outward-facing, distinct parts."""

import numpy as np
import pytest

from unipart.geometry.load import load_scene_bytes
from unipart.geometry.mesh import concatenate
from unipart.geometry.procedural import KINDS, build, build_glb

SEEDS = range(6)


def edges(faces: np.ndarray) -> np.ndarray:
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    return directed[np.lexsort(directed.T)]


def test_there_are_many_kinds():
    assert len(KINDS) >= 10


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_closed_solids(kind):
    for seed in SEEDS:
        for part in build(kind, seed):
            forward = edges(part.mesh.faces)
            assert len(np.unique(forward, axis=0)) == len(forward), (seed, part.name)
            np.testing.assert_array_equal(forward, edges(part.mesh.faces[:, ::-1]))
            assert part.mesh.volume() > 0
            assert part.mesh.face_areas().min() > 1e-9, (seed, part.name)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_few_named_and_not_too_small(kind):
    for seed in SEEDS:
        parts = build(kind, seed)
        whole = concatenate([part.mesh for part in parts])
        extent = np.ptp(whole.vertices, axis=0).max()
        assert 3 <= len(parts) <= 8
        assert len({part.name for part in parts}) == len(parts)
        assert 100 <= len(whole.faces) <= 3000
        assert 0.5 < extent < 2
        for part in parts:
            area = part.mesh.face_areas().sum()
            assert area > 0.011 * whole.face_areas().sum(), (seed, part.name)
            assert 4 * part.mesh.volume() / area > 0.038 * extent, (seed, part.name)  # diameter of a rod, twice a plate's thickness


@pytest.mark.parametrize("kind", KINDS)
def test_objects_stand_on_the_ground_and_vary(kind):
    objects = [np.concatenate([part.mesh.vertices for part in build(kind, seed)]) for seed in SEEDS]
    assert len({points.shape[0] for points in objects} | {float(points.sum()) for points in objects}) >= len(SEEDS)
    if kind != "airplane":
        assert all(abs(points[:, 1].min()) < 0.2 for points in objects)


def test_same_seed_same_bytes():
    assert build_glb("chair", 3) == build_glb("chair", 3)
    assert build_glb("chair", 3) != build_glb("chair", 4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_holds_the_parts(kind):
    parts = build(kind, 1)
    scene = load_scene_bytes(build_glb(kind, 1), ".glb")
    assert scene.node_names == tuple(part.name for part in parts)
    assert [material.base_color for material in scene.materials] == [part.color for part in parts]
    assert len({part.color for part in parts}) >= 2
    assert not scene.warnings


def test_unknown_kind():
    with pytest.raises(ValueError, match="no procedural kind"):
        build("unicorn", 0)
