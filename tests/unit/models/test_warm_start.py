import pytest
import torch

from unipart.errors import UserError
from unipart.models.anchor_decoder import AnchorDecoder, AnchorDecoderConfig
from unipart.models.geom_seg_vae import GeomSegVAE, GeomSegVAEConfig
from unipart.models.part_dit import PartDiT, PartDiTConfig
from unipart.models.seg_decoder import SegDecoderConfig
from unipart.models.warm_start import check_start, warm_start
from unipart.models.whole_dit import WholeDiT, WholeDiTConfig

SEG = SegDecoderConfig(width=32, num_heads=2, trunk_layers=1, two_way_layers=1, mlp_width=32)
PLAIN = GeomSegVAEConfig(
    num_latents=8, latent_width=4, width=32, num_heads=2, encoder_layers=1, decoder_layers=1, label_encoding="none", seg=None
)
WHOLE = WholeDiTConfig(
    latent_width=4, hidden=32, depth=3, num_heads=2, context_width=8, moe_layers=1, num_experts=2, reversed_time=True
)


@pytest.mark.parametrize("encoding", ["scalar_perm", "scalar_sorted", "code8"])
@torch.no_grad()
def test_a_vae_with_labels_starts_as_the_plain_one_whatever_the_labels(encoding: str):
    source = GeomSegVAE(PLAIN)
    source.z_scale.fill_(2.0)
    model = GeomSegVAE(PLAIN.replace(label_encoding=encoding, seg=SEG.model_dump(), num_latents=8))
    drawn = model.seg_decoder.stem.weight.clone()  # pyright: ignore
    new = warm_start(model, source)
    assert "encoder.input_proj.weight (labels)" in new
    assert all(name.startswith("seg_decoder.") for name in new[:-1])
    assert torch.equal(model.seg_decoder.stem.weight, drawn)  # pyright: ignore
    points, normals, index = torch.rand(1, 40, 3), torch.rand(1, 40, 3), torch.arange(8)[None]
    labels = torch.randn(1, 40, model.config.label_width)
    expected = source.encoder(points, normals, torch.zeros(1, 40, 1), index)
    assert torch.allclose(model.encoder(points, normals, labels, index), expected, atol=1e-6)
    assert float(model.z_scale) == 2.0


def test_a_vae_with_labels_starts_from_its_like_label_and_all():
    source = GeomSegVAE(PLAIN.replace(label_encoding="scalar_perm", seg=SEG.model_dump()))
    model = GeomSegVAE(source.config.replace(label_encoding="scalar_sorted"))
    assert warm_start(model, source) == []
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in source.state_dict().items())


@torch.no_grad()
def test_a_part_model_starts_from_a_whole_model_and_its_time():
    source = WholeDiT(WHOLE)
    part = PartDiT(PartDiTConfig(**WHOLE.model_dump(), space_embed_level="off"))
    new = warm_start(part, source)
    assert new
    assert all("2_2." in name or name.startswith(("latent_conditioner.", "space_embedding")) for name in new)
    t = torch.tensor([0.2])
    assert torch.equal(part.time(t), source.time(t))


def test_time_is_embedded_the_other_way_round():
    torch.manual_seed(0)
    forwards = WholeDiT(WHOLE.replace(reversed_time=False))
    backwards = WholeDiT(WHOLE)
    backwards.load_state_dict(forwards.state_dict())
    x, context = torch.randn(2, 6, 4), torch.randn(2, 5, 8)
    t = torch.tensor([0.25, 0.5])
    assert torch.equal(backwards(x, t, context), forwards(x, 1 - t, context))
    assert not torch.allclose(backwards(x, t, context)[0], forwards(x, t, context)[0])


def test_what_does_not_fit_is_named_with_the_flags_that_help():
    with pytest.raises(UserError, match=r"width 32 / 64.*tsdf_res 128\.0 / 8\.0(.|\n)*--model\.width 32 --model\.tsdf_res 128\.0"):
        check_start(PLAIN.replace(width=64, tsdf_res=8.0), PLAIN)
    with pytest.raises(UserError, match=r"reversed_time True / False(.|\n)*--model\.reversed_time true"):
        check_start(PartDiTConfig(**WHOLE.replace(reversed_time=False).model_dump()), WHOLE)
    with pytest.raises(UserError, match="a whole_dit cannot start a geom_seg_vae"):
        check_start(PLAIN, WHOLE)
    anchor = AnchorDecoderConfig(latent_width=4, width=8)
    model, source = AnchorDecoder(anchor), AnchorDecoder(anchor)
    assert warm_start(model, source) == []
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in source.state_dict().items())
