"""The finished models that a training builds on: loaded once, never trained; the VAE's encoder, and latent shards in its place."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Generator, Tensor, nn

from jobs.training.batches import ONLINE
from jobs.training.config import AnchorTrainConfig, PartTrainConfig, WholeTrainConfig
from jobs.training.loop import Place
from unipart.data.latents import read_latent_manifest
from unipart.errors import UserError
from unipart.models.geom_seg_vae import GeomSegVAE, label_values
from unipart.models.pretrained import WEIGHTS, load_pretrained, read_tensors, weights_digest
from unipart.models.seg_decoder import SegDecoder
from unipart.rng import derive_seed

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Posterior:
    """What the frozen VAE says of a batch of shapes.

    Attributes:
        mean, logvar: [B L d] float32.
        token_labels: part id per latent [B L], -1 unknown.
        anchors: [B L 3].
    """

    mean: Tensor
    logvar: Tensor
    token_labels: Tensor
    anchors: Tensor

    def sample(self, draw: Generator) -> Float[Tensor, "B L d"]:
        """Draws latents; the mean would be another distribution than the one the decoders learnt."""
        return self.mean + (0.5 * self.logvar).exp() * torch.randn(self.mean.shape, generator=draw, device=self.mean.device)


class FrozenEncoder:
    """The trained VAE's encoder; fixed draws are encoded with anchors of their own, and once where there is a memory.

    Args:
        vae: the frozen VAE.
        cache: remember. The batches must then hold fixed draws (`PointShapes`).
        seed: of the anchors of fixed draws.
    """

    def __init__(self, vae: GeomSegVAE, cache: bool, seed: int) -> None:
        self.vae, self.seed = vae, seed
        self.known: dict[str, Posterior] | None = {} if cache else None

    @property
    def scale(self) -> Tensor:
        """The VAE's z_scale."""
        return self.vae.z_scale

    def whole(self, batch: dict[str, Any], draw: Generator) -> Posterior:
        """Encodes the whole objects of a batch with sorted labels."""
        keys = [_key(name, point_draw) for name, point_draw in _names(batch)]
        points, anchors = batch["points"], batch.get("anchor_index")
        return self._lookup(keys, points, batch["normals"], batch["labels"], batch["num_parts"], anchors, draw)

    def part(self, batch: dict[str, Any], space: str, draw: Generator) -> Posterior:
        """Encodes the parts of a batch alone, with label 0, in one of their frames."""
        parts = batch["part"].tolist()
        keys = [_key(f"{name}/{part}/{space}", number) for (name, number), part in zip(_names(batch), parts, strict=True)]
        unknown, one = torch.full_like(batch["labels"], -1), torch.ones_like(batch["num_parts"])
        points, anchors = batch[f"{space}_points"], batch.get("part_anchor_index")
        return self._lookup(keys, points, batch["part_normals"], unknown, one, anchors, draw)

    @torch.no_grad()
    def point_features(self, points: Float[Tensor, "B C 3"], normals: Float[Tensor, "B C 3"], draw: Generator) -> Tensor:
        """Returns the encoder's features of surface points [B L W], for conditions in point form."""
        return self.vae.point_features(points, normals, draw).float()

    @torch.no_grad()
    def _lookup(
        self,
        keys: list[str],
        points: Tensor,
        normals: Tensor,
        labels: Tensor,
        num_parts: Tensor,
        anchors: Tensor | None,
        draw: Generator,
    ) -> Posterior:
        if self.known is None:
            return self._encode(points, normals, labels, num_parts, anchors, draw)
        for row, key in enumerate(keys):
            if key not in self.known:
                # One by one, with draws of its own: the result must not depend on the batch in which an object is first met.
                own = Generator(points.device).manual_seed(derive_seed(self.seed, "anchors", key))
                one = slice(row, row + 1)
                given = None if anchors is None else anchors[one]
                self.known[key] = self._encode(points[one], normals[one], labels[one], num_parts[one], given, own)
        found = [self.known[key] for key in keys]
        return Posterior(*(torch.cat([getattr(one, name) for one in found]) for name in Posterior.__dataclass_fields__))

    def _encode(
        self, points: Tensor, normals: Tensor, labels: Tensor, num_parts: Tensor, anchors: Tensor | None, draw: Generator
    ) -> Posterior:
        values = label_values(labels, num_parts, self.vae.config.label_encoding, None)
        encoding = self.vae.encode(points, normals, values, draw, anchors)
        return Posterior(encoding.mean, encoding.logvar, encoding.token_labels(labels), encoding.anchors)


