"""PLY, ASCII and binary of both byte orders: declared sizes are compared with the file before anything is allocated."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unipart.errors import Reject
from unipart.geometry._palette import srgb_to_linear
from unipart.geometry.formats.files import AssetFolder
from unipart.geometry.formats.polygons import triangulate
from unipart.geometry.formats.scene import Material, Piece, SceneBuilder, check_indices
from unipart.geometry.formats.textures import decode_texture

_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
_MAX_HEADER = 65536
_UTF8_MARK = b"\xef\xbb\xbf"

Column = NDArray[Any] | list[NDArray[Any]]
"""A property's values: [N], [N K] for lists of one length, else a list of arrays."""


@dataclass(frozen=True)
class _Property:
    name: str
    type: str
    count_type: str | None
    """Type of the length of a list property; None for a scalar."""


@dataclass(frozen=True)
class _Element:
    name: str
    count: int
    properties: tuple[_Property, ...]


@dataclass(frozen=True)
class _Header:
    order: str
    """``<`` or ``>`` for binary files, ``ascii`` else."""
    elements: tuple[_Element, ...]
    texture_file: str | None
    size: int


def read_ply(data: bytes, folder: AssetFolder, builder: SceneBuilder) -> None:
    """Reads a PLY file into the builder; colours are taken as sRGB.

    Raises:
        Reject: ``bad_magic``, ``parse_error``, ``declared_size_exceeds_file``, ``truncated_file``, ``index_out_of_range``.
    """
    data = data.removeprefix(_UTF8_MARK)
    header = _parse_header(data)
    is_ascii = header.order == "ascii"
    tables = _read_ascii(data[header.size :], header.elements) if is_ascii else _read_binary(data, header)
    vertex, face = tables.get("vertex", {}), tables.get("face", {})
    positions = _columns(vertex, ("x", "y", "z"))
    polygons = face.get("vertex_indices", face.get("vertex_index"))
    if positions is None or polygons is None:
        raise Reject("no_faces", "the file has no vertex positions or no face indices")
    uv = _columns(vertex, ("s", "t")) if "s" in vertex else _columns(vertex, ("u", "v"))
    normals = _columns(vertex, ("nx", "ny", "nz"))
    colors = _colors(vertex)
    texture = (
        decode_texture(_open(header.texture_file, folder, builder), header.texture_file, builder) if header.texture_file else None
    )
    material = builder.add_material(Material(texture=texture))
    node = builder.add_node("object")
    for rows, group in _by_size(polygons):
        check_indices(group.reshape(-1), len(positions))
        cut = triangulate(positions, group)
        faces = np.take_along_axis(group[:, None], cut, axis=2).reshape(-1, 3)
        wedge = _wedge_uv(face, rows, group.shape[1], cut)
        corner_uv = wedge if wedge is not None else (None if uv is None else uv[faces])
        color = _corner_colors(colors, face, faces, np.repeat(rows, cut.shape[1]))
        flip = None if corner_uv is None else corner_uv * (1, -1) + (0, 1)
        builder.add_piece(node, material, Piece(positions, faces, flip, color, None if normals is None else normals[faces]))


def _parse_header(data: bytes) -> _Header:
    if not data.startswith(b"ply"):
        raise Reject("bad_magic", f"a PLY starts with 'ply', this file with {data[:8]!r}")
    end = data.find(b"end_header", 0, _MAX_HEADER)
    newline = data.find(b"\n", end)
    if end < 0 or newline < 0:
        raise Reject("parse_error", "the header does not end")
    order, texture, elements = "", None, list[tuple[str, int, list[_Property]]]()
    try:
        for line in data[:end].decode("ascii", errors="replace").splitlines():
            match line.split():
                case ["format", name, _]:
                    order = {"ascii": "ascii", "binary_little_endian": "<", "binary_big_endian": ">"}[name]
                case ["element", name, count] if int(count) >= 0:
                    elements.append((name, int(count), []))
                case ["property", "list", count_type, kind, name]:
                    elements[-1][2].append(_Property(name, _TYPES[kind], _TYPES[count_type]))
                case ["property", kind, name]:
                    elements[-1][2].append(_Property(name, _TYPES[kind], None))
                case ["comment", "TextureFile", *words]:
                    texture = " ".join(words)
                case [] | ["ply" | "comment" | "obj_info", *_]:
                    pass
                case _:
                    raise Reject("parse_error", f"header line {line[:60]!r} is not understood")
    except (KeyError, IndexError, ValueError) as error:
        if isinstance(error, Reject):
            raise
        raise Reject("parse_error", f"the header does not parse: {error}") from None
    if not order:
        raise Reject("parse_error", "the header names no format")
    _check_names("the file", [name for name, _, _ in elements])
    for name, _, properties in elements:
        _check_names(f"element {name}", [p.name for p in properties])
    return _Header(order, tuple(_Element(name, count, tuple(p)) for name, count, p in elements), texture, newline + 1)


