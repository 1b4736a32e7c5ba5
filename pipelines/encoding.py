"""What latent shards are made of and with: all of an encoding (`jobs.encode`) that needs no model."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import Field

from pipelines import ledger
from pipelines.ledger import PENDING, Row
from pipelines.plan import PackConfig
from unipart import storage
from unipart.config import Config, digest_json
from unipart.data.codec import pack_json
from unipart.data.schema import LEDGER_COLUMNS, SCHEMA_VERSION
from unipart.data.shards import ShardIndex
from unipart.data.splits import SPLITS

SAMPLES, ENCODING = "samples.parquet", "encoding.json"
"""What is encoded, and with what: beside the ledger from the first moment on."""
_COLUMNS = {"asset_id": "string", "split": "string", "number": "int64"}
_DIGEST_DIGITS = 16


class EncodingConfig(Config):
    """Everything that decides what latent shards hold; the digests say of what and by whom."""

    data: str
    """Content digest of the samples."""
    data_config: str
    """Digest of the config that curated them."""
    vae: str
    """Digest of the VAE's weights."""
    image_encoder: str
    """Digest of the image encoder's weights; empty where no tokens are stored."""
    seed: int = 0
    """Of the draws of surface points: that of the training which must see the same ones."""
    num_draws: int = Field(default=1, ge=1)
    """Draws of surface points an object."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Compute type of the encoders."""
    dtype: Literal["float32", "float16"] = "float32"
    """Stored type of means, variances and tokens; float16 halves the files and is not exact."""
    pack: PackConfig = PackConfig()
    """Bounds of the shards; the splits are those of the samples."""


@dataclass(frozen=True)
class Encoding:
    """What is encoded with what.

    Attributes:
        config: see `EncodingConfig`.
        data: address of the samples.
        vae: checkpoint folder of the VAE.
        image_encoder: checkpoint folder of the image encoder, or None.
    """

    config: EncodingConfig
    data: str
    vae: str
    image_encoder: str | None

    @property
    def digest(self) -> str:
        """What one encoded object depends on besides itself (16 hex digits)."""
        chain = self.config.model_dump(mode="json", exclude={"data", "pack"})
        return digest_json({"schema_version": SCHEMA_VERSION, "encoding": chain})[:_DIGEST_DIGITS]


def list_samples(data: str) -> list[Row]:
    """Returns the samples of a dataset, split by split: asset_id, split, number in it."""
    return [
        {"asset_id": sample_id, "split": split, "number": number}
        for split in SPLITS
        for number, sample_id in enumerate(ShardIndex.open(data, split).sample_ids)
    ]


def settle(samples: Sequence[Row], known: dict[str, Row]) -> list[Row]:
    """Returns a ledger row per sample, in their order; `state` is pending where nothing is known yet."""
    blank = {**dict.fromkeys(LEDGER_COLUMNS), "state": PENDING}
    return [{**blank, **known.get(sample["asset_id"], {}), **{k: sample[k] for k in ("asset_id", "split")}} for sample in samples]


def write_run(out: str, encoding: Encoding, samples: Sequence[Row]) -> None:
    """Notes what a run encodes."""
    ledger.write_table(storage.join(out, SAMPLES), samples, _COLUMNS)
    document = {**asdict(encoding), "config": encoding.config.model_dump(mode="json")}
    storage.write_bytes(storage.join(out, ENCODING), pack_json(document))


def read_encoding(out: str) -> tuple[Encoding, list[Row]]:
    """Returns what the last run encoded, and a settled row per sample of it.

    Raises:
        FileNotFoundError: nothing was ever encoded there.
    """
    samples = ledger.read_table(storage.join(out, SAMPLES))
    address = storage.join(out, ENCODING)
    document: dict[str, Any] = json.loads(storage.read_bytes(address))
    encoding = Encoding(**{**document, "config": EncodingConfig.parse(document["config"], address)})
    return encoding, settle(samples, ledger.read_ledger(out, encoding.digest))
