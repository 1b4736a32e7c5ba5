"""The identity of an asset: a hash of its bytes, and of the side files that it names."""

import hashlib
import json
import re
import struct
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from unipart.errors import Reject
from unipart.geometry.formats.files import AssetFolder

_CHUNK = 1 << 20
_OVERLAP = 1 << 17
"""How much of a piece is searched again with the next one: more than a statement that names a file can take."""
_GLB_HEADER = 20
"""Bytes before the JSON of a GLB."""
_PLY_HEADER = 1 << 16
"""Most bytes of a PLY in which a texture is looked for."""
# Possessive (*+, ++), so that no text takes more than linear time or keeps a state per character. Each pattern needs the beginning
# and the end of its statement, so that a piece of a file never gives half a name. Data URIs, which may be long, are passed over.
_STATEMENTS = {
    ".gltf": re.compile(rb'"uri"\s*+:\s*+("(?!(?i:data:))[^"\\]*+(?:\\.[^"\\]*+)*+")'),
    ".obj": re.compile(rb"[\r\n](?:\xef\xbb\xbf)?[ \t]*+mtllib[ \t]++([^\r\n]++)(?=[\r\n])"),
    ".ply": re.compile(rb"\ncomment TextureFile[ \t]++([^\n]++)(?=\n)"),
}
_STATEMENTS[".glb"] = _STATEMENTS[".gltf"]
_MTL_MAP = re.compile(rb"^[ \t]*+(?:map_\w++|bump|norm)[ \t]++([^\n]++)", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True)
class Content:
    """Identity of an asset's bytes.

    Attributes:
        sha256: of the file, and of its side files where it has some.
        file_sha256: of the file alone.
        num_bytes: size of all of them.
        stands_alone: whether the file names no side file, there or not.
    """

    sha256: str
    file_sha256: str
    num_bytes: int
    stands_alone: bool


def identify(file: BinaryIO, suffix: str, folder: AssetFolder) -> Content:
    """Hashes an asset while it is read once; nothing of it is kept but the names of its side files.

    Side files that do not exist, or that the loader will refuse to open, do not count.
    """
    digest = hashlib.sha256()
    num_bytes = 0
    names = _NameFinder(suffix)
    chunk = file.read(_GLB_HEADER)
    while chunk:
        digest.update(chunk)
        num_bytes += len(chunk)
        names.add(chunk)
        chunk = file.read(_CHUNK)
    file_sha256, references = digest.hexdigest(), names.finish()
    for name, data in sorted(_side_files(references, folder).items()):
        digest.update(name.encode() + b"\0" + hashlib.sha256(data).digest())
        num_bytes += len(data)
    return Content(digest.hexdigest(), file_sha256, num_bytes, stands_alone=not references)


def read_references(file: BinaryIO, suffix: str) -> list[str]:
    """Returns the side files that a file names, data URIs left out, in their order; reads no more of it than can name them."""
    names = _NameFinder(suffix)
    chunk = file.read(_GLB_HEADER)
    while chunk:
        names.add(chunk)
        chunk = file.read(_CHUNK) if names.left else b""
    return names.finish()


class _NameFinder:
    """Finds the side files that a file names while its bytes pass by.

    Args:
        suffix: format of the file.

    Attributes:
        left: how many bytes can still name side files; None before the first are known.
    """

    def __init__(self, suffix: str) -> None:
        self.left: int | None = None
        self._suffix, self._pattern = suffix, _STATEMENTS.get(suffix)
        self._window = b"\n"
        self._found: dict[bytes, None] = {}

    def add(self, chunk: bytes) -> None:
        """Searches the next bytes; the first ones hold the header of the file."""
        if self.left is None:
            self.left = _text_bytes(self._suffix, chunk)
        text = chunk[: self.left]
        self.left -= len(text)
        if text and self._pattern is not None:
            self._window = self._window[-_OVERLAP:] + text
            self._found |= dict.fromkeys(self._pattern.findall(self._window))

    def finish(self) -> list[str]:
        """Returns the names, data URIs left out, in their order."""
        if self._pattern is None:
            return []
        self._found |= dict.fromkeys(self._pattern.findall(self._window[-_OVERLAP:] + b"\n"))
        is_json = self._suffix in (".gltf", ".glb")
        names = [_unescaped(found) if is_json else found.decode(errors="replace").strip() for found in self._found]
        return [name for name in dict.fromkeys(names) if name and name[:5].lower() != "data:"]


def _text_bytes(suffix: str, head: bytes) -> int:
    """Returns how much of a file can name side files."""
    if suffix == ".glb":
        length = struct.unpack_from("<I", head, 12)[0] if len(head) >= _GLB_HEADER else 0
        return _GLB_HEADER + length
    return {".gltf": 1 << 62, ".obj": 1 << 62, ".ply": _PLY_HEADER}.get(suffix, 0)


def _side_files(references: list[str], folder: AssetFolder) -> dict[str, bytes]:
    """Returns the side files that exist, textures of material files too."""
    found: dict[str, bytes] = {}
    waiting = list(references)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            data = folder.read(name)
        except Reject:
            continue  # the loader will say what is wrong with the reference; here it only is not hashed
        if data is not None:
            found[name] = data
            waiting += _maps(data, name) if name.lower().endswith(".mtl") else []
    return found


def _maps(data: bytes, name: str) -> list[str]:
    """Returns the textures of a material file; they start from its folder."""
    place = PurePosixPath(name.replace("\\", "/")).parent
    lines = dict.fromkeys(_MTL_MAP.findall(data))
    return [str(place / _map_file(line.decode(errors="replace").strip())) for line in lines]


def _unescaped(quoted: bytes) -> str:
    try:
        return json.loads(quoted)
    except ValueError:
        return quoted[1:-1].decode(errors="replace")


def _map_file(words: str) -> str:
    """Returns the file of a ``map_Kd`` line as the OBJ reader takes it: the last word after options, else the whole line."""
    return (words.split()[-1] if words.startswith("-") else " ".join(words.split())).replace("\\", "/")
