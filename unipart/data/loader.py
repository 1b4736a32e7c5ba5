"""Samples as batches of tensors: one global order, one integer cursor, exact and elastic resume.

The stream is a function of (dataset, seed, batch size, order). The cursor counts global batches; a rank takes its slice of each,
and the random draws of a sample depend on (seed, epoch, sample number) only. So the same batches come whatever the number of ranks
and loader processes, and a run that continues from cursor c sees exactly what it would have seen.

There are two orders, and both are permutations, so one reader and one cursor serve both. `shuffled` draws from all samples: for a
dataset on local disks, or one that the shard cache holds as a whole. `ShardWindows` shuffles the shards and mixes the samples of a
few at a time, as a stream with a shuffle buffer does: for datasets in object storage that are larger than the disk. Every machine
then reads every shard once an epoch, and keeps a few. (An order that gives each machine shards of its own reads less, but changes
with the number of machines: `unipart.data.stream`.)
"""

import json
import math
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from unipart import storage
from unipart.data.codec import decode_sample
from unipart.data.latents import LatentIndex
from unipart.data.shard_cache import ShardCache
from unipart.data.shards import ShardIndex
from unipart.errors import UserError
from unipart.rng import derive

Transform = Callable[[Any, np.random.Generator], dict[str, Any]]
"""Turns a `Sample` (or `StoredLatents`) into named arrays, numbers or strings of fixed shapes; the generator makes every draw."""

Batch = dict[str, Any]
"""Stacked values per name: tensors, or lists for what is no number."""


@dataclass(frozen=True)
class Draw:
    """One place in the stream: sample number `index` as seen in `epoch`."""

    epoch: int
    index: int


Permute = Callable[[int, int, int], NDArray[np.int64]]
"""Number of samples, seed and epoch -> the order in which the epoch visits the samples [N]."""


