"""Shards -> latent shards: every sample through the frozen encoders once, on a Ray Data pool of actors.

The same rules as in curation, by the same code: an artefact per object, written by the actor; a ledger file per block; a claim
on the dataset; packing in the order of the ids. So a run that was killed continues, and kept + failed = in.
"""

import json
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from jobs.training.batches import PointShapes, anchors_with_points, image_input
from jobs.training.frozen import FrozenEncoder, Posterior, load_frozen, module_digest
from jobs.training.loop import Place, to_device
from pipelines import ledger, sink
from pipelines.claim import Claim, claim_dataset
from pipelines.cluster import start_ray_data
from pipelines.encoding import Encoding, EncodingConfig, list_samples, settle, write_run
from pipelines.ledger import PENDING, Row
from pipelines.process import write_artefact
from pipelines.runner import Progress, RunOptions, follow, packing_on_ray
from unipart import storage
from unipart.data.codec import pack_arrays, pack_json
from unipart.data.latents import part_member, tokens_member, whole_member
from unipart.data.loader import collate
from unipart.data.schema import LEDGER_COLUMNS, Sample
from unipart.data.shards import ShardIndex, read_manifest
from unipart.data.splits import SPLITS
from unipart.errors import EnvironmentProblem, Reject, UserError
from unipart.inference.checkpoints import IMAGE_ENCODER
from unipart.models.geom_seg_vae import GeomSegVAE
from unipart.models.pretrained import load_pretrained, weights_digest
from unipart.rng import derive

_BLOCK_ROWS = 16
_MAX_RETRIES = 4


def make_encoding(data: str, vae: Path, image_encoder: Path | None, **settings: Any) -> Encoding:
    """Describes an encoding.

    Args:
        data: address of the samples.
        vae: checkpoint folder.
        image_encoder: checkpoint folder of an image encoder, or of a whole model that holds one.
        settings: fields of `EncodingConfig`.

    Raises:
        UserError: a folder is no checkpoint, or no dataset is there.
    """
    manifest, images = read_manifest(data), image_encoder
    if images is not None and (images / IMAGE_ENCODER).is_dir():
        images = images / IMAGE_ENCODER
    digests = {"vae": weights_digest(vae), "image_encoder": "" if images is None else weights_digest(images)}
    config = EncodingConfig.parse({"data": manifest.content_digest, "data_config": manifest.config_digest, **digests, **settings})
    return Encoding(config, storage.resolve(data), str(vae.resolve()), None if images is None else str(images.resolve()))


