"""A cluster that fails under a training: a node that is killed, workers and drivers killed at random moments; shards from S3."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
import pytest

from jobs.recipes import find_recipe
from jobs.runs import latest_checkpoint, read_history
from jobs.training.launch import Job, make_job, run_here
from unipart.data.shards import read_manifest
from unipart.rng import derive

ROOT = Path(__file__).resolve().parents[2]
STEPS = 60
QUICK = {"loader_workers": 0, "log_every": 1, "batch_size": 4, "accumulate": 2, "validate_every": 10, "optimizer__ema_decay": 0.9}

CLUSTER = """
import json
import logging
import sys
import threading
import time
from pathlib import Path

import psutil
import ray
from jobs.runs import latest_checkpoint
from jobs.training.launch import Job, run_on_ray
from ray.cluster_utils import Cluster
from unipart.errors import EnvironmentProblem

logging.basicConfig(level=logging.WARNING)
job, other = (Job(**json.loads(document)) for document in sys.argv[1:])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
ray.init(cluster.address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
alive = [node.all_processes["raylet"][0].process for node in nodes]

def works(raylet):
    return any("RayTrainWorker" in " ".join(one.cmdline()) for one in psutil.Process(raylet.pid).children())

def kill_both():
    before = None
    while alive:
        while (newest := latest_checkpoint(Path(job.folder))) == before or not any(map(works, alive)):
            time.sleep(0.02)
        raylet = next(filter(works, alive))
        for one in (*psutil.Process(raylet.pid).children(recursive=True), raylet):
            one.kill()
        alive.remove(raylet)
        print(f"killed at {newest.name}", file=sys.stderr, flush=True)
        time.sleep(0.5)  # until what it was writing is written
        before = latest_checkpoint(Path(job.folder))

threading.Thread(target=kill_both, daemon=True).start()
print(f"done: step {run_on_ray(job, 2).step}", file=sys.stderr, flush=True)
try:
    run_on_ray(other, 2)
except EnvironmentProblem as error:
    print(f"refused: {error}", file=sys.stderr, flush=True)
ray.shutdown()  # before its nodes, or the driver complains that they are gone
cluster.shutdown()
"""

DRIVER = """
import json
import sys

from jobs.training.launch import Job, run_here, run_on_ray

workers, job = int(sys.argv[1]), Job(**json.loads(sys.argv[2]))
run_on_ray(job, workers) if workers else run_here(job)
"""


def _job(data: str | Path, folder: Path, **changes) -> Job:
    recipe = find_recipe("vae", "ci")
    config = recipe.replace(**{**QUICK, "steps": STEPS, "checkpoint_every": 5, **changes})
    return replace(make_job(config, recipe, str(data), folder, folder.parent), threads=1, device="cpu")


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen]]:
    """Function that starts a script; its Ray is no other test's, and what is left of it dies with the test."""
    started: list[subprocess.Popen] = []
    with TemporaryDirectory(prefix="ray", dir="/tmp") as folder:  # the paths of Ray's sockets must be short

        def start(script: str, *arguments: str) -> subprocess.Popen:
            started.append(_start(folder, script, *arguments))
            return started[-1]

        yield start
        for process in started:
            process.kill()


def _start(folder: str, script: str, *arguments: str) -> subprocess.Popen:
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT), "RAY_TMPDIR": folder}
    environment |= {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5", "OMP_NUM_THREADS": "1"}
    if script == CLUSTER:  # it waits ten times so long for nodes that never come
        environment |= {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "1"}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _finish(process: subprocess.Popen) -> str:
    errors = process.communicate(timeout=400)[1]
    assert process.returncode == 0, errors[-3000:]
    return errors


def _curve(folder: Path, steps: int = STEPS) -> dict[str, list[float]]:
    rows = read_history(folder)
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, steps + 1)), "no row is lost or doubled"
    return {name: [row[name] for row in rows if name in row] for name in ("loss", "grad_norm", "val/loss", "z_scale")}


