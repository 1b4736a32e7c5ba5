"""From noise to data along a velocity field."""

from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from unipart.sampling.schedule import time_grid

VelocityFn = Callable[[Tensor, Tensor], Tensor]
"""(z_t [B ... d], t [B]) -> velocity [B ... d]."""


@torch.no_grad()
def euler(
    velocity: VelocityFn,
    noise: Float[Tensor, "B *L d"],
    steps: int,
    shift: float = 1.0,
    on_step: Callable[[int], None] | None = None,
) -> Float[Tensor, "B *L d"]:
    """Returns the data reached from noise in a number of Euler steps, t from 1 to 0.

    Every step moves: `steps` steps join steps + 1 times. (Hunyuan3D-2.1's last step has length zero.)

    Args:
        velocity: the model, with its conditions bound.
        noise: z at t = 1.
        steps: evaluations of the velocity.
        shift: spacing of the times, as in `time_grid`.
        on_step: told the number of steps done.
    """
    z = noise
    times = time_grid(steps, shift).tolist()
    for step, (now, after) in enumerate(pairwise(times)):
        t = torch.full((len(z),), now, device=z.device)
        z = z + (after - now) * velocity(z, t).to(z.dtype)
        if on_step is not None:
            on_step(step + 1)
    return z
