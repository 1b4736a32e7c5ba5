"""Mesh files to scenes: GLB, glTF, OBJ, PLY, STL and Draco, checked before they are trusted.

The readers are our own (`unipart.geometry.formats`): the usual libraries wrap negative indices round, keep NaN positions, ignore
required extensions and open whatever a reference names. Here a file is either read as its format says or refused with a reason
code; memory is bounded by `LoadLimits`, and nothing outside the asset's folder is opened.
"""

import re
from pathlib import Path

import numpy as np

from unipart.errors import Reject
from unipart.geometry.formats.draco import read_drc
from unipart.geometry.formats.files import AssetFolder, read_limited
from unipart.geometry.formats.gltf import read_gltf
from unipart.geometry.formats.obj import read_obj
from unipart.geometry.formats.ply import read_ply
from unipart.geometry.formats.scene import LoadLimits, Material, Scene, SceneBuilder
from unipart.geometry.formats.stl import read_stl

__all__ = ["SUFFIXES", "LoadLimits", "Material", "Scene", "load_scene", "load_scene_bytes"]

SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl", ".drc")
"""File name endings that `load_scene` reads."""

_LIMITS = LoadLimits()
_HEAD = 4096
_CONTENTS = tuple(
    (re.compile(pattern), name, suffixes)
    for pattern, name, suffixes in (
        (rb"glTF", "binary glTF", (".glb", ".gltf")),
        (rb"\{", "JSON", (".gltf",)),
        (rb"ply\s", "PLY", (".ply",)),
        (rb"DRACO", "Draco", (".drc",)),
        (rb"(?i:solid)\s", "ASCII STL", (".stl",)),
        (rb"#usda", "USD", ()),
        (rb"#VRML", "VRML", ()),
        (rb"(?:[#gmosu][^\n]*+\n|\s)*+v\s", "OBJ", (".obj",)),
        (rb"[A-Z4n]{0,5}OFF\s", "OFF", ()),
        (rb"Kaydara|; FBX", "FBX", ()),
        (rb"<", "HTML, XML or SVG", ()),
        (rb"\x89PNG", "PNG", ()),
        (rb"\xff\xd8\xff", "JPEG", ()),
        (rb"PK\x03\x04", "zip", ()),
        (rb"\x1f\x8b", "gzip", ()),
        (rb"%PDF", "PDF", ()),
        (rb"MZ", "a Windows program", ()),
        (rb"404", "an answer of a web server", ()),
    )
)
"""How contents begin, their names, and the suffixes under which they belong."""


def load_scene(path: str | Path, limits: LoadLimits = _LIMITS) -> Scene:
    """Reads a mesh file with its side files (which must lie in its folder).

    Raises:
        Reject: bad data, with its reason code.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    folder = AssetFolder(path.parent, limits.max_bytes)
    return _load(read_limited(path, limits.max_bytes), path.suffix, folder, limits)


def load_scene_bytes(data: bytes, suffix: str, limits: LoadLimits = _LIMITS, folder: AssetFolder | None = None) -> Scene:
    """Reads a mesh file from memory.

    Args:
        data: the file.
        suffix: its format, one of `SUFFIXES`.
        limits: what it may cost.
        folder: opens its side files; None when it has none.

    Raises:
        Reject: bad data, with its reason code.
    """
    return _load(data, suffix, folder or AssetFolder(None, limits.max_bytes), limits)


def _load(data: bytes, suffix: str, folder: AssetFolder, limits: LoadLimits) -> Scene:
    suffix = suffix.lower()
    _check_head(data, limits)
    if suffix not in SUFFIXES:
        raise Reject("unsupported_format", f"{suffix!r} is not one of {', '.join(SUFFIXES)}")
    try:
        return _read(data, suffix, folder, SceneBuilder(limits))
    except Reject:
        content = _foreign_content(data, suffix)
        if content is None:
            raise
        raise Reject("bad_magic", f"the name ends in {suffix}, the content is {content}") from None


def _read(data: bytes, suffix: str, folder: AssetFolder, builder: SceneBuilder) -> Scene:
    with np.errstate(over="ignore", invalid="ignore"):  # absurd coordinates are refused by name when the scene is built
        match suffix:
            case ".glb" | ".gltf":
                read_gltf(data, suffix, folder, builder)
            case ".obj":
                read_obj(data, folder, builder)
            case ".ply":
                read_ply(data, folder, builder)
            case ".stl":
                read_stl(data, builder)
            case ".drc":
                read_drc(data, builder)
        return builder.build()


def _check_head(data: bytes, limits: LoadLimits) -> None:
    """Names what is often found in place of a mesh."""
    if not data:
        raise Reject("empty_file", "the file has no bytes")
    if len(data) > limits.max_bytes:
        raise Reject("file_too_large", f"{len(data)} bytes, the limit is {limits.max_bytes}")
    head = _head(data).lower()
    if head.startswith(b"version https://git-lfs"):
        raise Reject("lfs_pointer", "a git-LFS pointer in place of the file: fetch it with git lfs pull")
    if head.startswith((b"<!doctype", b"<html")):
        raise Reject("bad_magic", "an HTML page in place of a mesh (a failed download)")


def _foreign_content(data: bytes, suffix: str) -> str | None:
    """Names what a file holds that could not be read, where its beginning tells that it belongs under another suffix.

    Asked afterwards only: the first bytes of a binary STL are free, and may be those of any other format.
    """
    head = _head(data)
    name, suffixes = next(((name, suffixes) for start, name, suffixes in _CONTENTS if start.match(head)), (None, ()))
    return None if suffix in suffixes else name


def _head(data: bytes) -> bytes:
    return data[:_HEAD].removeprefix(b"\xef\xbb\xbf").lstrip()
