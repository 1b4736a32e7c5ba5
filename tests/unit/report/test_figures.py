"""Figures of a bundle: what is drawn, and that true parts wear the colour of the generated part they match."""

import numpy as np

from unipart.data.schema import Bundle, BundlePart, Sample
from unipart.geometry.mesh import Mesh, Similarity, concatenate
from unipart.geometry.render import palette
from unipart.report.figures import match_parts, object_entry, object_figures


def tetrahedron(x, size=0.4):
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]]) * size
    return Mesh(corners + np.array([x, 0, 0]), np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]))


EMPTY = Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64))


def bundle(meshes, **info):
    parts = tuple(BundlePart(i, mesh, None, Similarity.identity(), "ncs", 4, 0.9) for i, mesh in enumerate(meshes))
    return Bundle(
        "chair",
        parts,
        concatenate(meshes),
        np.zeros((4, 3), np.float32),
        np.zeros(4, np.int16),
        np.zeros((len(meshes), 4), bool),
        info=info,
    )


def sample(meshes):
    return Sample("chair", {"num_parts": len(meshes)}, mesh=concatenate(meshes))


def test_matching_is_one_to_one_and_the_rest_get_new_numbers():
    truth = [tetrahedron(0.6), tetrahedron(-0.9), tetrahedron(-0.2)]
    np.testing.assert_array_equal(match_parts(truth, [tetrahedron(-0.88), EMPTY, tetrahedron(0.55)]), [2, 0, 3])
    np.testing.assert_array_equal(match_parts(truth, []), [0, 1, 2])
    assert len(match_parts([], truth)) == 0


def hue_at(figure, left):
    """Mean colour of the left or right half."""
    half = figure[:, : figure.shape[1] // 2] if left else figure[:, figure.shape[1] // 2 :]
    return half[half[..., 3] == 255][:, :3].mean(axis=0)


def test_figures_and_colours():
    generated, truth = [tetrahedron(-0.9), tetrahedron(0.5)], [tetrahedron(0.5), tetrahedron(-0.9)]
    figures = object_figures(bundle(generated), sample(truth), size=64, azimuth=0)
    assert list(figures) == ["generated parts", "exploded", "whole model", "ground truth"]
    assert all(figure.shape == (64, 64, 4) for figure in figures.values())
    np.testing.assert_allclose(hue_at(figures["generated parts"], True), hue_at(figures["ground truth"], True), atol=3)
    blue, orange = hue_at(figures["ground truth"], True), hue_at(figures["ground truth"], False)
    assert blue.argmax() == palette(1)[0].argmax()
    assert orange.argmax() == palette(2)[1].argmax()
    assert np.ptp(hue_at(figures["whole model"], True)) < 12


def test_a_bundle_of_nothing_has_no_figures():
    nothing = Bundle("x", (), None, np.zeros((0, 3), np.float32), np.zeros(0, np.int16), np.zeros((0, 0), bool))
    assert object_figures(nothing, size=16) == {}


def test_entry_carries_facts_and_notes():
    made = bundle(
        [tetrahedron(0), EMPTY],
        seed=7,
        timings={"encode": 1.0, "decode": 2.0},
        fall_backs=["part 1 is empty"],
        warnings=["small encoder"],
    )
    entry = object_entry(made, sample([tetrahedron(0)]), {"iou": 0.5}, "v.html", size=24)
    assert entry.facts == {"parts": 2, "true parts": 1, "seed": 7, "generation time": 3.0}
    assert list(entry.fall_backs) == ["part 1 is empty", "small encoder"]
    assert (entry.object_id, entry.viewer, entry.scores) == ("chair", "v.html", {"iou": 0.5})
    assert entry.condition is None


def test_a_hidden_part_without_faces_matches_nothing():
    corner = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
    solid = Mesh(corner, np.array([[0, 1, 2]]))
    hidden = Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int64))
    assert match_parts([hidden, solid], [solid]).tolist() == [1, 0]
