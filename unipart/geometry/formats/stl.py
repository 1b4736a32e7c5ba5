"""STL, binary and ASCII."""

import struct

import numpy as np

from unipart.errors import Reject
from unipart.geometry.formats.scene import Material, Piece, SceneBuilder

_HEADER, _RECORD = 84, 50
_TEXT_HEAD = 1 << 16
"""Bytes in which a text shows its first triangle: the name of a solid may be long."""
_UTF8_MARK, _UTF16_MARKS = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")
_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def read_stl(data: bytes, builder: SceneBuilder) -> None:
    """Reads an STL file into the builder.

    A binary header may start with "solid" too: a file whose length fits the stated count is binary.

    Raises:
        Reject: ``truncated_file``, ``declared_size_exceeds_file`` or ``parse_error``.
    """
    head = data[:_TEXT_HEAD].removeprefix(_UTF8_MARK).lstrip().lower()
    count = struct.unpack_from("<I", data, 80)[0] if len(data) >= _HEADER else 0
    is_exact = len(data) == _HEADER + count * _RECORD
    if data.startswith(_UTF16_MARKS) and not is_exact:
        raise Reject("parse_error", "the STL is UTF-16 text; it must be UTF-8 or binary")
    is_text = head.startswith(b"solid") and b"\0" not in head and (b"facet" in head or b"endsolid" in head)
    corners = _read_ascii(data, builder) if is_text and not is_exact else _read_binary(data, count, builder)
    faces = np.arange(corners.size // 3).reshape(-1, 3)
    builder.add_piece(builder.add_node("object"), builder.add_material(Material()), Piece(corners.reshape(-1, 3), faces))


def _read_binary(data: bytes, count: int, builder: SceneBuilder) -> np.ndarray:
    if len(data) < _HEADER:
        raise Reject("truncated_file", f"{len(data)} bytes are less than an STL header")
    body = len(data) - _HEADER
    if count * _RECORD > body:
        reason = "truncated_file" if body % _RECORD else "declared_size_exceeds_file"
        raise Reject(reason, f"the header says {count} triangles, the file has room for {body // _RECORD}")
    if count * _RECORD < body:
        builder.warn(f"trailing_bytes: {body - count * _RECORD} bytes after the last triangle were ignored")
    return np.frombuffer(data, dtype=_TRIANGLE, count=count, offset=_HEADER)["corners"].astype(np.float64)


def _read_ascii(data: bytes, builder: SceneBuilder) -> np.ndarray:
    values = []
    found = dict.fromkeys((b"facet", b"endfacet", b"endsolid"), 0)
    for line in data.splitlines():
        words = line.split()
        keyword = words[0].lower() if words else b""
        if keyword == b"vertex":
            values.append(words[1:4])
        elif keyword in found:
            found[keyword] += 1
    try:
        corners = np.array(values, dtype=np.float64).reshape(len(values), 3)
    except ValueError:
        raise Reject("parse_error", "an ASCII STL vertex does not hold three numbers") from None
    facets, ended = found[b"facet"], found[b"endfacet"]
    if not len(corners) == 3 * facets == 3 * ended:
        raise Reject("truncated_file", f"{facets} facets begin and {ended} end, with {len(corners)} corners")
    if not found[b"endsolid"]:
        builder.warn("truncated_file: there is no endsolid after the last triangle; more may be missing")
    return corners
