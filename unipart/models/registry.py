"""Which models there are: a new one is a file in this folder and a line here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from unipart.config import Config
from unipart.errors import UserError, did_you_mean
from unipart.models.anchor_decoder import AnchorDecoder, AnchorDecoderConfig
from unipart.models.geom_seg_vae import GeomSegVAE, GeomSegVAEConfig
from unipart.models.image_encoder import ImageEncoderConfig, make_image_encoder
from unipart.models.part_dit import PartDiT, PartDiTConfig
from unipart.models.whole_dit import WholeDiT, WholeDiTConfig


@dataclass(frozen=True)
class ModelEntry:
    """A kind of model.

    Attributes:
        config_class: its config; no two models share one.
        build: config -> module with random weights.
    """

    config_class: type[Config]
    build: Callable[[Any], nn.Module]


MODELS: dict[str, ModelEntry] = {
    "geom_seg_vae": ModelEntry(GeomSegVAEConfig, GeomSegVAE),
    "anchor_decoder": ModelEntry(AnchorDecoderConfig, AnchorDecoder),
    "image_encoder": ModelEntry(ImageEncoderConfig, make_image_encoder),
    "whole_dit": ModelEntry(WholeDiTConfig, WholeDiT),
    "part_dit": ModelEntry(PartDiTConfig, PartDiT),
}


def model_entry(name: str) -> ModelEntry:
    """Returns the entry of a model's name.

    Raises:
        UserError: no such model.
    """
    if name not in MODELS:
        raise UserError(f"there is no model {name!r}.{did_you_mean(name, list(MODELS))}", f"models: {', '.join(MODELS)}")
    return MODELS[name]


def model_name(config: Config) -> str:
    """Returns the name of the model that a config belongs to.

    Raises:
        ValueError: the config's class is not registered.
    """
    for name, entry in MODELS.items():
        if type(config) is entry.config_class:
            return name
    raise ValueError(f"{type(config).__name__} is no model's config: add a line to unipart.models.registry")
