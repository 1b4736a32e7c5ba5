"""``unipart generate``: condition images -> bundles, with the four models of a training."""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.options import Parser, apply_fields, split_config_flags, whole_number
from jobs.recipes.generation import SIZES, generation
from jobs.training.config import KINDS
from jobs.training.state import find_checkpoint
from unipart import storage
from unipart.data.bundle import read_bundle, write_bundle
from unipart.data.schema import Bundle
from unipart.data.shards import ShardIndex
from unipart.errors import UserError
from unipart.geometry.render import palette
from unipart.inference.pipeline import GenerateConfig, UniPartPipeline
from unipart.inference.preprocess import find_object
from unipart.models.pretrained import find_device

ALIASES = {"granularity": "segment.granularity"}
"""Flags that are worth a short name."""


@dataclass(frozen=True)
class Request:
    """One image to generate from.

    Attributes:
        object_id: name of the bundle.
        image: a file, or pixels [H W 4].
        facts: what else the bundle should remember (the sample that the image shows).
    """

    object_id: str
    image: Path | NDArray[np.uint8]
    facts: dict[str, Any] = field(default_factory=dict)


def load_pipeline(models: str | Path, image_weights: str | None = None, device: str = "auto") -> UniPartPipeline:
    """Loads the four models from a folder of runs or an address of checkpoints: ``vae/``, ``anchor/``, ``whole/``, ``part/``."""
    folders = {kind: find_checkpoint(storage.join(models, kind)) for kind in KINDS}
    return UniPartPipeline.from_checkpoints(**folders, image_weights=image_weights, device=find_device(device))


def requests_from_shards(dataset: str, split: str, limit: int | None, view: int = 0) -> Iterator[Request]:
    """Yields the condition renders of held-out samples."""
    index = ShardIndex.open(dataset, split)
    for number in range(len(index) if limit is None else min(limit, len(index))):
        sample = index.read(number, ("views",), [view])
        yield Request(sample.sample_id, sample.views[0].rgba, {"sample_id": sample.sample_id, "split": split, "view": view})


def requests_from_files(paths: Sequence[str]) -> Iterator[Request]:
    """Yields image files, named by their stems; each is looked at, so that an unusable one is known before a model runs.

    Raises:
        UserError: a file cannot be used (`prepare_image`), or two files have one name.
    """
    seen: dict[str, str] = {}
    for path in paths:
        find_object(path)
        name = Path(path).stem
        if name in seen:
            raise UserError(f"{seen[name]} and {path} would both become {name}/", "rename one of them")
        seen[name] = path
        yield Request(name, Path(path), {"image": path})


def generate(
    pipeline: UniPartPipeline, requests: Sequence[Request], config: GenerateConfig, out: Path, seed: int = 0
) -> list[Path]:
    """Writes a bundle per request; one that is there already, made by the same models and settings, is kept.

    Returns:
        The bundles' folders, in the order of the requests.
    """
    folders = []
    for number, request in enumerate(requests, 1):
        folder = out / request.object_id
        folders.append(folder)
        counted = f"{number}/{len(requests)} {request.object_id}"
        if _is_current(folder, pipeline, config, seed):
            print(f"  {counted}: there already", file=sys.stderr)
            continue
        start = time.perf_counter()
        bundle = pipeline.generate(request.image, config, seed, request.object_id)
        bundle = replace(bundle, info={**bundle.info, **request.facts})
        write_bundle(folder, bundle, colors=_colors(bundle))
        print(f"  {counted}: {len(bundle.parts)} parts, {time.perf_counter() - start:.1f} s", file=sys.stderr)
    return folders


def _is_current(folder: Path, pipeline: UniPartPipeline, config: GenerateConfig, seed: int) -> bool:
    if not (folder / "bundle.json").is_file():
        return False
    info = read_bundle(folder).info
    same_models = info.get("checkpoints") == dict(pipeline.models.digests)
    return same_models and info.get("config_digest") == config.digest() and info.get("seed") == seed


def _colors(bundle: Bundle) -> list[tuple[float, float, float, float]]:
    """The palette of report and viewer, so that a part has one colour everywhere."""
    return [(float(r), float(g), float(b), 1.0) for r, g, b in palette(len(bundle.parts))]


def main(arguments: Sequence[str]) -> int:
    """Entry point of ``unipart generate``; prints the bundles' folders."""
    parser = _parser()
    own, fields = split_config_flags(arguments, parser)
    options = parser.parse_args(own)
    if options.images and options.from_shards:
        raise UserError("both images and --from-shards are given", "leave one out")
    if not (options.images or options.from_shards):
        raise UserError("give images, or --from-shards DIR", "unipart generate chair.png --models models --out bundles")
    fields = {ALIASES.get(name, name): value for name, value in fields.items()}
    if options.images:
        requests = list(requests_from_files(options.images))
    else:
        requests = list(requests_from_shards(options.from_shards, options.split, options.limit))
    if not requests:
        raise UserError(f"split '{options.split}' of {options.from_shards} holds no sample", "choose another --split")
    pipeline = load_pipeline(options.models, options.image_weights, options.device)
    config = apply_fields(generation(options.size, pipeline.models.vae.config), fields, [*parser.flags, "--granularity"])
    for text in pipeline.models.warnings:
        print(f"warning: {text}", file=sys.stderr)
    for folder in generate(pipeline, requests, config, Path(options.out), options.seed):
        print(folder)
    return 0


def _parser() -> Parser:
    parser = Parser(
        "generate",
        "Generate objects made of parts. Settings are flags: --steps 50 --max_parts 12 --granularity fine --memory low.",
        [
            "unipart generate chair.png lamp.png --models models --out bundles",
            "unipart generate --from-shards shards --split test --limit 8 --models models --out bundles",
        ],
    )
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="images with alpha, or on a plain background")
    parser.add_argument("--from-shards", metavar="DIR", help="use the condition renders of these shards instead")
    parser.add_argument("--split", default="test", help="split of the shards (default: test)")
    parser.add_argument("--limit", type=whole_number(0), metavar="N", help="at most N objects of the shards")
    where = "folder, or s3:// or hf:// address, with vae/ anchor/ whole/ part/ (default: runs)"
    parser.add_argument("--models", metavar="DIR", default="runs", help=where)
    parser.add_argument("--out", metavar="DIR", required=True, help="folder of the bundles")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", default="auto", help=f"settings of a size of models: auto, {', '.join(SIZES)} (default: auto)")
    parser.add_argument("--image-weights", metavar="DIR", help="folder of released DINOv2 weights")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default: auto)")
    return parser
