"""The expensive half of an asset on disk: what the parts and remesh stages wrote, exactly, as one npz file.

It is keyed by the content of the asset and the digest of the stages up to the remesh, so a changed sampling or render parameter
finds it again.
"""

import json
from dataclasses import asdict
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipelines.stages.base import Row
from unipart.data.codec import pack_json, write_arrays
from unipart.geometry.components import PartedMesh, PartRecord
from unipart.geometry.mesh import Mesh, Similarity
from unipart.geometry.watertight import Remeshed

CACHED_COLUMNS = ("parted", "whole", "part_surfaces", "to_ncs")

Arrays = dict[str, NDArray[Any]]


def write_cache(row: Row, file: BinaryIO) -> None:
    """Writes the cached columns, an array at a time: an object of 50 parts has hundreds of megabytes of them."""
    parted: PartedMesh = row["parted"]
    surfaces: list[Remeshed] = [row["whole"], *row["part_surfaces"]]
    document = {
        "to_gcs": parted.to_gcs.to_dict(),
        "parts": [asdict(part) for part in parted.parts],
        "stats": parted.stats,
        "to_ncs": [similarity.to_dict() for similarity in row["to_ncs"]],
        "surface_stats": [surface.stats for surface in surfaces],
    }
    arrays: Arrays = {"document": np.frombuffer(pack_json(plain(document)), np.uint8)}
    arrays |= _pack_mesh("parted", parted.mesh)
    arrays |= {f"parted.{name}": getattr(parted, name) for name in ("component_of_face", "open_component", "source_face")}
    for number, surface in enumerate(surfaces):
        prefix = f"surface{number}"
        arrays |= _pack_mesh(prefix, surface.mesh)
        arrays[f"{prefix}.sharp_edges"] = surface.sharp_edges
    write_arrays(arrays, file)


def read_cache(file: BinaryIO) -> Row:
    """Reads what `write_cache` wrote."""
    with np.load(file, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    document = json.loads(arrays["document"].tobytes())
    parted = PartedMesh(
        mesh=_unpack_mesh("parted", arrays),
        component_of_face=arrays["parted.component_of_face"],
        open_component=arrays["parted.open_component"],
        source_face=arrays["parted.source_face"],
        to_gcs=Similarity.from_dict(document["to_gcs"]),
        parts=tuple(_part_record(part) for part in document["parts"]),
        stats=document["stats"],
    )
    surfaces = [
        Remeshed(
            _unpack_mesh(f"surface{number}", arrays),
            arrays[f"surface{number}.sharp_edges"],
            stats,
        )
        for number, stats in enumerate(document["surface_stats"])
    ]
    to_ncs = tuple(Similarity.from_dict(item) for item in document["to_ncs"])
    return {"parted": parted, "whole": surfaces[0], "part_surfaces": tuple(surfaces[1:]), "to_ncs": to_ncs}


def plain(value: Any) -> Any:
    """Returns a value as plain JSON types; NumPy scalars become numbers, and what is not finite becomes null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _part_record(data: dict[str, Any]) -> PartRecord:
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
    return PartRecord(**fields)


def _pack_mesh(prefix: str, mesh: Mesh) -> Arrays:
    assert mesh.part_of_face is not None
    return {f"{prefix}.vertices": mesh.vertices, f"{prefix}.faces": mesh.faces, f"{prefix}.part_of_face": mesh.part_of_face}


def _unpack_mesh(prefix: str, arrays: Arrays) -> Mesh:
    return Mesh(arrays[f"{prefix}.vertices"], arrays[f"{prefix}.faces"], arrays[f"{prefix}.part_of_face"])
