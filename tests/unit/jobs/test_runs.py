import json
import math
from pathlib import Path

import pytest

from jobs.runs import best_checkpoint, find_runs, mlflow_link, read_history, read_run
from unipart.errors import UserError


def _run(folder: Path, kind: str, **config) -> Path:
    folder.mkdir(parents=True)
    settings = {"kind": kind, "config": {"steps": 4, **config}, "changed": {}, "data": "shards", "parents": {}}
    (folder / "train.json").write_text(json.dumps(settings))
    rows = [{"step": 2, "loss": 2.0, "seconds": 1.5}, {"step": 4, "loss": 1.0, "seconds": 1.5}]
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_half_written_row_is_not_read(tmp_path: Path):
    (tmp_path / "history.jsonl").write_text('{"step": 1, "loss": 2}\n{"step": 2, "lo')
    assert read_history(tmp_path) == [{"step": 1, "loss": 2}]


def test_a_run_tells_its_time_and_last_figures(tmp_path: Path):
    run = read_run(_run(tmp_path / "vae", "vae"))
    assert run.seconds == 3.0
    assert run.last() == {"loss": 1.0}
    assert run.series()["loss"] == [(2, 2.0), (4, 1.0)]


def test_runs_come_in_the_order_of_training(tmp_path: Path):
    for kind in ("anchor", "part", "vae"):
        _run(tmp_path / kind, kind)
    assert [run.kind for run in find_runs(tmp_path)] == ["vae", "anchor", "part"]


@pytest.mark.parametrize(
    ("noted", "beside", "shown"),
    [
        ("sqlite:////old/mlflow.db", "runs/mlflow.db", "sqlite:///{}/runs/mlflow.db"),
        ("sqlite:////old/mlflow.db", "mlflow.db", "sqlite:///{}/mlflow.db"),
        ("sqlite:////old/mlflow.db", "runs/other.db", "sqlite:////old/mlflow.db"),
        ("file:///old/mlflow.db", "runs/mlflow.db", "file:///old/mlflow.db"),
    ],
)
def test_a_store_that_was_copied_with_its_runs_is_the_one_to_show(noted: str, beside: str, shown: str, tmp_path: Path):
    run = _run(tmp_path / "runs" / "vae", "vae")
    (run / "mlflow.json").write_text(json.dumps({"uri": noted, "experiment_id": "1", "run_id": "2"}))
    (tmp_path / beside).touch()
    assert mlflow_link(run) == f"mlflow ui --backend-store-uri {shown.format(tmp_path)}  (then #/experiments/1/runs/2)"


def test_a_folder_without_settings_is_no_run(tmp_path: Path):
    with pytest.raises(UserError, match="no training run"):
        read_run(tmp_path)


def _checkpoints(run: Path, *scores: dict[str, float]) -> list[Path]:
    folders = [run / "checkpoints" / f"step_{step:08d}" for step in range(len(scores))]
    for folder, found in zip(folders, scores, strict=True):
        (folder / "train_state").mkdir(parents=True)
        (folder / "train_state" / "progress.json").write_text(json.dumps({"scores": found}))
    return folders


def test_the_best_checkpoint_has_a_finite_figure(tmp_path: Path):
    folders = _checkpoints(tmp_path, {"val/loss": math.nan}, {"val/loss": 2.0}, {}, {"val/loss": 1.0}, {"val/loss": math.inf})
    assert best_checkpoint(tmp_path, "val/loss:min") == folders[3]
    assert best_checkpoint(tmp_path, "val/loss:max") == folders[1]


def test_a_figure_that_no_checkpoint_has_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    assert best_checkpoint(tmp_path, "val/los:min") is None
    assert caplog.text == ""
    _checkpoints(tmp_path, {"val/loss": 1.0, "loss": 2.0})
    assert best_checkpoint(tmp_path, "val/los:min") is None
    assert best_checkpoint(tmp_path, "val/los:min") is None
    assert caplog.text.count("no checkpoint has the figure 'val/los'") == 1
    assert "Did you mean 'val/loss'?" in caplog.text
