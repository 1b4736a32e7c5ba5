import json

import numpy as np
import pytest

from unipart.data.bundle import list_bundles, read_bundle, read_glb_folder, write_bundle
from unipart.data.schema import Bundle, BundlePart
from unipart.errors import UserError
from unipart.geometry.mesh import Mesh, Similarity

FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32)


def tetrahedron(shift: float) -> Mesh:
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    return Mesh(corners + np.float32(shift), FACES)


@pytest.fixture
def bundle() -> Bundle:
    parts = (
        BundlePart(0, tetrahedron(0.0), tetrahedron(0.01), Similarity(2.0, (0.1, 0.2, 0.3)), "ncs", 5, 0.75),
        BundlePart(1, tetrahedron(2.0), None, Similarity.identity(), "anchors", 3, 0.5),
    )
    return Bundle(
        object_id="chair",
        parts=parts,
        whole=tetrahedron(1.0),
        anchors=np.arange(24, dtype=np.float32).reshape(8, 3),
        labels=np.array([0] * 5 + [1] * 3, np.int16),
        masks=np.eye(2, 8, dtype=bool),
        image=np.arange(48, dtype=np.uint8).reshape(4, 4, 3),
        info={"seed": 3, "timings": {"decode": 0.5}},
    )


def test_round_trip(tmp_path, bundle):
    write_bundle(tmp_path / "chair", bundle)
    read = read_bundle(tmp_path / "chair")
    assert (read.object_id, read.info) == (bundle.object_id, bundle.info)
    for name in ("anchors", "labels", "masks", "image"):
        np.testing.assert_array_equal(getattr(read, name), getattr(bundle, name))
    for mine, theirs in zip(read.parts, bundle.parts, strict=True):
        np.testing.assert_array_equal(mine.mesh.vertices, theirs.mesh.vertices)
        np.testing.assert_array_equal(mine.mesh.faces, theirs.mesh.faces)
        facts = ("part_id", "placement", "source", "num_latents", "predicted_iou")
        assert [getattr(mine, name) for name in facts] == [getattr(theirs, name) for name in facts]
    assert read.parts[1].gcs_mesh is None
    np.testing.assert_array_equal(read.parts[0].gcs_mesh.vertices, bundle.parts[0].gcs_mesh.vertices)
    np.testing.assert_array_equal(read.whole.vertices, bundle.whole.vertices)


def test_object_glb_has_a_node_per_part(tmp_path, bundle):
    write_bundle(tmp_path / "chair", bundle, colors=[(1.0, 0.0, 0.0, 1.0), (0.0, 1.0, 0.0, 1.0)])
    (tmp_path / "glbs").mkdir()
    (tmp_path / "chair" / "object.glb").rename(tmp_path / "glbs" / "chair.glb")
    (read,) = read_glb_folder(tmp_path / "glbs")
    assert (read.object_id, read.names) == ("chair", ("part_000", "part_001"))
    for mesh, part in zip(read.parts, bundle.parts, strict=True):
        np.testing.assert_allclose(mesh.vertices.max(axis=0), part.mesh.vertices.max(axis=0), atol=1e-6)
        assert len(mesh.faces) == 4


def test_a_damaged_glb_among_others_is_named(tmp_path, bundle):
    write_bundle(tmp_path / "chair", bundle)
    (tmp_path / "chair" / "object.glb").rename(tmp_path / "chair.glb")
    (tmp_path / "table.glb").write_bytes(b"glT")
    with pytest.raises(UserError, match=r"table\.glb cannot be read: truncated_file.*\n  fix: "):
        read_glb_folder(tmp_path)


def test_empty_whole_and_no_image(tmp_path, bundle):
    from dataclasses import replace

    write_bundle(tmp_path, bundle)
    write_bundle(tmp_path, replace(bundle, whole=None, image=None))
    read = read_bundle(tmp_path)
    assert read.whole is None
    assert read.image is None


def test_unfinished_missing_and_foreign_bundles_are_refused(tmp_path, bundle):
    write_bundle(tmp_path / "b", bundle)
    write_bundle(tmp_path / "a", bundle)
    assert [path.name for path in list_bundles(tmp_path)] == ["a", "b"]
    assert list_bundles(tmp_path / "a") == [tmp_path / "a"]
    document = tmp_path / "a" / "bundle.json"
    document.write_text(json.dumps(json.loads(document.read_text()) | {"bundle_version": 9}))
    with pytest.raises(UserError, match="version 9"):
        read_bundle(tmp_path / "a")
    document.unlink()
    with pytest.raises(UserError, match="no bundle"):
        read_bundle(tmp_path / "a")
    with pytest.raises(UserError, match="holds no bundle"):
        list_bundles(tmp_path / "a")
    with pytest.raises(UserError, match=r"no \.glb"):
        read_glb_folder(tmp_path / "a" / "x")
