"""What is done to a finished dataset: checking its shards, and removing what only a further run would use."""

import hashlib
import shutil
from pathlib import Path

from pipelines import sink
from pipelines.claim import claim_dataset
from pipelines.runner import read_run
from unipart import storage
from unipart.data.shards import ShardIndex, read_manifest
from unipart.data.splits import SPLITS
from unipart.errors import UserError

_CHUNK = 1 << 20


def verify_shards(out: str) -> int:
    """Reads every shard and compares it with the manifest.

    Returns:
        Samples found.

    Raises:
        UserError: names the first shard that is missing or not what the manifest says.
    """
    manifest = read_manifest(out)
    for shard in manifest.shards:
        digest = hashlib.sha256()
        try:
            with storage.open_stream(storage.join(out, shard.name)) as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        except FileNotFoundError:
            raise UserError(f"{out} lacks {shard.name}", "run `unipart data run` again, or copy the dataset again") from None
        if digest.hexdigest() != shard.sha256:
            raise UserError(
                f"{out}/{shard.name} is not what the manifest says: its sha256 differs",
                "delete it and run `unipart data run` again, or copy the dataset again",
            )
    found = sum(len(ShardIndex.open(out, split)) for split in SPLITS)
    if found != sum(shard.num_samples for shard in manifest.shards):
        raise UserError(f"the offset tables beside the shards of {out} list {found} samples", "copy the dataset again")
    return found


def clean(out: str, artefacts: bool = False) -> int:
    """Removes the stage cache and what other configs left; the shards stay, and so does the ledger.

    Args:
        out: dataset address.
        artefacts: remove the per-object artefacts too. A later run that adds or retries an asset then makes all of them again.

    Returns:
        Bytes freed.

    Raises:
        UserError: the dataset, or the latent shards, are not finished, or a run is at work there.
    """
    plan, rows = read_run(out)
    with claim_dataset(out, plan.digest):
        if not sink.is_packed(out, plan, rows):
            raise UserError(f"{out} is not finished", "run `unipart data run`, or `data encode`, to its end first")
        kept = "" if artefacts else f"artefacts/{plan.digest}/"
        freed = 0
        for folder in ("cache", "artefacts"):
            for name in storage.list_files(storage.join(out, folder)):
                if not kept or not f"{folder}/{name}".startswith(kept):
                    address = storage.join(out, folder, name)
                    freed += storage.size(address)
                    storage.delete(address)
            if not storage.is_s3(out) and not storage.list_files(storage.join(out, folder)):
                shutil.rmtree(Path(out) / folder, ignore_errors=True)
    return freed
