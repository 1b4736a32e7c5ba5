import json
import time
from pathlib import Path

import pytest

from jobs.tracking import HistoryFollower, Tracker


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for the module: creating it takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


def _rows(run: Path, *steps: int) -> None:
    with (run / "history.jsonl").open("a") as file:
        for step in steps:
            file.write(json.dumps({"step": step, "loss": 1 / step, "val/loss": 2.0}) + "\n")


def _metric(tracker: Tracker, name: str) -> list[tuple[int, float]]:
    import mlflow

    found = mlflow.MlflowClient(tracking_uri=tracker.uri).get_metric_history(tracker.run_id or "", name)
    return [(entry.step, entry.value) for entry in found]


def test_a_training_that_continues_is_one_run_without_repeated_rows(tmp_path: Path, store: str):
    run = tmp_path / "vae"
    first = Tracker(run, store, "vae", {"unipart.kind": "vae"})
    first.params({"model.width": 64, "long": "x" * 10_000})
    _rows(run, 1, 2)
    with HistoryFollower(run, first, seconds=60):
        pass
    first.finish("KILLED")
    second = Tracker(run, store, "vae")
    seen: list[float] = []
    with HistoryFollower(run, second, lambda row: seen.append(row["step"]), seconds=60):
        _rows(run, 3)
    second.finish()
    assert second.run_id == first.run_id
    assert seen == [3]
    assert _metric(second, "loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert _metric(second, "val/loss") == [(1, 2.0), (2, 2.0), (3, 2.0)]


def test_scores_and_files_are_logged_as_a_run_of_their_own(tmp_path: Path, store: str):
    import mlflow

    (tmp_path / "report.html").write_text("<html>")
    tracker = Tracker(None, store, "report")
    tracker.rows([{"step": 0, "f@.05": 0.5}])
    tracker.artifact(tmp_path / "report.html")
    tracker.finish()
    client = mlflow.MlflowClient(tracking_uri=store)
    assert client.get_run(tracker.run_id or "").info.status == "FINISHED"
    assert [item.path for item in client.list_artifacts(tracker.run_id or "")] == ["report.html"]
    assert _metric(tracker, "f_.05") == [(0, 0.5)]
    assert not list(tmp_path.glob("mlflow.json"))


def test_a_dead_server_costs_a_warning_and_not_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    start = time.monotonic()
    tracker = Tracker(tmp_path / "vae", "http://127.0.0.1:9", "vae")
    tracker.params({"a": 1})
    tracker.finish()
    assert not tracker.active
    assert not tracker.rows([{"step": 1, "loss": 1.0}])
    assert time.monotonic() - start < 30
    assert "tracking is off" in caplog.text


def test_off_touches_nothing(tmp_path: Path):
    tracker = Tracker(tmp_path / "vae", "off", "vae")
    tracker.params({"a": 1})
    tracker.tags({"a": "1"})
    tracker.finish()
    assert not list(tmp_path.iterdir())
