"""L_kl: zero at the unit Gaussian, and the closed form elsewhere."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from unipart.losses.kl import kl_loss
from unipart.rng import derive_seed


def test_unit_gaussian_costs_nothing() -> None:
    assert kl_loss(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3)).item() == 0


def test_equals_the_closed_form_whatever_the_size() -> None:
    generator = torch.Generator().manual_seed(derive_seed(0, "kl"))
    mean, logvar = torch.randn(2, 5, 7, generator=generator), torch.randn(2, 5, 7, generator=generator)
    expected = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0)).mean().item()
    assert kl_loss(mean, logvar).item() == pytest.approx(expected, rel=1e-5)
    assert kl_loss(mean.repeat(1, 4, 1), logvar.repeat(1, 4, 1)).item() == pytest.approx(expected, rel=1e-5)
