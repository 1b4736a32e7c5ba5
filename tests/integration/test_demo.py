"""The whole road at its smallest: every artefact is there, what is done is not repeated, and the commands agree with the demo."""

import json
import re
import time
from pathlib import Path

import pytest

from jobs.cli import main
from unipart.data.bundle import list_bundles, read_bundle
from unipart.metrics.table import read_scores

# One group: the demo is run once, not once per test process.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    assert main(["demo", "--fast", "--out", str(folder)]) == 0
    return folder


def test_every_artefact_is_there(demo: Path):
    assert {path.parent.parent.parent.name for path in demo.glob("models/*/checkpoints/*/model.safetensors")} == {
        "vae",
        "anchor",
        "whole",
        "part",
    }
    bundles = [read_bundle(folder) for folder in list_bundles(demo / "bundles")]
    assert len(bundles) == 2
    assert all(bundle.parts and bundle.info["sample_id"] for bundle in bundles)
    methods = {row["method"] for row in read_scores(demo / "scores.parquet")}
    assert methods == {"UniPart"}


def test_the_report_is_one_offline_file_about_all_of_it(demo: Path):
    text = (demo / "report.html").read_text()
    assert not re.findall(r"(?:src|href)=[\"']?(?:https?:)?//", text)
    for kind in ("Geom-Seg VAE", "anchor decoder", "whole model", "part model"):
        assert kind in text
    for folder in list_bundles(demo / "bundles"):
        assert folder.name in text
        assert (demo / "viewers" / f"{folder.name}.html").is_file()
    assert "12 in = 12 kept + 0 rejected + 0 failed" in text
    assert "small network trained from scratch" in text


def test_each_training_is_an_mlflow_run_with_its_lineage(demo: Path):
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{demo / 'mlflow.db'}")
    (experiment,) = [item for item in client.search_experiments() if item.name == "unipart"]
    runs = {run.data.tags.get("unipart.kind"): run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"vae", "anchor", "whole", "part", "evaluation", "report"}
    assert all(run.info.status == "FINISHED" for run in runs.values())
    assert runs["part"].data.tags["unipart.parent.vae"] == runs["vae"].data.tags["unipart.weights"]
    assert runs["vae"].data.metrics["loss"] > 0
    assert runs["vae"].data.params["model.width"] == "64"
    assert [item.path for item in client.list_artifacts(runs["report"].info.run_id)] == ["report.html"]


def test_a_second_run_takes_seconds_and_changes_nothing(demo: Path, capsys: pytest.CaptureFixture):
    before = {path: path.stat().st_mtime_ns for path in demo.glob("models/*/checkpoints/*/model.safetensors")}
    start = time.monotonic()
    assert main(["demo", "--fast", "--out", str(demo)]) == 0
    assert time.monotonic() - start < 20
    assert before == {path: path.stat().st_mtime_ns for path in demo.glob("models/*/checkpoints/*/model.safetensors")}
    printed = capsys.readouterr()
    assert printed.out.strip().endswith("report.html")
    assert printed.err.count("done before") == 7


def test_generation_skips_what_is_there_and_repeats_itself_elsewhere(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    models = ["--models", str(demo / "models")]
    shards = ["--from-shards", str(demo / "shards"), "--limit", "1"]
    assert main(["generate", *shards, *models, "--out", str(tmp_path)]) == 0
    (folder,) = list_bundles(tmp_path)
    assert (folder / "object.glb").read_bytes() == (demo / "bundles" / folder.name / "object.glb").read_bytes()
    assert main(["generate", *shards, *models, "--out", str(tmp_path)]) == 0
    assert "there already" in capsys.readouterr().err
    assert (
        main(["generate", str(folder / "image.png"), *models, "--out", str(tmp_path / "image"), "--steps", "2", "--max_parts", "2"])
        == 0
    )
    bundle = read_bundle(tmp_path / "image" / "image")
    assert bundle.info["steps"] == 2
    assert len(bundle.parts) <= 2


def test_evaluate_reads_our_bundles_and_anyones_glbs(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    few = ["--num_points", "500", "--tracking", "off", "--json"]
    assert (
        main(["evaluate", str(demo / "bundles"), "--against", str(demo / "shards"), "--out", str(tmp_path / "a.parquet"), *few])
        == 0
    )
    (ours,) = json.loads(capsys.readouterr().out)
    for folder in list_bundles(demo / "bundles"):
        (tmp_path / f"{folder.name}.glb").write_bytes((folder / "object.glb").read_bytes())
    glbs = ["evaluate", str(tmp_path), "--method", "GLB", "--against", str(demo / "shards"), "--out", str(tmp_path / "b.parquet")]
    assert main([*glbs, *few]) == 0
    (theirs,) = json.loads(capsys.readouterr().out)
    assert theirs["method"] == "GLB"
    assert theirs["cd_l1_sum"] == pytest.approx(ours["cd_l1_sum"], rel=0.05)
    assert "miou_masks" in ours
    assert "miou_masks" not in theirs


def test_view_writes_a_page_for_a_bundle_and_for_a_sample(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["view", str(list_bundles(demo / "bundles")[0]), "--out", str(tmp_path / "bundle.html")]) == 0
    assert main(["view", str(demo / "shards"), "--out", str(tmp_path / "sample.html")]) == 0
    for name in ("bundle", "sample"):
        text = (tmp_path / f"{name}.html").read_text()
        assert "part 000" in text
        assert "http://" not in text.replace("http://www.w3.org", "")
    assert main(["view", str(demo / "shards"), "--sample", "zzz"]) == 2
    assert "has no sample 'zzz'" in capsys.readouterr().err
