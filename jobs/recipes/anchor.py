"""Recipes of the anchor decoder: where on the object each latent sits (paper section 3.2)."""

from jobs.recipes.sizes import CI_RUN, Tier
from jobs.training.config import AnchorTrainConfig, OptimizerConfig
from unipart.models.anchor_decoder import AnchorDecoderConfig


def ci(tier: Tier) -> AnchorTrainConfig:
    """A few steps on a CPU: tests."""
    return AnchorTrainConfig(
        recipe="anchor ci",
        **CI_RUN,
        cache_latents=True,
        optimizer=OptimizerConfig(lr=2e-3, ema_decay=0.0),
        model=AnchorDecoderConfig(kind="mlp", latent_width=tier.latent_width, width=64),
    )


def tiny(tier: Tier) -> AnchorTrainConfig:
    """A quarter of a minute: the demo."""
    return ci(tier).replace(
        recipe="anchor tiny",
        steps=500,
        batch_size=16,
        log_every=25,
        checkpoint_every=500,
        validate_every=500,
        optimizer__decay_fraction=0.5,
        model__width=192,
    )


def from_scratch(tier: Tier) -> AnchorTrainConfig:
    """On GPUs (model.md section 5.5)."""
    return AnchorTrainConfig(
        recipe=f"anchor {tier.name}",
        steps=20_000,
        score_every=5_000,
        batch_size=256,
        optimizer=OptimizerConfig(lr=1e-3, decay_fraction=1.0, ema_decay=0.0),
        model=AnchorDecoderConfig(latent_width=tier.latent_width),
    )


def paper(tier: Tier) -> AnchorTrainConfig:
    """As from scratch, in smaller micro-batches."""
    return from_scratch(tier).replace(accumulate=8)
