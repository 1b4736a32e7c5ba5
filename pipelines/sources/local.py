"""Mesh files in a folder, or a single one; licences come from a ``manifest.csv`` (path, licence) at the top, if there is one."""

import csv
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from pipelines.sources.base import AssetRef, Content
from unipart.errors import Reject, UserError
from unipart.geometry.formats.files import AssetFolder
from unipart.geometry.load import SUFFIXES, LoadLimits, Scene, load_scene

_REFERENCES = {
    ".gltf": re.compile(rb'"uri"\s*:\s*"([^"]+)"'),
    ".obj": re.compile(rb"^\s*mtllib\s+(.+?)\s*$", re.MULTILINE),
    ".mtl": re.compile(rb"^\s*(?:map_\w+|bump|norm)\s+(?:-\S+\s+\S+\s+)*(.+?)\s*$", re.MULTILINE),
}
"""How a text format names its side files."""


class LocalSource:
    """A folder of GLB, glTF, OBJ, PLY and STL files, searched at any depth.

    Args:
        path: the folder, or one file.

    Raises:
        UserError: the path does not exist.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path).resolve()
        if not self.path.exists():
            raise UserError(f"source {path} does not exist", "give a folder of mesh files, one mesh file, or procedural:count=N")

    def list_assets(self) -> Iterator[AssetRef]:
        """Yields the mesh files sorted by path; side files (.bin, .mtl, textures) are not assets."""
        root = self.path if self.path.is_dir() else self.path.parent
        files = sorted(root.rglob("*")) if self.path.is_dir() else [self.path]
        licences = _read_licences(root / "manifest.csv")
        found = False
        for file in files:
            uri = file.relative_to(root).as_posix()
            hidden = any(part.startswith(".") for part in uri.split("/"))
            if file.suffix.lower() in SUFFIXES and not hidden and file.is_file():
                found = True
                yield AssetRef(source=root.name, uri=uri, location=str(file), licence=licences.get(uri, ""))
        if not found:
            raise UserError(f"source {self.path} holds no mesh file", f"give files that end in {', '.join(SUFFIXES)}")

    @staticmethod
    def identify(location: str) -> Content:
        """Hashes the file; side files that it names and that exist count as part of it."""
        path = Path(location)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        num_bytes = path.stat().st_size
        if path.suffix.lower() in _REFERENCES:
            for name, data in sorted(_side_files(path).items()):
                digest.update(name.encode() + b"\0" + hashlib.sha256(data).digest())
                num_bytes += len(data)
        return Content(digest.hexdigest(), num_bytes)

    @staticmethod
    def load(location: str, limits: LoadLimits) -> Scene:
        """Reads the file with its side files."""
        return load_scene(location, limits)


def _side_files(path: Path) -> dict[str, bytes]:
    folder = AssetFolder(path.parent, LoadLimits().max_bytes)
    found: dict[str, bytes] = {}
    queue = [(path.suffix.lower(), path.read_bytes())]
    while queue:
        suffix, data = queue.pop()
        for reference in _REFERENCES[suffix].findall(data) if suffix in _REFERENCES else []:
            name = reference.decode(errors="replace")
            if name in found or name.startswith("data:"):
                continue
            try:
                content = folder.read(name)
            except Reject:
                continue  # the loader will say what is wrong with the reference; here it only is not hashed
            if content is not None:
                found[name] = content
                queue.append((Path(name).suffix.lower(), content))
    return found


def _read_licences(manifest: Path) -> dict[str, str]:
    if not manifest.is_file():
        return {}
    with manifest.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if not {"path", "licence"} <= set(rows.fieldnames or ()):
            return {}
        return {row["path"]: row["licence"] or "" for row in rows}
