"""A sample as named files and back: what lies inside a shard under one sample id.

=======================  ====================================================================================
member                   content
=======================  ====================================================================================
json                     `Sample.meta` and the cameras of the views
surface.npz              surface and sharp points of the whole
field.npz                queries, field values and query kinds of the whole
parts.npz                `PartSamples`: points, normals, queries and field values per part in GCS and NCS
mesh.npz                 the watertight mesh with part labels, and the mesh of each part in its NCS
view_00.png              condition render, RGBA
view_00.parts.png        part id + 1 per pixel (optional)
view_00.normals.png      GCS normals (optional)
=======================  ====================================================================================

The bytes depend on the values alone: zip members carry no time, JSON keys are sorted.
"""

import io
import json
import re
import zipfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unipart.data.schema import PartSamples, Sample, SurfaceSamples, View
from unipart.geometry.mesh import Mesh, Similarity

GROUPS = ("surface", "field", "parts", "mesh", "views", "view_maps")
"""What a reader can ask for; ``view_maps`` adds the part ids and normals of each view."""

_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_VIEW = re.compile(r"view_(\d+)\.png")


class Joined(NamedTuple):
    """An array in pieces along its first axis; written piece by piece, it never lies in memory as a whole.

    Attributes:
        pieces: arrays of the same shape but for the first axis.
        dtype: of the array.
        row: shape of one row.
    """

    pieces: Sequence[NDArray[Any]]
    dtype: type[np.generic]
    row: tuple[int, ...]


Arrays = Mapping[str, NDArray[Any] | Joined]
Writer = Callable[[BinaryIO], None]


def sample_members(sample: Sample) -> dict[str, Writer]:
    """Returns what writes each member of a sample to a file; groups that are None are left out."""
    members: dict[str, Writer] = {}
    members["json"] = partial(_write, pack_json({**sample.meta, "cameras": [view.camera for view in sample.views]}))
    if sample.surface is not None:
        sharp = {} if sample.sharp is None else _surface_arrays("sharp", sample.sharp)
        members["surface.npz"] = partial(write_arrays, _surface_arrays("surface", sample.surface) | sharp)
    if sample.queries is not None:
        assert sample.field is not None
        assert sample.query_kind is not None
        field = {"queries": sample.queries, "field": sample.field, "kind": sample.query_kind}
        members["field.npz"] = partial(write_arrays, field)
    if sample.parts is not None:
        members["parts.npz"] = partial(write_arrays, _part_arrays(sample.parts))
    if sample.mesh is not None:
        meshes = pack_meshes("whole", [sample.mesh]) | pack_meshes("parts", sample.part_meshes)
        members["mesh.npz"] = partial(write_arrays, meshes)
    for number, view in enumerate(sample.views):
        members[f"view_{number:02d}.png"] = partial(_write_png, view.rgba)
        if view.part_ids is not None:
            members[f"view_{number:02d}.parts.png"] = partial(_write_png, view.part_ids)
        if view.normals is not None:
            members[f"view_{number:02d}.normals.png"] = partial(_write_png, view.normals)
    return members


def encode_sample(sample: Sample) -> dict[str, bytes]:
    """Returns the members of a sample as bytes."""
    return {name: _to_bytes(write) for name, write in sample_members(sample).items()}


def decode_sample(
    sample_id: str, members: Mapping[str, bytes], groups: Collection[str] | None = None, views: Sequence[int] | None = None
) -> Sample:
    """Reads what `encode_sample` wrote.

    Args:
        sample_id: the asset id.
        members: at least the members that the groups need.
        groups: names out of GROUPS; None for all that are there.
        views: numbers of the views to decode, in this order; None for all.

    Raises:
        ValueError: a group was asked for by name and its member is missing.
    """
    document = json.loads(members["json"])
    cameras = document.pop("cameras", [])
    arrays = {}
    for name in ("surface", "field", "parts", "mesh"):
        member = f"{name}.npz"
        if groups is not None and name in groups and member not in members:
            raise ValueError(f"sample {sample_id} has no member '{member}'; it has {sorted(members)}")
        wanted = member in members and (groups is None or name in groups)
        arrays[name] = unpack_arrays(members[member]) if wanted else None
    surface, field, parts, mesh = (arrays[name] for name in ("surface", "field", "parts", "mesh"))
    return Sample(
        sample_id=sample_id,
        meta=document,
        surface=None if surface is None else _read_surface("surface", surface),
        sharp=None if surface is None or "sharp_points" not in surface else _read_surface("sharp", surface),
        queries=None if field is None else field["queries"],
        field=None if field is None else field["field"],
        query_kind=None if field is None else field["kind"],
        parts=None if parts is None else _read_parts(parts),
        mesh=None if mesh is None else unpack_meshes("whole", mesh)[0],
        part_meshes=() if mesh is None else unpack_meshes("parts", mesh),
        views=_read_views(members, cameras, groups, views),
    )


def wanted_members(names: Iterable[str], groups: Collection[str] | None, views: Sequence[int] | None) -> list[str]:
    """Returns those of the member names that `decode_sample` would use for these groups and views."""
    wanted = []
    for name in names:
        if name.startswith("view_"):
            number = int(name[5:].partition(".")[0])
            group = "views" if _VIEW.fullmatch(name) else "view_maps"
            chosen = groups is None or (group in groups and "views" in groups)
            keep = chosen and (views is None or number in views)
        else:
            keep = name == "json" or groups is None or name.partition(".")[0] in groups
        if keep:
            wanted.append(name)
    return wanted


