"""What the scorers say of perfect models, of broken ones, and that every ablation can be scored."""

import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jobs.recipes import ablations, find_recipe
from jobs.recipes.sizes import TIERS
from jobs.training.loop import Place
from jobs.training.objectives import VaeObjective, make_objective
from jobs.training.scorers import PartScorer, VaeScorer, WholeScorer, latent_distance, placement_errors
from jobs.training.shapes import Context
from jobs.training.smoke import two_balls
from jobs.training.validation import make_scorer
from unipart.data.schema import Sample
from unipart.geometry.mesh import Similarity
from unipart.geometry.solids import box
from unipart.rng import derive

CI = TIERS["ci"]
PLACE = Place(torch.device("cpu"))


@pytest.fixture
def sample() -> Sample:
    return two_balls("object", derive(0, "object"))


class Oracle(nn.Module):
    """Knows the part of every latent."""

    def __init__(self, labels: Tensor) -> None:
        super().__init__()
        self.labels = labels

    def trunk(self, z: Tensor) -> Tensor:
        return z

    def forward(self, features: Tensor, index: Tensor, labels: Tensor, previous: Tensor | None = None):
        masks = self.labels[index[0, :, 0]][:, None] == self.labels
        logits = torch.where(masks, 9.0, -9.0)[None, :, None].expand(-1, -1, 4, -1)
        return SimpleNamespace(logits=logits, iou=torch.ones(logits.shape[:3]))


def test_a_perfect_vae_has_perfect_scores(sample: Sample, monkeypatch):
    config = find_recipe("vae", "ci")
    scorer = VaeScorer(VaeObjective(config, PLACE), Context(0, 32, PLACE))
    with torch.no_grad():
        truth = scorer.shapes.encode(sample)
        scorer.shapes.vae.seg_decoder = Oracle(truth.token_labels)  # pyright: ignore
        monkeypatch.setattr(scorer.shapes, "decode", lambda z: sample.mesh)
        figures = scorer(sample).figures
    assert figures.pop("cd_l1_sum") == figures.pop("cd_l2sq_sum") == figures.pop("empty") == figures.pop("iou_head_error") == 0
    assert set(figures) == {"f@.01", "f@.05", "f@.10", "iou64", "seg_miou_1", "seg_miou_3", "miou_best"}
    assert set(figures.values()) == {1.0}


def test_a_vae_without_a_surface_scores_zero(sample: Sample, monkeypatch):
    scorer = VaeScorer(VaeObjective(find_recipe("vae", "ci"), PLACE), Context(0, 16, PLACE))
    monkeypatch.setattr(scorer.shapes, "decode", lambda z: None)
    with torch.no_grad():
        scored = scorer(sample)
    assert scored.figures["empty"] == 1
    assert scored.figures["f@.10"] == scored.figures["iou64"] == 0
    assert scored.figures["cd_l1_sum"] == pytest.approx(2 * math.sqrt(3))
    assert (scored.pictures["reconstruction"] == 255).all()


@dataclass
class Decoder:
    """Decodes the true meshes of the parts, in the order in which they are asked for, moved and scaled."""

    sample: Sample
    to_wrong_place: Similarity
    asked: int = 0

    def __call__(self, z: Tensor):
        part, space = divmod(self.asked, 2)
        self.asked += 1
        truth = self.sample.part_meshes[part]
        assert self.sample.parts is not None
        if space == 1:
            return truth
        return truth.transformed(self.sample.parts.to_ncs[part].invert()).transformed(self.to_wrong_place)


