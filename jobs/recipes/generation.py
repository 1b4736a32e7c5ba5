"""How to sample and decode with models of each size; the smaller the model, the coarser its field."""

from typing import Any

from unipart.errors import UserError, did_you_mean
from unipart.inference.pipeline import GenerateConfig
from unipart.models.geom_seg_vae import GeomSegVAEConfig
from unipart.segmentation.segment import SegmentConfig


def ci() -> GenerateConfig:
    """Seconds on a CPU: tests."""
    return GenerateConfig(
        steps=4,
        resolution_whole=24,
        resolution_gcs=16,
        resolution_ncs=24,
        segment=SegmentConfig(num_prompts=16),
        max_parts=4,
    )


def tiny() -> GenerateConfig:
    """Some seconds an object on two CPU cores: the demo. Small models are guided weakly."""
    return GenerateConfig(
        steps=25,
        guidance_whole=2.0,
        guidance_part=1.5,
        resolution_whole=96,
        resolution_gcs=64,
        resolution_ncs=80,
        segment=SegmentConfig(num_prompts=48),
        max_parts=12,
    )


def large() -> GenerateConfig:
    """The paper's models and those in between."""
    return GenerateConfig()


SIZES = {"ci": ci, "tiny": tiny, **dict.fromkeys(("mini", "small", "base", "large", "paper"), large)}
SWITCHES: dict[str, tuple[tuple[Any, ...], str]] = {
    "steps": ((25, 100), "time against detail: the cost of both diffusion models is in proportion"),
    "guidance_whole": ((1.0, 2.0, 7.0), "how closely the whole follows the image; 1 needs no unconditional pass"),
    "guidance_part": ((1.0, 2.0, 5.0, 7.0), "how closely a part follows image, Z_0 and X_i"),
    "segment.num_prompts": ((64, 1024, 4096), "small parts that are found; as many as latents is the paper's dense prompt"),
    "segment.nms": ((0.8, 0.9), "overlap from which two masks are one part: higher keeps more parts"),
    "segment.granularity": (("fine", "coarse"), "more and smaller, or fewer and larger parts"),
    "placement.method": (("bbox", "robust"), "how a part's scale and place are measured; bbox is the paper's"),
    "resolution_ncs": ((384,), "detail of the parts, at the cube of the memory"),
}
"""Ablations that need no training: field of `GenerateConfig` -> values to compare with the default, and what they change."""


def generation(size: str, vae: GeomSegVAEConfig) -> GenerateConfig:
    """Returns the settings of a size; "auto" looks at the VAE's latents.

    Raises:
        UserError: no such size.
    """
    if size == "auto":
        size = "ci" if vae.num_latents <= 32 else "tiny" if vae.num_latents <= 128 else "base"
    if size not in SIZES:
        raise UserError(f"there is no size {size!r}.{did_you_mean(size, list(SIZES))}", f"one of auto, {', '.join(SIZES)}")
    return SIZES[size]()
