"""Scores and pictures of held-out objects inside trainings: all four models, after a cut, on several workers."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from jobs.recipes import find_recipe
from jobs.runs import checkpoint_folders, read_history
from jobs.training.config import KINDS
from jobs.training.launch import Job, make_job, run_here
from jobs.training.state import find_checkpoint

FIGURES = {
    "vae": {"cd_l1_sum", "f@.05", "iou64", "seg_miou_1", "seg_miou_3", "iou_head_error", "miou_best"},
    "anchor": {"anchor_error"},
    "whole": {"latent_distance", "latent_floor", "miou_best", "cd_l1_sum", "f@.10", "iou64"},
    "part": {"gcs_cd_l1_sum", "ncs_cd_l1_sum", "part_scale_error", "part_offset_error"},
}
PANELS = {
    "vae": {"truth", "reconstruction", "segmentation", "exploded"},
    "anchor": {"truth", "anchors"},
    "whole": {"image", "truth", "generated", "segmentation", "exploded"},
    "part": {"image", "truth", "generated", "exploded"},
}


def job(kind: str, dataset: Path, folder: Path, models: Path | None = None, **changes) -> Job:
    recipe = find_recipe(kind, "ci")
    config = recipe.replace(**{"steps": 4, "log_every": 2, "checkpoint_every": 2, "validate_every": 4, "score_every": 2, **changes})
    return replace(make_job(config, recipe, str(dataset), folder, models or folder.parent), threads=1, device="cpu")


def scores(folder: Path) -> dict[int, dict[str, float]]:
    """Figures of the validator by step; the validation losses are other rows."""
    rows = [row for row in read_history(folder) if any(name.startswith("val/") for name in row) and "val/loss" not in row]
    assert len({row["step"] for row in rows}) == len(rows)
    return {int(row["step"]): {name[4:]: value for name, value in row.items() if name != "step"} for row in rows}


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.glob("validation/*/*"))}


@pytest.fixture(scope="module")
def models(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for kind in KINDS:
        run_here(job(kind, dataset, folder / kind))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_every_model_is_scored_at_its_rhythm_and_drawn(models: Path, kind: str):
    found = scores(models / kind)
    assert list(found) == [2, 4]
    for row in found.values():
        assert set(row) >= FIGURES[kind]
        assert np.isfinite(list(row.values())).all()
    assert found[2] != found[4]
    folder = models / kind / "validation" / "step_00000004"
    names = {path.name for path in folder.iterdir()}
    assert names == {"objects.json", *(f"object06.{panel}.png" for panel in PANELS[kind])}
    truth = np.asarray(Image.open(folder / "object06.truth.png"))
    assert truth.shape == (256, 256, 3)
    assert len(np.unique(truth.reshape(-1, 3), axis=0)) > 10
    objects = json.loads((folder / "objects.json").read_text())["objects"]
    assert objects["object06"]["figures"] == found[4]
    before = models / kind / "validation" / "step_00000002"
    assert (folder / "object06.truth.png").read_bytes() == (before / "object06.truth.png").read_bytes()


def test_the_scores_are_of_the_averaged_weights_and_go_into_the_checkpoint(dataset: Path, tmp_path: Path):
    for name, decay in {"raw": 0.0, "averaged": 0.9}.items():
        run_here(job("vae", dataset, tmp_path / name / "vae", optimizer__ema_decay=decay, best="val/cd_l1_sum:min"))
    raw, averaged = (scores(tmp_path / name / "vae") for name in ("raw", "averaged"))
    assert raw[4] != averaged[4]
    progress = json.loads((find_checkpoint(tmp_path / "raw" / "vae") / "train_state" / "progress.json").read_text())
    assert progress["scores"]["val/cd_l1_sum"] == raw[4]["cd_l1_sum"]


def test_a_run_that_was_cut_has_the_same_scores_and_pictures(dataset: Path, tmp_path: Path):
    straight, cut = (job("vae", dataset, tmp_path / name / "vae", optimizer__ema_decay=0.9) for name in ("straight", "cut"))
    run_here(straight)
    run_here(cut)
    folder = tmp_path / "cut" / "vae"
    last = checkpoint_folders(folder)[-1]
    for path in [*sorted(last.rglob("*"), reverse=True), last, *sorted(folder.glob("validation/step_00000004/*"))]:
        path.rmdir() if path.is_dir() else path.unlink()
    os.truncate(folder / "history.jsonl", 0)
    run_here(cut)
    whole = tmp_path / "straight" / "vae"
    assert scores(folder) == {4: scores(whole)[4]}
    assert pictures(folder) == pictures(whole)
    assert (weights := load_file(find_checkpoint(whole) / "model.safetensors"))
    assert all(
        torch.equal(value, weights[name]) for name, value in load_file(find_checkpoint(folder) / "model.safetensors").items()
    )


def test_scoring_leaves_the_training_as_it_was(models: Path, dataset: Path, tmp_path: Path):
    run_here(job("whole", dataset, tmp_path / "scored", models, score_every=1, steps=3))
    run_here(job("whole", dataset, tmp_path / "plain", models, score_objects=0, steps=3))
    assert scores(tmp_path / "plain") == {}
    assert not (tmp_path / "plain" / "validation").exists()
    one, other = (load_file(find_checkpoint(tmp_path / name) / "model.safetensors") for name in ("scored", "plain"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_empty_validation_split_falls_back_and_says_so(write_balls: Callable[..., Path], tmp_path: Path, caplog):
    dataset = write_balls(tmp_path / "data", val=0)
    run_here(job("vae", dataset, tmp_path / "vae", steps=2))
    assert "no validation objects" in caplog.text
    assert {path.name.split(".")[0] for path in (tmp_path / "vae").glob("validation/*/*.png")} == {"object00", "object01"}


def test_two_workers_give_the_scores_of_one(
    models: Path, write_balls: Callable[..., Path], tmp_path: Path, run_together: Callable[..., None]
):
    dataset = write_balls(tmp_path / "data", val=3)
    # Without learning both have the same weights to the bit, so the scores must be the same to the bit.
    fixed = {"steps": 1, "optimizer__lr": 0.0, "accumulate": 2, "score_objects": 3, "score_every": 1, "checkpoint_every": 1}
    ways = [("anchor", "ddp"), ("part", "fsdp")]
    jobs = [job(kind, dataset, tmp_path / f"{kind}_{way}", models, parallel=way, **fixed) for kind, way in ways]
    run_together(jobs, tmp_path / "store")
    for kind, way in ways:
        alone = tmp_path / f"{kind}_alone"
        run_here(job(kind, dataset, alone, models, **fixed))
        assert scores(tmp_path / f"{kind}_{way}") == scores(alone)
        assert pictures(tmp_path / f"{kind}_{way}") == pictures(alone)
        assert len(json.loads((alone / "validation" / "step_00000001" / "objects.json").read_text())["objects"]) == 3