@pytest.fixture(scope="module")
def straight(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """The curve of one process that nothing disturbs."""
    folder = tmp_path_factory.mktemp("straight") / "vae"
    run_here(_job(dataset, folder))
    return _curve(folder)


@pytest.mark.slow
def test_a_training_survives_the_death_of_two_nodes(dataset: Path, tmp_path: Path, straight: dict[str, list[float]], start):
    """For the first there is another; after the second there is room for one of two workers, and too little to begin with two."""
    folder, other = tmp_path / "vae", tmp_path / "other" / "vae"
    said = _finish(start(CLUSTER, *(json.dumps(asdict(_job(dataset, place))) for place in (folder, other))))
    assert said.count("killed at step_") == 2
    assert said.index("killed at", said.index("killed at") + 1) < said.index("goes on with 1") < said.index(f"done: step {STEPS}")
    curve = _curve(folder)
    assert curve["loss"] == pytest.approx(straight["loss"], rel=1e-6)
    for name, values in curve.items():
        assert values == pytest.approx(straight[name], rel=1e-5), name
    assert "there is room for 1 of 2 workers" in said[said.index("refused:") :]
    assert latest_checkpoint(other) is None


def _wait(process: subprocess.Popen, folder: Path, rows: int, rng: np.random.Generator) -> None:
    """Waits until a run has more than so many rows, and then for a random moment."""
    while sum("loss" in row for row in read_history(folder)) <= rows and process.poll() is None:
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.1))
    assert process.poll() is None, "it was to be killed while it trains"


def _workers(process: subprocess.Popen) -> list[psutil.Process]:
    family = psutil.Process(process.pid).children(recursive=True)
    return [one for one in family if "RayTrainWorker" in " ".join(one.cmdline())]


def _kill_worker(process: subprocess.Popen, folder: Path, rows: int, rng: np.random.Generator) -> None:
    _wait(process, folder, rows, rng)
    workers = _workers(process)
    os.kill(workers[int(rng.integers(len(workers)))].pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_driver_killed_at_random_moments_leaves_the_curve_bit_for_bit(
    dataset: Path, tmp_path: Path, straight: dict[str, list[float]], start
):
    folder, rng = tmp_path / "vae", derive(0, "kills")
    document = json.dumps(asdict(_job(dataset, folder, checkpoint_every=2)))
    for until in sorted(rng.choice(STEPS - 5, 3, replace=False)):
        process = start(DRIVER, "0", document)
        _wait(process, folder, int(until), rng)
        process.kill()
        process.communicate()
    _finish(start(DRIVER, "0", document))
    assert _curve(folder) == straight


@pytest.mark.slow
def test_workers_and_a_driver_on_ray_killed_at_random_moments_leave_the_curve_bit_for_bit(
    dataset: Path, tmp_path: Path, run_together: Callable[..., None], start
):
    rng = derive(0, "kills on ray")
    whole, killed = tmp_path / "whole" / "vae", tmp_path / "killed" / "vae"
    run_together([_job(dataset, whole)], tmp_path / "store")
    document = json.dumps(asdict(_job(dataset, killed)))
    process = start(DRIVER, "2", document)
    _wait(process, killed, int(rng.integers(STEPS // 3)), rng)
    workers = _workers(process)
    process.kill()
    process.communicate()
    assert not psutil.wait_procs(workers, timeout=60)[1], "they go with it, though some steps later"
    process = start(DRIVER, "2", document)
    _kill_worker(process, killed, int(rng.integers(len(read_history(killed)), STEPS - 5)), rng)
    _finish(process)
    assert _curve(killed) == _curve(whole)


def test_a_training_from_object_storage_has_the_curve_of_one_from_a_folder_also_when_it_resumes(
    write_balls, bucket: str, tmp_path: Path
):
    local, remote = (write_balls(place, per_shard=1) for place in (tmp_path / "dataset", f"{bucket}/dataset"))
    changes = {"window_shards": 2, "steps": 10, "checkpoint_every": 5, "keep_checkpoints": 2}
    run_here(_job(local, tmp_path / "local" / "vae", **changes))
    whole = _curve(tmp_path / "local" / "vae", 10)
    folder, cache = tmp_path / "remote" / "vae", tmp_path / "cache"
    size = max(shard.bytes for shard in read_manifest(local).shards)
    job = _job(remote, folder, **changes, shard_cache=str(cache), shard_cache_gb=4.5 * size / 1e9)
    run_here(job)
    assert _curve(folder, 10) == whole
    assert 0 < len(list(cache.glob("*.tar"))) <= 4, "of seven shards"
    shutil.rmtree(folder / "checkpoints" / "step_00000010")  # as if it had been killed: inside the fourth pass over six objects
    os.truncate(folder / "history.jsonl", 0)
    shutil.rmtree(cache)
    run_here(job)
    assert [row["loss"] for row in read_history(folder) if "loss" in row] == whole["loss"][5:]
