"""Fourier features of positions and the sinusoidal embedding of time."""

import math
from contextlib import nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear


class FourierEmbedding(nn.Module):
    """[x, sin(2^k x), cos(2^k x)], coordinate-major, the input kept: 3 -> 3 + 6 * num_freqs channels."""

    frequencies: Tensor

    def __init__(self, num_freqs: int = 8, include_pi: bool = False) -> None:
        super().__init__()
        frequencies = 2.0 ** torch.arange(num_freqs, dtype=torch.float32)
        self.register_buffer("frequencies", frequencies * math.pi if include_pi else frequencies, persistent=False)
        self.out_channels = 3 + 6 * num_freqs

    def forward(self, x: Float[Tensor, "*B 3"]) -> Float[Tensor, "*B E"]:
        """Returns the features in the dtype of x."""
        angles = (x[..., None] * self.frequencies.to(x.dtype)).flatten(-2)
        return torch.cat([x, angles.sin(), angles.cos()], dim=-1)


def time_sinusoid(t: Float[Tensor, " B"], width: int, max_period: float = 10_000.0) -> Float[Tensor, "B D"]:
    """Returns [sin | cos] of t at width/2 geometric frequencies from 1 to 1/max_period, float32."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device) / half
    angles = t.float()[:, None] * torch.exp(-math.log(max_period) * steps)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class TimeEmbedding(nn.Module):
    """Sinusoid, Linear, GELU, Linear: one time token [B D].

    In float32, whatever the type of weights and autocast: at scale 1 neighbouring times differ by less than bfloat16 resolves.

    Args:
        width: D.
        scale: factor on t before the sinusoid; 1 reproduces Hunyuan3D-2.1, larger values resolve t better from scratch.
        ratio: hidden width over D.
        reverse: embed 1 - t: what Hunyuan3D-2.1, whose time is 1 at the data, learnt to read.
    """

    def __init__(self, width: int, scale: float = 1.0, ratio: int = 4, reverse: bool = False) -> None:
        super().__init__()
        self.width = width
        self.scale = scale
        self.reverse = reverse
        self.fc1 = nn.Linear(width, ratio * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(ratio * width, width)

    def forward(self, t: Float[Tensor, " B"]) -> Float[Tensor, "B D"]:
        """Embeds times t [B] in [0, 1] as float32."""
        kind = t.device.type
        known = torch.amp.is_autocast_available(kind)  # not on the meta device
        with torch.autocast(kind, enabled=False) if known else nullcontext():
            sinusoid = time_sinusoid((1 - t if self.reverse else t) * self.scale, self.width)
            hidden = self.act(linear(sinusoid, self.fc1.weight.float(), self.fc1.bias.float()))
            return linear(hidden, self.fc2.weight.float(), self.fc2.bias.float())
