"""Latent segmentation: from a latent set Z to its parts (paper §3.2).

D_pos(Z) ─► spread prompts ─► D_seg ─► candidate masks ─► good ones ─► suppression ─► one part per latent
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unipart.config import Config
from unipart.segmentation.assign import claim, dissolve, renumber, split_leftovers, vote
from unipart.segmentation.nms import Granularity, agreement, choose_masks, drop_contained, mask_stability, suppress
from unipart.segmentation.prompts import spread_prompts

FULL_LATENTS = 4096
"""Numbers of latents in `SegmentConfig` are meant for this many and shrink with the set."""


class SegmentConfig(Config):
    """How candidate masks become parts."""

    num_prompts: int = 256
    """Prompts, spread evenly over the anchors; as many as latents is the paper's dense prompt."""
    prompts_per_call: int = 64
    """Prompts decoded at once: bounds the memory."""
    granularity: Granularity = "auto"
    """fine prefers the smallest good answer to each prompt, coarse the largest, auto the one D_seg trusts most."""
    iou_min: float = 0.5
    """Drops masks with a smaller predicted IoU."""
    stability_min: float = 0.7
    """Drops masks that change more when cut at +-1 instead of 0."""
    min_tokens: int = 8
    """Drops masks and parts of fewer latents (for 4,096 latents; scaled with the set, at least 2)."""
    rank: Literal["agreement", "iou"] = "agreement"
    """Which of two masks is better: by D_seg's predicted IoU times how far the masks of the prompts inside it agree with it, or by
    the predicted IoU alone."""
    nms: float = 0.7
    """Drops masks whose IoU with a better one is greater."""
    containment: float = 0.9
    """Drops masks of which better ones cover a greater fraction."""
    leftover_tokens: int = 32
    """Unclaimed latents near one another become a part from this number on (for 4,096 latents; scaled, at least 4)."""
    max_parts: int = 64
    """Keeps the largest parts and hands the latents of the others to their neighbours."""


@dataclass(frozen=True)
class Segmentation:
    """The parts of one object's latents, numbered by the centre of their anchors (y, then x, z).

    Attributes:
        masks: [N L] bool, a partition: every latent is in exactly one part.
        labels: [L] int64 part per latent.
        iou: [N] float32 predicted IoU of each part's mask; 0 for parts made of leftovers.
        anchors: [L 3] float32 from D_pos.
        num_candidates: masks that passed the filters, before suppression.
        fall_backs: what did not go by the book, in words.
    """

    masks: Tensor
    labels: Tensor
    iou: Tensor
    anchors: Tensor
    num_candidates: int
    fall_backs: tuple[str, ...]


@runtime_checkable
class PromptableDecoder(Protocol):
    """What `segment_latents` needs of D_seg (`unipart.models.seg_decoder.SegDecoder`)."""

    def trunk(self, z: Tensor) -> Any:
        """Mixes the latents [B L d] once."""
        ...

    def __call__(self, features: Any, prompts: Tensor, prompt_labels: Tensor, /) -> Any:
        """Answers prompts [B K n] with `.logits` [B K 4 L] and `.iou` [B K 4]."""
        ...


@dataclass(frozen=True)
class _Candidates:
    """One mask per prompt: logits [K L], predicted IoU [K], and what they are ranked by [K]."""

    logits: Tensor
    iou: Tensor
    score: Tensor

    def __getitem__(self, index: Tensor) -> "_Candidates":
        return _Candidates(self.logits[index], self.iou[index], self.score[index])


