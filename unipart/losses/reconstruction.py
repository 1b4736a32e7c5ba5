"""L_recon: squared error of the implicit field at query points (paper Eq. 1)."""

from jaxtyping import Float
from torch import Tensor


def reconstruction_loss(
    predicted: Float[Tensor, "B Q"], target: Float[Tensor, "B Q"], weight: Float[Tensor, "B Q"] | None = None
) -> Float[Tensor, ""]:
    """Returns the mean squared error, in float32.

    Args:
        predicted: D_geom(Z, q).
        target: f(q), from `GeomSegVAE.field_target`.
        weight: importance of each query, for example by its kind; the mean is taken over the weights.
    """
    error = (predicted.float() - target.float()).square()
    return error.mean() if weight is None else (error * weight).sum() / weight.sum().clamp_min(1e-8)