def pack_json(value: Any) -> bytes:
    """Returns canonical JSON: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def write_arrays(arrays: Arrays, file: BinaryIO) -> None:
    """Writes an uncompressed npz file whose bytes depend on the arrays alone."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy", _ZIP_TIME), "w", force_zip64=True) as member:
                if not isinstance(array, Joined):
                    np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
                    continue
                shape = (sum(len(piece) for piece in array.pieces), *array.row)
                header = {"descr": np.lib.format.dtype_to_descr(np.dtype(array.dtype)), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
                for piece in array.pieces:
                    member.write(np.ascontiguousarray(piece, dtype=array.dtype).data)


def pack_arrays(arrays: Arrays) -> bytes:
    """Returns what `write_arrays` writes."""
    return _to_bytes(partial(write_arrays, arrays))


def unpack_arrays(data: bytes) -> dict[str, NDArray[Any]]:
    """Reads an npz file."""
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def pack_meshes(prefix: str, meshes: Sequence[Mesh]) -> dict[str, NDArray[Any] | Joined]:
    """Returns any number of meshes as flat arrays; face labels are stored when every mesh has them."""
    arrays: dict[str, NDArray[Any] | Joined] = {
        f"{prefix}_vertices": Joined([mesh.vertices for mesh in meshes], np.float32, (3,)),
        f"{prefix}_faces": Joined([mesh.faces for mesh in meshes], np.int32, (3,)),
        f"{prefix}_num_vertices": np.array([len(mesh.vertices) for mesh in meshes], np.int64),
        f"{prefix}_num_faces": np.array([len(mesh.faces) for mesh in meshes], np.int64),
    }
    labels = [mesh.part_of_face for mesh in meshes if mesh.part_of_face is not None]
    if meshes and len(labels) == len(meshes):
        arrays[f"{prefix}_part_of_face"] = Joined(labels, np.int16, ())
    return arrays


def unpack_meshes(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> tuple[Mesh, ...]:
    """Reads what `pack_meshes` wrote; vertices float32, faces int32, labels int16."""
    vertex_ends = np.cumsum(arrays[f"{prefix}_num_vertices"])[:-1]
    face_ends = np.cumsum(arrays[f"{prefix}_num_faces"])[:-1]
    count = len(arrays[f"{prefix}_num_faces"])
    if count == 0:
        return ()
    vertices = np.split(arrays[f"{prefix}_vertices"], vertex_ends)
    faces = np.split(arrays[f"{prefix}_faces"], face_ends)
    labels = arrays.get(f"{prefix}_part_of_face")
    per_mesh = [None] * count if labels is None else np.split(labels, face_ends)
    return tuple(Mesh(*mesh) for mesh in zip(vertices, faces, per_mesh, strict=True))


def _surface_arrays(prefix: str, surface: SurfaceSamples) -> dict[str, NDArray[Any]]:
    return {f"{prefix}_points": surface.points, f"{prefix}_normals": surface.normals, f"{prefix}_labels": surface.labels}


def _read_surface(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> SurfaceSamples:
    return SurfaceSamples(arrays[f"{prefix}_points"], arrays[f"{prefix}_normals"], arrays[f"{prefix}_labels"])


def _part_arrays(parts: PartSamples) -> dict[str, NDArray[Any]]:
    return {
        "to_ncs_scale": np.array([item.scale for item in parts.to_ncs], np.float64),
        "to_ncs_offset": np.array([item.offset for item in parts.to_ncs], np.float64),
        "points": parts.points,
        "normals": parts.normals,
        "gcs_queries": parts.gcs_queries,
        "gcs_field": parts.gcs_field,
        "ncs_queries": parts.ncs_queries,
        "ncs_field": parts.ncs_field,
    }


def _read_parts(arrays: dict[str, NDArray[Any]]) -> PartSamples:
    scales, offsets = arrays.pop("to_ncs_scale"), arrays.pop("to_ncs_offset")
    to_ncs = tuple(Similarity.of(scale, offset) for scale, offset in zip(scales, offsets, strict=True))
    return PartSamples(to_ncs=to_ncs, **arrays)


def _read_views(
    members: Mapping[str, bytes], cameras: list[dict[str, Any]], groups: Collection[str] | None, views: Sequence[int] | None
) -> tuple[View, ...]:
    if groups is not None and "views" not in groups:
        return ()
    maps = groups is None or "view_maps" in groups
    numbers = range(len(cameras)) if views is None else views
    decoded = []
    for number in numbers:
        name = f"view_{number:02d}"
        part_ids, normals = members.get(f"{name}.parts.png"), members.get(f"{name}.normals.png")
        decoded.append(
            View(
                rgba=_read_png(members[f"{name}.png"]),
                part_ids=_read_png(part_ids) if maps and part_ids is not None else None,
                normals=_read_png(normals) if maps and normals is not None else None,
                camera=cameras[number],
            )
        )
    return tuple(decoded)


def _write_png(pixels: NDArray[np.uint8], file: BinaryIO) -> None:
    from PIL import Image

    Image.fromarray(pixels).save(file, format="PNG", compress_level=1)


def _write(data: bytes, file: BinaryIO) -> None:
    file.write(data)


def _to_bytes(write: Writer) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def _read_png(data: bytes) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image).copy()
