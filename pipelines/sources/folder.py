"""Mesh files in a folder or below an s3:// prefix, or a single one.

Licences come from a ``manifest.csv`` (path, licence or license) at the top, if there is one. A link to a mesh file is read wherever
it leads: who put it there meant that file. A link to a folder is not followed (it may lead anywhere, or round in a circle), but it
is listed, so that the run counts it and says why.
"""

import csv
import io
import logging
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from pipelines.sources.base import REFUSED, AssetRef
from unipart import storage
from unipart.errors import UserError
from unipart.geometry.load import SUFFIXES

MANIFEST = "manifest.csv"
_LICENCE = ("licence", "license")
_OTHER_MESHES = (
    ".3ds", ".3mf", ".7z", ".abc", ".blend", ".dae", ".fbx", ".gz", ".iges", ".igs", ".off", ".rar", ".step", ".stp", ".tar",
    ".usd", ".usda", ".usdc", ".usdz", ".vrml", ".wrl", ".x3d", ".zip",
)  # fmt: skip
"""Files that hold meshes (or archives that may) and are passed over."""
_READ = f"a folder of mesh files, one mesh file ({', '.join(SUFFIXES)}), a listing (.parquet, .csv) or procedural:count=N"

log = logging.getLogger(__name__)


class FolderSource:
    """GLB, glTF, OBJ, PLY, STL and Draco files, searched at any depth.

    Args:
        spec: a folder or file, or the s3:// address of a prefix or of one object.

    Raises:
        UserError: the path does not exist, or is a file that no reader takes.
        EnvironmentProblem: the bucket cannot be read.
    """

    def __init__(self, spec: str) -> None:
        if not storage.is_s3(spec) and not Path(spec).exists():
            raise UserError(f"source {spec} does not exist", "give a folder of mesh files, one mesh file, or procedural:count=N")
        if Path(spec).is_file() and PurePosixPath(spec).suffix.lower() not in SUFFIXES:
            raise UserError(f"source {spec} is no mesh file and no listing", f"give {_READ}")
        whole = spec.rstrip("/") if storage.is_s3(spec) else Path(spec).resolve().as_posix()
        has_suffix = PurePosixPath(whole).suffix.lower() in SUFFIXES
        self.file = PurePosixPath(whole).name if has_suffix and not Path(whole).is_dir() and storage.exists(whole) else None
        self.root = whole if self.file is None else whole.rpartition("/")[0]

    def list_assets(self) -> Iterator[AssetRef]:
        """Yields the mesh files and what `REFUSALS` names, sorted by path; side files (.bin, .mtl, textures) are not assets."""
        name = self.root.rpartition("/")[2]
        licences = self._licences()
        found = False
        for uri, version, refusal in [(self.file, "", "")] if self.file else self._meshes():
            found = True
            location = refusal + storage.join(self.root, uri)
            yield AssetRef(source=name, uri=uri, location=location, licence=licences.get(uri, ""), version=version)
        if not found:
            raise UserError(f"source {self.root} holds no mesh file", f"give {_READ}")

    def _meshes(self) -> list[tuple[str, str, str]]:
        """Returns (name, version, "") of the mesh files and (name, "", refusal) of what is never read, sorted by name."""
        is_s3 = storage.is_s3(self.root)
        files = [(*file, "") for file in storage.list_versions(self.root)] if is_s3 else sorted(_walk(self.root))
        files = [file for file in files if _is_shown(file[0])]
        self._tell_others(name for name, _, _ in files)
        return [file for file in files if file[2] or _is_mesh(file[0])]

    def _tell_others(self, names: Iterable[str]) -> None:
        suffixes = (PurePosixPath(name).suffix.lower() for name in names)
        others = Counter(suffix for suffix in suffixes if suffix in _OTHER_MESHES)
        if others:
            told = ", ".join(f"{suffix} {count}" for suffix, count in sorted(others.items()))
            log.warning("%s: files of other types were not read: %s", self.root, told)

    def _licences(self) -> dict[str, str]:
        address = storage.join(self.root, MANIFEST)
        if not storage.exists(address):
            return {}
        try:
            rows = csv.DictReader(io.StringIO(storage.read_bytes(address).decode("utf-8-sig"), newline=""))
            columns = [name for name in _LICENCE if name in (rows.fieldnames or ())]
            if len(columns) > 1:
                raise UserError(f"{address} has the columns {' and '.join(columns)}", "keep one of them")
            if not columns or "path" not in (rows.fieldnames or ()):
                return {}
            return {row["path"]: row[columns[0]] or "" for row in rows}
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{address} does not read as a CSV file in UTF-8: {error}", "save it as UTF-8, or remove it") from None


def _is_mesh(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def _is_shown(name: str) -> bool:
    return not any(part.startswith(".") for part in name.split("/"))


def _walk(root: str) -> Iterator[tuple[str, str, str]]:
    """Yields the files of a folder, also unreadable ones and broken links: they shall be counted.

    Each is (name, version, ""); what is never read (a link to a folder, a pipe, a device) is (name, "", beginning of its location).
    """

    def fail(error: OSError) -> None:
        raise UserError(f"folder {error.filename} cannot be listed: {error.strerror}", "make it readable, or give another folder")

    for folder, folders, names in os.walk(root, onerror=fail):
        for link in filter(Path.is_symlink, (Path(folder, name) for name in folders)):
            yield link.relative_to(root).as_posix(), "", f"{REFUSED}linked_folder:"
        for name in names:
            path = Path(folder, name)
            uri = path.relative_to(root).as_posix()
            try:
                status = path.stat()
            except OSError:
                yield uri, "", ""
                continue
            if stat.S_ISREG(status.st_mode):
                yield uri, storage.version_of(status), ""
            elif _is_mesh(uri):
                yield uri, "", f"{REFUSED}not_a_file:"
