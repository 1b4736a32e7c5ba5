"""A tracking server that is away, dies and returns: every figure arrives, and arrives once."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from jobs.recipes import find_recipe
from jobs.runs import read_history, read_run
from jobs.tracking import RunFacts, RunFollower, Shipper, fetch_run
from jobs.train import train
from jobs.training.launch import make_job

# MLflow's own application and store, without the process manager that `mlflow server` puts around it (2 s to start, not 9).
SERVER = """
import sys
from mlflow.server import app
from werkzeug.serving import run_simple
run_simple("127.0.0.1", int(sys.argv[1]), app, threaded=True)
"""


class Server:
    """A tracking server on SQLite, its artefacts in a bucket, that can be killed and started again."""

    def __init__(self, folder: Path, bucket: dict[str, str]) -> None:
        self.bucket = bucket
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri, self.folder = f"http://127.0.0.1:{self.port}", folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        store = {f"_MLFLOW_SERVER_{name}_STORE": f"sqlite:///{self.folder / 'server.db'}" for name in ("FILE", "REGISTRY")}
        artefacts = {
            "ARTIFACT_ROOT": "mlflow-artifacts:/",
            "ARTIFACT_DESTINATION": "s3://mlflow/artefacts",
            "SERVE_ARTIFACTS": "true",
        }
        environment = {
            **os.environ,
            **store,
            **self.bucket,
            **{f"_MLFLOW_SERVER_{name}": value for name, value in artefacts.items()},
        }
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen([sys.executable, "-c", SERVER, str(self.port)], env=environment, stdout=log, stderr=log)
        _wait_for(self._answers)

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "server.log").read_text()[-2000:]
        try:
            return urlopen(f"{self.uri}/health", timeout=1).status == 200
        except (URLError, OSError):
            return False


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the servers of this module keep their database, one after another: making it takes seconds."""
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def bucket() -> Iterator[dict[str, str]]:
    """An S3 server with the bucket of the artefacts: what a tracking server's environment must say of it."""
    moto_server = pytest.importorskip("moto.server")
    server = moto_server.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    named = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    urlopen(Request(f"http://{host}:{port}/mlflow", method="PUT"), timeout=10)
    yield {**named, "MLFLOW_S3_ENDPOINT_URL": f"http://{host}:{port}"}
    server.stop()


@pytest.fixture
def server(storage: Path, bucket: dict[str, str]) -> Iterator[Server]:
    made = Server(storage, bucket)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.kill()


def _wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def _write(run: Path, steps: range) -> None:
    with (run / "history.jsonl").open("a") as file:
        for step in steps:
            file.write(json.dumps({"step": step, "loss": 1 / (step + 1), "lr": 0.1}) + "\n")


def _logged(uri: str, run: Path, metric: str) -> Counter[int]:
    import mlflow

    run_id = json.loads((run / "mlflow.json").read_text())["run_id"]
    return Counter(entry.step for entry in mlflow.MlflowClient(uri).get_metric_history(run_id, metric))


def test_a_server_that_comes_dies_and_returns_has_every_figure_once(server: Server, tmp_path: Path, caplog):
    """Down at the start, killed while rows arrive, started again: no (metric, step) is missing or there twice."""
    run = tmp_path / "runs" / "vae"
    run.mkdir(parents=True)
    system = [{"step": step, "time": 1000 * step, "system/cpu": 0.5} for step in range(5)]
    (run / "system.jsonl").write_text("".join(json.dumps(row) + "\n" for row in system))
    rows_seen: list[float] = []
    shipper = Shipper(run, server.uri, RunFacts("vae", {"steps": 60}), seconds=0.05, patience=120)
    with RunFollower(run, shipper, lambda row: rows_seen.append(row["step"]), seconds=0.05):
        _write(run, range(20))
        _wait_for(lambda: len(rows_seen) == 20)
        _wait_for(lambda: "gets no rows" in caplog.text)
        server.start()
        _wait_for(lambda: shipper.note.shipped.get("system.jsonl", 0) > 0)
        for step in range(20, 40):
            _write(run, range(step, step + 1))
            time.sleep(0.02)
            if step == 30:
                server.kill()
        time.sleep(0.3)
        server.start()
        _write(run, range(40, 60))
    assert shipper.note.status == "FINISHED"
    assert rows_seen == list(range(60))
    assert len(read_history(run)) == 60
    for metric in ("loss", "lr"):
        assert _logged(server.uri, run, metric) == Counter(range(60)), metric
    assert _logged(server.uri, run, "system/cpu") == Counter(range(5))


def test_a_training_whose_server_was_away_is_sent_by_the_same_command(
    dataset: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Figures, pictures and the registered model; the run read back from the server is the run in its folder."""
    import mlflow

    recipe, folder = find_recipe("vae", "ci"), tmp_path / "runs" / "vae"
    job = replace(make_job(recipe.replace(steps=4), recipe, str(dataset), folder, folder.parent), threads=1)
    monkeypatch.setattr("jobs.train.Shipper", partial(Shipper, patience=0.2))
    assert train(job, workers=0, tracking=server.uri).step == 4
    monkeypatch.undo()
    assert not json.loads((folder / "mlflow.json").read_text())["run_id"]
    server.start()
    trained = {path: path.stat().st_mtime_ns for path in folder.glob("checkpoints/*/model.safetensors")}
    assert train(job, workers=0, tracking=server.uri).step == 4
    assert trained == {path: path.stat().st_mtime_ns for path in folder.glob("checkpoints/*/model.safetensors")}

    name, run = fetch_run(server.uri, json.loads((folder / "mlflow.json").read_text())["run_id"], tmp_path / "fetched")
    here = read_run(folder)
    assert name == "vae runs"
    assert (run.config, run.data, run.step) == (here.config, here.data, here.step)
    assert run.series()["loss"] == here.series()["loss"]
    drawn = {path.name for path in here.folder.glob("validation/*/*")}
    assert {path.name for path in run.folder.glob("validation/*/*")} == drawn
    assert drawn
    client = mlflow.MlflowClient(server.uri, server.uri)
    newest = client.get_model_version_by_alias("unipart-vae", "newest")
    assert newest.tags["unipart.weights"] == here.digest
    assert newest.run_id == run.run_id
    assert client.get_run(run.run_id).info.status == "FINISHED"
    listed = urlopen(f"{server.bucket['MLFLOW_S3_ENDPOINT_URL']}/mlflow?list-type=2", timeout=10).read().decode()
    assert f"{run.run_id}/artifacts/train.json" in listed
    assert "/artifacts/model.safetensors" in listed

    monkeypatch.setattr("jobs.train.Shipper", lambda *_: pytest.fail("everything is there already"))
    train(job, workers=0, tracking=server.uri)
