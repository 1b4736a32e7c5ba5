"""Scores of clicks on one object, with decoders whose answers are known."""

from types import SimpleNamespace

import pytest
import torch

from jobs.training.segmentation_rounds import click_scores

LABELS = torch.tensor([0, 0, 0, 0, 1, 1, 2, -1])
Z = torch.zeros(8, 4)


class Oracle:
    """Answers the first click with a mask of its own choice, any further click with the truth; says that the IoU is `trust`."""

    def __init__(self, first: torch.Tensor | None, trust: float) -> None:
        self.first, self.trust = first, trust

    def trunk(self, z: torch.Tensor) -> torch.Tensor:
        return z

    def __call__(self, features, index, labels, previous):
        part = LABELS[index[0, :, 0]]
        truth = part[:, None] == LABELS
        masks = truth if self.first is None or index.shape[-1] > 1 else self.first.expand(len(part), -1)
        logits = torch.where(masks, 5.0, -5.0)[None, :, None].expand(-1, -1, 4, -1)
        return SimpleNamespace(logits=logits, iou=torch.full(logits.shape[:3], self.trust))


def score(decoder: Oracle) -> dict[str, float]:
    return click_scores(decoder, Z, LABELS, torch.Generator().manual_seed(0))  # pyright: ignore[reportArgumentType]


def test_the_true_masks_score_one():
    assert score(Oracle(None, 1.0)) == {"seg_miou_1": 1.0, "seg_miou_3": 1.0, "iou_head_error": 0.0}


def test_corrections_count_only_after_the_first_click_and_the_head_is_held_to_its_word():
    scores = score(Oracle(torch.ones(8, dtype=torch.bool), 0.75))
    # All eight latents for each answer: parts of four and of two, the part of one latent is never clicked.
    assert scores["seg_miou_1"] == pytest.approx((4 / 8 + 2 / 8) / 2)
    assert scores["seg_miou_3"] == 1.0
    assert scores["iou_head_error"] == pytest.approx((0.25 + 0.5) / 2)


def test_an_object_without_parts_has_no_scores():
    unlabelled = torch.full_like(LABELS, -1)
    assert click_scores(Oracle(None, 1.0), Z, unlabelled, torch.Generator()) == {}  # pyright: ignore[reportArgumentType]
