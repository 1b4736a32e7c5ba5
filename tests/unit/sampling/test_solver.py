import pytest
import torch

from unipart.sampling.path import true_velocity
from unipart.sampling.solver import euler


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
@pytest.mark.parametrize("shift", [1.0, 0.25])
def test_gate_5_the_true_velocity_leads_to_the_data_in_any_number_of_steps(steps: int, shift: float):
    z0, noise = torch.randn(3, 5, 4), torch.randn(3, 5, 4)
    reached = euler(lambda z, t: true_velocity(z0, noise), noise, steps, shift)
    torch.testing.assert_close(reached, z0, atol=1e-5, rtol=1e-5)


def test_every_step_moves_and_time_falls_from_one():
    seen: list[float] = []

    def velocity(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        assert t.shape == (2,)
        seen.append(t[0].item())
        return torch.ones_like(z)

    reached = euler(velocity, torch.zeros(2, 1, 1), 4)
    assert seen == [1.0, 0.75, 0.5, 0.25]
    torch.testing.assert_close(reached, -torch.ones(2, 1, 1))


def test_more_steps_follow_a_curved_field_better():
    noise = torch.ones(1, 1, 1)
    exact = noise * torch.exp(torch.tensor(-1.0))
    errors = [(euler(lambda z, t: z, noise, steps) - exact).abs().item() for steps in (2, 20, 200)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 2e-3


def test_reports_every_step():
    done: list[int] = []
    euler(lambda z, t: z, torch.ones(1, 1, 1), 3, on_step=done.append)
    assert done == [1, 2, 3]
