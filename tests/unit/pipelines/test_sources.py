import io
import json
import os
import struct
import subprocess
import sys
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.ledger import settle, to_table
from pipelines.plan import CurationConfig
from pipelines.sources import identity as identity_module
from pipelines.sources.base import UNREAD
from pipelines.sources.catalog import build_catalog
from pipelines.sources.folder import FolderSource
from pipelines.sources.identity import Content, identify, read_references
from pipelines.sources.licences import normalise_licence
from pipelines.sources.locations import open_asset
from pipelines.stages.fetch import FetchStage
from unipart.data.schema import CATALOG_COLUMNS
from unipart.errors import Reject, UserError
from unipart.geometry.formats.files import AssetFolder
from unipart.geometry.load import LoadLimits

OBJ = b"mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
LIMIT = 1 << 20


def identity(path) -> Content:
    with open_asset(str(path), LIMIT) as asset:
        return identify(asset.file, asset.suffix, asset.folder)


def fetch(path, sha256, **limits):
    return FetchStage(LoadLimits(**limits))({"location": str(path), "sha256": sha256})["scene"]


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


class TestFolder:
    def test_lists_meshes_sorted_with_licences(self, folder):
        refs = list(FolderSource(str(folder)).list_assets())
        assert [(ref.uri, ref.licence) for ref in refs] == [("b.STL", ""), ("sub/a.obj", "CC0-1.0")]
        assert {ref.source for ref in refs} == {folder.name}
        assert [ref.uri for ref in FolderSource(str(folder / "b.STL")).list_assets()] == ["b.STL"]

    def test_missing_and_empty_ones_are_usage_errors(self, tmp_path):
        with pytest.raises(UserError, match="does not exist"):
            build_catalog([str(tmp_path / "nowhere")])
        with pytest.raises(UserError, match="holds no mesh file"):
            build_catalog([str(tmp_path)])
        with pytest.raises(UserError, match="no source"):
            build_catalog([])

    @pytest.mark.parametrize("column", ["licence", "license"])
    def test_either_spelling_of_the_licence(self, folder, column):
        (folder / "manifest.csv").write_text(f"path,{column}\nb.STL,MIT\n")
        assert [ref.licence for ref in FolderSource(str(folder)).list_assets()] == ["MIT", ""]

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("path,licence\nä.stl,MIT\n".encode("latin-1"), "does not read as a CSV file in UTF-8"),
            (b"path,licence\n" + b"x" * 200_000 + b",MIT\n", "field larger than field limit"),
            (b"path,licence,license\n", "columns licence and license"),
        ],
    )
    def test_a_table_of_licences_that_does_not_read(self, folder, text, told):
        (folder / "manifest.csv").write_bytes(text)
        with pytest.raises(UserError, match=told) as error:
            build_catalog([str(folder)])
        assert "manifest.csv" in str(error.value)
        assert error.value.fix

    def test_linked_files_are_read_and_linked_folders_are_counted(self, folder, tmp_path_factory):
        outside = tmp_path_factory.mktemp("outside")
        (outside / "d.stl").write_bytes(b"solid elsewhere\nendsolid\n")
        (folder / "linked").symlink_to(outside)
        (folder / "sub" / "circle").symlink_to(folder)
        (folder / "sub" / "d.stl").symlink_to(outside / "d.stl")
        rows = {row["uri"]: row for row in build_catalog([str(folder)])}
        assert list(rows) == ["b.STL", "linked", "sub/a.obj", "sub/circle", "sub/d.stl"]
        assert rows["sub/d.stl"]["bytes"] == 25
        for uri in ("linked", "sub/circle"):
            with pytest.raises(Reject, match=f"linked_folder: .*{uri}: .*source of its own"):
                fetch(rows[uri]["location"], rows[uri]["sha256"])

    def test_meshes_that_no_reader_takes_are_told_in_one_line(self, folder, caplog):
        assert list(FolderSource(str(folder)).list_assets())
        assert not caplog.messages
        for name in ("a.fbx", "sub/B.FBX", "c.obj.gz", ".hidden/d.fbx"):
            (folder / name).touch()
        assert len(list(FolderSource(str(folder)).list_assets())) == 2
        assert [message.partition(": ")[2] for message in caplog.messages] == ["files of other types were not read: .fbx 2, .gz 1"]

    def test_a_file_that_is_no_mesh_is_told_apart_from_a_folder(self, tmp_path):
        (tmp_path / "notes.txt").touch()
        with pytest.raises(UserError, match=r"notes\.txt is no mesh file and no listing") as mistake:
            build_catalog([str(tmp_path / "notes.txt")])
        assert ".glb, .gltf, .obj" in mistake.value.fix


