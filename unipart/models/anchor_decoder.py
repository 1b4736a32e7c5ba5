"""D_pos: recovers where each latent was seeded (paper §3.2). Trained on a finished Geom-Seg latent space, encoder frozen."""

from typing import Literal

from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor, nn

from unipart.config import Config
from unipart.nn.attention import check_heads
from unipart.nn.blocks import SelfBlock


class AnchorDecoderConfig(Config):
    """Sizes of the anchor decoder."""

    kind: Literal["mlp", "tf"] = "mlp"
    """mlp reads each latent alone; tf lets latents see one another, for when the mlp's error stays above 0.02."""
    latent_width: int = 64
    """d of the latents."""
    width: int = 256
    """Hidden channels."""
    num_layers: int = 2
    """Hidden layers (mlp) or self-attention blocks (tf)."""
    num_heads: int = 4
    """Attention heads of tf."""

    @model_validator(mode="after")
    def _check(self) -> "AnchorDecoderConfig":
        if self.kind == "tf":
            check_heads(self.width, self.num_heads)
        return self


class AnchorDecoder(nn.Module):
    """z [B L d] -> anchor positions [B L 3] in the object's frame."""

    def __init__(self, config: AnchorDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = nn.Linear(config.latent_width, config.width)
        layers = range(config.num_layers)
        if config.kind == "tf":
            self.layers = nn.Sequential(*(SelfBlock(config.width, config.num_heads) for _ in layers))
        else:
            self.layers = nn.Sequential(nn.GELU(), *(_hidden(config.width) for _ in layers[1:]))
        self.norm = nn.LayerNorm(config.width, eps=1e-6) if config.kind == "tf" else nn.Identity()
        self.head = nn.Linear(config.width, 3)

    def forward(self, z: Float[Tensor, "B L d"]) -> Float[Tensor, "B L 3"]:
        """Returns the anchor of each latent; z is unscaled, as the encoder sampled it."""
        return self.head(self.norm(self.layers(self.stem(z))))


def _hidden(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.GELU())
