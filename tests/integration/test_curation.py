"""The curation on a local Ray: sources -> isolated workers -> ledger -> shards, killed and resumed."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import webdataset

from pipelines import ledger
from pipelines.plan import CurationConfig, build_plan
from pipelines.presets import preset
from pipelines.runner import RunOptions, read_status, run
from unipart.data.shards import ShardIndex, read_manifest
from unipart.data.splits import SPLITS
from unipart.data.stream import stream_samples
from unipart.errors import EnvironmentProblem
from unipart.geometry import procedural

SOURCE = "procedural:count=6,seed=1"
ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def small_config() -> CurationConfig:
    return preset("ci").replace(pack__shard_max_samples=2)


def shard_digests(out) -> list[tuple[str, str]]:
    return [(shard.name, shard.sha256) for shard in read_manifest(out).shards]


def file_times(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module", autouse=True)
def stop_ray():
    yield
    import ray

    ray.shutdown()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A complete dataset and the result of the run that made it."""
    out = tmp_path_factory.mktemp("curation") / "dataset"
    seen = []
    result = run([SOURCE], out, small_config(), RunOptions(num_cpus=2), seen.append)
    for what, total in (("assets", 6), ("shards", 4)):
        done = [item.done for item in seen if item.what == what]
        assert done == sorted(done)
        assert done[-1] == total
    return out, result


def test_every_asset_is_accounted_for_and_packed(finished):
    out, result = finished
    assert result.counts == {"in": 6, "kept": 6, "rejected": 0, "failed": 0}
    manifest = read_manifest(out)
    assert sum(shard.num_samples for shard in manifest.shards) == 6
    assert max(shard.num_samples for shard in manifest.shards) == 2
    ids = [sample_id for split in SPLITS for sample_id in ShardIndex.open(out, split).sample_ids]
    assert sorted(ids) == sorted(row["asset_id"] for row in result.rows)
    assert all(row["peak_rss_mb"] > 10 and row["num_parts"] >= 2 for row in result.rows)


def test_the_quality_of_every_surface_is_told(finished):
    out, _ = finished
    rows = {row["asset_id"]: row for row in ledger.read_table(str(out / "quality.parquet"))}
    manifest = read_manifest(out)
    assert len(rows) == manifest.counts["kept"]
    for figure, summary in manifest.quality.items():
        values = [row[figure] for row in rows.values() if row[figure] is not None]
        assert summary["max"] == max(values) == rows[summary["worst"]][figure]
        assert summary["median"] == pytest.approx(np.median(values))
    assert manifest.quality["to_original_mean"]["max"] < 0.5
    index = ShardIndex.open(out, "train")
    sample = index.read(0)
    assert sample.meta["remesh"]["whole"]["to_original_mean"] == rows[sample.sample_id]["to_original_mean"]


def test_the_webdataset_library_reads_the_shards(finished):
    out, result = finished
    paths = [str(out / shard.name) for shard in read_manifest(out).shards]
    records = list(webdataset.compat.WebDataset(paths, shardshuffle=False))
    assert sorted(record["__key__"] for record in records) == sorted(row["asset_id"] for row in result.rows)
    assert {"json", "surface.npz", "field.npz", "parts.npz", "mesh.npz", "view_00.png", "view_01.normals.png"} <= set(records[0])
    rows = {row["asset_id"]: row for row in result.rows}
    for sample in (sample for split in SPLITS for sample in stream_samples(out, split)):
        row = rows[sample.sample_id]
        assert (sample.meta["uri"], sample.meta["licence"], sample.meta["split"]) == (row["uri"], row["licence"], row["split"])
        assert sample.num_parts == row["num_parts"]
        assert sample.surface.points.shape == (256, 3)
        assert np.isfinite(sample.field).all()


def test_a_second_run_does_nothing(finished):
    out, _ = finished
    before = {
        name: time for name, time in file_times(out).items() if name.split("/")[0] in ("shards", "artefacts", "cache", "ledger")
    }
    again = run([SOURCE], out, small_config(), RunOptions(num_cpus=2))
    assert again.num_processed == 0
    after = file_times(out)
    assert {name: after[name] for name in before} == before
    assert {name for name in after if name.startswith(("shards", "ledger"))} == {
        name for name in before if name.startswith(("shards", "ledger"))
    }


def test_a_changed_sampling_parameter_does_not_redo_the_remesh(finished, tmp_path):
    import shutil

    out = tmp_path / "copy"
    shutil.copytree(finished[0], out)
    cached = file_times(out / "cache")
    config = small_config().replace(points__surface=300)
    result = run([SOURCE], out, config, RunOptions(num_cpus=2))
    assert result.num_processed == 6
    assert file_times(out / "cache") == cached
    for row in result.rows:
        assert set(json.loads(row["stage_seconds"])) == {"fetch", "points", "field", "render", "encode"}
    index = ShardIndex.open(out, "train")
    assert index.read(0, groups=("surface",)).surface.points.shape == (300, 3)


