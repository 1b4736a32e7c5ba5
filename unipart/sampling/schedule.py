"""Which times are trained, and which a sampler visits."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

TimeSampling = Literal["uniform", "logit_normal"]


def sample_times(batch: int, generator: torch.Generator, kind: TimeSampling = "uniform", shift: float = 1.0) -> Float[Tensor, " B"]:
    """Draws training times in (0, 1), on the generator's device.

    Args:
        batch: B.
        generator: the source of randomness.
        kind: uniform, or the sigmoid of a standard normal, which favours the middle.
        shift: below 1 moves times towards noise, as long latent sets want: 1 for 512 latents, 0.125 for 4096 (Hunyuan3D's values).
    """
    if kind == "uniform":
        t = torch.rand(batch, generator=generator, device=generator.device)
    else:
        t = torch.randn(batch, generator=generator, device=generator.device).sigmoid()
    return shift_times(t, shift)


def shift_times(t: Float[Tensor, "*B"], shift: float) -> Float[Tensor, "*B"]:
    """Returns t / (r + (1 - r) t) with r = sqrt(shift); 0 and 1 stay where they are."""
    ratio = shift**0.5
    return t / (ratio + (1 - ratio) * t)


def time_grid(steps: int, shift: float = 1.0) -> Float[Tensor, " N"]:
    """Returns the steps + 1 times of a sampler, from 1 (noise) down to 0 (data)."""
    return shift_times(torch.linspace(1.0, 0.0, steps + 1), shift)
