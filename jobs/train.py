"""``unipart train``: one of the four models, from shards and the models before it."""

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import unipart
from jobs.dry_run import describe, describe_list, dry_run, recipe_list
from jobs.options import Parser, apply_fields, number, split_config_flags, whole_number
from jobs.recipes import find_recipe, recipe_names
from jobs.runs import latest_checkpoint
from jobs.tracking import OFF, Finished, RunFacts, RunFollower, Shipper, code_tags, default_uri, is_complete, parent_run
from jobs.training.config import CONFIGS, KINDS, AnyTrainConfig, PartTrainConfig
from jobs.training.launch import Job, describe_size, drop_other_curve, facts, make_job, run_here, run_on_ray
from jobs.training.state import Progress, find_checkpoint, read_progress
from pipelines.claim import locked
from unipart.data.shards import ShardIndex
from unipart.errors import UserError
from unipart.models.pretrained import load_config, weights_digest
from unipart.models.warm_start import check_start

FINE_TUNING_RATE = 1e-5
"""Learning rates up to this are for finished weights (model.md sections 3.1 and 5.5)."""


def train(job: Job, workers: int = 1, gpus: float | None = None, tracking: str | None = None) -> Progress:
    """Runs a training with progress on stderr and an MLflow run beside it.

    A finished run is not trained again; what the tracker does not have of it yet is sent.

    Args:
        job: from `make_job`.
        workers: Ray Train workers; 0 trains in this process, without Ray.
        gpus: GPUs a worker; None for one where the cluster has one for each, else none.
        tracking: MLflow URI, "off", or None for SQLite beside the run.

    Raises:
        UserError: another process trains in this folder; or as of `run_on_ray`.
    """
    with locked(job.folder):
        return _train(job, workers, gpus, tracking)


def _train(job: Job, workers: int, gpus: float | None, tracking: str | None) -> Progress:
    folder, config = Path(job.folder), CONFIGS[job.kind].parse(job.config)
    uri = tracking or default_uri(folder.parent)
    newest = latest_checkpoint(folder)
    before = read_progress(newest) if newest is not None else None
    finished = before is not None and before.finished and before.step >= config.steps
    if before is not None:
        print(
            f"{folder}: already trained, {before.step} steps" if finished else f"{folder}: continuing from step {before.step}",
            file=sys.stderr,
        )
    if before is not None and newest is not None and finished:
        if uri != OFF and not is_complete(folder, uri, weights_digest(newest)):
            with _follower(job, config, uri, finished=True):
                pass
        return before
    drop_other_curve(job, max(workers, 1))
    with _follower(job, config, uri):
        return run_here(job) if workers == 0 else run_on_ray(job, workers, gpus)


def _follower(job: Job, config: AnyTrainConfig, uri: str, finished: bool = False) -> RunFollower:
    """Returns what watches the training, and brings it to the tracker."""
    folder, known = Path(job.folder), facts(job)

    def leaves(newest: Path) -> Finished:
        return Finished(folder, job.kind, newest, config.best, known["data"])

    shipper = None
    if uri != OFF:
        tags = run_tags(job, config.recipe, known)
        described = RunFacts(f"{job.kind} {folder.parent.name}", {"kind": job.kind, **config.flat()}, tags, finished)
        shipper = Shipper(folder, uri, described)
    return RunFollower(folder, shipper, lambda row: _tell(job.kind, row, config.steps), leaves)


def run_tags(job: Job, recipe: str, known: dict[str, Any]) -> dict[str, str]:
    """Returns what a run is told by besides its parameters: code, data, parents, and what differs from the recipe.

    Args:
        job: the training.
        recipe: the recipe's name.
        known: from `facts`.
    """
    tags = {"unipart.kind": job.kind, "unipart.recipe": recipe, "unipart.data": known["data"], "unipart.dataset": job.data}
    tags |= {f"unipart.parent.{kind}": digest for kind, digest in known["lineage"].items()}
    parents = {kind: parent_run(Path(checkpoint)) for kind, checkpoint in job.parents.items()}
    tags |= {f"unipart.parent_run.{kind}": run_id for kind, run_id in parents.items() if run_id}
    tags |= {"unipart.init": known["init"]} if "init" in known else {}
    tags |= {f"unipart.changed.{name}": f"{ours} (recipe: {theirs})" for name, (theirs, ours) in job.changed.items()}
    return {"mlflow.source.name": f"unipart train {job.kind}", "unipart.version": unipart.__version__, **code_tags(), **tags}


def _tell(kind: str, row: dict[str, float], steps: int) -> None:
    figures = [f"{name} {row[name]:.4g}" for name in ("loss", "samples_per_second", "val/loss", "z_scale") if name in row]
    if not figures:  # scores of a validation: many, and in the history
        return
    print(f"  {kind} step {int(row['step'])}/{steps}  {'  '.join(figures)}", file=sys.stderr)


