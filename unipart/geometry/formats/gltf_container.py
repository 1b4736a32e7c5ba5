"""From the bytes of a .glb or .gltf file to a checked document and its binary chunk."""

import importlib.util
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from unipart.errors import Reject
from unipart.geometry.formats.gltf_schema import Document
from unipart.geometry.formats.scene import LoadLimits, SceneBuilder

_MAGIC = b"glTF"
_VERSIONS = ("1.0", "1.1", "2.0")
_CHUNK_JSON, _CHUNK_BIN = 0x4E4F534A, 0x004E4942
_DRACO = "KHR_draco_mesh_compression"
_UNDERSTOOD = {
    _DRACO,
    "EXT_mesh_gpu_instancing",
    "EXT_texture_webp",
    "KHR_lights_punctual",
    "KHR_materials_anisotropy",
    "KHR_materials_clearcoat",
    "KHR_materials_dispersion",
    "KHR_materials_emissive_strength",
    "KHR_materials_ior",
    "KHR_materials_iridescence",
    "KHR_materials_pbrSpecularGlossiness",
    "KHR_materials_sheen",
    "KHR_materials_specular",
    "KHR_materials_transmission",
    "KHR_materials_unlit",
    "KHR_materials_variants",
    "KHR_materials_volume",
    "KHR_mesh_quantization",
    "KHR_texture_transform",
    "KHR_xmp_json_ld",
}
"""Extensions that a file may require: read, or harmless to the geometry and the base colour."""

ModelT = TypeVar("ModelT", bound=BaseModel)
ItemT = TypeVar("ItemT")


@dataclass(frozen=True)
class Container:
    """A parsed file.

    Attributes:
        document: the checked JSON.
        binary: the binary chunk of a GLB, or None.
    """

    document: Document
    binary: bytes | None


def open_container(data: bytes, suffix: str, builder: SceneBuilder) -> Container:
    """Reads the container and checks what can be checked without touching a buffer.

    Raises:
        Reject: ``bad_magic``, ``truncated_file``, ``unsupported_version``, ``bad_json``, ``invalid_gltf``,
            ``unsupported_extension``, ``declared_size_exceeds_limit``.
    """
    if data.startswith(_MAGIC) or (len(data) < 4 and suffix == ".glb"):
        text, binary = _split_glb(data, builder)
    elif suffix == ".glb":
        raise Reject("bad_magic", f"a GLB starts with 'glTF', this file with {data[:8]!r}")
    else:
        text, binary = data, None
    document = _parse_document(text)
    _check_extensions(document.extensions_required)
    _check_sizes(document, builder.limits)
    return Container(document, binary)


def parse_model(model: type[ModelT], value: Any, where: str) -> ModelT:
    """Validates a piece of the JSON.

    Raises:
        Reject: ``invalid_gltf``, naming the field.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(step) for step in (where, *first["loc"]))
        raise Reject("invalid_gltf", f"{path}: {first['msg']}") from None


def pick(items: Sequence[ItemT], index: int, what: str, reason: str = "invalid_gltf") -> ItemT:
    """Returns items[index].

    Raises:
        Reject: with the given reason when there is no such item.
    """
    if not 0 <= index < len(items):
        raise Reject(reason, f"{what} {index} does not exist (there are {len(items)})")
    return items[index]


def _split_glb(data: bytes, builder: SceneBuilder) -> tuple[bytes, bytes | None]:
    if len(data) < 12:
        raise Reject("truncated_file", f"{len(data)} bytes are less than a GLB header")
    version, length = struct.unpack_from("<II", data, 4)
    if version != 2:
        raise Reject("unsupported_version", f"binary glTF version {version}; only 2 is read")
    if length > len(data):
        raise Reject("truncated_file", f"the header says {length} bytes, the file has {len(data)}")
    if length < len(data):
        builder.warn(f"trailing_bytes: {len(data) - length} bytes after the end of the GLB were ignored")
    chunks: dict[int, bytes] = {}
    position = 12
    while position + 8 <= length:
        size, kind = struct.unpack_from("<II", data, position)
        position += 8
        if position + size > length:
            raise Reject("truncated_file", f"a chunk of {size} bytes does not fit into the file")
        if not chunks and kind != _CHUNK_JSON:
            raise Reject("bad_json", "the first chunk is not JSON")
        chunks.setdefault(kind, data[position : position + size])
        position += size
    if _CHUNK_JSON not in chunks:
        raise Reject("truncated_file", "the file ends before the JSON chunk")
    return chunks[_CHUNK_JSON], chunks.get(_CHUNK_BIN)


def _parse_document(text: bytes) -> Document:
    try:
        value = json.loads(text.decode("utf-8-sig").rstrip("\0"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Reject("bad_json", f"the JSON does not parse: {str(error)[:120]}") from None
    if not isinstance(value, dict):
        raise Reject("bad_json", "the JSON is not an object")
    asset = value.get("asset")
    asset = asset if isinstance(asset, dict) else {}
    version = asset.get("version")
    if not isinstance(version, str) or version.split(".")[0] != "2":
        raise Reject("unsupported_version", f"glTF version {version!r}; only 2 is read")
    needed = asset.get("minVersion", "2.0")
    if needed not in _VERSIONS:
        raise Reject("unsupported_version", f"the file needs a reader of glTF {needed!r}; this one reads 2.0")
    return parse_model(Document, value, "glTF")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _check_extensions(required: list[str]) -> None:
    unknown = sorted(set(required) - _UNDERSTOOD)
    if unknown:
        raise Reject("unsupported_extension", f"the file requires {', '.join(unknown)}")
    if _DRACO in required and importlib.util.find_spec("DracoPy") is None:
        raise Reject("unsupported_extension", "the file requires Draco decoding: install the package dracopy")


def _check_sizes(document: Document, limits: LoadLimits) -> None:
    if len(document.nodes) > limits.max_nodes:
        raise Reject("declared_size_exceeds_limit", f"{len(document.nodes)} nodes, the limit is {limits.max_nodes}")
    for index, accessor in enumerate(document.accessors):
        if accessor.count > limits.max_elements:
            message = f"accessor {index} declares {accessor.count} elements, the limit is {limits.max_elements}"
            raise Reject("declared_size_exceeds_limit", message)
