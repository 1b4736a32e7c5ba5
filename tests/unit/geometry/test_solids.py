"""The vocabulary of solids: closed, facing out, of the size that was asked for."""

import numpy as np
import pytest

from unipart.geometry.mesh import Mesh
from unipart.geometry.solids import box, cylinder, extrude, lathe, post, sphere, tapered, torus, tube, turned

SOLIDS = {
    "box": (box(1, 2, 3), 6.0),
    "bevelled box": (box(1, 1, 1, 0.1), None),
    "cylinder": (cylinder(1, 2, segments=200), 2 * np.pi),
    "cone": (cylinder(1, 3, top=0, segments=200), np.pi),
    "sphere": (sphere(1, 120), 4 / 3 * np.pi),
    "torus": (torus(2, 0.5, 200), None),
    "ring": (lathe([(1, 0), (2, 0), (2, 1), (1, 1)], 400, is_loop=True), 3 * np.pi),
    "concave": (extrude([(0, 0), (2, 0), (2, 2), (1, 0.5), (0, 2)], 2.0), 5.0),
    "clockwise": (extrude([(0, 1), (1, 1), (1, 0), (0, 0)], 1.0, "x", 0.1), None),
    "tube": (tube([(0, 0, 0), (0, 3, 0)], 1, 200), 3 * np.pi),
    "bent tube": (tube([(0, 0, 0), (0, 1, 0), (1, 2, 0), (2, 2, 1)], (0.3, 0.2, 0.2, 0.1)), None),
    "post": (post((0, 0, 0), (1, 2, 0), 0.5, segments=4), 1.0),
    "tapered": (tapered(box(1, 3, 1), 0.0001), 1.0),
}


@pytest.mark.parametrize("name", SOLIDS)
def test_solid_is_closed_and_has_its_volume(name):
    mesh, volume = SOLIDS[name]
    directed = np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]])
    pairs = {(int(a), int(b)) for a, b in directed}
    assert len(pairs) == len(directed)
    assert {(b, a) for a, b in pairs} == pairs
    assert mesh.volume() > 0
    if volume is not None:
        assert mesh.volume() == pytest.approx(volume, rel=2e-3)


def test_boxes_stand_on_the_ground():
    mesh = box(1, 2, 3, 0.1)
    np.testing.assert_allclose(mesh.vertices.min(axis=0), [-0.5, 0, -1.5])
    np.testing.assert_allclose(mesh.vertices.max(axis=0), [0.5, 2, 1.5])


def test_turning_follows_the_right_hand():
    point = Mesh(np.array([[0.0, 1.0, 0.0]]), np.zeros((0, 3), dtype=int))
    np.testing.assert_allclose(turned(point, 90, "x").vertices, [[0, 0, 1]], atol=1e-12)
    np.testing.assert_allclose(turned(point, 90, "z").vertices, [[-1, 0, 0]], atol=1e-12)
