import json
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jobs.runs import read_state
from jobs.tracking import Finished, RunFacts, RunFollower, Shipper, Tracker, code_tags, is_complete, parent_run
from jobs.tracking.registry import LARGEST
from jobs.tracking.shipper import Ending
from jobs.tracking.store import Store, Unreachable
from jobs.tracking.system import SystemFigures, sampling

DEAD = "http://127.0.0.1:9"


def _rows(run: Path, *steps: int, name: str = "history.jsonl") -> None:
    run.mkdir(parents=True, exist_ok=True)
    with (run / name).open("a") as file:
        for step in steps:
            file.write(json.dumps({"step": step, "loss": 1 / step, "val/loss": 2.0}) + "\n")


def _ship(run: Path, uri: str, status: str = "FINISHED", model: Finished | None = None, **facts: Any) -> Shipper:
    """One start of a run, from its first look to its end."""
    shipper = Shipper(run, uri, RunFacts(run.name, **facts), seconds=0.05)
    shipper.start()
    assert shipper.close(Ending(status, model))
    return shipper


def _client(uri: str) -> Any:
    import mlflow

    return mlflow.MlflowClient(uri, uri)


def _metric(shipper: Shipper | Tracker, name: str) -> list[tuple[int, float]]:
    uri, run_id = (shipper.uri, shipper.run_id) if isinstance(shipper, Tracker) else (shipper.note.uri, shipper.note.run_id)
    return [(entry.step, entry.value) for entry in _client(uri).get_metric_history(run_id, name)]


def _checkpoint(run: Path, step: int, weights: bytes, figure: float) -> Path:
    """A finished checkpoint of an anchor decoder, as the registry sees it."""
    folder = run / "checkpoints" / f"step_{step:08d}"
    (folder / "train_state").mkdir(parents=True)
    (folder / "train_state" / "state.safetensors").write_bytes(b"moments")
    progress = {"step": step, "cursor": step, "finished": True, "config_digest": "c", "scores": {"val/loss": figure}}
    (folder / "train_state" / "progress.json").write_text(json.dumps(progress))
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "README.md").write_text("# card")
    document = {"model": "anchor_decoder", "config": {"latent_width": 8}, "digest": weights.hex(), "lineage": {}}
    (folder / "config.json").write_text(json.dumps(document))
    return folder


