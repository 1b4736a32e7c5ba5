"""Classifier-free guidance: conditions dropped in training, two velocities mixed in sampling (section 4.1)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unipart.sampling.solver import VelocityFn


def guide(conditional: Float[Tensor, "B *L d"], unconditional: Float[Tensor, "B *L d"], weight: float) -> Float[Tensor, "B *L d"]:
    """Returns v_u + weight (v_c - v_u)."""
    return unconditional + weight * (conditional - unconditional)


def guided(conditional: VelocityFn, unconditional: VelocityFn, weight: float) -> VelocityFn:
    """Returns the guided velocity field; weight 1 never evaluates the unconditional one."""
    if weight == 1.0:
        return conditional
    return lambda z, t: guide(conditional(z, t), unconditional(z, t), weight)


def draw_dropped(batch: int, probability: float, generator: torch.Generator) -> Bool[Tensor, " B"]:
    """Draws which samples of a training batch lose all their conditions; True is dropped. On the generator's device."""
    return torch.rand(batch, generator=generator, device=generator.device) < probability
