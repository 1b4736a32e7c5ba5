import json
import time
from pathlib import Path
from typing import Any

import pytest

from jobs.list_runs import main
from jobs.runs import write_state
from jobs.tracking import RunFacts, Shipper
from jobs.tracking.shipper import Ending
from unipart.errors import UserError


def _run(folder: Path, best: str = "", **state: Any) -> Path:
    folder.mkdir(parents=True)
    config = {"recipe": "vae ci", "steps": 8, "best": best}
    (folder / "train.json").write_text(json.dumps({"kind": "vae", "config": config, "changed": {}, "data": "d"}))
    rows = [
        {"step": 2, "loss": 2.0, "samples_per_second": 5.0},
        {"step": 2, "val/loss": 1.0, "val/iou64": 0.5},
        {"step": 4, "loss": 1.5, "samples_per_second": 6.0},
        {"step": 4, "val/loss": 1.25, "val/iou64": 0.25},
    ]
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if state:
        document = {"state": "running", "started": 1000.0, "seen": time.time(), "reason": "", **state}
        (folder / "state.json").write_text(json.dumps(document))
    return folder


def _listed(capsys: pytest.CaptureFixture, *arguments: str) -> dict[str, dict[str, Any]]:
    assert main([*arguments, "--json"]) == 0
    return {Path(row["run"]).name: row for row in json.loads(capsys.readouterr().out)}


def test_each_run_tells_how_it_fares(tmp_path: Path, capsys: pytest.CaptureFixture):
    _run(tmp_path / "now", state="running", started=5000.0)
    _run(tmp_path / "silent", state="running", seen=time.time() - 1000)
    _run(tmp_path / "deep" / "broken", state="failed", reason="the disk is full")
    _run(tmp_path / "old", best="val/iou64:max")
    rows = _listed(capsys, str(tmp_path))
    states = {name: row["state"] for name, row in rows.items()}
    assert states == {"now": "running", "silent": "interrupted", "broken": "failed", "old": "interrupted"}
    assert next(iter(rows)) == "now"  # the newest comes first
    assert (rows["now"]["step"], rows["now"]["steps"], rows["now"]["loss"], rows["now"]["samples_per_second"]) == (4, 8, 1.5, 6.0)
    assert (rows["now"]["validated"], rows["now"]["best"], rows["now"]["validation"]) == ("val/loss", 1.0, 1.25)
    assert (rows["old"]["validated"], rows["old"]["best"], rows["old"]["validation"]) == ("val/iou64", 0.5, 0.25)
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "4/8" in out
    assert "failed: the disk is full" in out


def test_a_store_lists_the_same_runs(tmp_path: Path, store: str, capsys: pytest.CaptureFixture):
    run = _run(tmp_path / "vae", best="val/iou64:max")
    params = {"recipe": "vae ci", "steps": 8, "best": "val/iou64:max"}
    for steps in (8, 16):  # the second time it was made longer
        shipper = Shipper(run, store, RunFacts("vae", {**params, "steps": steps}, {"unipart.kind": "vae"}), seconds=0.05)
        shipper.start()
        assert shipper.close(Ending("KILLED"))
    here, there = _listed(capsys, str(tmp_path))["vae"], _listed(capsys, store)["vae"]
    same = ("kind", "recipe", "state", "step", "loss", "validated", "validation", "best", "samples_per_second", "run_id", "mlflow")
    assert {name: there[name] for name in same} == {name: here[name] for name in same}
    assert there["steps"] == 16
    assert there["mlflow"].startswith(f"mlflow ui --backend-store-uri {store}")


def test_the_first_start_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture):
    run = _run(tmp_path / "vae", state="running")
    write_state(run, "finished")
    row = _listed(capsys, str(run))["vae"]
    assert row["state"] == "finished"
    assert row["started"] == time.strftime("%Y-%m-%d %H:%M", time.localtime(1000))


def test_a_folder_without_runs_is_named(tmp_path: Path):
    with pytest.raises(UserError, match="no training run"):
        main([str(tmp_path)])
