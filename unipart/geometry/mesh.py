"""The triangle mesh and the similarity transform: the two nouns of the geometry half."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from unipart.errors import Reject

HALF_EXTENT = 0.9999
"""Max half extent of a normalised object (GCS) or part (NCS)."""


@dataclass(frozen=True)
class Similarity:
    """x -> scale * x + offset, with one positive scale for all axes.

    Attributes:
        scale: positive number.
        offset: translation [3], in target units.
    """

    scale: float
    offset: tuple[float, float, float]

    @classmethod
    def to_unit_box(cls, points: NDArray[Any], half_extent: float = HALF_EXTENT) -> Self:
        """Fits the map that centres the bounding box of points [V 3] at 0 with the given max half extent.

        Raises:
            ValueError: no points, or all of them in one place.
            Reject: ``coordinate_range`` where the map is beyond float64 (coordinates of 9e307, extents of 1e-308), and for NaN.
        """
        if len(points) == 0:
            raise ValueError("a bounding box needs at least one point")
        low, high = points.min(axis=0).astype(np.float64), points.max(axis=0).astype(np.float64)
        if (low == high).all():
            raise ValueError("the points have no extent")
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            scale = half_extent / ((high - low).max() / 2)
            offset = -(low + high) / 2 * scale
        if not (np.isfinite([scale, *offset]).all() and scale > 0):
            raise Reject("coordinate_range", f"coordinates from {low.min():.3g} to {high.max():.3g} leave the range of float64")
        return cls.of(scale, offset)

    @classmethod
    def of(cls, scale: float, offset: NDArray[Any] | Sequence[float]) -> Self:
        """Builds from any array-like offset."""
        x, y, z = (float(value) for value in offset)
        return cls(float(scale), (x, y, z))

    @classmethod
    def identity(cls) -> Self:
        """Returns x -> x."""
        return cls(1.0, (0.0, 0.0, 0.0))

    def apply(self, points: NDArray[Any]) -> NDArray[Any]:
        """Maps points [... 3]; the dtype is kept."""
        return (points * self.scale + np.asarray(self.offset)).astype(points.dtype, copy=False)

    def invert(self) -> "Similarity":
        """Returns the map back."""
        return Similarity.of(1 / self.scale, -np.asarray(self.offset) / self.scale)

    def then(self, other: "Similarity") -> "Similarity":
        """Returns the map that applies self first and other second."""
        return Similarity.of(self.scale * other.scale, other.apply(np.asarray(self.offset)))

    def to_dict(self) -> dict[str, Any]:
        """Returns a JSON form."""
        return {"scale": self.scale, "offset": list(self.offset)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Reads what `to_dict` wrote."""
        return cls.of(data["scale"], data["offset"])


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh, optionally with a part label per face.

    Attributes:
        vertices: positions [V 3], float.
        faces: vertex indices [F 3], int, counter-clockwise seen from outside.
        part_of_face: part id 0..N-1 per face [F], or None.
    """

    vertices: NDArray[Any]
    faces: NDArray[Any]
    part_of_face: NDArray[Any] | None = None

    @property
    def num_parts(self) -> int:
        """Number of part ids (max id + 1); 1 for an unlabelled mesh with faces."""
        if len(self.faces) == 0:
            return 0
        return 1 if self.part_of_face is None else int(self.part_of_face.max()) + 1

    def part(self, part_id: int) -> "Mesh":
        """Returns the faces of one part with only the vertices that they use."""
        if self.part_of_face is None:
            raise ValueError("the mesh has no part labels")
        return self.select(self.part_of_face == part_id, keep_labels=False)

    def select(self, mask: NDArray[np.bool_], keep_labels: bool = True) -> "Mesh":
        """Returns the faces where mask [F] is set, with only the vertices that they use."""
        faces = self.faces[mask]
        used, inverse = np.unique(faces, return_inverse=True)
        labels = self.part_of_face[mask] if keep_labels and self.part_of_face is not None else None
        return Mesh(self.vertices[used], inverse.reshape(faces.shape).astype(self.faces.dtype), labels)

    def transformed(self, similarity: Similarity) -> "Mesh":
        """Returns the mesh with mapped vertices."""
        return replace(self, vertices=similarity.apply(self.vertices))

    def face_cross(self) -> NDArray[np.float64]:
        """Returns (b-a) x (c-a) per face [F 3]: the normal times twice the area."""
        a, b, c = (self.vertices[self.faces[:, i]].astype(np.float64) for i in range(3))
        return np.cross(b - a, c - a)

    def face_areas(self) -> NDArray[np.float64]:
        """Returns the area per face [F]."""
        return np.linalg.norm(self.face_cross(), axis=1) / 2

    def face_normals(self) -> NDArray[np.float64]:
        """Returns unit normals per face [F 3]; zero for a degenerate face."""
        cross = self.face_cross()
        return cross / np.maximum(np.linalg.norm(cross, axis=1, keepdims=True), 1e-300)

    def volume(self) -> float:
        """Returns the signed enclosed volume (divergence theorem); meaningful for closed meshes."""
        origin = self.vertices.mean(axis=0).astype(np.float64) if len(self.vertices) else 0.0
        a, b, c = (self.vertices[self.faces[:, i]].astype(np.float64) - origin for i in range(3))
        return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def concatenate(meshes: Sequence[Mesh]) -> Mesh:
    """Joins meshes into one; face labels are the positions in the sequence.

    Raises:
        ValueError: the sequence is empty.
    """
    if not meshes:
        raise ValueError("nothing to concatenate")
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    vertices = np.concatenate([mesh.vertices for mesh in meshes])
    faces = np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts[:-1], strict=True)])
    labels = np.repeat(np.arange(len(meshes), dtype=np.int32), [len(mesh.faces) for mesh in meshes])
    return Mesh(vertices, faces, labels)
