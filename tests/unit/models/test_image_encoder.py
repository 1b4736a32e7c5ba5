import logging
from pathlib import Path

import pytest
import torch

from unipart.errors import EnvironmentProblem, UserError
from unipart.models.image_encoder import (
    Dinov2Encoder,
    ImageEncoderConfig,
    SmallImageEncoder,
    build_image_encoder,
    make_image_encoder,
)

TINY = ImageEncoderConfig(size=56, width=32, layers=1)
DINO = ImageEncoderConfig(kind="dinov2", size=56, width=64, layers=2, num_heads=1)


@pytest.mark.parametrize(("size", "num_tokens"), [(112, 65), (56, 17), (224, 257)])
def test_one_token_per_patch_and_one_for_the_image(size: int, num_tokens: int):
    config = TINY.replace(size=size)
    assert config.num_tokens == num_tokens
    assert SmallImageEncoder(config)(torch.rand(2, 3, size, size)).shape == (2, num_tokens, 32)


def test_small_encoder_sees_content_and_place():
    torch.manual_seed(0)
    encoder = SmallImageEncoder(TINY).eval()
    image = torch.ones(1, 3, 56, 56)
    left, right = image.clone(), image.clone()
    left[..., 10:20, 5:15] = 0
    right[..., 10:20, 40:50] = 0
    tokens = [encoder(x) for x in (image, left, right)]
    assert (tokens[0] - tokens[1]).abs().max() > 1e-2
    assert (tokens[1] - tokens[2]).abs().max() > 1e-2


def test_small_encoder_is_trained_through():
    encoder = SmallImageEncoder(TINY)
    assert encoder.trainable
    encoder(torch.rand(1, 3, 56, 56)).square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match="56 x 56"):
        SmallImageEncoder(TINY)(torch.rand(1, 3, 112, 112))


def test_the_small_encoder_is_announced_with_its_reason(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        encoder = build_image_encoder(TINY)
    assert isinstance(encoder, SmallImageEncoder)
    assert "small" in caplog.text
    assert "DINOv2" in caplog.text


def test_weights_and_kind_must_agree():
    with pytest.raises(UserError, match="small encoder"):
        build_image_encoder(TINY, "facebook/dinov2-large")
    with pytest.raises(UserError, match="needs released weights"):
        build_image_encoder(DINO)


def test_sizes_must_divide():
    with pytest.raises(UserError, match="multiple of patch"):
        TINY.replace(size=100)


def test_dinov2_without_transformers_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(EnvironmentProblem, match=r"unipart\[dinov2\]"):
        make_image_encoder(DINO)


def test_dinov2_from_a_local_folder(tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    released = transformers.Dinov2Model(
        transformers.Dinov2Config(hidden_size=64, num_hidden_layers=2, num_attention_heads=1)
    ).eval()
    released.save_pretrained(tmp_path)
    encoder = build_image_encoder(DINO, str(tmp_path))
    assert isinstance(encoder, Dinov2Encoder)
    assert not any(p.requires_grad for p in encoder.parameters())
    image = torch.rand(1, 3, 56, 56)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = released((image - mean[:, None, None]) / std[:, None, None]).last_hidden_state
    torch.testing.assert_close(encoder.eval()(image), expected)
    with pytest.raises(UserError, match="layers 3 / 2"):
        build_image_encoder(DINO.replace(layers=3), str(tmp_path))
    with pytest.raises(UserError, match="not on this machine"):
        build_image_encoder(DINO, str(tmp_path / "absent"))
