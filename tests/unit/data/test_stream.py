import itertools
from pathlib import Path

import numpy as np
import pytest

from unipart import storage
from unipart.data import shards
from unipart.data.codec import encode_sample
from unipart.data.loader import Draw, SampleDataset
from unipart.data.schema import SCHEMA_VERSION, Sample
from unipart.data.stream import StreamLoader, make_stream, read_records, stream_samples
from unipart.errors import UserError

NUM_SAMPLES = 11
GROUPS = ("field", "views")


@pytest.fixture(scope="module")
def encoded(make_sample) -> list[tuple[str, bytes]]:
    samples = [make_sample(f"{number:020x}", views=3) for number in range(NUM_SAMPLES)]
    return [(sample.sample_id, shards.tar_bytes(sample.sample_id, encode_sample(sample))) for sample in samples]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, encoded) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset"), encoded)


def write_dataset(folder, encoded: list[tuple[str, bytes]]):
    """Four shards of 3, 3, 3 and 2 samples."""
    records = shards.write_shards(folder, "train", encoded, max_bytes=10**9, max_samples=3)
    shards.write_manifest(folder, shards.Manifest(SCHEMA_VERSION, "c", "0", "d", {}, tuple(records)))
    return folder


def transform(sample: Sample, rng: np.random.Generator) -> dict:
    return {
        "number": int(sample.sample_id, 16),
        "draw": rng.random(3),
        "views": len(sample.views),
        "pixel": sample.views[0].rgba[0, 0],
    }


def take(loader: StreamLoader, count: int) -> list[dict]:
    return list(itertools.islice(loader, count))


def numbers(batches: list[dict]) -> list[int]:
    return [int(number) for batch in batches for number in batch["number"]]


@pytest.mark.parametrize(("ranks", "processes", "batch"), [(1, 0, 1), (2, 0, 4), (1, 2, 3)])
def test_readers_together_see_every_sample_once_an_epoch_as_the_index_reads_it(dataset, ranks: int, processes: int, batch: int):
    by_index = SampleDataset(shards.ShardIndex.open(dataset, "train"), GROUPS, transform, seed=5, views_per_sample=1)
    visits = [Draw(epoch, number) for epoch in range(2) for number in range(NUM_SAMPLES)]
    expected = {tuple(item["draw"]): (visit, item) for visit, item in zip(visits, map(by_index.__getitem__, visits), strict=True)}
    seen = []
    for rank in range(ranks):
        options = {"rank": rank, "world_size": ranks, "num_workers": processes, "views_per_sample": 1}
        for one in take(make_stream(dataset, "train", batch, transform, GROUPS, 5, buffer=4, **options), 4 * NUM_SAMPLES):
            for number, draw, views, pixel in zip(one["number"], one["draw"], one["views"], one["pixel"], strict=True):
                if tuple(draw.tolist()) in expected:
                    visit, item = expected[tuple(draw.tolist())]
                    assert (int(number), int(views), pixel.tolist()) == (item["number"], 1, item["pixel"].tolist())
                    seen.append(visit)
    assert sorted(seen, key=visits.index) == visits
    first = [visit.index for visit in seen if visit.epoch == 0]
    assert first != sorted(first)
    assert first != [visit.index for visit in seen if visit.epoch == 1]


@pytest.mark.parametrize("processes", [0, 2])
def test_a_stream_resumes_at_any_batch_and_opens_no_shard_that_it_is_through_with(dataset, monkeypatch, processes: int):
    whole = numbers(take(make_stream(dataset, "train", 2, transform, GROUPS, buffer=4, num_workers=processes), 12))
    for cursor in range(0 if processes == 0 else 7, 9):
        loader = make_stream(dataset, "train", 2, transform, GROUPS, buffer=4, num_workers=processes)
        loader.start_at(cursor)
        assert numbers(take(loader, 12 - cursor)) == whole[2 * cursor :], cursor
    opened: list[str] = []
    monkeypatch.setattr(storage, "open_stream", lambda address, real=storage.open_stream: opened.append(address) or real(address))
    loader = make_stream(dataset, "train", 1, transform, GROUPS, buffer=1)
    loader.start_at(NUM_SAMPLES - 1)
    take(loader, 1)
    assert sum(address.endswith(".tar") for address in opened) == 1


def test_no_more_than_the_buffer_is_held(dataset, monkeypatch):
    """A sample is decoded at most so many places after it was read."""
    read, decoded = [], []
    monkeypatch.setattr(
        "unipart.data.stream.read_records",
        lambda *given, real=read_records: (read.append(record[0]) or record for record in real(*given)),
    )
    loader = make_stream(dataset, "train", 1, transform, GROUPS, buffer=3)
    for batch in itertools.islice(loader, NUM_SAMPLES):
        decoded.append(f"{int(batch['number'][0]):020x}")
        assert len(read) - len(decoded) <= 3
    assert sorted(read) == sorted(decoded)
    assert read != decoded


def test_object_storage_is_streamed_without_a_file(dataset, encoded, bucket: str, monkeypatch):
    remote = write_dataset(f"{bucket}/dataset", encoded)
    monkeypatch.setattr(storage, "open_range", None)  # what the index uses
    ours, theirs = (numbers(take(make_stream(place, "train", 2, transform, GROUPS, buffer=4), 9)) for place in (remote, dataset))
    assert ours == theirs


def test_all_groups_of_a_split_in_the_shards_order(dataset):
    index = shards.ShardIndex.open(dataset, "train")
    streamed = list(stream_samples(dataset, "train"))
    assert tuple(sample.sample_id for sample in streamed) == index.sample_ids
    for number, sample in enumerate(streamed):
        expected = index.read(number)
        np.testing.assert_array_equal(sample.field, expected.field)
        np.testing.assert_array_equal(sample.views[1].normals, expected.views[1].normals)
        assert sample.meta == expected.meta


@pytest.mark.parametrize("damage", ["cut", "gone", "another"])
def test_a_damaged_shard_is_named(tmp_path, encoded, damage: str):
    dataset = write_dataset(tmp_path, encoded)
    tars = sorted((dataset / "shards").glob("*.tar"))
    loader = make_stream(dataset, "train", 1, transform, GROUPS)
    if damage == "cut":
        tars[2].write_bytes(tars[2].read_bytes()[:5000])
    elif damage == "gone":
        tars[2].unlink()
    else:
        tars[2].write_bytes(tars[1].read_bytes())
    with pytest.raises(UserError, match=tars[2].name) as error:
        take(loader, NUM_SAMPLES)
    assert "copy the dataset again" in error.value.fix


def test_more_readers_than_shards_are_refused(dataset):
    with pytest.raises(UserError, match="4 shards for 6 readers") as error:
        make_stream(dataset, "train", 2, transform, world_size=2, num_workers=3)
    assert "--loader_workers" in error.value.fix
