"""A small writer of binary glTF, a node per part, and the reader that takes the parts back out."""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unipart.geometry._crease import crease_normals
from unipart.geometry.load import load_scene
from unipart.geometry.mesh import Mesh

_DEFAULT_COLOR = (0.6, 0.6, 0.6, 1.0)
_FLOAT, _UINT32 = 5126, 5125
_VERTICES, _INDICES = 34962, 34963
_NORMAL_STEPS = 1023


@dataclass(frozen=True)
class GlbNode:
    """One part of a GLB file.

    Attributes:
        name: of the node and its mesh.
        mesh: the geometry; a mesh without faces becomes an empty node.
        color: (r, g, b, a), linear; None for light grey.
        extras: JSON values stored on the node and on the mesh.
        crease_degrees: edges that bend less are shaded smoothly; 0 shades flat.
        metallic, roughness: of the material.
    """

    name: str
    mesh: Mesh
    color: tuple[float, float, float, float] | None = None
    extras: dict[str, Any] = field(default_factory=dict)
    crease_degrees: float = 30.0
    metallic: float = 0.0
    roughness: float = 0.8


def write_glb(nodes: Sequence[GlbNode]) -> bytes:
    """Returns a binary glTF 2.0 file: float32 positions and normals, one material a node. The same nodes give the same bytes."""
    file = _File()
    for node in nodes:
        entry: dict[str, Any] = {"name": node.name}
        if len(node.mesh.faces):
            entry["mesh"] = file.add_mesh(node)
        if node.extras:
            entry["extras"] = node.extras
        file.nodes.append(entry)
    return file.to_bytes()


def read_glb_parts(path: str | Path) -> list[tuple[str, Mesh]]:
    """Returns (name, mesh) of every node with faces, in world space; vertices at one float32 position become one.

    Raises:
        Reject: the file is no readable mesh.
    """
    scene = load_scene(path)
    whole = Mesh(scene.vertices, scene.faces, scene.node_of_face)
    return [(name, _weld(whole.part(index))) for index, name in enumerate(scene.node_names)]


class _File:
    """The lists of a glTF document and its growing binary chunk."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = []
        self._meshes: list[dict[str, Any]] = []
        self._materials: list[dict[str, Any]] = []
        self._accessors: list[dict[str, Any]] = []
        self._views: list[dict[str, Any]] = []
        self._binary = bytearray()

    def add_mesh(self, node: GlbNode) -> int:
        positions, normals, faces = _split_at_creases(node.mesh, node.crease_degrees)
        bounds = {"min": positions.min(axis=0).tolist(), "max": positions.max(axis=0).tolist()}
        primitive = {
            "attributes": {
                "POSITION": self._add_array(positions, "VEC3", _FLOAT, _VERTICES, bounds),
                "NORMAL": self._add_array(normals, "VEC3", _FLOAT, _VERTICES, {}),
            },
            "indices": self._add_array(faces.reshape(-1), "SCALAR", _UINT32, _INDICES, {}),
            "material": len(self._materials),
        }
        color = [float(value) for value in (_DEFAULT_COLOR if node.color is None else node.color)]
        surface = {"baseColorFactor": color, "metallicFactor": node.metallic, "roughnessFactor": node.roughness}
        material: dict[str, Any] = {"name": node.name, "pbrMetallicRoughness": surface}
        if color[3] < 1:
            material["alphaMode"] = "BLEND"
        self._materials.append(material)
        mesh: dict[str, Any] = {"name": node.name, "primitives": [primitive]}
        if node.extras:
            mesh["extras"] = node.extras
        self._meshes.append(mesh)
        return len(self._meshes) - 1

    def to_bytes(self) -> bytes:
        document: dict[str, Any] = {
            "asset": {"version": "2.0", "generator": "unipart"},
            "scene": 0,
            "scenes": [{"nodes": list(range(len(self.nodes)))} if self.nodes else {}],
        }
        lists = {
            "nodes": self.nodes,
            "meshes": self._meshes,
            "materials": self._materials,
            "accessors": self._accessors,
            "bufferViews": self._views,
        }
        document |= {name: values for name, values in lists.items() if values}
        if self._binary:
            document["buffers"] = [{"byteLength": len(self._binary)}]
        text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
        text += b" " * (-len(text) % 4)
        chunks = struct.pack("<II", len(text), 0x4E4F534A) + text
        if self._binary:
            chunks += struct.pack("<II", len(self._binary), 0x004E4942) + bytes(self._binary)
        return b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks

    def _add_array(self, values: NDArray[Any], shape: str, component: int, target: int, bounds: dict[str, Any]) -> int:
        data = values.tobytes()
        view = {"buffer": 0, "byteOffset": len(self._binary), "byteLength": len(data), "target": target}
        self._views.append(view)
        self._binary += data  # every array is a multiple of 4 bytes, so that offsets stay aligned
        accessor = {"bufferView": len(self._views) - 1, "componentType": component, "count": len(values), "type": shape}
        self._accessors.append(accessor | bounds)
        return len(self._accessors) - 1


def _split_at_creases(mesh: Mesh, crease_degrees: float) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint32]]:
    """Returns positions, normals [W 3] and faces [F 3], with one vertex per (vertex, normal)."""
    faces = np.asarray(mesh.faces, dtype=np.int64)
    normals = crease_normals(mesh.vertices, faces, np.zeros(len(faces), dtype=np.int64), crease_degrees).reshape(-1, 3)
    steps = np.rint((normals.astype(np.float64) + 1) * _NORMAL_STEPS).astype(np.int64)
    key = faces.reshape(-1)
    for axis in range(3):
        key = key * (2 * _NORMAL_STEPS + 1) + steps[:, axis]
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    positions = np.asarray(mesh.vertices)[faces.reshape(-1)[first]].astype("<f4")
    return positions, normals[first].astype("<f4"), inverse.reshape(faces.shape).astype("<u4")


def _weld(mesh: Mesh) -> Mesh:
    points, inverse = np.unique(mesh.vertices.astype(np.float32) + np.float32(0), axis=0, return_inverse=True)
    faces = inverse.reshape(-1)[mesh.faces]
    return Mesh(points.astype(np.float64), faces)
