"""Every format is read as it says or refused by name; nothing outside the asset's folder is opened."""

import base64
import io
import json
import struct
import tracemalloc

import DracoPy
import numpy as np
import pytest
import trimesh
from PIL import Image

from unipart.errors import Reject
from unipart.geometry.formats.files import AssetFolder
from unipart.geometry.formats.gltf_buffers import BufferReader
from unipart.geometry.formats.gltf_container import open_container
from unipart.geometry.formats.polygons import triangulate
from unipart.geometry.formats.scene import SceneBuilder
from unipart.geometry.glb import GlbNode, write_glb
from unipart.geometry.load import LoadLimits, load_scene, load_scene_bytes
from unipart.geometry.mesh import Mesh
from unipart.geometry.solids import box, moved

TRIANGLE = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], dtype="<f4")


def gltf(arrays: dict[str, np.ndarray], primitive: dict | None = None, **changes) -> dict:
    """A glTF document with one mesh on one node; arrays are attributes, plus "indices" and anything named with "_"."""
    document: dict = {"asset": {"version": "2.0"}, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}]}
    data, views, accessors, attributes, target = b"", [], [], {}, {"attributes": {}, **(primitive or {})}
    kinds = {"f4": 5126, "u4": 5125, "u2": 5123, "u1": 5121, "i2": 5122}
    for name, array in arrays.items():
        array = np.atleast_1d(array)
        shape = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}[1 if array.ndim == 1 else array.shape[1]]
        accessors.append(
            {"bufferView": len(views), "componentType": kinds[array.dtype.str[1:]], "count": len(array), "type": shape}
        )
        views.append({"buffer": 0, "byteOffset": len(data), "byteLength": array.nbytes})
        data += array.tobytes() + b"\0" * (-array.nbytes % 4)
        if name == "indices":
            target["indices"] = len(accessors) - 1
        elif not name.startswith("_"):
            attributes[name] = len(accessors) - 1
    target["attributes"] = attributes
    uri = "data:application/octet-stream;base64," + base64.b64encode(data).decode()
    document |= {"buffers": [{"uri": uri, "byteLength": len(data)}], "bufferViews": views, "accessors": accessors}
    return document | {"meshes": [{"primitives": [target]}]} | changes


def load(document: dict, **limits):
    return load_scene_bytes(json.dumps(document).encode(), ".gltf", LoadLimits(**limits))


def reason_of(data: bytes | dict, suffix: str = ".gltf", **limits) -> str:
    data = json.dumps(data).encode() if isinstance(data, dict) else data
    with pytest.raises(Reject) as caught:
        load_scene_bytes(data, suffix, LoadLimits(**limits))
    return caught.value.reason


def two_boxes() -> bytes:
    return write_glb([GlbNode("low", box(1, 1, 1)), GlbNode("high", moved(box(1, 1, 1), y=2.0))])


def outward(scene) -> bool:
    return Mesh(scene.vertices, scene.faces).volume() > 0


class TestGlb:
    def test_nodes_names_and_world_space(self):
        scene = load_scene_bytes(two_boxes(), ".glb")
        assert scene.node_names == ("low", "high")
        assert np.bincount(scene.node_of_face).tolist() == [12, 12]
        assert not set(scene.faces[:12].ravel()) & set(scene.faces[12:].ravel())
        np.testing.assert_allclose(scene.vertices.max(axis=0), [0.5, 3, 0.5])

    def test_agrees_with_trimesh(self):
        theirs = trimesh.load(io.BytesIO(two_boxes()), file_type="glb", process=False).to_geometry()
        ours = load_scene_bytes(two_boxes(), ".glb")
        triangles = [sorted(mesh.vertices[mesh.faces].reshape(-1, 9).round(6).tolist()) for mesh in (ours, theirs)]
        assert triangles[0] == triangles[1]

    def test_container_damage_is_named(self):
        good = two_boxes()
        assert reason_of(b"", ".glb") == "empty_file"
        assert reason_of(good[:10], ".glb") == "truncated_file"
        assert reason_of(good[:-4], ".glb") == "truncated_file"
        assert reason_of(b"PNG" + good[3:], ".glb") == "bad_magic"
        assert reason_of(good[:4] + struct.pack("<I", 1) + good[8:], ".glb") == "unsupported_version"
        assert reason_of(b"version https://git-lfs.github.com/spec/v1\n", ".glb") == "lfs_pointer"
        assert reason_of(good.replace(b'"asset"', b'"asset '), ".glb") == "bad_json"
        assert reason_of(good, ".fbx") == "unsupported_format"
        assert reason_of(good, ".glb", max_bytes=100) == "file_too_large"

    def test_bytes_after_the_end_are_ignored_with_a_warning(self):
        scene = load_scene_bytes(two_boxes() + b"x" * 100, ".glb")
        assert len(scene.faces) == 24
        assert "trailing_bytes" in scene.warnings[0]

    @pytest.mark.parametrize("suffix", [".glb", ".gltf", ".obj", ".ply", ".stl", ".drc"])
    @pytest.mark.parametrize(
        ("content", "at_home"),
        [
            (write_glb([GlbNode("cut", box(1, 1, 1))])[:-200], (".glb", ".gltf")),
            (b'\xef\xbb\xbf {"error": "not found"}', (".gltf",)),
            (b"ply\nformat ascii 1.0\nelement vertex 4\n" + b"property float x\n" * 9, (".ply",)),
            (b"DRACO\2\2", (".drc",)),
            (b"Solid a\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\n", (".stl",)),
            (b"# made here\n\nmtllib a.mtl\no a\nv 0 0 0\nf 1 2 3\n", (".obj",)),
            (b"OFF\n8 6 12\n0 0 0\n", ()),
            (b"#VRML V2.0 utf8\nShape {}\n", ()),
            (b"; FBX 7.3.0 project file\n", ()),
            (b"\n<?xml version='1.0'?><Error/>", ()),
            (b"\xef\xbb\xbf<!DOCTYPE html>", ()),
            (b"PK\3\4" + bytes(200), ()),
            (b"\x89PNG\r\n\x1a\n" + b"x" * 200, ()),
            (b"404: Not Found", ()),
        ],
    )
    def test_the_content_of_another_format_is_the_cause(self, content, at_home, suffix):
        assert (reason_of(content, suffix) == "bad_magic") == (suffix not in at_home)

    def test_face_limit_counts_instances(self):
        assert reason_of(two_boxes(), ".glb", max_faces=20) == "too_many_faces"


