import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from unipart import storage
from unipart.errors import EnvironmentProblem, UserError


@pytest.fixture(params=["folder", "s3"])
def root(request, tmp_path):
    return str(tmp_path) if request.param == "folder" else request.getfixturevalue("bucket") + "/folder"


def test_written_files_are_listed_read_and_deleted(root):
    assert storage.list_files(root) == []
    storage.write_bytes(storage.join(root, "b", "two.tar"), b"0123456789")
    storage.write_bytes(storage.join(root, "a.json"), b"{}")
    assert storage.list_files(root) == ["a.json", "b/two.tar"]
    assert storage.list_files(root, ".tar") == ["b/two.tar"]
    address = storage.join(root, "b", "two.tar")
    assert storage.exists(address)
    assert not storage.exists(storage.join(root, "b", "two"))
    assert storage.size(address) == 10
    assert storage.read_bytes(address) == b"0123456789"
    storage.write_bytes(address, b"new")
    assert storage.read_bytes(address) == b"new"
    storage.delete(address)
    storage.delete(address)
    assert not storage.exists(address)


def test_versions_change_with_the_content(root):
    for name in ("a", "b/c"):
        storage.write_bytes(storage.join(root, name), b"one")
    before = dict(storage.list_versions(root))
    storage.write_bytes(storage.join(root, "b/c"), b"other")
    after = dict(storage.list_versions(root))
    assert list(before) == list(after) == ["a", "b/c"]
    assert before["a"] == after["a"]
    assert before["b/c"] != after["b/c"]


def test_a_stream_reads_once_and_says_what_is_missing(root):
    storage.write_bytes(storage.join(root, "x"), b"0123456789")
    with storage.open_stream(storage.join(root, "x")) as file:
        assert (file.read(4), file.read(), file.read()) == (b"0123", b"456789", b"")
    with pytest.raises(FileNotFoundError), storage.open_stream(storage.join(root, "none")):
        pass


def test_a_seekable_file_reads_anywhere(root):
    storage.write_bytes(storage.join(root, "x"), b"0123456789")
    with storage.open_seekable(storage.join(root, "x")) as file:
        file.seek(-3, 2)
        assert (file.read(), file.seek(0), file.read(2)) == (b"789", 0, b"01")
    with pytest.raises(FileNotFoundError), storage.open_seekable(storage.join(root, "none")):
        pass


def test_range_begins_where_it_says(root):
    address = storage.join(root, "x")
    storage.write_bytes(address, b"0123456789")
    file, begin = storage.open_range(address, 3, 4)
    with file:
        file.seek(begin + 1)
        assert file.read(3) == b"456"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(root):
    address = storage.join(root, "x")
    storage.write_bytes(address, b"old")

    def write_half() -> None:
        with storage.open_writer(address) as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert storage.read_bytes(address) == b"old"
    assert storage.list_files(root) == ["x"]


def test_missing_files_raise_the_usual_error(root):
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(storage.join(root, "missing"))


def test_set_up_problems_are_named(root):
    if storage.is_s3(root):
        with pytest.raises(EnvironmentProblem, match="NoSuchBucket"):
            storage.write_bytes("s3://no-such-bucket/x", b"")
        with pytest.raises(UserError, match="no bucket"):
            storage.exists("s3://")
        assert storage.resolve("s3://bucket/folder/") == "s3://bucket/folder"
    else:
        storage.write_bytes(storage.join(root, "x"), b"")
        with pytest.raises(UserError, match="is a file"):
            storage.resolve(storage.join(root, "x"))
        assert Path(storage.resolve(root)).is_absolute()
        assert Path(storage.join(root, "x")).stat().st_mode & 0o777 == 0o644


OBJECT = bytes(range(256)) * 12_000


class Breaking(BaseHTTPRequestHandler):
    """One object, of which an answer gives no more than the server's `room` bytes before it hangs up."""

    def do_GET(self):
        tag = f'"{self.server.tag}"'  # type: ignore[attr-defined]
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        data = OBJECT[int(first) : int(last) + 1 if last else None]
        self.server.asked.append((int(first), len(data)))  # type: ignore[attr-defined]
        if self.headers.get("If-Match", tag) != tag:
            self.send_error(412)
            return
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: self.server.room])  # type: ignore[attr-defined]
        self.server.tag = self.server.next_tag  # type: ignore[attr-defined]
        self.close_connection = True

    def log_message(self, *_):  # pyright: ignore[reportIncompatibleMethodOverride]
        pass


Serve = Callable[..., ThreadingHTTPServer]


@pytest.fixture
def serve(monkeypatch) -> Iterator[Serve]:
    pytest.importorskip("boto3")
    servers: list[ThreadingHTTPServer] = []

    def start(room: int, next_tag: str = "first") -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Breaking)
        vars(server).update(room=room, tag="first", next_tag=next_tag, asked=[])
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        storage.forget_client()
        return server

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(storage, "_WAITS", (0.0, 0.0))
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
    storage.forget_client()


def test_a_download_that_breaks_off_goes_on_where_it_broke(serve: Serve):
    server = serve(room=len(OBJECT) // 2)
    assert storage.read_bytes("s3://bucket/object") == OBJECT
    assert [first for first, _ in vars(server)["asked"]] == [0, len(OBJECT) // 2]
    vars(server)["asked"].clear()
    file, begin = storage.open_range("s3://bucket/object", 1000, 2_000_000)
    file.seek(begin)
    assert file.read() == OBJECT[1000:2_001_000]
    assert vars(server)["asked"] == [(1000, 2_000_000), (1000 + len(OBJECT) // 2, 2_000_000 - len(OBJECT) // 2)]


def test_a_connection_that_gives_nothing_is_given_up_and_named(serve: Serve):
    server = serve(room=0)
    with pytest.raises(EnvironmentProblem, match="s3://bucket/object"):
        storage.read_bytes("s3://bucket/object")
    assert len(vars(server)["asked"]) == 3


def test_a_download_does_not_go_on_with_another_object(serve: Serve):
    serve(room=len(OBJECT) // 2, next_tag="second")
    with pytest.raises(EnvironmentProblem, match="s3://bucket/object"):
        storage.read_bytes("s3://bucket/object")
