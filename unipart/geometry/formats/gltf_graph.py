"""The node graph of a glTF file: a strict tree, walked without recursion."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unipart.errors import Reject
from unipart.geometry.formats.gltf_buffers import BufferReader
from unipart.geometry.formats.gltf_container import parse_model, pick
from unipart.geometry.formats.gltf_schema import Document, Instancing, Node

_GRAPH = "invalid_node_graph"


@dataclass(frozen=True)
class PlacedNode:
    """A node of the shown scene that has a mesh.

    Attributes:
        index: of the node.
        name: the node's name, else its mesh's, else its number.
        mesh: index of the mesh.
        skin: index of the skin, or None.
        matrix: node space -> world [4 4].
    """

    index: int
    name: str
    mesh: int
    skin: int | None
    matrix: NDArray[np.float64]


def world_matrices(document: Document) -> dict[int, NDArray[np.float64]]:
    """Returns node -> world [4 4] for every node of the default scene (of the first one where none is named).

    Raises:
        Reject: ``invalid_node_graph`` for a cycle, a node with two parents, or a node that does not exist.
    """
    nodes = document.nodes
    children = [child for node in nodes for child in node.children]
    if len(children) != len(set(children)):
        raise Reject(_GRAPH, "a node has more than one parent")
    if document.scenes:
        roots = pick(document.scenes, document.scene or 0, "scene", _GRAPH).nodes
    else:
        roots = sorted(set(range(len(nodes))) - set(children))
    matrices: dict[int, NDArray[np.float64]] = {}
    waiting = [(root, np.eye(4)) for root in reversed(roots)]
    while waiting:
        index, parent = waiting.pop()
        node = pick(nodes, index, "node", _GRAPH)
        if index in matrices:
            raise Reject(_GRAPH, f"node {index} is reached twice")
        matrices[index] = parent @ _local_matrix(node)
        waiting.extend((child, matrices[index]) for child in reversed(node.children))
    if not document.scenes and len(matrices) < len(nodes):
        raise Reject(_GRAPH, f"{len(nodes) - len(matrices)} nodes hang below themselves")
    return matrices


def placed_nodes(
    document: Document, matrices: dict[int, NDArray[np.float64]], reader: BufferReader, limit: int
) -> list[PlacedNode]:
    """Returns the nodes with a mesh, each GPU instance as a node of its own.

    Raises:
        Reject: ``declared_size_exceeds_limit`` when there are more than ``limit``.
    """
    placed: list[PlacedNode] = []
    for index, matrix in matrices.items():
        node = document.nodes[index]
        if node.mesh is None:
            continue
        if len(placed) == limit:
            raise Reject("declared_size_exceeds_limit", f"more than {limit} instances of meshes")
        name = node.name or pick(document.meshes, node.mesh, "mesh").name or f"node_{index}"
        instances = _instances(node, reader, limit - len(placed))
        if instances is None:
            placed.append(PlacedNode(index, name, node.mesh, node.skin, matrix))
        else:
            placed.extend(PlacedNode(index, f"{name}_{i}", node.mesh, None, matrix @ one) for i, one in enumerate(instances))
    return placed


def _local_matrix(node: Node) -> NDArray[np.float64]:
    if node.matrix is not None:
        return np.array(node.matrix, dtype=np.float64).reshape(4, 4).T
    return _compose(np.array([node.translation]), np.array([node.rotation]), np.array([node.scale]))[0]


def _instances(node: Node, reader: BufferReader, limit: int) -> NDArray[np.float64] | None:
    """Returns the matrices [K 4 4] of EXT_mesh_gpu_instancing, at most limit, or None."""
    if "EXT_mesh_gpu_instancing" not in node.extensions:
        return None
    attributes = parse_model(Instancing, node.extensions["EXT_mesh_gpu_instancing"], "EXT_mesh_gpu_instancing").attributes
    given = {name: attributes[name] for name in ("TRANSLATION", "ROTATION", "SCALE") if name in attributes}
    counts = {reader.count(accessor) for accessor in given.values()}
    if len(counts) != 1:
        raise Reject("invalid_gltf", f"instance attributes of different lengths {sorted(counts)}")
    count = counts.pop()
    if count > limit:
        raise Reject("declared_size_exceeds_limit", f"{count} instances of a mesh, {limit} more nodes are taken")
    rest = {"TRANSLATION": (0.0, 0.0, 0.0), "ROTATION": (0.0, 0.0, 0.0, 1.0), "SCALE": (1.0, 1.0, 1.0)}
    values = {name: reader.floats(accessor) for name, accessor in given.items()}
    for name, value in values.items():
        if value.shape[1] != len(rest[name]):
            raise Reject("invalid_gltf", f"instance attribute {name} has {value.shape[1]} components")
    full = [values.get(name, np.tile(default, (count, 1))) for name, default in rest.items()]
    return _compose(*full)


def _compose(translation: NDArray[np.float64], rotation: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns translation * rotation (quaternion x y z w) * scale as matrices [K 4 4]."""
    length = np.linalg.norm(rotation, axis=1, keepdims=True)
    x, y, z, w = np.where(length > 0, rotation / np.where(length > 0, length, 1), (0.0, 0.0, 0.0, 1.0)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrices = np.tile(np.eye(4), (len(translation), 1, 1))
    matrices[:, :3, :3] = np.stack([np.stack(row, axis=-1) for row in rows], axis=1) * scale[:, None, :]
    matrices[:, :3, 3] = translation
    return matrices