def main(arguments: Sequence[str]) -> int:
    """Entry point of ``unipart train``."""
    parser = _parser()
    asked = next((kind for kind in KINDS if kind in arguments), None)
    if asked is not None:
        parser.fields = lambda: find_recipe(asked, "tiny")  # pyright: ignore[reportArgumentType]
    own, fields = split_config_flags(arguments, parser)
    options = parser.parse_args(own)
    if options.list:
        return _list(options)
    if options.kind is None:
        raise UserError("which model?", f"unipart train {{{','.join(KINDS)}}} ..., or unipart train --list")
    recipe = find_recipe(options.kind, options.recipe, options.size)
    config = recipe if options.config is None else _merge(recipe, Path(options.config))
    config = apply_fields(config, fields, parser.flags)
    if options.dry_run:
        return _dry_run(options, config, recipe)
    if options.data is None:
        raise UserError("--data is missing", "give the folder that `unipart data run` wrote")
    folder = Path(options.out or f"runs/{options.kind}")
    models = Path(options.models) if options.models else folder.parent
    init = find_checkpoint(options.init, finished=False, into=folder / "init").resolve() if options.init else None
    if init is not None:
        check_start(config.model, load_config(init))
    job = replace(
        make_job(config, recipe, options.data, folder, models),
        image_weights=options.image_weights,
        init=str(init) if init else None,
        device=options.device,
        threads=options.threads,
    )
    for name, (theirs, ours) in job.changed.items():
        print(f"{name}: {ours} (recipe: {theirs})", file=sys.stderr)
    if init is None and latest_checkpoint(folder) is None and wants_weights(config):
        print(
            f"warning: {config.recipe} fine-tunes at rate {config.optimizer.lr:g}, but starts from random weights, which will "
            "hardly move: give --init (docs/reproduce.md), or a rate and settings to train from scratch",
            file=sys.stderr,
        )
    print(f"{config.recipe}: {describe_size(config, len(ShardIndex.open(job.data, 'train')))}", file=sys.stderr)
    train(job, options.workers, options.gpus, options.tracking)
    print(latest_checkpoint(folder))
    return 0


def wants_weights(config: AnyTrainConfig) -> bool:
    """Tells whether a training's rate is one for finished weights, and no model that it builds on gives it any."""
    return config.optimizer.lr <= FINE_TUNING_RATE and not (isinstance(config, PartTrainConfig) and config.init_from_whole)


def _list(options: Namespace) -> int:
    rows = recipe_list(options.size)
    print(json.dumps(rows, indent=2) if options.json else describe_list(rows, options.size))
    return 0


def _dry_run(options: Namespace, config: AnyTrainConfig, recipe: AnyTrainConfig) -> int:
    size = options.size if ":" in options.recipe else options.recipe
    document = dry_run(config, recipe, options.recipe, size, options.workers)
    print(json.dumps(document, indent=2) if options.json else describe(document))
    return 0


def _merge(recipe: AnyTrainConfig, path: Path) -> AnyTrainConfig:
    """Puts a JSON file's fields, nested or dotted, over the recipe."""
    if not path.is_file():
        raise UserError(f"config file {path} does not exist", "give the path of a JSON file")
    try:
        values = json.loads(path.read_text())
    except ValueError as error:  # not UTF-8, or not JSON
        raise UserError(f"config file {path} is not JSON: {error}", "correct the file") from None
    if not isinstance(values, dict):
        raise UserError(f"config file {path} holds no JSON object", 'write {"steps": 300, "model.width": 96}')
    return type(recipe).parse(_over(recipe.model_dump(mode="json"), values), source=str(path))


def _over(base: dict[str, object], values: dict[str, object]) -> dict[str, object]:
    merged = dict(base)
    for name, value in values.items():
        head, _, rest = name.partition(".")
        value = {rest: value} if rest else value
        below = merged.get(head)
        merged[head] = _over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _parser() -> Parser:
    parser = Parser(
        "train",
        "Train a model. Every field of the recipe is a flag: --steps 300 --model.width 96 --optimizer.lr 1e-3; `unipart train vae "
        "--help` lists those of the VAE, with their values at tiny.",
        [
            "unipart train vae tiny --data shards --out models/vae",
            "unipart train whole tiny --data shards --out models/whole     (needs models/vae)",
            "unipart train part jobs.recipes.ablations:without_ncs --size small --data shards --out ablation/part --models models",
            "unipart train part paper --dry-run --workers 2                (config, parameters, FLOPs, memory; a batch at ci size)",
            "unipart train --list                                          (every recipe and ablation, and what it changes)",
        ],
    )
    parser.add_argument("kind", nargs="?", choices=KINDS, help="which model")
    parser.add_argument(
        "recipe", nargs="?", default="tiny", help=f"{', '.join(recipe_names())}, or package.module:function (default: tiny)"
    )
    parser.add_argument("--data", metavar="DIR", help="the shards: a folder or s3:// address")
    parser.add_argument("--out", metavar="DIR", help="folder of the run (default: runs/KIND); run again to continue")
    parser.add_argument("--models", metavar="DIR", help="folder with the models it builds on (default: the folder of --out)")
    parser.add_argument("--config", metavar="FILE", help="JSON with fields to change")
    parser.add_argument("--size", default="tiny", help="size given to an addressed recipe, and to --list (default: tiny)")
    parser.add_argument("--image-weights", metavar="DIR", help="folder of released DINOv2 weights")
    init = "start from the weights of this checkpoint (of `unipart weights import`, say): a folder, s3://..., hf://OWNER/NAME"
    parser.add_argument("--init", metavar="DIR", help=init)
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default: auto)")
    parser.add_argument(
        "--workers", type=whole_number(0), default=1, help="Ray Train workers (default: 1); 0 trains in this process"
    )
    parser.add_argument(
        "--threads", type=whole_number(0), default=0, help="CPU threads a worker (default: OMP_NUM_THREADS, or all)"
    )
    parser.add_argument("--gpus", type=number(0), help="GPUs a worker (default: 1 if the cluster has one for each, else 0)")
    parser.add_argument("--tracking", metavar="URI", help="MLflow URI or 'off' (default: sqlite beside the run)")
    parser.add_argument("--dry-run", action="store_true", help="say what it is and costs, run one batch of it at ci size, and stop")
    parser.add_argument("--list", action="store_true", help="list the recipes with what each ablation changes, and stop")
    parser.add_argument("--json", action="store_true", help="--dry-run or --list as JSON")
    return parser
