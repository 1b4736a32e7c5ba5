"""Latent shards stand for the frozen encoders: the same losses, the same bytes after a kill, nothing taken for what it is not."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from jobs import data
from jobs.recipes import find_recipe
from jobs.recipes.sizes import tier
from jobs.recipes.vae import ci as vae_ci
from jobs.recipes.whole import image_encoder
from jobs.training.batches import BatchSource, make_draw
from jobs.training.loop import Place
from jobs.training.objectives import make_objective
from jobs.training.smoke import write_parents
from unipart.data.latents import read_latent_manifest
from unipart.data.shards import ShardIndex, read_manifest
from unipart.errors import UserError
from unipart.models.pretrained import load_config, read_document, save_pretrained

CPU = Place(torch.device("cpu"))
CI = tier("ci")
DRAWS = 2
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dataset(write_balls: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_balls(tmp_path_factory.mktemp("samples"), train=5, val=2, per_shard=3)


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An untrained VAE and whole model, where finished runs leave theirs."""
    folder = tmp_path_factory.mktemp("models")
    made = write_parents(folder, ("vae", "whole"), vae_ci(CI).model, image_encoder(CI), find_recipe("whole", "ci").model)
    return {kind: path.resolve() for kind, path in made.items()}


def arguments(dataset: Path, parents: dict[str, Path], out: Path) -> list[str]:
    made_by = ["--vae", str(parents["vae"]), "--image-encoder", str(parents["whole"])]
    return ["encode", str(dataset), *made_by, "--out", str(out), "--draws", str(DRAWS), "--cpus", "2"]


@pytest.fixture(scope="module")
def latents(dataset: Path, parents: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("latents")
    assert data.main(arguments(dataset, parents, out)) == 0
    return out


def losses(kind: str, dataset: Path, parents: dict[str, Path], **changes) -> list[float]:
    """The losses of four micro-batches, validation's too, without an optimiser step."""
    config = find_recipe(kind, "ci").replace(cache_latents=True, point_draws=DRAWS, **changes)
    draw = make_draw(config, load_config(parents["vae"]), 56)  # pyright: ignore
    source = BatchSource(str(dataset), config, draw, CPU)
    objective = make_objective(config, parents, None, CPU)
    batches = [batch for _, batch in zip(range(4), source.train(0), strict=False)] + list(source.validation())
    with torch.no_grad():
        return [
            float(objective.losses(batch, torch.Generator().manual_seed(number))["loss"]) for number, batch in enumerate(batches)
        ]


@pytest.mark.parametrize("kind", ["anchor", "whole", "part"])
def test_latents_read_give_the_losses_of_latents_encoded(kind, dataset, parents, latents):
    online = losses(kind, dataset, parents)
    stored = losses(kind, dataset, parents, latents=str(latents))
    assert len(online) > 4
    assert stored == pytest.approx(online, rel=1e-5)
    assert len(set(online)) == len(online)
    other_points = losses(kind, dataset, parents, seed=1)
    assert other_points != pytest.approx(online, rel=1e-3)


def test_latents_are_a_dataset_like_any_other(dataset, latents, parents):
    manifest = read_latent_manifest(str(latents))
    assert (manifest.counts["in"], manifest.counts["kept"], manifest.counts["failed"]) == (7, 7, 0)
    assert manifest.config["vae"] == read_document(parents["vae"])["digest"]
    assert manifest.config["image_encoder"] == read_document(parents["whole"] / "image_encoder")["digest"]
    assert manifest.config["data"] == read_manifest(dataset).content_digest
    for split in ("train", "val"):
        assert ShardIndex.open(latents, split).sample_ids == ShardIndex.open(dataset, split).sample_ids
    from webdataset.compat import WebDataset

    urls = [str(latents / shard.name) for shard in manifest.shards]
    records = list(WebDataset(urls, shardshuffle=False))
    assert len(records) == 7
    assert {"whole_00.npz", "whole_01.npz", "part_001_01.npz", "tokens_01.npz", "json"} <= set(records[0])


def test_what_does_not_belong_together_is_refused_with_both_digests(dataset, parents, latents, tmp_path):
    other = write_parents(tmp_path, ("vae", "whole"), vae_ci(CI).model, image_encoder(CI), find_recipe("whole", "ci").model)
    from unipart.models.pretrained import load_pretrained

    vae = load_pretrained(other["vae"])
    vae.z_scale.fill_(2.0)  # pyright: ignore
    save_pretrained(vae, other["vae"])
    old, new = (read_document(folder)["digest"] for folder in (parents["vae"], other["vae"]))
    assert old != new
    config = find_recipe("part", "ci").replace(latents=str(latents))
    with pytest.raises(UserError) as error:
        make_objective(config, {**parents, "vae": other["vae"]}, None, CPU)
    assert old in error.value.message
    assert new in error.value.message
    images = load_pretrained(parents["whole"] / "image_encoder")
    images.image_token.data.fill_(1.0)  # pyright: ignore
    save_pretrained(images, other["whole"] / "image_encoder")
    with pytest.raises(UserError, match="image encoder"):
        make_objective(config, {**parents, "whole": other["whole"]}, None, CPU)
    with pytest.raises(UserError, match="holds samples, not latents"):
        make_objective(config.replace(latents=str(dataset)), parents, None, CPU)


def status(folder: Path, capsys) -> dict:
    data.main(["status", str(folder), "--json"])
    return json.loads(capsys.readouterr().out)


def test_a_killed_run_continues_and_gives_the_same_bytes(dataset, parents, latents, tmp_path, capsys):
    command = [sys.executable, "-m", "jobs.data", *arguments(dataset, parents, tmp_path / "killed")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    end = time.monotonic() + 120
    while not list(tmp_path.rglob("*-block-*.parquet")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "manifest.json").exists()
    half_way = status(tmp_path / "killed", capsys)
    assert half_way["in"] == 7 == half_way["kept"] + half_way["pending"]
    with pytest.raises(UserError, match="not finished"):
        data.main(["clean", str(tmp_path / "killed")])
    assert data.main(arguments(dataset, parents, tmp_path / "killed")) == 0
    finished = capsys.readouterr()
    assert " 0 were settled before" not in finished.err
    assert "in 7 = kept 7 + rejected 0 + failed 0" in finished.out
    ours, theirs = (read_manifest(folder) for folder in (tmp_path / "killed", latents))
    assert ours.shards == theirs.shards
    assert data.main(arguments(dataset, parents, tmp_path / "killed")) == 0
    assert "0 samples encoded, 7 were settled before" in capsys.readouterr().err
    assert data.main(["clean", str(tmp_path / "killed"), "--artefacts"]) == 0
    assert not list((tmp_path / "killed").rglob("artefacts/**/*.tar"))
    assert data.main(["inspect", str(tmp_path / "killed"), "--verify"]) == 0
    capsys.readouterr()
    done = status(tmp_path / "killed", capsys)
    assert (done["in"], done["kept"], len(done["assets"])) == (7, 7, 7)
    assert {asset["split"] for asset in done["assets"]} == {"train", "val"}
