"""Pictures that lie over one another."""

from pathlib import Path

import numpy as np
from PIL import Image

from jobs.training.panels import SIZE, Panels, matched_colors, split_by_anchors, write_picture
from unipart.geometry.mesh import Mesh, Similarity, concatenate
from unipart.geometry.render import palette
from unipart.geometry.solids import sphere

PARTS = [sphere(0.4).transformed(Similarity.of(1.0, (x, 0, 0))) for x in (-0.5, 0.5)]


def silhouette(picture: np.ndarray) -> np.ndarray:
    return (picture < 250).any(axis=-1)


def test_the_camera_is_the_truths_whatever_is_drawn():
    panels = Panels(PARTS)
    truth = silhouette(panels.truth())
    whole = concatenate(PARTS)
    assert (silhouette(panels.plain(whole)) == truth).all()
    half = silhouette(panels.plain(whole.transformed(Similarity.of(0.5, (0, 0, 0)))))
    assert 0.2 < half.sum() / truth.sum() < 0.3  # a camera of its own would show it as large
    assert silhouette(panels.parts(PARTS, np.arange(2), exploded=True)).sum() < truth.sum()


def test_nothing_is_a_white_picture():
    panels = Panels(PARTS)
    for picture in (panels.plain(None), panels.parts([], np.zeros(0, np.int64))):
        assert picture.shape == (SIZE, SIZE, 3)
        assert (picture == 255).all()


def test_parts_that_correspond_have_one_colour():
    truth = np.array([0, 0, 0, 1, 1, 2, 2, -1])
    found = np.array([2, 2, 2, 0, 0, 0, 1, 1])
    assert matched_colors(found, truth, 4, 3).tolist() == [1, 2, 0, 6]  # the fourth found part matches none
    red = palette(1)[0]
    picture = Panels(PARTS).parts(PARTS, np.array([0, 0]))
    pixels = picture[silhouette(picture)].mean(0) / 255
    assert np.argmax(pixels) == np.argmax(red)


def test_faces_go_to_the_part_of_the_nearest_anchor():
    mesh = concatenate(PARTS)
    left, right = split_by_anchors(Mesh(mesh.vertices, mesh.faces), np.array([[-0.5, 0, 0], [0.5, 0, 0]]), np.array([0, 1]))
    assert left.vertices[:, 0].max() < 0 < right.vertices[:, 0].min()
    assert len(left.faces) + len(right.faces) == len(mesh.faces)


def test_a_picture_is_written_as_a_whole(tmp_path: Path):
    picture = Panels(PARTS).truth()
    write_picture(tmp_path / "object.truth.png", picture)
    assert [path.name for path in tmp_path.iterdir()] == ["object.truth.png"]
    assert (np.asarray(Image.open(tmp_path / "object.truth.png")) == picture).all()
