"""L_recon: squared error, weighted or not."""

import pytest
import torch

from unipart.losses.reconstruction import reconstruction_loss


def test_is_the_mean_squared_error() -> None:
    predicted, target = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    assert reconstruction_loss(predicted, target).item() == pytest.approx(2.5)


def test_weights_choose_the_queries() -> None:
    predicted, target = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    assert reconstruction_loss(predicted, target, torch.tensor([[3.0, 0.0]])).item() == pytest.approx(1.0)
    assert reconstruction_loss(predicted, target, torch.zeros(1, 2)).item() == 0


def test_half_precision_is_summed_in_float32() -> None:
    predicted = torch.full((1, 10_000), 1e-3, dtype=torch.bfloat16)
    assert reconstruction_loss(predicted, torch.zeros(1, 10_000)).dtype == torch.float32
