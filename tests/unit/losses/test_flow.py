import pytest
import torch

from unipart.losses.flow import flow_loss


def test_is_the_mean_squared_error():
    velocity, target = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[0.0, 4.0]]])
    assert flow_loss(velocity, target).item() == pytest.approx((1 + 4) / 2)


def test_dual_latents_give_the_mean_of_both_spaces():
    velocity, target = torch.randn(3, 2, 5, 4), torch.randn(3, 2, 5, 4)
    spaces = [flow_loss(velocity[:, s], target[:, s]) for s in range(2)]
    torch.testing.assert_close(flow_loss(velocity, target), (spaces[0] + spaces[1]) / 2)


def test_half_precision_is_summed_in_float32():
    velocity, target = torch.full((64, 64, 16), 300.0).half(), torch.zeros(64, 64, 16)
    loss = flow_loss(velocity, target)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(90_000)
