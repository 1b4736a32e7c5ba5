"""Samples in the order in which shards hold them, read with the `webdataset` library from the first byte to the last.

The index (`unipart.data.loader`) reads any sample at any time; it wants the shards on a disk, its own or the shard cache's. A
stream wants none: each reader (a loader process of a rank) has shards of its own, dealt anew every epoch, holds a few samples to
mix them, and reads no byte twice. What it costs: the order depends on the number of readers, and all that lies between is read too.

The order is a function of (dataset, seed, readers, buffer), known before anything is read. So a stream resumes exactly at any
batch, without reading the shards that it is through with.
"""

import itertools
import tarfile
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from unipart import storage
from unipart.data.codec import decode_sample, wanted_members
from unipart.data.loader import Batch, Draw, LoaderOptions, SampleDataset, Transform, collate, own_connections, share_of_batch
from unipart.data.schema import Sample
from unipart.data.shards import ShardIndex
from unipart.errors import UserError
from unipart.rng import derive

Members = dict[str, bytes]


class SampleStream(IterableDataset[Batch]):
    """Batches of one rank without end.

    Args:
        index: the split; only its tables are used.
        samples: decodes and transforms what is read, and draws as it does for the index.
        batch_size: samples in a batch of this rank.
        buffer: samples that are mixed; one comes at most so many places earlier or later than its shard has it.
        options: rank, world_size.
    """

    def __init__(self, index: ShardIndex, samples: SampleDataset, batch_size: int, buffer: int, options: LoaderOptions) -> None:
        self.index, self.samples, self.batch_size, self.buffer = index, samples, batch_size, buffer
        self.rank, self.world_size, self.cursor = options.rank, options.world_size, 0
        shards = index.shard_numbers()
        self._numbers = [np.flatnonzero(shards == shard) for shard in range(len(index.shards))]

    def __iter__(self) -> Iterator[Batch]:
        """Yields every batch from the cursor on; in one of several loader processes, those that the process is asked for."""
        info = get_worker_info()
        process, processes = (0, 1) if info is None else (info.id, info.num_workers)
        turn = (process + self.cursor) % processes  # they are asked in turn, and the first one for the batch at the cursor
        reader, readers = self.rank * processes + turn, self.world_size * processes
        done = len(range(turn, self.cursor, processes)) * self.batch_size
        items = self._items(reader, readers, done)
        while True:
            yield collate(list(itertools.islice(items, self.batch_size)))

    def _items(self, reader: int, readers: int, done: int) -> Iterator[dict[str, Any]]:
        """Yields the items of a reader, the first `done` skipped."""
        for epoch in itertools.count():
            dealt = derive(self.samples.seed, "order", epoch).permutation(len(self._numbers))[reader::readers]
            size = sum(len(self._numbers[shard]) for shard in dealt)
            if done < size:
                yield from self._epoch(epoch, dealt, done, derive(self.samples.seed, "mix", epoch, reader))
            done = max(done - size, 0)

    def _epoch(self, epoch: int, dealt: NDArray[np.int64], done: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
        numbers = np.concatenate([self._numbers[shard] for shard in dealt])
        order = np.argsort(np.arange(len(numbers)) + self.buffer * rng.random(len(numbers)), kind="stable")[done:]
        reading, due = self._read(dealt, int(order.min())), set(order.tolist())
        held: dict[int, tuple[str, Members]] = {}
        for place in order.tolist():
            while place not in held:
                at, record = next(reading)
                if at in due:
                    held[at] = record
            yield self.samples.item(Draw(epoch, int(numbers[place])), *held.pop(place))

    def _read(self, dealt: NDArray[np.int64], first: int) -> Iterator[tuple[int, tuple[str, Members]]]:
        """Yields (place, (id, members)) of the samples of shards, from the shard on that holds the place `first`.

        Raises:
            UserError: a shard does not hold what its table says.
        """
        end = 0
        for shard in dealt:
            begin, end = end, end + len(self._numbers[shard])
            if end <= first:
                continue
            address = storage.join(self.index.dataset, self.index.shards[shard].name)
            ids = [self.index.sample_id(int(number)) for number in self._numbers[shard]]
            records = read_records(address, self.samples.groups)
            for place, (expected, record) in enumerate(itertools.zip_longest(ids, records), begin):
                if record is None or record[0] != expected:
                    raise UserError(
                        f"{address} does not hold sample {expected} where its table says",
                        "run `unipart data run` again, or copy the dataset again",
                    )
                yield place, record


class StreamLoader:
    """Iterates the batches of a `SampleStream`; stands in the place of a `Loader`.

    Args:
        stream: of one rank.
        options: num_workers, pin_memory.
    """

    def __init__(self, stream: SampleStream, options: LoaderOptions) -> None:
        self.stream, self.options = stream, options

    def __iter__(self) -> Iterator[Batch]:
        """Yields batches without end, from the cursor on."""
        workers, pin = self.options.num_workers, self.options.pin_memory
        yield from DataLoader(self.stream, None, num_workers=workers, pin_memory=pin, worker_init_fn=own_connections)

    def start_at(self, cursor: int) -> None:
        """Lets the next pass begin after so many global batches."""
        self.stream.cursor = cursor


def make_stream(
    dataset_dir: str | Path,
    split: str,
    batch_size: int,
    transform: Transform,
    groups: Collection[str] | None = None,
    seed: int = 0,
    buffer: int = 64,
    options: LoaderOptions | None = None,
    **changes: Any,
) -> StreamLoader:
    """Opens a split for training, as a stream.

    Args:
        dataset_dir: folder or s3:// address with a manifest.
        split: train, val or test.
        batch_size: global batch size, over all ranks.
        transform: sample and generator -> named arrays.
        groups: groups to decode; None for all.
        seed: of order and draws.
        buffer: see `SampleStream`.
        options: rank, world_size, num_workers, views_per_sample, pin_memory of `LoaderOptions`; the others have no meaning here.
        changes: fields of `LoaderOptions` by name.

    Raises:
        UserError: no dataset, an empty split, a batch size that the ranks do not divide, or fewer shards than readers.
    """
    chosen = replace(options or LoaderOptions(), **changes)
    index = ShardIndex.open(dataset_dir, split)
    readers = chosen.world_size * max(chosen.num_workers, 1)
    if len(index.shards) < readers:
        raise UserError(
            f"split '{split}' of {dataset_dir} has {len(index.shards)} shards for {readers} readers (workers x loader workers)",
            "lower --loader_workers, write smaller shards, or read by index: --stream_buffer 0",
        )
    samples = SampleDataset(index, groups, transform, seed, chosen.views_per_sample)
    return StreamLoader(SampleStream(index, samples, share_of_batch(batch_size, chosen.world_size), buffer, chosen), chosen)


def read_records(address: str, groups: Collection[str] | None = None) -> Iterator[tuple[str, Members]]:
    """Yields the id and the members of each sample of a shard, read once from its beginning to its end.

    Args:
        address: of the tar.
        groups: groups whose members are kept; None for all.

    Raises:
        UserError: the shard is missing or damaged.
    """
    from webdataset.tariterators import group_by_keys, tar_file_expander

    def wanted(name: str) -> bool:
        return bool(wanted_members([name.partition(".")[2]], groups, None))

    try:
        with storage.open_stream(address) as file:
            files = tar_file_expander([{"url": address, "stream": file}], select_files=wanted)
            for record in group_by_keys(files, lcase=False):
                yield record["__key__"], {name: value for name, value in record.items() if not name.startswith("__")}
    except (tarfile.TarError, FileNotFoundError) as error:
        fix = "run `unipart data run` again, or copy the dataset again"
        raise UserError(f"{address} is missing or damaged: {error.args[0] if error.args else error}", fix) from None


def stream_samples(dataset_dir: str | Path, split: str, groups: Collection[str] | None = None) -> Iterator[Sample]:
    """Yields the samples of a split once, in the order of its shards.

    Args:
        dataset_dir: folder or s3:// address with a manifest.
        split: train, val or test.
        groups: groups to decode; None for all.
    """
    index = ShardIndex.open(dataset_dir, split)
    for shard in index.shards:
        for sample_id, members in read_records(storage.join(dataset_dir, shard.name), groups):
            yield decode_sample(sample_id, members, groups)
