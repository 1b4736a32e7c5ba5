import json
from pathlib import Path

import pytest

from jobs.report import Inputs, make_report
from unipart.errors import UserError


def test_a_folder_without_runs_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=f"{tmp_path} holds no training run"):
        make_report(Inputs(runs=tmp_path), tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_two_runs_of_one_kind_are_told_by_their_folders(tmp_path: Path):
    for name, step in (("part", 2), ("second", 1)):
        (tmp_path / "runs" / name).mkdir(parents=True)
        settings = {"kind": "part", "config": {"recipe": "part base", "steps": 2}, "changed": {}, "data": "d"}
        (tmp_path / "runs" / name / "train.json").write_text(json.dumps(settings))
        (tmp_path / "runs" / name / "history.jsonl").write_text(json.dumps({"step": step, "loss": 1.0}) + "\n")
    text = make_report(Inputs(runs=tmp_path / "runs"), tmp_path / "report.html").read_text()
    assert "part: part model (part base)" in text
    assert "second: part model (part base)" in text
    assert "second: this part model is at step 1 of 2." in text
    assert text.count("is at step") == 1
