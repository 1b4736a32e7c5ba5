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
