"""L_seg: the losses of promptable masks (paper Eq. 2, after SAM 2): 20 focal + 1 dice on the best mask, 1 IoU regression on all."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

FOCAL_WEIGHT = 20.0
DICE_WEIGHT = 1.0
IOU_WEIGHT = 1.0
FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2.0


@dataclass(frozen=True)
class PromptableLoss:
    """Means over the valid prompts.

    Attributes:
        total: 20 focal + dice + iou_error, to be minimised.
        focal, dice: of the best mask of each prompt.
        iou_error: absolute error of the predicted IoU, over all masks.
        iou: true IoU of the best mask with the target; a figure to watch, without gradient.
    """

    total: Tensor
    focal: Tensor
    dice: Tensor
    iou_error: Tensor
    iou: Tensor


def focal_loss(logits: Float[Tensor, "*B L"], target: Float[Tensor, "*B L"]) -> Float[Tensor, "*B"]:
    """Returns the focal loss (alpha 0.25, gamma 2) of each mask, the mean over its L latents."""
    cross_entropy = binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability = logits.sigmoid()
    right = probability * target + (1 - probability) * (1 - target)
    balance = FOCAL_ALPHA * target + (1 - FOCAL_ALPHA) * (1 - target)
    return (balance * (1 - right) ** FOCAL_GAMMA * cross_entropy).mean(-1)


def dice_loss(logits: Float[Tensor, "*B L"], target: Float[Tensor, "*B L"]) -> Float[Tensor, "*B"]:
    """Returns 1 - (2I + 1) / (S + 1) of each mask, I the soft intersection and S the sum of both sizes."""
    probability = logits.sigmoid()
    intersection = (probability * target).sum(-1)
    return 1 - (2 * intersection + 1) / (probability.sum(-1) + target.sum(-1) + 1)


@torch.no_grad()
def true_iou(logits: Float[Tensor, "*B L"], target: Float[Tensor, "*B L"]) -> Float[Tensor, "*B"]:
    """Returns the IoU of logits > 0 with the target; 0 when both are empty."""
    predicted, wanted = logits > 0, target > 0.5
    return (predicted & wanted).sum(-1) / (predicted | wanted).sum(-1).clamp_min(1)


def promptable_loss(
    logits: Float[Tensor, "B K M L"], iou: Float[Tensor, "B K M"], target: Bool[Tensor, "B K L"], valid: Bool[Tensor, "B K"]
) -> PromptableLoss:
    """Scores M competing masks per prompt: only the best one learns the target, all learn to predict their IoU.

    Args:
        logits: mask logits; M = 3 after a single click, M = 1 after corrections.
        iou: predicted IoU of each mask.
        target: the latents of the prompted part.
        valid: prompts that count; without any, every loss is 0.
    """
    logits, iou = logits.float(), iou.float()
    wanted = target[:, :, None].to(logits.dtype).expand_as(logits)
    focal, dice, actual = focal_loss(logits, wanted), dice_loss(logits, wanted), true_iou(logits, wanted)
    best = (FOCAL_WEIGHT * focal + DICE_WEIGHT * dice).argmin(-1, keepdim=True)
    count = valid.sum().clamp_min(1)

    def mean(per_prompt: Tensor) -> Tensor:
        return (per_prompt * valid).sum() / count

    focal_best, dice_best = mean(focal.gather(-1, best)[..., 0]), mean(dice.gather(-1, best)[..., 0])
    iou_error = mean((iou - actual).abs().mean(-1))
    return PromptableLoss(
        total=FOCAL_WEIGHT * focal_best + DICE_WEIGHT * dice_best + IOU_WEIGHT * iou_error,
        focal=focal_best,
        dice=dice_best,
        iou_error=iou_error,
        iou=mean(actual.gather(-1, best)[..., 0]),
    )
