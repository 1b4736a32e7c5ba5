"""X_i in training: which latents of the whole belong to the part."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from unipart.models.seg_decoder import SegDecoder

FEW_LATENTS = 8
"""A part of fewer latents is learnt only where it is larger than `SMALLEST_PART` (model.md §5.2)."""
SMALLEST_PART = 1e-3
"""Share of the whole's area."""


def learnable_parts(token_labels: Int[Tensor, "B L"], part: Int[Tensor, " B"], area: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
    """Returns the parts, with -1 (the whole object as its own part) for those that X_i cannot tell from others.

    A part without a latent has an empty X_i, which generation never asks for.

    Args:
        token_labels: part of each latent of the whole.
        part: the parts drawn.
        area: their shares of the whole's area.
    """
    count = (token_labels == part[:, None]).sum(1)
    lost = (count == 0) | ((count < FEW_LATENTS) & (area <= SMALLEST_PART))
    return torch.where(lost, -1, part)


def part_masks(token_labels: Int[Tensor, "B L"], part: Int[Tensor, " B"]) -> Bool[Tensor, "B L"]:
    """Returns which latents belong to the part; all of them for part -1, the whole object."""
    return (token_labels == part[:, None]) | (part < 0)[:, None]


def jitter_masks(masks: Bool[Tensor, "B L"], anchors: Float[Tensor, "B L 3"], share: float, draw: Generator) -> Bool[Tensor, "B L"]:
    """Drops about `share` of each mask and adds as many of its nearest neighbours, as a predicted mask would.

    A mask never becomes empty by this.
    """
    if share == 0:
        return masks
    chance = torch.rand(2, *masks.shape, generator=draw, device=masks.device)
    kept = masks & (chance[0] >= share)
    kept = torch.where(kept.any(1, keepdim=True), kept, masks)
    near = torch.zeros_like(masks)
    for row, (mask, places) in enumerate(zip(masks, anchors, strict=True)):
        inside, outside = mask.nonzero()[:, 0], (~mask).nonzero()[:, 0]
        if len(inside) and len(outside):
            distance = torch.cdist(places[outside], places[inside]).amin(1)
            near[row, outside[distance.argsort()[: math.ceil(2 * share * len(inside))]]] = True
    return kept | (near & (chance[1] < 0.5))


@torch.no_grad()
def predicted_masks(
    segmenter: SegDecoder, z0: Float[Tensor, "B L d"], masks: Bool[Tensor, "B L"], share: float, draw: Generator
) -> Bool[Tensor, "B L"]:
    """Puts D_seg's answer to one click into each part in the place of about `share` of the masks, as generation has no others.

    A true mask stays where the answer is not of this part (IoU below a half), and where it is of all latents: the whole object as
    its own part.

    Args:
        segmenter: the frozen D_seg.
        z0: latents of the whole.
        masks: the latents of each part.
        share: how many masks are replaced.
        draw: of the clicks, and of which masks are replaced.
    """
    click = torch.multinomial((masks | ~masks.any(1, keepdim=True)).float(), 1, generator=draw)
    answer = segmenter(segmenter.trunk(z0), click[:, None], torch.ones_like(click)[:, None])
    best = 1 + answer.iou[:, 0, 1:].argmax(-1)  # the three answers to an ambiguous click, as in `unipart.segmentation`
    found = answer.logits[torch.arange(len(best), device=best.device), 0, best] > 0
    matches = 2 * (found & masks).sum(1) > (found | masks).sum(1)
    chosen = torch.rand(len(z0), generator=draw, device=z0.device) < share
    return torch.where((chosen & matches & ~masks.all(1))[:, None], found, masks)
