import numpy as np
import pytest
import torch
from torch import Tensor

from unipart.errors import UserError
from unipart.geometry.extract import extract_surface
from unipart.geometry.field import SignedDistance
from unipart.geometry.solids import sphere
from unipart.inference.decode import (
    DecodeConfig,
    Field,
    coarsest_grid,
    decode_dense,
    decode_field,
    decode_mesh,
    field_slope,
    near_band,
)
from unipart.models.geom_seg_vae import GeomSegVAE, GeomSegVAEConfig
from unipart.rng import derive

CPU = torch.device("cpu")
CONFIG = DecodeConfig(resolution=64, chunk=5000)
SLOPE = 8.0


class Shape:
    """A truncated distance field of a ball, a thin torus and a slab, that counts its queries."""

    def __init__(self, slope: float = SLOPE) -> None:
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
    sparse, dense = Shape(), Shape()
    fast = extract_surface(decode_field(sparse, SLOPE, CONFIG, CPU), CONFIG.box)
    slow = extract_surface(decode_dense(dense, CONFIG, CPU), CONFIG.box)
    assert np.array_equal(fast.faces, slow.faces)
    assert np.array_equal(fast.vertices, slow.vertices)
    assert len(slow.faces) > 5000
    assert sparse.queries < 0.5 * dense.queries


def test_no_node_is_evaluated_twice():
    shape, asked = Shape(), list[Tensor]()

    def noted(queries: Tensor) -> Tensor:
        asked.append(queries[0])
        return shape(queries)

    decode_field(noted, SLOPE, CONFIG, CPU)
    nodes = ((torch.cat(asked) + CONFIG.box) / (2 * CONFIG.box) * CONFIG.resolution).round().long()
    assert len(torch.unique(nodes, dim=0)) == len(nodes)


def test_values_away_from_the_surface_keep_their_sign():
    sparse, dense = decode_field(Shape(), SLOPE, CONFIG, CPU), decode_dense(Shape(), CONFIG, CPU)
    assert np.array_equal(sparse > 0, dense > 0)


@pytest.mark.parametrize("resolution", [50, 63, 64, 96])
def test_every_resolution_has_its_own_grid(resolution: int):
    values = decode_field(Shape(), SLOPE, CONFIG.replace(resolution=resolution), CPU)
    assert values.shape == (resolution + 1,) * 3
    assert np.isfinite(values).all()


def test_chunks_bound_the_number_of_queries():
    shape = Shape()
    decode_field(shape, SLOPE, CONFIG.replace(chunk=777), CPU)
    assert shape.largest == 777


def test_hierarchical_off_evaluates_every_node():
    shape = Shape()
    decode_field(shape, SLOPE, CONFIG.replace(hierarchical=False, resolution=20), CPU)
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
    mesh = decode_mesh(vae, torch.zeros(8, 4), DecodeConfig(resolution=24))
    assert mesh is not None
    assert np.abs(mesh.vertices).max() <= 1.01


def ball_field(config: GeomSegVAEConfig, radius: float) -> tuple[Field, list[int]]:
    """A ball in a VAE's field convention, and the numbers of queries that it was asked."""
    vae, asked = GeomSegVAE(config), []

    def field(queries: Tensor) -> Tensor:
        asked.append(queries.shape[1])
        return vae.field_target(radius - queries.norm(dim=-1))

    return field, asked


@pytest.mark.parametrize("changes", [{"tsdf_res": 128}, {"tsdf_res": 8}, {"field": "occ"}, {"field": "sdf"}])
def test_every_field_convention_decodes_hierarchically_as_densely(changes: dict):
    vae = tiny_vae().config.replace(**changes)
    config = CONFIG.replace(resolution=128, chunk=2**21)
    (sparse, few), (dense, all_nodes) = ball_field(vae, 0.6), ball_field(vae, 0.6)
    fast = extract_surface(decode_field(sparse, field_slope(vae), config, CPU), config.box)
    slow = extract_surface(decode_dense(dense, config, CPU), config.box)
    assert np.array_equal(fast.faces, slow.faces)
    assert np.array_equal(fast.vertices, slow.vertices)
    assert sum(few) < 0.5 * sum(all_nodes)


def test_an_occupancy_is_looked_for_on_a_fine_grid_and_a_distance_in_cells():
    occ, sdf = (field_slope(tiny_vae().config.replace(field=name, tsdf_res=8)) for name in ("occ", "sdf"))
    assert coarsest_grid(occ) == 63
    assert coarsest_grid(sdf) == 16
    assert near_band(sdf, 0.03) == pytest.approx(0.06)
    assert near_band(occ, 0.03) == near_band(128.0, 0.03) == 0.95


def test_gate_3_a_sphere_mesh_through_signed_distance_and_field_target():
    mesh = sphere(0.5, segments=128)
    draw = derive(0, "gate 3")
    directions = draw.standard_normal((400, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    radius = draw.uniform(0.0, 1.7, (400, 1))
    close = 0.5 + draw.uniform(-2 / 128, 2 / 128, (400, 1))
    queries = np.concatenate([np.zeros((1, 3)), radius * directions, close * directions])
    distance, _ = SignedDistance(mesh)(queries)
    field = GeomSegVAE(tiny_vae().config.replace(tsdf_res=128)).field_target(torch.from_numpy(distance)).numpy()
    inward = 0.5 - np.linalg.norm(queries, axis=1)
    assert field[0] == 1.0
    assert (field[inward < -0.1] == -1).all()
    sagitta = 0.5 * (1 - np.cos(np.pi / 64))  # how far a facet lies inside the sphere
    assert (np.abs(inward[np.abs(field) < 1]) < 1 / 128 + sagitta).all()
    assert (np.sign(field) == np.sign(inward))[np.abs(inward) > sagitta].all()
    assert (np.abs(field) < 1)[np.abs(inward) < 1 / 128 - sagitta].all()


@pytest.mark.parametrize("resolution", [64, 384])
def test_gate_4_a_sphere_stays_where_it_is_up_to_the_finest_grid(resolution: int):
    config = DecodeConfig(resolution=resolution, chunk=2**21)
    vae = tiny_vae().config.replace(tsdf_res=128)
    mesh = extract_surface(decode_field(ball_field(vae, 0.7)[0], field_slope(vae), config, CPU), config.box)
    radius = np.linalg.norm(mesh.vertices, axis=1)
    assert np.abs(radius - 0.7).max() < config.box / resolution, "half a cell"
    assert np.abs(mesh.vertices.mean(axis=0)).max() < 1e-3
