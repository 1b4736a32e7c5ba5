"""Files in folders and in object storage (``s3://bucket/key``) behind a few functions; the only user of boto3.

Every write is atomic: a reader sees the old content or the new one, never a part of it. The endpoint and the credentials of S3 come
from the environment as boto3 reads them (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID`` ...).
"""

import hashlib
import io
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from unipart.errors import EnvironmentProblem, UserError

S3_SCHEME = "s3://"
MAX_S3_CONNECTIONS = 16
"""How many threads of a process may read at once."""
_PIECE = 2**20
_WAITS = (0.5, 2.0, 8.0)
"""Seconds before a broken download is taken up again."""
_client_lock = threading.Lock()

log = logging.getLogger(__name__)


def is_s3(url: str | Path) -> bool:
    """Tells whether the address is in object storage."""
    return str(url).startswith(S3_SCHEME)


def join(root: str | Path, *parts: str) -> str:
    """Appends path segments to a folder or an s3:// address."""
    return "/".join([str(root).rstrip("/"), *parts])


def resolve(url: str | Path) -> str:
    """Returns an address that means the same in every process: an absolute path, or the s3:// address itself.

    Raises:
        UserError: a folder is wanted and a file is there.
    """
    if is_s3(url):
        return str(url).rstrip("/")
    if Path(url).is_file():
        raise UserError(f"{url} is a file", "give a folder")
    return str(Path(url).resolve())


def exists(url: str | Path) -> bool:
    """Tells whether a file is there."""
    if not is_s3(url):
        return Path(url).is_file()
    bucket, key = _split(url)
    with _explained(url):
        found = _client().list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1).get("Contents", [])
    return any(item["Key"] == key for item in found)


def size(url: str | Path) -> int:
    """Returns the size of a file in bytes.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not is_s3(url):
        return Path(url).stat().st_size
    bucket, key = _split(url)
    with _explained(url):
        return int(_client().head_object(Bucket=bucket, Key=key)["ContentLength"])


def list_files(root: str | Path, suffix: str = "") -> list[str]:
    """Returns the paths of all files below root, relative to it and sorted; a missing folder has none."""
    if is_s3(root):
        names = [name for name, _ in _list_s3(root)]
    else:
        folder = Path(root)
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    return sorted(name for name in names if name.endswith(suffix))


def list_versions(root: str | Path) -> list[tuple[str, str]]:
    """Returns the names of `list_files` with a text that changes when the file does: its ETag (S3), or its size and time."""
    if is_s3(root):
        return sorted(_list_s3(root))
    return [(name, version_of(Path(root, name).stat())) for name in list_files(root)]


def version_of(status: os.stat_result) -> str:
    """Returns the version text of a local file."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def read_bytes(url: str | Path) -> bytes:
    """Reads a whole file.

    Raises:
        FileNotFoundError: there is no such file.
    """
    with open_stream(url) as file:
        return file.read()


@contextmanager
def open_stream(url: str | Path) -> Iterator[BinaryIO]:
    """Gives a file to read once from its beginning to its end; a connection that breaks on the way is explained too.

    Raises:
        FileNotFoundError: there is no such file.
        EnvironmentProblem: the storage cannot be reached.
    """
    if not is_s3(url):
        with Path(url).open("rb") as file:
            yield file
        return
    with _explained(url), closing(_Download(*_split(url))) as file:
        yield file  # type: ignore[misc]


@contextmanager
def open_seekable(url: str | Path) -> Iterator[BinaryIO]:
    """Gives a file for random access; an object of S3 is fetched to a temporary file.

    Raises:
        FileNotFoundError: there is no such file.
        EnvironmentProblem: the storage cannot be reached.
    """
    if not is_s3(url):
        with Path(url).open("rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as copy:
        with open_stream(url) as stream:
            shutil.copyfileobj(stream, copy)
        copy.seek(0)
        yield copy


def open_range(url: str | Path, offset: int, length: int) -> tuple[BinaryIO, int]:
    """Opens a byte range for random access.

    Returns:
        A seekable file and the position in it where the range begins: the file itself for a folder, the fetched range for S3.
    """
    if not is_s3(url):
        return Path(url).open("rb"), offset
    with _explained(url), closing(_Download(*_split(url), offset, offset + length)) as file:
        return io.BytesIO(file.read()), 0


def write_bytes(url: str | Path, data: bytes) -> None:
    """Writes a file atomically, creating its folder."""
    with open_writer(url) as file:
        file.write(data)


@contextmanager
def open_writer(url: str | Path) -> Iterator[BinaryIO]:
    """Gives a temporary file that takes its final place when the block ends, and is dropped when it raises."""
    folder = None if is_s3(url) else Path(url).parent
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".writing-", dir=folder)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        if folder is None:
            bucket, key = _split(url)
            with _explained(url):
                _client().upload_file(name, bucket, key)
        else:
            temporary.chmod(0o644)  # mkstemp makes private files
            temporary.replace(url)
    finally:
        temporary.unlink(missing_ok=True)


