"""The conditional flow matching objective (Eq. 3)."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import mse_loss


def flow_loss(velocity: Float[Tensor, "B *L d"], target: Float[Tensor, "B *L d"]) -> Float[Tensor, ""]:
    """Returns the mean squared error of a predicted velocity, in float32.

    For a dual latent pass the stacked tensors [B S L d]: the result is the mean of the two spaces' errors.

    Args:
        velocity: what the model says at z_t.
        target: eps - z_0 (`unipart.sampling.path.true_velocity`).
    """
    return mse_loss(velocity.float(), target.float())
