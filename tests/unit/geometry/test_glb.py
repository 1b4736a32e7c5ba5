"""The GLB writer: what goes in comes out, here and in trimesh."""

import io
import json
import struct

import numpy as np
import pytest
import trimesh

from unipart.geometry.glb import GlbNode, read_glb_parts, write_glb
from unipart.geometry.load import load_scene_bytes
from unipart.geometry.mesh import Mesh
from unipart.geometry.solids import box, cylinder, moved

NODES = [
    GlbNode("seat", box(1, 0.2, 1), (0.8, 0.1, 0.2, 1.0), {"part_id": 0}),
    GlbNode("leg", moved(cylinder(0.1, 1), y=-1.0), None, metallic=0.5, roughness=0.25),
]


def document_of(data: bytes) -> dict:
    (size,) = struct.unpack_from("<I", data, 12)
    return json.loads(data[20 : 20 + size])


def test_parts_come_back_closed(tmp_path):
    (tmp_path / "a.glb").write_bytes(write_glb(NODES))
    parts = read_glb_parts(tmp_path / "a.glb")
    assert [name for name, _ in parts] == ["seat", "leg"]
    for (_, mesh), node in zip(parts, NODES, strict=True):
        assert len(mesh.vertices) == len(node.mesh.vertices)
        assert len(mesh.faces) == len(node.mesh.faces)
        assert mesh.volume() == pytest.approx(node.mesh.volume(), rel=1e-5)


def test_trimesh_sees_names_geometry_and_materials():
    scene = trimesh.load(io.BytesIO(write_glb(NODES)), file_type="glb", process=False)
    assert set(scene.geometry) == {"seat", "leg"}
    assert set(scene.graph.nodes_geometry) == {"seat", "leg"}
    seat, leg = scene.geometry["seat"], scene.geometry["leg"]
    assert len(seat.faces) == len(NODES[0].mesh.faces)
    assert seat.metadata["part_id"] == 0
    assert seat.visual.material.baseColorFactor.tolist()[0] == pytest.approx(0.8 * 255, abs=1)
    assert leg.visual.material.metallicFactor == 0.5
    assert leg.visual.material.roughnessFactor == 0.25
    seat.merge_vertices(merge_norm=True, merge_tex=True)
    assert seat.is_watertight


def test_our_loader_sees_the_materials():
    scene = load_scene_bytes(write_glb(NODES), ".glb")
    assert scene.materials[0].base_color == (0.8, 0.1, 0.2, 1.0)
    assert scene.materials[1].roughness == 0.25
    assert not scene.warnings


def test_box_edges_stay_hard_and_a_cylinder_is_smooth():
    scene = load_scene_bytes(write_glb(NODES), ".glb")
    faces = Mesh(scene.vertices, scene.faces).face_normals()
    cosine = np.einsum("fcj,fj->fc", scene.corner_normal, faces)
    np.testing.assert_allclose(cosine[scene.node_of_face == 0], 1, atol=1e-5)
    assert cosine[scene.node_of_face == 1].min() < 0.999
    flat = load_scene_bytes(write_glb([GlbNode("leg", NODES[1].mesh, crease_degrees=0.0)]), ".glb")
    cosine = np.einsum("fcj,fj->fc", flat.corner_normal, Mesh(flat.vertices, flat.faces).face_normals())
    np.testing.assert_allclose(cosine, 1, atol=1e-5)


def test_file_is_well_formed_and_deterministic():
    data = write_glb(NODES)
    assert data == write_glb(NODES)
    assert struct.unpack_from("<II", data, 4) == (2, len(data))
    document = document_of(data)
    assert document["nodes"][0]["extras"] == document["meshes"][0]["extras"] == {"part_id": 0}
    assert all(view["byteOffset"] % 4 == 0 for view in document["bufferViews"])
    positions = document["accessors"][document["meshes"][0]["primitives"][0]["attributes"]["POSITION"]]
    assert positions["min"] == pytest.approx([-0.5, 0, -0.5])


def test_empty_meshes_and_files():
    empty = GlbNode("nothing", Mesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=int)))
    scene = load_scene_bytes(write_glb([empty, NODES[0]]), ".glb")
    assert scene.node_names == ("seat",)
    assert "meshes" not in document_of(write_glb([]))
