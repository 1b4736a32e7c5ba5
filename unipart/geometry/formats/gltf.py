"""glTF 2.0 geometry: primitives to triangles in world space."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unipart.errors import Reject
from unipart.geometry.formats.draco import decode_draco
from unipart.geometry.formats.files import AssetFolder
from unipart.geometry.formats.gltf_buffers import BufferReader, normalise
from unipart.geometry.formats.gltf_container import open_container, parse_model, pick
from unipart.geometry.formats.gltf_graph import PlacedNode, placed_nodes, world_matrices
from unipart.geometry.formats.gltf_materials import MaterialReader
from unipart.geometry.formats.gltf_schema import Document, DracoPrimitive, Primitive
from unipart.geometry.formats.scene import Piece, SceneBuilder, check_indices

_DRACO = "KHR_draco_mesh_compression"
_TRIANGLE_MODES = (4, 5, 6)

Attribute = Callable[[str], NDArray[Any] | None]


@dataclass(frozen=True)
class _LocalPiece:
    """A primitive in its mesh's own frame; joints and weights [V K] of a skin, or None."""

    piece: Piece
    material: int
    joints: NDArray[np.int64] | None
    weights: NDArray[np.float64] | None


def read_gltf(data: bytes, suffix: str, folder: AssetFolder, builder: SceneBuilder) -> None:
    """Reads a .glb or .gltf file into the builder: one node of the scene per glTF node with a mesh.

    Raises:
        Reject: see `gltf_container`, `gltf_buffers` and `gltf_graph`.
    """
    container = open_container(data, suffix, builder)
    document = container.document
    reader = BufferReader(container, folder)
    materials = MaterialReader(document, reader, folder, builder)
    matrices = world_matrices(document)
    meshes: dict[int, list[_LocalPiece]] = {}
    for placed in placed_nodes(document, matrices, reader, builder.limits.max_nodes):
        if placed.mesh not in meshes:
            mesh = pick(document.meshes, placed.mesh, "mesh")
            pieces = [_read_primitive(primitive, reader, materials) for primitive in mesh.primitives]
            meshes[placed.mesh] = [piece for piece in pieces if piece is not None]
        node = builder.add_node(placed.name)
        joints = _joint_matrices(document, placed, matrices, reader)
        for local in meshes[placed.mesh]:
            builder.add_piece(node, local.material, _to_world(local, placed.matrix, joints))


def _read_primitive(primitive: Primitive, reader: BufferReader, materials: MaterialReader) -> _LocalPiece | None:
    if primitive.mode not in _TRIANGLE_MODES or "POSITION" not in primitive.attributes:
        return None
    draco = primitive.extensions.get(_DRACO)
    attribute, indices = _plain(primitive, reader) if draco is None else _draco(draco, reader)
    positions = attribute("POSITION")
    if positions is None or positions.shape[1] != 3:
        raise Reject("invalid_gltf", "POSITION does not have three components")
    if indices is None:
        indices = np.arange(len(positions))
    check_indices(indices, len(positions))
    # A Draco stream holds triangles, whatever they were before: a strip (5) says how the file without Draco would store them.
    faces = _triangles(indices.astype(np.int64), primitive.mode if draco is None else 4)

    def corners(name: str, widths: tuple[int, ...], as_colour: bool = False) -> NDArray[np.float64] | None:
        values = attribute(name)
        if values is None or values.shape[1] not in widths:
            return None
        if len(values) != len(positions):
            raise Reject("accessor_out_of_bounds", f"{name} has {len(values)} elements, POSITION has {len(positions)}")
        return (normalise(values) if as_colour else values.astype(np.float64))[faces]

    material = materials.get(primitive.material)
    uv = corners(f"TEXCOORD_{material.uv_set}", (2,))
    if uv is not None and material.uv_matrix is not None:
        uv = uv @ material.uv_matrix[:, :2].T + material.uv_matrix[:, 2]
    color = corners("COLOR_0", (3, 4), as_colour=True)
    if color is not None and color.shape[-1] == 3:
        color = np.concatenate([color, np.ones((*color.shape[:-1], 1))], axis=-1)
    used, new_index = np.unique(faces, return_inverse=True)  # once, so that instances do not carry unused vertices
    piece = Piece(positions[used].astype(np.float64), new_index.reshape(faces.shape), uv, color, corners("NORMAL", (3,)))
    joints, weights = attribute("JOINTS_0"), attribute("WEIGHTS_0")
    if joints is None or weights is None or not joints.shape == weights.shape == (len(positions), 4):
        return _LocalPiece(piece, material.index, None, None)
    return _LocalPiece(piece, material.index, joints[used].astype(np.int64), normalise(weights[used]))


def _plain(primitive: Primitive, reader: BufferReader) -> tuple[Attribute, NDArray[Any] | None]:
    def attribute(name: str) -> NDArray[Any] | None:
        if name not in primitive.attributes:
            return None
        if name.startswith(("JOINTS", "COLOR", "WEIGHTS")):  # these are normalised (or not) whatever the accessor says
            return reader.accessor(primitive.attributes[name])
        return reader.floats(primitive.attributes[name])

    if primitive.indices is None:
        return attribute, None
    indices = reader.accessor(primitive.indices)
    if indices.dtype.kind != "u" or indices.shape[1] != 1:
        raise Reject("invalid_gltf", "indices are not unsigned scalars")
    return attribute, indices[:, 0]