def run_encoding(
    encoding: Encoding,
    out: str,
    options: RunOptions | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> tuple[list[Row], int]:
    """Encodes a dataset, continuing whatever an earlier run left.

    Returns:
        A settled row per sample, and how many this run worked on.

    Raises:
        UserError: another run is at work in `out`.
        EnvironmentProblem: the workers die again and again.
    """
    options, out = options or RunOptions(), storage.resolve(out)
    if out == encoding.data:
        raise UserError(f"{out} holds the samples themselves", "give the latents another --out")
    samples = list_samples(encoding.data)[: options.limit]
    with claim_dataset(out, encoding.digest) as mine:
        write_run(out, encoding, samples)
        known = ledger.merge(out, encoding.digest, mine.attempt)
        pending = _pending(out, encoding, samples, known, options.retry)
        if pending:
            _process(mine, encoding, pending, options, progress)
        rows = settle(samples, ledger.merge(out, encoding.digest, mine.attempt))
        assert PENDING not in ledger.count_states(rows), "every sample that was worked on has a row in the ledger"
        mine.check()
        sink.write_dataset(out, encoding, rows, packing_on_ray(mine, options, progress))
    return rows, len(pending)


def _pending(out: str, encoding: Encoding, samples: Sequence[Row], known: dict[str, Row], retry: str | None) -> list[Row]:
    """Returns the samples without a row, those to be retried, and the kept ones whose artefact is needed and gone."""
    rows = settle(samples, known)
    todo = {row["asset_id"] for row in rows if row["state"] in (PENDING, retry)}
    if todo or not sink.is_packed(out, encoding, rows):
        present = set(storage.list_files(storage.join(out, "artefacts", encoding.digest)))
        kept = [row["asset_id"] for row in rows if row["state"] == "kept"]
        todo |= {asset_id for asset_id in kept if f"{asset_id[:2]}/{asset_id}.tar" not in present}
    return [sample for sample in samples if sample["asset_id"] in todo]


def _process(
    mine: Claim, encoding: Encoding, pending: Sequence[Row], options: RunOptions, progress: Callable[[Progress], None]
) -> None:
    import ray
    import ray.data

    start_ray_data(options.address, options.num_cpus)
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    workers = gpus or max(1, int(resources.get("CPU", 1)))
    size = max(1, min(_BLOCK_ROWS, len(pending) // (2 * workers)))
    num_blocks = -(-len(pending) // size)
    blocks = ray.data.from_items(list(pending), override_num_blocks=num_blocks)
    with warnings.catch_warnings():  # the two limits are to become arguments of their own after Ray 2.60
        warnings.simplefilter("ignore")
        results = blocks.map_batches(
            Encoder,
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(workers, num_blocks)),
            fn_constructor_kwargs={"claim": mine, "encoding": encoding, "device": "cuda" if gpus else "cpu"},
            num_gpus=1 if gpus else None,
            num_cpus=None if gpus else 1,
            max_restarts=_MAX_RETRIES,
            max_task_retries=_MAX_RETRIES,
        )
    follow(results, len(pending), mine, progress)


class Encoder:
    """An actor: holds the frozen encoders and encodes blocks of samples.

    Args:
        claim: of the run on the latents.
        encoding: what is encoded with what.
        device: cpu or cuda.

    Raises:
        EnvironmentProblem: this machine sees other checkpoints than the driver.
    """

    def __init__(self, claim: Claim, encoding: Encoding, device: str) -> None:
        config = encoding.config
        self.claim, self.encoding, self.place = claim, encoding, Place(torch.device(device))
        if device == "cpu":
            torch.set_num_threads(1)  # an actor is a core; and sums in another order would be other bytes
        vae = load_frozen(Path(encoding.vae), GeomSegVAE, self.place)
        self.encoder = FrozenEncoder(vae, cache=True, seed=config.seed)
        self.shapes = PointShapes(vae.config, config.seed, config.num_draws, anchors_with_points(device))
        self.images: nn.Module | None = None
        if encoding.image_encoder is not None:
            self.images = load_pretrained(encoding.image_encoder).to(self.place.device).requires_grad_(False)
        found = module_digest(vae), "" if self.images is None else module_digest(self.images)
        if found != (config.vae, config.image_encoder):
            raise EnvironmentProblem("a worker reads other weights than the driver", "give checkpoint folders that all nodes share")
        self.index = {split: ShardIndex.open(encoding.data, split) for split in SPLITS}

    def __call__(self, table: pa.Table) -> pa.Table:
        """Encodes the samples of a block and commits their rows to the ledger."""
        rows = [self._row(item) for item in table.to_pylist()]
        ledger.commit(self.claim.out, self.encoding.digest, self.claim.attempt, rows)
        return ledger.to_table(rows, LEDGER_COLUMNS)

    def _row(self, item: Row) -> Row:
        started, index = time.monotonic(), self.index[item["split"]]
        row = {name: item[name] for name in ("asset_id", "split")}
        try:
            groups = (*self.shapes.part_groups, *(("views",) if self.images else ()))
            sample = index.read(item["number"], groups)
            members, quality = self.members(sample, index.num_views(item["number"]))
        except (Reject, UserError, ValueError, torch.OutOfMemoryError) as error:
            reason = error.reason if isinstance(error, Reject) else "unreadable_sample"
            if isinstance(error, torch.OutOfMemoryError):
                reason = "out_of_memory"
            facts = {"state": "failed", "stage": "encode", "reason": reason, "message": str(error)}
            return {**row, **facts, "seconds": time.monotonic() - started}
        row |= write_artefact(self.claim.out, self.encoding.digest, item["asset_id"], members)
        row |= {name: sample.meta.get(name) for name in ("source", "uri", "sha256", "licence")}
        row |= {"quality": json.dumps(quality)}
        return {**row, "state": "kept", "reason": "", "num_parts": sample.num_parts, "seconds": time.monotonic() - started}

    @torch.no_grad()
    def members(self, sample: Sample, num_views: int) -> tuple[dict[str, bytes], dict[str, float]]:
        """Returns the members of an encoded sample and the figures of the whole's posterior.

        Raises:
            Reject: the encoder's answer is not finite.
        """
        config, members, unused = self.encoding.config, {}, derive(0, "unused")
        assert self.encoder.known is not None
        self.encoder.known.clear()  # of the sample before, also of one that failed
        wholes: list[Posterior] = []
        with torch.autocast(self.place.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            for draw in range(config.num_draws):
                item = {"sample_id": sample.sample_id, **self.shapes.whole(sample, draw, unused)}
                wholes.append(self.encoder.whole(self._batch(item), torch.default_generator))
                members[whole_member(draw)] = self._pack(_arrays(wholes[-1]))
                for part in range(sample.num_parts):
                    batch = self._batch({**item, "part": part, **self.shapes.part(sample, part, draw, item, unused)})
                    both = {}
                    for space in ("gcs", "ncs"):
                        found = _arrays(self.encoder.part(batch, space, torch.default_generator))
                        both |= {f"{space}_{name}": found[name] for name in ("mean", "logvar", "anchors")}
                    members[part_member(part, draw)] = self._pack(both)
            if self.images is not None:
                for number, view in enumerate(sample.views):
                    image = image_input(view.rgba, self.images.config.size)  # pyright: ignore
                    tokens = self.images(torch.from_numpy(image)[None].to(self.place.device)).float()
                    members[tokens_member(number)] = self._pack({"tokens": tokens[0].cpu().numpy()})
        meta = {"num_parts": sample.num_parts, "parts": [{"area": part["area"]} for part in sample.meta["parts"]]}
        document = {**meta, "num_draws": config.num_draws, "num_views": num_views}
        return {"json": pack_json(document), **members}, _figures(wholes)

    def _batch(self, item: dict[str, Any]) -> dict[str, Any]:
        return to_device(collate([item]), self.place.device)

    def _pack(self, arrays: dict[str, Any]) -> bytes:
        kept = {}
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise Reject("not_finite", f"the encoders gave a {name} that is not finite")
            exact = name.endswith("anchors") or array.dtype.kind != "f"
            kept[name] = array if exact else array.astype(self.encoding.config.dtype)
        return pack_arrays(kept)


def _arrays(posterior: Posterior) -> dict[str, Any]:
    arrays = {name: getattr(posterior, name)[0].cpu().numpy() for name in ("mean", "logvar", "anchors")}
    return {**arrays, "token_labels": posterior.token_labels[0].cpu().numpy().astype(np.int16)}


def _figures(wholes: Sequence[Posterior]) -> dict[str, float]:
    """Returns what tells an odd object: the spread of its latents and the width of their posterior."""
    spread = float(torch.stack([one.mean.std() for one in wholes]).mean())
    return {"latent_std": spread, "posterior_std": float(torch.stack([(0.5 * one.logvar).exp().mean() for one in wholes]).mean())}
