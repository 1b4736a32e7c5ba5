"""Google Draco: decoding for compressed glTF primitives, and .drc files."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unipart.errors import Reject
from unipart.geometry._palette import srgb_to_linear
from unipart.geometry.formats.scene import Material, Piece, SceneBuilder

_MAGIC = b"DRACO"


def decode_draco(data: bytes) -> Any:
    """Returns DracoPy's mesh, which has faces.

    Raises:
        Reject: ``parse_error``, or ``no_faces`` for a point cloud.
    """
    import DracoPy

    try:
        mesh: Any = DracoPy.decode(data)
    except (DracoPy.FileTypeException, ValueError, RuntimeError) as error:
        raise Reject("parse_error", f"Draco data does not decode: {error}") from None
    if not hasattr(mesh, "faces"):
        raise Reject("no_faces", "a Draco point cloud")
    return mesh


def read_drc(data: bytes, builder: SceneBuilder) -> None:
    """Reads a .drc file into the builder: geometry, normals and vertex colours (8 bit, taken as sRGB).

    Raises:
        Reject: ``bad_magic``, or as `decode_draco`.
    """
    if not data.startswith(_MAGIC):
        raise Reject("bad_magic", f"a Draco file starts with 'DRACO', this one with {data[:8]!r}")
    mesh = decode_draco(data)
    faces = np.asarray(mesh.faces, dtype=np.int64).reshape(-1, 3)
    normals, colors = mesh.normals, _colors(mesh.colors)
    piece = Piece(
        vertices=np.asarray(mesh.points, dtype=np.float64).reshape(-1, 3),
        faces=faces,
        color=None if colors is None else colors[faces],
        normal=None if normals is None else np.asarray(normals)[faces],
    )
    builder.add_piece(builder.add_node("object"), builder.add_material(Material()), piece)


def _colors(values: NDArray[Any] | None) -> NDArray[np.float64] | None:
    if values is None or values.dtype != np.uint8 or values.ndim != 2 or values.shape[1] not in (3, 4):
        return None
    scaled = values / 255.0
    alpha = scaled[:, 3:] if values.shape[1] == 4 else np.ones((len(scaled), 1))
    return np.concatenate([srgb_to_linear(scaled[:, :3]), alpha], axis=1)
