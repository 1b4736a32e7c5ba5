import time
from copy import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from unipart import storage
from unipart.data import shards
from unipart.data.codec import encode_sample
from unipart.data.latents import LatentIndex
from unipart.data.loader import GlobalOrder, ShardWindows, collate, make_loader
from unipart.data.schema import SCHEMA_VERSION, Sample
from unipart.data.shard_cache import ShardCache
from unipart.errors import UserError

NUM_SAMPLES = 7


@pytest.fixture(scope="module")
def encoded(make_sample) -> list[tuple[str, bytes]]:
    samples = [make_sample(f"{number:020x}", views=3) for number in range(NUM_SAMPLES)]
    return [(sample.sample_id, shards.tar_bytes(sample.sample_id, encode_sample(sample))) for sample in samples]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, encoded) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset"), encoded, 3)


def write_dataset(folder, encoded: list[tuple[str, bytes]], max_samples: int):
    records = shards.write_shards(folder, "train", encoded, max_bytes=10**9, max_samples=max_samples)
    shards.write_manifest(folder, shards.Manifest(SCHEMA_VERSION, "c", "0", "d", {}, tuple(records)))
    return folder


def transform(sample: Sample, rng: np.random.Generator) -> dict:
    assert sample.queries is not None
    return {
        "id": sample.sample_id,
        "number": int(sample.sample_id, 16),
        "draw": rng.random(3).astype(np.float32),
        "views": len(sample.views),
        "first_pixel": sample.views[0].rgba[0, 0] if sample.views else np.zeros(4, np.uint8),
    }


def take(loader, count: int) -> list[dict]:
    batches = []
    for batch in loader:
        batches.append(batch)
        if len(batches) == count:
            break
    return batches


