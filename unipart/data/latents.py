"""Latent shards: what the frozen encoders say of every sample, stored once so that trainings read it instead of encoding.

A dataset of latents lies in shards like any other; `unipart data encode` makes one from a dataset of samples. Its samples have the
ids, the order and the splits of those that were encoded. Random draws of surface points are made `num_draws` times an object.

===================  ================================================================================================
member               content
===================  ================================================================================================
json                 num_parts, parts (the areas), num_draws, num_views, source, uri, licence, split
whole_00.npz         draw 0 of the whole: mean, logvar [L d], anchors [L 3], token_labels [L]
part_003_00.npz      draw 0 of part 3, alone and without labels: gcs_mean, gcs_logvar, gcs_anchors and the same in ncs
tokens_00.npz        view 0: tokens [T Dc] of the frozen image encoder (only where one was given)
===================  ================================================================================================
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unipart.data.codec import unpack_arrays
from unipart.data.schema import View
from unipart.data.shard_cache import ShardCache
from unipart.data.shards import Manifest, ShardIndex, read_manifest
from unipart.errors import UserError

Arrays = dict[str, NDArray[Any]]
DIGESTS = ("data", "data_config", "vae", "image_encoder")
"""What the config in the manifest of latent shards tells of their making, besides the fields of the encoding."""


def whole_member(draw: int) -> str:
    """Returns the member that holds a draw of the whole."""
    return f"whole_{draw:02d}.npz"


def part_member(part: int, draw: int) -> str:
    """Returns the member that holds a draw of a part."""
    return f"part_{part:03d}_{draw:02d}.npz"


def tokens_member(view: int) -> str:
    """Returns the member that holds the image tokens of a view."""
    return f"tokens_{view:02d}.npz"


def read_latent_manifest(address: str) -> Manifest:
    """Reads the manifest of latent shards.

    Raises:
        UserError: no dataset is there, or one that holds no latents.
    """
    manifest = read_manifest(address)
    if any(name not in manifest.config for name in DIGESTS):
        raise UserError(f"{address} holds samples, not latents", "give the --out folder of `unipart data encode`")
    return manifest


@dataclass(frozen=True)
class StoredLatents:
    """One encoded sample; its arrays are read when they are asked for, each draw alone.

    Attributes:
        sample_id: the asset id.
        meta: the JSON member.
        views: what was asked for of the sample's own views; empty where tokens stand for them.
        view: number of the view to train on.
        index: where the members lie.
        number: of the sample in the index.
    """

    sample_id: str
    meta: dict[str, Any]
    views: tuple[View, ...]
    view: int
    index: ShardIndex
    number: int

    @property
    def num_parts(self) -> int:
        """Number of parts N."""
        return int(self.meta["num_parts"])

    def arrays(self, member: str) -> Arrays:
        """Reads one member as float32 (labels as int64)."""
        found = unpack_arrays(self.index.members(self.number, [member])[member])
        return {name: array.astype(np.float32 if array.dtype.kind == "f" else np.int64) for name, array in found.items()}


class LatentIndex:
    """Random access to encoded samples by number; to a loader it is what `ShardIndex` is.

    Args:
        latents: a split of the latent shards.
        data: the same split of the samples, for their pixels; None where tokens are stored.
    """

    def __init__(self, latents: ShardIndex, data: ShardIndex | None) -> None:
        self.latents, self.data = latents, data

    def __len__(self) -> int:
        return len(self.latents)

    def shard_numbers(self) -> NDArray[np.int64]:
        """Returns for each sample [N] the number of the shard that holds most of what is read of it."""
        if self.data is None:
            return self.latents.shard_numbers()
        shards = self.data.shard_numbers()
        return np.array([shards[self.data.number_of(sample_id)] for sample_id in self.latents.sample_ids], np.int64)

    def fetch(self, number: int) -> None:
        """Brings the shards of a sample into the cache, if there is a cache."""
        self.latents.fetch(number)
        if self.data is not None:
            self.data.fetch(self.data.number_of(self.latents.sample_id(number)))

    def num_views(self, number: int) -> int:
        """Returns how many condition views a sample has."""
        return int(self._meta(number)["num_views"])

    def read(self, number: int, groups: Collection[str] | None = None, views: Sequence[int] | None = None) -> StoredLatents:
        """Reads what is known of a sample; of its views exactly one must be chosen where the groups name them."""
        sample_id, pixels, view = self.latents.sample_id(number), (), 0
        if groups is None or "views" in groups:
            assert views is not None
            (view,) = views
            if self.data is not None:
                pixels = self.data.read(self.data.number_of(sample_id), ("views",), views).views
        return StoredLatents(sample_id, self._meta(number), pixels, view, self.latents, number)

    def _meta(self, number: int) -> dict[str, Any]:
        return json.loads(self.latents.members(number, ["json"])["json"])


def open_latents(latents: str, data: str, split: str, pixels: bool, cache: ShardCache | None = None) -> LatentIndex:
    """Opens a split of latent shards.

    Args:
        latents: their address.
        data: address of the samples that a training is given beside them.
        split: train, val or test.
        pixels: whether views are to be read, from the samples.
        cache: keeps the shards of both; see `ShardIndex`.

    Raises:
        UserError: no latents are there, or they were made from other samples.
    """
    made_from, given = read_latent_manifest(latents).config["data"], read_manifest(data).content_digest
    if made_from != given:
        raise UserError(
            f"the latents in {latents} were made from samples {made_from[:16]}, but {data} holds {given[:16]}",
            "run `unipart data encode` again: it adds what is missing",
        )
    return LatentIndex(ShardIndex.open(latents, split, cache), ShardIndex.open(data, split, cache) if pixels else None)


def has_tokens(latents: str) -> bool:
    """Tells whether latent shards hold image tokens."""
    return bool(read_latent_manifest(latents).config["image_encoder"])