def test_killed_anywhere_and_resumed_gives_the_same_bytes(finished, tmp_path):
    out = tmp_path / "killed"
    config_file = tmp_path / "config.json"
    small_config().save(config_file)
    command = [sys.executable, "-m", "jobs.data", "run", SOURCE, "--out", str(out), "--config", str(config_file), "--cpus", "1"]
    digest = build_plan(small_config()).digest
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    end = time.monotonic() + 180
    while len(ledger.read_ledger(str(out), digest)) < 2 and time.monotonic() < end and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = len(ledger.read_ledger(str(out), digest))
    assert 2 <= done < 6, "the run was to be killed in the middle"
    assert not (out / "manifest.json").exists()
    resumed = run([SOURCE], out, small_config(), RunOptions(num_cpus=2))
    assert resumed.num_processed <= 6 - done
    assert resumed.counts == {"in": 6, "kept": 6, "rejected": 0, "failed": 0}
    assert shard_digests(out) == shard_digests(finished[0])


def test_bad_duplicate_and_unlicensed_files_end_in_quarantine(tmp_path):
    folder = tmp_path / "meshes"
    folder.mkdir()
    good = procedural.build_glb("chair", 0)
    for name, content in {
        "a.glb": good,
        "b.glb": good,
        "broken.glb": b"glTF but not really",
        "empty.glb": b"",
        "other.glb": procedural.build_glb("table", 0),
    }.items():
        (folder / name).write_bytes(content)
    (folder / "manifest.csv").write_text(
        "path,licence\na.glb,MIT\nb.glb,MIT\nbroken.glb,MIT\nempty.glb,MIT\nother.glb,proprietary\n"
    )
    out = tmp_path / "dataset"
    result = run([str(folder)], out, small_config().replace(licences=("MIT",)), RunOptions(num_cpus=2))
    states = {row["uri"]: (row["state"], row["reason"]) for row in result.rows}
    assert states["a.glb"] == ("kept", "")
    assert states["b.glb"] == ("rejected", "duplicate_content")
    assert states["broken.glb"][0] == "rejected"
    assert states["empty.glb"] == ("rejected", "empty_file")
    assert states["other.glb"] == ("rejected", "licence_not_allowed")
    assert read_manifest(out).counts == {"in": 5, "kept": 1, "rejected": 4, "failed": 0, "train": 1, "val": 0, "test": 0} | {
        split: sum(row["split"] == split and row["state"] == "kept" for row in result.rows) for split in SPLITS
    }
    quarantine = ledger.read_table(str(out / "quarantine.parquet"))
    assert len(quarantine) == 4
    assert [row["state"] for row in read_status(out)] == [row["state"] for row in result.rows]


def test_failed_assets_are_retried_only_when_asked(tmp_path):
    config = small_config().replace(limits__seconds=0.001)
    source = "procedural:count=1,kinds=table"
    result = run([source], tmp_path, config, RunOptions(num_cpus=2))
    assert (result.rows[0]["state"], result.rows[0]["reason"]) == ("failed", "timeout")
    assert run([source], tmp_path, small_config(), RunOptions(num_cpus=2)).num_processed == 0
    retried = run([source], tmp_path, small_config(), RunOptions(num_cpus=2, retry="failed"))
    assert (retried.num_processed, retried.rows[0]["state"]) == (1, "kept")


def test_a_layout_that_can_never_run_is_refused(tmp_path):
    config = small_config().replace(limits__memory_mb=10**7)
    with pytest.raises(EnvironmentProblem, match="no node offers that"):
        run(["procedural:count=1,kinds=table"], tmp_path, config, RunOptions(num_cpus=2))


def test_tars_carry_no_times(finished):
    out, _ = finished
    content = (out / read_manifest(out).shards[0].name).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        assert {(info.mtime, info.uid) for info in archive.getmembers()} == {(0, 0)}


def test_every_awkward_input_ends_as_it_should(corpus: Path, tmp_path: Path):
    with (corpus / "bad" / "cases.csv").open(newline="") as file:
        cases = {case["file"]: case for case in csv.DictReader(file)}
    result = run([str(corpus / "bad")], tmp_path, small_config(), RunOptions(num_cpus=2))
    rows = {row["uri"]: row for row in result.rows}
    assert cases.keys() <= rows.keys()
    assert result.counts["in"] == len(rows) == result.counts["kept"] + result.counts["rejected"]
    states = {"accept": ("kept",), "reject": ("rejected",), "either": ("kept", "rejected")}
    wrong = [
        (name, case["expected"], rows[name]["state"], rows[name]["reason"])
        for name, case in cases.items()
        if rows[name]["state"] not in states[case["verdict"]]
    ]
    assert not wrong
    assert all(row["reason"] and row["message"] for row in rows.values() if row["state"] == "rejected")
