import torch
from torch import nn

from jobs.training.state import Average


def test_the_average_of_all_tensors_at_once_is_that_of_each_bit_for_bit():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(7, 33), nn.LayerNorm(33), nn.Linear(33, 5))
    module[1].requires_grad_(False)
    average = Average(module, 0.99)
    expected = {name: value.clone() for name, value in average.values.items()}
    assert set(expected) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    for step in range(1, 6):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter))
            for name, value in expected.items():
                value.lerp_(module.get_parameter(name), 1 - min(0.99, (1 + step) / (10 + step)))
        average.update(step)
        assert all(torch.equal(average.values[name], value) for name, value in expected.items())
    Average(module, 0.0).update(1)  # nothing is averaged
