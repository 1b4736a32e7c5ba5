"""Fixtures of the tests that train."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from torch import distributed, multiprocessing

from jobs.training.launch import Job, run_here
from jobs.training.smoke import two_balls
from unipart.data.codec import encode_sample
from unipart.data.schema import SCHEMA_VERSION, Sample
from unipart.data.shards import Manifest, tar_bytes, write_manifest, write_shards
from unipart.rng import derive


def _two_views(name: str) -> Sample:
    """Two separate balls, seen twice."""
    sample = two_balls(name, derive(0, name))
    (view,) = sample.views
    return replace(sample, views=(view, replace(view, rgba=view.rgba[::-1].copy())))


@pytest.fixture(scope="session")
def write_balls() -> Callable[..., Path]:
    """Writes a dataset of `train` + `val` objects of two balls, `per_shard` in a shard, and returns its folder."""

    def write(folder: Path, train: int = 6, val: int = 1, per_shard: int = 4) -> Path:
        names = [f"object{number:02d}" for number in range(train + val)]
        samples = [(name, tar_bytes(name, encode_sample(_two_views(name)))) for name in names]
        records = write_shards(folder, "train", samples[:train], 10**9, per_shard)
        records += write_shards(folder, "val", samples[train:], 10**9, per_shard)
        write_manifest(folder, Manifest(SCHEMA_VERSION, "config", "test", "content", {"kept": train + val}, tuple(records)))
        return folder

    return write


@pytest.fixture(scope="module")
def dataset(write_balls: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six objects to train on and one to validate on, in three shards."""
    return write_balls(tmp_path_factory.mktemp("shards"))


def _train_as_one_of_two(rank: int, jobs: list[Job], store: str, train: Callable[[Job, int, int], object]) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for job in jobs:
        train(job, rank, 2)
    distributed.destroy_process_group()


@pytest.fixture(scope="session")
def run_together() -> Callable[..., None]:
    """Runs trainings, one after the other, by two workers that are processes of this machine, without Ray."""

    def run(jobs: list[Job], store: Path, train: Callable[[Job, int, int], object] = run_here) -> None:
        multiprocessing.spawn(_train_as_one_of_two, (jobs, str(store), train), nprocs=2)

    return run
