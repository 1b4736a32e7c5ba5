"""The part of the glTF 2.0 JSON that is read, as types: a value of the wrong kind is refused before it is used."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt
from pydantic.alias_generators import to_camel

Numbers3 = tuple[float, float, float]
Numbers4 = tuple[float, float, float, float]


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", allow_inf_nan=False, frozen=True)


class SparseIndices(_Model):
    """Where the replaced elements are."""

    buffer_view: NonNegativeInt
    byte_offset: NonNegativeInt = 0
    component_type: Literal[5121, 5123, 5125]


class SparseValues(_Model):
    """What the replaced elements are."""

    buffer_view: NonNegativeInt
    byte_offset: NonNegativeInt = 0


class Sparse(_Model):
    """Elements of an accessor that differ from its base."""

    count: NonNegativeInt
    indices: SparseIndices
    values: SparseValues


class Accessor(_Model):
    """A typed view of a buffer view."""

    buffer_view: NonNegativeInt | None = None
    byte_offset: NonNegativeInt = 0
    component_type: Literal[5120, 5121, 5122, 5123, 5125, 5126]
    normalized: bool = False
    count: NonNegativeInt
    type: Literal["SCALAR", "VEC2", "VEC3", "VEC4", "MAT2", "MAT3", "MAT4"]
    sparse: Sparse | None = None


class BufferView(_Model):
    """A range of a buffer."""

    buffer: NonNegativeInt
    byte_offset: NonNegativeInt = 0
    byte_length: NonNegativeInt
    byte_stride: int | None = Field(default=None, ge=0, le=252)
    """The format asks for 4 or more; smaller ones occur (0: none) and do no harm."""


class Buffer(_Model):
    """Bytes: a side file, a data URI, or the binary chunk of a GLB."""

    uri: str | None = None
    byte_length: NonNegativeInt


class Image(_Model):
    """A picture: a side file, a data URI, or a buffer view."""

    uri: str | None = None
    buffer_view: NonNegativeInt | None = None


class Texture(_Model):
    """An image with a sampler (ignored: every texture repeats)."""

    source: NonNegativeInt | None = None
    extensions: dict[str, Any] = Field(default_factory=dict)


class TextureTransform(_Model):
    """KHR_texture_transform."""

    offset: tuple[float, float] = (0.0, 0.0)
    rotation: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    tex_coord: NonNegativeInt | None = None


class TextureInfo(_Model):
    """A material's use of a texture."""

    index: NonNegativeInt
    tex_coord: NonNegativeInt = 0
    extensions: dict[str, Any] = Field(default_factory=dict)


class MetallicRoughness(_Model):
    """The core material model."""

    base_color_factor: Numbers4 = (1.0, 1.0, 1.0, 1.0)
    base_color_texture: TextureInfo | None = None
    metallic_factor: float = 1.0
    roughness_factor: float = 1.0
    metallic_roughness_texture: TextureInfo | None = None


class SpecularGlossiness(_Model):
    """KHR_materials_pbrSpecularGlossiness."""

    diffuse_factor: Numbers4 = (1.0, 1.0, 1.0, 1.0)
    diffuse_texture: TextureInfo | None = None
    glossiness_factor: float = 1.0


class EmissiveStrength(_Model):
    """KHR_materials_emissive_strength."""

    emissive_strength: float = 1.0


class GltfMaterial(_Model):
    """How a primitive looks."""

    name: str | None = None
    pbr_metallic_roughness: MetallicRoughness = MetallicRoughness()
    emissive_factor: Numbers3 = (0.0, 0.0, 0.0)
    emissive_texture: TextureInfo | None = None
    alpha_mode: Literal["OPAQUE", "MASK", "BLEND"] = "OPAQUE"
    alpha_cutoff: float = 0.5
    extensions: dict[str, Any] = Field(default_factory=dict)


class DracoPrimitive(_Model):
    """KHR_draco_mesh_compression: a compressed buffer view and the ids of the attributes inside it."""

    buffer_view: NonNegativeInt
    attributes: dict[str, int]


class Primitive(_Model):
    """Geometry with one material."""

    attributes: dict[str, NonNegativeInt]
    indices: NonNegativeInt | None = None
    material: NonNegativeInt | None = None
    mode: int = Field(default=4, ge=0, le=6)
    extensions: dict[str, Any] = Field(default_factory=dict)


class GltfMesh(_Model):
    """The primitives that a node shows (morph targets are ignored: the base shape counts)."""

    name: str | None = None
    primitives: list[Primitive] = Field(default_factory=list)


class Skin(_Model):
    """Joints of a skinned mesh."""

    inverse_bind_matrices: NonNegativeInt | None = None
    joints: list[NonNegativeInt]


class Instancing(_Model):
    """EXT_mesh_gpu_instancing: one translation, rotation and scale per instance."""

    attributes: dict[str, NonNegativeInt]


class Node(_Model):
    """A place in the scene."""

    name: str | None = None
    children: list[NonNegativeInt] = Field(default_factory=list)
    mesh: NonNegativeInt | None = None
    skin: NonNegativeInt | None = None
    matrix: tuple[float, ...] | None = Field(default=None, min_length=16, max_length=16)
    translation: Numbers3 = (0.0, 0.0, 0.0)
    rotation: Numbers4 = (0.0, 0.0, 0.0, 1.0)
    scale: Numbers3 = (1.0, 1.0, 1.0)
    extensions: dict[str, Any] = Field(default_factory=dict)


class GltfScene(_Model):
    """Root nodes."""

    nodes: list[NonNegativeInt] = Field(default_factory=list)


class Document(_Model):
    """A glTF file."""

    extensions_required: list[str] = Field(default_factory=list)
    accessors: list[Accessor] = Field(default_factory=list)
    buffer_views: list[BufferView] = Field(default_factory=list)
    buffers: list[Buffer] = Field(default_factory=list)
    images: list[Image] = Field(default_factory=list)
    textures: list[Texture] = Field(default_factory=list)
    materials: list[GltfMaterial] = Field(default_factory=list)
    meshes: list[GltfMesh] = Field(default_factory=list)
    skins: list[Skin] = Field(default_factory=list)
    nodes: list[Node] = Field(default_factory=list)
    scenes: list[GltfScene] = Field(default_factory=list)
    scene: NonNegativeInt | None = None
