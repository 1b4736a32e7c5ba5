"""The Geom-Seg VAE: Hunyuan3D-2.1's shapes, the field convention, and what encoder and decoder must not depend on."""

import pytest
import torch
from torch import Tensor

from unipart.config import Config
from unipart.models.geom_seg_vae import GeomSegVAE, GeomSegVAEConfig, label_values
from unipart.models.seg_decoder import SegDecoderConfig
from unipart.rng import derive_seed

TINY = GeomSegVAEConfig(
    num_latents=32,
    latent_width=16,
    width=64,
    num_heads=2,
    encoder_layers=1,
    decoder_layers=2,
    seg=SegDecoderConfig(width=64, num_heads=4, trunk_layers=1, mlp_width=128),
)


def _generator(*names: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(0, "vae", *names))


def _vae(config: GeomSegVAEConfig = TINY) -> GeomSegVAE:
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(0, "vae weights"))
        return GeomSegVAE(config).eval()


def _sphere(batch: int = 2) -> Tensor:
    points = torch.randn(batch, TINY.num_points, 3, generator=_generator("sphere"))
    return points / points.norm(dim=-1, keepdim=True)


def _parameters(config: GeomSegVAEConfig) -> list[int]:
    with torch.device("meta"):
        return [parameter.numel() for parameter in GeomSegVAE(config).parameters()]


def test_paper_size_has_the_tensors_of_the_released_shape_vae() -> None:
    sizes = _parameters(GeomSegVAEConfig(seg=None))
    assert sum(sizes) == 327_746_177
    assert len(sizes) == 410


def test_eight_codes_widen_the_input_projection_alone() -> None:
    wider = sum(_parameters(GeomSegVAEConfig(seg=None, label_encoding="code8"))) - 327_746_177
    assert wider == 7 * 1024


def test_config_round_trips_with_and_without_segmentation(tmp_path) -> None:
    for config in (TINY, TINY.replace(seg=None)):
        config.save(tmp_path / "config.json")
        assert GeomSegVAEConfig.load(tmp_path / "config.json") == config
        assert isinstance(config, Config)


def test_shapes_from_points_to_field() -> None:
    vae, points = _vae(), _sphere()
    labels = torch.randint(0, 3, points.shape[:2], generator=_generator("labels"))
    values = label_values(labels, torch.tensor([3, 3]), "scalar_perm", _generator("perm"))
    encoding = vae.encode(points, points, values, _generator("encode"))
    z = encoding.sample(_generator("sample"))
    assert z.shape == (2, 32, 16)
    assert torch.equal(encoding.anchors, torch.stack([cloud[i] for cloud, i in zip(points, encoding.anchor_index, strict=True)]))
    assert torch.equal(encoding.token_labels(labels)[1], labels[1][encoding.anchor_index[1]])
    assert vae.decode_latents(z).shape == (2, 32, 64)
    assert vae.geometry(z)(torch.zeros(2, 7, 3)).shape == (2, 7)


def test_cached_keys_and_chunks_give_the_same_field() -> None:
    vae = _vae()
    z, queries = torch.randn(2, 32, 16, generator=_generator("z")), torch.rand(2, 50, 3, generator=_generator("queries"))
    whole = vae.query(vae.decode_latents(z), queries)
    field = vae.geometry(z)
    chunked = torch.cat([field(part) for part in queries.split(13, dim=1)], dim=1)
    assert torch.allclose(whole, chunked, atol=1e-5)


def test_gate_7_the_field_does_not_depend_on_the_order_of_latents() -> None:
    vae, order = _vae(), torch.randperm(32, generator=_generator("order"))
    z, queries = torch.randn(2, 32, 16, generator=_generator("z")), torch.rand(2, 20, 3, generator=_generator("queries"))
    assert torch.allclose(vae.decode_latents(z)[:, order], vae.decode_latents(z[:, order]), atol=1e-5)
    assert torch.allclose(vae.geometry(z)(queries), vae.geometry(z[:, order])(queries), atol=1e-5)


def test_order_of_the_surface_points_does_not_matter() -> None:
    vae, points = _vae(), _sphere(1)
    order = torch.randperm(points.shape[1], generator=_generator("order"))
    index = torch.arange(32)[None]
    position = torch.argsort(order)[index]
    zeros = torch.zeros(1, points.shape[1], 1)
    one = vae.encoder(points, points, zeros, index)
    assert torch.allclose(one, vae.encoder(points[:, order], points[:, order], zeros, position), atol=1e-5)


