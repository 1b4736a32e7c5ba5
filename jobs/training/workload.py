"""The forward passes of a training, by name, on any device: counted on the meta device, timed on a real one.

A pass runs a part of the trained model on random inputs of a batch's shapes. Sampling, losses and clicks are left out.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from jobs.training.config import AnchorTrainConfig, AnyTrainConfig, PartTrainConfig, VaeTrainConfig, WholeTrainConfig
from unipart.models.anchor_decoder import AnchorDecoder
from unipart.models.geom_seg_vae import GeomSegVAE, GeomSegVAEConfig
from unipart.models.image_encoder import ImageEncoderConfig, SmallImageEncoder
from unipart.models.part_dit import DualLatents, PartDiT
from unipart.models.seg_decoder import SegFeatures
from unipart.models.whole_dit import WholeDiT
from unipart.rng import derive_seed

Pass = Callable[[int], Tensor]
"""Runs on a batch of the given size."""


@dataclass(frozen=True)
class Parents:
    """Configs of the finished models that a training builds on.

    Attributes:
        vae: the frozen VAE.
        image: the image encoder; frozen, or trained with the whole model if it is the small one.
    """

    vae: GeomSegVAEConfig
    image: ImageEncoderConfig


@dataclass(frozen=True)
class Workload:
    """What is trained, and its forward passes; a training step runs each once."""

    trained: nn.Module
    passes: dict[str, Pass]


class Inputs:
    """Random inputs of any shape. Random, because a GPU multiplies zeros faster than numbers."""

    def __init__(self, device: str | torch.device) -> None:
        self.device = torch.device(device)
        self.draw = None if self.device.type == "meta" else Generator(self.device).manual_seed(derive_seed(0, "inputs"))

    def floats(self, *shape: int, grad: bool = False) -> Tensor:
        """Returns normal numbers."""
        return torch.randn(shape, device=self.device, generator=self.draw, requires_grad=grad)

    def indices(self, *shape: int, below: int) -> Tensor:
        """Returns integers from 0."""
        return torch.randint(below, shape, device=self.device, generator=self.draw)


def make_workload(config: AnyTrainConfig, parents: Parents, device: str | torch.device = "meta") -> Workload:
    """Builds a recipe's trained model on a device, with its passes."""
    inputs = Inputs(device)
    with inputs.device:
        if isinstance(config, VaeTrainConfig):
            return _vae(config, inputs)
        if isinstance(config, AnchorTrainConfig):
            decoder = AnchorDecoder(config.model)
            shape = (parents.vae.num_latents, config.model.latent_width)
            return Workload(decoder, {"anchor decoder": lambda batch: decoder(inputs.floats(batch, *shape))})
        if isinstance(config, WholeTrainConfig):
            return _whole(config, parents, inputs)
        return _part(config, parents, inputs)


def encode(vae: GeomSegVAE, batch: int, inputs: Inputs) -> Tensor:
    """Runs the VAE's encoder on points whose anchors are given."""
    sizes = vae.config
    points, normals = (inputs.floats(batch, sizes.num_points, 3) for _ in range(2))
    labels = inputs.floats(batch, sizes.num_points, sizes.label_width)
    return vae.encoder(points, normals, labels, inputs.indices(batch, sizes.num_latents, below=sizes.num_points))


def encode_image(encoder: nn.Module, config: ImageEncoderConfig, batch: int, inputs: Inputs) -> Tensor:
    """Runs an image encoder."""
    return encoder(inputs.floats(batch, 3, config.size, config.size))


def _vae(config: VaeTrainConfig, inputs: Inputs) -> Workload:
    vae, sizes = GeomSegVAE(config.model), config.model
    latents, rounds, prompts = sizes.num_latents, 1 + config.segmentation.num_corrections, config.segmentation.num_prompts

    def queries(batch: int) -> Tensor:
        return vae.query(inputs.floats(batch, latents, sizes.width, grad=True), inputs.floats(batch, sum(config.queries), 3))

    def trunk(batch: int) -> Tensor:
        assert vae.seg_decoder is not None
        features = vae.seg_decoder.trunk(inputs.floats(batch, latents, sizes.latent_width, grad=True))
        return torch.cat([features.tokens, features.position], dim=-1)

    def answers(batch: int) -> Tensor:
        assert vae.seg_decoder is not None
        width, given = vae.seg_decoder.config.width, []
        features = SegFeatures(*(inputs.floats(batch, latents, width, grad=True) for _ in range(2)))
        for clicks in range(1, rounds + 1):
            index = inputs.indices(batch, prompts, clicks, below=latents)
            previous = None if clicks == 1 else inputs.floats(batch, prompts, latents)
            given.append(vae.seg_decoder(features, index, torch.ones_like(index), previous).logits)
        return torch.cat(given)

    passes: dict[str, Pass] = {
        "encode": lambda batch: encode(vae, batch, inputs),
        "decode": lambda batch: vae.decode_latents(inputs.floats(batch, latents, sizes.latent_width, grad=True)),
        f"{sum(config.queries)} queries": queries,
    }
    if vae.seg_decoder is not None:
        passes |= {"segmentation trunk": trunk, f"{prompts} prompts x {rounds} rounds": answers}
    return Workload(vae, passes)


def _whole(config: WholeTrainConfig, parents: Parents, inputs: Inputs) -> Workload:
    dit, image = WholeDiT(config.model), config.image_encoder
    trained, latents = nn.ModuleDict({"dit": dit}), (parents.vae.num_latents, config.model.latent_width)
    own_encoder = image.kind == "small"

    def velocity(batch: int) -> Tensor:
        context = inputs.floats(batch, image.num_tokens, image.width, grad=own_encoder)
        return dit(inputs.floats(batch, *latents), inputs.floats(batch).sigmoid(), context)

    passes: dict[str, Pass] = {"whole model": velocity}
    if own_encoder:
        trained["image_encoder"] = encoder = SmallImageEncoder(image)
        passes["image encoder"] = lambda batch: encode_image(encoder, image, batch, inputs)
    return Workload(trained, passes)


def _part(config: PartTrainConfig, parents: Parents, inputs: Inputs) -> Workload:
    dit, sizes, image = PartDiT(config.model), config.model, parents.image
    latents = (parents.vae.num_latents, sizes.latent_width)

    def velocity(batch: int) -> Tensor:
        whole, part = (inputs.floats(batch, latents[0], sizes.condition_width) for _ in range(2))
        valid = inputs.indices(batch, latents[0], below=2) > 0
        conditions = dit.conditions(inputs.floats(batch, image.num_tokens, image.width), whole, part, valid)
        x = DualLatents.from_stacked(inputs.floats(batch, len(sizes.spaces), *latents))
        return dit(x, inputs.floats(batch).sigmoid(), conditions).stacked()

    return Workload(dit, {"part model": velocity})
