"""Assets from a local HTTP server and a local S3 server, alone and through a whole run."""

import hashlib
import json
import struct
import threading
import time
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.presets import preset
from pipelines.runner import RunOptions, read_status, run
from pipelines.sources import http
from pipelines.sources.base import UNREAD
from pipelines.sources.catalog import build_catalog
from pipelines.sources.folder import FolderSource
from pipelines.sources.http import DownloadError, download
from pipelines.stages.fetch import FetchStage
from unipart import storage
from unipart.errors import EnvironmentProblem, Reject, UserError
from unipart.geometry import procedural
from unipart.geometry.load import LoadLimits

GLB = {kind: procedural.build_glb(kind, 1) for kind in ("chair", "table", "mug", "lamp")}
TRIANGLE = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"


class Site:
    """What the HTTP server answers: path -> (status, headers, body), or a list of them for the first, second ... request.

    A body is its bytes, or a function that returns an iterator of pieces.
    """

    def __init__(self, port: int) -> None:
        self.root = f"http://127.0.0.1:{port}"
        self.answers: dict[str, list[tuple[int, dict[str, str], Any]]] = {}
        self.requests: Counter[str] = Counter()

    def put(self, path: str, *answers, status: int = 200, body: bytes = b"", **headers: str) -> str:
        self.answers[path] = list(answers) or [(status, headers, body)]
        return self.root + path

    def answer(self, path: str) -> tuple[int, dict[str, str], Any]:
        answers = self.answers.get(path, [(404, {}, b"")])
        self.requests[path] += 1
        return answers[min(self.requests[path], len(answers)) - 1]