def test_same_generator_same_latents() -> None:
    vae, points = _vae(), _sphere()

    def latents(name: str) -> Tensor:
        generator = _generator(name)
        return vae.encode(points, points, None, generator).sample(generator)

    assert torch.equal(latents("a"), latents("a"))
    assert not torch.equal(latents("a"), latents("b"))


def test_the_posterior_is_sampled_with_its_own_spread() -> None:
    vae, points = _vae(), _sphere(1)
    encoding = vae.encode(points, points, None, _generator("spread"))
    generator = _generator("draws")
    draws = torch.stack([encoding.sample(generator) for _ in range(400)])
    assert torch.allclose(draws.std(0), (0.5 * encoding.logvar).exp(), rtol=0.3)
    assert torch.allclose(draws.mean(0), encoding.mean, atol=0.5)


def test_zero_label_columns_make_labels_invisible_at_the_start() -> None:
    points = _sphere()
    labels = torch.rand(*points.shape[:2], 1, generator=_generator("labels"))
    for init, visible in (("zero", False), ("normal", True)):
        vae = _vae(TINY.replace(label_init=init))
        without = vae.encode(points, points, None, _generator("e")).mean
        assert torch.allclose(vae.encode(points, points, labels, _generator("e")).mean, without) is not visible


def test_gate_3_the_field_of_a_sphere() -> None:
    radius = torch.tensor([0.0, 0.5 - 1.01 / 128, 0.5 - 0.5 / 128, 0.5, 0.5 + 0.5 / 128, 0.5 + 1.01 / 128, 1.5])
    distance = 0.5 - radius
    tsdf = _vae(TINY.replace(tsdf_res=128)).field_target(distance)
    assert torch.allclose(tsdf, torch.tensor([1.0, 1.0, 0.5, 0.0, -0.5, -1.0, -1.0]), atol=1e-4)
    assert _vae(TINY.replace(field="occ")).field_target(distance).tolist() == [1, 1, 1, 0, -1, -1, -1]
    assert torch.equal(_vae(TINY.replace(field="sdf")).field_target(distance), distance)


def test_gradients_reach_every_parameter_of_the_geometry_half() -> None:
    vae, points = _vae(TINY.replace(seg=None)), _sphere()
    generator = _generator("grad")
    z = vae.encode(points, points, torch.ones(*points.shape[:2], 1), generator).sample(generator)
    vae.geometry(z)(points[:, :50]).square().mean().backward()
    assert [name for name, parameter in vae.named_parameters() if parameter.grad is None] == []


def test_scale_is_saved_with_the_weights() -> None:
    vae = _vae()
    assert vae.z_scale.item() == 1
    assert "z_scale" in vae.state_dict()


LABELS = torch.tensor([[0, 1, 2, -1], [0, 0, 0, 0]])
NUM_PARTS = torch.tensor([3, 1])


def test_sorted_scalars_are_evenly_spaced_and_zero_means_no_part() -> None:
    values = label_values(LABELS, NUM_PARTS, "scalar_perm", None)[..., 0]
    assert torch.allclose(values, torch.tensor([[-2 / 3, 0.0, 2 / 3, 0.0], [0.0] * 4]))
    assert torch.equal(values, label_values(LABELS, NUM_PARTS, "scalar_sorted", _generator("any"))[..., 0])


def test_permuted_scalars_are_the_same_values_in_every_order() -> None:
    generator = _generator("orders")
    seen = {tuple(label_values(LABELS[:1], NUM_PARTS[:1], "scalar_perm", generator)[0, :3, 0].tolist()) for _ in range(60)}
    assert len(seen) == 6
    assert len({tuple(sorted(values)) for values in seen}) == 1


def test_codes_are_unit_and_shared_within_a_part() -> None:
    labels = torch.tensor([[0, 1, 1, -1]])
    fixed = label_values(labels, torch.tensor([2]), "code8", None)
    drawn = label_values(labels, torch.tensor([2]), "code8", _generator("codes"))
    for codes in (fixed, drawn):
        assert codes.shape == (1, 4, 8)
        assert torch.allclose(codes[0].norm(dim=-1), torch.tensor([1.0, 1.0, 1.0, 0.0]))
        assert torch.equal(codes[0, 1], codes[0, 2])
        assert not torch.allclose(codes[0, 0], codes[0, 1])
    assert torch.equal(fixed, label_values(labels, torch.tensor([2]), "code8", None))
    assert not torch.allclose(fixed, drawn)


def test_codes_run_out_with_a_message() -> None:
    with pytest.raises(ValueError, match="300 parts"):
        label_values(torch.tensor([[299]]), torch.tensor([300]), "code8", None)
