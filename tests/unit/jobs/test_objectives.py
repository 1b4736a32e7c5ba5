"""Who builds the weights of a training."""

from pathlib import Path

import pytest
import torch

from jobs.recipes import find_recipe
from jobs.runs import KINDS
from jobs.training.loop import Place
from jobs.training.objectives import make_objective

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_where_weights_are_sharded_only_the_first_worker_draws_any(kind: str, parents: dict[str, Path]):
    config = find_recipe(kind, "ci")
    made = {
        (way, rank): make_objective(config.replace(parallel=way), parents, None, Place(CPU, rank, 2)).trained
        for way in ("ddp", "fsdp")
        for rank in (0, 1)
    }
    shapes = {place: {name: value.shape for name, value in model.named_parameters()} for place, model in made.items()}
    assert shapes["fsdp", 1] == shapes["fsdp", 0]
    for place in (("ddp", 1), ("fsdp", 0)):
        for name, value in made["ddp", 0].named_parameters():
            assert torch.equal(made[place].get_parameter(name), value), (place, name)
    drawn = {name for name, value in made["fsdp", 1].named_parameters() if not value.is_meta}
    assert all(name.startswith("image_encoder.") for name in drawn)  # rather real than none: most recipes load a released one