class TestIdentity:
    def test_is_the_content_with_its_side_files(self, folder, tmp_path_factory):
        before = identity(folder / "sub" / "a.obj")
        (folder / "notes.txt").write_bytes(b"changed")
        assert identity(folder / "sub" / "a.obj") == before
        copy = tmp_path_factory.mktemp("copy")
        for name in ("a.obj", "a.mtl"):
            (copy / name).write_bytes((folder / "sub" / name).read_bytes())
        assert identity(copy / "a.obj") == before
        (copy / "a.mtl").write_bytes(b"newmtl other\n")
        changed = identity(copy / "a.obj")
        assert changed.sha256 != before.sha256
        assert changed.file_sha256 == before.file_sha256

    def test_gltf_buffers_count_and_escapes_are_not_followed(self, tmp_path):
        secret = tmp_path / "secret"
        secret.write_bytes(b"1")
        (tmp_path / "in").mkdir()
        document = tmp_path / "in" / "a.gltf"
        document.write_text(json.dumps({"buffers": [{"uri": "d\u00e4ta.bin"}, {"uri": "../secret"}, {"uri": "data:,x"}]}))
        first = identity(document)
        secret.write_bytes(b"2")
        assert identity(document) == first
        (tmp_path / "in" / "d\u00e4ta.bin").write_bytes(b"12345")
        second = identity(document)
        assert second.sha256 != first.sha256
        assert second.num_bytes == first.num_bytes + 5

    def test_textures_of_a_glb_a_ply_and_a_material_in_a_subfolder_count(self, tmp_path):
        text = json.dumps({"images": [{"uri": "t.png"}]}).encode()
        chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", 16, 0x004E4942) + b'"uri":"u.png"   '
        (tmp_path / "a.glb").write_bytes(b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks)
        (tmp_path / "a.ply").write_bytes(b"ply\ncomment TextureFile t.png\nend_header\n")
        (tmp_path / "a.obj").write_bytes(b"mtllib m/a.mtl\n")
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / "a.mtl").write_bytes(b"newmtl x\nmap_Kd t.png\n")
        names = ("a.glb", "a.ply", "a.obj")
        before = [identity(tmp_path / name) for name in names]
        (tmp_path / "t.png").write_bytes(b"1")
        (tmp_path / "m" / "t.png").write_bytes(b"1")
        (tmp_path / "u.png").write_bytes(b"1")
        after = [identity(tmp_path / name) for name in names]
        assert [new.num_bytes - old.num_bytes for old, new in zip(before, after, strict=True)] == [1, 1, 1]
        assert all(new.sha256 != old.sha256 for old, new in zip(before, after, strict=True))

    def test_embedded_buffers_and_long_texts_take_little_time_and_memory(self):
        embedded = b'{"buffers":[{"uri":"data:;base64,' + b"A" * (20 << 20) + b'"}],"images":[{"uri":"a.png"}]}'
        text = b"mtllib a.mtl\n" + b"v 0.123456 0.123456 0.123456   \n" * (20 << 15)
        for data, suffix, names in ((embedded, ".gltf", ["a.png"]), (text, ".obj", ["a.mtl"])):
            tracemalloc.start()
            found = identify(io.BytesIO(data), suffix, AssetFolder(None, LIMIT))
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert found.num_bytes == len(data)
            assert peak < 8 << 20
            assert read_references(io.BytesIO(data), suffix) == names

    @pytest.mark.parametrize("text", [b"mtllib" + b" " * 100_000, b"mtllib a" + b" " * 100_000 + b"b", b"\n" * 100_000 + b"mtllib"])
    def test_blanks_without_end_are_read_once(self, text):
        assert len(read_references(io.BytesIO(text), ".obj")) <= 1

    def test_maps_after_many_blanks_are_found(self, tmp_path):
        (tmp_path / "a.mtl").write_bytes(b"newmtl m\nmap_Kd t" + b" " * 100_000 + b"\r\nmap_Ks" + b" " * 100_000 + b"u.png\n")
        (tmp_path / "u.png").write_bytes(b"123")
        (tmp_path / "a.obj").write_bytes(OBJ)
        assert identity(tmp_path / "a.obj").num_bytes == len(OBJ) + (tmp_path / "a.mtl").stat().st_size + 3

    def test_names_are_found_wherever_a_piece_of_the_file_ends(self, monkeypatch):
        text = b"\xef\xbb\xbfmtllib first.mtl\r\nv 0 0 0 # mtllib none.mtl\n \tmtllib my second.mtl \nmtllib last.mtl"
        document = b'{"images":[{"uri" : "a\\"b.png"},{"uri":"data:image/png;base64,AA=="},{"uri":"c\\u00e4.png"}]}'
        monkeypatch.setattr(identity_module, "_OVERLAP", 64)
        for size in range(1, 70):
            monkeypatch.setattr(identity_module, "_CHUNK", size)
            assert read_references(io.BytesIO(text), ".obj") == ["first.mtl", "my second.mtl", "last.mtl"]
            assert read_references(io.BytesIO(document), ".gltf") == ['a"b.png', "cä.png"]

    @pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
    def test_lines_may_end_as_on_any_system(self, end):
        assert read_references(io.BytesIO(b"# a\nmtllib b.mtl\nv 0 0 0\n".replace(b"\n", end)), ".obj") == ["b.mtl"]

    def test_does_not_depend_on_how_the_bytes_arrive(self):
        class Slow(io.BytesIO):
            def read(self, size=-1):
                return super().read(min(size, 20) if size >= 0 else -1)

        data = json.dumps({"buffers": [{"uri": "x.bin"}] * 9}).encode()
        folder = AssetFolder(None, LIMIT)
        assert identify(Slow(data), ".gltf", folder) == identify(io.BytesIO(data), ".gltf", folder)


