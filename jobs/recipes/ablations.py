"""Every ablation of the paper and of model.md section 7: one change to a recipe each. ``unipart train --list`` shows them.

Use them by their address: ``unipart train part jobs.recipes.ablations:without_ncs --size small``.
"""

from collections.abc import Callable

from jobs.recipes import part, vae
from jobs.recipes.sizes import Tier
from jobs.training.config import PartTrainConfig, VaeTrainConfig


def base(tier: Tier) -> PartTrainConfig:
    """The part model as it is in a tier."""
    return {"ci": part.ci, "tiny": part.tiny, "paper": part.paper}.get(tier.name, part.large)(tier)


def vae_base(tier: Tier) -> VaeTrainConfig:
    """The VAE as it is in a tier."""
    return {"ci": vae.ci, "tiny": vae.tiny, "paper": vae.paper}.get(tier.name, vae.large)(tier)


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


def point_conditions(tier: Tier) -> PartTrainConfig:
    """The whole and the part are given as the frozen encoder's features of surface points, not as latents."""
    config = base(tier).replace(recipe=f"part {tier.name} point_conditions", model__point_width=tier.vae_width)
    return config.replace(model__cond_form="points")


def plain_vae(tier: Tier) -> VaeTrainConfig:
    """A VAE of geometry alone: what does segmentation cost it?"""
    return vae_base(tier).replace(recipe=f"vae {tier.name} plain_vae", model__seg=None, unlabelled_fraction=1.0)


def channel_layout(tier: Tier) -> PartTrainConfig:
    """Both latents side by side in the channels of one group of tokens."""
    return base(tier).replace(recipe=f"part {tier.name} channel_layout", model__space_layout="channels")


def hidden_space_embedding(tier: Tier) -> PartTrainConfig:
    """The space embedding is added to the hidden tokens and the time token, not to the latents."""
    return base(tier).replace(recipe=f"part {tier.name} hidden_space_embedding", model__space_embed_level="hidden")


def fused_conditions(tier: Tier) -> PartTrainConfig:
    """Z_0 once, with X_i marked in it: half the condition tokens."""
    return base(tier).replace(recipe=f"part {tier.name} fused_conditions", model__kv="fused")


def without_part_condition(tier: Tier) -> PartTrainConfig:
    """The part model does not see X_i: it cannot know which part is meant."""
    return base(tier).replace(recipe=f"part {tier.name} without_part_condition", model__use_xi=False)


def clean_conditions(tier: Tier) -> PartTrainConfig:
    """Conditions in training are the encoded ones, undisturbed."""
    return base(tier).replace(recipe=f"part {tier.name} clean_conditions", mask_jitter=0.0, latent_noise=0.0)


def sorted_labels(tier: Tier) -> VaeTrainConfig:
    """Part labels enter the encoder by sorted rank, never shuffled."""
    return vae_base(tier).replace(recipe=f"vae {tier.name} sorted_labels", model__label_encoding="scalar_sorted")


def code_labels(tier: Tier) -> VaeTrainConfig:
    """Part labels enter the encoder as 8-channel unit codes."""
    return vae_base(tier).replace(recipe=f"vae {tier.name} code_labels", model__label_encoding="code8")


def occupancy_field(tier: Tier) -> VaeTrainConfig:
    """The geometry decoder predicts inside or outside."""
    return vae_base(tier).replace(recipe=f"vae {tier.name} occupancy_field", model__field="occ")


def distance_field(tier: Tier) -> VaeTrainConfig:
    """The geometry decoder predicts the signed distance, not truncated."""
    return vae_base(tier).replace(recipe=f"vae {tier.name} distance_field", model__field="sdf")


Ablation = Callable[[Tier], PartTrainConfig] | Callable[[Tier], VaeTrainConfig]
OF_THE_PAPER: tuple[Ablation, ...] = (
    without_ncs,
    without_local_attention,
    without_space_embedding,
    without_whole_condition,
    point_conditions,
    plain_vae,
)
"""Figure 7 and the VAE's table."""
OUR_OWN: tuple[Ablation, ...] = (
    channel_layout,
    hidden_space_embedding,
    fused_conditions,
    without_part_condition,
    clean_conditions,
    sorted_labels,
    code_labels,
    occupancy_field,
    distance_field,
)
"""Choices that the paper leaves open."""


def changes(ablation: Ablation, tier: Tier) -> dict[str, tuple[object, object]]:
    """Returns what an ablation changes in a tier: {flat field: (base, ablation)}."""
    config = ablation(tier)
    original = vae_base(tier) if config.kind == "vae" else base(tier)
    return {name: pair for name, pair in original.diff(config).items() if name != "recipe"}