def _draco(extension: Any, reader: BufferReader) -> tuple[Attribute, NDArray[Any] | None]:
    compressed = parse_model(DracoPrimitive, extension, _DRACO)
    mesh = decode_draco(reader.view(compressed.buffer_view))

    def attribute(name: str) -> NDArray[Any] | None:
        found = mesh.get_attribute_by_unique_id(compressed.attributes[name]) if name in compressed.attributes else None
        return None if found is None else np.asarray(found["data"]).reshape(len(mesh.points), -1)

    return attribute, np.asarray(mesh.faces).reshape(-1)


def _triangles(indices: NDArray[np.int64], mode: int) -> NDArray[np.int64]:
    """Returns triangles [F 3] of a list (4), strip (5) or fan (6)."""
    if mode == 4:
        if len(indices) % 3:
            raise Reject("accessor_out_of_bounds", f"{len(indices)} corners are not a whole number of triangles")
        return indices.reshape(-1, 3)
    count = max(len(indices) - 2, 0)
    start = np.arange(count)
    if mode == 6:
        return np.stack([np.broadcast_to(indices[:1], count), indices[1 : count + 1], indices[2 : count + 2]], axis=1)
    odd = start % 2
    return np.stack([indices[start], indices[start + 1 + odd], indices[start + 2 - odd]], axis=1)


def _joint_matrices(
    document: Document, placed: PlacedNode, matrices: dict[int, NDArray[np.float64]], reader: BufferReader
) -> NDArray[np.float64] | None:
    """Returns joint space -> world times the inverse bind matrix [J 4 4] for a skinned node (glTF 2.0, section 3.7.3.3)."""
    if placed.skin is None:
        return None
    skin = pick(document.skins, placed.skin, "skin")
    binds = np.tile(np.eye(4), (len(skin.joints), 1, 1))
    if skin.inverse_bind_matrices is not None:
        stored = reader.floats(skin.inverse_bind_matrices)
        if stored.shape[1] != 16 or len(stored) < len(skin.joints):
            raise Reject(
                "invalid_gltf", f"skin {placed.skin} has {len(stored)} inverse bind matrices for {len(skin.joints)} joints"
            )
        binds = stored[: len(skin.joints)].reshape(-1, 4, 4).transpose(0, 2, 1)
    worlds = [matrices.get(joint, np.eye(4)) for joint in skin.joints]
    return np.array(worlds).reshape(-1, 4, 4) @ binds


def _to_world(local: _LocalPiece, matrix: NDArray[np.float64], joints: NDArray[np.float64] | None) -> Piece:
    """Places a piece. The node's own transform counts unless the mesh is skinned: then the joints alone place it."""
    if joints is None:
        return _transformed(local.piece, matrix)
    if local.joints is None or local.weights is None or len(joints) == 0:
        return _transformed(local.piece, np.eye(4))
    check_indices(local.joints.reshape(-1), len(joints), "joints")
    if not np.isfinite(local.weights).all():
        raise Reject("non_finite_vertices", "a joint weight is NaN or infinite")
    total = local.weights.sum(axis=1, keepdims=True)
    weights = np.where(total > 0, local.weights / np.where(total > 0, total, 1), 0)
    blended = np.einsum("vk,vkij->vij", weights, joints[local.joints])
    blended[total[:, 0] <= 0] = np.eye(4)
    points = np.einsum("vij,vj->vi", blended[:, :3, :3], local.piece.vertices) + blended[:, :3, 3]
    is_mirrored = np.linalg.det(joints[0, :3, :3]) < 0
    normal = local.piece.normal
    if normal is not None:
        normal = np.einsum("fcij,fcj->fci", blended[local.piece.faces, :3, :3], normal)
    moved = replace(local.piece, vertices=points, normal=normal)
    return _flipped(moved) if is_mirrored else moved


def _transformed(piece: Piece, matrix: NDArray[np.float64]) -> Piece:
    linear = matrix[:3, :3]
    points = piece.vertices @ linear.T + matrix[:3, 3]
    sign = -1.0 if np.linalg.det(linear) < 0 else 1.0
    # Columns of the cofactor matrix: it exists for singular transforms too.
    cofactor = np.stack([np.cross(linear[1], linear[2]), np.cross(linear[2], linear[0]), np.cross(linear[0], linear[1])])
    normal = None if piece.normal is None else sign * (piece.normal @ cofactor.T)
    moved = replace(piece, vertices=points, normal=normal)
    return _flipped(moved) if sign < 0 else moved


def _flipped(piece: Piece) -> Piece:
    """Reverses the winding; corner attributes follow."""
    turned = {
        name: None if value is None else value[:, [0, 2, 1]]
        for name in ("uv", "color", "normal")
        for value in [getattr(piece, name)]
    }
    return replace(piece, faces=piece.faces[:, [0, 2, 1]], **turned)
