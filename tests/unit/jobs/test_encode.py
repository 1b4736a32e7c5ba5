"""One actor of an encoding, in this process."""

from pathlib import Path

import pyarrow as pa
import pytest
import torch

from jobs.encode import Encoder, make_encoding
from jobs.training.smoke import two_balls
from pipelines.claim import claim_dataset
from unipart.data.codec import encode_sample
from unipart.data.schema import SCHEMA_VERSION
from unipart.data.shards import Manifest, tar_bytes, write_manifest, write_shards
from unipart.rng import derive


def test_an_object_too_large_for_the_gpu_is_a_failed_row(tmp_path: Path, parents: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    names = ["huge", "small"]
    samples = [(name, tar_bytes(name, encode_sample(two_balls(name, derive(0, name))))) for name in names]
    records = write_shards(tmp_path / "data", "train", samples, 10**9, 2)
    write_manifest(tmp_path / "data", Manifest(SCHEMA_VERSION, "config", "test", "content", {}, tuple(records)))
    encoding, out = make_encoding(str(tmp_path / "data"), parents["vae"], None, num_draws=1), str(tmp_path / "latents")
    with claim_dataset(out, encoding.digest) as claim:
        encoder = Encoder(claim, encoding, "cpu")
        part = encoder.encoder.part

        def allocate(batch, *arguments):
            if batch["sample_id"] == ["huge"]:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 90 GiB")
            return part(batch, *arguments)

        monkeypatch.setattr(encoder.encoder, "part", allocate)
        rows = [{"asset_id": name, "split": "train", "number": number} for number, name in enumerate(names)]
        huge, small = encoder(pa.Table.from_pylist(rows)).to_pylist()
    assert (huge["state"], huge["reason"]) == ("failed", "out_of_memory")
    assert "90 GiB" in huge["message"]
    assert small["state"] == "kept"
    assert {key.split("/")[0] for key in encoder.encoder.known or {}} == {"small"}