def test_a_training_that_continues_is_one_run_without_repeated_rows(tmp_path: Path, store: str):
    run, seen = tmp_path / "vae", []
    _rows(run, 1, 2)
    first = _ship(run, store, "KILLED", params={"model.width": 64, "long": "x" * 10_000})
    second = Shipper(run, store, RunFacts("vae"), seconds=0.05)
    with RunFollower(run, second, lambda row: seen.append(row["step"]), seconds=0.05):
        _rows(run, 3)
    assert second.note.run_id == first.note.run_id
    assert seen == [3]
    assert _metric(second, "loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert _metric(second, "val/loss") == [(1, 2.0), (2, 2.0), (3, 2.0)]
    assert _client(store).get_run(first.note.run_id).info.status == "FINISHED"
    assert is_complete(run, store, second.note.model)


def test_a_setting_changed_at_a_resume_is_a_tag_and_tracking_goes_on(tmp_path: Path, store: str):
    run = tmp_path / "vae"
    _rows(run, 1)
    _ship(run, store, "KILLED", params={"steps": 4, "seed": 0})
    _rows(run, 2)
    resumed = _ship(run, store, params={"steps": 8, "seed": 0, "best": "val/loss:min"})
    data = _client(store).get_run(resumed.note.run_id).data
    assert data.params == {"steps": "4", "seed": "0", "best": "val/loss:min"}
    assert {name: text for name, text in data.tags.items() if "resumed" in name} == {"unipart.resumed.steps": "8"}
    assert [step for step, _ in _metric(resumed, "loss")] == [1, 2]
    _ship(run, store, params={"steps": 4, "seed": 0})
    assert _client(store).get_run(resumed.note.run_id).data.tags["unipart.resumed.steps"] == "4"


@pytest.mark.parametrize("lost", ["the answer", "the note"])
def test_rows_whose_arrival_was_not_noted_are_sent_once(tmp_path: Path, store: str, lost: str, monkeypatch: pytest.MonkeyPatch):
    """More rows than a request holds, of which the store has the first ones without our knowing."""
    run, send, answers = tmp_path / "vae", Store.log_metrics, []
    _rows(run, *range(1, 301))
    if lost == "the note":
        before = _ship(run, store, "KILLED")
        before.note.shipped = {}
        before.note.write(run)
    else:

        def send_and_break(self: Store, run_id: str, values: list[Any]) -> None:
            send(self, run_id, values)
            answers.append(len(values))
            if len(answers) == 1:
                raise Unreachable("the answer was lost")

        monkeypatch.setattr(Store, "log_metrics", send_and_break)
    _rows(run, *range(301, 801))
    shipper = _ship(run, store)
    assert _metric(shipper, "loss") == [(step, 1 / step) for step in range(1, 801)]
    assert _metric(shipper, "val/loss") == [(step, 2.0) for step in range(1, 801)]
    assert lost == "the note" or sum(answers) == 1600


def test_a_run_whose_id_was_not_noted_is_found_by_its_key(tmp_path: Path, store: str):
    run = tmp_path / "vae"
    _rows(run, 1)
    first = _ship(run, store, "KILLED")
    note = json.loads((run / "mlflow.json").read_text())
    (run / "mlflow.json").write_text(json.dumps({"key": note["key"], "uri": note["uri"]}))
    second = _ship(run, store)
    assert second.note.run_id == first.note.run_id
    assert [step for step, _ in _metric(second, "loss")] == [1]


def test_a_run_deleted_in_the_store_is_made_anew_with_all_rows(tmp_path: Path, store: str):
    run = tmp_path / "vae"
    _rows(run, 1)
    first = _ship(run, store, "KILLED")
    _client(store).delete_run(first.note.run_id)
    _rows(run, 2)
    second = _ship(run, store)
    assert second.note.run_id != first.note.run_id
    assert [step for step, _ in _metric(second, "loss")] == [1, 2]


def test_what_a_finished_run_could_not_send_follows_later(tmp_path: Path, store: str, caplog: pytest.LogCaptureFixture):
    run = tmp_path / "vae"
    _rows(run, 1, 2)
    lonely = Shipper(run, DEAD, RunFacts("vae"), seconds=0.05, patience=0.5)
    lonely.start()
    assert not lonely.close(Ending("FINISHED"))
    assert "2 rows are kept" in caplog.text
    assert not is_complete(run, DEAD, "")
    later = _ship(run, store, finished=True)
    assert [step for step, _ in _metric(later, "loss")] == [1, 2]
    assert _client(store).get_run(later.note.run_id).info.status == "FINISHED"
    assert is_complete(run, store, "")
    _rows(run, 3)
    assert not is_complete(run, store, "")


def test_a_store_that_hangs_delays_neither_progress_nor_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every call to it blocks until the test is over: the follower hands on all rows meanwhile, the end waits its bound."""
    over, asked, seen = threading.Event(), threading.Event(), []

    def hang(self: Store, method: str, *_: object, **__: object) -> None:
        asked.set()
        over.wait(120)
        raise Unreachable("it hangs")

    monkeypatch.setattr(Store, "call", hang)
    run = tmp_path / "vae"
    shipper = Shipper(run, DEAD, RunFacts("vae"), seconds=0.02, patience=0.3)
    start = time.monotonic()
    with RunFollower(run, shipper, lambda row: seen.append(row["step"]), seconds=0.02):
        assert asked.wait(30)
        _rows(run, *range(1, 101))
    assert seen == list(range(1, 101))
    assert not over.is_set()
    assert time.monotonic() - start < 100
    over.set()
    assert read_state(run).state == "finished"


def test_each_file_of_a_validation_is_uploaded_once_and_settings_when_they_change(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
):
    run, call, uploads = tmp_path / "vae", Store.call, Counter()

    def counted(self: Store, method: str, *arguments: Any, **keywords: Any) -> Any:
        if method == "log_artifact":
            uploads[Path(arguments[1]).name] += 1
        return call(self, method, *arguments, **keywords)

    monkeypatch.setattr(Store, "call", counted)
    folder = run / "validation" / "step_00000002"
    folder.mkdir(parents=True)
    (folder / "objects.json").write_text("{}")
    (folder / ".chair.png").write_text("half")
    (run / "train.json").write_text("{}")
    _ship(run, store, "KILLED")
    (folder / ".chair.png").rename(folder / "chair.png")
    fresh = run / "train.new"
    fresh.write_text('{"steps": 8}')
    fresh.replace(run / "train.json")
    shipper = _ship(run, store)
    assert uploads == {"objects.json": 1, "chair.png": 1, "train.json": 2}
    there = _client(store).list_artifacts(shipper.note.run_id, "validation/step_00000002")
    assert [Path(item.path).name for item in there] == ["chair.png", "objects.json"]


def test_a_finished_model_is_registered_once_with_signature_and_aliases(tmp_path: Path, store: str):
    client, run = _client(store), tmp_path / "one"
    best, newest = _checkpoint(run, 2, b"best", 0.25), _checkpoint(run, 4, b"newest", 0.5)
    model = Finished(run, "anchor", newest, "val/loss:min", "data")
    _rows(run, 4)
    shipper = _ship(run, store, model=model)
    versions = {known.tags["unipart.weights"]: known for known in client.search_model_versions("name = 'unipart-anchor'")}
    assert set(versions) == {b"best".hex(), b"newest".hex()}
    aliases = client.get_registered_model("unipart-anchor").aliases
    assert {name: str(version) for name, version in aliases.items()} == {
        "newest": str(versions[b"newest".hex()].version),
        "best": str(versions[b"best".hex()].version),
    }
    files = Path(versions[b"best".hex()].source.removeprefix("file://"))
    assert sorted(path.name for path in files.iterdir()) == ["MLmodel", "README.md", "config.json", "model.safetensors"]
    assert '"shape": [-1, -1, 8]' in (files / "MLmodel").read_text().replace("\n   ", "")
    assert best.name in versions[b"best".hex()].tags["unipart.checkpoint"]
    shipper.note.model = ""  # as if killed before it was noted
    shipper.note.write(run)
    _ship(run, store, model=model, finished=True)
    assert len(client.search_model_versions("name = 'unipart-anchor'")) == 2
    worse = tmp_path / "two"
    _ship(worse, store, model=Finished(worse, "anchor", _checkpoint(worse, 2, b"worse", 0.75), "val/loss:min", "data"))
    held = client.get_registered_model("unipart-anchor").aliases
    assert str(held["best"]) == str(aliases["best"])
    assert client.get_model_version("unipart-anchor", held["newest"]).tags["unipart.weights"] == b"worse".hex()


def test_weights_above_the_bound_are_told_and_not_uploaded(tmp_path: Path, store: str):
    run = tmp_path / "huge"
    checkpoint = _checkpoint(run, 2, b"huge", 0.5)
    with (checkpoint / "model.safetensors").open("r+b") as file:
        file.truncate(LARGEST + 1)  # sparse
    _ship(run, store, model=Finished(run, "anchor", checkpoint))
    (version,) = [
        known
        for known in _client(store).search_model_versions("name = 'unipart-anchor'")
        if known.run_id and known.tags["unipart.weights"] == b"huge".hex()
    ]
    files = {path.name for path in Path(version.source.removeprefix("file://")).iterdir()}
    assert files == {"MLmodel", "README.md", "config.json"}
    assert version.tags["unipart.checkpoint"] == str(checkpoint)


def test_the_machine_s_figures_go_on_counting_after_a_kill(tmp_path: Path):
    SystemFigures(tmp_path).sample()
    with (tmp_path / "system.jsonl").open("a") as file:
        file.write('{"step": 1, "ti')
    SystemFigures(tmp_path).sample()
    rows = [json.loads(line) for line in (tmp_path / "system.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1]
    assert 0 < rows[1]["system/system_memory_usage_percentage"] < 100
    assert rows[1]["time"] >= rows[0]["time"]


def test_the_figures_of_other_machines_arrive_under_their_names(tmp_path: Path, store: str):
    run = tmp_path / "vae"
    run.mkdir()
    SystemFigures(run).sample()
    with sampling(run, "gpu-node-2", seconds=0.02):
        end = time.monotonic() + 20
        while not (run / "system_gpu-node-2.jsonl").is_file() and time.monotonic() < end:
            time.sleep(0.01)
    shipper = _ship(run, store)
    name = "system_memory_usage_percentage"
    assert len(_metric(shipper, f"system/{name}")) == 1
    assert len(_metric(shipper, f"system/gpu-node-2/{name}")) >= 1
    note = json.loads((run / "mlflow.json").read_text())
    assert set(note["shipped"]) == {"system.jsonl", "system_gpu-node-2.jsonl"}


def test_the_code_s_commit_is_told_only_where_git_knows_the_code(tmp_path: Path):
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        return subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True, text=True).stdout

    git("init")
    assert code_tags(tmp_path) == {}
    (tmp_path / "store.py").write_text("1")
    git("add", "store.py")
    git("commit", "-m", "first")
    assert code_tags(tmp_path) == {"mlflow.source.git.commit": git("rev-parse", "HEAD").strip(), "unipart.code_changed": "no"}
    (tmp_path / "store.py").write_text("2")
    assert code_tags(tmp_path)["unipart.code_changed"] == "yes"
    (tmp_path / "installed").mkdir()
    assert code_tags(tmp_path / "installed") == {}


def test_a_parent_s_run_is_known_by_its_checkpoint(tmp_path: Path):
    checkpoint = tmp_path / "vae" / "checkpoints" / "step_00000004"
    assert parent_run(checkpoint) == ""
    checkpoint.mkdir(parents=True)
    (tmp_path / "vae" / "mlflow.json").write_text('{"run_id": "abc"}')
    assert parent_run(checkpoint) == "abc"


def test_scores_and_files_are_logged_as_a_run_of_their_own(tmp_path: Path, store: str):
    (tmp_path / "report.html").write_text("<html>")
    tracker = Tracker(None, store, "report")
    tracker.rows([{"step": 0, "f@.05": 0.5}])
    tracker.artifact(tmp_path / "report.html")
    tracker.finish()
    client = _client(store)
    assert client.get_run(tracker.run_id or "").info.status == "FINISHED"
    assert [item.path for item in client.list_artifacts(tracker.run_id or "")] == ["report.html"]
    assert _metric(tracker, "f_.05") == [(0, 0.5)]
    assert not list(tmp_path.rglob("mlflow.json"))


def test_a_dead_server_costs_what_is_logged_once_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    start = time.monotonic()
    tracker = Tracker(tmp_path / "vae", DEAD, "vae")
    tracker.finish()
    assert not tracker.active
    assert not tracker.rows([{"step": 1, "loss": 1.0}])
    assert time.monotonic() - start < 30
    assert "not tracked" in caplog.text


def test_off_touches_nothing(tmp_path: Path):
    tracker = Tracker(tmp_path / "vae", "off", "vae")
    tracker.artifact(tmp_path)
    tracker.finish()
    assert not list(tmp_path.iterdir())
