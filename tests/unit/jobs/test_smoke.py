"""Every recipe and every ablation trains two steps at the smallest size."""

import math

import numpy as np
import pytest
import torch

from jobs.recipes import ablations, find_recipe
from jobs.recipes.sizes import TIERS
from jobs.training.config import KINDS
from jobs.training.loop import Place
from jobs.training.objectives import PartObjective
from jobs.training.smoke import MadeUpSource, smoke_run, two_balls, write_parents
from unipart.data.codec import decode_sample, encode_sample
from unipart.rng import derive

CI = TIERS["ci"]


def run(config) -> dict[str, float]:
    whole = find_recipe("whole", "ci")
    return smoke_run(config, find_recipe("vae", "ci").model, whole.image_encoder, whole.model, steps=2)


@pytest.mark.parametrize("kind", KINDS)
def test_every_model_trains(kind: str):
    row = run(find_recipe(kind, "ci"))
    assert row["step"] == 2
    assert math.isfinite(row["loss"])
    assert row["grad_norm"] > 0


@pytest.mark.parametrize("ablation", [*ablations.OF_THE_PAPER, *ablations.OUR_OWN], ids=lambda ablation: ablation.__name__)
def test_every_ablation_trains_and_is_not_its_base(ablation):
    config = ablation(CI)
    row, base = run(config), run(find_recipe(config.kind, "ci"))
    assert math.isfinite(row["loss"])
    assert row["loss"] != base["loss"]


@pytest.mark.parametrize("kind", ["whole", "part"])
def test_recomputed_blocks_give_the_same_step(kind: str):
    plain, recomputed = (run(find_recipe(kind, "ci").replace(recompute=value)) for value in (False, True))
    assert recomputed["loss"] == pytest.approx(plain["loss"], rel=1e-6)
    assert recomputed["grad_norm"] == pytest.approx(plain["grad_norm"], rel=1e-5)


def test_a_run_is_the_same_each_time():
    first, second = (run(find_recipe("part", "ci")) for _ in range(2))
    assert (first["loss"], first["grad_norm"]) == (second["loss"], second["grad_norm"])


def test_point_conditions_are_of_the_labelled_points(tmp_path, monkeypatch: pytest.MonkeyPatch):
    config, whole = ablations.point_conditions(CI).replace(batch_size=2, whole_fraction=0.0), find_recipe("whole", "ci")
    parents = write_parents(tmp_path, ("vae", "whole"), find_recipe("vae", "ci").model, whole.image_encoder, whole.model)
    objective = PartObjective(config, parents, None, Place(torch.device("cpu")))
    batch = next(MadeUpSource(config, find_recipe("vae", "ci").model, whole.image_encoder.size).train(0))
    batch["part"] = torch.tensor([0, 1])
    seen: list[torch.Tensor] = []
    features = objective.encoder.point_features
    monkeypatch.setattr(
        objective.encoder, "point_features", lambda points, *rest: (seen.append(points), features(points, *rest))[1]
    )
    objective.losses(batch, torch.Generator().manual_seed(0))
    everything, parts = seen
    assert everything.equal(batch["points"])
    assert parts[0, :, 1].max() < 0.1, "part 0 is the lower ball"
    assert parts[1, :, 1].min() > 0.1
    assert set(map(tuple, parts[1].tolist())) <= set(map(tuple, batch["points"][1].tolist()))


def test_the_made_up_object_is_complete_and_exact():
    sample = two_balls("a", derive(0, "a"))
    again = decode_sample("a", encode_sample(sample))
    assert again.num_parts == 2
    assert sample.surface is not None
    assert np.abs(sample.surface.points).max() <= 1.0
    assert sample.parts is not None
    np.testing.assert_allclose(np.linalg.norm(sample.parts.points, axis=-1), 0.9999, atol=1e-5)
    assert set(np.unique(sample.query_kind)) == {0, 1, 2}
