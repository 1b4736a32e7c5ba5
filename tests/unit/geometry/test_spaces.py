"""Gate 9: a part finds back to its place."""

import numpy as np
import pytest

from unipart.geometry.extract import extract_surface
from unipart.geometry.mesh import HALF_EXTENT, Mesh, Similarity, concatenate
from unipart.geometry.spaces import PlacementConfig, fit_ncs, place_part
from unipart.rng import derive


def blob(rng: np.random.Generator, resolution: int) -> Mesh:
    """A random part: a few boxes with rounded corners, normalised."""
    axis = np.linspace(-1.01, 1.01, resolution + 1)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    field = np.full(grid.shape[:3], -np.inf)
    for _ in range(3):
        centre, half = rng.uniform(-0.4, 0.4, 3), rng.uniform(0.15, 0.5, 3)
        outside = np.abs(grid - centre) - half
        distance = np.linalg.norm(np.maximum(outside, 0), axis=-1) + np.minimum(outside.max(axis=-1), 0)
        field = np.maximum(field, 0.05 - distance)
    mesh = extract_surface(field)
    return mesh.transformed(fit_ncs(mesh))


def placement_error(found: Similarity, true: Similarity) -> tuple[float, float]:
    """Relative scale error, and distance between the placed part centres as a share of the object's size (2)."""
    return abs(found.scale / true.scale - 1), float(np.linalg.norm(np.subtract(found.offset, true.offset)) / 2)


@pytest.mark.parametrize("method", ["bbox", "robust", "icp"])
@pytest.mark.parametrize("seed", range(3))
def test_gate_9_random_part_random_similarity(method, seed):
    rng = derive(seed, "gate 9")
    fine = blob(derive(seed, "part"), 96)
    coarse = blob(derive(seed, "part"), 64)
    true = Similarity.of(rng.uniform(0.1, 0.9), rng.uniform(-0.5, 0.5, 3))
    found = place_part(fine, coarse.transformed(true), PlacementConfig(method=method), derive(seed))
    scale_error, offset_error = placement_error(found, true)
    assert scale_error < 0.01
    assert offset_error < 0.005


@pytest.mark.parametrize("method", ["robust", "icp"])
def test_debris_and_spikes_do_not_move_the_part(method):
    part = blob(derive(7, "part"), 64)
    true = Similarity.of(0.4, (0.2, -0.1, 0.3))
    crumb = part.transformed(Similarity.of(0.02, (-0.9, -0.9, -0.9)))
    dirty = concatenate([part.transformed(true), crumb])
    found = place_part(part, dirty, PlacementConfig(method=method), derive(0))
    scale_error, offset_error = placement_error(found, true)
    assert scale_error < 0.01
    assert offset_error < 0.005
    naive = place_part(part, dirty, PlacementConfig(method="bbox"), derive(0))
    assert placement_error(naive, true)[0] > 0.1, "the bounding box is fooled: that is why it is not the default"


def test_a_piece_of_the_neighbour_does_not_stretch_the_part():
    axis = np.linspace(-1.01, 1.01, 97)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")

    def stick(low: float, high: float) -> Mesh:
        return extract_surface(0.2 - np.maximum(np.hypot(x, z), 0.2 + np.abs(y - (low + high) / 2) - (high - low) / 2))

    short, long = stick(-0.5, 0.9), stick(-0.85, 0.9)  # what the part is, and what its twin shows
    to_ncs = fit_ncs(short)
    part, true = short.transformed(to_ncs), to_ncs.invert()
    found = place_part(part, long, PlacementConfig(), derive(0))
    scale_error, offset_error = placement_error(found, true)
    assert scale_error < 0.05
    naive = placement_error(place_part(part, long, PlacementConfig(method="robust"), derive(0)), true)
    assert naive[0] > 0.2
    assert offset_error < naive[1]


def test_fit_ncs_normalises_what_the_faces_use():
    part = blob(derive(1, "part"), 32).transformed(Similarity.of(0.3, (0.5, 0.1, -0.2)))
    stray = Mesh(np.concatenate([part.vertices, [[9.0, 9.0, 9.0]]]).astype(np.float32), part.faces)
    for given in (part, stray):
        placed = given.transformed(fit_ncs(given))
        used = placed.vertices[np.unique(placed.faces)]
        assert np.abs(used).max() == pytest.approx(HALF_EXTENT, abs=1e-6)
        np.testing.assert_allclose(used.min(axis=0) + used.max(axis=0), 0, atol=1e-6)
    assert fit_ncs(part.vertices).scale == pytest.approx(fit_ncs(part).scale)


@pytest.mark.parametrize("method", ["bbox", "robust", "icp"])
def test_empty_parts_are_refused(method):
    empty = Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64))
    with pytest.raises(ValueError, match="without"):
        place_part(blob(derive(0), 16), empty, PlacementConfig(method=method), derive(0))
