"""From one image to an object made of parts: the whole of the paper's figure 1, in order.

image -> tokens -> whole model -> Z_0 -> D_pos, D_seg -> X_1 ... X_N -> part model -> X*_i -> D_geom -> meshes -> object
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from unipart.config import Config
from unipart.data.schema import Bundle, BundlePart
from unipart.geometry.mesh import Mesh
from unipart.geometry.spaces import PlacementConfig
from unipart.inference.checkpoints import Models, load_models
from unipart.inference.compose import DecodedPart, compose_part
from unipart.inference.decode import DecodeConfig, decode_mesh
from unipart.inference.point_conditions import point_conditions
from unipart.inference.preprocess import PreparedImage, prepare_image
from unipart.models.part_dit import DualLatents
from unipart.rng import derive, derive_seed
from unipart.sampling.guidance import guided
from unipart.sampling.solver import euler
from unipart.segmentation.part_latents import PartLatents, gather_parts
from unipart.segmentation.segment import Segmentation, SegmentConfig, segment_latents

Progress = Callable[[str, int, int], None]
"""Told (stage, done, total); stages are "whole", "segment", "parts", "decode"."""
PARTS_AT_ONCE = {"normal": 8, "low": 1}
QUERIES_AT_ONCE = {"normal": 65_536, "low": 8_192}
QUERIES_AT_ONCE_ON_CPU = 4_096
"""Their activations fit a core's cache: measured 1.7 times as fast as 65,536."""


class GenerateConfig(Config):
    """How an object is generated; the defaults are for the paper's models."""

    steps: int = Field(default=50, ge=1)
    """Sampling steps of both diffusion models."""
    guidance_whole: float = 5.0
    """Weight of the image in the whole model; 1 is no guidance."""
    guidance_part: float = 3.5
    """Weight of the conditions in the part model; 1 is no guidance."""
    resolution_whole: int = Field(default=256, ge=2)
    """Cells along an axis of the grid on which the whole is decoded."""
    resolution_gcs: int = Field(default=128, ge=2)
    """Likewise for a part in the object's frame, where only scale and position are measured."""
    resolution_ncs: int = Field(default=256, ge=2)
    """Likewise for a part in its own frame: the detail of the result."""
    segment: SegmentConfig = SegmentConfig()
    """How latents are grouped into parts."""
    placement: PlacementConfig = PlacementConfig()
    """How parts are put into place."""
    max_parts: int | None = Field(default=None, ge=1)
    """Most parts of an object; overrides `segment.max_parts`."""
    min_component: float = Field(default=0.01, ge=0, lt=1)
    """Floaters below this share of a mesh's area are dropped."""
    memory: Literal["normal", "low"] = "normal"
    """"low" keeps one model at a time on the device and generates one part at a time."""


