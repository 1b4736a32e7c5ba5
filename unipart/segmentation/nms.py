"""Which of many overlapping masks to keep: stability, greedy suppression, containment (paper §3.2, after SAM 2 and P3-SAM)."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Granularity = Literal["fine", "auto", "coarse"]


def mask_stability(logits: Float[Tensor, "*B L"], offset: float = 1.0) -> Float[Tensor, "*B"]:
    """Returns the IoU of a mask cut at +offset and at -offset: 1 when the cut does not matter, 0 for an empty mask."""
    return (logits > offset).sum(-1) / (logits > -offset).sum(-1).clamp_min(1)


def choose_masks(
    logits: Float[Tensor, "K M L"], iou: Float[Tensor, "K M"], granularity: Granularity, iou_min: float, min_tokens: int
) -> Int[Tensor, " K"]:
    """Chooses one of the M answers to each prompt.

    auto takes the best predicted IoU; fine the smallest and coarse the largest among the answers that are good enough
    (iou_min, min_tokens), and the best one when none is.
    """
    best = iou.argmax(-1)
    if granularity == "auto":
        return best
    size = (logits > 0).sum(-1).float()
    good = (iou >= iou_min) & (size >= min_tokens)
    wanted = -size if granularity == "fine" else size
    return torch.where(good.any(-1), wanted.masked_fill(~good, -torch.inf).argmax(-1), best)


def mask_iou(masks: Bool[Tensor, "K L"]) -> Float[Tensor, "K K"]:
    """Returns the IoU of each pair of masks, 0 where both are empty."""
    shared = masks.float() @ masks.float().T
    size = shared.diagonal()
    return shared / (size[:, None] + size[None] - shared).clamp_min(1)


def agreement(masks: Bool[Tensor, "K L"], prompts: Int[Tensor, " K"]) -> Float[Tensor, " K"]:
    """Returns how far the prompts inside each mask give that same mask: the mean IoU of their masks with it.

    A true part is found from any of its latents; a merger of two parts is not. Unlike the predicted IoU, which one answer gives
    itself, this is evidence from many. It is 1 where a mask holds none of the prompts.
    """
    inside = masks[:, prompts].float()
    return torch.where(inside.any(-1), (inside * mask_iou(masks)).sum(-1) / inside.sum(-1).clamp_min(1), 1.0)


def suppress(masks: Bool[Tensor, "K L"], scores: Float[Tensor, " K"], max_iou: float) -> Int[Tensor, " N"]:
    """Greedy non-maximum suppression: best score first (ties to the earlier mask), dropping what overlaps a kept mask more.

    Returns:
        Kept indices, best first.
    """
    too_close = (mask_iou(masks) > max_iou).cpu()
    kept: list[int] = []
    alive = torch.ones(len(masks), dtype=torch.bool)
    for index in torch.argsort(scores, descending=True, stable=True).tolist():
        if alive[index]:
            kept.append(index)
            alive &= ~too_close[index]
    return torch.tensor(kept, dtype=torch.long, device=masks.device)


def drop_contained(masks: Bool[Tensor, "K L"], max_covered: float) -> Int[Tensor, " N"]:
    """Goes through masks from the first and drops those of which kept masks already cover more than a fraction.

    Returns:
        Kept indices in the given order.
    """
    kept: list[int] = []
    host = masks.cpu()
    covered = torch.zeros(masks.shape[1], dtype=torch.bool)
    for index, mask in enumerate(host):
        if int((mask & covered).sum()) <= max_covered * int(mask.sum()):
            kept.append(index)
            covered |= mask
    return torch.tensor(kept, dtype=torch.long, device=masks.device)
