"""Prompts for D_seg: simulated clicks in training (paper §3.1, after SAM 2) and evenly spread ones at inference (§3.2).

Every draw takes a torch Generator and is made on the generator's device.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from unipart.nn.fps import farthest_point_sampling

MIN_PROMPT_TOKENS = 2
"""A part of a single latent cannot be learnt as a group, so it is never prompted."""


@dataclass(frozen=True)
class Clicks:
    """First clicks with what they should answer.

    Attributes:
        index: latent clicked [B K].
        target: latents of the clicked part [B K L] bool.
        valid: false where an object offers nothing to click [B K] bool.
    """

    index: Tensor
    target: Tensor
    valid: Tensor


def first_clicks(token_labels: Int[Tensor, "B L"], num_prompts: int, generator: Generator) -> Clicks:
    """Draws positive clicks: half from a part chosen uniformly (small parts count), half from a latent chosen uniformly.

    Args:
        token_labels: part id per latent, -1 unknown.
        num_prompts: K per object.
        generator: source of the draws.
    """
    same = token_labels[:, :, None] == token_labels[:, None, :]
    part_size = same.sum(-1)
    clickable = (token_labels >= 0) & (part_size >= MIN_PROMPT_TOKENS)
    by_token = clickable.float()
    by_part = by_token / part_size
    by_part_count = (num_prompts + 1) // 2
    index = torch.cat(
        [draw_latents(by_part, by_part_count, generator), draw_latents(by_token, num_prompts - by_part_count, generator)], dim=1
    )
    target = token_labels.gather(1, index)[..., None] == token_labels[:, None, :]
    return Clicks(index, target, clickable.any(-1, keepdim=True).expand_as(index))


def correction_clicks(
    answer: Bool[Tensor, "B K L"], target: Bool[Tensor, "B K L"], generator: Generator, from_target: float = 0.1
) -> tuple[Int[Tensor, "B K"], Int[Tensor, "B K"]]:
    """Draws one more click per prompt where the answer is wrong.

    Args:
        answer: predicted masks.
        target: true masks, none empty.
        generator: source of the draws.
        from_target: probability of a click anywhere in the target instead, which keeps clicks from always meaning "wrong here".

    Returns:
        Latent clicked [B K] and its label: 1 inside the target, 0 outside. Where nothing is wrong the click is outside the
        target, or inside when the target is everything.
    """
    chance = torch.rand(answer.shape[:2], generator=generator, device=generator.device).to(answer.device)
    region = torch.where((chance < from_target)[..., None], target, answer ^ target)
    region = torch.where(region.any(-1, keepdim=True), region, ~target)
    region = torch.where(region.any(-1, keepdim=True), region, target)
    index = draw_latents(region.flatten(0, 1).float(), 1, generator).view(answer.shape[:2])
    return index, target.gather(-1, index[..., None])[..., 0].long()


def draw_latents(weights: Float[Tensor, "B L"], count: int, generator: Generator) -> Int[Tensor, "B K"]:
    """Draws latents with replacement in proportion to weights; uniformly where a row has no weight at all."""
    if count == 0:
        return torch.zeros(len(weights), 0, dtype=torch.long, device=weights.device)
    weights = torch.where(weights.sum(-1, keepdim=True) > 0, weights, 1.0)
    drawn = torch.multinomial(weights.to(generator.device), count, replacement=True, generator=generator)
    return drawn.to(weights.device)


def spread_prompts(anchors: Float[Tensor, "L 3"], count: int) -> Int[Tensor, " K"]:
    """Returns at most `count` latents spread evenly over the object by their anchors, from the outermost inwards.

    The first is the anchor farthest from the mean, so the choice does not depend on the order of the latents.
    """
    start = (anchors - anchors.mean(0)).square().sum(-1).argmax()
    return farthest_point_sampling(anchors[None], min(count, len(anchors)), start[None])[0]
