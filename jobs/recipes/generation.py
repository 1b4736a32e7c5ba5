"""How to sample and decode with models of each size; the smaller the model, the coarser its field."""

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


SIZES = {"ci": ci, "tiny": tiny, "small": large, "base": large, "paper": large}


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
