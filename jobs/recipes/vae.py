"""Recipes of the Geom-Seg VAE: latent space of geometry and segmentation (paper section 3.1)."""

from jobs.recipes.sizes import CI_RUN, Tier
from jobs.training.config import OptimizerConfig, VaeTrainConfig
from jobs.training.segmentation_rounds import SegmentationRoundsConfig
from unipart.models.geom_seg_vae import GeomSegVAEConfig
from unipart.models.seg_decoder import SegDecoderConfig


def model(tier: Tier) -> GeomSegVAEConfig:
    """Returns the VAE's sizes in a tier."""
    return GeomSegVAEConfig(
        num_latents=tier.num_latents,
        latent_width=tier.latent_width,
        width=tier.vae_width,
        num_heads=tier.vae_heads,
        encoder_layers=tier.encoder_layers,
        decoder_layers=tier.decoder_layers,
        points_per_latent=tier.points_per_latent,
        num_freqs=tier.num_freqs,
        tsdf_res=tier.tsdf_res,
        seg=SegDecoderConfig(
            width=tier.seg_width, num_heads=tier.seg_heads, trunk_layers=tier.seg_layers, mlp_width=4 * tier.seg_width
        ),
    )


def ci(tier: Tier) -> VaeTrainConfig:
    """A few steps on a CPU: tests."""
    return VaeTrainConfig(
        recipe="vae ci",
        **CI_RUN,
        optimizer=OptimizerConfig(lr=1e-3, ema_decay=0.0),
        model=model(tier),
        segmentation=SegmentationRoundsConfig(num_prompts=4, num_corrections=1),
        queries=tier.queries,
        scale_samples=8,
    )


def tiny(tier: Tier) -> VaeTrainConfig:
    """Two minutes on two CPU cores: the demo."""
    return ci(tier).replace(
        recipe="vae tiny",
        steps=750,
        batch_size=8,
        log_every=10,
        checkpoint_every=375,
        validate_every=375,
        validation_batches=2,
        score_resolution=32,
        optimizer__lr=6e-4,
        optimizer__decay_fraction=0.5,
        optimizer__ema_decay=0.98,
        segmentation__num_prompts=4,
        segmentation__num_corrections=0,
        segmentation_weight=0.1,
        kl_weight=1e-4,
        initial_std=0.1,
        scale_samples=48,
    )


def from_scratch(tier: Tier) -> VaeTrainConfig:
    """From scratch on GPUs (model.md section 5.5)."""
    return VaeTrainConfig(
        recipe=f"vae {tier.name}",
        steps=100_000,
        score_every=10_000,
        optimizer=OptimizerConfig(lr=1e-4),
        unlabelled_fraction=0.3,
        model=model(tier),
        queries=tier.queries,
    )


def base(tier: Tier) -> VaeTrainConfig:
    """From scratch on one GPU, compiled."""
    return from_scratch(tier).replace(compile_blocks=True)


def large(tier: Tier) -> VaeTrainConfig:
    """As base, in smaller micro-batches: 32 objects at once would take 106 GiB."""
    return base(tier).replace(accumulate=4)


def paper(tier: Tier) -> VaeTrainConfig:
    """Fine-tuning at the paper's size: 1e-5 for what is imported, 1e-4 for D_seg."""
    recipe = base(tier).replace(optimizer__lr=1e-5, optimizer__lr_factors={"seg_decoder": 10.0}, accumulate=8)
    return recipe.replace(model__label_init="zero")
