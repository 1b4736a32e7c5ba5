"""Recipes: every tier is complete, and an ablation changes one thing."""

import pytest

from jobs.recipes import ablations, find_recipe
from jobs.recipes.sizes import TIERS
from jobs.training.config import KINDS
from jobs.training.workload import Parents, make_workload
from unipart.errors import UserError
from unipart.models.geom_seg_vae import GeomSegVAEConfig
from unipart.models.warm_start import check_start
from unipart.models.whole_dit import WholeDiTConfig


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_tier_has_a_recipe_of_every_model(kind, tier):
    config = find_recipe(kind, tier)
    assert config.kind == kind
    assert config.steps > 0


@pytest.mark.parametrize(
    ("ablation", "field", "value"),
    [
        (ablations.without_ncs, "model.spaces", ["gcs"]),
        (ablations.without_local_attention, "model.global_layers", "all"),
        (ablations.without_space_embedding, "model.space_embed_level", "off"),
        (ablations.without_whole_condition, "model.use_z0", False),
        (ablations.fused_conditions, "model.kv", "fused"),
    ],
)
def test_an_ablation_changes_its_one_field(ablation, field, value):
    tier = TIERS["ci"]
    difference = ablations.base(tier).diff(ablation(tier))
    del difference["recipe"]
    assert {name: new for name, (_, new) in difference.items()} == {field: value}


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_rate_factor_names_parameters_that_exist(kind, tier):
    config = find_recipe(kind, tier)
    whole, vae = find_recipe("whole", tier), find_recipe("vae", tier)
    names = [name for name, _ in make_workload(config, Parents(vae.model, whole.image_encoder)).trained.named_parameters()]
    for key in config.optimizer.lr_factors:
        assert any(key in name for name in names), key


@pytest.mark.parametrize("kind", ["vae", "whole", "part"])
def test_what_is_meant_for_long_runs_on_gpus_is_compiled(kind):
    compiled = {tier for tier in TIERS if find_recipe(kind, tier).compile_blocks}
    assert compiled == {"base", "large", "paper"}


@pytest.mark.parametrize("tier", sorted(set(TIERS) - {"tiny"}))
def test_the_space_embedding_learns_ten_times_as_fast(tier):
    assert find_recipe("part", tier).optimizer.lr_factors["space_embedding"] == 10


@pytest.mark.parametrize(("ablation", "latents"), [("half_the", 2048), ("quarter_of_the", 1024), ("eighth_of_the", 512)])
def test_fewer_latents_at_the_papers_size(ablation: str, latents: int):
    recipe = getattr(ablations, f"{ablation}_latents")
    assert ablations.changes(recipe, TIERS["paper"]) == {"model.num_latents": (4096, latents)}


def test_uniform_time_is_neither_bent_nor_shifted():
    assert ablations.changes(ablations.uniform_time, TIERS["paper"]) == {
        "time_sampling": ("logit_normal", "uniform"),
        "time_shift": (0.125, 1.0),
    }


@pytest.mark.parametrize("tier", ["large", "paper"])
def test_the_largest_vaes_may_start_from_the_released_one(tier):
    released = GeomSegVAEConfig(label_encoding="none", seg=None)
    check_start(find_recipe("vae", tier).model, released)


@pytest.mark.parametrize("kind", ["whole", "part"])
def test_the_papers_diffusion_models_may_start_from_the_released_one(kind):
    check_start(find_recipe(kind, "paper").model, WholeDiTConfig(reversed_time=True))


def test_the_paper_tier_has_the_papers_sizes():
    vae, part = find_recipe("vae", "paper"), find_recipe("part", "paper")
    assert (vae.model.num_latents, vae.model.latent_width, vae.batch_size) == (4096, 64, 32)
    assert (part.optimizer.weight_decay, part.drop) == (0.01, 0.1)


def test_a_misspelt_tier_gets_a_suggestion():
    with pytest.raises(UserError, match="tiny"):
        find_recipe("vae", "tny")
