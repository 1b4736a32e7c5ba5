import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unipart import storage
from unipart.data.bundle import read_bundle, write_bundle
from unipart.data.schema import Bundle
from unipart.errors import UserError
from unipart.geometry.spaces import PlacementConfig
from unipart.inference.pipeline import GenerateConfig, UniPartPipeline
from unipart.models.anchor_decoder import AnchorDecoder, AnchorDecoderConfig
from unipart.models.geom_seg_vae import GeomSegVAE, GeomSegVAEConfig
from unipart.models.image_encoder import ImageEncoderConfig, SmallImageEncoder
from unipart.models.part_dit import PartDiT, PartDiTConfig
from unipart.models.pretrained import save_pretrained, weights_digest
from unipart.models.seg_decoder import SegDecoderConfig
from unipart.models.whole_dit import WholeDiT, WholeDiTConfig
from unipart.segmentation.segment import SegmentConfig

SIZES: dict[str, Any] = {
    "latent_width": 8,
    "hidden": 32,
    "depth": 3,
    "num_heads": 2,
    "context_width": 16,
    "moe_layers": 1,
    "num_experts": 2,
}
VAE = GeomSegVAEConfig(
    num_latents=32, latent_width=8, width=32, num_heads=2, encoder_layers=1, decoder_layers=1, tsdf_res=8,
    seg=SegDecoderConfig(width=32, trunk_layers=1, num_heads=2),
)  # fmt: skip
POINTS = {"cond_form": "points", "point_width": VAE.width}
FAST = GenerateConfig(
    steps=2, resolution_whole=16, resolution_gcs=12, resolution_ncs=16, placement=PlacementConfig(num_points=500),
    segment=SegmentConfig(num_prompts=16, iou_min=0.0, stability_min=0.0), max_parts=3,
)  # fmt: skip


def save_all(root: Path, part: PartDiTConfig | None = None, width: int = 8, tokens: int = 16) -> dict[str, Path]:
    """Random checkpoints that belong together, unless told otherwise."""
    torch.manual_seed(0)
    folders = {name: root / name for name in ("vae", "anchor", "whole", "part")}
    vae = GeomSegVAE(VAE).eval()
    vae.z_scale.fill_(2.0)
    with torch.no_grad():  # a field that crosses zero somewhere in the box
        middle = vae.geometry(torch.zeros(1, 32, 8))(torch.rand(1, 500, 3) * 2 - 1).median()
        vae.geometry_decoder.output_proj.bias -= middle
    save_pretrained(vae, folders["vae"])
    lineage = {"lineage": {"vae": weights_digest(folders["vae"])}}
    save_pretrained(AnchorDecoder(AnchorDecoderConfig(latent_width=width, width=16)), folders["anchor"], lineage)
    save_pretrained(WholeDiT(WholeDiTConfig(**SIZES)), folders["whole"], lineage)
    save_pretrained(SmallImageEncoder(ImageEncoderConfig(size=28, width=tokens, layers=1)), folders["whole"] / "image_encoder")
    save_pretrained(PartDiT(part or PartDiTConfig(**SIZES)), folders["part"], lineage)
    return folders


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> UniPartPipeline:
    return UniPartPipeline.from_checkpoints(**save_all(tmp_path_factory.mktemp("checkpoints")))


def picture(shade: int = 0) -> np.ndarray:
    rgba = np.zeros((40, 40, 4), np.uint8)
    rgba[8:30, 10:24] = (200, shade, 40, 255)
    return rgba


def same(a: Bundle, b: Bundle) -> bool:
    return len(a.parts) == len(b.parts) and all(
        np.array_equal(x.mesh.vertices, y.mesh.vertices) for x, y in zip(a.parts, b.parts, strict=True)
    )


def test_an_image_becomes_a_bundle_that_can_be_written_and_read(pipeline: UniPartPipeline, tmp_path: Path):
    calls: list[tuple[str, int, int]] = []
    bundle = pipeline.generate(picture(), FAST, seed=1, object_id="thing", progress=lambda *call: calls.append(call))
    num_parts = len(bundle.masks)
    assert 1 <= num_parts <= 3
    assert bundle.masks.shape == (num_parts, 32)
    assert (bundle.masks.sum(axis=0) == 1).all()
    assert np.array_equal(bundle.masks.argmax(axis=0), bundle.labels)
    assert len(bundle.parts) + sum("missing" in note for note in bundle.info["fall_backs"]) == num_parts
    assert bundle.image is not None
    assert bundle.image.shape == (28, 28, 3)
    assert set(bundle.info["timings"]) == {"image", "whole", "segment", "parts", "decode"}
    assert "small network" in bundle.info["warnings"][0]
    assert set(bundle.info["checkpoints"]) == {"vae", "anchor", "whole", "part"}
    json.dumps(bundle.info)
    last = {stage: (done, total) for stage, done, total in calls}
    assert set(last) == {"whole", "segment", "parts", "decode"}
    assert all(done == total for done, total in last.values())

    write_bundle(tmp_path / "thing", bundle)
    assert same(read_bundle(tmp_path / "thing"), bundle)


