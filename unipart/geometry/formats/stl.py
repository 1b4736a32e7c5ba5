"""STL, binary and ASCII."""

import struct

import numpy as np

from unipart.errors import Reject
from unipart.geometry.formats.scene import Material, Piece, SceneBuilder

_HEADER, _RECORD = 84, 50
_UTF8_MARK, _UTF16_MARKS = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")
_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def read_stl(data: bytes, builder: SceneBuilder) -> None:
    """Reads an STL file into the builder.

    A binary header may start with "solid" too: a file whose length fits the stated count is binary.

    Raises:
        Reject: ``truncated_file``, ``declared_size_exceeds_file`` or ``parse_error``.
    """
    head = data[:512].removeprefix(_UTF8_MARK).lstrip().lower()
    count = struct.unpack_from("<I", data, 80)[0] if len(data) >= _HEADER else 0
    is_exact = len(data) == _HEADER + count * _RECORD
    if data.startswith(_UTF16_MARKS) and not is_exact:
        raise Reject("parse_error", "the STL is UTF-16 text; it must be UTF-8 or binary")
    if head.startswith(b"solid") and not is_exact and (b"facet" in head or b"endsolid" in head):
        corners = _read_ascii(data)
    else:
        corners = _read_binary(data, count, builder)
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


def _read_ascii(data: bytes) -> np.ndarray:
    values = []
    for line in data.splitlines():
        words = line.split()
        if words[:1] in ([b"vertex"], [b"VERTEX"]):
            values.append(words[1:4])
    try:
        corners = np.array(values, dtype=np.float64).reshape(-1, 3)
    except ValueError:
        raise Reject("parse_error", "an ASCII STL vertex does not hold three numbers") from None
    if len(corners) % 3:
        raise Reject("truncated_file", f"{len(corners)} corners are not a whole number of triangles")
    return corners
