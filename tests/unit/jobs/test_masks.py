from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from jobs.recipes import find_recipe
from jobs.recipes.sizes import tier
from jobs.recipes.vae import ci
from jobs.training.frozen import load_segmenter
from jobs.training.loop import Place
from jobs.training.masks import learnable_parts, predicted_masks
from jobs.training.objectives import make_objective
from jobs.training.smoke import MadeUpSource
from unipart.errors import UserError
from unipart.models.geom_seg_vae import GeomSegVAE
from unipart.models.pretrained import load_pretrained, save_pretrained
from unipart.models.seg_decoder import SegOutput

CPU = Place(torch.device("cpu"))
TRUE = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0]]).bool()


@dataclass
class Answering:
    """A D_seg whose second of three answers is the best one."""

    best: torch.Tensor

    def trunk(self, z):
        return z

    def __call__(self, features, clicks, labels):
        assert (labels == 1).all()
        self.clicks = clicks[:, 0, 0]
        others = torch.ones_like(self.best)
        logits = torch.stack([others, others, self.best.float() - 0.5, others], dim=1)[:, None].float()
        return SegOutput(logits, torch.tensor([0.9, 0.1, 0.8, 0.2]).expand(len(logits), 1, 4))


def replaced(best: torch.Tensor, share: float) -> torch.Tensor:
    segmenter, draw = Answering(best), torch.Generator().manual_seed(0)
    masks = predicted_masks(segmenter, torch.zeros(*TRUE.shape, 2), TRUE, share, draw)  # pyright: ignore[reportArgumentType]
    assert TRUE[torch.arange(3), segmenter.clicks].all(), "each click is inside its part"
    return masks


def test_an_answer_of_the_part_stands_for_the_true_mask_and_another_does_not():
    best = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0]]).bool()
    assert torch.equal(replaced(best, 1.0), torch.stack([best[0], TRUE[1], TRUE[2]]))
    assert torch.equal(replaced(best, 0.0), TRUE)


def test_the_whole_object_as_its_own_part_keeps_all_of_its_latents():
    whole, most = torch.ones(1, 6).bool(), torch.tensor([[1, 1, 1, 1, 1, 0]]).bool()
    segmenter = Answering(most)
    masks = predicted_masks(segmenter, torch.zeros(1, 6, 2), whole, 1.0, torch.Generator().manual_seed(0))  # pyright: ignore[reportArgumentType]
    assert torch.equal(masks, whole)


def test_what_no_latents_tell_from_others_is_learnt_as_the_whole_object():
    labels = torch.tensor([[0] * 20 + [1] * 8 + [2] * 7]).expand(6, -1)
    part = torch.tensor([-1, 0, 1, 2, 2, 3])
    area = torch.tensor([1.0, 0.9, 1e-4, 1e-4, 0.01, 0.5])
    assert learnable_parts(labels, part, area).tolist() == [-1, 0, 1, -1, 2, -1], (
        "eight latents, or a share of the area, but never none"
    )


def test_a_part_without_latents_learns_what_the_whole_object_does(parents: dict[str, Path]):
    config = find_recipe("part", "ci").replace(mask_jitter=0.0)
    objective = make_objective(config, parents, None, CPU)
    batch = next(iter(MadeUpSource(config, ci(tier("ci")).model, 56).train(0)))
    nowhere = {**batch, "part": torch.full_like(batch["part"], 7)}
    whole = {**batch, "part": torch.full_like(batch["part"], -1)}
    losses = [objective.losses(one, torch.Generator().manual_seed(0))["loss"] for one in (nowhere, whole)]
    assert torch.equal(*losses)


def test_the_part_model_learns_from_predicted_masks_too(parents: dict[str, Path]):
    config = find_recipe("part", "ci").replace(predicted_masks=1.0)
    objective = make_objective(config, parents, None, CPU)
    batch = next(iter(MadeUpSource(config, ci(tier("ci")).model, 56).train(0)))
    losses = objective.losses(batch, torch.Generator().manual_seed(0))
    assert torch.isfinite(losses["loss"])
    plain = make_objective(config.replace(predicted_masks=0.0), parents, None, CPU)
    assert not any("segmenter" in name for name in dict(objective.trained.named_parameters()))
    assert dict(plain.trained.named_parameters()).keys() == dict(objective.trained.named_parameters()).keys()


def test_a_vae_without_a_segmentation_decoder_is_refused(parents: dict[str, Path], tmp_path: Path):
    vae = load_pretrained(parents["vae"])
    assert isinstance(vae, GeomSegVAE)
    save_pretrained(GeomSegVAE(vae.config.replace(seg=None)), tmp_path)
    with pytest.raises(UserError, match="without a segmentation decoder"):
        load_segmenter(tmp_path, CPU)
