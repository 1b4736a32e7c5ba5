import numpy as np
import pytest

from unipart.geometry.mesh import Mesh, Similarity
from unipart.geometry.spaces import PlacementConfig
from unipart.inference.compose import DecodedPart, compose_part
from unipart.rng import derive

PLACEMENT = PlacementConfig(num_points=4096)
TRUE = Similarity(0.3, (0.2, -0.4, 0.1))


def box() -> Mesh:
    """A closed 2 x 1.2 x 0.8 box centred at 0."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-0.6, 0.6) for z in (-0.4, 0.4)], np.float32)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return Mesh(corners, np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))], np.int32))


def decoded(gcs: Mesh | None, ncs: Mesh | None, anchors: np.ndarray | None = None) -> DecodedPart:
    return DecodedPart(7, gcs, ncs, TRUE.apply(box().vertices) if anchors is None else anchors, 0.9)


def test_ncs_mesh_is_placed_where_its_twin_is():
    composed = compose_part(decoded(box().transformed(TRUE), box()), PLACEMENT, derive(0))
    assert composed.part is not None
    assert composed.part.source == "ncs"
    assert composed.fall_back == ""
    assert composed.part.placement.scale == pytest.approx(TRUE.scale, rel=0.01)
    np.testing.assert_allclose(composed.part.placement.offset, TRUE.offset, atol=0.005)
    np.testing.assert_allclose(composed.part.mesh.vertices, TRUE.apply(box().vertices), atol=0.01)
    assert composed.part.gcs_mesh is not None
    assert (composed.part.part_id, composed.part.num_latents, composed.part.predicted_iou) == (7, 8, 0.9)


def test_without_ncs_the_gcs_mesh_is_the_part_and_that_is_recorded():
    twin = box().transformed(TRUE)
    composed = compose_part(decoded(twin, None), PLACEMENT, derive(0))
    assert composed.part is not None
    assert composed.part.mesh is twin
    assert composed.part.source == "gcs"
    assert "part 7" in composed.fall_back
    assert compose_part(decoded(twin, None), PLACEMENT, derive(0), has_ncs=False).fall_back == ""


def test_without_gcs_the_anchors_say_where():
    composed = compose_part(decoded(None, box()), PLACEMENT, derive(0))
    assert composed.part is not None
    assert composed.part.source == "anchors"
    assert "anchors" in composed.fall_back
    np.testing.assert_allclose(composed.part.mesh.vertices, TRUE.apply(box().vertices), atol=1e-5)


def test_a_part_that_cannot_be_made_is_missing_with_a_reason():
    assert compose_part(decoded(None, None), PLACEMENT, derive(0)).part is None
    assert "missing" in compose_part(decoded(None, None), PLACEMENT, derive(0)).fall_back
    lone = compose_part(decoded(None, box(), np.zeros((1, 3), np.float32)), PLACEMENT, derive(0))
    assert lone.part is None
    assert "anchors span no box" in lone.fall_back
