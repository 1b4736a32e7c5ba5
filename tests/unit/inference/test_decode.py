import numpy as np
import pytest
import torch
from torch import Tensor

from unipart.errors import UserError
from unipart.inference.decode import DecodeConfig, decode_dense, decode_field, decode_mesh
from unipart.models.geom_seg_vae import GeomSegVAE, GeomSegVAEConfig

CPU = torch.device("cpu")
CONFIG = DecodeConfig(resolution=64, coarsest=16, chunk=5000)


class Shape:
    """A truncated distance field of a ball, a thin torus and a slab, that counts its queries."""

    def __init__(self, slope: float = 16.0) -> None:
        self.slope, self.queries, self.largest = slope, 0, 0

    def __call__(self, queries: Tensor) -> Tensor:
        self.queries += queries.shape[1]
        self.largest = max(self.largest, queries.shape[1])
        x, y, z = queries.unbind(-1)
        ball = 0.4 - ((x + 0.4) ** 2 + y**2 + z**2).sqrt()
        ring = 0.08 - (((x - 0.4).square() + y**2).sqrt().sub(0.4).square() + z**2).sqrt()
        slab = 0.06 - (y + 0.8).abs()
        slab = torch.minimum(slab, 0.7 - torch.maximum(x.abs(), z.abs()))
        return (self.slope * torch.maximum(torch.maximum(ball, ring), slab)).clamp(-1, 1)


def test_hierarchical_decode_gives_the_dense_mesh_with_far_fewer_queries():
    from unipart.geometry.extract import extract_surface

    sparse, dense = Shape(), Shape()
    fast = extract_surface(decode_field(sparse, CONFIG, CPU), CONFIG.box)
    slow = extract_surface(decode_dense(dense, CONFIG, CPU), CONFIG.box)
    assert np.array_equal(fast.faces, slow.faces)
    assert np.array_equal(fast.vertices, slow.vertices)
    assert len(slow.faces) > 5000
    assert sparse.queries < 0.5 * dense.queries


def test_values_away_from_the_surface_keep_their_sign():
    sparse, dense = decode_field(Shape(), CONFIG, CPU), decode_dense(Shape(), CONFIG, CPU)
    assert np.array_equal(sparse > 0, dense > 0)


@pytest.mark.parametrize("resolution", [50, 63, 64, 96])
def test_every_resolution_has_its_own_grid(resolution: int):
    values = decode_field(Shape(), CONFIG.replace(resolution=resolution), CPU)
    assert values.shape == (resolution + 1,) * 3
    assert np.isfinite(values).all()


def test_chunks_bound_the_number_of_queries():
    shape = Shape()
    decode_field(shape, CONFIG.replace(chunk=777), CPU)
    assert shape.largest == 777


def test_hierarchical_off_evaluates_every_node():
    shape = Shape()
    decode_field(shape, CONFIG.replace(hierarchical=False, resolution=20), CPU)
    assert shape.queries == 21**3


def test_impossible_settings_are_refused():
    with pytest.raises(UserError):
        DecodeConfig(resolution=64).replace(chunk=0)


def tiny_vae() -> GeomSegVAE:
    torch.manual_seed(0)
    config = GeomSegVAEConfig(num_latents=8, latent_width=4, width=32, num_heads=2, encoder_layers=1, decoder_layers=1, seg=None)
    return GeomSegVAE(config).eval()


def test_no_surface_is_none_and_floaters_can_be_dropped(monkeypatch: pytest.MonkeyPatch):
    vae, z, shape = tiny_vae(), torch.zeros(8, 4), Shape()
    monkeypatch.setattr(vae, "geometry", lambda z: shape)
    everything, largest = decode_mesh(vae, z, CONFIG), decode_mesh(vae, z, CONFIG.replace(min_component=0.5))
    assert everything is not None
    assert largest is not None
    assert 0 < len(largest.faces) < len(everything.faces)
    shape.slope = 0.0
    assert decode_mesh(vae, z, CONFIG) is None


def test_a_real_vae_is_decoded():
    vae = tiny_vae()
    with torch.no_grad():
        vae.geometry_decoder.output_proj.bias.sub_(vae.geometry(torch.zeros(1, 8, 4))(torch.rand(1, 500, 3) * 2 - 1).median())
    mesh = decode_mesh(vae, torch.zeros(8, 4), DecodeConfig(resolution=24, coarsest=12))
    assert mesh is not None
    assert np.abs(mesh.vertices).max() <= 1.01
