"""L_seg: what is rewarded, and where gradients go."""

import pytest
import torch

from unipart.losses.segmentation import dice_loss, focal_loss, promptable_loss, true_iou

TARGET = torch.tensor([1.0, 1.0, 0.0, 0.0])


def test_focal_loss_by_hand() -> None:
    loss = focal_loss(torch.zeros(4), TARGET)
    expected = 0.5**2 * 0.6931 * (2 * 0.25 + 2 * 0.75) / 4
    assert loss.item() == pytest.approx(expected, rel=1e-3)


def test_dice_loss_by_hand() -> None:
    assert dice_loss(torch.full((4,), 50.0), TARGET).item() == pytest.approx(1 - 5 / 7)
    assert dice_loss((TARGET - 0.5) * 100, TARGET).item() == pytest.approx(0, abs=1e-6)


def test_a_better_mask_costs_less() -> None:
    right, half, wrong = (TARGET - 0.5) * 6, torch.tensor([3.0, -3.0, -3.0, -3.0]), (0.5 - TARGET) * 6
    for loss in (focal_loss, dice_loss):
        assert loss(right, TARGET) < loss(half, TARGET) < loss(wrong, TARGET)


def test_true_iou_counts_latents() -> None:
    logits = torch.tensor([[1.0, -1.0, 1.0, -1.0], [-1.0, -1.0, -1.0, -1.0]])
    assert true_iou(logits, TARGET.expand(2, -1)).tolist() == pytest.approx([1 / 3, 0.0])


def _three_masks() -> torch.Tensor:
    masks = torch.stack([(0.5 - TARGET) * 6, (TARGET - 0.5) * 6, torch.zeros(4)])
    return masks[None, None].clone().requires_grad_(True)


def test_only_the_best_mask_learns_the_target_and_all_learn_their_iou() -> None:
    logits, iou = _three_masks(), torch.full((1, 1, 3), 0.5, requires_grad=True)
    loss = promptable_loss(logits, iou, TARGET.bool()[None, None], torch.ones(1, 1, dtype=torch.bool))
    loss.total.backward()
    assert logits.grad is not None
    assert iou.grad is not None
    assert logits.grad[0, 0, 1].abs().sum() > 0
    assert logits.grad[0, 0, [0, 2]].abs().sum() == 0
    assert (iou.grad != 0).all()
    assert loss.iou.item() == pytest.approx(1.0)
    assert loss.iou_error.item() == pytest.approx((0.5 + 0.5 + 0.5) / 3)
    assert loss.total.item() == pytest.approx((20 * loss.focal + loss.dice + loss.iou_error).item(), rel=1e-5)


def test_invalid_prompts_count_for_nothing() -> None:
    logits, iou = _three_masks().repeat(1, 2, 1, 1), torch.full((1, 2, 3), 0.5)
    logits = torch.cat([logits[:, :1], -logits[:, 1:]], dim=1)
    target = TARGET.bool().expand(1, 2, 4)
    one = promptable_loss(logits[:, :1], iou[:, :1], target[:, :1], torch.ones(1, 1, dtype=torch.bool))
    masked = promptable_loss(logits, iou, target, torch.tensor([[True, False]]))
    none = promptable_loss(logits, iou, target, torch.zeros(1, 2, dtype=torch.bool))
    assert masked.total.item() == pytest.approx(one.total.item())
    assert none.total.item() == 0