def test_seed_and_image_decide_the_result_and_nothing_else_does(pipeline: UniPartPipeline):
    first = pipeline.generate(picture(), FAST, seed=1)
    assert same(first, pipeline.generate(picture(), FAST, seed=1, object_id="another name"))
    other_seed, other_image = pipeline.generate(picture(), FAST, seed=2), pipeline.generate(picture(200), FAST, seed=1)
    assert not np.array_equal(first.anchors, other_seed.anchors)
    assert not np.array_equal(first.anchors, other_image.anchors)


def test_low_memory_changes_the_order_of_work_and_not_the_result(pipeline: UniPartPipeline):
    normal, low = pipeline.generate(picture(), FAST), pipeline.generate(picture(), FAST.replace(memory="low"))
    assert np.array_equal(normal.labels, low.labels)
    assert len(normal.parts) == len(low.parts)
    for a, b in zip(normal.parts, low.parts, strict=True):
        assert a.source == b.source
        np.testing.assert_allclose(a.placement.scale, b.placement.scale, rtol=0.05)


def test_max_parts_is_obeyed(pipeline: UniPartPipeline):
    assert len(pipeline.generate(picture(), FAST.replace(max_parts=1)).masks) == 1


def test_latents_are_scaled_for_diffusion_and_unscaled_after(pipeline: UniPartPipeline, monkeypatch: pytest.MonkeyPatch):
    """With a velocity that points at ones, Z_0 must come out as 1 / z_scale, and the part model must see ones again."""
    seen: list[Tensor] = []
    models = pipeline.models
    monkeypatch.setattr(models.whole, "forward", lambda z, t, conditions: (z - 1) / t[:, None, None])
    real = models.part.conditions
    monkeypatch.setattr(
        models.part, "conditions", lambda tokens, z0, xi, valid: seen.extend([z0, xi, valid]) or real(tokens, z0, xi, valid)
    )
    anchors: list[Tensor] = []
    models.anchor.register_forward_hook(lambda _, arguments, output: anchors.append(arguments[0]))
    pipeline.generate(picture(), FAST.replace(guidance_whole=1.0))
    models.anchor._forward_hooks.clear()
    torch.testing.assert_close(anchors[0], torch.full_like(anchors[0], 0.5))
    torch.testing.assert_close(seen[0], torch.ones_like(seen[0]))
    torch.testing.assert_close(seen[1], torch.ones_like(seen[1]) * seen[2][..., None])


@pytest.mark.parametrize(
    "changes", [{"spaces": ("gcs",)}, {"kv": "fused"}, {"use_xi": False}, {"space_layout": "channels"}, POINTS]
)
def test_ablated_part_models_generate_too(tmp_path: Path, changes: dict[str, Any]):
    pipeline = UniPartPipeline.from_checkpoints(**save_all(tmp_path, PartDiTConfig(**SIZES).replace(**changes)))
    bundle = pipeline.generate(picture(), FAST)
    assert bundle.parts
    if "spaces" in changes:
        assert {part.source for part in bundle.parts} == {"gcs"}
        assert not any("NCS" in note for note in bundle.info["fall_backs"])


def test_another_vae_than_the_one_trained_against_is_refused(tmp_path: Path):
    folders = save_all(tmp_path)
    save_pretrained(GeomSegVAE(VAE), tmp_path / "another")
    with pytest.raises(UserError, match="do not belong together") as error:
        UniPartPipeline.from_checkpoints(**{**folders, "vae": tmp_path / "another"})
    assert str(tmp_path / "another") in str(error.value)
    assert weights_digest(folders["vae"])[:12] in str(error.value)


def test_other_widths_are_refused_naming_both_sides(tmp_path: Path):
    with pytest.raises(UserError, match=r"have 8 channels, the anchor model in .* takes 6"):
        UniPartPipeline.from_checkpoints(**save_all(tmp_path / "a", width=6))
    with pytest.raises(UserError, match=r"have 32 channels, the whole model in .* takes 16"):
        UniPartPipeline.from_checkpoints(**save_all(tmp_path / "b", tokens=32))


def test_checkpoints_in_the_wrong_place_are_named(tmp_path: Path):
    folders = save_all(tmp_path)
    with pytest.raises(UserError, match="holds a part_dit, where a whole_dit is needed"):
        UniPartPipeline.from_checkpoints(**{**folders, "whole": folders["part"]})
    with pytest.raises(UserError, match="no checkpoint"):
        UniPartPipeline.from_checkpoints(**{**folders, "anchor": tmp_path})


def test_checkpoints_may_be_in_object_storage(tmp_path: Path, bucket: str):
    folders = save_all(tmp_path)
    for file in tmp_path.rglob("*.*"):
        storage.write_bytes(storage.join(bucket, file.relative_to(tmp_path).as_posix()), file.read_bytes())
    pipeline = UniPartPipeline.from_checkpoints(**{name: storage.join(bucket, name) for name in folders})
    assert pipeline.models.digests == {name: weights_digest(folder) for name, folder in folders.items()}


def test_image_weights_need_a_model_that_was_trained_with_them(tmp_path: Path):
    with pytest.raises(UserError, match="trained with the small encoder"):
        UniPartPipeline.from_checkpoints(**save_all(tmp_path), image_weights="facebook/dinov2-large")
