"""L_kl: divergence of the posterior from the unit Gaussian (paper Eq. 1)."""

from jaxtyping import Float
from torch import Tensor


def kl_loss(mean: Float[Tensor, "B L d"], logvar: Float[Tensor, "B L d"]) -> Float[Tensor, ""]:
    """Returns the mean over all latent channels, so that its weight does not depend on L and d."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
