"""The interactive rounds of L_seg: click, answer, correct the answer, answer again (paper §3.1, after SAM 2)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from unipart.config import Config
from unipart.losses.segmentation import promptable_loss
from unipart.models.seg_decoder import SegDecoder
from unipart.segmentation.prompts import MIN_PROMPT_TOKENS, Clicks, correction_clicks, draw_latents, first_clicks

LOGIT_LIMIT = 32.0
CLICKS_A_PART = 4
"""First clicks in each part of an object that is scored."""
PARTS_AT_ONCE = 16
"""Bounds the memory of scoring."""


class SegmentationRoundsConfig(Config):
    """How D_seg is prompted in training."""

    num_prompts: int = 16
    """Parts prompted per object, K."""
    num_corrections: int = 2
    """Further clicks per prompt, each where the last answer was wrong (SAM 2 uses 7)."""
    from_target: float = 0.1
    """Probability that a further click is drawn from the whole target instead."""


THREE_CLICKS = SegmentationRoundsConfig(num_corrections=2, from_target=0.0)
"""Of an object that is scored."""


def segmentation_rounds(
    seg_decoder: SegDecoder,
    z: Float[Tensor, "B L d"],
    token_labels: Int[Tensor, "B L"],
    config: SegmentationRoundsConfig,
    generator: Generator,
) -> dict[str, Tensor]:
    """Prompts D_seg with one click and its corrections, and scores every answer.

    Args:
        seg_decoder: D_seg.
        z: sampled latents.
        token_labels: part id per latent, -1 unknown.
        config: number of prompts and rounds.
        generator: draws the clicks.

    Returns:
        `seg`, the loss to minimise, summed over the rounds. To log: `seg_focal`, `seg_dice`, `seg_iou_error` (means over the
        rounds), `seg_iou_1` (IoU after one click of the mask that D_seg trusts most) and `seg_iou` (after the last click).
    """
    clicks = first_clicks(token_labels, config.num_prompts, generator)
    rounds, trusted_iou = [], []
    for answer in click_rounds(seg_decoder, z, clicks, config, generator):
        rounds.append(promptable_loss(answer.logits, answer.iou, clicks.target, clicks.valid))
        trusted_iou.append(_mean_iou(answer.trusted > 0, clicks.target, clicks.valid))
    return {
        "seg": torch.stack([part.total for part in rounds]).sum(),
        "seg_focal": torch.stack([part.focal for part in rounds]).mean().detach(),
        "seg_dice": torch.stack([part.dice for part in rounds]).mean().detach(),
        "seg_iou_error": torch.stack([part.iou_error for part in rounds]).mean().detach(),
        "seg_iou_1": trusted_iou[0],
        "seg_iou": trusted_iou[-1],
    }


@dataclass(frozen=True)
class ClickRound:
    """D_seg's answers after one more click a prompt.

    Attributes:
        logits: [B K M L] masks offered: three after the first click, one after a correction.
        iou: [B K M] their predicted IoU.
        trusted: [B K L] logits of the mask that D_seg trusts most, cut off from the gradient.
    """

    logits: Tensor
    iou: Tensor
    trusted: Tensor


def click_rounds(
    seg_decoder: SegDecoder, z: Float[Tensor, "B L d"], clicks: Clicks, config: SegmentationRoundsConfig, generator: Generator
) -> Iterator[ClickRound]:
    """Yields the answers to the first clicks, then to each correction of the answer before."""
    index, label = clicks.index[..., None], torch.ones_like(clicks.index)[..., None]
    features, previous = seg_decoder.trunk(z), None
    for step in range(1 + config.num_corrections):
        answer = seg_decoder(features, index, label, previous)
        offered = slice(1, None) if step == 0 else slice(0, 1)
        logits, iou = answer.logits[:, :, offered], answer.iou[:, :, offered]
        trusted = iou.argmax(-1)[..., None, None].expand(-1, -1, 1, logits.shape[-1])
        previous = logits.detach().gather(2, trusted)[:, :, 0].clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
        yield ClickRound(logits, iou, previous)
        if step < config.num_corrections:
            more = correction_clicks(previous > 0, clicks.target, generator, config.from_target)
            index, label = (torch.cat([old, new[..., None]], dim=-1) for old, new in zip((index, label), more, strict=True))


@torch.no_grad()
def click_scores(
    seg_decoder: SegDecoder, z: Float[Tensor, "L d"], token_labels: Int[Tensor, " L"], generator: Generator
) -> dict[str, float]:
    """Scores D_seg on one object, clicked as a user would: in a part, then where the answer is wrong.

    Args:
        seg_decoder: D_seg.
        z: sampled latents.
        token_labels: part id per latent, -1 unknown.
        generator: draws the clicks.

    Returns:
        `seg_miou_1` and `seg_miou_3`, mean over the parts of the IoU of the mask that D_seg trusts most, after one click and after
        three; `iou_head_error`, mean |predicted - true| of that IoU after one click. Nothing where no part has two latents.
    """
    parts = token_labels[token_labels >= 0].unique()
    masks = token_labels == parts[:, None]
    masks = masks[masks.sum(-1) >= MIN_PROMPT_TOKENS]
    if len(masks) == 0:
        return {}
    rows: list[Tensor] = []
    for some in masks.split(PARTS_AT_ONCE):
        index = draw_latents(some.float(), CLICKS_A_PART, generator).flatten()[None]
        target = some.repeat_interleave(CLICKS_A_PART, dim=0)[None]
        clicks = Clicks(index, target, torch.ones_like(target[..., 0]))
        answers = list(click_rounds(seg_decoder, z[None], clicks, THREE_CLICKS, generator))
        first, last = (_iou(answer.trusted > 0, target) for answer in (answers[0], answers[-1]))
        rows.append(torch.cat([first, last, (answers[0].iou.amax(-1).float() - first).abs()]))
    means = torch.cat(rows, dim=1).mean(1).tolist()
    return dict(zip(("seg_miou_1", "seg_miou_3", "iou_head_error"), means, strict=True))


def _mean_iou(answer: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    iou = _iou(answer, target)
    return (iou * valid).sum() / valid.sum().clamp_min(1)


def _iou(answer: Tensor, target: Tensor) -> Tensor:
    return (answer & target).sum(-1) / (answer | target).sum(-1).clamp_min(1)
