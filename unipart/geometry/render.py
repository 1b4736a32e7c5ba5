"""Condition views and figures of a textured, part-labelled mesh, without a display, a driver or a system library.

Rays find the surface (Embree, or a z-buffer where it is missing), NumPy shades it (`_shading`). An image is RGBA with straight
alpha; the same mesh, camera and size give the same bytes.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from unipart.config import Config
from unipart.geometry import _shading
from unipart.geometry._cameras import Camera, CameraConfig, bounding_radius, cameras, fitted_camera
from unipart.geometry._casting import MISS, Hits, make_caster
from unipart.geometry._crease import crease_normals
from unipart.geometry._occlusion import openness
from unipart.geometry._palette import linear_to_srgb, palette, srgb_to_linear
from unipart.geometry._sheets import contact_sheet, on_background
from unipart.geometry._textures import TextureStack
from unipart.geometry.load import Material, Scene
from unipart.geometry.mesh import Mesh

if TYPE_CHECKING:
    from unipart.geometry.components import PartedMesh

__all__ = [
    "Camera",
    "CameraConfig",
    "RenderConfig",
    "RenderMesh",
    "Rendered",
    "Renderer",
    "bounding_radius",
    "cameras",
    "contact_sheet",
    "fitted_camera",
    "from_mesh",
    "from_scene",
    "linear_to_srgb",
    "on_background",
    "palette",
    "render_figure",
    "srgb_to_linear",
]

MAX_PARTS = 255
"""Part maps are bytes, and 0 is the background."""

_MAX_LAYERS = 12
"""Translucent surfaces looked through before a ray is given up."""
_CHUNK = 1 << 15
"""Samples shaded at a time, so that the temporaries stay in the processor's cache."""
_SOLID_ALPHA = 0.1
"""A surface less opaque than this is not seen by the part and normal maps."""


class RenderConfig(Config):
    """The condition views of an object."""

    size: int = Field(default=518, ge=16, le=4096)
    """Width and height in pixels."""
    supersample: int = Field(default=2, ge=1, le=8)
    """Samples along a pixel's side; 2 means four samples a pixel."""
    cameras: CameraConfig = CameraConfig()
    """Where the views are taken from."""
    maps: bool = True
    """Also store part ids and normals per pixel."""
    backend: Literal["auto", "ray", "raster"] = "auto"
    """ray: Embree; raster: the z-buffer fallback; auto: ray where embreex is installed."""


@dataclass(frozen=True)
class RenderMesh:
    """What the renderer draws, in GCS.

    Attributes:
        vertices: [V 3] float32.
        faces: [F 3] int32; the winding does not matter, both sides are drawn.
        part_of_face: part id per face [F], below `MAX_PARTS`.
        material_of_face: index into materials [F].
        materials: their number is free.
        corner_uv: [F 3 2] float32, v down the image as in glTF.
        corner_color: [F 3 4] float32 linear RGBA factor.
        corner_normal: [F 3 3] float32; a face with a zero normal gets crease normals.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]
    part_of_face: NDArray[np.int32]
    material_of_face: NDArray[np.int32]
    materials: tuple[Material, ...]
    corner_uv: NDArray[np.float32]
    corner_color: NDArray[np.float32]
    corner_normal: NDArray[np.float32]


@dataclass(frozen=True)
class Rendered:
    """One view.

    Attributes:
        rgba: [H W 4] uint8 sRGB, straight alpha.
        part_ids: [H W] uint8: 0 background, part id + 1; from rays through the pixel centres, never averaged. None without maps.
        normals: [H W 3] uint8: the GCS normal on the viewer's side * 127.5 + 127.5; 128 without a surface. None without maps.
    """

    rgba: NDArray[np.uint8]
    part_ids: NDArray[np.uint8] | None
    normals: NDArray[np.uint8] | None


def from_scene(scene: Scene, parted: "PartedMesh") -> RenderMesh:
    """Returns the scene's faces that became parts, with their materials, in GCS."""
    kept = parted.source_face
    labels = parted.mesh.part_of_face
    assert labels is not None, "a PartedMesh has labels"
    return RenderMesh(
        parted.to_gcs.apply(scene.vertices).astype(np.float32),
        scene.faces[kept].astype(np.int32),
        labels.astype(np.int32),
        scene.material_of_face[kept].astype(np.int32),
        scene.materials,
        scene.corner_uv[kept],
        scene.corner_color[kept],
        scene.corner_normal[kept],
    )


