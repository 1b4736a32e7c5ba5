import json
from pathlib import Path

import pytest

from jobs.compare import main
from unipart.errors import UserError
from unipart.metrics.table import score_rows, write_scores


def _run(folder: Path, width: int) -> Path:
    folder.mkdir(parents=True)
    config = {"steps": 4, "seed": 0, "model": {"width": width}}
    (folder / "train.json").write_text(json.dumps({"kind": "vae", "config": config, "changed": {}, "data": "d"}))
    (folder / "history.jsonl").write_text(json.dumps({"step": 4, "loss": 1 / width, "seconds": 1}) + "\n")
    return folder


def test_only_settings_that_differ_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main([str(_run(tmp_path / "a", 64)), str(_run(tmp_path / "b", 128)), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["model.width"] for row in rows] == ["64", "128"]
    assert rows[0]["loss"] == 1 / 64
    assert "seed" not in rows[0]


def test_score_tables_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture):
    for name, value in (("ours", 0.5), ("theirs", 0.25)):
        write_scores(tmp_path / f"{name}.parquet", score_rows(name, "object", {"cd_l1_sum": value}))
    assert main([str(tmp_path / "ours.parquet"), str(tmp_path / "theirs.parquet")]) == 0
    out = capsys.readouterr().out
    assert "0.25" in out
    assert "ours" in out


def test_runs_and_scores_do_not_mix(tmp_path: Path):
    with pytest.raises(UserError, match="cannot be compared"):
        main([str(tmp_path), "scores.parquet"])
