"""Recipes of the whole model: image -> latents of the object (paper section 3.2)."""

from typing import Any

from jobs.recipes.sizes import CI_RUN, Tier
from jobs.training.config import OptimizerConfig, WholeTrainConfig
from unipart.models.image_encoder import ImageEncoderConfig
from unipart.models.whole_dit import WholeDiTConfig

T_SCALE = 1000.0
"""Resolves time when training from scratch; imported weights need 1."""
COUPLED: dict[str, Any] = {"coupling": "assignment", "time_shift": 0.1}
"""Assigned noise settles which object it will be near t = 1, so that is where the times must be."""


def model(tier: Tier) -> WholeDiTConfig:
    """Returns the whole model's sizes in a tier."""
    return WholeDiTConfig(
        latent_width=tier.latent_width,
        hidden=tier.hidden,
        depth=tier.depth,
        num_heads=tier.heads,
        context_width=tier.image_width,
        moe_layers=tier.moe_layers,
        num_experts=tier.num_experts,
        t_scale=T_SCALE,
    )


def image_encoder(tier: Tier) -> ImageEncoderConfig:
    """Returns the image encoder's sizes in a tier."""
    return ImageEncoderConfig(
        kind=tier.image_kind,
        size=tier.image_size,
        width=tier.image_width,
        layers=tier.image_layers,
        num_heads=tier.image_heads,
    )


def ci(tier: Tier) -> WholeTrainConfig:
    """A few steps on a CPU: tests."""
    return WholeTrainConfig(
        recipe="whole ci",
        **CI_RUN,
        cache_latents=True,
        optimizer=OptimizerConfig(lr=1e-3, ema_decay=0.0),
        model=model(tier),
        image_encoder=image_encoder(tier),
    )


def tiny(tier: Tier) -> WholeTrainConfig:
    """Under two minutes on two CPU cores: the demo. So short a run cannot learn the coin tosses of independent noise."""
    return ci(tier).replace(
        recipe="whole tiny",
        **COUPLED,
        steps=550,
        batch_size=16,
        log_every=10,
        checkpoint_every=275,
        validate_every=275,
        score_resolution=32,
        optimizer__decay_fraction=0.5,
        optimizer__ema_decay=0.98,
    )


def from_scratch(tier: Tier) -> WholeTrainConfig:
    """From scratch on GPUs (model.md section 5.5)."""
    return WholeTrainConfig(
        recipe=f"whole {tier.name}",
        steps=100_000,
        score_every=10_000,
        optimizer=OptimizerConfig(lr=1e-4, decay_fraction=0.0),
        model=model(tier),
        image_encoder=image_encoder(tier),
    )


def base(tier: Tier) -> WholeTrainConfig:
    """From scratch on one GPU, compiled."""
    return from_scratch(tier).replace(compile_blocks=True)


def large(tier: Tier) -> WholeTrainConfig:
    """As base, in smaller micro-batches: 32 objects at once would take 120 GiB."""
    return base(tier).replace(accumulate=4)


def paper(tier: Tier) -> WholeTrainConfig:
    """Fine-tuning of imported weights at the paper's size, its state shared out; long latent sets want more noise (shift 0.125)."""
    recipe = base(tier).replace(optimizer__lr=1e-5, accumulate=8, recompute=True, parallel="fsdp")
    return recipe.replace(time_shift=0.125, model__t_scale=1.0, model__reversed_time=True)
