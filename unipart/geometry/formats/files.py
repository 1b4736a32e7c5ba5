"""The only way to files: the asset itself and what lies in its folder, never the network, never outside."""

import base64
import binascii
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes

from unipart.errors import Reject

_SCHEME = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.\-]*:")


@dataclass(frozen=True)
class AssetFolder:
    """Opens side files of an asset by the references found inside it.

    Attributes:
        root: the asset's folder, or None when the asset came as bytes and has no side files.
        max_bytes: size limit of one side file.
    """

    root: Path | None
    max_bytes: int

    def read(self, uri: str) -> bytes | None:
        """Returns the bytes behind a data URI or a relative reference, or None when there is no such file.

        Raises:
            Reject: ``uri_escape`` for a scheme, an absolute path or a path that leaves the folder (symbolic links included);
                ``bad_data_uri``; ``file_too_large``.
        """
        if uri[:5].lower() == "data:":
            return decode_data_uri(uri)
        names = list(dict.fromkeys([_safe_name(unquote(uri), uri), _safe_name(uri, uri)]))
        if self.root is None:
            return None
        root = self.root.resolve()
        for name in names:
            target = _resolve(root / name)
            if target is None:
                continue
            if not target.is_relative_to(root):
                raise Reject("uri_escape", f"reference {uri[:80]!r} leaves the asset's folder")
            if target.is_file():
                return read_limited(target, self.max_bytes)
        return None


def read_limited(path: Path, max_bytes: int) -> bytes:
    """Reads a regular file of at most max_bytes.

    Raises:
        Reject: ``file_too_large``.
    """
    size = path.stat().st_size
    if size > max_bytes:
        raise Reject("file_too_large", f"{path.name} has {size} bytes, the limit is {max_bytes}")
    return path.read_bytes()


def decode_data_uri(uri: str) -> bytes:
    """Returns the content of ``data:[type][;base64],...``.

    Raises:
        Reject: ``bad_data_uri``.
    """
    head, comma, body = uri.partition(",")
    if not comma:
        raise Reject("bad_data_uri", "a data URI without a comma")
    if not head.endswith(";base64"):
        return unquote_to_bytes(body)
    try:
        return base64.b64decode(body, validate=False)
    except (binascii.Error, ValueError) as error:
        raise Reject("bad_data_uri", f"base64 data does not decode: {error}") from None


def _safe_name(name: str, uri: str) -> str:
    name = name.replace("\\", "/")
    if _SCHEME.match(name) or name.startswith("/") or "\0" in name:
        raise Reject("uri_escape", f"reference {uri[:80]!r} is not a relative path")
    depth = 0
    for step in name.split("/"):
        depth += {"..": -1, ".": 0, "": 0}.get(step, 1)
        if depth < 0:
            raise Reject("uri_escape", f"reference {uri[:80]!r} leaves the asset's folder")
    return name


def _resolve(path: Path) -> Path | None:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # a name longer than the file system allows, or a loop of links
        return None
