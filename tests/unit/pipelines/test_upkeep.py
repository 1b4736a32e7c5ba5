from pathlib import Path

import pytest

from pipelines import ledger, sink, upkeep
from pipelines.plan import build_plan
from pipelines.process import artefact_address
from pipelines.runner import CATALOG, CONFIG, find_pending
from unipart.data.codec import pack_json
from unipart.data.schema import CATALOG_COLUMNS
from unipart.data.shards import tar_bytes
from unipart.data.splits import split_of
from unipart.errors import UserError


@pytest.fixture
def dataset(tmp_path, small_config):
    """A finished dataset of three objects; its address, plan and catalog."""
    import hashlib

    out, plan = str(tmp_path), build_plan(small_config)
    catalog, rows = [], []
    for number in range(3):
        sha256 = hashlib.sha256(bytes([number])).hexdigest()
        asset_id = sha256[:20]
        data = tar_bytes(asset_id, {"json": b'{"num_parts":2}', "x.npz": bytes([number]) * 100})
        path = Path(artefact_address(out, plan.digest, asset_id))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        split = split_of(asset_id, small_config.pack.val_fraction, small_config.pack.test_fraction)
        asset = {"asset_id": asset_id, "source": "s", "uri": f"{number}.glb", "sha256": sha256, "licence": "MIT", "split": split}
        catalog.append({**asset, "location": "", "bytes": 1})
        artefact = {"artefact_sha256": hashlib.sha256(data).hexdigest(), "artefact_bytes": len(data)}
        rows.append({**asset, "state": "kept", "stage": "encode", "quality": "{}", **artefact})
    ledger.write_table(f"{out}/{CATALOG}", catalog, CATALOG_COLUMNS)
    (tmp_path / CONFIG).write_bytes(pack_json(small_config.model_dump(mode="json")))
    ledger.commit(out, plan.digest, 1, rows)
    (tmp_path / "cache" / "old").mkdir(parents=True)
    (tmp_path / "cache" / "old" / "a.npz").write_bytes(b"x" * 77)
    other = tmp_path / "artefacts" / "another-config"
    other.mkdir()
    (other / "b.tar").write_bytes(b"y" * 23)
    sink.write_dataset(out, plan, ledger.settle(catalog, small_config, ledger.read_ledger(out, plan.digest)))
    return out, plan, catalog


def test_verify_finds_a_changed_byte_and_a_missing_shard(dataset):
    out, _, _ = dataset
    assert upkeep.verify_shards(out) == 3
    shard = sorted((Path(out) / "shards").glob("*.tar"))[0]
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UserError, match="sha256 differs"):
        upkeep.verify_shards(out)
    shard.unlink()
    with pytest.raises(UserError, match=f"lacks shards/{shard.name}"):
        upkeep.verify_shards(out)


def test_clean_removes_the_cache_and_leftovers_of_other_configs_only(dataset):
    out, plan, catalog = dataset
    assert upkeep.clean(out) == 100
    assert not (Path(out) / "cache").exists()
    assert len(list((Path(out) / "artefacts").rglob("*.tar"))) == 3
    assert upkeep.verify_shards(out) == 3
    assert find_pending(out, plan, catalog) == []


def test_without_artefacts_nothing_is_done_again_until_something_is_added(dataset):
    out, plan, catalog = dataset
    assert upkeep.clean(out, artefacts=True) > 100
    assert not (Path(out) / "artefacts").exists()
    assert find_pending(out, plan, catalog) == []
    new = {**catalog[0], "asset_id": "e" * 20, "sha256": "e" * 64, "uri": "new.glb"}
    assert len(find_pending(out, plan, [*catalog, new])) == 4


def test_an_unfinished_dataset_is_not_cleaned(dataset):
    out, _, _ = dataset
    (Path(out) / "manifest.json").unlink()
    with pytest.raises(UserError, match="not finished"):
        upkeep.clean(out)
    assert (Path(out) / "cache" / "old" / "a.npz").exists()
