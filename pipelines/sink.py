"""Kept artefacts -> shards and manifest, in the order of their hash: the same artefacts give the same bytes."""

import hashlib
import io
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

import unipart
from pipelines.ledger import Row, count_states, write_table
from pipelines.plan import PackConfig
from pipelines.process import artefact_address
from unipart import storage
from unipart.config import digest_json
from unipart.data.codec import pack_json
from unipart.data.schema import LEDGER_COLUMNS, SCHEMA_VERSION
from unipart.data.shards import (
    MANIFEST,
    Manifest,
    ShardRecord,
    divide,
    find_shard,
    index_name,
    read_manifest,
    read_members,
    tar_bytes,
    write_manifest,
    write_shard,
)
from unipart.data.splits import SPLITS
from unipart.errors import UserError

log = logging.getLogger(__name__)

QUALITY = "quality.parquet"
"""A row per kept sample with the quality figures of its surface."""


class PackedConfig(Protocol):
    """Everything that decides what the shards hold."""

    @property
    def pack(self) -> PackConfig:
        """Bounds of the shards."""
        ...

    def digest(self) -> str:
        """Returns its digest."""
        ...

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """Returns it as JSON."""
        ...


class Packed(Protocol):
    """What is packed: a plan of curation, or an encoding of its samples."""

    @property
    def config(self) -> PackedConfig:
        """How the samples were made."""
        ...

    @property
    def digest(self) -> str:
        """What one sample depends on besides itself."""
        ...


@dataclass(frozen=True)
class PlannedShard:
    """What goes into a shard: a function of the ledger alone, so that shards can be written anywhere and in any order.

    Attributes:
        out: dataset address.
        digest: of what the artefacts were made with.
        split, number: name the shard.
        rows: kept rows in the order of their ids.
    """

    out: str
    digest: str
    split: str
    number: int
    rows: tuple[Row, ...]

    @property
    def content(self) -> str:
        """Digest of what the shard holds."""
        return _digest_samples(self.rows, {"schema_version": SCHEMA_VERSION})


Spread = Callable[[Sequence[PlannedShard]], Iterable[ShardRecord]]
"""Writes shards and returns their records in the same order."""


def pack_here(shards: Sequence[PlannedShard]) -> Iterable[ShardRecord]:
    """Writes shards one after the other."""
    return map(pack_shard, shards)


def write_dataset(out: str, plan: Packed, rows: Sequence[Row], spread: Spread = pack_here) -> Manifest:
    """Writes quarantine, shards and, last, the manifest; shards that are already there are left alone.

    Args:
        out: dataset address.
        plan: how the rows were made.
        rows: a settled row per asset.
        spread: writes the shards.

    Raises:
        UserError: an artefact is missing or was changed.
    """
    write_table(storage.join(out, "quarantine.parquet"), [row for row in rows if row["state"] != "kept"], LEDGER_COLUMNS)
    kept = _kept(rows)
    splits = {split: [row for row in kept if row["split"] == split] for split in SPLITS}
    content_digest = _content_digest(plan, kept)
    shards = _present_shards(out, content_digest)
    if shards is None:
        storage.delete(storage.join(out, MANIFEST))  # from here on the dataset is incomplete, and says so
        shards = tuple(spread(_plan_shards(out, plan, splits)))
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        config_digest=plan.config.digest(),
        code_version=unipart.__version__,
        content_digest=content_digest,
        counts={**count_states(rows), **{split: len(splits[split]) for split in SPLITS}},
        shards=shards,
        config=plan.config.model_dump(mode="json"),
        quality=_write_quality(out, kept),
    )
    write_manifest(out, manifest)
    _remove_stale(out, manifest)
    return manifest


