"""The rectified-flow path in the paper's convention: t = 0 is data, t = 1 is noise (section 3.2).

Hunyuan3D-2.1 counts time the other way; its adapter converts and nothing else may.
"""

from jaxtyping import Float
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


def _per_sample(t: Tensor, like: Tensor) -> Tensor:
    return t.to(like.dtype).view(-1, *(1,) * (like.ndim - 1))
