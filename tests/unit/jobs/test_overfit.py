import pytest
import torch

from jobs.overfit import CHANGES, NUM_OBJECTS, Bar, measure, plan_overfit
from jobs.recipes import find_recipe
from jobs.training.config import KINDS
from jobs.training.smoke import two_balls
from unipart.errors import UserError
from unipart.models.geom_seg_vae import GeomSegVAE, GeomSegVAEConfig
from unipart.rng import derive


def test_a_bar_is_met_on_its_own_side_only():
    assert Bar("IoU", 0.91, 0.9).met
    assert not Bar("IoU", 0.89, 0.9).met
    assert Bar("distance", 0.02, 0.03, at_least=False).met
    assert not Bar("distance", 0.04, 0.03, at_least=False).met
    assert not Bar("nothing was generated well", float("nan"), 0.03, at_least=False).met
    assert "MISSED" in str(Bar("IoU", 0.89, 0.9))


def test_the_changes_are_fields_of_the_recipes():
    assert set(CHANGES) == set(KINDS)
    for kind in KINDS:
        find_recipe(kind, "tiny").replace(**CHANGES[kind])


def test_a_corpus_without_the_objects_is_an_error_and_no_corpus_is_none(tmp_path):
    with pytest.raises(UserError, match=r"mushrooms\.stl does not exist"):
        plan_overfit(tmp_path, fast=False)
    plan = plan_overfit(None, fast=False)
    assert plan.split == "train"
    assert plan.objects == NUM_OBJECTS == sum(int(source.split("count=")[1][0]) for source in plan.sources)


def test_scores_of_an_untrained_vae_are_poor():
    torch.manual_seed(0)
    config = find_recipe("vae", "ci").model
    assert isinstance(config, GeomSegVAEConfig)
    vae = GeomSegVAE(config).eval()
    sample = two_balls("two balls", derive(0, "balls"))
    scores = measure(vae, lambda z: torch.zeros(*z.shape[:2], 3), sample)
    assert set(scores) == {"iou64", "f@.05", "click", "automatic", "distance"}
    assert scores["iou64"] < 0.5
    assert 0 <= scores["click"] < 0.9
    assert 0.2 < scores["distance"] < 1.8