class _Download(io.RawIOBase):
    """The bytes of an object, or a range of them, read once; where the connection breaks, it goes on with another.

    boto3 repeats requests that are not answered, but leaves an answer that stops half-way to the caller.

    Args:
        bucket, key: the object.
        begin, end: bytes begin..end-1; None for all that follow.
    """

    def __init__(self, bucket: str, key: str, begin: int = 0, end: int | None = None) -> None:
        self._object = {"Bucket": bucket, "Key": key}
        self._position, self._end = begin, end
        self._body = self._open()

    def readable(self) -> bool:
        """Returns True."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Reads up to so many bytes, or all; none at the end."""
        if size < 0:
            return b"".join(iter(lambda: self.read(_PIECE), b""))
        if self._position == self._end:
            return b""
        for wait in _WAITS:
            try:
                return self._take(size)
            except _broken() as error:
                log.warning("%s broke off at byte %d: %s", self._object["Key"], self._position, error)
                self._body.close()
                time.sleep(wait)
                self._body = self._open()
        return self._take(size)

    def close(self) -> None:
        """Gives the connection back."""
        self._body.close()
        super().close()

    def _take(self, size: int) -> bytes:
        data = self._body.read(size)
        self._position += len(data)
        return data

    def _open(self) -> Any:
        last = "" if self._end is None else self._end - 1
        part = {"Range": f"bytes={self._position}-{last}"} if self._position or self._end is not None else {}
        answer = _client().get_object(**self._object, **part)
        self._object["IfMatch"] = answer["ETag"]
        self._end = self._position + answer["ContentLength"]
        return answer["Body"]


class Digesting(io.RawIOBase):
    """Passes what is written on to a file, and keeps its sha256 and its size.

    Args:
        file: where it goes.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash, self.size = file, hashlib.sha256(), 0

    def writable(self) -> bool:
        """Returns True."""
        return True

    def tell(self) -> int:
        """Returns the bytes written so far."""
        return self.size

    def write(self, data: Any, /) -> int:
        """Writes all of it."""
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)
        return len(data)

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of what was written so far."""
        return self._hash.hexdigest()


def delete(url: str | Path) -> None:
    """Removes a file; a missing one is no error."""
    if not is_s3(url):
        Path(url).unlink(missing_ok=True)
        return
    bucket, key = _split(url)
    with _explained(url):
        _client().delete_object(Bucket=bucket, Key=key)


def forget_client() -> None:
    """Drops the S3 client, for a child that has inherited its parent's: answers on shared connections would mix."""
    _client.cache_clear()


def warm_up() -> None:
    """Makes the S3 client, for a process that forks: else every child spends some 0.3 CPU seconds on one of its own.

    The client has no connection yet, so the children share none.
    """
    _client()


def _list_s3(root: str | Path) -> list[tuple[str, str]]:
    bucket, prefix = _split(join(root, ""))
    names = []
    with _explained(root):
        for page in _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            names += [(item["Key"][len(prefix) :], item["ETag"].strip('"')) for item in page.get("Contents", [])]
    return names


def _split(url: str | Path) -> tuple[str, str]:
    bucket, _, key = str(url).removeprefix(S3_SCHEME).partition("/")
    if not bucket:
        raise UserError(f"'{url}' names no bucket", "write s3://BUCKET/FOLDER")
    return bucket, key


@lru_cache(maxsize=1)
def _client() -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise EnvironmentProblem("s3:// addresses need boto3", "pip install boto3") from None
    with _client_lock:  # a client serves many threads; making two at the same time is not safe
        return boto3.client("s3", config=Config(max_pool_connections=MAX_S3_CONNECTIONS))


def _broken() -> tuple[type[Exception], ...]:
    """What reading an answer raises when its connection breaks."""
    from botocore.exceptions import HTTPClientError, IncompleteReadError

    return HTTPClientError, IncompleteReadError


@contextmanager
def _explained(url: str | Path) -> Iterator[None]:
    """Turns boto3's errors into ours: missing objects, and everything that the user's set-up causes."""
    _client()  # says what to do when boto3 is missing
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in ("404", "NoSuchKey"):
            raise FileNotFoundError(f"no such object: {url}") from None
        raise EnvironmentProblem(f"{url}: {error}", "check the bucket, the credentials and AWS_ENDPOINT_URL") from None
    except (BotoCoreError, Boto3Error) as error:
        raise EnvironmentProblem(f"{url}: {error}", "check the credentials and AWS_ENDPOINT_URL") from None
