import pytest
import torch

from unipart.sampling.schedule import sample_times, shift_times, time_grid


def times(kind: str, shift: float = 1.0, seed: int = 0) -> torch.Tensor:
    return sample_times(20_000, torch.Generator().manual_seed(seed), kind, shift)


def test_uniform_times_fill_the_interval_evenly():
    counts = torch.histc(times("uniform"), bins=10, min=0, max=1)
    assert (counts / 2000 - 1).abs().max() < 0.1


def test_logit_normal_times_have_normal_logits():
    logits = times("logit_normal").logit()
    assert logits.mean().item() == pytest.approx(0, abs=0.03)
    assert logits.std().item() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("kind", ["uniform", "logit_normal"])
def test_a_shift_below_one_moves_times_towards_noise(kind: str):
    assert times(kind, 0.125).mean() > times(kind).mean() + 0.15
    assert ((times(kind, 0.125) >= 0) & (times(kind, 0.125) <= 1)).all()


def test_shift_equals_hunyuans_formula_in_its_own_time():
    t_hunyuan, r = torch.linspace(0.01, 0.99, 20), 0.125**0.5
    expected = r * t_hunyuan / (1 + (r - 1) * t_hunyuan)
    torch.testing.assert_close(1 - shift_times(1 - t_hunyuan, 0.125), expected)


def test_the_same_seed_draws_the_same_times():
    assert torch.equal(times("uniform", seed=3), times("uniform", seed=3))
    assert not torch.equal(times("uniform", seed=3), times("uniform", seed=4))


@pytest.mark.parametrize("shift", [1.0, 0.25])
def test_grid_falls_from_one_to_zero(shift: float):
    grid = time_grid(7, shift)
    assert len(grid) == 8
    assert grid[0] == 1
    assert grid[-1] == 0
    assert (grid.diff() < 0).all()