def _check_names(owner: str, names: list[str]) -> None:
    if len(set(names)) != len(names):
        raise Reject("parse_error", f"{owner} declares a name twice: {names}")


def _check_room(element: _Element, smallest: int, room: int) -> None:
    if element.count * smallest > room:
        message = f"{element.count} {element.name} elements need {element.count * smallest} bytes, the file has {max(room, 0)} left"
        raise Reject("declared_size_exceeds_file", message)


def _read_binary(data: bytes, header: _Header) -> dict[str, dict[str, Column]]:
    tables, position = {}, header.size
    for element in header.elements:
        sizes = [np.dtype(p.count_type or p.type).itemsize for p in element.properties]
        _check_room(element, sum(sizes), len(data) - position)
        tables[element.name], position = _read_element(data, position, element, header.order)
    return tables


def _read_element(data: bytes, position: int, element: _Element, order: str) -> tuple[dict[str, Column], int]:
    """Reads an element's rows; returns its columns and the position after them."""
    if element.count == 0 or not element.properties:
        return {p.name: np.zeros(0) for p in element.properties}, position
    lengths = _row_lengths(data, position, element, order)
    fields = []
    for p, length in zip(element.properties, lengths, strict=True):
        fields.extend([(f" {p.name}", order + p.count_type)] if p.count_type else [])  # no name holds a blank
        fields.append((p.name, order + p.type, (length,) if p.count_type else ()))
    row = np.dtype(fields)
    if position + row.itemsize * element.count <= len(data):
        rows = np.frombuffer(data, dtype=row, count=element.count, offset=position)
        if all((rows[f" {p.name}"] == n).all() for p, n in zip(element.properties, lengths, strict=True) if p.count_type):
            return {p.name: rows[p.name] for p in element.properties}, position + row.itemsize * element.count
    columns: dict[str, list[NDArray[Any]]] = {p.name: [] for p in element.properties}
    for _ in range(element.count):
        for p in element.properties:
            values, position = _read_property(data, position, p, order)
            columns[p.name].append(values)
    return {p.name: columns[p.name] if p.count_type else np.concatenate(columns[p.name]) for p in element.properties}, position


def _row_lengths(data: bytes, position: int, element: _Element, order: str) -> list[int]:
    lengths = []
    for p in element.properties:
        values, position = _read_property(data, position, p, order)
        lengths.append(len(values))
    return lengths


def _read_property(data: bytes, position: int, p: _Property, order: str) -> tuple[NDArray[Any], int]:
    length = 1
    if p.count_type:
        head, position = _read_values(data, position, order + p.count_type, 1)
        length = _length(head[0])
    return _read_values(data, position, order + p.type, length)


def _length(value: Any) -> int:
    """Returns the length of a list; the file may store it as any number."""
    if not float(value).is_integer():
        raise Reject("parse_error", f"a list has {value} values, which is no whole number")
    return int(value)


def _read_values(data: bytes, position: int, kind: str, count: int) -> tuple[NDArray[Any], int]:
    end = position + np.dtype(kind).itemsize * count
    if count < 0 or end > len(data):
        raise Reject("truncated_file", f"a list of {count} values does not fit into the file")
    return np.frombuffer(data, dtype=kind, count=count, offset=position), end


