"""The rectified-flow path in the paper's convention: t = 0 is data, t = 1 is noise (section 3.2).

Hunyuan3D-2.1 counts time the other way; its adapter converts and nothing else may.
"""

import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def interpolate(z0: Float[Tensor, "B *L d"], noise: Float[Tensor, "B *L d"], t: Float[Tensor, " B"]) -> Float[Tensor, "B *L d"]:
    """Returns z_t = (1 - t) z_0 + t eps."""
    t = _per_sample(t, z0)
    return (1 - t) * z0 + t * noise


def true_velocity(z0: Float[Tensor, "B *L d"], noise: Float[Tensor, "B *L d"]) -> Float[Tensor, "B *L d"]:
    """Returns dz_t/dt = eps - z_0, the same at every time."""
    return noise - z0


def data_from_velocity(
    z_t: Float[Tensor, "B *L d"], velocity: Float[Tensor, "B *L d"], t: Float[Tensor, " B"]
) -> Float[Tensor, "B *L d"]:
    """Returns the data z_0 = z_t - t v that a velocity at time t points at."""
    return z_t - _per_sample(t, z_t) * velocity


def assign_noise(noise: Float[Tensor, "*B L d"], z0: Float[Tensor, "*B L d"]) -> Float[Tensor, "*B L d"]:
    """Returns the noise of each latent set in the order that brings it nearest to the data (a linear assignment).

    A latent set has no order, and neither has its noise: the distributions at both ends of the path stay what they were. But which
    latent a noise vector becomes is then no coin toss, which near t = 1 is all that an ordinary pairing lets a small model learn
    (equivariant optimal transport flow matching: Klein et al. 2023, Song et al. 2023). It takes O(L^3) on the CPU: 0.2 ms a set of
    64, seconds for thousands.
    """
    sets = noise.shape[:-2].numel()
    flat, targets = noise.reshape(sets, *noise.shape[-2:]), z0.reshape(sets, *z0.shape[-2:])
    costs = torch.cdist(targets.float(), flat.float()).square().cpu().numpy()
    orders = [torch.from_numpy(linear_sum_assignment(cost)[1]) for cost in costs]
    index = torch.stack(orders).to(noise.device)[..., None].expand_as(flat)
    return flat.gather(1, index).reshape(noise.shape)


def _per_sample(t: Tensor, like: Tensor) -> Tensor:
    return t.to(like.dtype).view(-1, *(1,) * (like.ndim - 1))