class TestAccessors:
    def test_strip_and_fan_keep_the_winding(self):
        square = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], dtype="<f4")
        for mode, order in ((5, [0, 1, 2, 3]), (6, [0, 1, 3, 2])):
            scene = load(gltf({"POSITION": square, "indices": np.array(order, "<u2")}, {"mode": mode}))
            normals = Mesh(scene.vertices, scene.faces).face_normals()
            assert len(scene.faces) == 2
            np.testing.assert_allclose(normals, [[0, 0, 1]] * 2)

    def test_points_alone_are_no_faces(self):
        assert reason_of(gltf({"POSITION": TRIANGLE}, {"mode": 0})) == "no_faces"

    def test_bounds(self):
        assert reason_of(gltf({"POSITION": TRIANGLE, "indices": np.array([0, 1, 3], "<u2")})) == "index_out_of_range"
        assert reason_of(gltf({"POSITION": TRIANGLE, "NORMAL": TRIANGLE[:2]})) == "accessor_out_of_bounds"
        document = gltf({"POSITION": TRIANGLE})
        document["accessors"][0]["count"] = 4
        assert reason_of(document) == "accessor_out_of_bounds"
        document["accessors"][0]["count"] = 400_000_000
        assert reason_of(document) == "declared_size_exceeds_limit"
        document = gltf({"POSITION": TRIANGLE})
        document["bufferViews"][0]["byteOffset"] = 8
        assert reason_of(document) == "accessor_out_of_bounds"
        document = gltf({"POSITION": TRIANGLE})
        document["accessors"][0]["bufferView"] = 7
        assert reason_of(document) == "accessor_out_of_bounds"

    def test_accessors_without_a_byte_are_bounded_together(self):
        document = gltf({"POSITION": TRIANGLE})
        document["accessors"] = [{"componentType": 5126, "count": 300_000, "type": "VEC3"}] * 4
        document["meshes"][0]["primitives"] = [{"attributes": {"POSITION": number}} for number in range(4)]
        assert reason_of(document) == "declared_size_exceeds_limit"
        document["meshes"][0]["primitives"].pop()
        assert len(load(document).faces) == 300_000

    def test_values_of_the_wrong_kind_are_named(self):
        document = gltf({"POSITION": TRIANGLE})
        document["accessors"][0]["count"] = "many"
        with pytest.raises(Reject, match=r"accessors\.0\.count"):
            load(document)
        for asset in ({"version": "1.0"}, {"version": "2.0", "minVersion": "2.9"}, {"version": "2.0", "minVersion": []}, "2.0"):
            assert reason_of(gltf({"POSITION": TRIANGLE}, asset=asset)) == "unsupported_version"
        assert len(load(gltf({"POSITION": TRIANGLE}, asset={"version": "2.0", "minVersion": "2.0"})).faces) == 1
        assert reason_of(b"[1, 2]") == "bad_json"

    def test_non_finite_positions_matter_only_in_use(self):
        points = np.vstack([TRIANGLE, [[np.nan, 0, 0]]]).astype("<f4")
        scene = load(gltf({"POSITION": points, "indices": np.array([0, 1, 2], "<u2")}))
        assert len(scene.vertices) == 3
        assert reason_of(gltf({"POSITION": points, "indices": np.array([0, 1, 3], "<u2")})) == "non_finite_vertices"

    def test_quantised_positions_and_stride(self):
        points = np.zeros((3, 4), "<u2")
        points[:, :3] = TRIANGLE * 65535
        document = gltf({"POSITION": points}, nodes=[{"mesh": 0, "scale": [2, 2, 2]}], extensionsRequired=["KHR_mesh_quantization"])
        document["accessors"][0] |= {"type": "VEC3", "normalized": True}
        document["bufferViews"][0]["byteStride"] = 8
        np.testing.assert_allclose(load(document).vertices.max(axis=0), [2, 2, 0])

    def test_a_stride_beyond_the_format_is_named(self):
        document = gltf({"POSITION": TRIANGLE, "indices": np.array([0, 0, 0], "<u2")})
        document["accessors"][0]["count"] = 1
        document["bufferViews"][0]["byteStride"] = 2**70
        with pytest.raises(Reject, match=r"invalid_gltf.*bufferViews\.0\.byteStride"):
            load(document)

    def test_accessors_do_not_copy_the_view_that_they_share(self):
        document = gltf({"POSITION": TRIANGLE, "_rest": np.zeros(1 << 22, "u1")})
        document["bufferViews"][0]["byteLength"] = document["buffers"][0]["byteLength"] - 4
        folder = AssetFolder(None, 1 << 30)
        data = json.dumps(document).encode()
        container = open_container(data, ".gltf", SceneBuilder(LoadLimits()))
        reader = BufferReader(container, folder)
        reader.accessor(0)  # opens the buffer
        tracemalloc.start()
        reader.accessor(0)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1 << 20

    def test_sparse_values_replace(self):
        document = gltf({"POSITION": TRIANGLE, "_where": np.array([1], "<u2"), "_what": np.array([[5, 0, 0]], "<f4")})
        where = {"bufferView": 1, "componentType": 5123}
        document["accessors"][0]["sparse"] = {"count": 1, "indices": where, "values": {"bufferView": 2}}
        assert load(document).vertices[:, 0].max() == 5

    def test_colours_are_linear_and_normalised(self):
        scene = load(gltf({"POSITION": TRIANGLE, "COLOR_0": np.full((3, 4), 51, "u1")}))
        np.testing.assert_allclose(scene.corner_color, 0.2, atol=1e-6)