@torch.no_grad()
def segment_latents(
    seg_decoder: PromptableDecoder, anchor_decoder: Callable[[Tensor], Tensor], z: Float[Tensor, "L d"], config: SegmentConfig
) -> Segmentation:
    """Finds the parts of one object; deterministic.

    Args:
        seg_decoder: D_seg.
        anchor_decoder: D_pos, z [B L d] -> [B L 3].
        z: unscaled latents of one object.
        config: thresholds.
    """
    anchors = anchor_decoder(z[None])[0].float()
    prompts = spread_prompts(anchors, config.num_prompts)
    candidates = _filter(_answer(seg_decoder, z, prompts, config), config)
    if len(candidates.iou) == 0:
        reason = f"none of {len(prompts)} masks passed the filters: the whole object is one part"
        return _single_part(anchors, reason)

    kept = candidates[_keep(candidates, config)]
    positions = anchors.cpu().numpy()
    labels = claim((kept.logits > 0).cpu().numpy(), (kept.logits.sigmoid() * kept.score[:, None]).cpu().numpy())
    unclaimed = int((labels < 0).sum())
    labels = split_leftovers(labels, positions, _scaled(config.leftover_tokens, len(z), 4))
    labels = dissolve(vote(labels, positions), positions, _scaled(config.min_tokens, len(z), 2), config.max_parts)
    labels, mask_of_part = renumber(labels, positions)

    leftover = mask_of_part >= len(kept.iou)
    iou_of_part = np.where(leftover, 0.0, kept.iou.clamp(0, 1).cpu().numpy()[np.where(leftover, 0, mask_of_part)])
    part_of_latent = torch.from_numpy(labels).to(z.device)
    return Segmentation(
        masks=part_of_latent == torch.arange(len(mask_of_part), device=z.device)[:, None],
        labels=part_of_latent,
        iou=torch.from_numpy(iou_of_part.astype(np.float32)).to(z.device),
        anchors=anchors,
        num_candidates=len(candidates.iou),
        fall_backs=_fall_backs(int(leftover.sum()), unclaimed, len(z)),
    )


def _answer(seg_decoder: PromptableDecoder, z: Tensor, prompts: Tensor, config: SegmentConfig) -> _Candidates:
    """Prompts D_seg with one click each and chooses one of the three masks it offers."""
    features = seg_decoder.trunk(z[None])
    min_tokens = _scaled(config.min_tokens, len(z), 2)
    logits, iou = [], []
    for chunk in prompts.split(config.prompts_per_call):
        clicks = chunk[None, :, None]
        answer = seg_decoder(features, clicks, torch.ones_like(clicks))
        offered, trust = answer.logits[0, :, 1:].float(), answer.iou[0, :, 1:].float()
        rows = torch.arange(len(chunk), device=z.device)
        choice = choose_masks(offered, trust, config.granularity, config.iou_min, min_tokens)
        logits.append(offered[rows, choice])
        iou.append(trust[rows, choice])
    chosen, trusted = torch.cat(logits), torch.cat(iou)
    score = trusted.clamp(0, 1)
    return _Candidates(chosen, trusted, score * agreement(chosen > 0, prompts) if config.rank == "agreement" else score)


def _filter(answers: _Candidates, config: SegmentConfig) -> _Candidates:
    large = (answers.logits > 0).sum(-1) >= _scaled(config.min_tokens, answers.logits.shape[-1], 2)
    good = large & (answers.iou >= config.iou_min) & (mask_stability(answers.logits) >= config.stability_min)
    return answers[good]


def _keep(candidates: _Candidates, config: SegmentConfig) -> Tensor:
    """Indices of the candidates that become parts; when masks nest, the granularity says which ones come first."""
    masks = candidates.logits > 0
    kept = suppress(masks, candidates.score, config.nms)
    if config.granularity != "auto":
        size = masks[kept].sum(-1)
        kept = kept[torch.argsort(size, descending=config.granularity == "coarse", stable=True)]
    return kept[drop_contained(masks[kept], config.containment)]


def _single_part(anchors: Tensor, reason: str) -> Segmentation:
    labels = torch.zeros(len(anchors), dtype=torch.long, device=anchors.device)
    return Segmentation(labels[None] == 0, labels, anchors.new_zeros(1), anchors, 0, (reason,))


def _scaled(tokens: int, num_latents: int, least: int) -> int:
    return max(least, round(tokens * num_latents / FULL_LATENTS))


def _fall_backs(num_leftover: int, unclaimed: int, num_latents: int) -> tuple[str, ...]:
    notes = []
    if num_leftover:
        notes.append(f"{num_leftover} parts were made of latents that no mask claimed")
    if unclaimed:
        notes.append(f"{unclaimed} of {num_latents} latents were in no kept mask")
    return tuple(notes)
