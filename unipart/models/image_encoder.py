"""The condition image as tokens: frozen DINOv2 (the paper), or a small network that is trained with the whole model."""

import logging
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor, nn

from unipart.config import Config
from unipart.errors import EnvironmentProblem, UserError
from unipart.nn.blocks import EPS, SelfBlock

LOGGER = logging.getLogger(__name__)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageEncoderConfig(Config):
    """Sizes of the image encoder; DINOv2-large is kind "dinov2", size 518, width 1024, layers 24, num_heads 16."""

    kind: Literal["dinov2", "small"] = "small"
    """Frozen DINOv2 from weights on disk, or a small network trained from scratch."""
    size: int = 112
    """Side of the image in pixels, a multiple of `patch`."""
    patch: int = 14
    """Side of a patch in pixels."""
    width: int = 64
    """Dc, the width of a token."""
    layers: int = 2
    """Transformer blocks."""
    num_heads: int = 4
    """Attention heads; widths of DINOv2 use 64 channels a head."""

    @model_validator(mode="after")
    def _check(self) -> "ImageEncoderConfig":
        if self.size % self.patch or self.width % self.num_heads:
            raise ValueError("size must be a multiple of patch and width a multiple of num_heads")
        return self

    @property
    def num_tokens(self) -> int:
        """T: one token per patch and one for the image."""
        return (self.size // self.patch) ** 2 + 1


class SmallImageEncoder(nn.Module):
    """Convolutional patch stem, learned positions, a few pre-LN blocks; the first token stands for the image."""

    trainable = True

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.config = config
        width, side = config.width, config.size // config.patch
        self.stem = nn.Sequential(
            nn.Conv2d(3, width // 2, kernel_size=config.patch, stride=config.patch // 2, padding=config.patch // 4),
            nn.GELU(),
            nn.Conv2d(width // 2, width, kernel_size=3, stride=2, padding=1),
            nn.AdaptiveAvgPool2d(side),  # one token per patch, whatever the parity of the strided stem
        )
        self.image_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, side * side, width))
        self.blocks = nn.Sequential(*(SelfBlock(width, config.num_heads) for _ in range(config.layers)))
        self.norm = nn.LayerNorm(width, eps=EPS)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B T Dc"]:
        """Encodes images in [0, 1], composited on white."""
        _check_size(images, self.config)
        patches = self.stem(2 * images - 1).flatten(2).transpose(1, 2) + self.positions
        tokens = torch.cat([self.image_token.expand(len(images), -1, -1), patches], dim=1)
        return self.norm(self.blocks(tokens))


class Dinov2Encoder(nn.Module):
    """DINOv2 through transformers, frozen; last hidden state after its LayerNorm, class token first.

    Raises:
        EnvironmentProblem: transformers is not installed.
    """

    trainable = False
    mean: Tensor
    std: Tensor

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        transformers = _transformers()
        self.config = config
        self.model: nn.Module = transformers.Dinov2Model(
            transformers.Dinov2Config(
                hidden_size=config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.num_heads,
                patch_size=config.patch,
                image_size=518,  # of the released position embedding, which is interpolated to other sizes
            )
        ).requires_grad_(False)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B T Dc"]:
        """Encodes images in [0, 1], composited on white."""
        _check_size(images, self.config)
        return self.model((images - self.mean) / self.std).last_hidden_state

    def load_released(self, weights: str) -> None:
        """Loads released weights from a local folder or the local Hugging Face cache; nothing is downloaded.

        Raises:
            UserError: the weights are not on this machine, or belong to another size of DINOv2.
        """
        try:
            released: Any = _transformers().Dinov2Model.from_pretrained(weights, local_files_only=True)
        except (OSError, ValueError) as error:
            message = f"DINOv2 weights {weights!r} are not on this machine: {error}"
            raise UserError(
                message, "give a folder that holds config.json and model.safetensors of facebook/dinov2-large"
            ) from None
        found = {
            "width": released.config.hidden_size,
            "layers": released.config.num_hidden_layers,
            "num_heads": released.config.num_attention_heads,
            "patch": released.config.patch_size,
        }
        wrong = [
            f"{name} {getattr(self.config, name)} / {value}" for name, value in found.items() if getattr(self.config, name) != value
        ]
        if wrong:
            raise UserError(
                f"weights {weights!r} are of another DINOv2 (config / weights): {', '.join(wrong)}",
                "match the image encoder's config",
            )
        self.model.load_state_dict(released.state_dict())


ImageEncoder = SmallImageEncoder | Dinov2Encoder


def make_image_encoder(config: ImageEncoderConfig) -> ImageEncoder:
    """Returns the encoder of a config with random weights, to be filled from a checkpoint."""
    return Dinov2Encoder(config) if config.kind == "dinov2" else SmallImageEncoder(config)


def build_image_encoder(config: ImageEncoderConfig, weights: str | None = None) -> ImageEncoder:
    """Returns the encoder to train or generate with and says aloud which one it is.

    Args:
        config: its sizes.
        weights: name or local folder of released DINOv2 weights; required by kind "dinov2", refused by kind "small".

    Raises:
        UserError: weights are missing, not needed, or of another size.
    """
    if config.kind == "small":
        if weights is not None:
            raise UserError(
                f"image weights {weights!r} were given, but the config asks for the small encoder", 'set kind to "dinov2"'
            )
        LOGGER.warning(
            "image encoder: the small network (%d tokens x %d), randomly initialised and trained with the whole model, because "
            "the config says kind='small'. The paper uses frozen DINOv2-large: kind='dinov2' with weights on disk.",
            config.num_tokens,
            config.width,
        )
        return SmallImageEncoder(config)
    if weights is None:
        raise UserError(
            "kind 'dinov2' needs released weights and none were given", "pass --image-weights FOLDER, or use kind 'small'"
        )
    encoder = Dinov2Encoder(config)
    encoder.load_released(weights)
    LOGGER.info("image encoder: frozen DINOv2 (%d tokens x %d) from %s", config.num_tokens, config.width, weights)
    return encoder


def _check_size(images: Tensor, config: ImageEncoderConfig) -> None:
    if images.shape[-2:] != (config.size, config.size):
        raise ValueError(f"images are {tuple(images.shape[-2:])} pixels, the image encoder takes {config.size} x {config.size}")


def _transformers() -> Any:
    try:
        import transformers  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise EnvironmentProblem(
            "DINOv2 needs the package transformers, which is not installed", "pip install 'unipart[dinov2]'"
        ) from None
    return transformers
