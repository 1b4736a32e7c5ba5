import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines import sink
from pipelines.plan import build_plan
from pipelines.process import artefact_address
from unipart.data.shards import read_manifest, tar_bytes
from unipart.errors import UserError


def make_rows(out: str, digest: str, count: int = 5) -> list[dict]:
    rows = []
    for number in reversed(range(count)):
        asset_id = f"{number:020x}"
        data = tar_bytes(asset_id, {"json": b'{"num_parts":2}', "x.npz": bytes([number]) * 100})
        path = Path(artefact_address(out, digest, asset_id))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        facts = {
            "artefact_sha256": hashlib.sha256(data).hexdigest(),
            "artefact_bytes": len(data),
            "state": "kept",
            "split": "val" if number == 3 else "train",
        }
        facts["quality"] = json.dumps({"lost": number / 10, **({"ratio": 1.0} if number % 2 else {})})
        rows.append({"asset_id": asset_id, "source": "s", "uri": f"{number}.glb", "licence": "MIT", **facts})
    rows.append({"asset_id": "f" * 20, "state": "rejected", "reason": "no_faces", "split": "train"})
    return rows


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "shards").iterdir()}


def test_dataset_is_packed_in_hash_order_with_what_the_catalog_knows(tmp_path, small_config):
    plan = build_plan(small_config)
    rows = make_rows(str(tmp_path), plan.digest)
    manifest = sink.write_dataset(str(tmp_path), plan, rows)
    assert manifest.counts == {"in": 6, "kept": 5, "rejected": 1, "failed": 0, "train": 4, "val": 1, "test": 0}
    assert [(shard.name, shard.num_samples) for shard in manifest.shards] == [
        ("shards/train-000000.tar", 4),
        ("shards/val-000000.tar", 1),
    ]
    assert read_manifest(tmp_path) == manifest
    table = json.loads((tmp_path / "shards" / "train-000000.json").read_text())
    assert table["sample_ids"] == sorted(table["sample_ids"])
    assert manifest.quality["lost"] == {"median": 0.2, "p99": pytest.approx(0.396), "max": 0.4, "worst": f"{4:020x}"}
    assert pq.read_table(tmp_path / "quality.parquet")["ratio"].to_pylist() == [None, 1.0, None, 1.0, None]
    assert b'"licence":"MIT"' in (tmp_path / "shards" / "val-000000.tar").read_bytes()
    assert pq.read_table(tmp_path / "quarantine.parquet").to_pylist()[0]["reason"] == "no_faces"
    before = content_of(tmp_path)
    sink.write_dataset(str(tmp_path), plan, list(reversed(rows)))
    assert content_of(tmp_path) == before


def test_shards_that_are_there_are_left_alone_and_stale_ones_go(tmp_path, small_config):
    small = small_config.replace(pack__shard_max_samples=1)
    plan = build_plan(small)
    rows = make_rows(str(tmp_path), plan.digest)
    sink.write_dataset(str(tmp_path), plan, rows)
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "shards").iterdir()}
    sink.write_dataset(str(tmp_path), plan, rows)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "shards").iterdir()} == times
    assert len(times) == 10
    manifest = sink.write_dataset(str(tmp_path), build_plan(small_config), rows)
    assert len(manifest.shards) == 2
    assert len(content_of(tmp_path)) == 4
    train, val = (tmp_path / "shards" / f"{split}-000000.tar" for split in ("train", "val"))
    val.unlink()
    time = train.stat().st_mtime_ns
    assert sink.write_dataset(str(tmp_path), build_plan(small_config), rows) == manifest
    assert len(content_of(tmp_path)) == 4
    assert train.stat().st_mtime_ns == time


def test_a_manifest_of_another_schema_is_replaced_aloud(tmp_path, small_config, caplog):
    plan = build_plan(small_config)
    rows = make_rows(str(tmp_path), plan.digest)
    manifest = sink.write_dataset(str(tmp_path), plan, rows)
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema_version": 99}))
    assert sink.write_dataset(str(tmp_path), plan, rows) == manifest
    assert "schema version 99" in caplog.text
    assert "written anew" in caplog.text


def test_a_packing_that_was_cut_goes_on_where_it_stopped(tmp_path, small_config):
    plan = build_plan(small_config.replace(pack__shard_max_samples=1))
    rows = make_rows(str(tmp_path), plan.digest)

    def cut(shards):
        yield from sink.pack_here(shards[:2])
        (tmp_path / "shards" / "train-000001.tar").write_bytes(b"half a shard")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sink.write_dataset(str(tmp_path), plan, rows, cut)
    with pytest.raises(UserError, match="did not finish"):
        read_manifest(tmp_path)
    first = tmp_path / "shards" / "train-000000.tar"
    time = first.stat().st_mtime_ns
    manifest = sink.write_dataset(str(tmp_path), plan, rows)
    assert first.stat().st_mtime_ns == time
    for shard in manifest.shards:
        content = (tmp_path / shard.name).read_bytes()
        assert (shard.bytes, shard.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    changed = [{**row, "licence": "CC0-1.0"} for row in rows]
    sink.write_dataset(str(tmp_path), plan, changed)
    assert b"CC0-1.0" in first.read_bytes()


def test_a_changed_artefact_stops_the_packing_and_leaves_no_manifest(tmp_path, small_config):
    plan = build_plan(small_config)
    rows = make_rows(str(tmp_path), plan.digest)
    Path(artefact_address(str(tmp_path), plan.digest, rows[0]["asset_id"])).write_bytes(b"changed")
    with pytest.raises(UserError, match="not the file that the ledger describes"):
        sink.write_dataset(str(tmp_path), plan, rows)
    with pytest.raises(UserError, match="did not finish"):
        read_manifest(tmp_path)
