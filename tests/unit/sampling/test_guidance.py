import pytest
import torch

from unipart.sampling.guidance import draw_dropped, guide, guided


def test_weights_zero_one_and_beyond():
    with_image, without = torch.full((1, 1, 1), 3.0), torch.full((1, 1, 1), 1.0)
    assert guide(with_image, without, 0.0).item() == 1
    assert guide(with_image, without, 1.0).item() == 3
    assert guide(with_image, without, 5.0).item() == 11


def test_weight_one_never_asks_for_the_unconditional_velocity():
    def fail(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        raise AssertionError("evaluated")

    field = guided(lambda z, t: 2 * z, fail, 1.0)
    assert field(torch.ones(1, 1, 1), torch.ones(1)).item() == 2
    with pytest.raises(AssertionError):
        guided(lambda z, t: z, fail, 2.0)(torch.ones(1, 1, 1), torch.ones(1))


def test_guided_field_mixes_both():
    field = guided(lambda z, t: 3 * z, lambda z, t: z, 2.0)
    assert field(torch.ones(1, 1, 1), torch.ones(1)).item() == 5


def test_share_of_dropped_samples():
    generator = torch.Generator().manual_seed(0)
    assert draw_dropped(20_000, 0.1, generator).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert not draw_dropped(100, 0.0, generator).any()
