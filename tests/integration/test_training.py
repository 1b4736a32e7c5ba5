"""Each of the four models trains on a small dataset; a run that is cut continues bit for bit."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from jobs.recipes import find_recipe
from jobs.runs import read_history
from jobs.train import train
from jobs.training.launch import make_job
from jobs.training.state import find_checkpoint
from unipart.errors import UserError
from unipart.models.pretrained import load_pretrained, read_document


@pytest.fixture(scope="module")
def models(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four models, trained a few steps in this process."""
    folder = tmp_path_factory.mktemp("models")
    for kind in ("vae", "anchor", "whole", "part"):
        _train(kind, dataset, folder, steps=6)
    return folder


def _train(kind, dataset, models, name=None, workers=0, **changes):
    recipe = find_recipe(kind, "ci")
    config = recipe.replace(**changes)
    folder = models / (name or kind)
    job = replace(make_job(config, recipe, str(dataset), folder, models), threads=1)
    progress = train(job, workers=workers, tracking="off")
    return folder, progress


@pytest.mark.parametrize("kind", ["vae", "anchor", "whole", "part"])
def test_each_model_trains_and_says_where_it_comes_from(models: Path, kind: str):
    checkpoint = find_checkpoint(models / kind)
    rows = read_history(models / kind)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses
    assert np.isfinite(losses).all()
    assert any("val/loss" in row for row in rows)
    document = read_document(checkpoint)
    parents = {"vae": set(), "anchor": {"vae"}, "whole": {"vae"}, "part": {"vae", "whole"}}[kind]
    assert set(document["lineage"]) == parents
    if parents:
        assert document["lineage"]["vae"] == read_document(find_checkpoint(models / "vae"))["digest"]


def test_the_vae_learns_and_measures_its_scale(dataset: Path, tmp_path: Path):
    folder, _ = _train("vae", dataset, tmp_path, steps=60)
    losses = [row["loss/recon"] for row in read_history(folder) if "loss" in row]
    assert losses[-1] < 0.6 * losses[0]
    scale = float(load_pretrained(find_checkpoint(folder), "geom_seg_vae").z_scale)  # pyright: ignore
    assert scale != 1.0
    assert 0.1 < scale < 100


@pytest.mark.parametrize(
    ("kind", "reading"),
    [("vae", {}), ("part", {}), ("vae", {"stream_buffer": 3, "cache_samples": False})],
    ids=["vae", "part", "vae from a stream"],
)
def test_a_run_that_was_cut_continues_bit_for_bit(models: Path, dataset: Path, tmp_path: Path, kind: str, reading: dict):
    for parent in ("vae", "whole"):
        (tmp_path / parent).symlink_to(models / parent)
    changes = {"steps": 8, "checkpoint_every": 4, "optimizer__ema_decay": 0.9, "accumulate": 2, **reading}
    straight, _ = _train(kind, dataset, tmp_path, "straight", **changes)
    cut, _ = _train(kind, dataset, tmp_path, "cut", **changes)
    final = find_checkpoint(cut)
    for file in sorted(final.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    final.rmdir()
    history = (cut / "history.jsonl").read_text()
    _train(kind, dataset, tmp_path, "cut", **changes)
    one, other = (load_file(find_checkpoint(folder) / "train_state" / "state.safetensors") for folder in (straight, cut))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    timeless = [{k: v for k, v in json.loads(line).items() if "second" not in k} for line in history.splitlines()]
    again = [{k: v for k, v in row.items() if "second" not in k} for row in read_history(cut)]
    assert again == timeless


def test_a_finished_run_is_not_repeated(models: Path, dataset: Path):
    before = (models / "anchor" / "history.jsonl").stat().st_mtime_ns
    _, progress = _train("anchor", dataset, models, steps=6)
    assert progress.step == 6
    assert (models / "anchor" / "history.jsonl").stat().st_mtime_ns == before


def test_other_settings_in_the_same_folder_are_refused(models: Path, dataset: Path):
    with pytest.raises(UserError, match=r"optimizer\.lr 0\.002 -> 0\.5"):
        _train("anchor", dataset, models, steps=6, optimizer__lr=0.5)


def test_a_stream_that_others_would_have_to_keep_is_refused(dataset: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"stream_buffer\) cannot be combined with window_shards, shard_cache"):
        _train("vae", dataset, tmp_path, stream_buffer=4, window_shards=2, shard_cache="cache", cache_samples=False)


def test_a_parent_that_is_missing_is_named(dataset: Path, tmp_path: Path):
    with pytest.raises(UserError, match="vae holds no checkpoint"):
        _train("whole", dataset, tmp_path)


def test_a_loss_that_explodes_names_the_samples(dataset: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"not finite.*object0"):
        _train("vae", dataset, tmp_path, steps=10, optimizer__lr=1e30, optimizer__clip=1e30)


@pytest.mark.slow
def test_ray_train_runs_the_same_loop(models: Path, dataset: Path, tmp_path: Path):
    (tmp_path / "vae").symlink_to(models / "vae")
    folder, progress = _train("anchor", dataset, tmp_path, workers=1, steps=6)
    assert progress.step == 6
    here = load_file(find_checkpoint(models / "anchor") / "model.safetensors")
    there = load_file(find_checkpoint(folder) / "model.safetensors")
    assert all(torch.allclose(here[name], there[name], atol=1e-6) for name in here)
    with pytest.raises(UserError, match="not finite"):
        _train("anchor", dataset, tmp_path, "broken", workers=1, steps=6, optimizer__lr=1e30, optimizer__clip=1e30)
