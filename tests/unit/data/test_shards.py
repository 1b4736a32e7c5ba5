import hashlib
import io
import json
import tarfile
from functools import partial

import numpy as np
import pytest

from unipart.data import shards
from unipart.data.codec import encode_sample
from unipart.data.schema import SCHEMA_VERSION
from unipart.errors import UserError


@pytest.fixture
def write_dataset(make_sample):
    return partial(_write_dataset, make_sample)


def _write_dataset(make_sample, folder, count=7, max_samples=3, split="train"):
    samples = [make_sample(f"{number:020x}") for number in range(count)]
    encoded = [(sample.sample_id, shards.tar_bytes(sample.sample_id, encode_sample(sample))) for sample in samples]
    records = shards.write_shards(folder, split, encoded, max_bytes=10**9, max_samples=max_samples)
    shards.write_manifest(folder, shards.Manifest(SCHEMA_VERSION, "c", "0", "d", {"in": count}, tuple(records), {"seed": 0}))
    return samples


def test_shards_hold_every_sample_once_in_order(tmp_path, write_dataset):
    samples = write_dataset(tmp_path)
    index = shards.ShardIndex.open(tmp_path, "train")
    assert index.sample_ids == tuple(sample.sample_id for sample in samples)
    assert [record.num_samples for record in index.manifest.shards] == [3, 3, 1]
    for number in (6, 0, 3):
        read = index.read(number)
        assert read.sample_id == samples[number].sample_id
        np.testing.assert_array_equal(read.field, samples[number].field)
    assert index.number_of(samples[4].sample_id) == 4
    assert index.num_views(0) == 2
    assert len(shards.ShardIndex.open(tmp_path, "val")) == 0


def test_standard_tar_reads_them_and_nothing_in_them_varies(tmp_path, write_dataset):
    write_dataset(tmp_path / "a")
    write_dataset(tmp_path / "b")
    name = "shards/train-000000.tar"
    content = (tmp_path / "a" / name).read_bytes()
    assert content == (tmp_path / "b" / name).read_bytes()
    assert shards.read_manifest(tmp_path / "a").shards[0].sha256 == hashlib.sha256(content).hexdigest()
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        infos = archive.getmembers()
    assert {(info.mtime, info.uid, info.gid, info.uname, info.mode) for info in infos} == {(0, 0, 0, "", 0o644)}
    ids = [info.name.partition(".")[0] for info in infos]
    assert ids == sorted(ids)
    assert infos[0].name.endswith(".json")


def test_max_bytes_closes_shards(tmp_path):
    data = [(f"{number:020x}", shards.tar_bytes(f"{number:020x}", {"json": b"{}", "x": b"1" * 5000})) for number in range(5)]
    one = len(data[0][1])
    records = shards.write_shards(tmp_path, "train", data, max_bytes=2 * one, max_samples=100)
    assert [record.num_samples for record in records] == [2, 2, 1]
    assert all(record.bytes <= 2 * one + 1024 for record in records)
    assert [r.num_samples for r in shards.write_shards(tmp_path, "val", data, max_bytes=1, max_samples=100)] == [1] * 5


def test_unfinished_or_foreign_dataset_is_refused(tmp_path, write_dataset):
    with pytest.raises(UserError, match="did not finish"):
        shards.read_manifest(tmp_path)
    write_dataset(tmp_path)
    path = tmp_path / "manifest.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"schema_version": 99}))
    with pytest.raises(UserError, match="schema version 99"):
        shards.read_manifest(tmp_path)
    path.write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        shards.read_manifest(tmp_path)


def test_truncated_shard_and_misspelt_split_are_named(tmp_path, write_dataset):
    write_dataset(tmp_path)
    with pytest.raises(UserError, match="'train'"):
        shards.ShardIndex.open(tmp_path, "trains")
    shard = tmp_path / "shards" / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(UserError, match="train-000001"):
        shards.ShardIndex.open(tmp_path, "train")


def test_a_dataset_in_object_storage_reads_alike(write_dataset, bucket):
    samples = write_dataset(f"{bucket}/dataset")
    index = shards.ShardIndex.open(f"{bucket}/dataset", "train")
    read = index.read(5, groups=("parts",))
    assert read.queries is None
    np.testing.assert_array_equal(read.parts.points, samples[5].parts.points)


def test_a_damaged_header_is_refused(tmp_path, write_dataset):
    write_dataset(tmp_path)
    shard = tmp_path / "shards" / "train-000000.tar"
    content = bytearray(shard.read_bytes())
    content[130] ^= 1  # a digit of the first member's size
    shard.write_bytes(content)
    with pytest.raises(ValueError, match="no tar header"):
        shards.ShardIndex.open(tmp_path, "train").read(0)
