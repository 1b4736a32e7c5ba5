import json

import pytest

from pipelines.sources.catalog import build_catalog
from pipelines.sources.local import LocalSource
from pipelines.sources.procedural import ProceduralSource
from unipart.errors import UserError
from unipart.geometry.load import LoadLimits

OBJ = b"mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "sub" / "a.obj").write_bytes(OBJ)
    (tmp_path / "sub" / "a.mtl").write_bytes(b"newmtl m\nmap_Kd -o 0 0.png\n")
    (tmp_path / "b.STL").write_bytes(b"solid\nendsolid\n")
    (tmp_path / ".hidden" / "c.glb").write_bytes(b"x")
    (tmp_path / "notes.txt").write_bytes(b"x")
    (tmp_path / "manifest.csv").write_text("path,licence\nsub/a.obj,CC0-1.0\nother.glb,MIT\n")
    return tmp_path


def test_folder_lists_meshes_sorted_with_licences(folder):
    refs = list(LocalSource(str(folder)).list_assets())
    assert [(ref.uri, ref.licence) for ref in refs] == [("b.STL", ""), ("sub/a.obj", "CC0-1.0")]
    assert {ref.source for ref in refs} == {folder.name}
    assert [ref.uri for ref in LocalSource(str(folder / "b.STL")).list_assets()] == ["b.STL"]


def test_identity_is_the_content_with_its_side_files(folder, tmp_path_factory):
    before = LocalSource.identify(str(folder / "sub" / "a.obj"))
    (folder / "notes.txt").write_bytes(b"changed")
    assert LocalSource.identify(str(folder / "sub" / "a.obj")) == before
    copy = tmp_path_factory.mktemp("copy")
    for name in ("a.obj", "a.mtl"):
        (copy / name).write_bytes((folder / "sub" / name).read_bytes())
    assert LocalSource.identify(str(copy / "a.obj")) == before
    (copy / "a.mtl").write_bytes(b"newmtl other\n")
    assert LocalSource.identify(str(copy / "a.obj")).sha256 != before.sha256


def test_gltf_buffers_count_and_escapes_are_not_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"1")
    (tmp_path / "in").mkdir()
    document = tmp_path / "in" / "a.gltf"
    document.write_text(json.dumps({"buffers": [{"uri": "data.bin"}, {"uri": "../secret"}, {"uri": "data:,x"}]}))
    first = LocalSource.identify(str(document))
    secret.write_bytes(b"2")
    assert LocalSource.identify(str(document)) == first
    (tmp_path / "in" / "data.bin").write_bytes(b"12345")
    second = LocalSource.identify(str(document))
    assert second.sha256 != first.sha256
    assert second.num_bytes == first.num_bytes + 5


def test_missing_and_empty_sources_are_usage_errors(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        build_catalog([str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match="holds no mesh file"):
        build_catalog([str(tmp_path)])
    with pytest.raises(UserError, match="no source"):
        build_catalog([])


def test_procedural_is_a_function_of_its_specification():
    first, longer = (build_catalog([f"procedural:count={count},seed=3,kinds=chair+table"]) for count in (2, 4))
    assert first == longer[:2]
    assert len({row["asset_id"] for row in longer}) == 4
    assert all(row["asset_id"] == row["sha256"][:20] for row in longer)
    assert build_catalog(["procedural:count=2,seed=4,kinds=chair+table"]) != first
    scene = ProceduralSource.load(first[0]["location"], LoadLimits())
    assert len(scene.faces) > 0
    assert "chair" in first[0]["uri"]


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("procedural:kinds=chiar", "Did you mean 'chair'"),
        ("procedural:cuont=3", "Did you mean 'count'"),
        ("procedural:count=x", "not a whole number"),
        ("procedural:count=0", "at least 1"),
    ],
)
def test_misspelt_specifications_are_named(spec, told):
    with pytest.raises(UserError, match=told):
        build_catalog([spec])


def test_limit_takes_the_same_ones_and_keeps_the_order():
    spec = "procedural:count=9,seed=0"
    everything = [row["uri"] for row in build_catalog([spec])]
    few, more = ([row["uri"] for row in build_catalog([spec], limit)] for limit in (3, 5))
    assert len(few) == 3
    assert set(few) < set(more)
    assert more == [uri for uri in everything if uri in more]
