"""Recipes of the part model: whole latents, part latents and image -> the part in both spaces (paper section 3.3)."""

from jobs.recipes import whole
from jobs.recipes.sizes import CI_RUN, Tier
from jobs.training.config import OptimizerConfig, PartTrainConfig
from unipart.models.part_dit import PartDiTConfig

SPACE_RATE = {"space_embedding": 10.0}
"""Added to latents of unit size, the space embedding is small: it learns faster, and weight decay leaves it alone."""


def model(tier: Tier) -> PartDiTConfig:
    """Returns the part model's sizes in a tier: those of the whole model."""
    return PartDiTConfig(**whole.model(tier).model_dump())


def ci(tier: Tier) -> PartTrainConfig:
    """A few steps on a CPU: tests."""
    return PartTrainConfig(
        recipe="part ci",
        **CI_RUN,
        cache_latents=True,
        optimizer=OptimizerConfig(lr=1e-3, lr_factors=SPACE_RATE, ema_decay=0.0),
        model=model(tier),
    )


def tiny(tier: Tier) -> PartTrainConfig:
    """Under two minutes on two CPU cores: the demo. It starts from the whole model, for so short a run."""
    return ci(tier).replace(
        recipe="part tiny",
        **whole.COUPLED,
        steps=400,
        batch_size=12,
        log_every=10,
        checkpoint_every=200,
        validate_every=200,
        score_objects=1,
        score_resolution=32,
        optimizer__lr_factors={},  # as eight objects were learnt by heart (docs/training.md)
        optimizer__decay_fraction=0.5,
        optimizer__ema_decay=0.98,
        whole_fraction=0.1,
        init_from_whole=True,
    )


def from_scratch(tier: Tier) -> PartTrainConfig:
    """From scratch on GPUs (model.md section 5.5)."""
    return PartTrainConfig(
        recipe=f"part {tier.name}",
        steps=200_000,
        score_every=20_000,
        optimizer=OptimizerConfig(lr=1e-4, lr_factors=SPACE_RATE, decay_fraction=0.0),
        predicted_masks=0.5,
        model=model(tier),
    )


def base(tier: Tier) -> PartTrainConfig:
    """From scratch on one GPU, compiled."""
    return from_scratch(tier).replace(compile_blocks=True)


def large(tier: Tier) -> PartTrainConfig:
    """As base, in smaller micro-batches: 32 parts at once would take 270 GiB."""
    return base(tier).replace(accumulate=4)


def paper(tier: Tier) -> PartTrainConfig:
    """Fine-tuning at the paper's size: 1e-5 for what is imported, 5e-5 for the new modules; its state is shared out."""
    new = {"latent_conditioner": 5.0, "attn2_2": 5.0, "norm2_2": 5.0, **SPACE_RATE}
    recipe = base(tier).replace(optimizer__lr=1e-5, optimizer__lr_factors=new, accumulate=8, recompute=True, parallel="fsdp")
    return recipe.replace(time_shift=0.125, model__t_scale=1.0, model__reversed_time=True)
