"""A few steps of any training on made-up objects, in memory and on the CPU: does the recipe run at all?"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from jobs.runs import read_history
from jobs.training.batches import make_draw
from jobs.training.config import AnyTrainConfig, Kind, TrainConfig
from jobs.training.frozen import seeded
from jobs.training.launch import PARENTS
from jobs.training.loop import Place, Run, fit
from jobs.training.objectives import make_objective
from unipart.data.loader import collate
from unipart.data.schema import QUERY_KINDS, PartSamples, Sample, SurfaceSamples, View
from unipart.geometry.mesh import Similarity, concatenate
from unipart.geometry.solids import sphere
from unipart.inference.checkpoints import IMAGE_ENCODER
from unipart.models.geom_seg_vae import GeomSegVAE, GeomSegVAEConfig
from unipart.models.image_encoder import ImageEncoderConfig, make_image_encoder
from unipart.models.pretrained import save_pretrained
from unipart.models.whole_dit import WholeDiT, WholeDiTConfig
from unipart.rng import derive

MARGIN = 0.9999
POINTS_PER_PART = 400


def smoke_run(
    config: AnyTrainConfig, vae: GeomSegVAEConfig, image: ImageEncoderConfig, whole: WholeDiTConfig, steps: int = 1
) -> dict[str, float]:
    """Trains on two objects in a temporary folder: forward, backward, optimiser step, validation, checkpoint.

    Args:
        config: the recipe, small enough for a CPU.
        vae: of the frozen VAE, which gets random weights; so does every model that the recipe builds on.
        image: of the image encoder.
        whole: of the whole model that a part model builds on.
        steps: optimiser steps.

    Returns:
        The last step's row of the history: loss, its terms, grad_norm, lr.
    """
    changes = {"steps": steps, "batch_size": 2, "accumulate": 1, "log_every": 1, "validate_every": steps, "checkpoint_every": steps}
    config = config.replace(**changes, validation_batches=1, precision="fp32")
    if config.kind == "vae":
        config = config.replace(scale_samples=2)
    place = Place(torch.device("cpu"))
    with TemporaryDirectory(prefix="unipart-smoke-") as folder:
        parents = write_parents(Path(folder), PARENTS[config.kind], vae, image, whole)
        source = MadeUpSource(config, vae if parents else None, image.size)
        fit(Run(config, make_objective(config, parents, None, place), source, Path(folder) / "run", place))
        rows = [row for row in read_history(Path(folder) / "run") if "loss" in row]
    return rows[-1]


class MadeUpSource:
    """Batches of `two_balls`, drawn as a training draws them from shards."""

    def __init__(self, config: TrainConfig, vae: GeomSegVAEConfig | None, image_size: int) -> None:
        self.batch_size, self.seed = config.batch_size, config.seed
        self.draw = make_draw(config, vae, image_size)  # pyright: ignore[reportArgumentType]

    def train(self, start: int) -> Iterator[dict[str, object]]:
        """Yields batches without end."""
        number = start
        while True:
            names = [f"object{number * self.batch_size + row}" for row in range(self.batch_size)]
            rngs = [derive(self.seed, "smoke", name) for name in names]
            yield collate([self.draw(two_balls(name, rng), rng) for name, rng in zip(names, rngs, strict=True)])
            number += 1

    def validation(self) -> Iterator[dict[str, object]]:
        """Yields one batch."""
        yield next(self.train(0))


def two_balls(name: str, rng: np.random.Generator) -> Sample:
    """Returns an object of two separate balls of random sizes, complete in the sample's schema; all but the meshes is exact."""
    radii = rng.uniform([0.45, 0.25], [0.5, 0.35])
    centres = np.array([[0, radii[0] - MARGIN, 0], [rng.uniform(-0.3, 0.3), MARGIN - radii[1], 0]])
    normals = rng.standard_normal((2, POINTS_PER_PART, 3))
    normals = (normals / np.linalg.norm(normals, axis=-1, keepdims=True)).astype(np.float32)
    surface = (centres[:, None] + radii[:, None, None] * normals).astype(np.float32)
    queries = rng.uniform(-1.05, 1.05, (3 * POINTS_PER_PART, 3)).astype(np.float32)
    field = (radii - np.linalg.norm(queries[:, None] - centres, axis=-1)).max(1).astype(np.float32)
    to_ncs = tuple(Similarity.of(MARGIN / radius, -centre * MARGIN / radius) for centre, radius in zip(centres, radii, strict=True))
    part_queries = rng.uniform(-1.05, 1.05, (2, POINTS_PER_PART, 3)).astype(np.float32)
    ncs_field = (MARGIN - np.linalg.norm(part_queries, axis=-1)).astype(np.float32)
    ball = sphere(MARGIN)
    image = np.zeros((32, 32, 4), np.uint8)
    image[8:24, 8:24] = (*rng.integers(256, size=3), 255)
    return Sample(
        sample_id=name,
        meta={"num_parts": 2, "parts": [{"area": float(4 * np.pi * radius**2)} for radius in radii]},
        surface=SurfaceSamples(
            surface.reshape(-1, 3), normals.reshape(-1, 3), np.repeat(np.arange(2, dtype=np.int16), POINTS_PER_PART)
        ),
        queries=queries,
        field=field,
        query_kind=np.repeat(np.arange(len(QUERY_KINDS), dtype=np.uint8), len(queries) // len(QUERY_KINDS)),
        parts=PartSamples(
            to_ncs=to_ncs,
            points=np.stack([frame.apply(points) for frame, points in zip(to_ncs, surface, strict=True)]),
            normals=normals,
            gcs_queries=np.stack([frame.invert().apply(points) for frame, points in zip(to_ncs, part_queries, strict=True)]),
            gcs_field=(ncs_field * (radii / MARGIN)[:, None]).astype(np.float32),
            ncs_queries=part_queries,
            ncs_field=ncs_field,
        ),
        mesh=concatenate([ball.transformed(frame.invert()) for frame in to_ncs]),
        part_meshes=(ball, ball),
        views=(View(image, None, None, {}),),
    )


def write_parents(
    folder: Path, kinds: tuple[Kind, ...], vae: GeomSegVAEConfig, image: ImageEncoderConfig, whole: WholeDiTConfig
) -> dict[str, Path]:
    """Writes untrained models where a finished training would have left them."""
    for kind in kinds:
        save_pretrained(seeded(lambda kind=kind: GeomSegVAE(vae) if kind == "vae" else WholeDiT(whole), 0), folder / kind)
        if kind == "whole":
            save_pretrained(seeded(lambda: make_image_encoder(image), 0), folder / kind / IMAGE_ENCODER)
    return {str(kind): folder / kind for kind in kinds}
