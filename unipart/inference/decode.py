"""From latents to a mesh: the field on a grid, evaluated only where the surface can be, then marching cubes.

The hierarchical scheme is Hunyuan3D-2.1's, with its placement bugs left out: grids have R cells and R + 1 nodes, the spacing is the
grid's own, and a mesh is never recentred, because its place in GCS is a result.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from pydantic import model_validator
from torch import Tensor
from torch.nn.functional import interpolate, max_pool3d

from unipart.config import Config
from unipart.geometry.extract import drop_small_components, extract_surface
from unipart.geometry.mesh import Mesh
from unipart.models.geom_seg_vae import GeomSegVAE, GeomSegVAEConfig

Field = Callable[[Tensor], Tensor]
"""Queries [1 Q 3] -> values [1 Q], positive inside."""
SATURATED = 0.95
"""A truncated field above this in size may be anywhere (Hunyuan3D-2.1's band)."""
COARSEST = (16, 63)
"""Cells along an axis of the first grid, at least and at most (Hunyuan3D-2.1's)."""


class DecodeConfig(Config):
    """How fine, and in what pieces."""

    resolution: int = 256
    """R: cells along each axis of the finest grid."""
    chunk: int = 32_768
    """Queries evaluated at once; bounds the memory."""
    hierarchical: bool = True
    """Refine only round the surface; off evaluates the whole grid."""
    box: float = 1.01
    """Half extent of the grid."""
    min_component: float = 0.0
    """Connected components below this share of the area are dropped."""

    @model_validator(mode="after")
    def _check(self) -> "DecodeConfig":
        if self.resolution < 2 or self.chunk < 1:
            raise ValueError("resolution must be at least 2, chunk at least 1")
        return self


def field_slope(vae: GeomSegVAEConfig) -> float:
    """Returns how fast a VAE's field grows with the distance from the surface: tells a decode what a small value means."""
    return {"tsdf": vae.tsdf_res, "occ": math.inf, "sdf": 1.0}[vae.field]


def near_band(slope: float, cell: float) -> float:
    """Returns the size of a field below which a node lies near the surface: two cells of a distance, all of a truncated field.

    Args:
        slope: from `field_slope`. What was learnt of a truncated field is steeper than the true one, so its slope says too little.
        cell: edge of the grid's cells, in the frame's units.
    """
    return SATURATED if slope > 1 else min(SATURATED, 2 * slope * cell)


def coarsest_grid(slope: float) -> int:
    """Returns the fewest cells along an axis on which the surface shows.

    A truncated field with a wide band shows on fewer cells, a signed distance on any; an occupancy only where signs differ.
    """
    least, most = COARSEST
    return round(min(most, max(least, 3 * slope)))


@torch.no_grad()
def decode_mesh(vae: GeomSegVAE, z: Float[Tensor, "L d"], config: DecodeConfig) -> Mesh | None:
    """Decodes one latent set, unscaled as the encoder sampled it.

    Returns:
        the mesh in the latents' frame, or None when the field has no surface.
    """
    field = vae.geometry(z[None])
    values = decode_field(field, field_slope(vae.config), config, z.device)
    mesh = extract_surface(values, config.box)
    if len(mesh.faces) == 0:
        return None
    return drop_small_components(mesh, config.min_component) if config.min_component > 0 else mesh


def decode_field(field: Field, slope: float, config: DecodeConfig, device: torch.device) -> NDArray[np.float32]:
    """Evaluates the finest grid [R+1 R+1 R+1] near the surface; away from it values are interpolated, the sign kept.

    Args:
        field: what to evaluate.
        slope: from `field_slope`.
        config: how fine.
        device: where the grid is.
    """
    if not config.hierarchical:
        return decode_dense(field, config, device)
    levels = _resolutions(config.resolution, coarsest_grid(slope))
    values = _evaluate_all(field, levels[0], config, device)
    known = torch.ones_like(values, dtype=torch.bool)
    for coarse, resolution in pairwise(levels):
        wanted = _refine_mask(_near_surface(values, near_band(slope, 2 * config.box / coarse)))
        finer = interpolate(values[None, None], size=[resolution + 1] * 3, mode="trilinear", align_corners=True)[0, 0]
        finer[::2, ::2, ::2] = values
        _evaluate_where(field, finer, wanted & ~_spread(known), config)
        values, known = finer, wanted | _spread(known)
    return values.cpu().numpy()


def decode_dense(field: Field, config: DecodeConfig, device: torch.device) -> NDArray[np.float32]:
    """Evaluates every node: the reference of the hierarchical decode."""
    return _evaluate_all(field, config.resolution, config, device).cpu().numpy()


def _resolutions(finest: int, coarsest: int) -> list[int]:
    """Returns the grids from coarse to fine: halves of the finest, of at least `coarsest` cells."""
    levels = [finest]
    while levels[0] % 2 == 0 and levels[0] // 2 >= coarsest:
        levels.insert(0, levels[0] // 2)
    return levels


def _evaluate_all(field: Field, resolution: int, config: DecodeConfig, device: torch.device) -> Float[Tensor, "X Y Z"]:
    values = torch.zeros([resolution + 1] * 3, device=device)
    _evaluate_where(field, values, torch.ones_like(values, dtype=torch.bool), config)
    return values


def _evaluate_where(field: Field, values: Float[Tensor, "X Y Z"], where: Bool[Tensor, "X Y Z"], config: DecodeConfig) -> None:
    """Writes the field into the chosen nodes of a grid, chunk by chunk."""
    flat = values.view(-1)
    spacing = 2 * config.box / (len(values) - 1)
    for index in where.flatten().nonzero()[:, 0].split(config.chunk):
        nodes = torch.stack(torch.unravel_index(index, values.shape), dim=-1)
        flat[index] = field((nodes * spacing - config.box)[None])[0].float()


def _near_surface(values: Float[Tensor, "X Y Z"], band: float) -> Bool[Tensor, "X Y Z"]:
    """Nodes inside the band, or whose sign differs from one of their six neighbours."""
    near = values.abs() < band
    inside = values > 0
    for axis in range(3):
        cells = inside.shape[axis] - 1
        crossing = inside.narrow(axis, 0, cells) != inside.narrow(axis, 1, cells)
        near.narrow(axis, 0, cells).logical_or_(crossing)
        near.narrow(axis, 1, cells).logical_or_(crossing)
    return near


def _refine_mask(near: Bool[Tensor, "X Y Z"]) -> Bool[Tensor, "X2 Y2 Z2"]:
    """Nodes of the next grid within one coarse cell of a dilated near node."""
    return _dilate(_spread(_dilate(near)))


def _spread(mask: Bool[Tensor, "X Y Z"]) -> Bool[Tensor, "X2 Y2 Z2"]:
    """The same nodes in the next grid."""
    fine = torch.zeros([2 * size - 1 for size in mask.shape], dtype=torch.bool, device=mask.device)
    fine[::2, ::2, ::2] = mask
    return fine


def _dilate(mask: Bool[Tensor, "X Y Z"]) -> Bool[Tensor, "X Y Z"]:
    grown = mask[None, None].float()
    for kernel in ((3, 1, 1), (1, 3, 1), (1, 1, 3)):
        grown = max_pool3d(grown, kernel, stride=1, padding=tuple(size // 2 for size in kernel))
    return grown[0, 0].bool()