@pytest.fixture(scope="module")
def site():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, body = place.answer(self.path)
            self.send_response(status)
            length = {"Content-Length": str(len(body))} if isinstance(body, bytes) else {}
            for name, value in (length | headers).items():
                if value:
                    self.send_header(name, value)
            self.end_headers()
            with suppress(BrokenPipeError, ConnectionResetError):
                for piece in (body,) if isinstance(body, bytes) else body():
                    self.wfile.write(piece)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    place = Site(server.server_port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield place
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def bucket():
    """An S3 server with a bucket, named in the environment so that workers find it too."""
    moto_server = pytest.importorskip("moto.server")
    server = moto_server.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            environment.setenv(name, "test")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        storage.forget_client()
        storage._client().create_bucket(Bucket="assets")
        yield "s3://assets"
    storage.forget_client()
    server.stop()


def split_glb(data: bytes) -> tuple[bytes, bytes]:
    """Returns a GLB as a .gltf and its .bin."""
    (length,) = struct.unpack_from("<I", data, 12)
    document = json.loads(data[20 : 20 + length])
    document["buffers"][0]["uri"] = "data/a%20b.bin"
    return json.dumps(document).encode(), data[28 + length :]


def load(location: str, **limits):
    (row,) = build_catalog([location])
    return FetchStage(LoadLimits(**limits))(row)["scene"]


def trickle():
    """Pieces that take three seconds."""
    for _ in range(60):
        yield b"x"
        time.sleep(0.05)


class TestDownload:
    @pytest.fixture(autouse=True)
    def no_waiting(self, monkeypatch):
        monkeypatch.setattr(http, "_BACK_OFF_SECONDS", 0.0)

    def fetch(self, url: str, max_bytes: int = 1000) -> bytes:
        with download(url, max_bytes, back_off=0.001) as file:
            return file.read()

    def test_body_and_redirect(self, site):
        site.put("/a.glb", body=b"abc")
        assert self.fetch(site.put("/moved.glb", status=302, Location="/a.glb")) == b"abc"

    def test_names_with_spaces_and_letters_are_quoted(self, site):
        site.put("/my%20%C3%A4.glb", body=b"abc")
        assert self.fetch(site.root + "/my ä.glb") == b"abc"

    @pytest.mark.parametrize(
        ("status", "reason"), [(404, "not_found"), (410, "not_found"), (403, "forbidden"), (401, "forbidden"), (400, "http_error")]
    )
    def test_refusals_are_final(self, site, status, reason):
        url = site.put(f"/refused{status}.glb", status=status)
        with pytest.raises(Reject) as error:
            self.fetch(url)
        assert error.value.reason == reason
        assert site.requests[f"/refused{status}.glb"] == 1

    def test_a_busy_server_is_asked_again(self, site):
        busy = (503, {}, b"")
        assert self.fetch(site.put("/busy.glb", busy, (429, {"Retry-After": "0"}, b""), (200, {}, b"abc"))) == b"abc"
        with pytest.raises(DownloadError, match="HTTP 503"):
            self.fetch(site.put("/always.glb", busy))
        assert site.requests["/always.glb"] == 4

    def test_connections_that_break_or_do_not_exist(self, site):
        with pytest.raises(DownloadError, match="broke after 3 of 10 bytes"):
            self.fetch(site.put("/broken.glb", (200, {"Content-Length": "10"}, b"abc")))
        assert self.fetch(site.put("/once.glb", (200, {"Content-Length": "10"}, b"abc"), (200, {}, b"abc"))) == b"abc"
        with pytest.raises(DownloadError, match="ConnectionRefused"):
            self.fetch("http://127.0.0.1:9/a.glb")

    def test_size_is_bounded_declared_or_not(self, site):
        with pytest.raises(Reject, match=r"file_too_large.*5000000000 bytes"):
            self.fetch(site.put("/declared.glb", (200, {"Content-Length": "5000000000"}, b"abc")))
        with pytest.raises(Reject, match=r"file_too_large.*more than 1000"):
            self.fetch(site.put("/silent.glb", (200, {"Content-Length": ""}, b"x" * 1001)))
        assert len(self.fetch(site.put("/exact.glb", (200, {"Content-Length": ""}, b"x" * 1000)))) == 1000

    @pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a", "data:,x"])
    def test_redirects_lead_to_http_alone(self, site, target):
        with pytest.raises(Reject, match="unsafe_redirect"):
            self.fetch(site.put("/away.glb", status=302, Location=target))

    @pytest.mark.parametrize("target", ["http://[x/a.glb", "http://127.0.0.1:99999/a.glb"])
    def test_redirects_to_no_address(self, site, target):
        with pytest.raises((Reject, DownloadError)) as error:
            self.fetch(site.put("/nowhere.glb", status=302, Location=target))
        assert "[x" not in target or "bad_uri" in str(error.value)

    def test_a_server_that_trickles_is_left_when_the_time_is_over(self, site, monkeypatch):
        monkeypatch.setattr(http, "_TOTAL_SECONDS", 0.1)
        monkeypatch.setattr(http, "_ATTEMPTS", 1)
        started = time.monotonic()
        with pytest.raises(DownloadError, match=r"no end after 0\.1 s"):
            self.fetch(site.put("/slow.glb", (200, {}, trickle)))
        site.put("/target.glb", body=b"abc")
        assert self.fetch(site.put("/slowly.glb", (302, {"Location": "/target.glb"}, trickle))) == b"abc"
        assert time.monotonic() - started < 1.5

    @pytest.mark.parametrize("length", ["²", "9" * 5000, "-1", "many"])
    def test_a_length_that_is_none_is_not_believed(self, site, length):
        assert self.fetch(site.put("/length.glb", (200, {"Content-Length": length}, b"abc"))) == b"abc"
        busy = (503, {"Retry-After": "²"}, b"")
        assert self.fetch(site.put("/retry.glb", busy, (200, {}, b"abc"))) == b"abc"

    def test_a_circle_of_redirects_ends(self, site):
        with pytest.raises(Reject, match="unsafe_redirect"):
            self.fetch(site.put("/circle.glb", status=302, Location="/circle.glb"))


def listing(path, **columns) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


class TestHttpAssets:
    def fetch(self, site, tmp_path, name: str, body: bytes):
        (row,) = build_catalog([listing(tmp_path / "list.parquet", uri=[site.put(name, body=body)])])
        return row, lambda: FetchStage(LoadLimits())(row)["scene"]

    def test_identified_by_fetching_and_loaded(self, site, tmp_path):
        row, scene = self.fetch(site, tmp_path, "/t.obj", TRIANGLE)
        assert row["sha256"] == hashlib.sha256(TRIANGLE).hexdigest()
        assert len(scene().faces) == 1

    def test_format_by_content_where_the_name_says_none(self, site, tmp_path):
        assert len(self.fetch(site, tmp_path, "/download?id=3", GLB["chair"])[1]().faces) > 0

    def test_buffers_over_http_are_refused_with_the_fix(self, site, tmp_path):
        row, scene = self.fetch(site, tmp_path, "/s.gltf", split_glb(GLB["chair"])[0])
        assert row["sha256"].startswith(UNREAD)
        with pytest.raises(Reject, match=r"side_files_over_http.*data/a%20b\.bin.*GLB.*s3://"):
            scene()

    def test_without_its_materials_a_file_loads_as_from_a_folder(self, site, tmp_path):
        length, kind = struct.unpack_from("<I4s", GLB["chair"], 12)
        text = json.loads(GLB["chair"][20 : 20 + length]) | {"images": [{"uri": "wood.png"}]}
        chunk = json.dumps(text).encode()
        chunk += b" " * (-len(chunk) % 4)
        rest = struct.pack("<I4s", len(chunk), kind) + chunk + GLB["chair"][20 + length :]
        assert len(self.fetch(site, tmp_path, "/t.glb", b"glTF" + struct.pack("<II", 2, 12 + len(rest)) + rest)[1]().faces) > 0
        row, scene = self.fetch(site, tmp_path, "/s.obj", b"mtllib s.mtl\n" + TRIANGLE)
        assert not row["sha256"].startswith(UNREAD)
        assert any("missing_material_file" in warning for warning in scene().warnings)
        assert site.requests["/s.mtl"] == site.requests["/wood.png"] == 0

    def test_a_twin_stands_in_for_a_dead_link(self, site, tmp_path, monkeypatch):
        monkeypatch.setattr(http, "_ATTEMPTS", 1)
        names = ("gone", "busy", "alive", "other")
        urls = [site.root + f"/twin/{name}.obj" for name in names]
        site.put("/twin/busy.obj", status=503)
        site.put("/twin/alive.obj", body=TRIANGLE)
        digest = hashlib.sha256(TRIANGLE).hexdigest()
        path = listing(tmp_path / "list.parquet", uri=urls, sha256=[digest] * 4, license=["by", "by", "by", "cc0"])
        rows = build_catalog([path])
        assert [row["uri"] for row in rows] == urls
        assert [row["location"] for row in rows] == ["\n".join(urls[:3]), *urls[1:]]
        assert len(FetchStage(LoadLimits())(rows[0])["scene"].faces) == 1
        with pytest.raises(DownloadError, match="HTTP 503"):
            FetchStage(LoadLimits())({**rows[0], "location": "\n".join(urls[:2])})
        with pytest.raises(Reject, match=r"not_found: .*/twin/gone"):
            FetchStage(LoadLimits())({**rows[0], "location": f"{urls[0]}\n{urls[3]}\nno address"})

    def test_a_web_page_is_no_mesh(self, site, tmp_path):
        with pytest.raises(Reject, match="bad_magic"):
            self.fetch(site, tmp_path, "/page.glb", b"<!DOCTYPE html><html>")[1]()


class TestS3:
    @pytest.fixture(scope="class", autouse=True)
    def few(self, bucket) -> dict[str, bytes]:
        """A small prefix that all tests of the class read."""
        gltf, binary = split_glb(GLB["chair"])
        files = {
            "a.glb": GLB["table"],
            "sub/b.gltf": gltf,
            "sub/data/a b.bin": binary,
            "c.obj": b"mtllib c.mtl\nusemtl red\n" + TRIANGLE,
            "c.mtl": b"newmtl red\nKd 1 0 0\n",
            ".trash/d.glb": b"x",
            "manifest.csv": b"path,licence\nc.obj,by-nc\n",
        }
        for name, data in files.items():
            storage.write_bytes(f"{bucket}/few/{name}", data)
        return files

    def test_a_prefix_is_listed_like_a_folder(self, bucket, few, tmp_path):
        for name, data in few.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(data)
        rows, local = build_catalog([f"{bucket}/few/"]), build_catalog([str(tmp_path)])
        assert [(row["uri"], row["licence"]) for row in rows] == [("a.glb", ""), ("c.obj", "CC-BY-NC-4.0"), ("sub/b.gltf", "")]
        assert [row["sha256"] for row in rows] == [row["sha256"] for row in local]
        assert {row["source"] for row in rows} == {"few"}
        assert build_catalog([f"{bucket}/few"], known=rows) == rows
        assert [bool(row["version"]) for row in rows] == [True, False, False]
        for row, other in zip(rows, local, strict=True):
            scene, same = (FetchStage(LoadLimits())(each)["scene"] for each in (row, other))
            assert (scene.vertices == same.vertices).all()
            assert scene.materials == same.materials
            assert scene.warnings == ()
        assert [row["uri"] for row in build_catalog([f"{bucket}/few/a.glb"])] == ["a.glb"]

    def test_side_files_stay_below_the_assets_folder(self, bucket):
        storage.write_bytes(f"{bucket}/escape/secret.mtl", b"newmtl red\nKd 1 0 0\n")
        storage.write_bytes(f"{bucket}/escape/in/a.obj", b"mtllib ../secret.mtl\nusemtl red\n" + TRIANGLE)
        scene = load(f"{bucket}/escape/in/a.obj")
        assert any("uri_escape" in warning for warning in scene.warnings)
        assert (
            scene.materials[0].base_color == load(f"{bucket}/few/a.glb").materials[0].base_color or scene.materials[0].name == "red"
        )

    @pytest.mark.slow
    def test_pages_of_a_long_prefix(self, bucket):
        client = storage._client()
        for number in range(1005):  # one page more than the server gives at once
            client.put_object(Bucket="assets", Key=f"many/{number:04d}.stl", Body=b"")
        refs = FolderSource(f"{bucket}/many").list_assets()
        assert [ref.uri for ref in refs] == [f"{number:04d}.stl" for number in range(1005)]

    def test_what_is_not_there(self, bucket):
        with pytest.raises(UserError, match="holds no mesh file"):
            build_catalog([f"{bucket}/nothing"])
        with pytest.raises(EnvironmentProblem, match="NoSuchBucket"):
            build_catalog(["s3://no-such-bucket/x"])
        with pytest.raises(Reject, match="not_found"):
            FetchStage(LoadLimits())({"location": f"{bucket}/few/none.glb", "sha256": "0" * 64})

    def test_size_is_bounded(self, bucket):
        with pytest.raises(Reject, match="file_too_large"):
            load(f"{bucket}/few/a.glb", max_bytes=100)

    def test_a_listing_in_the_bucket_names_objects_beside_it(self, bucket, tmp_path):
        path = listing(tmp_path / "list.parquet", uri=["few/a.glb", f"{bucket}/few/c.obj"])
        storage.write_bytes(f"{bucket}/list.parquet", Path(path).read_bytes())
        rows = build_catalog([f"{bucket}/list.parquet"])
        assert [row["location"] for row in rows] == [f"{bucket}/few/a.glb", f"{bucket}/few/c.obj"]
        assert len(FetchStage(LoadLimits())(rows[0])["scene"].faces) > 0


@pytest.mark.slow
def test_a_run_accounts_for_every_asset_of_a_prefix_and_a_listing(site, bucket, tmp_path):
    import ray

    storage.write_bytes(f"{bucket}/run/a.glb", GLB["chair"])
    gltf, binary = split_glb(GLB["table"])
    storage.write_bytes(f"{bucket}/run/b.gltf", gltf)
    storage.write_bytes(f"{bucket}/run/data/a b.bin", binary)
    storage.write_bytes(f"{bucket}/run/manifest.csv", b"path,licence\na.glb,cc0\nb.gltf,CC0-1.0\n")
    expected = {
        site.put("/run/same.glb", body=GLB["chair"]): ("cc0", GLB["chair"], "rejected", "duplicate_content"),
        site.put("/run/mug.glb", body=GLB["mug"]): ("Creative Commons - Attribution", GLB["mug"], "kept", ""),
        site.put("/run/changed.glb", body=GLB["mug"]): ("by", b"other", "rejected", "content_changed"),
        site.put("/run/gone.glb", status=404): ("by", b"gone", "rejected", "not_found"),
        site.put("/run/secret.glb", status=403): ("by", None, "rejected", "forbidden"),
        site.put("/run/nc.glb", body=GLB["lamp"]): ("by-nc", b"nc", "rejected", "licence_not_allowed"),
        site.put("/run/busy.glb", status=503): ("by", GLB["lamp"], "failed", "exception"),
        site.put("/run/later.glb", status=503): ("by", None, "failed", "exception"),
    }
    hashes = [hashlib.sha256(body).hexdigest() if body is not None else None for _, body, _, _ in expected.values()]
    licences = [licence for licence, _, _, _ in expected.values()]
    path = listing(tmp_path / "list.parquet", fileIdentifier=list(expected), sha256=hashes, license=licences)
    config = preset("ci").replace(licences=("CC0-1.0", "CC-BY-4.0"))
    sources, out = [f"{bucket}/run", path], tmp_path / "dataset"
    ray.shutdown()  # one that another test left does not know this bucket's server
    try:
        result = run(sources, out, config, RunOptions(num_cpus=2))
        rows = {row["uri"]: row for row in read_status(out)}
        assert {uri: (row["state"], row["reason"] or "") for uri, row in rows.items()} == {
            "a.glb": ("kept", ""),
            "b.gltf": ("kept", ""),
            **{uri: (state, reason) for uri, (_, _, state, reason) in expected.items()},
        }
        assert result.counts == {"in": 10, "kept": 3, "rejected": 5, "failed": 2}
        assert "a.glb" in rows[site.root + "/run/same.glb"]["message"]
        assert "HTTP 503" in rows[site.root + "/run/busy.glb"]["message"]
        assert site.requests["/run/nc.glb"] == site.requests["/run/same.glb"] == 0

        site.put("/run/busy.glb", body=GLB["lamp"])
        site.put("/run/later.glb", body=GLB["lamp"] + b"    ")
        assert run(sources, out, config, RunOptions(num_cpus=2, retry="failed")).counts == {
            "in": 10,
            "kept": 5,
            "rejected": 5,
            "failed": 0,
        }
    finally:
        ray.shutdown()
