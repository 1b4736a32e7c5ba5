import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.compare import main, short_names
from jobs.tracking import RunFacts, Shipper
from jobs.tracking.shipper import Ending
from unipart.errors import EnvironmentProblem, UserError
from unipart.metrics.table import score_rows, write_scores


def _run(folder: Path, width: int, **settings) -> Path:
    folder.mkdir(parents=True)
    config = {"recipe": "vae ci", "steps": 4, "seed": 0, "model": {"width": width}}
    (folder / "train.json").write_text(json.dumps({"kind": "vae", "config": config, "changed": {}, "data": "d", **settings}))
    rows = [{"step": 2, "loss": 3.0}, {"step": 4, "loss": 1 / width, "seconds": 1, "val/iou64": 0.5}]
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    drawn = folder / "validation" / "step_00000004"
    drawn.mkdir(parents=True)
    Image.fromarray(np.full((4, 4, 3), width, np.uint8)).save(drawn / "v1.2 chair.exploded.png")
    (drawn / "objects.json").write_text(json.dumps({"step": 4, "objects": {"v1.2 chair": {"figures": {"iou64": 0.5}}}}))
    (folder / "validation" / "step_00000006").mkdir()  # being drawn: no objects.json yet
    return folder


def test_only_settings_that_differ_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main([str(_run(tmp_path / "a", 64)), str(_run(tmp_path / "b", 128)), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["model.width"] for row in rows] == ["64", "128"]
    assert [row["val/iou64"] for row in rows] == [0.5, 0.5]
    assert rows[0]["loss"] == 1 / 64
    assert "seed" not in rows[0]


def test_the_table_has_a_column_a_run(tmp_path: Path, capsys: pytest.CaptureFixture):
    main([str(_run(tmp_path / "a", 64)), str(_run(tmp_path / "b", 128))])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["a", "b"]
    assert ["model.width", "64", "128"] in lines


def test_data_and_parents_are_those_that_a_run_was_started_with(tmp_path: Path, store: str, capsys: pytest.CaptureFixture):
    """Whatever is at the dataset's address now; of a run in the store whose settings do not tell, by its tags."""
    here = _run(tmp_path / "a", 64, inputs={"data": "first data digest", "vae": "a" * 64})
    gone = _run(tmp_path / "b", 64)
    tags = {"unipart.kind": "vae", "unipart.data": "second data digest", "unipart.parent.vae": "b" * 64}
    shipper = Shipper(gone, store, RunFacts("vae b", {"recipe": "vae ci", "steps": 4}, tags), seconds=0.05)
    shipper.start()
    assert shipper.close(Ending("FINISHED"))
    assert main([str(here), "vae b", "--tracking", store, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [json.loads(row["data digest"]) for row in rows] == ["first data d", "second data "]
    assert [json.loads(row["parent vae"]) for row in rows] == ["a" * 12, "b" * 12]


def test_the_page_has_the_pictures_of_the_last_complete_validation(tmp_path: Path, capsys: pytest.CaptureFixture):
    page = tmp_path / "pages" / "compare.html"
    assert main([str(_run(tmp_path / "a", 64)), str(_run(tmp_path / "b", 128)), "--html", str(page)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(page)
    text = page.read_text()
    assert "<figcaption>a · exploded · step 4</figcaption>" in text
    assert "<h3>v1.2 chair</h3>" in text
    assert text.count("data:image/png") == 2


def test_a_run_of_the_store_is_compared_like_one_of_a_folder(tmp_path: Path, store: str, capsys: pytest.CaptureFixture):
    """By name and by id; its settings, curves and pictures come from the store, and the folder may be gone."""
    here, gone = _run(tmp_path / "runs" / "a", 64), _run(tmp_path / "runs" / "b", 128)
    shipper = Shipper(gone, store, RunFacts("vae b", {"recipe": "vae ci", "steps": 4}, {"unipart.kind": "vae"}), seconds=0.05)
    shipper.start()
    assert shipper.close(Ending("FINISHED"))
    gone.rename(tmp_path / "elsewhere")
    page = tmp_path / "compare.html"
    assert main([str(here), "vae b", "--tracking", store, "--html", str(page), "--json"]) == 0
    ours, theirs = json.loads(capsys.readouterr().out.rsplit("]", 1)[0] + "]")
    assert (ours["model.width"], theirs["model.width"]) == ("64", "128")
    assert (theirs["run"], theirs["step"], theirs["loss"], theirs["seconds"]) == ("vae b", 4, 1 / 128, 1)
    assert "<figcaption>vae b · exploded · step 4</figcaption>" in page.read_text()
    assert f"/runs/{shipper.note.run_id}" in page.read_text()
    assert main([shipper.note.run_id, "--tracking", store]) == 0
    with pytest.raises(UserError, match="no run 'vae c'"):
        main(["vae c", "--tracking", store])
    with pytest.raises(EnvironmentProblem, match="does not answer"):
        main(["vae b", "--tracking", "http://127.0.0.1:9"])


def test_a_folder_that_is_missing_is_named(tmp_path: Path):
    with pytest.raises(UserError, match="is no folder"):
        main([str(tmp_path / "nothing")])


def test_names_are_as_short_as_they_differ():
    assert short_names(["runs/one/vae", "runs/two/vae"]) == ["one/vae", "two/vae"]
    assert short_names(["runs/vae", "runs/part"]) == ["vae", "part"]
    assert short_names(["runs/vae", "runs/vae"]) == ["runs/vae (1)", "runs/vae (2)"]


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


def test_the_page_is_for_runs():
    with pytest.raises(UserError, match="--html is a page about runs"):
        main(["a.parquet", "b.parquet", "--html", "c.html"])
