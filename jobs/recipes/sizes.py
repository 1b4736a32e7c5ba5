"""One dial: every size of the four models hangs on the name of a tier (model.md section 8.1)."""

from typing import Any, Literal

from unipart.config import Config
from unipart.errors import UserError, did_you_mean


class Tier(Config):
    """The sizes of one rung of the ladder, from a unit test to the paper."""

    name: str
    vae_width: int
    vae_heads: int
    encoder_layers: int
    decoder_layers: int
    num_latents: int
    """L."""
    latent_width: int
    """The paper's d."""
    points_per_latent: int = 20
    num_freqs: int = 8
    """Fourier frequencies of positions; a short training needs few, for high ones take long to be of use."""
    tsdf_res: float
    """The field is clamp(tsdf_res * signed distance, -1, 1): small models need a wide band."""
    queries: tuple[int, int, int]
    """Volume, near-surface and sharp-edge queries a step."""
    seg_width: int
    seg_heads: int
    seg_layers: int
    hidden: int
    """Width of both diffusion models."""
    depth: int
    """Odd, because layers are paired by skips."""
    heads: int
    moe_layers: int
    num_experts: int
    image_kind: Literal["dinov2", "small"]
    image_size: int
    image_width: int
    image_heads: int
    image_layers: int


CI = Tier(
    name="ci", vae_width=64, vae_heads=2, encoder_layers=1, decoder_layers=2, num_latents=32, latent_width=16,
    tsdf_res=8, queries=(128, 128, 64), seg_width=64, seg_heads=4, seg_layers=1,
    hidden=128, depth=5, heads=2, moe_layers=1, num_experts=2,
    image_kind="small", image_size=56, image_width=64, image_heads=2, image_layers=1,
)  # fmt: skip
TINY = Tier(
    name="tiny", vae_width=96, vae_heads=4, encoder_layers=2, decoder_layers=3, num_latents=64, latent_width=16,
    points_per_latent=8, num_freqs=4, tsdf_res=8, queries=(192, 256, 64), seg_width=96, seg_heads=4, seg_layers=2,
    hidden=128, depth=5, heads=4, moe_layers=0, num_experts=2,
    image_kind="small", image_size=112, image_width=64, image_heads=4, image_layers=2,
)  # fmt: skip
MINI = Tier(
    name="mini", vae_width=256, vae_heads=4, encoder_layers=2, decoder_layers=4, num_latents=256, latent_width=64,
    tsdf_res=16, queries=(1024, 1024, 1024), seg_width=128, seg_heads=4, seg_layers=2,
    hidden=512, depth=9, heads=8, moe_layers=0, num_experts=8,
    image_kind="dinov2", image_size=224, image_width=384, image_heads=6, image_layers=12,
)  # fmt: skip
SMALL = Tier(
    name="small", vae_width=512, vae_heads=8, encoder_layers=4, decoder_layers=8, num_latents=512, latent_width=64,
    tsdf_res=32, queries=(2048, 2048, 2048), seg_width=256, seg_heads=8, seg_layers=4,
    hidden=768, depth=13, heads=12, moe_layers=0, num_experts=8,
    image_kind="dinov2", image_size=224, image_width=384, image_heads=6, image_layers=12,
)  # fmt: skip
BASE = Tier(
    name="base", vae_width=768, vae_heads=12, encoder_layers=6, decoder_layers=12, num_latents=1024, latent_width=64,
    tsdf_res=64, queries=(4096, 4096, 4096), seg_width=384, seg_heads=8, seg_layers=4,
    hidden=1024, depth=17, heads=16, moe_layers=0, num_experts=8,
    image_kind="dinov2", image_size=224, image_width=768, image_heads=12, image_layers=12,
)  # fmt: skip
LARGE = Tier(
    name="large", vae_width=1024, vae_heads=16, encoder_layers=8, decoder_layers=16, num_latents=1024, latent_width=64,
    tsdf_res=128, queries=(4096, 4096, 4096), seg_width=512, seg_heads=8, seg_layers=4,
    hidden=1536, depth=21, heads=12, moe_layers=0, num_experts=8,
    image_kind="dinov2", image_size=518, image_width=1024, image_heads=16, image_layers=24,
)  # fmt: skip
PAPER = Tier(
    name="paper", vae_width=1024, vae_heads=16, encoder_layers=8, decoder_layers=16, num_latents=4096, latent_width=64,
    tsdf_res=128, queries=(4096, 4096, 4096), seg_width=512, seg_heads=8, seg_layers=4,
    hidden=2048, depth=21, heads=16, moe_layers=6, num_experts=8,
    image_kind="dinov2", image_size=518, image_width=1024, image_heads=16, image_layers=24,
)  # fmt: skip

CI_RUN: dict[str, Any] = {
    "steps": 20,
    "batch_size": 4,
    "precision": "fp32",
    "log_every": 5,
    "checkpoint_every": 10,
    "validate_every": 20,
    "validation_batches": 1,
    "score_objects": 2,
    "score_resolution": 16,
    "loader_workers": 0,
    "cache_samples": True,
}
"""Rhythm of every training at the `ci` size: a few steps on a CPU, everything in memory."""

TIERS = {tier.name: tier for tier in (CI, TINY, MINI, SMALL, BASE, LARGE, PAPER)}


def tier(name: str) -> Tier:
    """Returns a tier by name.

    Raises:
        UserError: no such tier.
    """
    if name not in TIERS:
        raise UserError(f"there is no size {name!r}.{did_you_mean(name, list(TIERS))}", f"sizes: {', '.join(TIERS)}")
    return TIERS[name]
