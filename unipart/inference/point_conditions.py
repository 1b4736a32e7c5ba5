"""Conditions in point form (the paper's ablation): features of surface points of the generated whole, in place of its latents."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from unipart.geometry.mesh import Mesh
from unipart.geometry.surface import sample_surface
from unipart.models.geom_seg_vae import GeomSegVAE


def point_conditions(
    vae: GeomSegVAE, mesh: Mesh, anchors: Float[Tensor, "L 3"], masks: Bool[Tensor, "N L"], rng: np.random.Generator
) -> Float[Tensor, "N1 L D"]:
    """Returns the frozen encoder's features [1 + N, L, D] of the whole's surface, then of each part's share of it.

    Args:
        vae: whose encoder made the features in training.
        mesh: the decoded whole.
        anchors: positions of the latents.
        masks: which latents are whose; a surface point belongs where its nearest anchor does. A part without points gets all.
        rng: draws the points.
    """
    count, device = vae.config.num_points, anchors.device
    draw = sample_surface(mesh, count, rng)
    points, normals = (torch.from_numpy(values).to(device) for values in (draw.points, draw.normals))
    nearest = torch.cdist(points, anchors.float()).argmin(dim=1)
    shares = [mask[nearest].nonzero()[:, 0] for mask in masks]
    drawn = [torch.from_numpy(rng.integers(max(len(share), 1), size=count)).to(device) for share in shares]
    rows = [share[index] if len(share) else slice(None) for share, index in zip(shares, drawn, strict=True)]
    start = Generator().manual_seed(int(rng.integers(2**62)))
    features = [vae.point_features(points[None, row], normals[None, row], start).float() for row in (slice(None), *rows)]
    return torch.cat(features)
