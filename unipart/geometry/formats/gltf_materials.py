"""glTF materials to `Material`: base colour with its texture, and the means of the other textures."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unipart.errors import Reject
from unipart.geometry.formats.files import AssetFolder
from unipart.geometry.formats.gltf_buffers import BufferReader
from unipart.geometry.formats.gltf_container import parse_model, pick
from unipart.geometry.formats.gltf_schema import (
    Document,
    EmissiveStrength,
    GltfMaterial,
    SpecularGlossiness,
    TextureInfo,
    TextureTransform,
)
from unipart.geometry.formats.scene import Material, SceneBuilder
from unipart.geometry.formats.textures import decode_texture, mean_linear


@dataclass(frozen=True)
class UsedMaterial:
    """A material as a primitive needs it.

    Attributes:
        index: in the scene's materials.
        uv_set: which TEXCOORD_n its base colour texture uses.
        uv_matrix: uv -> texture [2 3].
    """

    index: int
    uv_set: int = 0
    uv_matrix: NDArray[np.float64] | None = None


class MaterialReader:
    """Turns materials into the scene's, each once, and decodes each image once.

    Args:
        document: the parsed file.
        reader: for images inside buffers.
        folder: for images in side files.
        builder: receives materials and warnings.
    """

    def __init__(self, document: Document, reader: BufferReader, folder: AssetFolder, builder: SceneBuilder) -> None:
        self._document, self._reader, self._folder, self._builder = document, reader, folder, builder
        self._used: dict[int | None, UsedMaterial] = {}
        self._images: dict[int, NDArray[np.uint8] | None] = {}

    def get(self, index: int | None) -> UsedMaterial:
        """Returns the material with this number, or the default one.

        Raises:
            Reject: ``uri_escape`` when an image's reference leaves the asset's folder, ``invalid_gltf``.
        """
        if index not in self._used:
            self._used[index] = self._read(index)
        return self._used[index]

    def _read(self, index: int | None) -> UsedMaterial:
        if index is None:
            return UsedMaterial(self._builder.add_material(Material()))
        source = pick(self._document.materials, index, "material")
        factor, info, metallic, roughness = self._surface(source)
        strength = parse_model(
            EmissiveStrength, source.extensions.get("KHR_materials_emissive_strength", {}), "KHR_materials_emissive_strength"
        )
        emissive = np.array(source.emissive_factor) * strength.emissive_strength
        if source.emissive_texture is not None and emissive.any():
            texture = self._texture(source.emissive_texture)
            emissive = emissive * (mean_linear(texture, is_srgb=True) if texture is not None else 0.0)
        material = Material(
            name=source.name or f"material_{index}",
            base_color=factor,
            texture=self._texture(info) if info else None,
            metallic=metallic,
            roughness=roughness,
            emissive=(float(emissive[0]), float(emissive[1]), float(emissive[2])),
            alpha_mode=source.alpha_mode,
            alpha_cutoff=source.alpha_cutoff,
        )
        return UsedMaterial(self._builder.add_material(material), *_uv_mapping(info))

    def _surface(self, source: GltfMaterial) -> tuple[tuple[float, float, float, float], TextureInfo | None, float, float]:
        """Returns (base colour, its texture, metallic, roughness)."""
        glossy = source.extensions.get("KHR_materials_pbrSpecularGlossiness")
        if glossy is not None:
            other = parse_model(SpecularGlossiness, glossy, "KHR_materials_pbrSpecularGlossiness")
            return other.diffuse_factor, other.diffuse_texture, 0.0, 1.0 - other.glossiness_factor
        core = source.pbr_metallic_roughness
        metallic, roughness = core.metallic_factor, core.roughness_factor
        if core.metallic_roughness_texture is not None:
            texture = self._texture(core.metallic_roughness_texture)
            if texture is None:
                metallic = 0.0
            else:
                _, green, blue = mean_linear(texture, is_srgb=False)
                metallic, roughness = metallic * float(blue), roughness * float(green)
        return core.base_color_factor, core.base_color_texture, metallic, roughness

    def _texture(self, info: TextureInfo) -> NDArray[np.uint8] | None:
        texture = pick(self._document.textures, info.index, "texture")
        source = texture.source
        webp = texture.extensions.get("EXT_texture_webp")
        if isinstance(webp, dict) and isinstance(webp.get("source"), int):
            source = webp["source"]
        if source is None:
            self._builder.warn("missing_texture: a texture has no image that can be read; it was dropped")
            return None
        if source not in self._images:
            self._images[source] = self._image(source)
        return self._images[source]

    def _image(self, index: int) -> NDArray[np.uint8] | None:
        image = pick(self._document.images, index, "image")
        if image.uri is not None:
            name = "embedded image" if image.uri[:5].lower() == "data:" else image.uri[:80]
            return decode_texture(self._folder.read(image.uri), name, self._builder)
        if image.buffer_view is None:
            raise Reject("invalid_gltf", f"image {index} has neither a uri nor a buffer view")
        return decode_texture(self._reader.view(image.buffer_view), f"image {index}", self._builder)


def _uv_mapping(info: TextureInfo | None) -> tuple[int, NDArray[np.float64] | None]:
    """Returns the texture coordinate set and the matrix [2 3] of KHR_texture_transform (None for the identity)."""
    if info is None or "KHR_texture_transform" not in info.extensions:
        return (info.tex_coord if info else 0), None
    move = parse_model(TextureTransform, info.extensions["KHR_texture_transform"], "KHR_texture_transform")
    cos, sin = np.cos(move.rotation), np.sin(move.rotation)
    (sx, sy), (ox, oy) = move.scale, move.offset
    matrix = np.array([[cos * sx, sin * sy, ox], [-sin * sx, cos * sy, oy]])
    return (info.tex_coord if move.tex_coord is None else move.tex_coord), matrix