def _read_ascii(body: bytes, elements: tuple[_Element, ...]) -> dict[str, dict[str, Column]]:
    for element in elements:
        _check_room(element, 2 * len(element.properties) - 1, len(body) + 1)
    try:
        numbers = np.array(body.split(), dtype=np.float64)
    except ValueError as error:
        raise Reject("parse_error", f"the data holds something that is no number: {error}") from None
    tables: dict[str, dict[str, Column]] = {}
    position = 0
    for element in elements:
        columns: dict[str, Any] = {p.name: [] for p in element.properties}
        if all(p.count_type is None for p in element.properties):
            width = len(element.properties)
            table = numbers[position : position + element.count * width]
            if len(table) < element.count * width:
                raise Reject("truncated_file", f"the file ends inside the {element.name} elements")
            columns = {p.name: table.reshape(-1, width)[:, i] for i, p in enumerate(element.properties)} if width else {}
            position += element.count * width
        else:
            for _ in range(element.count):
                position = _read_ascii_row(numbers, position, element, columns)
        tables[element.name] = {p.name: columns[p.name] if p.count_type else np.array(columns[p.name]) for p in element.properties}
    return tables


def _read_ascii_row(numbers: NDArray[np.float64], position: int, element: _Element, columns: dict[str, list[Any]]) -> int:
    for p in element.properties:
        start = position + (p.count_type is not None)
        length = 1 if p.count_type is None else (_length(numbers[position]) if position < len(numbers) else 0)
        if length < 0 or start + length > len(numbers):
            raise Reject("truncated_file", f"the file ends inside the {element.name} elements")
        columns[p.name].append(numbers[start : start + length] if p.count_type else numbers[start])
        position = start + length
    return position


def _by_size(polygons: Column) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Returns (rows, polygons [P N]) for each number of corners N >= 3."""
    if isinstance(polygons, np.ndarray):
        return [(np.arange(len(polygons)), polygons.astype(np.int64))] if polygons.ndim == 2 and polygons.shape[1] >= 3 else []
    sizes = np.array([len(polygon) for polygon in polygons])
    groups = []
    for size in np.unique(sizes[sizes >= 3]):
        rows = np.flatnonzero(sizes == size)
        groups.append((rows, np.stack([polygons[row] for row in rows]).astype(np.int64)))
    return groups


def _columns(table: dict[str, Column], names: tuple[str, ...]) -> NDArray[np.float64] | None:
    if not all(_is_scalar(table.get(name)) for name in names):
        return None
    return np.stack([np.asarray(table[name], dtype=np.float64) for name in names], axis=1)


def _is_scalar(column: Column | None) -> bool:
    """Tells whether a property is there with one value per row; the lists of a property may be an array [N K]."""
    return isinstance(column, np.ndarray) and column.ndim == 1


def _colors(table: dict[str, Column]) -> NDArray[np.float64] | None:
    """Returns linear colours [N 4], or None."""
    found = _columns(table, ("red", "green", "blue"))
    if found is None or len(found) == 0:
        return None
    is_float = np.asarray(table["red"]).dtype.kind == "f" and found.max() <= 1
    alpha = _columns(table, ("alpha",))
    full = np.concatenate([found, np.full((len(found), 1), 1.0 if is_float else 255.0) if alpha is None else alpha], axis=1)
    full = full if is_float else full / 255
    return np.concatenate([srgb_to_linear(full[:, :3]), full[:, 3:]], axis=1)


def _corner_colors(
    colors: NDArray[np.float64] | None, face: dict[str, Column], faces: NDArray[np.int64], rows: NDArray[np.int64]
) -> NDArray[np.float64] | None:
    if colors is not None:
        return colors[faces]
    face_colors = _colors(face)
    return None if face_colors is None else np.repeat(face_colors[rows][:, None], 3, axis=1)


def _wedge_uv(face: dict[str, Column], rows: NDArray[np.int64], size: int, cut: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Returns MeshLab's per-corner ``texcoord`` lists [F 3 2], or None."""
    lists = face.get("texcoord")
    if lists is None or _is_scalar(lists) or any(len(lists[row]) != 2 * size for row in rows):
        return None
    corners = np.stack([lists[row] for row in rows]).astype(np.float64).reshape(len(rows), 1, size, 2)
    return np.take_along_axis(corners, cut[..., None], axis=2).reshape(-1, 3, 2)


def _open(name: str, folder: AssetFolder, builder: SceneBuilder) -> bytes | None:
    try:
        return folder.read(name)
    except Reject as error:
        builder.warn(f"{error.reason}: {error.message}; the file was not read")
        return None
