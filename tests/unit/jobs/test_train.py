"""Where a training's first weights come from."""

from pathlib import Path

import pytest

from jobs.generate import load_pipeline
from jobs.recipes import find_recipe
from jobs.recipes.sizes import TIERS
from jobs.train import wants_weights
from jobs.training.config import KINDS
from jobs.training.state import find_checkpoint
from unipart import storage
from unipart.errors import UserError
from unipart.models.pretrained import load_pretrained, save_pretrained, weights_digest


@pytest.mark.parametrize("kind", KINDS)
def test_the_papers_recipes_want_weights_and_no_other(kind):
    wanting = {tier for tier in TIERS if wants_weights(find_recipe(kind, tier))}
    assert wanting == (set() if kind == "anchor" else {"paper"})


def test_a_part_model_that_starts_from_the_whole_model_has_weights():
    assert not wants_weights(find_recipe("part", "paper").replace(init_from_whole=True))


def test_a_checkpoint_may_be_an_address(bucket: str, parents: dict[str, Path], tmp_path: Path):
    save_pretrained(load_pretrained(parents["vae"]), storage.join(bucket, "vae"))
    found = find_checkpoint(storage.join(bucket, "vae"), into=tmp_path / "init")
    assert found.parent == tmp_path / "init"
    assert weights_digest(found) == weights_digest(parents["vae"])


def test_models_at_an_address_are_named_by_it(bucket: str):
    with pytest.raises(UserError, match=r"^s3://bucket/models/vae is no checkpoint: it has no config\.json"):
        load_pipeline(storage.join(bucket, "models"))
