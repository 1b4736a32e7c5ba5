"""What a loaded file becomes: triangles in world space with nodes, materials and corner attributes."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unipart.config import Config
from unipart.errors import Reject

_LARGEST_FLOAT = float(np.finfo(np.float32).max)
_LARGEST_UV = 2.0**24
"""From here on float32 has no fractions left: every texture coordinate would be the same texel."""


class LoadLimits(Config):
    """What one asset may cost; beyond it the asset is rejected (a texture is dropped) before memory is allocated."""

    max_bytes: int = 512 * 2**20
    """Size of the file, and of all its side files together."""
    max_faces: int = 5_000_000
    """Triangles over all instances."""
    max_elements: int = 20_000_000
    """Elements of one glTF accessor."""
    max_nodes: int = 100_000
    """glTF nodes, GPU instances included."""
    max_image_pixels: int = 64_000_000
    """Pixels of one texture before decoding; a larger one is dropped with a warning."""
    max_texture_size: int = 1024
    """Decoded textures are reduced to this many pixels on their longer side."""


@dataclass(frozen=True)
class Material:
    """A metallic-roughness material; factors are linear, the texture is sRGB.

    Attributes:
        name: as in the file.
        base_color: (r, g, b, a), linear.
        texture: [H W 4] uint8 sRGB with straight alpha, row 0 at v = 0; multiplies `base_color`. None without a texture.
        metallic, roughness: 0..1; a metallic-roughness texture is folded in by its mean.
        emissive: (r, g, b), linear; an emissive texture is folded in by its mean.
        alpha_mode: OPAQUE ignores alpha, MASK cuts at `alpha_cutoff`, BLEND blends.
        alpha_cutoff: for MASK.
    """

    name: str = "default"
    base_color: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    texture: NDArray[np.uint8] | None = None
    metallic: float = 0.0
    roughness: float = 1.0
    emissive: tuple[float, float, float] = (0.0, 0.0, 0.0)
    alpha_mode: Literal["OPAQUE", "MASK", "BLEND"] = "OPAQUE"
    alpha_cutoff: float = 0.5


@dataclass(frozen=True)
class Scene:
    """The triangles of a file: file units, world space, node transforms applied, winding of mirrored nodes put right.

    Every vertex is used by a face and is finite; vertices of different nodes are never shared. All primitives of a node's mesh
    carry that node's number, so that a node is the unit for welding.

    Attributes:
        vertices: [V 3] float64.
        faces: [F 3] int64.
        node_of_face: [F] int32, an index into node_names.
        node_names: one per node with faces; names may repeat.
        material_of_face: [F] int32, an index into materials.
        materials: at least one.
        corner_uv: [F 3 2] float32, v = 0 at the top row of the texture; zeros where absent.
        corner_color: [F 3 4] float32 linear; ones where absent. Multiplies the material's colour.
        corner_normal: [F 3 3] float32 unit normals; zeros where absent (flat shading).
        warnings: what was ignored or dropped, for the ledger and the report.
    """

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]
    node_of_face: NDArray[np.int32]
    node_names: tuple[str, ...]
    material_of_face: NDArray[np.int32]
    materials: tuple[Material, ...]
    corner_uv: NDArray[np.float32]
    corner_color: NDArray[np.float32]
    corner_normal: NDArray[np.float32]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Piece:
    """Triangles with one node and one material; corner attributes are [F 3 K] or None."""

    vertices: NDArray[Any]
    faces: NDArray[Any]
    uv: NDArray[Any] | None = None
    color: NDArray[Any] | None = None
    normal: NDArray[Any] | None = None


class SceneBuilder:
    """Collects pieces while a file is read; `build` joins them into a `Scene`.

    Args:
        limits: `max_faces` is enforced as pieces arrive.
    """

    def __init__(self, limits: LoadLimits) -> None:
        self.limits = limits
        self.warnings: list[str] = []
        self._node_names: list[str] = []
        self._materials: list[Material] = []
        self._pieces: list[tuple[int, int, Piece]] = []
        self._num_faces = 0

    def warn(self, text: str) -> None:
        """Notes something that was ignored, once."""
        if text not in self.warnings:
            self.warnings.append(text)

    def add_node(self, name: str) -> int:
        """Returns the number of a new node; half a surrogate pair in its name (JSON may hold one) is written as an escape."""
        self._node_names.append(name.encode("utf-8", "backslashreplace").decode())
        return len(self._node_names) - 1

    def add_material(self, material: Material) -> int:
        """Returns the number of a new material."""
        self._materials.append(material)
        return len(self._materials) - 1

    def add_piece(self, node: int, material: int, piece: Piece) -> None:
        """Adds triangles; keeps only the vertices that they use.

        Raises:
            Reject: ``index_out_of_range`` or ``too_many_faces``.
        """
        if len(piece.faces) == 0:
            return
        self._num_faces += len(piece.faces)
        if self._num_faces > self.limits.max_faces:
            raise Reject("too_many_faces", f"more than {self.limits.max_faces} triangles over all instances")
        self._pieces.append((node, material, compact(piece)))

    def build(self) -> Scene:
        """Joins the pieces.

        Raises:
            Reject: ``no_faces``, or ``non_finite_vertices`` when a used vertex is NaN or infinite.
        """
        if not self._pieces:
            raise Reject("no_faces", "the file holds no triangles")
        pieces = [piece for _, _, piece in self._pieces]
        sizes = [len(piece.faces) for piece in pieces]
        starts = np.cumsum([0, *(len(piece.vertices) for piece in pieces)])
        vertices = np.concatenate([piece.vertices for piece in pieces])
        bad = ~np.isfinite(vertices).all(axis=1)
        if bad.any():
            raise Reject("non_finite_vertices", f"{int(bad.sum())} vertices in use are NaN or infinite")
        used_nodes, node_of_piece = np.unique([node for node, _, _ in self._pieces], return_inverse=True)
        return Scene(
            vertices=vertices,
            faces=np.concatenate([piece.faces + start for piece, start in zip(pieces, starts[:-1], strict=True)]),
            node_of_face=np.repeat(node_of_piece, sizes).astype(np.int32),
            node_names=tuple(self._node_names[node] for node in used_nodes),
            material_of_face=np.repeat([material for _, material, _ in self._pieces], sizes).astype(np.int32),
            materials=tuple(self._materials),
            corner_uv=self._corners([piece.uv for piece in pieces], sizes, np.zeros(2), _LARGEST_UV),
            corner_color=self._corners([piece.color for piece in pieces], sizes, np.ones(4)),
            corner_normal=_unit(self._corners([piece.normal for piece in pieces], sizes, np.zeros(3))),
            warnings=tuple(self.warnings),
        )

    def _corners(
        self, values: list[NDArray[Any] | None], sizes: list[int], default: NDArray[np.float64], most: float = _LARGEST_FLOAT
    ) -> NDArray[np.float32]:
        filled = np.tile(default.astype(np.float32), (sum(sizes), 3, 1))
        start = 0
        for value, size in zip(values, sizes, strict=True):
            if value is not None:
                filled[start : start + size] = value
            start += size
        bad = ~(np.abs(filled) <= most).all(axis=-1)
        if bad.any():
            self.warn(f"non-finite or absurd texture coordinates, colours or normals replaced at {int(bad.sum())} corners")
            filled[bad] = default
        return filled


def compact(piece: Piece) -> Piece:
    """Returns the piece with only the vertices that its faces use, as float64 and int64.

    Raises:
        Reject: ``index_out_of_range``.
    """
    faces = np.asarray(piece.faces, dtype=np.int64)
    check_indices(faces, len(piece.vertices))
    used = np.zeros(len(piece.vertices), dtype=bool)
    used[faces] = True
    new_index = np.cumsum(used) - 1
    return Piece(np.asarray(piece.vertices)[used].astype(np.float64), new_index[faces], piece.uv, piece.color, piece.normal)


def check_indices(indices: NDArray[np.integer], count: int, what: str = "vertices") -> None:
    """Refuses indices outside 0..count-1 (NumPy would wrap the negative ones round).

    Raises:
        Reject: ``index_out_of_range``.
    """
    if len(indices) == 0:
        return
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or high >= count:
        raise Reject("index_out_of_range", f"index {low if low < 0 else high} where there are {count} {what}")


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1).astype(np.float32)
