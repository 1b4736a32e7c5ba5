"""The only way to files: the asset itself and what lies in its folder, never the network, never outside."""

import base64
import binascii
import posixpath
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes

from unipart import storage
from unipart.errors import Reject

_SCHEME = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.\-]*:")


@dataclass(frozen=True)
class AssetFolder:
    """Opens side files of an asset by the references found inside it; each is read once.

    Attributes:
        root: the asset's folder (a path or an s3:// address), or None when the asset came as bytes and has no side files.
        max_bytes: size limit of the side files together.
    """

    root: str | Path | None
    max_bytes: int
    _read: dict[str, bytes] = field(default_factory=dict, repr=False, compare=False)

    def read(self, uri: str) -> bytes | None:
        """Returns the bytes behind a data URI or a relative reference, or None when there is no such file.

        Raises:
            Reject: ``uri_escape`` for a scheme, an absolute path or a path that leaves the folder (symbolic links included);
                ``bad_uri`` for what is no Unicode text; ``bad_data_uri``; ``file_too_large``; ``unreadable`` without permission.
        """
        if uri[:5].lower() == "data:":
            return decode_data_uri(uri)
        names = list(dict.fromkeys([_safe_name(unquote(uri), uri), _safe_name(uri, uri)]))
        if self.root is None:
            return None
        for name in names:
            if name not in self._read:
                data = self._open_object(name) if storage.is_s3(self.root) else self._open_file(Path(self.root).resolve(), name)
                if data is None:
                    continue
                if sum(map(len, self._read.values())) + len(data) > self.max_bytes:
                    raise Reject("file_too_large", f"the side files together have more than {self.max_bytes} bytes, the limit")
                self._read[name] = data
            return self._read[name]
        return None

    def _open_file(self, root: Path, name: str) -> bytes | None:
        try:
            target = (root / name).resolve()
            is_file = target.is_file()
        except (OSError, RuntimeError):  # a name longer than the file system allows, or a loop of links
            return None
        if not target.is_relative_to(root):
            raise Reject("uri_escape", f"reference {name[:80]!r} leaves the asset's folder")
        try:
            return read_limited(target, self.max_bytes) if is_file else None
        except PermissionError:
            raise Reject("unreadable", f"{name[:80]} may not be read: change its permissions") from None

    def _open_object(self, name: str) -> bytes | None:
        try:
            return read_limited(storage.join(str(self.root), posixpath.normpath(name)), self.max_bytes)
        except FileNotFoundError:
            return None


def read_limited(url: str | Path, max_bytes: int) -> bytes:
    """Reads a file of at most max_bytes.

    Raises:
        Reject: ``file_too_large``.
        FileNotFoundError: there is no such file.
    """
    name = posixpath.basename(str(url))
    if not storage.is_s3(url) and (size := Path(url).stat().st_size) > max_bytes:
        raise Reject("file_too_large", f"{name} has {size} bytes, the limit is {max_bytes}")
    with storage.open_stream(url) as file:
        data = file.read(max_bytes + 1 if storage.is_s3(url) else -1)
    if len(data) > max_bytes:
        raise Reject("file_too_large", f"{name} has more than {max_bytes} bytes, the limit")
    return data


def has_scheme(reference: str) -> bool:
    """Tells whether a reference or location is more than a path: ``https:``, ``s3:``, ``file:`` ..."""
    return _SCHEME.match(reference) is not None


def decode_data_uri(uri: str) -> bytes:
    """Returns the content of ``data:[type][;base64],...``.

    Raises:
        Reject: ``bad_data_uri``.
    """
    head, comma, body = uri.partition(",")
    if not comma:
        raise Reject("bad_data_uri", "a data URI without a comma")
    try:
        data = unquote_to_bytes(body)  # base64 may be percent-encoded too
        if not head.lower().endswith(";base64"):
            return data
        return base64.b64decode(data.translate(None, b" \t\r\n"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise Reject("bad_data_uri", f"the data does not decode: {error}") from None


def _safe_name(name: str, uri: str) -> str:
    name = name.replace("\\", "/")
    try:
        name.encode()
    except UnicodeEncodeError:  # half a surrogate pair, as JSON may hold it
        raise Reject("bad_uri", f"reference {uri[:80]!r} is no Unicode text") from None
    if has_scheme(name) or name.startswith("/") or "\0" in name:
        raise Reject("uri_escape", f"reference {uri[:80]!r} is not a relative path")
    depth = 0
    for step in name.split("/"):
        depth += {"..": -1, ".": 0, "": 0}.get(step, 1)
        if depth < 0:
            raise Reject("uri_escape", f"reference {uri[:80]!r} leaves the asset's folder")
    return name
