"""D_pos: shapes, equivariance, and that it learns a position from a latent."""

import pytest
import torch

from unipart.models.anchor_decoder import AnchorDecoder, AnchorDecoderConfig
from unipart.rng import derive_seed


@pytest.mark.parametrize("kind", ["mlp", "tf"])
def test_permuting_latents_permutes_anchors(kind: str) -> None:
    generator = torch.Generator().manual_seed(derive_seed(0, "anchor", kind))
    decoder = AnchorDecoder(AnchorDecoderConfig(kind=kind, latent_width=8, width=64))
    z, order = torch.randn(2, 10, 8, generator=generator), torch.randperm(10, generator=generator)
    assert torch.allclose(decoder(z)[:, order], decoder(z[:, order]), atol=1e-5)


def test_mlp_reads_each_latent_alone_and_tf_does_not() -> None:
    z = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(derive_seed(0, "alone")))
    other = torch.cat([z[:, :1], z[:, 1:] + 1], dim=1)
    for kind, alone in (("mlp", True), ("tf", False)):
        decoder = AnchorDecoder(AnchorDecoderConfig(kind=kind, latent_width=8, width=64))
        assert torch.allclose(decoder(z)[:, 0], decoder(other)[:, 0], atol=1e-6) is alone


def test_learns_a_linear_code() -> None:
    generator = torch.Generator().manual_seed(derive_seed(0, "learn"))
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(0, "weights"))
        decoder = AnchorDecoder(AnchorDecoderConfig(latent_width=8, width=64))
    mixing = torch.randn(3, 8, generator=generator)
    optimiser = torch.optim.AdamW(decoder.parameters(), 3e-3)
    error = torch.tensor(1.0)
    for _ in range(200):
        anchors = torch.rand(8, 32, 3, generator=generator) * 2 - 1
        error = (decoder(anchors @ mixing) - anchors).norm(dim=-1).mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
    assert error < 0.1
