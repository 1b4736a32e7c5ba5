"""Mask filters on hand-made masks."""

import pytest
import torch

from unipart.segmentation.nms import agreement, choose_masks, drop_contained, mask_iou, mask_stability, suppress


def _masks(*ranges: tuple[int, int], length: int = 20) -> torch.Tensor:
    masks = torch.zeros(len(ranges), length, dtype=torch.bool)
    for row, (low, high) in enumerate(ranges):
        masks[row, low:high] = True
    return masks


def test_stability() -> None:
    logits = torch.tensor([[5.0, 5.0, -5.0], [0.5, 5.0, -5.0], [-5.0, -5.0, -5.0]])
    assert mask_stability(logits).tolist() == pytest.approx([1.0, 0.5, 0.0])


def test_mask_iou() -> None:
    masks = _masks((0, 10), (5, 15), (3, 3))
    assert torch.allclose(mask_iou(masks), torch.tensor([[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 0]]))


def test_prompts_agree_on_a_part_and_not_on_a_merger() -> None:
    masks = _masks((0, 10), (0, 10), (0, 20), (10, 20), (15, 18))
    prompts = torch.tensor([2, 7, 12, 13, 14])
    assert agreement(masks, prompts).tolist() == pytest.approx([1.0, 1.0, (0.5 * 3 + 1 + 0.15) / 5, (0.5 + 1 + 0.3) / 3, 1.0])


def test_suppression_keeps_the_better_of_two_like_masks() -> None:
    masks = _masks((0, 10), (0, 9), (10, 20), (5, 15))
    assert suppress(masks, torch.tensor([0.8, 0.9, 0.7, 0.6]), 0.7).tolist() == [1, 2, 3]
    assert suppress(masks, torch.tensor([0.8, 0.9, 0.7, 0.6]), 0.95).tolist() == [1, 0, 2, 3]


def test_ties_go_to_the_earlier_mask() -> None:
    assert suppress(_masks((0, 10), (0, 10)), torch.tensor([0.5, 0.5]), 0.7).tolist() == [0]


def test_containment_looks_at_the_union_of_kept_masks() -> None:
    masks = _masks((0, 6), (6, 12), (3, 9), (10, 20))
    assert drop_contained(masks, 0.9).tolist() == [0, 1, 3]


@pytest.mark.parametrize(("granularity", "expected"), [("fine", 1), ("auto", 2), ("coarse", 0)])
def test_granularity_chooses_among_good_masks(granularity: str, expected: int) -> None:
    logits = (_masks((0, 15), (0, 4), (0, 8)).float() - 0.5)[None]
    iou = torch.tensor([[0.7, 0.6, 0.9]])
    assert choose_masks(logits, iou, granularity, iou_min=0.5, min_tokens=2).tolist() == [expected]


def test_granularity_never_chooses_a_bad_mask_over_a_good_one() -> None:
    logits = (_masks((0, 15), (0, 1), (0, 8)).float() - 0.5)[None]
    assert choose_masks(logits, torch.tensor([[0.4, 0.9, 0.7]]), "coarse", 0.5, 2).tolist() == [2]
    assert choose_masks(logits, torch.tensor([[0.4, 0.9, 0.7]]), "fine", 0.5, 2).tolist() == [2]
    assert choose_masks(logits, torch.tensor([[0.1, 0.3, 0.2]]), "fine", 0.5, 2).tolist() == [1]
