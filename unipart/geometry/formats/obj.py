"""Wavefront OBJ and MTL: one node per ``o``, polygons cut into triangles, indices checked."""

import io
import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from unipart.errors import Reject
from unipart.geometry._palette import srgb_to_linear
from unipart.geometry.formats.files import AssetFolder
from unipart.geometry.formats.polygons import triangulate
from unipart.geometry.formats.scene import Material, Piece, SceneBuilder, check_indices
from unipart.geometry.formats.textures import decode_texture

_LARGEST = int(np.iinfo(np.int64).max)

Corner = tuple[int, int, int]
"""0-based indices of position, texture coordinate and normal; -1 where absent."""


@dataclass
class _Statements:
    """The file's statements, sorted by kind."""

    positions: list[list[float]] = field(default_factory=list)
    colors: dict[int, list[float]] = field(default_factory=dict)
    texcoords: list[list[float]] = field(default_factory=list)
    normals: list[list[float]] = field(default_factory=list)
    polygons: dict[tuple[str, str, int], list[list[Corner]]] = field(default_factory=dict)
    """Polygons by (object, material, number of corners)."""
    libraries: list[str] = field(default_factory=list)


def read_obj(data: bytes, folder: AssetFolder, builder: SceneBuilder) -> None:
    """Reads an OBJ file into the builder. Texture coordinates are flipped to v = 0 at the top; vertex colours are taken as sRGB.

    Raises:
        Reject: ``parse_error`` or ``index_out_of_range``.
    """
    if b"\0" in data[:4096] or data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise Reject("parse_error", "the OBJ is not UTF-8 text (UTF-16 or binary data)")
    statements = _parse(data.decode("utf-8-sig", errors="replace"))
    positions = np.array(statements.positions, dtype=np.float64).reshape(-1, 3)
    texcoords = np.array(statements.texcoords, dtype=np.float64).reshape(-1, 2) * (1, -1) + (0, 1)
    normals = np.array(statements.normals, dtype=np.float64).reshape(-1, 3)
    colors = None
    if statements.colors:
        colors = np.ones((len(positions), 4))
        colors[list(statements.colors), :3] = srgb_to_linear(np.array(list(statements.colors.values())))
    materials = _Materials(statements.libraries, folder, builder)
    nodes: dict[str, int] = {}
    for (name, material, _), polygons in statements.polygons.items():
        corners = np.array(polygons, dtype=np.int64)
        check_indices(corners[..., 0].reshape(-1), len(positions))
        cut = triangulate(positions, corners[..., 0])
        corners = np.take_along_axis(corners[:, None], cut[..., None], axis=2).reshape(-1, 3, 3)
        faces = corners[..., 0]
        piece = Piece(
            vertices=positions,
            faces=faces,
            uv=_gather(texcoords, corners[..., 1]),
            color=None if colors is None else colors[faces],
            normal=_gather(normals, corners[..., 2]),
        )
        if name not in nodes:
            nodes[name] = builder.add_node(name)
        builder.add_piece(nodes[name], materials.get(material), piece)


def _parse(text: str) -> _Statements:
    found = _Statements()
    name, material, number = "object", "", 0
    lines = io.StringIO(re.sub(r"\\(?:\r\n?|\n)", " ", text), newline=None)  # lines may end as on any system
    try:
        for number, line in enumerate(lines, start=1):
            keyword, rest = [*line.split(maxsplit=1), "", ""][:2]  # blanks and tabs alike
            match keyword:
                case "v":
                    values = _numbers(rest)
                    if len(values) < 3:
                        raise ValueError("a vertex with fewer than three coordinates")
                    if len(values) >= 6:
                        found.colors[len(found.positions)] = values[3:6]
                    found.positions.append(values[:3])
                case "vt":
                    found.texcoords.append([*_numbers(rest, 2), 0.0, 0.0][:2])
                case "vn":
                    found.normals.append([*_numbers(rest, 3), 0.0, 0.0, 0.0][:3])
                case "f":
                    polygon = [_corner(word, found) for word in rest.split("#")[0].split()]
                    if len(polygon) >= 3:
                        found.polygons.setdefault((name, material, len(polygon)), []).append(polygon)
                case "o":
                    name = rest.strip() or f"object_{number}"
                case "usemtl":
                    material = rest.strip()
                case "mtllib":
                    found.libraries.append(rest.strip())
    except ValueError as error:
        if isinstance(error, Reject):
            raise
        raise Reject("parse_error", f"line {number}: {error}") from None
    return found


def _numbers(rest: str, most: int | None = None) -> list[float]:
    """Returns the numbers of a statement before a comment; names (``o``, ``usemtl``, ``mtllib``) may hold a ``#``."""
    return [float(word) for word in rest.partition("#")[0].split()[:most]]