def test_each_epoch_is_a_permutation_and_epochs_differ():
    order = iter(GlobalOrder(5, batch_size=5, seed=3))
    epochs = [[draw.index for draw in next(order)] for _ in range(4)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_batches_run_across_epoch_ends_without_loss():
    order = iter(GlobalOrder(5, batch_size=3, seed=0))
    draws = [draw for _ in range(5) for draw in next(order)]
    assert sorted((draw.epoch, draw.index) for draw in draws) == [(epoch, index) for epoch in range(3) for index in range(5)]


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_see_the_same_global_batches(world_size):
    whole = iter(GlobalOrder(10, 4, seed=1))
    ranks = [iter(GlobalOrder(10, 4, seed=1, rank=rank, world_size=world_size)) for rank in range(world_size)]
    for _ in range(6):
        assert next(whole) == [draw for rank in ranks for draw in next(rank)]


def test_resume_continues_exactly_also_at_an_epoch_end(dataset):
    def loader(cursor=0):
        return make_loader(dataset, "train", 7, transform, groups=("field",), seed=5, cursor=cursor)

    straight = [batch["number"].tolist() for batch in take(loader(), 4)]
    first = loader()
    before = [batch["number"].tolist() for batch in take(first, 1)]
    second = loader()
    second.load_state_dict(first.state_dict())
    assert before + [batch["number"].tolist() for batch in take(second, 3)] == straight
    assert second.state_dict()["cursor"] == 4
    with pytest.raises(UserError, match="batch_size 7 -> 3"):
        make_loader(dataset, "train", 3, transform, seed=5).load_state_dict(first.state_dict())


@pytest.mark.parametrize("num_workers", [0, 2, 4])
def test_every_number_of_loader_processes_and_ranks_resumes_the_same_stream_across_epochs(dataset, num_workers):
    def numbers(batch: dict) -> list[int]:
        return batch["number"].tolist()

    straight = [numbers(batch) for batch in take(make_loader(dataset, "train", 4, transform, ("field",), seed=5), 6)]
    assert len({number for batch in straight[:2] for number in batch}) > len(
        straight[0]
    )  # seven samples: epochs end inside batches
    for cut in (1, 2, 4):  # inside the first epoch, across its end, inside the third
        ranks = []
        for rank in range(2):
            options = {"num_workers": num_workers, "rank": rank, "world_size": 2}
            first = make_loader(dataset, "train", 4, transform, ("field",), seed=5, **options)
            taken = take(first, cut)
            second = make_loader(dataset, "train", 4, transform, ("field",), seed=5, **options)
            second.load_state_dict(first.state_dict())
            ranks.append([numbers(batch) for batch in taken + take(second, 6 - cut)])
        assert [one + other for one, other in zip(*ranks, strict=True)] == straight


def test_draws_do_not_depend_on_the_number_of_processes_or_the_cache(dataset):
    def batches(**options):
        return take(make_loader(dataset, "train", 4, transform, groups=("field", "views"), views_per_sample=1, **options), 5)

    plain = batches()
    assert plain[0]["draw"].dtype == torch.float32
    assert plain[0]["views"].tolist() == [1] * 4
    for other in (batches(num_workers=2), batches(cache_samples=True)):
        for a, b in zip(plain, other, strict=True):
            assert a["id"] == b["id"]
            assert torch.equal(a["draw"], b["draw"])
            assert torch.equal(a["first_pixel"], b["first_pixel"])


def test_windows_visit_every_sample_once_and_few_shards_at_a_time():
    shard = np.repeat(np.arange(10), [3, 1, 4, 2, 2, 5, 3, 3, 1, 6])
    windows = ShardWindows(shard, window=3)
    epochs = [windows(30, 7, epoch) for epoch in range(3)]
    for order in epochs:
        assert sorted(order) == list(range(30))
        seen = shard[order]
        visits = [{int(s) for s in seen[k:]} & {int(s) for s in seen[:k]} for k in range(1, 30)]
        assert max(map(len, visits)) <= 3, "no more than the shards of a window are begun and not finished"
        assert len(np.flatnonzero(np.diff(seen))) > 10, "samples of different shards are mixed"
    assert len({tuple(order) for order in epochs}) == 3
    firsts = {frozenset(shard[windows(30, 7, epoch)[:3]].tolist()) for epoch in range(8)}
    assert len(firsts) > 3, "shards are shuffled too"
    assert len(np.unique(ShardWindows(shard, window=99)(30, 7, 0))) == 30


def test_windows_over_latents_follow_the_shards_of_the_pixels(dataset, encoded, tmp_path):
    latents = shards.ShardIndex.open(write_dataset(tmp_path, encoded[1:], 2), "train")  # the first was not encoded
    data = shards.ShardIndex.open(dataset, "train")
    assert LatentIndex(latents, data).shard_numbers().tolist() == [0, 0, 1, 1, 1, 2]
    assert LatentIndex(latents, None).shard_numbers().tolist() == [0, 0, 1, 1, 2, 2]


def test_a_stream_from_object_storage_is_the_same_with_a_cache_and_fetches_each_shard_once(
    dataset, encoded, bucket, tmp_path, monkeypatch
):
    remote = write_dataset(f"{bucket}/dataset", encoded, 3)
    fetched, real = [], storage.open_stream
    monkeypatch.setattr(storage, "open_stream", lambda url: fetched.append(url) or real(url))

    def batches(folder, **options):
        options = {"views_per_sample": 1, **options}
        return take(make_loader(folder, "train", 4, transform, ("field", "views"), seed=5, **options), 6)

    for window in (0, 1, 2):
        cache = ShardCache(tmp_path / str(window), 10**9)
        plain = batches(dataset, window_shards=window)
        fetched.clear()
        for other in (batches(remote, window_shards=window, cache=cache), batches(remote, window_shards=window)):
            assert [batch["id"] for batch in other] == [batch["id"] for batch in plain]
            assert all(torch.equal(a["draw"], b["draw"]) for a, b in zip(plain, other, strict=True))
            assert all(torch.equal(a["first_pixel"], b["first_pixel"]) for a, b in zip(plain, other, strict=True))
        tars = [url for url in fetched if url.endswith(".tar")]
        assert sorted(tars) == [f"{remote}/shards/train-{number:06d}.tar" for number in range(3)]


def test_an_epoch_in_windows_fetches_each_shard_once_with_a_cache_of_two_windows(encoded, bucket, tmp_path, monkeypatch):
    remote = write_dataset(f"{bucket}/dataset", encoded, 1)
    largest = max(shard.bytes for shard in shards.read_manifest(remote).shards)
    cache = ShardCache(tmp_path / "cache", 4 * largest)
    fetched, real = [], storage.open_stream
    monkeypatch.setattr(storage, "open_stream", lambda url: fetched.append(url) or real(url))
    loader = make_loader(remote, "train", NUM_SAMPLES, transform, ("field",), window_shards=2, cache=cache)
    take(loader, 1)
    assert len([url for url in fetched if url.endswith(".tar")]) == NUM_SAMPLES
    assert sum(path.stat().st_size for path in cache.folder.glob("*.tar")) <= cache.max_bytes
    with pytest.raises(UserError, match="lower --window_shards"):
        make_loader(remote, "train", 7, transform, window_shards=3, cache=cache)
    with pytest.raises(UserError, match="lower --window_shards"):
        make_loader(remote, "train", 7, transform, cache=cache)
    assert take(make_loader(remote, "train", 7, transform, shuffle=False, epochs=1, cache=cache), 1)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_shard_of_the_next_batch_is_fetched_while_this_one_is_used(encoded, bucket, tmp_path, num_workers):
    remote = write_dataset(f"{bucket}/dataset", encoded, 1)
    cache = ShardCache(tmp_path / "cache", 10**9)

    def held() -> set[str]:
        return {path.stem for path in cache.folder.glob("*.tar")}

    loader = make_loader(remote, "train", 1, transform, ("field",), window_shards=1, cache=cache, num_workers=num_workers)
    index, ahead = loader.dataset.index, 1 + 2 * num_workers
    assert isinstance(index, shards.ShardIndex)
    coming = [index.shards[draw.index].sha256 for (draw,), _ in zip(copy(loader.order), range(2 + ahead), strict=False)]
    batches = iter(loader)
    next(batches)
    deadline = time.monotonic() + 60
    while not held() >= set(coming[: 1 + ahead]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert held() == set(coming[: 1 + ahead])
    next(batches)
    while coming[1 + ahead] not in held() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert held() == set(coming)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_windows_resume_the_same_stream_for_any_number_of_ranks_across_epochs(encoded, bucket, tmp_path, world_size):
    remote = write_dataset(f"{bucket}/dataset", encoded, 2)

    def loader(rank: int, world: int, cursor: int = 0):
        options = {"window_shards": 2, "cache": ShardCache(tmp_path / "cache", 10**9)}
        options |= {"rank": rank, "world_size": world, "cursor": cursor}
        return make_loader(remote, "train", 4, transform, ("field",), seed=5, **options)

    straight = [batch["number"].tolist() for batch in take(loader(0, 1), 6)]
    for cut in (1, 2, 4):  # inside the first epoch, across its end, inside the third
        ranks = []
        for rank in range(world_size):
            first = loader(rank, world_size)
            taken = take(first, cut)
            taken += take(loader(rank, world_size, first.state_dict()["cursor"]), 6 - cut)
            ranks.append([batch["number"].tolist() for batch in taken])
        assert [[number for part in parts for number in part] for parts in zip(*ranks, strict=True)] == straight
    other = make_loader(remote, "train", 4, transform, ("field",), seed=5)
    with pytest.raises(UserError, match="window_shards 2 -> 0"):
        other.load_state_dict(loader(0, 1).state_dict())


def test_an_evaluation_pass_sees_each_sample_once_and_can_be_repeated(dataset):
    loader = make_loader(dataset, "train", 3, transform, groups=("field",), epochs=1, shuffle=False)
    assert len(loader) == 3
    for _ in range(2):
        assert [number for batch in loader for number in batch["number"].tolist()] == list(range(NUM_SAMPLES))


def test_usage_errors(dataset):
    with pytest.raises(UserError, match="holds no sample"):
        make_loader(dataset, "val", 2, transform)
    with pytest.raises(UserError, match="multiple of 2 processes"):
        make_loader(dataset, "train", 3, transform, world_size=2)


def test_collate_names_the_ragged_key():
    with pytest.raises(ValueError, match="'points'"):
        collate([{"points": np.zeros(2)}, {"points": np.zeros(3)}])
    batch = collate([{"flag": True, "name": "a", "t": torch.ones(2)}, {"flag": False, "name": "b", "t": torch.ones(2)}])
    assert batch["flag"].tolist() == [True, False]
    assert batch["name"] == ["a", "b"]
    assert batch["t"].shape == (2, 2)
