"""One run at a time on a dataset: what a run holds from its first write to its last.

In a folder a second run is refused: the lock belongs to the process, so it is gone when the process is, and never stale. Object
storage has no such lock; there the newest run wins, and the older one stops at its next step. In both cases `run.json` gives every
run an attempt number of its own, so that a task that outlives its killed run can never overrule a later one.
"""

import errno
import fcntl
import json
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import ledger
from unipart import storage
from unipart.data.codec import pack_json
from unipart.errors import UserError

CLAIM, LOCK = "run.json", ".lock"
_TEMPORARY = ".writing-*"
"""What `storage.open_writer` leaves behind in a folder when it is killed."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""What a network file system without locks answers; the newest run wins there, as in object storage."""


@dataclass(frozen=True)
class Claim:
    """The right to write to a dataset.

    Attributes:
        out: dataset address.
        attempt: number of this run, larger than that of every run before it.
        token: tells this run from all others.
    """

    out: str
    attempt: int
    token: str

    def check(self) -> None:
        """Checks that no other run has begun since.

        Raises:
            UserError: one has.
        """
        current = _read(self.out)
        if current.get("token") != self.token:
            raise UserError(
                f"another run took over {self.out} ({_who(current)}); this one stops",
                "let the other one finish: what both did is in the ledger",
            )


@contextmanager
def claim_dataset(out: str, digest: str) -> Iterator[Claim]:
    """Claims a dataset for this process, and removes the temporary files of killed runs.

    Args:
        out: dataset address.
        digest: of the plan whose ledger will grow.

    Raises:
        UserError: another run is at work in this folder.
    """
    with locked(out):
        attempt = max(int(_read(out).get("attempt", 0)) + 1, ledger.next_attempt(out, digest))
        mine = Claim(out, attempt, uuid.uuid4().hex)
        document = {"attempt": attempt, "token": mine.token, "host": socket.gethostname(), "pid": os.getpid()}
        storage.write_bytes(storage.join(out, CLAIM), pack_json(document))
        if not storage.is_s3(out):
            for path in Path(out).rglob(_TEMPORARY):
                path.unlink(missing_ok=True)
        yield mine


@contextmanager
def locked(out: str) -> Iterator[None]:
    """Holds a folder for this process, until the block ends or the process dies; object storage is not held.

    Raises:
        UserError: another process holds it.
    """
    if storage.is_s3(out):
        yield
        return
    Path(out).mkdir(parents=True, exist_ok=True)
    with (Path(out) / LOCK).open("a+") as file:
        os.register_at_fork(after_in_child=file.close)  # a child that outlives this process, once killed, would keep the lock
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"another run is at work in {out} ({file.read()})", "wait until it ends, or give another --out"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        with suppress(OSError):  # a full disk: nobody is told whose it is
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), _who({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        yield


def _read(out: str) -> dict[str, Any]:
    try:
        return json.loads(storage.read_bytes(storage.join(out, CLAIM)))
    except FileNotFoundError:
        return {}


def _who(document: dict[str, Any]) -> str:
    return f"process {document.get('pid', '?')} on {document.get('host', '?')}"
