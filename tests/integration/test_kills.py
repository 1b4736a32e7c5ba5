"""Kills of the driver, of workers and of a node at random moments: the dataset is that of an undisturbed run, byte for byte."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from pipelines import ledger
from pipelines.plan import build_plan
from pipelines.presets import preset
from pipelines.runner import read_status
from unipart import storage
from unipart.data.shards import read_manifest
from unipart.rng import derive

COUNT = 10
SOURCE = f"procedural:count={COUNT},seed=5"
ROOT = Path(__file__).resolve().parents[2]
CONFIG = preset("ci")
DIGEST = build_plan(CONFIG).digest

DISTURBED = """
import sys
import threading
import time

import psutil
import ray
from pipelines.plan import CurationConfig
from pipelines.runner import RunOptions, run
from ray.cluster_utils import Cluster

what, kills, source, out, config = sys.argv[1], int(sys.argv[2]), *sys.argv[3:]
left = [kills]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
node = cluster.add_node(num_cpus=1)

def raylet(of):
    return of.all_processes["raylet"][0].process

def works(process):
    try:
        return " ".join(process.cmdline()).startswith("ray::MapBatches")
    except psutil.Error:  # it ended meanwhile
        return False

def busy_workers():
    nodes = [psutil.Process(raylet(of).pid) for of in (cluster.head_node, node)]
    return [one for parent in nodes for one in parent.children() if works(one)]

def disturb(progress):
    if left[0] and what == "node":
        left[0] -= 1
        raylet(node).kill()
    elif left[0] and what == "worker" and busy_workers():
        left[0] -= 1
        busy_workers()[0].kill()

def kill_for_ever():
    while True:
        try:
            for one in busy_workers():
                one.kill()
        except psutil.Error:
            pass
        time.sleep(0.05)

if what == "every worker":
    threading.Thread(target=kill_for_ever, daemon=True).start()
result = run([source], out, CurationConfig.load(config), RunOptions(address=cluster.address), disturb)
assert left[0] == 0, "nothing was killed"
ray.shutdown()  # before its nodes, or the driver complains that they are gone
cluster.shutdown()
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "config.json"
    CONFIG.save(path)
    return path


def start(out, config_file, environment=None) -> subprocess.Popen:
    command = [sys.executable, "-m", "jobs.data", "run", SOURCE, "--out", str(out), "--config", str(config_file), "--cpus", "2"]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
    )


def finish(process: subprocess.Popen) -> str:
    errors = process.communicate(timeout=240)[1]
    assert process.returncode == 0, errors
    return errors


def fingerprint(out) -> dict:
    """Everything that must not depend on what was killed; times do."""
    manifest = read_manifest(out)
    facts = ("asset_id", "uri", "sha256", "split", "state", "reason", "num_parts", "artefact_sha256", "artefact_bytes")
    rows = ledger.read_ledger(str(out), DIGEST)
    assert not [row for row in rows.values() if row["state"] == "failed"], "with message and traceback, or nobody can tell why"
    return {
        "content": manifest.content_digest,
        "counts": manifest.counts,
        "shards": [(shard.name, shard.sha256) for shard in manifest.shards],
        "ledger": sorted(tuple(row[name] for name in facts) for row in rows.values()),
        "files": sorted(name for name in storage.list_files(out) if not name.startswith("ledger/")),
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, config_file):
    out = tmp_path_factory.mktemp("undisturbed") / "dataset"
    finish(start(out, config_file))
    found = fingerprint(out)
    assert found["counts"]["kept"] == len(found["ledger"]) == COUNT
    return found


def working_on(out) -> list[psutil.Process]:
    """Processes that have a file below the folder open, or were started for it."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            files = [file.path for file in process.open_files()]
        except psutil.Error:
            continue
        if str(out) in words or any(path.startswith(f"{out}/") for path in files):
            found.append(process)
    return found


def kill_at_random_moments(out, config_file, seed: int, times: int, environment=None) -> int:
    """Starts the run and kills its driver, so many times; returns how many assets were done by then."""
    rng = derive(seed, "kills")
    for _ in range(times):
        before = len(ledger.read_ledger(str(out), DIGEST))
        process = start(out, config_file, environment)
        end = time.monotonic() + 120
        while len(ledger.read_ledger(str(out), DIGEST)) == before and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(float(rng.uniform(0, 0.6)))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    return len(ledger.read_ledger(str(out), DIGEST))


def test_a_driver_killed_again_and_again_leaves_what_an_undisturbed_run_does(tmp_path, config_file, undisturbed):
    out = tmp_path / "dataset"
    done = kill_at_random_moments(out, config_file, seed=0, times=2)
    assert done >= 2, "each run was to be killed after it had done something"
    (out / "artefacts" / ".writing-left-by-a-kill").write_bytes(b"half an artefact")
    errors = finish(start(out, config_file))
    processed = int(errors.rpartition(" assets processed")[0].split()[-1])
    assert processed <= COUNT - done, "what was done is not done again"
    assert fingerprint(out) == undisturbed
    assert [row["state"] for row in read_status(out)] == ["kept"] * COUNT
    assert working_on(out) == []


def disturbed(what: str, kills: int, out: Path, config_file: Path) -> subprocess.CompletedProcess:
    """Runs the script on a cluster of its own, whose address does not stay where another Ray would find it."""
    command = [sys.executable, "-c", DISTURBED, what, str(kills), SOURCE, str(out), str(config_file)]
    with TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder:  # short: it holds sockets
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT), "RAY_TMPDIR": folder}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.parametrize(("what", "kills"), [("worker", 2), ("node", 1)])
def test_a_killed_worker_or_node_is_made_good_within_the_run(tmp_path, config_file, undisturbed, what, kills):
    out = tmp_path / "dataset"
    done = disturbed(what, kills, out, config_file)
    assert done.returncode == 0, done.stderr[-3000:]
    assert fingerprint(out) == undisturbed
    assert working_on(out) == []


def test_workers_that_die_for_ever_end_in_an_error_that_says_so(tmp_path, config_file):
    done = disturbed("every worker", 0, tmp_path / "dataset", config_file)
    assert done.returncode == 1
    assert "EnvironmentProblem: Ray gave up on a block of assets" in done.stderr
    assert not (tmp_path / "dataset" / "manifest.json").exists()


@pytest.fixture
def bucket(monkeypatch):
    """An S3 server of its own: the run is another process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    pytest.importorskip("moto")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    storage.forget_client()
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    storage._client().create_bucket(Bucket="bucket")
    yield environment
    storage.forget_client()
    server.kill()
    server.wait()


def test_a_killed_driver_that_writes_to_s3(bucket, config_file, undisturbed):
    out = "s3://bucket/dataset"
    assert kill_at_random_moments(out, config_file, 2, 1, bucket) >= 1
    finish(start(out, config_file, bucket))
    found = fingerprint(out)
    found["files"] = [*found["files"], ".lock"]
    assert {**found, "files": sorted(found["files"])} == undisturbed