def test_the_forking_process_stays_free_of_libraries_that_start_threads():
    code = "import sys, pipelines.process; print([name for name in ('pyarrow', 'boto3', 'ray', 'torch') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class TestFetch:
    def test_what_changed_since_the_catalog_is_refused(self, folder):
        path = folder / "sub" / "a.obj"
        content = identity(path)
        assert len(fetch(path, content.sha256).faces) == 1
        assert len(fetch(path, content.file_sha256).faces) == 1
        (folder / "sub" / "a.mtl").write_bytes(b"newmtl other\n")
        with pytest.raises(Reject, match="content_changed"):
            fetch(path, content.sha256)

    @pytest.mark.parametrize(
        ("location", "reason"),
        [
            ("/no/such/file.glb", "not_found"),
            ("/etc/passwd/file.glb", "not_found"),
            (f"/{'x' * 300}.glb", "not_found"),
            ("/dev/zero", "not_a_file"),
            ("/etc", "not_a_file"),
            ("file:///etc/passwd", "unsupported_uri"),
            ("ftp://host/a.glb", "unsupported_uri"),
            ("https://host/a.fbx", "unsupported_format"),
            ("https:///a.glb", "bad_uri"),
            ("http://[x/a.glb", "bad_uri"),
            ("http://host:99999/a.glb", "bad_uri"),
            ("http://host:port/a.glb", "bad_uri"),
            ("/folder/a\0b.glb", "bad_uri"),
            ("refused:nothing:/etc/passwd", "unsupported_uri"),
        ],
    )
    def test_locations_that_hold_no_asset(self, location, reason):
        with pytest.raises(Reject) as error:
            fetch(location, "0" * 64)
        assert error.value.reason == reason

    def test_a_link_to_itself_is_no_file(self, folder):
        (folder / "self.glb").symlink_to(folder / "self.glb")
        row = next(row for row in build_catalog([str(folder)]) if row["uri"] == "self.glb")
        with pytest.raises(Reject, match="not_found"):
            fetch(row["location"], row["sha256"])

    @pytest.mark.parametrize(("error", "reason"), [(PermissionError(13, ""), "unreadable"), (OSError(5, ""), None)])
    def test_what_may_not_be_read_is_told_apart_from_what_cannot(self, folder, monkeypatch, error, reason):
        def fail(_):
            raise error

        monkeypatch.setattr("unipart.storage.open_stream", fail)
        with pytest.raises((Reject, OSError)) as caught:
            fetch(folder / "b.STL", "0" * 64)
        assert getattr(caught.value, "reason", None) == reason

    def test_pipes_and_devices_are_counted_and_never_opened(self, folder):
        os.mkfifo(folder / "pipe.glb")
        os.mkfifo(folder / "pipe")
        (folder / "zero.obj").symlink_to("/dev/zero")
        rows = {row["uri"]: row for row in build_catalog([str(folder)])}
        assert list(rows) == ["b.STL", "pipe.glb", "sub/a.obj", "zero.obj"]
        for uri in ("pipe.glb", "zero.obj"):
            with pytest.raises(Reject, match="not_a_file"):
                fetch(rows[uri]["location"], rows[uri]["sha256"])

    def test_size_is_bounded(self, folder):
        with pytest.raises(Reject, match="file_too_large"):
            fetch(folder / "sub" / "a.obj", "0" * 64, max_bytes=len(OBJ) - 1)

    def test_a_reference_to_the_network_is_refused(self, tmp_path):
        document = {"asset": {"version": "2.0"}, "buffers": [{"uri": "http://127.0.0.1:9/x.bin", "byteLength": 1}]}
        document |= {
            "bufferViews": [{"buffer": 0, "byteLength": 12}],
            "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        }
        document |= {"accessors": [{"bufferView": 0, "componentType": 5126, "count": 1, "type": "VEC3"}], "nodes": [{"mesh": 0}]}
        path = tmp_path / "a.gltf"
        path.write_text(json.dumps(document))
        with pytest.raises(Reject, match="uri_escape"):
            fetch(path, identity(path).sha256)


class TestCatalog:
    def test_an_unreadable_file_is_a_row_and_the_fetch_says_why(self, folder):
        gone = folder / "gone.glb"
        gone.symlink_to(folder / "nothing")
        (folder / "sub" / "c.ply").write_bytes(b"ply\n")
        rows = build_catalog([str(folder)])
        assert [row["uri"] for row in rows] == ["b.STL", "gone.glb", "sub/a.obj", "sub/c.ply"]
        assert rows[1]["sha256"].startswith(UNREAD)
        assert rows[1]["bytes"] is None
        assert len({row["asset_id"] for row in rows}) == 4
        with pytest.raises(Reject, match="not_found"):
            fetch(rows[1]["location"], rows[1]["sha256"])
        gone.unlink()
        gone.write_bytes((folder / "b.STL").read_bytes())
        with pytest.raises(OSError, match="run again"):
            fetch(rows[1]["location"], rows[1]["sha256"])

    def test_what_stays_unreadable_is_not_told_to_run_again(self, folder, monkeypatch):
        def fail(*_):
            raise OSError("side file")

        monkeypatch.setattr("pipelines.stages.fetch.identify", fail)
        with pytest.raises(OSError, match="side file"):
            fetch(folder / "b.STL", f"{UNREAD}0")

    def test_rows_that_no_reader_understands_do_not_end_the_run(self, tmp_path):
        (tmp_path / "a.gltf").write_text('{"buffers": [{"uri": "\\ud800.bin"}, {"uri": "data:,\\ud800"}]}')
        uris = ["http://[x/a.glb", "http://host.invalid:99999/a.glb", "sub/a\0b.glb", "s3:///a.glb"]
        uris += ["procedural:kind=nothing", "procedural:kind=chair,seed=x", "https://ex\u2100mple.invalid/a.glb", "a.gltf"]
        pq.write_table(pa.table({"uri": uris}), tmp_path / "list.parquet")
        rows = build_catalog([str(tmp_path / "list.parquet")])
        assert [row["uri"] for row in rows] == uris
        assert [row["sha256"].startswith(UNREAD) for row in rows] == [True] * 7 + [False]
        assert len(to_table(rows, CATALOG_COLUMNS)) == len(uris)

    def test_a_name_that_is_not_utf8_is_a_row_of_its_own(self, folder):
        for name in (b"\xe4.stl", b"\xf6.stl"):
            with open(os.fsencode(folder) + b"/" + name, "wb") as file:  # noqa: PTH123 - a Path takes no bytes
                file.write(b"solid\nendsolid\n")
        rows = [row for row in build_catalog([str(folder)]) if row["uri"].startswith("\\")]
        assert [row["uri"] for row in rows] == ["\\xe4.stl", "\\xf6.stl"]
        assert len({row["asset_id"] for row in rows}) == 2
        assert len(to_table(rows, CATALOG_COLUMNS)) == 2
        with pytest.raises(Reject, match=r"bad_file_name: .*not UTF-8"):
            fetch(rows[0]["location"], rows[0]["sha256"])

    def test_unreadable_files_of_one_name_in_two_folders_are_two(self, tmp_path):
        for parent in ("one", "two"):
            (tmp_path / parent / "set").mkdir(parents=True)
            (tmp_path / parent / "set" / "gone.glb").symlink_to(tmp_path / "nothing")
        rows = build_catalog([str(tmp_path / "one" / "set"), str(tmp_path / "two" / "set")])
        assert rows[0]["uri"] == rows[1]["uri"]
        assert rows[0]["asset_id"] != rows[1]["asset_id"]

    def test_a_file_that_fails_to_read_is_no_bad_data(self, folder):
        (folder / "broken.glb").symlink_to("/proc/self/mem")  # a regular file whose first byte is an input/output error
        row = next(row for row in build_catalog([str(folder)]) if row["uri"] == "broken.glb")
        assert row["sha256"].startswith(UNREAD)
        with pytest.raises(OSError, match="Input/output"):
            fetch(row["location"], row["sha256"])

    def test_what_has_not_changed_is_not_read_again(self, folder, monkeypatch):
        first = build_catalog([str(folder)])
        assert [bool(row["version"]) for row in first] == [True, False]  # the OBJ names a side file: that may change alone
        read = []
        monkeypatch.setattr("pipelines.sources.catalog._identify", lambda ref, _: read.append(ref.uri))
        again = build_catalog([str(folder)], known=first)
        assert again[0] == first[0]
        assert read == ["sub/a.obj"]
        (folder / "b.STL").write_bytes(b"solid longer\nendsolid\n")
        build_catalog([str(folder)], known=first)
        assert read[1:] == ["b.STL", "sub/a.obj"]

    def test_order_is_that_of_the_sources_however_long_a_file_takes(self, tmp_path):
        for number in range(40):
            (tmp_path / f"{number:02d}.stl").write_bytes(bytes([number]) * (1 << 20 if number % 7 == 0 else 10))
        rows = build_catalog([str(tmp_path)])
        assert [row["uri"] for row in rows] == [f"{number:02d}.stl" for number in range(40)]
        assert rows == build_catalog([str(tmp_path)])

    def test_a_misnamed_copy_stands_for_no_other(self, folder):
        ids = {row["uri"]: row["asset_id"] for row in build_catalog([str(folder)])}
        for name in ("a.drc", "c.stl"):
            (folder / name).write_bytes((folder / "b.STL").read_bytes())
        rows = [{**row, "split": "train"} for row in build_catalog([str(folder)])]
        changed = {row["uri"]: row["asset_id"] for row in rows}
        assert changed["a.drc"] != changed["b.STL"] == changed["c.stl"]
        assert ids["b.STL"] not in changed.values()  # what a ledger says of the file alone is said of none of them
        assert ids["sub/a.obj"] == changed["sub/a.obj"]
        verdicts = [row["reason"] for row in settle(rows, CurationConfig(), {})]
        assert verdicts == [None, None, "duplicate_content", None]
        assert settle(rows, CurationConfig(), {changed["a.drc"]: {"state": "rejected"}})[1]["state"] == "pending"

    def test_both_names_of_gltf_and_addresses_without_one_are_the_same_content(self, tmp_path):
        digest = "1" * 64
        uris = [f"https://host.invalid/{name}" for name in ("a.glb?x=1", "b.gltf", "download", "c.GLB#d")]
        pq.write_table(pa.table({"uri": uris, "sha256": [digest] * 4}), tmp_path / "list.parquet")
        rows = build_catalog([str(tmp_path / "list.parquet")])
        assert {row["asset_id"] for row in rows} == {digest[:20]}

    def test_procedural_is_a_function_of_its_specification(self):
        first, longer = (build_catalog([f"procedural:count={count},seed=3,kinds=chair+table"]) for count in (2, 4))
        assert first == longer[:2]
        assert len({row["asset_id"] for row in longer}) == 4
        assert all(row["asset_id"] == row["sha256"][:20] for row in longer)
        assert build_catalog(["procedural:count=2,seed=4,kinds=chair+table"]) != first
        assert len(fetch(first[0]["location"], first[0]["sha256"]).faces) > 0
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
    def test_misspelt_specifications_are_named(self, spec, told):
        with pytest.raises(UserError, match=told):
            build_catalog([spec])

    def test_limit_takes_the_same_ones_and_keeps_the_order(self):
        spec = "procedural:count=9,seed=0"
        everything = [row["uri"] for row in build_catalog([spec])]
        few, more = ([row["uri"] for row in build_catalog([spec], limit)] for limit in (3, 5))
        assert len(few) == 3
        assert set(few) < set(more)
        assert more == [uri for uri in everything if uri in more]


@pytest.mark.parametrize(
    ("text", "spdx"),
    [
        ("by", "CC-BY-4.0"),
        ("by-nc-sa", "CC-BY-NC-SA-4.0"),
        ("CC BY 3.0", "CC-BY-3.0"),
        ("cc-by-nd-2.5", "CC-BY-ND-2.5"),
        ("Creative Commons - Attribution - Non-Commercial", "CC-BY-NC-4.0"),
        ("Creative Commons Attribution 4.0 International", "CC-BY-4.0"),
        ("Creative Commons - Public Domain Dedication", "CC0-1.0"),
        ("Creative Commons Zero v1.0 Universal", "CC0-1.0"),
        ("cc0", "CC0-1.0"),
        ("MIT License", "MIT"),
        ("apache-2.0", "Apache-2.0"),
        ("All rights reserved", "All rights reserved"),
        ("", ""),
    ],
)
def test_licences_have_one_name(text, spdx):
    assert normalise_licence(text) == spdx
    assert normalise_licence(spdx) == spdx


def test_allowed_licences_of_the_command_are_the_configs(tmp_path, capsys):
    from jobs import data

    (tmp_path / "a.obj").write_bytes(OBJ)
    arguments = ["plan", str(tmp_path), "--allow-licence", "by", "--allow-licence", "cc0", "--json"]
    assert data.main(arguments) == 0
    assert "licences = ['CC-BY-4.0', 'CC0-1.0']" in capsys.readouterr().err
    assert CurationConfig().licences == ()
