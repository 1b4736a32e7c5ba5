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
_GLB_HEADER = 20
"""Bytes before the JSON of a GLB."""
_PLY_HEADER = 1 << 16
"""Most bytes of a PLY in which a texture is looked for."""
_JSON_URI = re.compile(rb'"uri"\s*:\s*("(?:[^"\\]|\\.)*")')
_MTLLIB = re.compile(rb"^[ \t]*mtllib[ \t]+(.+?)\s*$", re.MULTILINE)
_MTL_MAP = re.compile(rb"^[ \t]*(?:map_\w+|bump|norm)[ \t]+(.+?)\s*$", re.MULTILINE | re.IGNORECASE)
_PLY_TEXTURE = re.compile(rb"^comment TextureFile[ \t]+(.+?)\s*$", re.MULTILINE)


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
    """Hashes an asset while it is read once; only the text that can name side files is kept in memory.

    Side files that do not exist, or that the loader will refuse to open, do not count.
    """
    digest = hashlib.sha256()
    num_bytes = 0
    text = bytearray()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
        num_bytes += len(chunk)
        wanted = min(_text_bytes(suffix, bytes((text or chunk)[:_GLB_HEADER])), folder.max_bytes)
        text += chunk[: max(wanted - len(text), 0)]
    file_sha256 = digest.hexdigest()
    for name, data in sorted(_side_files(suffix, bytes(text), folder).items()):
        digest.update(name.encode() + b"\0" + hashlib.sha256(data).digest())
        num_bytes += len(data)
    return Content(digest.hexdigest(), file_sha256, num_bytes, stands_alone=not _references(suffix, bytes(text)))


def read_references(file: BinaryIO, suffix: str) -> list[str]:
    """Returns the side files that a file names; reads no more of it than can name them."""
    text = bytearray(file.read(_GLB_HEADER))
    wanted = _text_bytes(suffix, bytes(text))
    while len(text) < wanted and (chunk := file.read(min(_CHUNK, wanted - len(text)))):
        text += chunk
    return _references(suffix, bytes(text))


def _references(suffix: str, text: bytes, name: str = "") -> list[str]:
    """Returns the side files that a text names, data URIs left out, in the order of the text.

    Args:
        suffix: its format; ``.mtl`` too.
        text: its content, or what can name side files of it.
        name: of the file itself, when it is a side file: its own references start from its folder.
    """
    match suffix:
        case ".gltf" | ".glb":
            found = [_unescaped(quoted) for quoted in _JSON_URI.findall(text)]
        case ".obj":
            found = [line.decode(errors="replace") for line in _MTLLIB.findall(text)]
        case ".mtl":
            place = PurePosixPath(name.replace("\\", "/")).parent
            found = [str(place / _map_file(line.decode(errors="replace"))) for line in _MTL_MAP.findall(text)]
        case ".ply":
            found = [line.decode(errors="replace") for line in _PLY_TEXTURE.findall(text)]
        case _:
            found = []
    return [reference for reference in dict.fromkeys(found) if reference[:5].lower() != "data:"]


def _text_bytes(suffix: str, head: bytes) -> int:
    """Returns how much of a file can name side files."""
    if suffix == ".glb":
        length = struct.unpack_from("<I", head, 12)[0] if len(head) >= _GLB_HEADER else 0
        return _GLB_HEADER + length
    return {".gltf": 1 << 62, ".obj": 1 << 62, ".ply": _PLY_HEADER}.get(suffix, 0)


def _side_files(suffix: str, text: bytes, folder: AssetFolder) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    waiting = [(suffix, text, "")]
    while waiting:
        for name in _references(*waiting.pop()):
            if name in found:
                continue
            try:
                data = folder.read(name)
            except Reject:
                continue  # the loader will say what is wrong with the reference; here it only is not hashed
            if data is not None:
                found[name] = data
                waiting.append((PurePosixPath(name).suffix.lower(), data, name) if name.lower().endswith(".mtl") else ("", b"", ""))
    return found


def _unescaped(quoted: bytes) -> str:
    try:
        return json.loads(quoted)
    except ValueError:
        return quoted[1:-1].decode(errors="replace")


def _map_file(words: str) -> str:
    """Returns the file of a ``map_Kd`` line as the OBJ reader takes it: the last word after options, else the whole line."""
    return (words.split()[-1] if words.startswith("-") else " ".join(words.split())).replace("\\", "/")
