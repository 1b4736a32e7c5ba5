import torch

from unipart.geometry.mesh import Mesh
from unipart.geometry.solids import box
from unipart.inference.point_conditions import point_conditions
from unipart.models.geom_seg_vae import GeomSegVAE, GeomSegVAEConfig
from unipart.rng import derive


def test_features_follow_the_part_and_the_whole():
    torch.manual_seed(0)
    config = GeomSegVAEConfig(num_latents=8, latent_width=4, width=16, num_heads=2, encoder_layers=1, decoder_layers=1, seg=None)
    vae, mesh = GeomSegVAE(config).eval(), cube()
    anchors = torch.tensor([[-0.5, 0.0, 0.0]] * 4 + [[0.5, 0.0, 0.0]] * 4)
    masks = torch.tensor([[True] * 4 + [False] * 4, [False] * 4 + [True] * 4, [False] * 8, [True] * 8])
    seen: list[torch.Tensor] = []
    original = vae.point_features
    vae.point_features = lambda points, normals, start: (seen.append(points), original(points, normals, start))[1]  # type: ignore
    with torch.no_grad():
        features = point_conditions(vae, mesh, anchors, masks, derive(0, "test"))
    assert features.shape == (5, 8, 16)
    left, right, none, both = (points[0, :, 0] for points in seen[1:])
    assert left.max() <= 0 <= right.min()
    for points in (none, both):
        assert points.min() < -0.4
        assert points.max() > 0.4
    assert (features[1] - features[2]).abs().max() > 1e-3


def cube() -> Mesh:
    return box(1.0, 1.0, 1.0)


def test_the_same_draws_give_the_same_features():
    config = GeomSegVAEConfig(num_latents=8, latent_width=4, width=16, num_heads=2, encoder_layers=1, decoder_layers=1, seg=None)
    vae, anchors, masks = GeomSegVAE(config).eval(), torch.zeros(8, 3), torch.ones(1, 8, dtype=torch.bool)
    with torch.no_grad():
        first, second = (point_conditions(vae, cube(), anchors, masks, derive(0, "test")) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.isfinite(first).all()
