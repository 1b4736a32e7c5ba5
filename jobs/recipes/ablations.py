"""The paper's ablations of the part model, each one change to a recipe (model.md section 7).

Use them by their address: ``unipart train part jobs.recipes.ablations:without_ncs --size small``.
"""

from jobs.recipes import part, vae
from jobs.recipes.sizes import Tier
from jobs.training.config import PartTrainConfig, VaeTrainConfig


def base(tier: Tier) -> PartTrainConfig:
    """The part model as it is in a tier."""
    return {"ci": part.ci, "tiny": part.tiny, "paper": part.paper}.get(tier.name, part.large)(tier)


def without_ncs(tier: Tier) -> PartTrainConfig:
    """Parts are generated in the object's frame only."""
    return base(tier).replace(recipe=f"part {tier.name} without_ncs", model__spaces=("gcs",))


def without_local_attention(tier: Tier) -> PartTrainConfig:
    """Every block attends over both spaces."""
    return base(tier).replace(recipe=f"part {tier.name} without_local_attention", model__global_layers="all")


def without_space_embedding(tier: Tier) -> PartTrainConfig:
    """Nothing tells the two groups of tokens apart."""
    return base(tier).replace(recipe=f"part {tier.name} without_space_embedding", model__space_embed_level="off")


def without_whole_condition(tier: Tier) -> PartTrainConfig:
    """The part model does not see Z_0."""
    return base(tier).replace(recipe=f"part {tier.name} without_whole_condition", model__use_z0=False)


def fused_conditions(tier: Tier) -> PartTrainConfig:
    """Z_0 once, with X_i marked in it: half the condition tokens."""
    return base(tier).replace(recipe=f"part {tier.name} fused_conditions", model__kv="fused")


def plain_vae(tier: Tier) -> VaeTrainConfig:
    """A VAE of geometry alone: what does segmentation cost it?"""
    recipe = {"ci": vae.ci, "tiny": vae.tiny, "paper": vae.paper}.get(tier.name, vae.large)(tier)
    return recipe.replace(recipe=f"vae {tier.name} plain", model__seg=None, unlabelled_fraction=1.0)