class TestGraph:
    def test_mirrored_node_faces_out(self):
        cube = box(1, 1, 1)
        arrays = {"POSITION": cube.vertices.astype("<f4"), "indices": cube.faces.ravel().astype("<u4")}
        scene = load(gltf(arrays, nodes=[{"mesh": 0, "scale": [-1, 2, 1]}]))
        assert outward(scene)

    def test_mirrored_normals_stay_with_the_faces(self):
        normals = np.tile(np.array([[0, 0, 1]], "<f4"), (3, 1))
        scene = load(gltf({"POSITION": TRIANGLE, "NORMAL": normals}, nodes=[{"mesh": 0, "scale": [1, 1, -3]}]))
        np.testing.assert_allclose(scene.corner_normal[0], [[0, 0, -1]] * 3)
        np.testing.assert_allclose(Mesh(scene.vertices, scene.faces).face_normals(), [[0, 0, -1]])

    @pytest.mark.parametrize(
        "nodes",
        [
            [{"children": [1]}, {"children": [0]}],
            [{"children": [1, 1]}, {"mesh": 0}],
            [{"children": [1, 2]}, {"children": [3]}, {"children": [3]}, {"mesh": 0}],
            [{"children": [9]}],
        ],
        ids=["cycle", "twice", "shared", "missing"],
    )
    def test_graphs_that_are_no_trees(self, nodes):
        assert reason_of(gltf({"POSITION": TRIANGLE}, nodes=nodes)) == "invalid_node_graph"

    @pytest.mark.parametrize("more", [[], [{"mesh": 0}]])
    def test_a_cycle_without_a_scene(self, more):
        nodes = [{"children": [1], "mesh": 0}, {"children": [0]}, *more]
        assert reason_of(gltf({"POSITION": TRIANGLE}, nodes=nodes, scenes=[])) == "invalid_node_graph"

    def test_a_deep_chain_is_walked(self):
        nodes = [{"children": [i + 1], "translation": [0, 0, 1]} for i in range(5000)] + [{"mesh": 0}]
        assert load(gltf({"POSITION": TRIANGLE}, nodes=nodes)).vertices[0, 2] == 5000

    def test_nodes_that_share_a_mesh_are_instances(self):
        nodes = [{"children": [1, 2]}, {"mesh": 0, "name": "a"}, {"mesh": 0, "name": "b", "translation": [3, 0, 0]}]
        scene = load(gltf({"POSITION": TRIANGLE}, nodes=nodes))
        assert scene.node_names == ("a", "b")
        np.testing.assert_allclose(scene.vertices[scene.faces[1]], scene.vertices[scene.faces[0]] + [3, 0, 0])

    def test_gpu_instances_become_nodes(self):
        instancing = {"EXT_mesh_gpu_instancing": {"attributes": {"TRANSLATION": 1}}}
        places = np.array([[0, 0, 0], [0, 7, 0]], "<f4")
        scene = load(gltf({"POSITION": TRIANGLE, "_places": places}, nodes=[{"mesh": 0, "extensions": instancing}]))
        assert len(scene.node_names) == 2
        assert scene.vertices[:, 1].max() == 8

    def test_instances_are_counted_before_they_are_read(self):
        instancing = {"EXT_mesh_gpu_instancing": {"attributes": {"TRANSLATION": 1}}}
        document = gltf({"POSITION": TRIANGLE, "_places": TRIANGLE}, nodes=[{"mesh": 0, "extensions": instancing}])
        document["accessors"][1]["count"] = 20_000_000  # more than its view holds
        assert reason_of(document) == "declared_size_exceeds_limit"

    def test_a_skinned_mesh_ignores_its_node_and_follows_its_joint(self):
        arrays = {"POSITION": TRIANGLE, "JOINTS_0": np.zeros((3, 4), "u1"), "WEIGHTS_0": np.eye(4, dtype="<f4")[[0, 0, 0]]}
        nodes = [{"children": [1, 2]}, {"mesh": 0, "skin": 0, "translation": [100, 0, 0]}, {"translation": [0, 5, 0]}]
        scene = load(gltf(arrays, nodes=nodes, skins=[{"joints": [2]}]))
        np.testing.assert_allclose(scene.vertices.min(axis=0), [0, 5, 0])

    @pytest.mark.parametrize("weight", [np.nan, np.inf])
    def test_joint_weights_that_are_no_numbers(self, weight):
        weights = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [1, weight, 0, 0]], "<f4")
        arrays = {"POSITION": TRIANGLE, "JOINTS_0": np.zeros((3, 4), "u1"), "WEIGHTS_0": weights}
        document = gltf(arrays, nodes=[{"children": [1, 2]}, {"mesh": 0, "skin": 0}, {}], skins=[{"joints": [2]}])
        assert reason_of(document) == "non_finite_vertices"

    def test_half_a_surrogate_pair_in_a_name(self):
        scene = load(gltf({"POSITION": TRIANGLE}, nodes=[{"mesh": 0, "name": "\ud800"}]))
        assert scene.node_names == (r"\ud800",)

    def draco(self, data: bytes, mode: int = 4) -> dict:
        """A box whose accessors are empty: all of it is in the compressed view."""
        compressed = {"bufferView": 0, "attributes": {"POSITION": 2, "TEXCOORD_0": 1, "COLOR_0": 0}}
        arrays = {"_draco": np.frombuffer(data, "u1"), **{name: np.zeros((8, 3), "<f4") for name in ("POSITION", "COLOR_0")}}
        primitive = {"extensions": {"KHR_draco_mesh_compression": compressed}, "mode": mode}
        return gltf(arrays, primitive, extensionsRequired=["KHR_draco_mesh_compression"])

    def test_draco_compressed_geometry(self):
        mesh = box(1, 2, 3)
        uv, colors = np.linspace(0, 1, 16).reshape(8, 2), np.full((8, 4), 255, np.uint8)
        data = DracoPy.encode(mesh.vertices.astype("f4"), mesh.faces.astype("u4"), 20, tex_coord=uv, colors=colors)
        scene = load(self.draco(data))
        assert len(scene.faces) == 12
        np.testing.assert_allclose(np.ptp(scene.vertices, axis=0), np.ptp(mesh.vertices, axis=0), atol=1e-5)
        np.testing.assert_allclose(Mesh(scene.vertices, scene.faces).volume(), mesh.volume(), rtol=1e-4)
        assert (scene.corner_color == 1).all()
        assert {tuple(row) for row in scene.corner_uv.reshape(-1, 2).round(4)} == {tuple(row) for row in uv.astype("f4").round(4)}
        strip = load(self.draco(data, mode=5))
        assert (strip.faces == scene.faces).all()
        assert reason_of(self.draco(data[: len(data) // 2])) == "parse_error"
        assert reason_of(self.draco(b"DRACO" + bytes(60))) == "parse_error"

    def test_unknown_required_extension(self):
        assert reason_of(gltf({"POSITION": TRIANGLE}, extensionsRequired=["VENDOR_x"])) == "unsupported_extension"


class TestReferences:
    def document(self, uri: str) -> dict:
        return gltf({"POSITION": TRIANGLE}) | {"buffers": [{"uri": uri, "byteLength": TRIANGLE.nbytes}]}

    def write(self, folder, uri: str):
        path = folder / "a.gltf"
        path.write_text(json.dumps(self.document(uri)))
        return path

    def test_percent_encoded_names_and_folders(self, tmp_path):
        (tmp_path / "my data").mkdir()
        (tmp_path / "my data" / "ä.bin").write_bytes(TRIANGLE.tobytes())
        assert len(load_scene(self.write(tmp_path, "my%20data/%C3%A4.bin")).faces) == 1

    @pytest.mark.parametrize(
        "uri",
        [
            "../x.bin",
            "%2e%2e/x.bin",
            "a/../../x.bin",
            "..\\x.bin",
            "/dev/zero",
            "file:///x.bin",
            "http://localhost/x.bin",
            "C:\\x.bin",
        ],
    )
    def test_nothing_outside_the_folder(self, tmp_path, uri):
        (tmp_path / "x.bin").write_bytes(TRIANGLE.tobytes())
        (tmp_path / "asset").mkdir()
        with pytest.raises(Reject) as caught:
            load_scene(self.write(tmp_path / "asset", uri))
        assert caught.value.reason == "uri_escape"

    def test_a_link_that_leaves_the_folder(self, tmp_path):
        (tmp_path / "x.bin").write_bytes(TRIANGLE.tobytes())
        (tmp_path / "asset").mkdir()
        (tmp_path / "asset" / "x.bin").symlink_to(tmp_path / "x.bin")
        with pytest.raises(Reject) as caught:
            load_scene(self.write(tmp_path / "asset", "x.bin"))
        assert caught.value.reason == "uri_escape"

    def test_side_files_are_bounded_together(self, tmp_path):
        for name in ("a", "b"):
            (tmp_path / name).write_bytes(bytes(60))
        folder = AssetFolder(tmp_path, 100)
        assert folder.read("a") == folder.read("a") == bytes(60)
        with pytest.raises(Reject) as caught:
            folder.read("b")
        assert caught.value.reason == "file_too_large"
        assert AssetFolder(tmp_path, 100).read("b") == bytes(60)

    @pytest.mark.parametrize("quoted", ["+/=", "+/=\n "])
    def test_base64_may_be_percent_encoded_or_wrapped(self, quoted):
        points = np.array([[0, 0, 0], [1.7, 0, 0], [0, 3.3, 0]], "<f4")
        body = base64.b64encode(points.tobytes() + b"\xff\xfe").decode()
        assert {"/", "="} <= set(body)
        kept = set(quoted) - {"\n", " "}
        body = "".join(f"%{ord(letter):02X}" if letter in kept and "\n" not in quoted else letter for letter in body)
        body = "\n ".join(body[i : i + 20] for i in range(0, len(body), 20)) if "\n" in quoted else body
        scene = load(self.document(f"data:application/octet-stream;BASE64,{body}"))
        np.testing.assert_array_equal(scene.vertices, points)

    @pytest.mark.parametrize("uri", ["data:;base64,AA-_AA", "data:;base64,A", "data:;base64,\u00e4", "data:,\ud800", "data:"])
    def test_data_uris_that_do_not_decode(self, uri):
        assert reason_of(self.document(uri)) == "bad_data_uri"

    @pytest.mark.parametrize("name", ["x" * 300, "sub/" + "x" * 300 + "/y", "x/" * 3000])
    def test_a_name_longer_than_the_file_system_allows_is_no_file(self, tmp_path, name):
        assert AssetFolder(tmp_path, 100).read(name) is None

    def test_a_side_file_without_permission_is_named(self, tmp_path, monkeypatch):
        def fail(_):
            raise PermissionError

        (tmp_path / "x.bin").touch()
        monkeypatch.setattr("unipart.storage.open_stream", fail)
        with pytest.raises(Reject, match=r"unreadable: x\.bin"):
            AssetFolder(tmp_path, 100).read("x.bin")

    def test_half_a_surrogate_pair_names_no_file(self, tmp_path):
        for uri in ("\ud800.bin", "\udcff.bin"):
            with pytest.raises(Reject, match="bad_uri"):
                AssetFolder(tmp_path, 100).read(uri)

    def test_missing_and_short_buffers(self, tmp_path):
        with pytest.raises(Reject) as caught:
            load_scene(self.write(tmp_path, "x.bin"))
        assert caught.value.reason == "missing_buffer"
        (tmp_path / "x.bin").write_bytes(b"short")
        with pytest.raises(Reject) as caught:
            load_scene(self.write(tmp_path, "x.bin"))
        assert caught.value.reason == "truncated_buffer"
        assert reason_of(self.document("x.bin")) == "missing_buffer"


class TestMaterials:
    def textured(self, image: dict, **texture) -> dict:
        uv = np.array([[0, 0], [1, 0], [0, 1]], "<f4")
        surface = {"baseColorTexture": {"index": 0, **texture}, "baseColorFactor": [0.5, 0.5, 0.5, 1], "metallicFactor": 0}
        return gltf(
            {"POSITION": TRIANGLE, "TEXCOORD_0": uv},
            {"material": 0},
            materials=[{"pbrMetallicRoughness": surface, "alphaMode": "MASK"}],
            textures=[{"source": 0}],
            images=[image],
        )

    def test_texture_and_factors(self, tmp_path):
        Image.new("RGB", (3000, 1500), (10, 200, 30)).save(tmp_path / "t.png")
        (tmp_path / "a.gltf").write_text(json.dumps(self.textured({"uri": "t.png"})))
        scene = load_scene(tmp_path / "a.gltf")
        (material,) = scene.materials
        assert material.texture is not None
        assert material.texture.shape == (512, 1024, 4)
        assert material.texture[0, 0].tolist() == [10, 200, 30, 255]
        assert (material.base_color, material.metallic, material.alpha_mode) == ((0.5, 0.5, 0.5, 1.0), 0.0, "MASK")
        np.testing.assert_allclose(scene.corner_uv[0], [[0, 0], [1, 0], [0, 1]])

    def test_texture_transform(self):
        move = {"extensions": {"KHR_texture_transform": {"offset": [0.5, 0], "scale": [2, 3]}}}
        scene = load(self.textured({"uri": "t.png"}, **move))
        np.testing.assert_allclose(scene.corner_uv[0], [[0.5, 0], [2.5, 0], [0.5, 3]])

    @pytest.mark.parametrize("far", [np.nan, np.inf, 1e10, 1e30])
    def test_absurd_texture_coordinates_are_replaced(self, far):
        scene = load(gltf({"POSITION": TRIANGLE, "TEXCOORD_0": np.array([[0, 0], [1, far], [0, -1000]], "<f4")}))
        assert scene.corner_uv[0].tolist() == [[0, 0], [0, 0], [0, -1000]]
        assert "at 1 corners" in scene.warnings[0]

    def test_textures_that_cannot_be_had_are_dropped_with_a_warning(self, tmp_path):
        assert "missing_texture" in load(self.textured({"uri": "t.png"})).warnings[0]
        broken = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\nbroken").decode()
        assert "bad_texture" in load(self.textured({"uri": broken})).warnings[0]
        Image.new("1", (300, 300)).save(tmp_path / "t.png")
        (tmp_path / "a.gltf").write_text(json.dumps(self.textured({"uri": "t.png"})))
        scene = load_scene(tmp_path / "a.gltf", LoadLimits(max_image_pixels=1000))
        assert "image_too_large" in scene.warnings[0]
        assert scene.materials[0].texture is None


SQUARE_OBJ = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"


class TestObj:
    def test_objects_are_nodes_and_polygons_are_cut(self):
        text = SQUARE_OBJ + "o a\nf 1 2 3 4\no b\nf -4 -3 -2\n"
        scene = load_scene_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(), ".obj")
        assert scene.node_names == ("a", "b")
        assert np.bincount(scene.node_of_face).tolist() == [2, 1]
        np.testing.assert_allclose(Mesh(scene.vertices, scene.faces).face_areas(), 0.5)

    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    def test_lines_may_end_as_on_any_system(self, end):
        text = "v 0 0 \\\n0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
        assert len(load_scene_bytes(text.replace("\n", end).encode(), ".obj").faces) == 1

    def test_tabs_separate_as_blanks_do(self):
        scene = load_scene_bytes(b"v\t0 0 0\nv\t1\t0 0\nv 0\t1 0\nf\t1 2\t3\n", ".obj")
        assert len(scene.faces) == 1

    def test_a_concave_polygon_keeps_its_area(self):
        text = "v 0 0 0\nv 2 0 0\nv 2 2 0\nv 1 0.5 0\nv 0 2 0\nf 1 2 3 4 5\n"
        mesh = load_scene_bytes(text.encode(), ".obj")
        areas = Mesh(mesh.vertices, mesh.faces)
        np.testing.assert_allclose(areas.face_areas().sum(), 2.5)
        assert (areas.face_normals()[:, 2] > 0).all()

    def test_a_large_concave_polygon_is_cut(self):
        """A spiral band: long spells of corners without an ear."""
        angle = np.linspace(0, 12 * np.pi, 2000)
        circle, radius = np.column_stack([np.cos(angle), np.sin(angle)]), 1 + angle[:, None] / 10
        band = np.concatenate([(radius + 0.2) * circle, (radius * circle)[::-1]])
        corners = triangulate(np.column_stack([band, np.zeros(4000)]), np.arange(4000)[None])[0]
        a, b, c = np.moveaxis(band[corners], 1, 0)
        areas = np.linalg.det(np.stack([b - a, c - a], axis=1)) / 2
        assert areas.min() > 0
        x, y = band.T
        np.testing.assert_allclose(areas.sum(), (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)

    @pytest.mark.parametrize("face", ["0 1 2", "1 2 5", "-5 1 2", f"1 2 {2**64 + 1}", f"-{2**64} 1 2"])
    def test_indices_out_of_range(self, face):
        assert reason_of((SQUARE_OBJ + f"f {face}\n").encode(), ".obj") == "index_out_of_range"

    @pytest.mark.parametrize("index", ["0", "9", "-9", str(2**64), str(-(2**64))])
    def test_texture_coordinates_that_are_not_there_do_no_harm(self, index):
        scene = load_scene_bytes(f"{SQUARE_OBJ}vt 1 0\nf 1/1/{index} 2/{index}/{index} 3/1/{index}\n".encode(), ".obj")
        assert scene.corner_uv[0].tolist() == [[1, 1], [0, 0], [1, 1]]

    def test_comments_behind_numbers_and_signs_in_names(self):
        text = "o box#1\nv 0 0 0 # note\nv 1 0 0#note\nv 0 1 0\t# 1 2 3\nvt 0 # 1\nvn 0 0 1 # up\nf 1/1/1 2/1/1 3/1/1 # 1\n"
        scene = load_scene_bytes(text.encode(), ".obj")
        np.testing.assert_array_equal(scene.vertices, TRIANGLE)
        np.testing.assert_array_equal(scene.corner_color, 1)
        assert scene.node_names == ("box#1",)

    def test_text_that_is_none(self):
        assert reason_of((SQUARE_OBJ + "f 1 2 3\n").encode("utf-16"), ".obj") == "parse_error"
        assert reason_of(b"v 0 zero 0\n", ".obj") == "parse_error"
        assert reason_of(SQUARE_OBJ.encode(), ".obj") == "no_faces"

    def test_materials_texture_and_flipped_v(self, tmp_path):
        (tmp_path / "tex").mkdir()
        Image.new("RGB", (4, 4), (1, 2, 3)).save(tmp_path / "tex" / "my map.png")
        (tmp_path / "m.mtl").write_text("newmtl red\nKd 1 0 0\nnewmtl map\nKd 0 0 0\nmap_Kd tex\\my map.png\n")
        lines = "mtllib m.mtl\nvt 0 0\nvt 1 0\nvt 1 0.75\nusemtl red\nf 1/1 2/2 3/3\nusemtl map\nf 1/1 3/3 4/2\n"
        (tmp_path / "a.obj").write_text(SQUARE_OBJ + lines)
        scene = load_scene(tmp_path / "a.obj")
        red, textured = (scene.materials[index] for index in scene.material_of_face)
        assert red.base_color == (1.0, 0.0, 0.0, 1.0)
        assert textured.texture is not None
        assert textured.base_color[:3] == (1.0, 1.0, 1.0)
        np.testing.assert_allclose(scene.corner_uv[0], [[0, 1], [1, 1], [1, 0.25]])

    @pytest.mark.parametrize("key", ["Kd", "Ke", "Ns", "Pr", "Pm", "d", "Tr"])
    @pytest.mark.parametrize("value", ["nan", "inf", "x"])
    def test_a_material_with_a_value_that_is_no_number_has_the_default(self, tmp_path, key, value):
        (tmp_path / "a.obj").write_text("mtllib m.mtl\nusemtl m\n" + SQUARE_OBJ + "f 1 2 3\n")
        (tmp_path / "m.mtl").write_text("newmtl m\n")
        expected = load_scene(tmp_path / "a.obj").materials
        (tmp_path / "m.mtl").write_text(f"newmtl m\n{key} {value}\n")
        scene = load_scene(tmp_path / "a.obj")
        assert scene.materials == expected
        assert "bad_material" in scene.warnings[0]

    @pytest.mark.parametrize(("line", "alpha"), [("d -1", 0), ("d 7", 1), ("Tr 2", 0), ("Tr -1", 1), ("d 0.5", 0.5)])
    def test_opacity_stays_between_0_and_1(self, tmp_path, line, alpha):
        (tmp_path / "a.obj").write_text("mtllib m.mtl\nusemtl m\n" + SQUARE_OBJ + "f 1 2 3\n")
        (tmp_path / "m.mtl").write_text(f"newmtl m\n{line}\n")
        assert load_scene(tmp_path / "a.obj").materials[0].base_color[3] == alpha

    def test_a_material_file_outside_is_not_read(self, tmp_path):
        (tmp_path / "m.mtl").write_text("newmtl red\nKd 1 0 0\n")
        (tmp_path / "asset").mkdir()
        (tmp_path / "asset" / "a.obj").write_text("mtllib ../m.mtl\nusemtl red\n" + SQUARE_OBJ + "f 1 2 3\n")
        scene = load_scene(tmp_path / "asset" / "a.obj")
        assert scene.materials[0].base_color == (1.0, 1.0, 1.0, 1.0)
        assert "uri_escape" in scene.warnings[0]


def ply(order: str = "ascii", face_count: int = 2, body: bytes | None = None) -> bytes:
    name = {"ascii": "ascii", "<": "binary_little_endian", ">": "binary_big_endian"}[order]
    head = f"ply\nformat {name} 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\nproperty uchar red\n"
    head += "property uchar green\nproperty uchar blue\n"
    head += f"element face {face_count}\nproperty list uchar int vertex_indices\nend_header\n"
    corners = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)]
    polygons = [(0, 1, 2, 3), (0, 1, 2)]
    if body is None and order == "ascii":
        rows = [" ".join(map(str, (*c, 255, 0, 0))) for c in corners] + [" ".join(map(str, (len(p), *p))) for p in polygons]
        body = ("\n".join(rows) + "\n").encode()
    elif body is None:
        body = b"".join(struct.pack(order + "3f3B", *c, 255, 0, 0) for c in corners)
        body += b"".join(struct.pack(f"{order}B{len(p)}i", len(p), *p) for p in polygons)
    return head.encode() + (body or b"")


class TestPly:
    @pytest.mark.parametrize("order", ["ascii", "<", ">"])
    def test_mixed_polygons_and_colours(self, order):
        scene = load_scene_bytes(ply(order), ".ply")
        np.testing.assert_allclose(Mesh(scene.vertices, scene.faces).face_areas(), 0.5)
        assert len(scene.faces) == 3
        np.testing.assert_allclose(scene.corner_color, np.tile([1, 0, 0, 1], (3, 3, 1)), atol=1e-6)

    def test_declared_sizes_are_compared_with_the_file(self):
        for order in ("ascii", "<"):
            assert reason_of(ply(order, face_count=2_000_000_000), ".ply") == "declared_size_exceeds_file"
        assert reason_of(ply("<")[:-4], ".ply") == "truncated_file"

    def test_headers_that_lie(self):
        assert reason_of(ply().replace(b"float y", b"float x"), ".ply") == "parse_error"
        assert reason_of(ply().replace(b"float y", b"half y"), ".ply") == "parse_error"
        assert reason_of(ply().replace(b"end_header", b"end"), ".ply") == "parse_error"
        assert reason_of(b"solid", ".ply") == "bad_magic"
        assert reason_of(ply().replace(b"0 1 2 3", b"0 1 2 -3"), ".ply") == "index_out_of_range"

    def with_lists(self, order: str, *, vertex: str = "", face: str = "", count_type: str = "uchar", length: object = 3) -> bytes:
        """A triangle whose named properties are lists of one value instead of numbers, or the other way round."""
        form = {"ascii": "ascii", "<": "binary_little_endian"}[order]
        names = ("x", "y", "z", "red", "green", "blue", "alpha")
        kinds = {name: f"list uchar float {name}" if name == vertex else f"float {name}" for name in names}
        head = f"ply\nformat {form} 1.0\nelement vertex 3\n" + "".join(f"property {kind}\n" for kind in kinds.values())
        head += f"element face 1\nproperty list {count_type} int vertex_indices\n"
        head += (f"property float {face}\n" if face else "") + "end_header\n"
        rows, packed = [], b""
        for point in TRIANGLE.tolist():
            for key, value in zip(kinds, [*point, 0.5, 0.5, 0.5, 1.0], strict=True):
                rows += ["1"] * (key == vertex) + [str(value)]
                packed += (b"\1" if key == vertex else b"") + struct.pack("<f", value)
        rows += [str(length), "0", "1", "2"] + ["7"] * bool(face)
        packed += struct.pack("<f" if count_type == "float" else "<B", length) + struct.pack("<3i", 0, 1, 2)
        packed += struct.pack("<f", 7) if face else b""
        return head.encode() + (" ".join(rows).encode() if order == "ascii" else packed)

    @pytest.mark.parametrize("order", ["ascii", "<"])
    def test_properties_of_the_wrong_kind(self, order):
        for good in ({}, {"vertex": "red"}, {"vertex": "alpha"}, {"face": "texcoord"}):
            assert len(load_scene_bytes(self.with_lists(order, **good), ".ply").faces) == 1
        assert reason_of(self.with_lists(order, vertex="x"), ".ply") == "no_faces"

    @pytest.mark.parametrize("order", ["ascii", "<"])
    @pytest.mark.parametrize("length", [float("nan"), float("inf"), 2.5])
    def test_lengths_that_are_no_whole_numbers(self, order, length):
        assert reason_of(self.with_lists(order, count_type="float", length=length), ".ply") == "parse_error"

    def test_a_property_may_have_any_name(self):
        data = ply("<").replace(b"property float x", b"property float #x")
        assert reason_of(data, ".ply") == "no_faces"
        data = self.with_lists("<").replace(b"int vertex_indices\n", b"int a\nproperty uchar #a\n")
        assert reason_of(data + b"\0", ".ply") == "no_faces"

    def test_a_byte_order_mark_is_passed_over(self):
        assert len(load_scene_bytes(b"\xef\xbb\xbf" + ply(), ".ply").faces) == 3


class TestStl:
    def binary(self, count: int = 1, head: bytes = b"made here") -> bytes:
        return head.ljust(80, b"\0") + struct.pack("<I", count) + b"\0" * 12 + TRIANGLE.tobytes() + b"\0\0"

    def test_binary_even_when_it_starts_with_solid(self):
        for head in (b"made here", b"solid facet", b"PK\3\4", b"OFF ", b"{"):
            scene = load_scene_bytes(self.binary(head=head), ".stl")
            np.testing.assert_allclose(scene.vertices[scene.faces[0]], TRIANGLE)

    def ascii(self, count: int = 1) -> str:
        rows = "\n".join(f"vertex {x} {y} {z}" for x, y, z in TRIANGLE)
        return "solid a\n" + f"facet normal 0 0 1\nouter loop\n{rows}\nendloop\nendfacet\n" * count + "endsolid a\n"

    def test_ascii(self):
        text = self.ascii()
        np.testing.assert_allclose(load_scene_bytes(text.encode(), ".stl").vertices, TRIANGLE)
        assert reason_of(text.replace("vertex 0.0 1.0 0.0", "").encode(), ".stl") == "truncated_file"

    @pytest.mark.parametrize("name", ["A Name", "n" * 5000])
    def test_letters_of_any_case_and_long_names(self, name):
        text = self.ascii(2).replace("solid a", f"Solid {name}").replace("vertex", "Vertex").replace("facet", "FACET")
        scene = load_scene_bytes(text.encode(), ".stl")
        assert len(scene.faces) == 2
        assert not scene.warnings

    @pytest.mark.parametrize("lost", ["endfacet\n", "facet normal 0 0 1\n", "vertex 0.0 1.0 0.0\n"])
    def test_facets_that_are_not_whole(self, lost):
        assert reason_of(self.ascii(3).replace(lost, "", 1).encode(), ".stl") == "truncated_file"

    def test_a_cut_between_two_facets_is_told(self):
        scene = load_scene_bytes(self.ascii(2).replace("endsolid a\n", "").encode(), ".stl")
        assert len(scene.faces) == 2
        assert "truncated_file" in scene.warnings[0]

    def test_a_plane_drawing_is_none(self):
        text = self.ascii(2).replace("vertex 0.0", "vertex").replace("vertex 1.0", "vertex")
        assert reason_of(text.encode(), ".stl") == "parse_error"

    def test_byte_order_marks(self):
        text = self.ascii()
        np.testing.assert_allclose(load_scene_bytes(text.encode("utf-8-sig"), ".stl").vertices, TRIANGLE)
        assert reason_of(text.encode("utf-16"), ".stl") == "parse_error"
        assert len(load_scene_bytes(self.binary(head=b"\xff\xfe"), ".stl").faces) == 1

    def test_declared_sizes(self):
        assert reason_of(self.binary(count=4_000_000_000), ".stl") == "declared_size_exceeds_file"
        assert reason_of(self.binary()[:-5], ".stl") == "truncated_file"


class TestDraco:
    def test_geometry_normals_and_colours(self):
        mesh = box(1, 2, 3)
        colors = np.tile(np.array([255, 0, 0], np.uint8), (8, 1))
        normals = mesh.vertices / np.linalg.norm(mesh.vertices, axis=1, keepdims=True)
        data = DracoPy.encode(mesh.vertices.astype("f4"), mesh.faces.astype("u4"), 20, colors=colors, normals=normals)
        scene = load_scene_bytes(data, ".drc")
        np.testing.assert_allclose(Mesh(scene.vertices, scene.faces).volume(), mesh.volume(), rtol=1e-4)
        assert (scene.corner_color == [1, 0, 0, 1]).all()
        np.testing.assert_allclose(np.linalg.norm(scene.corner_normal, axis=-1), 1, rtol=1e-5)

    def test_damage_is_named(self):
        mesh = box(1, 2, 3)
        data = DracoPy.encode(mesh.vertices.astype("f4"), mesh.faces.astype("u4"))
        assert reason_of(data[:-9], ".drc") == "parse_error"
        assert reason_of(b"x" + data, ".drc") == "bad_magic"
        assert reason_of(DracoPy.encode(mesh.vertices.astype("f4")), ".drc") == "no_faces"
