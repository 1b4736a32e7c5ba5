"""Shards: tars that follow WebDataset's naming rule, the manifest that lists them, and random access by number.

A dataset is a folder (or s3:// address) with ``manifest.json`` and ``shards/SPLIT-000000.tar``. The members of a sample are named
``<sample id>.<member>`` and lie side by side. Beside each tar lies ``SPLIT-000000.json``, which says where each sample begins, so
that sample i is one seek away. Readers trust the manifest, never a listing: it is written last, so what it names is complete.
"""

import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from unipart import storage
from unipart.data.codec import Writer, decode_sample, pack_json, wanted_members
from unipart.data.schema import SCHEMA_VERSION, Sample
from unipart.data.shard_cache import ShardCache
from unipart.data.splits import SPLITS
from unipart.errors import UserError, did_you_mean

MANIFEST = "manifest.json"
_BLOCK = 512


@dataclass(frozen=True)
class ShardRecord:
    """One shard in the manifest.

    Attributes:
        name: path of the tar below the dataset, ``shards/train-000000.tar``.
        split: train, val or test.
        sha256: of the tar.
        bytes: size of the tar.
        num_samples: samples in the tar.
    """

    name: str
    split: str
    sha256: str
    bytes: int
    num_samples: int


@dataclass(frozen=True)
class Manifest:
    """What a dataset holds and how it was made.

    Attributes:
        schema_version: layout of the shards.
        config_digest: digest of the curation config.
        code_version: version of the package that wrote it.
        content_digest: digest of what was packed and how; equal digests mean equal shards.
        counts: in, kept, rejected, failed, and samples per split.
        shards: the shards in reading order.
        config: the curation config as JSON.
        quality: of the surfaces of the whole objects, per figure: median, p99, max and the sample that has it; every sample's own
            figures are in ``quality.parquet``.
    """

    schema_version: int
    config_digest: str
    code_version: str
    content_digest: str
    counts: dict[str, int]
    shards: tuple[ShardRecord, ...]
    config: dict[str, Any] = field(default_factory=dict)
    quality: dict[str, dict[str, Any]] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Returns indented JSON with sorted keys."""
        return (json.dumps(asdict(self), indent=1, sort_keys=True) + "\n").encode()

    def split(self, name: str) -> list[ShardRecord]:
        """Returns the shards of one split."""
        return [shard for shard in self.shards if shard.split == name]


def write_manifest(dataset: str | Path, manifest: Manifest) -> None:
    """Writes ``manifest.json`` atomically; call it last."""
    storage.write_bytes(storage.join(dataset, MANIFEST), manifest.to_json())


def read_manifest(dataset: str | Path) -> Manifest:
    """Reads the manifest of a dataset.

    Raises:
        UserError: there is none (the run did not finish, or the path is wrong), or its schema version is another one.
    """
    try:
        document = json.loads(storage.read_bytes(storage.join(dataset, MANIFEST)))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{dataset} holds no {MANIFEST}: it is no dataset, or its curation did not finish",
            "check the path, or run `unipart data run` again with the same arguments: it resumes",
        ) from None
    except json.JSONDecodeError as error:
        raise UserError(f"{storage.join(dataset, MANIFEST)} is not JSON: {error}", "run `unipart data run` again") from None
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{dataset} has schema version {version}, this package reads version {SCHEMA_VERSION}",
            "curate the dataset again, or install the version of the package that wrote it",
        )
    shards = tuple(ShardRecord(**shard) for shard in document.pop("shards"))
    return Manifest(shards=shards, **document)


def write_tar(sample_id: str, members: Mapping[str, bytes | Writer], file: BinaryIO) -> None:
    """Writes one sample as a tar without its end marker; such tars can be concatenated.

    Args:
        sample_id: what the member names begin with.
        members: content by name, or what writes it: then no member lies in memory as a whole.
        file: written once from front to back.
    """
    archive = tarfile.TarFile(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT)  # never closed: that writes the end marker
    for name in sorted(members, key=lambda name: (name != "json", name)):
        info = tarfile.TarInfo(f"{sample_id}.{name}")
        assert len(info.name) < 100, "a longer name would need a tar extension"
        info.mode, info.mtime = 0o644, 0
        content = members[name]
        with io.BytesIO(content) if isinstance(content, bytes) else tempfile.TemporaryFile() as data:
            if not isinstance(content, bytes):
                content(data)
            info.size = data.seek(0, io.SEEK_END)
            data.seek(0)
            archive.addfile(info, data)


def tar_bytes(sample_id: str, members: Mapping[str, bytes]) -> bytes:
    """Returns what `write_tar` writes."""
    buffer = io.BytesIO()
    write_tar(sample_id, members, buffer)
    return buffer.getvalue()


def read_members(file: BinaryIO, begin: int, end: int, choose: Callable[[list[str]], list[str]] | None = None) -> dict[str, bytes]:
    """Reads the members of the one sample that lies between two positions of a tar.

    Args:
        file: a seekable file.
        begin: position of the first header.
        end: position after the last member.
        choose: function from the list of member names to those wanted; None for all.
    """
    found: dict[str, tuple[int, int]] = {}
    position = begin
    while position < end:
        file.seek(position)
        name, size = _read_header(file.read(_BLOCK))
        found[name.partition(".")[2]] = (position + _BLOCK, size)
        position += _BLOCK + -(-size // _BLOCK) * _BLOCK
    members = {}
    for name in found if choose is None else choose(list(found)):
        start, length = found[name]
        file.seek(start)
        members[name] = file.read(length)
    return members


def _read_header(block: bytes) -> tuple[str, int]:
    """Returns name and size of a member that `write_tar` wrote; tarfile's own parser took a third of the time of a small sample.

    Raises:
        ValueError: it is no header, or a damaged one.
    """
    if len(block) != _BLOCK or block[257:262] != b"ustar" or sum(block) - sum(block[148:156]) + 256 != _octal(block[148:156]):
        raise ValueError("no tar header where the offset table says that one is")
    return block[:100].rstrip(b"\0").decode(), _octal(block[124:136])


def _octal(digits: bytes) -> int:
    return int(digits.strip(b" \0"), 8)


def write_shards(
    dataset: str | Path, split: str, samples: Sequence[tuple[str, bytes]], max_bytes: int, max_samples: int
) -> list[ShardRecord]:
    """Writes samples into shards of bounded size, in the order given.

    Args:
        dataset: folder or s3:// address.
        split: names the shards.
        samples: ids and results of `tar_bytes`.
        max_bytes: see `divide`.
        max_samples: see `divide`.

    Returns:
        A record per shard.
    """
    pieces = divide([len(data) for _, data in samples], max_bytes, max_samples)
    return [write_shard(dataset, split, number, samples[piece]) for number, piece in enumerate(pieces)]


def divide(sizes: Sequence[int], max_bytes: int, max_samples: int) -> list[slice]:
    """Divides samples, in their order, into shards.

    Args:
        sizes: bytes of every sample.
        max_bytes: of a shard; a sample that is larger gets one of its own.
        max_samples: of a shard.
    """
    pieces: list[slice] = []
    begin = total = 0
    for number, size in enumerate(sizes):
        if number > begin and (total + size > max_bytes or number - begin >= max_samples):
            pieces.append(slice(begin, number))
            begin, total = number, 0
        total += size
    return [*pieces, slice(begin, len(sizes))] if sizes else []


def write_shard(
    dataset: str | Path, split: str, number: int, samples: Iterable[tuple[str, bytes]], content: str = ""
) -> ShardRecord:
    """Writes one shard, a sample at a time, and beside it the table that says where each sample begins.

    Args:
        dataset: folder or s3:// address.
        split: names the shard, with its number.
        number: of the shard in its split.
        samples: ids and results of `tar_bytes`.
        content: digest of what it holds, for `find_shard`.
    """
    name = shard_name(split, number)
    ids: list[str] = []
    offsets = [0]
    storage.delete(storage.join(dataset, index_name(name)))  # while the tar is written nothing vouches for it
    with storage.open_writer(storage.join(dataset, name)) as file:
        tar = storage.Digesting(file)
        for sample_id, data in samples:
            tar.write(data)
            ids.append(sample_id)
            offsets.append(offsets[-1] + len(data))
        tar.write(b"\0" * (2 * _BLOCK))  # a tar ends with two empty blocks
        record = ShardRecord(name, split, tar.sha256, tar.size, len(ids))
    table = {"sample_ids": ids, "offsets": offsets, "sha256": record.sha256, "content": content}
    storage.write_bytes(storage.join(dataset, index_name(name)), pack_json(table))
    return record


def find_shard(dataset: str | Path, split: str, number: int, content: str) -> ShardRecord | None:
    """Returns a shard that an earlier, unfinished packing left, if it holds just this content."""
    name = shard_name(split, number)
    tar, index = storage.join(dataset, name), storage.join(dataset, index_name(name))
    if not (storage.exists(tar) and storage.exists(index)):
        return None
    table = json.loads(storage.read_bytes(index))
    size = table["offsets"][-1] + 2 * _BLOCK
    if table.get("content") != content or storage.size(tar) != size:
        return None
    return ShardRecord(name, split, table["sha256"], size, len(table["sample_ids"]))


def shard_name(split: str, number: int) -> str:
    """Returns the path of a shard below the dataset."""
    return f"shards/{split}-{number:06d}.tar"


def index_name(shard: str) -> str:
    """Returns the name of the offset table beside a shard."""
    return shard.removesuffix(".tar") + ".json"


@dataclass(frozen=True)
class _Place:
    sample_id: str
    shard: int
    begin: int
    end: int


class ShardIndex:
    """Random access to the samples of a split by number; safe to share between processes.

    Args:
        dataset: folder or s3:// address.
        split: train, val or test.
        manifest: of the dataset.
        places: where each sample lies.
        cache: keeps shards of object storage on this machine; None reads each sample by a request of its own.
    """

    def __init__(
        self, dataset: str | Path, split: str, manifest: Manifest, places: Sequence[_Place], cache: ShardCache | None = None
    ) -> None:
        self.dataset, self.manifest, self.shards = str(dataset), manifest, manifest.split(split)
        self.cache = cache if storage.is_s3(dataset) else None
        self._places = tuple(places)
        self._number = {place.sample_id: number for number, place in enumerate(self._places)}

    @classmethod
    def open(cls, dataset: str | Path, split: str, cache: ShardCache | None = None) -> Self:
        """Reads the manifest and the offset tables of a split.

        Raises:
            UserError: no dataset there, another schema version, an unknown split, or a shard that is not what the manifest says.
        """
        manifest = read_manifest(dataset)
        if split not in SPLITS:
            raise UserError(
                f"there is no split '{split}'.{did_you_mean(split, list(SPLITS))}", f"choose one of {', '.join(SPLITS)}"
            )
        shards = manifest.split(split)
        with ThreadPoolExecutor(storage.MAX_S3_CONNECTIONS) as threads:  # thousands of small requests
            tables = list(threads.map(lambda shard: _read_table(dataset, shard), shards))
        places = [
            _Place(sample_id, number, begin, end)
            for number, table in enumerate(tables)
            for sample_id, begin, end in zip(table["sample_ids"], table["offsets"][:-1], table["offsets"][1:], strict=True)
        ]
        return cls(dataset, split, manifest, places, cache)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def sample_ids(self) -> tuple[str, ...]:
        """Ids in reading order."""
        return tuple(place.sample_id for place in self._places)

    def shard_numbers(self) -> NDArray[np.int64]:
        """Returns for each sample [N] the number of its shard in the split."""
        return np.array([place.shard for place in self._places], np.int64)

    def sample_id(self, number: int) -> str:
        """Returns the id of a sample."""
        return self._places[number].sample_id

    def number_of(self, sample_id: str) -> int:
        """Returns the number of a sample; KeyError when the split does not have it."""
        return self._number[sample_id]

    def num_views(self, number: int) -> int:
        """Returns how many condition views a sample has."""
        return len(json.loads(self._members(number, lambda names: ["json"])["json"])["cameras"])

    def read(self, number: int, groups: Collection[str] | None = None, views: Sequence[int] | None = None) -> Sample:
        """Reads and decodes one sample; see `decode_sample` for the groups and views."""
        members = self._members(number, lambda names: wanted_members(names, groups, views))
        return decode_sample(self._places[number].sample_id, members, groups, views)

    def members(self, number: int, names: Sequence[str]) -> dict[str, bytes]:
        """Reads members of a sample by name."""
        return self._members(number, lambda _: list(names))

    def fetch(self, number: int) -> None:
        """Brings the shard of a sample into the cache, if there is a cache."""
        if self.cache is not None:
            self._open(self.cache, self.shards[self._places[number].shard]).close()

    def _open(self, cache: ShardCache, shard: ShardRecord) -> BinaryIO:
        return cache.open(storage.join(self.dataset, shard.name), shard.sha256, shard.bytes)

    def _members(self, number: int, choose: Callable[[list[str]], list[str]]) -> dict[str, bytes]:
        place = self._places[number]
        length = place.end - place.begin
        shard = self.shards[place.shard]
        if self.cache is None:
            file, begin = storage.open_range(storage.join(self.dataset, shard.name), place.begin, length)
        else:
            file, begin = self._open(self.cache, shard), place.begin
        with file:
            return read_members(file, begin, begin + length, choose)


def _read_table(dataset: str | Path, shard: ShardRecord) -> dict[str, Any]:
    """Reads the offset table of a shard that is there and complete."""
    address = storage.join(dataset, shard.name)
    try:
        complete = storage.size(address) == shard.bytes
    except FileNotFoundError:
        complete = False
    if not complete:
        raise UserError(f"{address} is missing or incomplete", "run `unipart data run` again, or copy the dataset again")
    return json.loads(storage.read_bytes(storage.join(dataset, index_name(shard.name))))
