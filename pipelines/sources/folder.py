"""Mesh files in a folder or below an s3:// prefix, or a single one.

Licences come from a ``manifest.csv`` (path, licence) at the top, if there is one.
"""

import csv
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pipelines.sources.base import AssetRef
from unipart import storage
from unipart.errors import UserError
from unipart.geometry.load import SUFFIXES

MANIFEST = "manifest.csv"


class FolderSource:
    """GLB, glTF, OBJ, PLY, STL and Draco files, searched at any depth.

    Args:
        spec: a folder or file, or the s3:// address of a prefix or of one object.

    Raises:
        UserError: the path does not exist.
        EnvironmentProblem: the bucket cannot be read.
    """

    def __init__(self, spec: str) -> None:
        if not storage.is_s3(spec) and not Path(spec).exists():
            raise UserError(f"source {spec} does not exist", "give a folder of mesh files, one mesh file, or procedural:count=N")
        whole = spec.rstrip("/") if storage.is_s3(spec) else Path(spec).resolve().as_posix()
        has_suffix = PurePosixPath(whole).suffix.lower() in SUFFIXES
        self.file = PurePosixPath(whole).name if has_suffix and not Path(whole).is_dir() and storage.exists(whole) else None
        self.root = whole if self.file is None else whole.rpartition("/")[0]

    def list_assets(self) -> Iterator[AssetRef]:
        """Yields the mesh files sorted by path; side files (.bin, .mtl, textures) are not assets."""
        name = self.root.rpartition("/")[2]
        licences = self._licences()
        found = False
        for uri, version in [(self.file, "")] if self.file else self._meshes():
            found = True
            location = storage.join(self.root, uri)
            yield AssetRef(source=name, uri=uri, location=location, licence=licences.get(uri, ""), version=version)
        if not found:
            raise UserError(f"source {self.root} holds no mesh file", f"give files that end in {', '.join(SUFFIXES)}")

    def _meshes(self) -> list[tuple[str, str]]:
        """Returns the mesh files with their versions, sorted by name."""
        files = storage.list_versions(self.root) if storage.is_s3(self.root) else sorted(_walk(self.root))
        return [file for file in files if _is_mesh(file[0])]

    def _licences(self) -> dict[str, str]:
        address = storage.join(self.root, MANIFEST)
        if not storage.exists(address):
            return {}
        rows = csv.DictReader(io.StringIO(storage.read_bytes(address).decode("utf-8-sig"), newline=""))
        if not {"path", "licence"} <= set(rows.fieldnames or ()):
            return {}
        return {row["path"]: row["licence"] or "" for row in rows}


def _is_mesh(name: str) -> bool:
    hidden = any(part.startswith(".") for part in name.split("/"))
    return PurePosixPath(name).suffix.lower() in SUFFIXES and not hidden


def _walk(root: str) -> Iterator[tuple[str, str]]:
    """Yields the files of a folder, also unreadable ones and broken links (they shall be counted), but no pipes and devices."""

    def fail(error: OSError) -> None:
        raise UserError(f"folder {error.filename} cannot be listed: {error.strerror}", "make it readable, or give another folder")

    for folder, _, names in os.walk(root, onerror=fail):
        for name in names:
            path = Path(folder, name)
            try:
                status = path.stat()
            except OSError:
                yield path.relative_to(root).as_posix(), ""
                continue
            if stat.S_ISREG(status.st_mode):
                yield path.relative_to(root).as_posix(), storage.version_of(status)
