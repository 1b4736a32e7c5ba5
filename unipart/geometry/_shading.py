"""Light and matter: a small analytic environment and the metallic-roughness formula of glTF 2.0 (appendix B), in linear light.

The environment is a sky gradient, a key and a fill light, fixed in GCS. Its strength is chosen so that a white diffuse surface
stays below 1 whatever way it faces: there is no tone mapping, so an image shows the albedo it was given.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unipart.geometry._palette import linear_to_srgb

F32 = NDArray[Any]
"""float32; the type stubs lose the width in arithmetic."""

GROUND = np.array([0.265, 0.26, 0.255], np.float32)
SKY = np.array([0.52, 0.53, 0.545], np.float32)
"""Diffuse light from below and from above, for a normal pointing there; linear in between."""

LIGHTS = (
    (np.array([0.28, 0.72, 0.63], np.float32), np.float32(0.33)),
    (np.array([-0.75, 0.15, 0.45], np.float32), np.float32(0.10)),
)
"""(direction towards the light, diffuse strength at normal incidence): key, fill."""

MIN_ROUGHNESS = np.float32(0.12)
"""A sharper highlight is smaller than a pixel and would sparkle."""

_SRGB_STEPS = 16383
_LINEAR_TO_SRGB = np.round(255 * linear_to_srgb(np.linspace(0, 1, _SRGB_STEPS + 1))).astype(np.uint8)


@dataclass(frozen=True)
class Surface:
    """What R rays hit.

    Attributes:
        albedo: base colour, linear [R 3].
        metallic, roughness: [R].
        emissive: linear [R 3].
        normal: unit shading normal on the viewer's side [R 3].
    """

    albedo: F32
    metallic: F32
    roughness: F32
    emissive: F32
    normal: F32


def shade(surface: Surface, to_viewer: F32, openness: F32) -> F32:
    """Returns the light towards the viewer [R 3], linear.

    Args:
        surface: what is hit.
        to_viewer: unit direction [R 3].
        openness: 1 minus ambient occlusion [R]; dims the environment, and the two lights half as much.
    """
    normal, roughness = surface.normal, np.maximum(surface.roughness, MIN_ROUGHNESS)
    facing = np.clip(_dot(normal, to_viewer), 1e-3, 1)
    metallic = surface.metallic[:, None]
    diffuse = surface.albedo * (1 - metallic)
    at_normal = np.float32(0.04) * (1 - metallic) + surface.albedo * metallic

    mirrored = 2 * facing[:, None] * normal - to_viewer
    scale, bias = _environment_response(roughness, facing)
    light = diffuse * _diffuse_sky(normal[:, 1])
    light += (at_normal * scale[:, None] + bias[:, None]) * _mirrored_sky(mirrored[:, 1], roughness)
    light *= openness[:, None]
    shaded = ((1 + openness) / 2)[:, None]
    for direction, strength in LIGHTS:
        light += shaded * _direct(diffuse, at_normal, roughness, facing, normal, to_viewer, _unit(direction), strength)
    return light + surface.emissive


def encode_srgb(linear: F32) -> NDArray[np.uint8]:
    """Maps linear light 0..1 to sRGB bytes, by a table: no rounding that depends on the processor's power function."""
    index = np.clip(linear, 0, 1) * np.float32(_SRGB_STEPS) + np.float32(0.5)
    return _LINEAR_TO_SRGB[index.astype(np.int32)]


def _diffuse_sky(height: F32) -> F32:
    return GROUND + (SKY - GROUND) * ((height + 1) / 2)[:, None]


def _mirrored_sky(height: F32, roughness: F32) -> F32:
    """Sky seen in a mirror: a soft horizon that widens with the roughness."""
    width = np.float32(0.15) + np.float32(1.1) * roughness
    mix = np.clip(height / width / 2 + np.float32(0.5), 0, 1)
    mix = mix * mix * (3 - 2 * mix)
    return np.float32(0.55) * GROUND + (np.float32(1.45) * SKY - np.float32(0.55) * GROUND) * mix[:, None]


def _environment_response(roughness: F32, facing: F32) -> tuple[F32, F32]:
    """Returns scale and bias of the reflectance at normal incidence: Karis' fit of the split-sum table (2014)."""
    r0, r1 = 1 - roughness, np.float32(0.0425) - np.float32(0.0275) * roughness
    r2, r3 = np.float32(1.04) - np.float32(0.572) * roughness, np.float32(0.022) * roughness - np.float32(0.04)
    a = np.minimum(r0 * r0, np.exp2(np.float32(-9.28) * facing)) * r0 + r1
    return np.float32(-1.04) * a + r2, np.maximum(np.float32(1.04) * a + r3, 0)


def _direct(
    diffuse: F32, at_normal: F32, roughness: F32, facing: F32, normal: F32, to_viewer: F32, towards: F32, strength: np.float32
) -> F32:
    """Lambert plus GGX with Schlick's Fresnel and Smith's masking; pi is inside the strength."""
    incidence = np.clip(normal @ towards, 0, 1)
    half = to_viewer + towards
    half /= np.maximum(np.sqrt(_dot(half, half)), 1e-6)[:, None]
    cos_half = np.clip(_dot(normal, half), 0, 1)
    cos_view = np.clip(_dot(to_viewer, half), 0, 1)

    alpha2 = (roughness * roughness) ** 2
    lobe = alpha2 / np.maximum((cos_half * cos_half * (alpha2 - 1) + 1) ** 2, 1e-8)
    k = (roughness + 1) ** 2 / 8
    masking = 1 / (4 * (facing * (1 - k) + k) * (incidence * (1 - k) + k))
    fresnel = at_normal + (1 - at_normal) * ((1 - cos_view) ** 5)[:, None]
    return (diffuse + fresnel * (lobe * masking)[:, None]) * (strength * incidence)[:, None]


def _dot(a: F32, b: F32) -> F32:
    return np.einsum("ij,ij->i", a, b)


def _unit(vector: F32) -> F32:
    return vector / np.sqrt(vector @ vector)
