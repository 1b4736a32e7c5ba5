"""Every ablation of the paper and of model.md section 7: one change to a recipe each. ``unipart train --list`` shows them.

Use them by their address: ``unipart train part jobs.recipes.ablations:without_ncs --size small``.
"""

from collections.abc import Callable

from jobs.recipes import part, sized, vae, whole
from jobs.recipes.sizes import Tier
from jobs.training.config import PartTrainConfig, VaeTrainConfig, WholeTrainConfig


def base(tier: Tier) -> PartTrainConfig:
    """The part model as it is in a tier."""
    return sized(part, tier)


def vae_base(tier: Tier) -> VaeTrainConfig:
    """The VAE as it is in a tier."""
    return sized(vae, tier)


def whole_base(tier: Tier) -> WholeTrainConfig:
    """The whole model as it is in a tier."""
    return sized(whole, tier)


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


def predicted_masks(tier: Tier) -> PartTrainConfig:
    """X_i in training is D_seg's answer, as in generation, wherever it is of this part."""
    return base(tier).replace(recipe=f"part {tier.name} predicted_masks", predicted_masks=1.0)


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


def half_the_latents(tier: Tier) -> VaeTrainConfig:
    """L halved: 2,048 at the paper's size. The models trained on this VAE take L from it."""
    return _with_latents(tier, 2, "half_the_latents")


def quarter_of_the_latents(tier: Tier) -> VaeTrainConfig:
    """L quartered: 1,024 at the paper's size."""
    return _with_latents(tier, 4, "quarter_of_the_latents")


def eighth_of_the_latents(tier: Tier) -> VaeTrainConfig:
    """An eighth of L: 512 at the paper's size, for which the diffusion models want --time_shift 1."""
    return _with_latents(tier, 8, "eighth_of_the_latents")


def _with_latents(tier: Tier, divisor: int, name: str) -> VaeTrainConfig:
    return vae_base(tier).replace(recipe=f"vae {tier.name} {name}", model__num_latents=tier.num_latents // divisor)


def uniform_time(tier: Tier) -> WholeTrainConfig:
    """Times are drawn uniformly and not shifted, as Hunyuan3D-2.1 is trained."""
    return whole_base(tier).replace(recipe=f"whole {tier.name} uniform_time", time_sampling="uniform", time_shift=1.0)


Ablation = Callable[[Tier], PartTrainConfig] | Callable[[Tier], VaeTrainConfig] | Callable[[Tier], WholeTrainConfig]
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
    predicted_masks,
    sorted_labels,
    code_labels,
    occupancy_field,
    distance_field,
    half_the_latents,
    quarter_of_the_latents,
    eighth_of_the_latents,
    uniform_time,
)
"""Choices that the paper leaves open."""
LEFT_OUT = (
    "Left out: segmentation by P3-SAM on the decoded mesh (its weights and licence are another project's); an attention mask "
    "instead of padding tokens and a learned null condition (they cost the flash kernel and the free unconditional pass); "
    "Hunyuan's sampler with its idle last step (a bug, not a choice); turning a target by quarter turns to its view's azimuth "
    "(latents would be encoded four times; cameras of one side, as in the tiny curation, do without); a D_seg that sees noised "
    "latents or scores objects, and a condition dropped alone (no figure of the paper needs them); a curriculum of 512, 1,024 and "
    "4,096 latents in one recipe (--init does it in three)."
)
"""Which switches of model.md section 7 are no recipe, and why."""


def changes(ablation: Ablation, tier: Tier) -> dict[str, tuple[object, object]]:
    """Returns what an ablation changes in a tier: {flat field: (base, ablation)}."""
    config = ablation(tier)
    original = {"vae": vae_base, "whole": whole_base, "part": base}[config.kind](tier)
    return {name: pair for name, pair in original.diff(config).items() if name != "recipe"}
