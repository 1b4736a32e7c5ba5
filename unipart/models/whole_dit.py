"""The whole model (section 3.2): a diffusion transformer from image tokens to the latent set Z_0 of the whole object."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unipart.nn.blocks import EPS
from unipart.nn.dit_block import Conditions, DiTStack, StackConfig, drop_context
from unipart.nn.embeddings import TimeEmbedding


class WholeDiTConfig(StackConfig):
    """Sizes of the whole model; the defaults are the paper's (3,050,758,720 parameters)."""

    latent_width: int = 64
    """The paper's d, the width of a latent."""
    t_scale: float = 1.0
    """Factor on the time before its sinusoid: 1 for imported weights, about 1000 to train from scratch."""
    reversed_time: bool = False
    """Embed 1 - t: weights imported from Hunyuan3D-2.1 read a time that is 1 at the data. Callers always give the paper's t."""


class WholeDiT(nn.Module):
    """Predicts the velocity eps - z_0 at z_t = (1 - t) z_0 + t eps, given an image (Eq. 3).

    A latent set has no order, so there is no position embedding; time is one more token.
    """

    def __init__(self, config: WholeDiTConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(config.latent_width, config.hidden)
        self.time = TimeEmbedding(config.hidden, config.t_scale, reverse=config.reversed_time)
        self.stack = DiTStack(config)
        self.final_norm = nn.LayerNorm(config.hidden, eps=EPS)
        self.final = nn.Linear(config.hidden, config.latent_width)

    def conditions(self, context: Float[Tensor, "B T Dc"], drop: Bool[Tensor, " B"] | None = None) -> Conditions:
        """Returns the keys and values of image tokens, to be computed once for all sampling steps.

        Args:
            context: image tokens.
            drop: samples to be trained without their image (classifier-free guidance).
        """
        return Conditions(image=self.stack.image_keys_values(drop_context(context, drop)))

    def forward(
        self,
        z_t: Float[Tensor, "B L d"],
        t: Float[Tensor, " B"],
        context: Float[Tensor, "B T Dc"] | Conditions | None,
    ) -> Float[Tensor, "B L d"]:
        """Returns the velocity eps - z_0.

        Args:
            z_t: noisy latents, scaled by the VAE's z_scale.
            t: times; 0 is data, 1 is noise.
            context: image tokens, what `conditions` made of them, or None for the unconditional velocity.
        """
        conditions = self.conditions(context) if isinstance(context, Tensor) else context
        tokens = self.embed(z_t)
        x = torch.cat([self.time(t)[:, None].to(tokens), tokens], dim=1)
        x = self.stack(x, conditions, groups=(1,) * self.config.depth)
        return self.final(self.final_norm(x)[:, 1:])

    def balance_loss(self) -> Float[Tensor, ""]:
        """Returns the experts' balance loss of the last training forward, unweighted."""
        return self.stack.balance_loss()
