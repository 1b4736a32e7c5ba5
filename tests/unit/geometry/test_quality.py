"""Quality figures of a remeshed surface: each moves when what it measures does, and no other."""

import numpy as np
import pytest

from unipart.geometry.field import SignedDistance
from unipart.geometry.mesh import Mesh, concatenate
from unipart.geometry.quality import measure_quality
from unipart.rng import derive

BOX_FACES = np.array(
    [
        (0, 1, 3),
        (0, 3, 2),
        (4, 6, 7),
        (4, 7, 5),
        (0, 4, 5),
        (0, 5, 1),
        (2, 3, 7),
        (2, 7, 6),
        (0, 2, 6),
        (0, 6, 4),
        (1, 5, 7),
        (1, 7, 3),
    ]
)


def box(half: float) -> Mesh:
    corners = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * half
    return Mesh(corners.astype(float), BOX_FACES)


def quality(original: Mesh, surface: Mesh, voxel: float = 0.01, is_closed: np.ndarray | None = None) -> dict[str, float]:
    return measure_quality(original, surface, SignedDistance(surface), voxel, derive(0, "quality"), is_closed)


def test_the_same_surface_is_no_voxel_away():
    assert quality(box(0.9), box(0.9)) == pytest.approx(dict.fromkeys(quality(box(0.9), box(0.9)), 0.0), abs=1e-4)


def test_a_surface_half_a_voxel_outside():
    figures = quality(box(0.9), box(0.905))
    assert figures["to_original_mean"] == pytest.approx(0.5, abs=0.02)
    assert figures["from_original_mean"] == pytest.approx(0.5, abs=1e-3)
    assert figures["to_original_max"] < 0.5 * 3**0.5 + 0.01
    assert figures["far_share"] == figures["hidden_share"] == 0


def test_what_lies_inside_is_hidden_and_not_missed():
    figures = quality(concatenate([box(0.9), box(0.3)]), box(0.9))
    assert figures["hidden_share"] == pytest.approx(0.3**2 / (0.3**2 + 0.9**2), abs=0.02)
    assert figures["from_original_max"] < 1e-3


def test_a_wall_inside_closed_components_is_hidden_however_shallow():
    """A box a voxel under the faces of another: what is inside is not meant to be found again."""
    pair = concatenate([box(0.4), box(0.39)])
    told = quality(pair, box(0.4), is_closed=np.ones(24, bool))
    assert told["hidden_share"] == pytest.approx(0.39**2 / (0.39**2 + 0.4**2), abs=0.02)
    assert told["from_original_max"] < 1e-3
    assert quality(pair, box(0.4))["from_original_max"] == pytest.approx(1, abs=0.01)


def test_what_is_narrower_than_a_voxel_is_told_apart():
    plate = box(0.4)
    plate = Mesh(plate.vertices * (1, 1, 1e-4), plate.faces)
    apart = Mesh(plate.vertices + np.array([0.0, 0.0, 1.0]), plate.faces)
    figures = quality(concatenate([apart, box(0.2)]), box(0.2), is_closed=np.ones(24, bool))
    assert figures["from_original_mean"] > 5
    assert figures["resolved_mean"] < 0.1
    assert figures["narrow_share"] == pytest.approx(1.28 / (1.28 + 0.96), abs=0.02)
    untold = quality(concatenate([apart, box(0.2)]), box(0.2))
    assert (untold["narrow_share"], untold["resolved_max"]) == (0, untold["from_original_max"])


def test_the_thin_wall_of_a_filled_cavity_is_hidden():
    shell = concatenate([box(0.4), Mesh(box(0.388).vertices, BOX_FACES[:, ::-1])])
    told = quality(shell, box(0.4), is_closed=np.ones(24, bool))
    assert told["hidden_share"] == pytest.approx(0.388**2 / (0.388**2 + 0.4**2), abs=0.02)
    assert told["from_original_max"] < 1e-3


def test_a_lost_part_shows():
    lost = box(0.2)
    figures = quality(concatenate([box(0.5), Mesh(lost.vertices + 0.9, lost.faces)]), box(0.5))
    assert figures["from_original_max"] > 20
    assert figures["to_original_max"] < 1e-3


def test_a_cap_far_from_the_original_shows():
    opened = Mesh(box(0.9).vertices, BOX_FACES[2:])
    figures = quality(opened, box(0.9))
    assert figures["far_share"] == pytest.approx(1 / 6, abs=0.03)
    assert figures["from_original_max"] < 1e-3