def _corner(word: str, found: _Statements) -> Corner:
    """Reads ``v``, ``v/vt``, ``v//vn`` or ``v/vt/vn``; negative numbers count back from the last one read."""
    words = word.split("/")
    texture = _relative(words[1], len(found.texcoords)) if len(words) > 1 else -1
    normal = _relative(words[2], len(found.normals)) if len(words) > 2 else -1
    index = int(words[0])
    position = index - 1 if index > 0 else index + len(found.positions)
    if index == 0 or not 0 <= position <= _LARGEST:
        told = f"vertex index {words[0][:40]} where {len(found.positions)} vertices were read (counting starts at 1)"
        raise Reject("index_out_of_range", told)
    return position, texture, normal


def _relative(word: str, count: int) -> int:
    if not word:
        return -1
    index = int(word)
    place = index - 1 if index >= 0 else index + count
    return place if 0 <= place <= _LARGEST else -1


def _gather(values: NDArray[np.float64], indices: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Returns values[indices] with zeros where there is none (a bad texture coordinate is no reason to lose the shape)."""
    known = (indices >= 0) & (indices < len(values))
    if not known.any():
        return None
    return np.where(known[..., None], values[np.where(known, indices, 0)], 0.0)


class _Materials:
    """Materials of the MTL files, each added to the scene when it is first used."""

    def __init__(self, libraries: list[str], folder: AssetFolder, builder: SceneBuilder) -> None:
        self._folder, self._builder = folder, builder
        self._settings: dict[str, dict[str, list[str]]] = {}
        self._places: dict[str, PurePosixPath] = {}
        self._added: dict[str, int] = {}
        self._textures: dict[str, NDArray[np.uint8] | None] = {}
        for library in libraries:
            self._read_library(library)

    def get(self, name: str) -> int:
        if name not in self._added:
            settings = self._settings.get(name)
            material = Material(name=name or "default") if settings is None else self._material(name, settings)
            self._added[name] = self._builder.add_material(material)
        return self._added[name]

    def _read_library(self, name: str) -> None:
        data = self._open(name)
        if data is None:
            self._builder.warn(f"missing_material_file: {name[:80]} does not exist; default materials are used")
            return
        current: dict[str, list[str]] = {}
        for line in data.decode("utf-8-sig", errors="replace").splitlines():
            words = line.split()
            if words[:1] == ["newmtl"]:
                current = self._settings.setdefault(" ".join(words[1:]), {})
                self._places[" ".join(words[1:])] = PurePosixPath(name.replace("\\", "/")).parent
            elif words:
                current[words[0].lower()] = words[1:]

    def _open(self, name: str) -> bytes | None:
        try:
            return self._folder.read(name)
        except Reject as error:
            self._builder.warn(f"{error.reason}: {error.message}; the file was not read")
            return None

    def _material(self, name: str, settings: dict[str, list[str]]) -> Material:
        def numbers(key: str, default: list[float]) -> list[float]:
            try:
                values = [float(word) for word in settings.get(key, [])[: len(default)]] or default
            except ValueError:
                values = [np.nan]
            if np.isfinite(values).all():
                return values
            self._builder.warn(f"bad_material: {name}: {key} is not a number")
            return default

        texture = self._texture(self._places[name], settings["map_kd"]) if settings.get("map_kd") else None
        # Exporters write any diffuse colour beside a map, black included; the map is what is meant.
        red, green, blue = (1.0, 1.0, 1.0) if texture is not None else srgb_to_linear(_three(numbers("kd", [0.8, 0.8, 0.8])))
        alpha = min(max(numbers("d", [1.0 - numbers("tr", [0.0])[0]])[0], 0.0), 1.0)
        glow = srgb_to_linear(_three(numbers("ke", [0.0, 0.0, 0.0])))
        shininess = max(numbers("ns", [10.0])[0], 0.0)
        return Material(
            name=name,
            base_color=(float(red), float(green), float(blue), alpha),
            texture=texture,
            metallic=numbers("pm", [0.0])[0],
            roughness=numbers("pr", [float(np.sqrt(2 / (shininess + 2)))])[0],
            emissive=(float(glow[0]), float(glow[1]), float(glow[2])),
            alpha_mode="BLEND" if alpha < 1 else "OPAQUE",
        )

    def _texture(self, place: PurePosixPath, words: list[str]) -> NDArray[np.uint8] | None:
        name = words[-1] if words[0].startswith("-") else " ".join(words)
        reference = str(place / name.replace("\\", "/"))
        if reference not in self._textures:
            self._textures[reference] = decode_texture(self._open(reference), reference[:80], self._builder)
        return self._textures[reference]


def _three(values: list[float]) -> NDArray[np.float64]:
    return np.array((values * 3)[:3])