@dataclass
class Journal:
    """What happened during a generation: goes into the bundle."""

    timings: dict[str, float] = field(default_factory=dict)
    fall_backs: list[str] = field(default_factory=list)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the seconds of a block to a stage."""
        start = time.perf_counter()
        yield
        self.timings[stage] = self.timings.get(stage, 0.0) + time.perf_counter() - start


class UniPartPipeline:
    """The models of a finished training, ready to generate.

    Args:
        models: from `unipart.inference.checkpoints.load_models`.
        device: where they run.
    """

    def __init__(self, models: Models, device: str | torch.device = "cpu") -> None:
        self.models = models
        self.device = torch.device(device)

    @classmethod
    def from_checkpoints(
        cls,
        vae: str | Path,
        anchor: str | Path,
        whole: str | Path,
        part: str | Path,
        image_weights: str | None = None,
        device: str | torch.device = "cpu",
    ) -> "UniPartPipeline":
        """Loads four checkpoints: folders, s3:// addresses, or models on the Hugging Face hub (`from_pretrained`).

        Args:
            vae: Geom-Seg VAE with its segmentation decoder.
            anchor: anchor decoder.
            whole: whole model; its subfolder image_encoder holds the image encoder.
            part: part model.
            image_weights: released DINOv2 weights to use instead of the checkpoint's copy.
            device: where to run.

        Raises:
            UserError: a folder is no checkpoint, or the checkpoints do not belong together (names both sides).
        """
        return cls(load_models(vae, anchor, whole, part, image_weights), device)

    def generate(
        self,
        image: str | Path | NDArray[np.uint8],
        config: GenerateConfig,
        seed: int = 0,
        object_id: str = "object",
        progress: Progress | None = None,
    ) -> Bundle:
        """Generates an object; the result depends on the image, the config and the seed alone.

        Args:
            image: file or pixels of the condition image.
            config: how.
            seed: of every draw.
            object_id: name of the bundle.
            progress: told how far it is.

        Raises:
            UserError: the image cannot be used.
        """
        run = _Run(self, config, seed, progress or (lambda stage, done, total: None), Journal())
        prepared = prepare_image(image, self.models.image_encoder.config.size)
        with torch.no_grad(), self._compute_type():
            z0 = run.whole_latents(prepared)
            segmentation = run.segmentation(z0)
            duals = run.part_latents(prepared, z0, segmentation)
            whole, parts = run.meshes(z0, segmentation, duals)
        return Bundle(
            object_id=object_id,
            parts=parts,
            whole=whole,
            anchors=segmentation.anchors.cpu().numpy().astype(np.float32),
            labels=segmentation.labels.cpu().numpy().astype(np.int16),
            masks=segmentation.masks.cpu().numpy(),
            image=prepared.pixels,
            info=self._info(run),
        )

    def _compute_type(self) -> AbstractContextManager[Any]:
        return torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext()

    def _info(self, run: "_Run") -> dict[str, Any]:
        return {
            "seed": run.seed,
            "steps": run.config.steps,
            "guidance": {"whole": run.config.guidance_whole, "part": run.config.guidance_part},
            "config": run.config.model_dump(mode="json"),
            "config_digest": run.config.digest(),
            "checkpoints": self.models.digests,
            "image_encoder": self.models.image_encoder_note,
            "device": str(self.device),
            "timings": {stage: round(seconds, 3) for stage, seconds in run.journal.timings.items()},
            "fall_backs": run.journal.fall_backs,
            "warnings": list(self.models.warnings),
        }


@dataclass(frozen=True)
class _Run:
    """One generation: its settings and the steps of the road, in order."""

    pipeline: UniPartPipeline
    config: GenerateConfig
    seed: int
    progress: Progress
    journal: Journal

    @property
    def models(self) -> Models:
        return self.pipeline.models

    @property
    def device(self) -> torch.device:
        return self.pipeline.device

    def whole_latents(self, image: PreparedImage) -> Float[Tensor, "L d"]:
        """Samples Z_0 with guidance; unscaled."""
        vae, model = self.models.vae, self.models.whole
        tokens = self._image_tokens(image)
        with self.journal.timed("whole"), self._resident(model):
            conditions = model.conditions(tokens)
            velocity = guided(lambda z, t: model(z, t, conditions), lambda z, t: model(z, t, None), self.config.guidance_whole)
            noise = self._noise("whole", 0, vae.config.num_latents)[None]
            z = euler(velocity, noise, self.config.steps, on_step=self._teller("whole", 0, self.config.steps))
        return z[0] / vae.z_scale.to(self.device)

    def segmentation(self, z0: Float[Tensor, "L d"]) -> Segmentation:
        """Groups the latents into parts."""
        self.progress("segment", 0, 1)
        limit = self.config.max_parts
        config = self.config.segment if limit is None else self.config.segment.replace(max_parts=limit)
        seg_decoder = self.models.vae.seg_decoder
        if seg_decoder is None:
            raise ValueError("the VAE has no segmentation decoder")
        with self.journal.timed("segment"), self._resident(self.models.vae), self._resident(self.models.anchor):
            segmentation = segment_latents(seg_decoder, self.models.anchor, z0, config)
        self.journal.fall_backs.extend(segmentation.fall_backs)
        self.progress("segment", 1, 1)
        return segmentation

    def part_latents(self, image: PreparedImage, z0: Float[Tensor, "L d"], segmentation: Segmentation) -> Float[Tensor, "N S L d"]:
        """Samples the dual latents of all parts, several parts at once; unscaled."""
        model, scale = self.models.part, self.models.vae.z_scale.to(self.device)
        tokens = self._image_tokens(image)
        whole, parts = self._part_conditions(z0, segmentation)
        at_once = PARTS_AT_ONCE[self.config.memory]
        batches = torch.arange(len(segmentation.masks), device=self.device).split(at_once)
        total, duals = self.config.steps * len(batches), []
        with self.journal.timed("parts"), self._resident(model):
            for number, rows in enumerate(batches):
                count, before = len(rows), number * self.config.steps
                conditions = model.conditions(
                    tokens.expand(count, -1, -1),
                    whole.expand(count, -1, -1),
                    parts.latents[rows],
                    parts.valid[rows],
                )
                velocity = guided(self._part_velocity(conditions), self._part_velocity(None), self.config.guidance_part)
                noise = torch.stack([self._part_noise(int(part)) for part in rows])
                duals.append(euler(velocity, noise, self.config.steps, on_step=self._teller("parts", before, total)))
        return torch.cat(duals) / scale

    def meshes(
        self, z0: Float[Tensor, "L d"], segmentation: Segmentation, duals: Float[Tensor, "N S L d"]
    ) -> tuple[Mesh | None, tuple[BundlePart, ...]]:
        """Decodes the whole and both meshes of every part, and puts the parts into place."""
        parts, total, has_ncs = [], 1 + len(duals), duals.shape[1] == 2
        anchors = segmentation.anchors.cpu().numpy().astype(np.float32)
        with self.journal.timed("decode"), self._resident(self.models.vae):
            whole = self._decode(z0, self.config.resolution_whole)
            if whole is None:
                self.journal.fall_backs.append("the whole has no surface")
            self.progress("decode", 1, total)
            for part_id, dual in enumerate(duals):
                decoded = DecodedPart(
                    part_id=part_id,
                    gcs_mesh=self._decode(dual[0], self.config.resolution_gcs if has_ncs else self.config.resolution_ncs),
                    ncs_mesh=self._decode(dual[1], self.config.resolution_ncs) if has_ncs else None,
                    anchors=anchors[segmentation.masks[part_id].cpu().numpy()],
                    predicted_iou=float(segmentation.iou[part_id]),
                )
                composed = compose_part(decoded, self.config.placement, derive(self.seed, "placement", part_id), has_ncs)
                if composed.part is not None:
                    parts.append(composed.part)
                if composed.fall_back:
                    self.journal.fall_backs.append(composed.fall_back)
                self.progress("decode", 2 + part_id, total)
        return whole, tuple(parts)

    def _image_tokens(self, image: PreparedImage) -> Float[Tensor, "B T Dc"]:
        encoder = self.models.image_encoder
        with self.journal.timed("image"), self._resident(encoder):
            pixels = torch.from_numpy(image.pixels).to(self.device).permute(2, 0, 1)[None].float() / 255
            return encoder(pixels)

    def _part_conditions(self, z0: Float[Tensor, "L d"], segmentation: Segmentation) -> tuple[Float[Tensor, "1 L E"], PartLatents]:
        """Z_0 and every X_i as the part model reads them: scaled latents or, in an ablation, features of the decoded surface."""
        config, masks, z = self.models.part.config, segmentation.masks, z0 * self.models.vae.z_scale.to(self.device)
        if config.cond_form == "points":
            with self.journal.timed("parts"), self._resident(self.models.vae):
                mesh = self._decode(z0, self.config.resolution_whole)
                if mesh is None:
                    self.journal.fall_backs.append("the whole has no surface: its parts get empty point conditions")
                    features = z.new_zeros(1 + len(masks), len(z), config.point_width)
                else:
                    rng = derive(self.seed, "point conditions")
                    features = point_conditions(self.models.vae, mesh, segmentation.anchors, masks, rng)
            return features[:1], PartLatents(features[1:], torch.ones_like(masks))
        # A set has no order, so X_i may be gathered to the front (the paper) or, to be marked as members of Z_0, left in its rows.
        return z[None], PartLatents(z * masks[..., None], masks) if config.kv == "fused" else gather_parts(z, masks)

    def _teller(self, stage: str, before: int, total: int) -> Callable[[int], None]:
        return lambda done: self.progress(stage, before + done, total)

    def _part_velocity(self, conditions: Any) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda x, t: self.models.part(DualLatents.from_stacked(x), t, conditions).stacked()

    def _part_noise(self, part_id: int) -> Float[Tensor, "S L d"]:
        spaces = len(self.models.part.config.spaces)
        return self._noise("part", part_id, spaces * self.models.vae.config.num_latents).unflatten(0, (spaces, -1))

    def _noise(self, name: str, number: int, rows: int) -> Float[Tensor, "L d"]:
        """Noise of its own for everything that is sampled, drawn on the CPU: no device or batch size changes it."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, name, number))
        return torch.randn(rows, self.models.vae.config.latent_width, generator=generator).to(self.device)

    def _decode(self, z: Float[Tensor, "L d"], resolution: int) -> Mesh | None:
        on_cpu = self.device.type == "cpu"
        config = DecodeConfig(
            resolution=resolution,
            chunk=QUERIES_AT_ONCE_ON_CPU if on_cpu else QUERIES_AT_ONCE[self.config.memory],
            min_component=self.config.min_component,
        )
        return decode_mesh(self.models.vae, z, config)

    @contextmanager
    def _resident(self, model: nn.Module) -> Iterator[None]:
        """Keeps a model on the device: for good, or for the length of the block when memory is low."""
        model.to(self.device)
        try:
            yield
        finally:
            if self.config.memory == "low":
                model.to("cpu")