def from_mesh(mesh: Mesh, part_colors: NDArray[Any] | None = None, smooth: bool = True) -> RenderMesh:
    """Returns a mesh in one matt material.

    Args:
        mesh: in GCS.
        part_colors: sRGB 0..1 per part [N 3]; by default the palette, or plain clay for an unlabelled mesh.
        smooth: crease normals; otherwise flat.
    """
    num_faces = len(mesh.faces)
    labels = np.zeros(num_faces, np.int32) if mesh.part_of_face is None else mesh.part_of_face.astype(np.int32)
    if part_colors is None:
        part_colors = np.array([[0.74, 0.75, 0.77]]) if mesh.part_of_face is None else palette(mesh.num_parts)
    color = np.ones((num_faces, 3, 4), np.float32)
    color[..., :3] = srgb_to_linear(np.asarray(part_colors)[:, :3])[labels][:, None]
    normal = np.zeros((num_faces, 3, 3), np.float32)
    if not smooth:
        normal[:] = mesh.face_normals()[:, None]
    matt = Material("part", (1.0, 1.0, 1.0, 1.0), None, 0.0, 0.65, (0.0, 0.0, 0.0), "OPAQUE", 0.5)
    return RenderMesh(
        mesh.vertices.astype(np.float32), mesh.faces.astype(np.int32), labels, np.zeros(num_faces, np.int32), (matt,),
        np.zeros((num_faces, 3, 2), np.float32), color, normal,
    )  # fmt: skip