def in_order(num_samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Returns the order of the dataset (evaluation)."""
    return np.arange(num_samples)


def shuffled(num_samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Returns a permutation of all samples."""
    return derive(seed, "order", epoch).permutation(num_samples)


@dataclass(frozen=True)
class ShardWindows:
    """Shuffles the shards, and spreads the samples of each over the time of `window` shards.

    So no more than `window` shards are in use at a time, and they are begun one by one, which leaves time to fetch them.

    Attributes:
        shards: number of each sample's shard [N].
        window: shards whose samples are mixed.
    """

    shards: NDArray[np.int64]
    window: int

    def __call__(self, num_samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
        """Returns the order of an epoch."""
        rng = derive(seed, "order", epoch)
        place = rng.permutation(int(self.shards.max()) + 1)
        return np.argsort(place[self.shards] + self.window * rng.random(num_samples), kind="stable")


class GlobalOrder(Sampler[list[Draw]]):
    """Yields this rank's slice of each global batch, from the cursor on.

    Every epoch is a new permutation. Batches run across the ends of epochs, so all have the same size; only the last batch of a
    stream bounded by `epochs` is shorter.

    Args:
        num_samples: size of the dataset, at least 1.
        batch_size: samples in a global batch.
        seed: of the permutations.
        rank: this process, 0..world_size-1.
        world_size: number of processes; must divide batch_size.
        epochs: where the stream ends; None for never.
        permute: the order of an epoch.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        epochs: int | None = None,
        permute: Permute = shuffled,
    ) -> None:
        if num_samples < 1:
            raise UserError("the split holds no sample", "curate more assets, or raise the split's fraction")
        self.local_batch = share_of_batch(batch_size, world_size)
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.rank, self.world_size, self.epochs, self.permute = rank, world_size, epochs, permute
        self.cursor = 0
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def __iter__(self) -> Iterator[list[Draw]]:
        cursor = self.cursor
        local = self.local_batch
        while True:
            begin = cursor * self.batch_size + self.rank * local
            positions = [p for p in range(begin, begin + local) if self.epochs is None or p < self.epochs * self.num_samples]
            if not positions:
                return
            yield [self._draw(position) for position in positions]
            cursor += 1

    def __len__(self) -> int:
        """Global batches from the start of a bounded stream."""
        if self.epochs is None:
            raise TypeError("the stream has no end")
        return -(-self.epochs * self.num_samples // self.batch_size)

    def state_dict(self) -> dict[str, int]:
        """Returns the cursor with what it is only valid for."""
        window = self.permute.window if isinstance(self.permute, ShardWindows) else 0
        stream = {"num_samples": self.num_samples, "batch_size": self.batch_size, "seed": self.seed, "window_shards": window}
        return {"cursor": self.cursor, **stream}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues from a saved cursor.

        Raises:
            UserError: the state is of another stream (other dataset size, batch size, seed or order).
        """
        mine = self.state_dict()
        other = [name for name in mine if name != "cursor" and state[name] != mine[name]]
        if other:
            told = ", ".join(f"{name} {state[name]} -> {mine[name]}" for name in other)
            raise UserError(
                f"the saved position is of another stream of samples: {told}",
                "resume with the same data, batch size, seed and order",
            )
        self.cursor = state["cursor"]

    def _draw(self, position: int) -> Draw:
        epoch, place = divmod(position, self.num_samples)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self.permute(self.num_samples, self.seed, epoch)
        return Draw(epoch, int(self._order[place]))


def share_of_batch(batch_size: int, world_size: int) -> int:
    """Returns the samples of a batch that are one rank's.

    Raises:
        UserError: the ranks do not divide the batch.
    """
    if batch_size < 1 or batch_size % world_size:
        raise UserError(
            f"batch size {batch_size} is not a positive multiple of {world_size} processes", "choose another batch size"
        )
    return batch_size // world_size


class SampleDataset(Dataset[dict[str, Any]]):
    """Decodes and transforms samples by `Draw`.

    Args:
        index: the split.
        groups: groups to decode (`unipart.data.codec.GROUPS`); None for all.
        transform: see `Transform`.
        seed: of the draws.
        views_per_sample: how many condition views, drawn at random, the transform gets to see; None for all.
        cache_samples: keep decoded samples in memory (small datasets; each loader process keeps its own).
    """

    def __init__(
        self,
        index: ShardIndex | LatentIndex,
        groups: Collection[str] | None,
        transform: Transform,
        seed: int,
        views_per_sample: int | None = None,
        cache_samples: bool = False,
    ) -> None:
        self.index, self.groups, self.transform, self.seed = index, groups, transform, seed
        self.views_per_sample = views_per_sample if groups is None or "views" in groups else None
        self.cache: dict[int, Any] | None = {} if cache_samples else None

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        return self.transform(self._sample(draw), derive(self.seed, "sample", draw.epoch, draw.index))

    def item(self, draw: Draw, sample_id: str, members: Mapping[str, bytes]) -> dict[str, Any]:
        """Decodes and transforms a sample of which something else has read the members."""
        views = None
        if self.views_per_sample is not None:
            views = self._choose_views(draw, len(json.loads(members["json"])["cameras"]))
        sample = decode_sample(sample_id, members, self.groups, views)
        return self.transform(sample, derive(self.seed, "sample", draw.epoch, draw.index))

    def _sample(self, draw: Draw) -> Any:
        if self.cache is not None:
            if draw.index not in self.cache:
                self.cache[draw.index] = self.index.read(draw.index, self.groups)
            sample = self.cache[draw.index]
            if self.views_per_sample is None:
                return sample
            return replace(sample, views=tuple(sample.views[number] for number in self._choose_views(draw, len(sample.views))))
        if self.views_per_sample is None:
            return self.index.read(draw.index, self.groups)
        num_views = self.index.num_views(draw.index)
        return self.index.read(draw.index, self.groups, self._choose_views(draw, num_views))

    def _choose_views(self, draw: Draw, num_views: int) -> list[int]:
        rng = derive(self.seed, "views", draw.epoch, draw.index)
        return [int(number) for number in rng.permutation(num_views)[: self.views_per_sample]]


def collate(items: Sequence[dict[str, Any]]) -> Batch:
    """Stacks arrays and numbers of equal names into tensors [B ...]; other values become lists.

    Raises:
        ValueError: a name has different shapes in the batch.
    """
    batch: Batch = {}
    for name, first in items[0].items():
        values = [item[name] for item in items]
        if isinstance(first, torch.Tensor):
            batch[name] = torch.stack(values)
        elif isinstance(first, np.ndarray | np.generic | int | float | bool):
            shapes = {np.shape(value) for value in values}
            if len(shapes) > 1:
                raise ValueError(
                    f"'{name}' has different shapes in one batch: {sorted(shapes)}; the transform must make them equal"
                )
            batch[name] = torch.from_numpy(np.stack([np.asarray(value) for value in values]))
        else:
            batch[name] = values
    return batch


def own_connections(worker: int) -> None:
    """Prepares a loader process."""
    storage.forget_client()


class _Ahead(threading.Thread):
    """Fetches the shards of the batches to come, so that nobody waits for them.

    Args:
        index: what is read.
        draws: of the batches, from the next one on.
        batches: how many of them it may be ahead.
    """

    def __init__(self, index: ShardIndex | LatentIndex, draws: Iterator[list[Draw]], batches: int) -> None:
        super().__init__(daemon=True, name="shards ahead")
        self._index, self._draws, self._room, self._stopped = index, draws, threading.Semaphore(batches), False
        storage.warm_up()  # a loader process that is forked while a thread makes the client could never make one
        self.start()

    def run(self) -> None:
        """Fetches until it is stopped, or the stream ends."""
        for draws in self._draws:
            self._room.acquire()
            for draw in draws:
                if self._stopped:
                    return
                with suppress(UserError):  # whoever reads the sample meets it too, and says so
                    self._index.fetch(draw.index)

    def step(self) -> None:
        """Tells that a batch was handed out."""
        self._room.release()

    def stop(self) -> None:
        """Lets the thread end once it has the shard that it is fetching."""
        self._stopped = True
        self._room.release()


class Loader:
    """Iterates batches and knows, at any moment, the cursor from which to continue.

    Args:
        dataset: samples by `Draw`.
        order: which of them, and when.
        num_workers: loader processes; 0 decodes in this one.
        pin_memory: for copies to a GPU.
        ahead: batches whose shards are fetched before their time; 0 where no shard is fetched.
    """

    def __init__(
        self, dataset: SampleDataset, order: GlobalOrder, num_workers: int = 0, pin_memory: bool = False, ahead: int = 0
    ) -> None:
        self.dataset, self.order, self.ahead = dataset, order, ahead
        self._loader = DataLoader(
            dataset,
            batch_sampler=order,
            num_workers=num_workers,
            collate_fn=collate,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            worker_init_fn=own_connections,
        )

    def __iter__(self) -> Iterator[Batch]:
        """Yields batches from the cursor on; the cursor moves when a batch is handed out."""
        batches = iter(self._loader)
        ahead = _Ahead(self.dataset.index, iter(copy(self.order)), self.ahead) if self.ahead else None
        try:
            for batch in batches:
                self.order.cursor += 1
                if ahead is not None:
                    ahead.step()
                yield batch
        finally:
            if ahead is not None:
                ahead.stop()
        self.order.cursor = 0  # a bounded stream is at its end: the next pass is a new one

    def __len__(self) -> int:
        """Number of global batches of a bounded stream."""
        return len(self.order)

    @property
    def num_samples(self) -> int:
        """Samples in the split."""
        return len(self.dataset)

    def start_at(self, cursor: int) -> None:
        """Lets the next pass begin after so many global batches."""
        self.order.cursor = cursor

    def state_dict(self) -> dict[str, int]:
        """Returns what `load_state_dict` needs to continue after the last batch handed out."""
        return self.order.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues from a saved state; see `GlobalOrder.load_state_dict`."""
        self.order.load_state_dict(state)


@dataclass(frozen=True)
class LoaderOptions:
    """How to read, as opposed to what to learn from it.

    Attributes:
        rank: this process.
        world_size: number of processes.
        num_workers: loader processes per rank; 0 decodes in this one.
        cursor: global batches already consumed.
        epochs: end of the stream; None for never.
        shuffle: False for the order of the dataset.
        window_shards: shards whose samples are shuffled together, see `ShardWindows`; 0 for all.
        cache: keeps shards of object storage on this machine.
        views_per_sample: condition views decoded per sample; None for all.
        cache_samples: keep decoded samples in memory.
        pin_memory: for copies to a GPU.
    """

    rank: int = 0
    world_size: int = 1
    num_workers: int = 0
    cursor: int = 0
    epochs: int | None = None
    shuffle: bool = True
    window_shards: int = 0
    cache: ShardCache | None = None
    views_per_sample: int | None = None
    cache_samples: bool = False
    pin_memory: bool = False


def make_loader(
    dataset_dir: str | Path | LatentIndex,
    split: str,
    batch_size: int,
    transform: Transform,
    groups: Collection[str] | None = None,
    seed: int = 0,
    options: LoaderOptions | None = None,
    **changes: Any,
) -> Loader:
    """Opens a split for training or evaluation.

    Args:
        dataset_dir: folder or s3:// address with a manifest, or latents that are open already.
        split: train, val or test.
        batch_size: global batch size, over all ranks.
        transform: sample and generator -> named arrays.
        groups: groups to decode; None for all.
        seed: of order and draws.
        options: see `LoaderOptions`.
        changes: fields of `LoaderOptions` by name.

    Raises:
        UserError: no dataset, an empty split, a batch size that the ranks do not divide, or a cache too small for the order.
    """
    chosen = replace(options or LoaderOptions(), **changes)
    index = dataset_dir if isinstance(dataset_dir, LatentIndex) else ShardIndex.open(dataset_dir, split, chosen.cache)
    if len(index) == 0:
        raise UserError(f"split '{split}' of {dataset_dir} holds no sample", "curate more assets, or raise the split's fraction")
    permute = shuffled if chosen.shuffle else in_order
    if chosen.shuffle and chosen.window_shards:
        permute = ShardWindows(index.shard_numbers(), chosen.window_shards)
    ahead = 0
    if chosen.cache is not None:
        parts = (index.latents, index.data) if isinstance(index, LatentIndex) else (index,)
        cached = [part for part in parts if part is not None and part.cache is not None]
        _check_cache(cached, chosen.cache, chosen)
        # As long as a shard lasts, and as far as the loader processes are ahead themselves.
        ahead = max((math.ceil(len(part) / len(part.shards) / batch_size) + 2 * chosen.num_workers for part in cached), default=0)
    order = GlobalOrder(len(index), batch_size, seed, chosen.rank, chosen.world_size, chosen.epochs, permute)
    order.cursor = chosen.cursor
    dataset = SampleDataset(index, groups, transform, seed, chosen.views_per_sample, chosen.cache_samples)
    return Loader(dataset, order, chosen.num_workers, chosen.pin_memory, ahead)


def _check_cache(indices: Sequence[ShardIndex], cache: ShardCache, options: LoaderOptions) -> None:
    """Refuses a cache that an order would make fetch the same shards again and again."""
    window = options.window_shards if options.shuffle else 1
    needed = 0
    for index in indices:
        sizes = sorted((shard.bytes for shard in index.shards), reverse=True)
        needed += sum(sizes[: 2 * window] if window else sizes)  # loader processes run ahead
    if needed > cache.max_bytes:
        raise UserError(
            f"this order of samples needs {needed / 1e9:.3g} GB of shards at once, the cache holds {cache.max_bytes / 1e9:.3g} GB",
            "raise --shard_cache_gb, or set or lower --window_shards: samples are then shuffled within so many shards",
        )
