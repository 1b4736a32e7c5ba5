"""Mesh files to scenes: GLB, glTF, OBJ, PLY, STL and Draco, checked before they are trusted.

The readers are our own (`unipart.geometry.formats`): the usual libraries wrap negative indices round, keep NaN positions, ignore
required extensions and open whatever a reference names. Here a file is either read as its format says or refused with a reason
code; memory is bounded by `LoadLimits`, and nothing outside the asset's folder is opened.
"""

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
    builder = SceneBuilder(limits)
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
            case _:
                raise Reject("unsupported_format", f"{suffix!r} is not one of {', '.join(SUFFIXES)}")
        return builder.build()


def _check_head(data: bytes, limits: LoadLimits) -> None:
    """Names what is often found in place of a mesh."""
    if not data:
        raise Reject("empty_file", "the file has no bytes")
    if len(data) > limits.max_bytes:
        raise Reject("file_too_large", f"{len(data)} bytes, the limit is {limits.max_bytes}")
    head = data[:256].lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        raise Reject("lfs_pointer", "a git-LFS pointer in place of the file: fetch it with git lfs pull")
    if head.startswith((b"<!doctype", b"<html")):
        raise Reject("bad_magic", "an HTML page in place of a mesh (a failed download)")