@pytest.mark.parametrize(("scale", "offset"), [(1.0, (0.0, 0.0, 0.0)), (1.0, (0.3, 0.0, 0.4)), (1.25, (0.0, 0.0, 0.0))])
def test_perfect_parts_are_scored_by_where_they_are_put(sample: Sample, parents, monkeypatch, scale: float, offset):
    scorer = PartScorer(make_objective(find_recipe("part", "ci"), parents, None, PLACE), Context(0, 32, PLACE))  # pyright: ignore
    monkeypatch.setattr(scorer.shapes, "decode", Decoder(sample, Similarity.of(scale, offset)))
    with torch.no_grad():
        figures = scorer(sample).figures
    assert figures["ncs_cd_l1_sum"] == 0
    assert figures["ncs_f@.05"] == 1
    assert figures["part_scale_error"] == pytest.approx(scale - 1, abs=0.01)
    if scale == 1:
        assert figures["part_offset_error"] == pytest.approx(np.linalg.norm(offset), abs=0.01)
    assert figures["gcs_cd_l1_sum"] > 0.1 if (scale, offset) != (1.0, (0.0, 0.0, 0.0)) else figures["gcs_cd_l1_sum"] < 1e-6


def test_placement_errors_are_exact():
    part, place = box(1.0, 0.5, 0.2), Similarity.of(0.3, (0.1, 0.2, 0.3))
    truth = Similarity.to_unit_box(part.vertices).invert().then(place)
    errors = placement_errors(part.transformed(place), truth)
    assert errors == pytest.approx({"part_scale_error": 0, "part_offset_error": 0}, abs=1e-6)
    moved = placement_errors(part.transformed(place).transformed(Similarity.of(1.0, (0.0, 0.3, -0.4))), truth)
    assert moved == pytest.approx({"part_scale_error": 0, "part_offset_error": 0.5}, abs=1e-6)
    centre = Similarity.of(1.0, -np.array(truth.offset))
    shrunk = part.transformed(place.then(centre).then(Similarity.of(0.5, (0, 0, 0))).then(centre.invert()))
    assert placement_errors(shrunk, truth) == pytest.approx({"part_scale_error": 0.5, "part_offset_error": 0}, abs=1e-6)
    assert placement_errors(None, truth) == {"part_scale_error": 1.0, "part_offset_error": 1.0}


def test_latent_sets_are_compared_without_order_and_both_ways():
    z = torch.eye(4)
    assert latent_distance(z, z.flip(0)) == 0
    assert latent_distance(z, torch.cat([z, 3 * z[:1]])) == pytest.approx((0 + 2 / 5) / 2)
    assert latent_distance(torch.cat([z, 3 * z[:1]]), z) == pytest.approx(latent_distance(z, torch.cat([z, 3 * z[:1]])))


@pytest.mark.parametrize("ablation", [*ablations.OF_THE_PAPER, *ablations.OUR_OWN], ids=lambda ablation: ablation.__name__)
def test_every_ablation_can_be_scored(ablation, sample: Sample, parents):
    config = ablation(CI)
    objective = make_objective(config, {} if config.kind == "vae" else parents, None, PLACE)
    objective.trained.eval()
    state = torch.random.get_rng_state()
    with torch.no_grad():
        scored = make_scorer(objective, Context(0, 16, PLACE, parents))(sample)
    assert torch.equal(state, torch.random.get_rng_state())
    assert np.isfinite(list(scored.figures.values())).all()
    assert ("seg_miou_1" in scored.figures) == (config.kind == "vae" and config.model.seg is not None)
    assert ("ncs_cd_l1_sum" in scored.figures) == (config.kind == "part" and "ncs" in config.model.spaces)


def test_where_latent_shards_stand_for_the_vae_it_is_loaded_and_a_missing_anchor_decoder_is_said(sample: Sample, parents):
    objective = make_objective(find_recipe("whole", "ci"), parents, None, PLACE)
    assert not isinstance(objective, VaeObjective)
    state = torch.random.get_rng_state()
    with torch.no_grad():
        ours = WholeScorer(objective, Context(0, 16, PLACE, parents))(sample)  # pyright: ignore[reportArgumentType]
        objective.encoder = object()
        loaded = WholeScorer(objective, Context(0, 16, PLACE, parents))(sample)  # pyright: ignore[reportArgumentType]
    assert torch.equal(state, torch.random.get_rng_state())
    assert loaded.figures == ours.figures
    assert "miou_best" not in ours.figures
    assert "anchor decoder" in ours.notes[0]
