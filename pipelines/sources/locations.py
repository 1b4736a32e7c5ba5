"""How an asset is opened by its location: a path, s3://, http(s):// or a procedural specification."""

import errno
import io
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import urlsplit

from pipelines.sources import procedural
from pipelines.sources.base import REFUSALS, REFUSED
from pipelines.sources.http import DownloadError, download, is_http, quoted_address
from pipelines.sources.identity import read_references
from unipart import storage
from unipart.errors import Reject
from unipart.geometry.formats.files import AssetFolder, has_scheme
from unipart.geometry.load import SUFFIXES

_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tga", ".gif", ".ktx2", ".dds")
_MAGIC = {b"glTF": ".glb", b"ply\n": ".ply", b"ply\r": ".ply", b"DRAC": ".drc"}
_NO_SUCH_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM)


@dataclass(frozen=True)
class OpenAsset:
    """An asset that is open for reading.

    Attributes:
        file: its bytes, to be read once.
        suffix: its format, one of `SUFFIXES`.
        folder: opens its side files.
    """

    file: BinaryIO
    suffix: str
    folder: AssetFolder

    def read(self) -> bytes:
        """Reads the whole file.

        Raises:
            Reject: ``file_too_large``; the limit is that of the side files.
        """
        parts: list[bytes] = []
        size = 0
        while chunk := self.file.read(1 << 24):
            size += len(chunk)
            if size > self.folder.max_bytes:
                raise Reject("file_too_large", f"more than {self.folder.max_bytes} bytes, the limit")
            parts.append(chunk)
        return parts[0] if len(parts) == 1 else b"".join(parts)


@contextmanager
def open_asset(location: str, max_bytes: int) -> Iterator[OpenAsset]:
    """Opens an asset.

    Args:
        location: see `AssetRef`.
        max_bytes: limit of a download, and of the side files together.

    Raises:
        Reject: ``not_found``, ``unreadable``, ``bad_uri``, ``unsupported_uri``, ``unsupported_format``, ``side_files_over_http``,
            one of `REFUSALS`, or as `download`.
        OSError: it cannot be read now.
        EnvironmentProblem: the object storage cannot be reached.
    """
    if location.startswith(procedural.SCHEME):
        yield OpenAsset(io.BytesIO(procedural.build(location)), ".glb", AssetFolder(None, max_bytes))
    elif is_http(location):
        file, url = _download_any(location.split("\n"), max_bytes)
        with file:
            yield _downloaded(file, url, max_bytes)
    elif location.startswith(REFUSED) and (reason := location.split(":")[1]) in REFUSALS:
        raise _refusal(reason, location.split(":", 2)[-1])
    elif "\0" in location:
        raise Reject("bad_uri", f"{location[:200]!r} holds a character that no path has")
    elif has_scheme(location) and not storage.is_s3(location):
        raise Reject("unsupported_uri", f"{location[:120]!r}: an asset is a path, or an http(s):// or s3:// address")
    else:
        folder, slash, name = location.rpartition("/")
        with ExitStack() as stack:
            file = _open(location, stack)
            yield OpenAsset(file, PurePosixPath(name).suffix.lower(), AssetFolder(folder or slash or ".", max_bytes))


def _open(location: str, stack: ExitStack) -> BinaryIO:
    try:
        if not storage.is_s3(location) and not stat.S_ISREG(Path(location).stat().st_mode):
            raise _refusal("not_a_file", location)  # opening a pipe waits for ever, a device never ends
        return stack.enter_context(storage.open_stream(location))
    except OSError as error:
        if isinstance(error, FileNotFoundError) or error.errno in _NO_SUCH_FILE:
            raise Reject("not_found", f"{location} does not exist (any more), or is a link to nothing") from None
        if error.errno in _NOT_ALLOWED:
            raise Reject("unreadable", f"{location} may not be read: change its permissions") from None
        raise


def _refusal(reason: str, location: str) -> Reject:
    return Reject(reason, f"{location}: {REFUSALS[reason]}")


def _download_any(urls: Sequence[str], max_bytes: int) -> tuple[BinaryIO, str]:
    """Returns the first download that succeeds and its address; else raises what may succeed later, or what the first one said."""
    problems: list[Reject | DownloadError] = []
    for url in urls:
        try:
            return download(_known_format(url), max_bytes), url
        except (Reject, DownloadError) as problem:
            problems.append(problem)
    raise next((problem for problem in problems if isinstance(problem, DownloadError)), problems[0])


def _known_format(url: str) -> str:
    """Refuses by its name what no reader takes, before it is downloaded; a name without a suffix passes."""
    suffix = _suffix(url)
    if suffix and suffix not in SUFFIXES:
        raise Reject("unsupported_format", f"{suffix!r} is not one of {', '.join(SUFFIXES)}")
    return url


def _downloaded(file: BinaryIO, url: str, max_bytes: int) -> OpenAsset:
    suffix = _suffix(url) or _MAGIC.get(file.read(4), "")
    file.seek(0)
    buffers = _buffers(file, suffix)
    file.seek(0)
    if buffers:
        told = f"the geometry is in {buffers[0][:80]!r}; side files are not fetched over HTTP"
        raise Reject("side_files_over_http", f"{told}: list a GLB with everything inside, or use a folder or an s3:// prefix")
    return OpenAsset(file, suffix, AssetFolder(None, max_bytes))


def _buffers(file: BinaryIO, suffix: str) -> list[str]:
    """Returns the side files that hold geometry; without the others (materials, textures) a file loads, with a warning."""
    if suffix not in (".gltf", ".glb"):
        return []
    names = [name for name in read_references(file, suffix) if not has_scheme(name)]
    return [name for name in names if PurePosixPath(name).suffix.lower() not in _IMAGES]


def _suffix(url: str) -> str:
    return PurePosixPath(urlsplit(quoted_address(url)).path).suffix.lower()
