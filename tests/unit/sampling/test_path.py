from itertools import permutations, product

import pytest
import torch

from unipart.sampling.path import assign_noise, data_from_velocity, interpolate, true_velocity


def draw() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (*(torch.randn(4, 6, 3, generator=generator) for _ in range(2)), torch.rand(4, generator=generator))


def test_time_zero_is_data_and_time_one_is_noise():
    z0, noise, _ = draw()
    torch.testing.assert_close(interpolate(z0, noise, torch.zeros(4)), z0)
    torch.testing.assert_close(interpolate(z0, noise, torch.ones(4)), noise)


def test_velocity_is_the_derivative_of_the_path():
    z0, noise, t = draw()
    step = 1e-2
    slope = (interpolate(z0, noise, t + step) - interpolate(z0, noise, t)) / step
    torch.testing.assert_close(slope, true_velocity(z0, noise), atol=1e-3, rtol=1e-3)


def test_data_is_recovered_at_every_time():
    z0, noise, t = draw()
    torch.testing.assert_close(data_from_velocity(interpolate(z0, noise, t), true_velocity(z0, noise), t), z0, atol=1e-5, rtol=1e-5)


def test_gate_5_hunyuans_convention_is_the_same_path_run_backwards():
    z0, noise, t = draw()
    t_hunyuan = 1 - t
    x_t = t_hunyuan[:, None, None] * z0 + (1 - t_hunyuan[:, None, None]) * noise
    torch.testing.assert_close(interpolate(z0, noise, t), x_t)
    torch.testing.assert_close(true_velocity(z0, noise), -(z0 - noise))


def test_more_axes_share_the_time_of_their_sample():
    z0, noise, t = draw()
    stacked = interpolate(torch.stack([z0, z0], 1), torch.stack([noise, noise], 1), t)
    torch.testing.assert_close(stacked[:, 1], interpolate(z0, noise, t))


def test_assigned_noise_is_the_same_noise_in_the_nearest_order():
    draw = torch.Generator().manual_seed(0)
    z0, noise = (torch.randn(3, 2, 6, 4, generator=draw) for _ in range(2))
    assigned = assign_noise(noise, z0)
    assert assigned.shape == noise.shape
    for row, space in product(range(3), range(2)):
        ours, theirs = assigned[row, space], noise[row, space]
        order = torch.cdist(ours, theirs).argmin(1)
        assert sorted(order.tolist()) == list(range(6))
        assert torch.equal(ours, theirs[order])
        best = min((theirs[list(other)] - z0[row, space]).square().sum() for other in permutations(range(6)))
        assert float((ours - z0[row, space]).square().sum()) == pytest.approx(float(best))