class StoredEncoder:
    """Stands for the frozen encoder where its answers are read from latent shards; the VAE itself is not loaded.

    Args:
        latents: address of the shards.
        folder: checkpoint of the VAE that the training builds on.
        place: device.

    Raises:
        UserError: another VAE made the latents.
    """

    def __init__(self, latents: str, folder: Path, place: Place) -> None:
        self.config = read_latent_manifest(latents).config
        self.latents, wanted = latents, weights_digest(folder)
        self._check("VAE", self.config["vae"], f"the training builds on {wanted} in {folder}", wanted)
        self.scale = read_tensors(folder / WEIGHTS)["z_scale"].to(place.device)

    def check_images(self, encoder: nn.Module) -> None:
        """Checks that this image encoder made the tokens, if there are any.

        Raises:
            UserError: another one did.
        """
        made_by, wanted = self.config["image_encoder"], module_digest(encoder)
        if made_by:
            self._check("image encoder", made_by, f"the training uses {wanted}", wanted)

    def whole(self, batch: dict[str, Any], draw: Generator) -> Posterior:
        """Returns the posteriors of the whole objects."""
        return Posterior(*(batch[name] for name in Posterior.__dataclass_fields__))

    def part(self, batch: dict[str, Any], space: str, draw: Generator) -> Posterior:
        """Returns the posteriors of the parts in one of their frames; nothing asks for their anchors."""
        unknown = torch.full_like(batch["token_labels"], -1)
        return Posterior(batch[f"{space}_mean"], batch[f"{space}_logvar"], unknown, torch.full_like(batch["anchors"], torch.nan))

    def _check(self, what: str, made_by: str, told: str, wanted: str) -> None:
        if made_by != wanted:
            raise UserError(
                f"the latents in {self.latents} were made by {what} {made_by}, but {told}",
                "give latents of this model (`unipart data encode`), or --latents online",
            )


def make_encoder(config: AnchorTrainConfig | WholeTrainConfig | PartTrainConfig, folder: Path, place: Place) -> Any:
    """Returns what tells the posteriors of a batch: the frozen VAE of a checkpoint, or latent shards that it made."""
    if config.latents == ONLINE:
        return FrozenEncoder(load_frozen(folder, GeomSegVAE, place), config.cache_latents, config.seed)
    if isinstance(config, PartTrainConfig) and config.model.cond_form == "points":
        raise UserError("conditions in point form need the VAE, which latent shards replace", "--latents online")
    return StoredEncoder(config.latents, folder, place)


def image_tokens(encoder: nn.Module, batch: dict[str, Any]) -> Tensor:
    """Returns the tokens of a batch's images, read or encoded."""
    return batch["image_tokens"] if "image_tokens" in batch else encoder(batch["image"])


def module_digest(module: nn.Module) -> str:
    """Returns the digest that a model's weights get in a checkpoint."""
    weights = {name: value.detach().contiguous().cpu() for name, value in module.state_dict().items()}
    return hashlib.sha256(save(weights)).hexdigest()


def _names(batch: dict[str, Any]) -> list[tuple[str, int]]:
    return list(zip(batch["sample_id"], batch["point_draw"].tolist(), strict=True))


def _key(name: str, draw: int) -> str:
    return f"{name}#{draw}" if draw > 0 else name


def load_frozen(folder: Path, kind: type[M], place: Place) -> M:
    """Returns a checkpoint's model on the device, without gradients.

    Raises:
        UserError: the folder holds another model.
    """
    model = load_pretrained(folder)
    if not isinstance(model, kind):
        raise UserError(f"{folder} holds a {type(model).__name__}, not a {kind.__name__}", "give the folder of the right model")
    return model.to(place.device).requires_grad_(False).eval()


def load_segmenter(folder: Path, place: Place) -> SegDecoder:
    """Returns the frozen D_seg of a VAE's checkpoint on the device.

    Raises:
        UserError: the VAE has none.
    """
    segmenter = load_frozen(folder, GeomSegVAE, place).seg_decoder
    if segmenter is None:
        raise UserError(f"{folder} holds a VAE without a segmentation decoder", "train with true masks alone: --predicted_masks 0")
    return segmenter


def seeded(build: Callable[[], M], seed: int) -> M:
    """Returns a freshly initialised module that depends on the seed alone; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "init"))
        return build()
