"""The finished models that a training builds on: loaded once, never trained, and the VAE's encoder with a memory."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from jobs.training.loop import Place
from unipart.errors import UserError
from unipart.models.geom_seg_vae import GeomSegVAE, label_values
from unipart.models.pretrained import load_pretrained
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
    """The trained VAE's encoder; with a memory, an object encoded once is looked up from then on.

    Args:
        folder: checkpoint of the VAE.
        cache: remember. The batches must then give an object the same points each time.
        seed: of the anchors of remembered objects.
        place: device.
    """

    def __init__(self, folder: Path, cache: bool, seed: int, place: Place) -> None:
        self.vae = load_frozen(folder, GeomSegVAE, place)
        self.seed = seed
        self.known: dict[str, Posterior] | None = {} if cache else None

    @property
    def scale(self) -> Tensor:
        """The VAE's z_scale."""
        return self.vae.z_scale

    @torch.no_grad()
    def __call__(
        self,
        keys: list[str],
        points: Float[Tensor, "B C 3"],
        normals: Float[Tensor, "B C 3"],
        labels: Int[Tensor, "B C"],
        num_parts: Int[Tensor, " B"],
        draw: Generator,
    ) -> Posterior:
        """Encodes with sorted labels; `keys` name the shapes for the memory."""
        if self.known is None:
            return self._encode(points, normals, labels, num_parts, draw)
        for row, key in enumerate(keys):
            if key not in self.known:
                # One by one, with draws of its own: the result must not depend on the batch in which an object is first met.
                own = Generator(points.device).manual_seed(derive_seed(self.seed, "anchors", key))
                one = slice(row, row + 1)
                self.known[key] = self._encode(points[one], normals[one], labels[one], num_parts[one], own)
        found = [self.known[key] for key in keys]
        return Posterior(*(torch.cat([getattr(one, name) for one in found]) for name in Posterior.__dataclass_fields__))

    @torch.no_grad()
    def point_features(self, points: Float[Tensor, "B C 3"], normals: Float[Tensor, "B C 3"], draw: Generator) -> Tensor:
        """Returns the encoder's features of surface points [B L W], for conditions in point form."""
        return self.vae.point_features(points, normals, draw).float()

    def _encode(self, points: Tensor, normals: Tensor, labels: Tensor, num_parts: Tensor, draw: Generator) -> Posterior:
        values = label_values(labels, num_parts, self.vae.config.label_encoding, None)
        encoding = self.vae.encode(points, normals, values, draw)
        return Posterior(encoding.mean, encoding.logvar, encoding.token_labels(labels), encoding.anchors)


def load_frozen(folder: Path, kind: type[M], place: Place) -> M:
    """Returns a checkpoint's model on the device, without gradients.

    Raises:
        UserError: the folder holds another model.
    """
    model = load_pretrained(folder)
    if not isinstance(model, kind):
        raise UserError(f"{folder} holds a {type(model).__name__}, not a {kind.__name__}", "give the folder of the right model")
    return model.to(place.device).requires_grad_(False).eval()


def seeded(build: Callable[[], M], seed: int) -> M:
    """Returns a freshly initialised module that depends on the seed alone; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "init"))
        return build()
