import pytest
import torch
from torch import Tensor

from unipart.losses.flow import flow_loss
from unipart.models.whole_dit import WholeDiT, WholeDiTConfig
from unipart.nn.embeddings import TimeEmbedding
from unipart.sampling.path import data_from_velocity, interpolate, true_velocity

CI = WholeDiTConfig(latent_width=8, hidden=64, depth=5, num_heads=2, context_width=16, moe_layers=1, num_experts=2, t_scale=1000)


@pytest.fixture
def model() -> WholeDiT:
    torch.manual_seed(0)
    return WholeDiT(CI).eval()


def inputs(batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(batch, 10, 8), torch.rand(batch), torch.randn(batch, 5, 16)


def test_paper_size_has_the_parameters_of_hunyuan3d():
    with torch.device("meta"):
        model = WholeDiT(WholeDiTConfig())
    assert sum(p.numel() for p in model.parameters()) == 3_050_758_720


def test_gate_7_permuting_latents_permutes_the_velocity(model: WholeDiT):
    z, t, context = inputs()
    order = torch.randperm(10)
    torch.testing.assert_close(model(z[:, order], t, context), model(z, t, context)[:, order], atol=1e-5, rtol=1e-5)


def test_cached_conditions_equal_the_context(model: WholeDiT):
    z, t, context = inputs()
    torch.testing.assert_close(model(z, t, model.conditions(context)), model(z, t, context))


def test_no_context_equals_zero_context_and_differs_from_an_image(model: WholeDiT):
    z, t, context = inputs()
    torch.testing.assert_close(model(z, t, None), model(z, t, torch.zeros_like(context)), atol=1e-5, rtol=1e-5)
    assert (model(z, t, None) - model(z, t, context)).abs().max() > 1e-3


def test_time_matters(model: WholeDiT):
    z, t, context = inputs()
    assert (model(z, t, context) - model(z, 1 - t, context)).abs().max() > 1e-3


def test_times_are_embedded_in_full_precision_under_autocast():
    embedding, times = TimeEmbedding(256), torch.linspace(0.8, 1, 21)
    exact = embedding(times)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(embedding(times), exact)


def test_samples_of_a_batch_are_independent(model: WholeDiT):
    z, t, context = inputs()
    torch.testing.assert_close(model(z, t, context)[:1], model(z[:1], t[:1], context[:1]), atol=1e-5, rtol=1e-5)


def test_learns_to_follow_its_image():
    """Two images, two objects: after a few steps swapping the images swaps what the velocity points at."""
    torch.manual_seed(0)
    model = WholeDiT(CI.replace(depth=3, moe_layers=0))
    data, context = torch.randn(2, 1, 8).expand(2, 10, 8).repeat(4, 1, 1), torch.randn(2, 5, 16).repeat(4, 1, 1)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(60):
        t, noise = torch.rand(8), torch.randn(8, 10, 8)
        loss = flow_loss(model(interpolate(data, noise, t), t, context), true_velocity(data, noise))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    noise, t = torch.randn(8, 10, 8), torch.ones(8)
    moved = data_from_velocity(noise, model(noise, t, context.flip(0)), t) - data_from_velocity(noise, model(noise, t, context), t)
    assert torch.cosine_similarity(moved.flatten(), (data.flip(0) - data).flatten(), dim=0) > 0.6
