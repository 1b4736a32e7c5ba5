"""The pictures of an object that a training is scored on: one camera for the truth and for all that is compared with it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.optimize import linear_sum_assignment

from unipart import storage
from unipart.geometry.explode import explode
from unipart.geometry.mesh import Mesh, concatenate
from unipart.geometry.render import on_background, palette, render_figure
from unipart.geometry.solids import sphere
from unipart.metrics.parts import nearest_labels

Picture = NDArray[np.uint8]
SIZE = 256
"""Pixels of a picture's side."""
ANCHOR_RADIUS = 0.04


class Panels:
    """Draws meshes from the camera that the true object fills, so that pictures of any step and run lie over one another.

    Args:
        truth: true parts in GCS; those without faces are not seen.
    """

    def __init__(self, truth: Sequence[Mesh]) -> None:
        self.truth_parts = truth
        self.frame = concatenate(truth).vertices
        self.exploded_frame = concatenate(explode(truth)).vertices

    def truth(self) -> Picture:
        """Draws the true parts."""
        return self.parts(self.truth_parts, np.arange(len(self.truth_parts)))

    def plain(self, mesh: Mesh | None) -> Picture:
        """Draws a mesh in clay; None gives an empty picture."""
        return self._draw(None if mesh is None else Mesh(mesh.vertices, mesh.faces), None, self.frame)

    def parts(self, meshes: Sequence[Mesh], colors: NDArray[Any], exploded: bool = False) -> Picture:
        """Draws parts in place or moved apart.

        Args:
            meshes: the parts in GCS.
            colors: number of each one's colour; that of true part i is i.
            exploded: move them apart.
        """
        if not meshes:
            return self._draw(None, None, self.frame)
        table = palette(int(np.max(colors)) + 1)[colors]
        if exploded:
            return self._draw(concatenate(explode(meshes)), table, self.exploded_frame)
        return self._draw(concatenate(meshes), table, self.frame)

    def anchors(self, points: NDArray[Any], labels: NDArray[Any]) -> Picture:
        """Draws anchors [L 3] as balls in the colours of their true parts [L]."""
        ball = sphere(ANCHOR_RADIUS, 8)
        balls = [Mesh((ball.vertices + point).astype(np.float32), ball.faces) for point in points]
        return self.parts(balls, labels)

    @staticmethod
    def _draw(mesh: Mesh | None, colors: NDArray[Any] | None, frame: NDArray[Any]) -> Picture:
        if mesh is None or len(mesh.faces) == 0:
            return np.full((SIZE, SIZE, 3), 255, np.uint8)
        return on_background(render_figure(mesh, size=SIZE, colors=colors, frame=frame, ambient_occlusion=0))


def split_by_anchors(mesh: Mesh, anchors: NDArray[Any], labels: NDArray[Any]) -> list[Mesh]:
    """Returns the faces of a mesh by the part of the anchor nearest to them, a mesh a part.

    Args:
        mesh: in the frame of the anchors.
        anchors: [L 3].
        labels: part 0..N-1 of each anchor [L].
    """
    centres = mesh.vertices[mesh.faces].mean(axis=1)
    part_of_face = nearest_labels(centres, anchors, labels)
    return [mesh.select(part_of_face == part, keep_labels=False) for part in range(int(labels.max()) + 1)]


def matched_colors(found: NDArray[Any], truth: NDArray[Any], num_found: int, num_true: int) -> NDArray[np.int64]:
    """Returns the colour of each found part: that of the true part it shares most with, one to one; further ones get new colours.

    Args:
        found: part of each point [P].
        truth: true part of the same points [P], negative where unknown.
        num_found: number of found parts.
        num_true: number of true parts.
    """
    known = truth >= 0
    shared = np.zeros((num_found, num_true))
    np.add.at(shared, (found[known], truth[known]), 1.0)
    rows, columns = linear_sum_assignment(shared, maximize=True)
    colors = num_true + np.arange(num_found)
    seen = shared[rows, columns] > 0
    colors[rows[seen]] = columns[seen]
    return colors


def resized(pixels: Picture) -> Picture:
    """Returns an image [H H 3] at the size of the panels."""
    return np.asarray(Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def write_picture(path: Path, pixels: Picture) -> None:
    """Writes a PNG that appears as a whole or not at all."""
    with storage.open_writer(path) as file:
        Image.fromarray(pixels).save(file, "PNG")
