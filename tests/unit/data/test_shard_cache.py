import hashlib
import multiprocessing
import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from unipart import storage
from unipart.data.shard_cache import ShardCache
from unipart.errors import EnvironmentProblem, UserError

SIZE = 1000


@pytest.fixture
def fetched(bucket, tmp_path, monkeypatch):
    """Function to the addresses that were fetched so far, by any process; each fetch takes a moment."""
    notes, real = tmp_path / "fetched", storage.open_stream
    notes.touch()

    @contextmanager
    def open_stream(url):
        with notes.open("a") as file:
            file.write(f"{url}\n")
        time.sleep(0.05)
        with real(url) as stream:
            yield stream

    monkeypatch.setattr(storage, "open_stream", open_stream)
    return lambda: notes.read_text().split()


@pytest.fixture
def shards(bucket) -> list[tuple[str, str, int]]:
    """Address, digest and size of four shards."""
    made = []
    for number in range(4):
        content = bytes([number]) * SIZE
        storage.write_bytes(f"{bucket}/{number}.tar", content)
        made.append((f"{bucket}/{number}.tar", hashlib.sha256(content).hexdigest(), SIZE))
    return made


def read(cache: ShardCache, shard: tuple[str, str, int]) -> bytes:
    with cache.open(*shard) as file:
        return file.read()


def held(cache: ShardCache) -> set[str]:
    return {path.stem for path in cache.folder.glob("*.tar")}


def test_a_shard_is_fetched_once_and_then_read_from_the_disk(tmp_path, shards, fetched):
    for _ in range(3):  # each a process that starts anew
        cache = ShardCache(tmp_path / "cache", 10 * SIZE)
        assert [read(cache, shard)[:1] for shard in shards] == [b"\0", b"\1", b"\2", b"\3"]
    assert fetched() == [address for address, _, _ in shards]
    assert not list(cache.folder.glob("*.part"))


def test_processes_that_want_a_shard_at_once_fetch_it_once(tmp_path, shards, fetched):
    cache = ShardCache(tmp_path / "cache", 10 * SIZE)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_read_all, args=(cache, shards)) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 6
    assert sorted(fetched()) == [address for address, _, _ in shards]


def test_processes_share_a_cache_that_is_smaller_than_what_they_read(tmp_path, shards, fetched):
    cache = ShardCache(tmp_path / "cache", 2 * SIZE)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_read_all, args=(cache, shards[k:] + shards[:k])) for k in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert len(held(cache)) <= 2


def _read_all(cache: ShardCache, shards: list[tuple[str, str, int]]) -> None:
    for shard in shards:
        assert hashlib.sha256(read(cache, shard)).hexdigest() == shard[1]


def test_the_least_recently_used_make_room_and_stay_readable_where_they_are_open(tmp_path, shards, fetched):
    cache = ShardCache(tmp_path / "cache", 2 * SIZE + 1)
    read(cache, shards[0])
    open_one = cache.open(*shards[1])
    read(cache, shards[0])  # now shard 1 is the older one
    read(cache, shards[2])
    assert held(cache) == {shards[0][1], shards[2][1]}
    with open_one as file:
        assert file.read() == b"\1" * SIZE
    read(cache, shards[0])
    assert len(fetched()) == 3
    read(cache, shards[1])
    assert len(fetched()) == 4
    with pytest.raises(UserError, match="cache holds 999"):
        ShardCache(tmp_path / "small", 999).open(*shards[0])


@pytest.mark.parametrize("how", ["changed", "truncated"])
def test_a_damaged_file_is_said_and_fetched_again(tmp_path, shards, fetched, how, caplog):
    cache = ShardCache(tmp_path / "cache", 10 * SIZE)
    read(cache, shards[0])
    path = cache.folder / f"{shards[0][1]}.tar"
    if how == "changed":
        with path.open("r+b") as file:
            file.seek(SIZE // 2)
            file.write(b"x")
    else:
        os.truncate(path, SIZE // 2)
    assert read(cache, shards[0]) == b"\0" * SIZE
    assert "is damaged" in caplog.text
    assert len(fetched()) == 2
    os.utime(path)  # touched, but whole: read again and kept
    assert read(cache, shards[0]) == b"\0" * SIZE
    assert len(fetched()) == 2


def test_what_is_not_as_the_manifest_says_is_refused_and_not_kept(tmp_path, shards, fetched):
    cache = ShardCache(tmp_path / "cache", 10 * SIZE)
    with pytest.raises(UserError, match="is not the shard that the manifest lists"):
        cache.open(shards[0][0], shards[1][1], SIZE)
    with pytest.raises(UserError, match="is missing"):
        cache.open("s3://bucket/none.tar", shards[0][1], SIZE)
    assert {path.suffix for path in cache.folder.iterdir()} == {".lock"}


def test_a_process_killed_while_it_fetches_leaves_nothing_that_matters(tmp_path, shards, fetched, monkeypatch):
    cache = ShardCache(tmp_path / "cache", 2 * SIZE)
    real = storage.open_stream
    with monkeypatch.context() as patched:
        patched.setattr(storage, "open_stream", lambda url: time.sleep(600))
        process = multiprocessing.get_context("fork").Process(target=read, args=(cache, shards[0]))
        process.start()
        partial = cache.folder / f"{shards[0][1]}.part"
        while not partial.is_file() or partial.stat().st_size < SIZE:
            time.sleep(0.01)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert storage.open_stream is real
    assert partial.is_file()
    read(cache, shards[1])
    read(cache, shards[2])
    assert not partial.exists(), "its space was needed"
    assert held(cache) == {shards[1][1], shards[2][1]}
    assert read(cache, shards[0]) == b"\0" * SIZE


def test_a_full_disk_is_said(tmp_path, shards, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    cache = ShardCache(Path(tmp_path / "cache"), 10 * SIZE)
    with pytest.raises(EnvironmentProblem, match="No space left"):
        cache.open(*shards[0])
    assert not list(cache.folder.glob("*.part"))


def test_a_folder_that_cannot_be_made_is_said(tmp_path, shards):
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentProblem, match="Not a directory"):
        ShardCache(tmp_path / "file" / "cache", 10 * SIZE).open(*shards[0])