def _write_quality(out: str, kept: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Writes the figures of every kept sample and returns their summary; a figure that a sample lacks is null."""
    samples = [{"asset_id": row["asset_id"], **json.loads(row["quality"])} for row in kept]
    figures = sorted({name for sample in samples for name in sample} - {"asset_id"})
    write_table(storage.join(out, QUALITY), samples, {"asset_id": "string", **dict.fromkeys(figures, "float64")})
    summary = {}
    for name in figures:
        known = [sample for sample in samples if sample.get(name) is not None]
        values = np.array([sample[name] for sample in known], dtype=np.float64)
        worst = known[int(values.argmax())]["asset_id"]
        summary[name] = {
            "median": float(np.median(values)),
            "p99": float(np.percentile(values, 99)),
            "max": float(values.max()),
            "worst": worst,
        }
    return summary


def is_packed(out: str, plan: Packed, rows: Sequence[Row]) -> bool:
    """Tells whether the shards hold exactly the kept rows, packed as the plan says."""
    return _present_shards(out, _content_digest(plan, _kept(rows))) is not None


def _kept(rows: Sequence[Row]) -> list[Row]:
    return sorted((row for row in rows if row["state"] == "kept"), key=lambda row: row["asset_id"])


def _content_digest(plan: Packed, kept: Sequence[Row]) -> str:
    return _digest_samples(kept, {"pack": plan.config.pack.model_dump(mode="json")})


def _digest_samples(kept: Sequence[Row], besides: dict[str, Any]) -> str:
    columns = ("asset_id", "artefact_sha256", "source", "uri", "licence", "split")
    return digest_json({**besides, "samples": [[row[name] for name in columns] for row in kept]})


def _plan_shards(out: str, plan: Packed, splits: dict[str, list[Row]]) -> list[PlannedShard]:
    """Divides the samples by the size of their artefacts: what packing adds to their JSON is a tar block at most."""
    pack, shards = plan.config.pack, []
    for split, rows in splits.items():
        pieces = divide([row["artefact_bytes"] for row in rows], pack.shard_max_bytes, pack.shard_max_samples)
        shards += [PlannedShard(out, plan.digest, split, number, tuple(rows[piece])) for number, piece in enumerate(pieces)]
    return shards


def pack_shard(shard: PlannedShard) -> ShardRecord:
    """Writes one shard from the artefacts, unless it is there already.

    Raises:
        UserError: an artefact was changed.
    """
    out, content = shard.out, shard.content
    known = find_shard(out, shard.split, shard.number, content)
    return known or write_shard(out, shard.split, shard.number, _samples(out, shard.digest, shard.rows), content)


def _present_shards(out: str, content_digest: str) -> tuple[ShardRecord, ...] | None:
    """Returns the shards of the present manifest when they hold this very content and are all there."""
    if not storage.exists(storage.join(out, MANIFEST)):
        return None
    try:
        manifest = read_manifest(out)
    except UserError as error:  # of another schema version
        log.warning("%s: it is written anew", error.message)
        return None
    addresses = [(storage.join(out, shard.name), shard.bytes) for shard in manifest.shards]
    complete = all(storage.exists(address) and storage.size(address) == size for address, size in addresses)
    return manifest.shards if complete and manifest.content_digest == content_digest else None


def _samples(out: str, digest: str, rows: Sequence[Row]) -> Iterator[tuple[str, bytes]]:
    """Yields each artefact with what the catalog knows of it added to its JSON."""
    for row in rows:
        address = artefact_address(out, digest, row["asset_id"])
        data = storage.read_bytes(address)
        if hashlib.sha256(data).hexdigest() != row["artefact_sha256"]:
            raise UserError(f"{address} is not the file that the ledger describes", "delete it and run again: it is made anew")
        members = read_members(io.BytesIO(data), 0, len(data))
        meta: dict[str, Any] = {name: row[name] for name in ("source", "uri", "licence", "split")}
        members["json"] = pack_json({**json.loads(members["json"]), **meta})
        yield row["asset_id"], tar_bytes(row["asset_id"], members)


def _remove_stale(out: str, manifest: Manifest) -> None:
    """Removes shards of an earlier, larger packing that the manifest no longer names."""
    named = {shard.name for shard in manifest.shards}
    named |= {index_name(name) for name in named}
    for name in storage.list_files(storage.join(out, "shards")):
        if f"shards/{name}" not in named:
            storage.delete(storage.join(out, "shards", name))
