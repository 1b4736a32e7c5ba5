"""X_i: the latents of each part, gathered from Z and padded to its length (paper §3.3)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class PartLatents:
    """The latents of N parts.

    Attributes:
        latents: [N L d], the part's latents first, in the order of Z, then zeros.
        valid: [N L] bool, false on the padding.
    """

    latents: Tensor
    valid: Tensor


def gather_parts(z: Float[Tensor, "L d"], masks: Bool[Tensor, "N L"]) -> PartLatents:
    """Gathers the masked rows of one object's latents for every part."""
    first = torch.argsort(masks.logical_not().byte(), dim=-1, stable=True)
    valid = masks.gather(-1, first)
    return PartLatents(torch.where(valid[..., None], z[first], 0.0), valid)
