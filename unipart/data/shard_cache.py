"""Whole shards of remote datasets kept in a local folder, shared by all processes of a machine.

A shard's file is named after its digest, so datasets and trainings may share a folder. Whoever needs a shard first fetches it under
a lock, the others wait; it appears by a rename, and the least recently used ones make room for it. The files' times are all the
bookkeeping there is: the access time says when a shard was used last; the modification time is `CHECKED` once its digest was found
right, so a file that anything wrote to since is checked again. Locks are the kernel's: a killed process leaves none.
"""

import fcntl
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from unipart import storage
from unipart.errors import EnvironmentProblem, UserError

CHECKED = 0
"""Modification time of a file whose digest was found right."""
_PIECE = 2**20

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardCache:
    """Opens shards by their digest and fetches those that are not there.

    Attributes:
        folder: on a local disk; made when it is missing.
        max_bytes: most that the folder may hold. Processes with different bounds each keep their own when they fetch.
    """

    folder: Path
    max_bytes: int

    def open(self, address: str, sha256: str, size: int) -> BinaryIO:
        """Opens a shard for random access; it stays readable when it is evicted meanwhile.

        Args:
            address: where to fetch it from.
            sha256: its digest, hexadecimal.
            size: its bytes.

        Raises:
            UserError: what lies at the address has another digest, or is larger than the cache.
            EnvironmentProblem: the storage cannot be reached, or the disk is full.
        """
        path = self.folder / f"{sha256}.tar"
        try:
            while (file := _open_checked(path, size)) is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                with self._locked(sha256):
                    if not _check(path, sha256, size):
                        self._fetch(address, path, sha256, size)
        except OSError as error:
            raise EnvironmentProblem(
                f"the shard cache {self.folder} cannot take {address}: {error.strerror}",
                "give a folder of your own on a disk with space, or let the cache be smaller",
            ) from None
        return file

    def _fetch(self, address: str, path: Path, sha256: str, size: int) -> None:
        if size > self.max_bytes:
            raise UserError(f"{address} has {size:,} bytes, the shard cache holds {self.max_bytes:,}", "let the cache be larger")
        partial = path.with_suffix(".part")
        try:
            with partial.open("wb") as file:
                self._reserve(file, size)
                copy = storage.Digesting(file)
                try:
                    with storage.open_stream(address) as stream:
                        shutil.copyfileobj(stream, copy, _PIECE)  # type: ignore[arg-type]
                except FileNotFoundError:
                    raise UserError(f"{address} is missing", "copy the dataset again") from None
                if copy.sha256 != sha256:
                    raise UserError(f"{address} is not the shard that the manifest lists", "copy the dataset again")
                file.flush()
                os.fsync(file.fileno())
                _mark(file)
            with self._locked("room"):
                partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def _reserve(self, file: BinaryIO, size: int) -> None:
        """Takes the space of a shard before it is fetched, so that others who fetch see it; waits for them if need be."""
        while True:
            with self._locked("room"):
                if self._make_room(size):
                    os.posix_fallocate(file.fileno(), 0, size)
                    return
            time.sleep(0.05)

    def _make_room(self, size: int) -> bool:
        """Evicts the least recently used shards and what killed processes left; False while others are fetching too much."""
        shards, taken = [], 0
        for path in self.folder.iterdir():
            if path.suffix == ".part" and not self._is_locked(path.stem):
                path.unlink(missing_ok=True)
            elif path.suffix in (".tar", ".part"):
                try:
                    status = path.stat()
                except FileNotFoundError:  # another process gave up its fetch
                    continue
                taken += status.st_size
                if path.suffix == ".tar":
                    shards.append((status.st_atime_ns, path, status.st_size))
        for _, path, freed in sorted(shards):
            if taken + size <= self.max_bytes:
                break
            path.unlink(missing_ok=True)
            taken -= freed
        return taken + size <= self.max_bytes

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with (self.folder / f"{name}.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:  # said aloud: a child forked meanwhile holds the same lock by its copy of the file
                fcntl.flock(file, fcntl.LOCK_UN)

    def _is_locked(self, name: str) -> bool:
        with (self.folder / f"{name}.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            fcntl.flock(file, fcntl.LOCK_UN)
        return False


def _open_checked(path: Path, size: int) -> BinaryIO | None:
    """Opens a shard that is there and known to be whole, and notes its use."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    status = os.fstat(file.fileno())
    if status.st_size == size and status.st_mtime_ns == CHECKED:
        _mark(file)
        return file
    file.close()
    return None


def _check(path: Path, sha256: str, size: int) -> bool:
    """Reads a shard that is there but not known to be whole; a damaged one is removed."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            known = status.st_size == size and status.st_mtime_ns == CHECKED  # another process was faster
            if known or hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                _mark(file)
                return True
    except FileNotFoundError:
        return False
    log.warning("%s in the shard cache is damaged; it is fetched again", path)
    path.unlink(missing_ok=True)
    return False


def _mark(file: BinaryIO) -> None:
    os.utime(file.fileno(), ns=(time.time_ns(), CHECKED))
