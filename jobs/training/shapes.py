"""The VAE as validation uses it: true objects into latents, latents into meshes, meshes into figures.

Every draw hangs on the seed and the object alone and is made on the CPU: neither the step, the worker nor the device changes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from jobs.recipes.generation import generation
from jobs.training.batches import draw_surface
from jobs.training.frozen import M, load_frozen, seeded
from jobs.training.loop import Place
from unipart.data.schema import Sample
from unipart.geometry.mesh import Mesh
from unipart.inference.decode import DecodeConfig, decode_mesh
from unipart.inference.pipeline import QUERIES_AT_ONCE, QUERIES_AT_ONCE_ON_CPU, GenerateConfig
from unipart.metrics.shape import (
    MetricsConfig,
    draw_points,
    draw_seed,
    empty_metrics,
    is_empty,
    nearest_tree,
    point_metrics,
    shape_metrics,
)
from unipart.models.geom_seg_vae import GeomSegVAE, label_values
from unipart.rng import derive, derive_seed

SHAPE = ("cd_l1_sum", "cd_l2sq_sum", "f@.01", "f@.05", "f@.10", "iou64", "empty")
"""What is kept of the shape metrics."""
PART_SHAPE = ("cd_l1_sum", "f@.05")
"""Likewise for each space of a part."""


@dataclass(frozen=True)
class Context:
    """What all scorers need.

    Attributes:
        seed: of the run.
        resolution: cells along an axis of the grid on which shapes are decoded.
        place: device.
        parents: checkpoint folders that the training builds on, by kind.
        anchor: checkpoint of the anchor decoder of the same VAE, or None.
    """

    seed: int
    resolution: int
    place: Place
    parents: dict[str, Path] = field(default_factory=dict)
    anchor: Path | None = None

    @property
    def device(self) -> torch.device:
        """Where models run."""
        return self.place.device

    def rng(self, sample: Sample, *keys: str | int) -> np.random.Generator:
        """Returns an object's generator for what the keys name."""
        return derive(self.seed, "validation", sample.sample_id, *keys)

    def draw(self, sample: Sample, *keys: str | int) -> Generator:
        """Returns the same for torch."""
        return Generator().manual_seed(derive_seed(self.seed, "validation", sample.sample_id, *keys))

    def noise(self, sample: Sample, shape: Sequence[int], *keys: str | int) -> Tensor:
        """Returns an object's noise on the device."""
        return torch.randn(tuple(shape), generator=self.draw(sample, *keys)).to(self.device)

    def load(self, folder: Path, kind: type[M]) -> M:
        """Loads a frozen model in the midst of a training: torch's global generator is left as it was."""
        return seeded(lambda: load_frozen(folder, kind, self.place), self.seed)


@dataclass(frozen=True)
class TrueLatents:
    """A true object as the VAE encodes it.

    Attributes:
        z: [L d], sampled.
        anchors: [L 3].
        token_labels: part id per latent [L].
    """

    z: Tensor
    anchors: Tensor
    token_labels: Tensor


class Shapes:
    """The VAE as the scorers use it: true objects into latents, latents into meshes, meshes into figures.

    Args:
        vae: the VAE.
        context: seed, device, resolution.
    """

    def __init__(self, vae: GeomSegVAE, context: Context) -> None:
        self.vae, self.context = vae, context
        self.settings: GenerateConfig = generation("auto", vae.config)
        # Points closer than the cells of the grid; at 128 cells about as many as the score tables have.
        self.metrics = MetricsConfig(num_points=12 * context.resolution**2, normalise=False)
        on_cpu = context.device.type == "cpu"
        self.decoding = DecodeConfig(
            resolution=context.resolution,
            chunk=QUERIES_AT_ONCE_ON_CPU if on_cpu else QUERIES_AT_ONCE["normal"],
            min_component=self.settings.min_component,
        )

    def encode(self, sample: Sample, number: int = 0) -> TrueLatents:
        """Encodes an object with its labels; each number draws other surface points, anchors and noise."""
        vae, device = self.vae, self.context.device
        surface = draw_surface(sample, vae.config.num_points, self.context.rng(sample, "surface", number))
        points, normals = (torch.from_numpy(a.astype(np.float32))[None].to(device) for a in (surface.points, surface.normals))
        labels = torch.from_numpy(surface.labels.astype(np.int64))[None].to(device)
        values = label_values(labels, torch.tensor([sample.num_parts], device=device), vae.config.label_encoding, None)
        draw = self.context.draw(sample, "encode", number)
        encoding = vae.encode(points, normals, values, draw)
        return TrueLatents(encoding.sample(draw)[0], encoding.anchors[0], encoding.token_labels(labels)[0])

    def decode(self, z: Float[Tensor, "L d"]) -> Mesh | None:
        """Decodes unscaled latents."""
        return decode_mesh(self.vae, z, self.decoding)

    def compare(self, mesh: Mesh | None, truth: Mesh, sample: Sample) -> dict[str, float]:
        """Compares two meshes as they stand."""
        scores = shape_metrics(mesh, truth, self.metrics, self.context.rng(sample, "metrics"))
        return {name: scores[name] for name in SHAPE}

    def compare_part(self, mesh: Mesh | None, truth: Mesh, sample: Sample) -> dict[str, float]:
        """Compares points of two parts as they stand."""
        config, seed = self.metrics, draw_seed(self.context.rng(sample, "metrics"))
        scores = empty_metrics(config)
        if mesh is not None and not is_empty(mesh):
            one, other = (draw_points(part, min(config.part_points, config.num_points), seed) for part in (mesh, truth))
            distances = nearest_tree(other).query(one)[0], nearest_tree(one).query(other)[0]
            scores = point_metrics(*distances, config.thresholds)
        return {name: scores[name] for name in PART_SHAPE}