class Renderer:
    """Draws one mesh from any number of cameras.

    Args:
        mesh: what to draw.
        backend: "ray", "raster" or "auto".

    Attributes:
        backend: the one in use.

    Raises:
        ValueError: more parts than a part map can hold.
    """

    def __init__(self, mesh: RenderMesh, backend: Literal["auto", "ray", "raster"] = "auto") -> None:
        if len(mesh.part_of_face) and int(mesh.part_of_face.max()) >= MAX_PARTS:
            raise ValueError(f"a part map holds at most {MAX_PARTS} parts")
        self._mesh = replace(mesh, corner_normal=_complete_normals(mesh))
        self._caster = make_caster(mesh.vertices, mesh.faces, backend)
        self.backend = self._caster.name
        materials = mesh.materials
        self._base = np.array([m.base_color for m in materials], np.float32).reshape(-1, 4)
        # files hold values outside 0..1 (a roughness of 2.67 in the wild), which would turn the formula black
        self._metallic = np.clip(np.array([m.metallic for m in materials], np.float32), 0, 1)
        self._roughness = np.clip(np.array([m.roughness for m in materials], np.float32), 0, 1)
        self._emissive = np.array([m.emissive for m in materials], np.float32).reshape(-1, 3)
        self._blend = np.array([m.alpha_mode == "BLEND" for m in materials])
        self._cutoff = np.array([m.alpha_cutoff if m.alpha_mode == "MASK" else -1.0 for m in materials], np.float32)
        self._textures = TextureStack([m.texture for m in materials])
        a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
        cross = np.cross(b - a, c - a)
        length = np.linalg.norm(cross, axis=1)
        self._face_normal = cross / np.maximum(length, 1e-20)[:, None]
        edge_u, edge_v = mesh.corner_uv[:, 1] - mesh.corner_uv[:, 0], mesh.corner_uv[:, 2] - mesh.corner_uv[:, 0]
        uv_area = np.abs(edge_u[:, 0] * edge_v[:, 1] - edge_u[:, 1] * edge_v[:, 0])
        self._texel_density = self._textures.texel_density(mesh.material_of_face, uv_area, length)

    def render(self, camera: Camera, size: int, supersample: int = 2, ambient_occlusion: int = 0, maps: bool = True) -> Rendered:
        """Draws one view.

        Args:
            camera: where from.
            size: width and height in pixels.
            supersample: samples along a pixel's side; they are averaged as linear premultiplied light.
            ambient_occlusion: rays a sample that look for nearby surfaces (0 off; figures use 6).
            maps: also part ids and normals.
        """
        fine = size * supersample
        directions = camera.directions(fine)
        sample_angle = 2 * math.tan(math.radians(camera.fov_y_degrees) / 2) / fine
        light = self._trace(camera, directions, np.float32(sample_angle), ambient_occlusion)
        light = light.reshape(size, supersample, size, supersample, 4).mean(axis=(1, 3), dtype=np.float32)
        alpha = light[..., 3:]
        rgba = np.zeros((size, size, 4), np.uint8)
        rgba[..., :3] = _shading.encode_srgb(light[..., :3] / np.maximum(alpha, 1e-6))
        rgba[..., 3] = np.round(alpha[..., 0] * 255)
        rgba[rgba[..., 3] == 0] = 0
        if not maps:
            return Rendered(rgba, None, None)
        part_ids, normals = self._maps(camera, directions if supersample == 1 else camera.directions(size))
        return Rendered(rgba, part_ids.reshape(size, size), normals.reshape(size, size, 3))

    def _trace(
        self, camera: Camera, directions: NDArray[np.float32], sample_angle: np.float32, occlusion_rays: int
    ) -> NDArray[np.float32]:
        """Returns premultiplied linear RGBA per ray [R 4], front to back through translucent surfaces."""
        light = np.zeros((len(directions), 4), np.float32)
        after = np.zeros(len(directions), np.float32)
        for _ in range(_MAX_LAYERS):
            hits = self._caster.first_hits(camera, directions, after)
            found = np.flatnonzero(hits.face != MISS)
            after = np.full(len(directions), np.inf, np.float32)
            for start in range(0, len(found), _CHUNK):
                rays = found[start : start + _CHUNK]
                color, alpha = self._shade(camera, directions[rays], _take(hits, rays), sample_angle, occlusion_rays)
                weight = alpha * (1 - light[rays, 3])
                light[rays, :3] += color * weight[:, None]
                light[rays, 3] += weight
                see_through = rays[light[rays, 3] < 0.995]
                after[see_through] = hits.distance[see_through]
            if not np.isfinite(after).any():
                break
        return np.minimum(light, 1, out=light)

    def _shade(
        self, camera: Camera, directions: NDArray[np.float32], hits: Hits, sample_angle: np.float32, occlusion_rays: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns linear RGB [R 3] and alpha [R]."""
        base, alpha = self._base_color(hits, sample_angle)
        geometric, normal = self._normals(hits, directions)
        material = self._mesh.material_of_face[hits.face]
        surface = _shading.Surface(base, self._metallic[material], self._roughness[material], self._emissive[material], normal)
        open_share = np.ones(len(directions), np.float32)
        if occlusion_rays:
            points = np.asarray(camera.eye, np.float32) + directions * hits.distance[:, None] + geometric * np.float32(4e-4)
            open_share = openness(self._caster, points, geometric, occlusion_rays)
        return _shading.shade(surface, -directions, open_share), alpha

    def _base_color(self, hits: Hits, sample_angle: np.float32) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns linear albedo [R 3] and alpha [R] after the material's alpha mode."""
        material = self._mesh.material_of_face[hits.face]
        rgba = self._base[material] * _interpolate(self._mesh.corner_color, hits)
        textured = np.flatnonzero(self._textures.has_texture[material])
        if len(textured):
            seen = _take(hits, textured)
            footprint = self._texel_density[seen.face] * seen.distance * sample_angle
            rgba[textured] *= self._textures.sample(material[textured], _interpolate(self._mesh.corner_uv, seen), footprint)
        cutoff = self._cutoff[material]
        alpha = np.where(
            self._blend[material], np.clip(rgba[:, 3], 0, 1), np.where(rgba[:, 3] >= cutoff, np.float32(1), np.float32(0))
        )
        return np.clip(rgba[:, :3], 0, 1), alpha.astype(np.float32)

    def _normals(self, hits: Hits, directions: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns the geometric and the shading normal [R 3], both turned to the viewer."""
        geometric = self._face_normal[hits.face]
        away = np.einsum("ij,ij->i", geometric, directions) > 0
        geometric = np.where(away[:, None], -geometric, geometric)
        normal = _interpolate(self._mesh.corner_normal, hits)
        normal /= np.maximum(np.sqrt(np.einsum("ij,ij->i", normal, normal)), 1e-12)[:, None]
        # the side is the face's to tell: near a silhouette an interpolated normal may already lean away
        behind = np.einsum("ij,ij->i", normal, geometric) < 0
        return geometric, np.where(behind[:, None], -normal, normal)

    def _maps(self, camera: Camera, directions: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Returns part ids [R] and encoded normals [R 3] of the first solid surface."""
        part_ids = np.zeros(len(directions), np.uint8)
        normals = np.full((len(directions), 3), 128, np.uint8)
        after = np.zeros(len(directions), np.float32)
        for _ in range(_MAX_LAYERS):
            hits = self._caster.first_hits(camera, directions, after)
            found = np.flatnonzero(hits.face != MISS)
            seen = _take(hits, found)
            solid = self._base_color(seen, np.float32(0))[1] >= _SOLID_ALPHA
            drawn = found[solid]
            part_ids[drawn] = self._mesh.part_of_face[hits.face[drawn]] + 1
            normal = self._normals(_take(seen, np.flatnonzero(solid)), directions[drawn])[1]
            normals[drawn] = np.round(np.clip(normal * 127.5 + 127.5, 0, 255))
            if solid.all():
                break
            after = np.full(len(directions), np.inf, np.float32)
            after[found[~solid]] = seen.distance[~solid]
        return part_ids, normals


def render_figure(
    mesh: Mesh, azimuth: float = 30.0, elevation: float = 20.0, size: int = 420, colors: NDArray[Any] | None = None,
    ambient_occlusion: int = 6, frame: NDArray[Any] | None = None,
) -> NDArray[np.uint8]:  # fmt: skip
    """Draws a labelled mesh for a report: part colours, contact shadows, filling the image; RGBA [size size 4].

    Args:
        mesh: in any units; an empty mesh gives a transparent image.
        azimuth: degrees from the front.
        elevation: degrees above the horizon.
        size: pixels.
        colors: sRGB per part [N 3]; by default the palette.
        ambient_occlusion: rays a sample; 0 is twice as fast.
        frame: points [P 3] to fit the camera to instead of the mesh, for figures side by side at one scale.
    """
    if len(mesh.faces) == 0:
        return np.zeros((size, size, 4), np.uint8)
    camera = fitted_camera(mesh.vertices if frame is None else frame, azimuth, elevation)
    return Renderer(from_mesh(mesh, colors)).render(camera, size, ambient_occlusion=ambient_occlusion, maps=False).rgba


def _complete_normals(mesh: RenderMesh) -> NDArray[np.float32]:
    """Fills the corner normals of faces that have none."""
    given = np.abs(mesh.corner_normal).sum(axis=2).min(axis=1) > 0 if len(mesh.faces) else np.zeros(0, np.bool_)
    if given.all():
        return mesh.corner_normal
    computed = crease_normals(mesh.vertices, mesh.faces, mesh.part_of_face)
    return np.where(given[:, None, None], mesh.corner_normal, computed)


def _take(hits: Hits, index: NDArray[np.integer]) -> Hits:
    return Hits(hits.face[index], hits.u[index], hits.v[index], hits.distance[index])


def _interpolate(corner_values: NDArray[Any], hits: Hits) -> NDArray[Any]:
    """Returns values of corners [F 3 K] at the hits [R K]."""
    at = corner_values[hits.face]
    u, v = hits.u[:, None], hits.v[:, None]
    return at[:, 0] * (1 - u - v) + at[:, 1] * u + at[:, 2] * v
