"""Runs a training: in this process, or on Ray with one worker or several. The loop itself knows neither."""

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from jobs.runs import SETTINGS
from jobs.training.batches import BatchSource, make_draw
from jobs.training.config import CONFIGS, AnyTrainConfig, Kind
from jobs.training.loop import Place, Run, fit
from jobs.training.objectives import make_objective
from jobs.training.state import Progress, find_checkpoint
from unipart.data.shards import read_manifest
from unipart.errors import EnvironmentProblem, UserError
from unipart.inference.checkpoints import IMAGE_ENCODER
from unipart.models.geom_seg_vae import GeomSegVAEConfig
from unipart.models.image_encoder import ImageEncoderConfig
from unipart.models.pretrained import load_config, weights_digest

PARENTS: dict[Kind, tuple[Kind, ...]] = {"vae": (), "anchor": ("vae",), "whole": ("vae",), "part": ("vae", "whole")}
"""The finished models that each training builds on."""
FREE = ("steps", "log_every", "checkpoint_every", "keep_checkpoints", "validate_every", "validation_batches", "loader_workers")
"""Fields that may change when a run is continued."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A training and where it happens; plain values, so that it travels to a worker as JSON.

    Attributes:
        kind: which model.
        config: the recipe as JSON.
        data: folder or s3:// address of the shards.
        folder: the run's folder; on a cluster, one that all workers share.
        parents: {kind: checkpoint folder}.
        changed: {flat field: [recipe's value, this run's value]}.
        image_weights: released DINOv2 weights, or None.
        device: "cpu", "cuda", or "auto".
        threads: CPU threads a worker; 0 shares the machine's cores evenly.
        init: checkpoint folder whose weights the training starts from, or None.
    """

    kind: Kind
    config: dict[str, Any]
    data: str
    folder: str
    parents: dict[str, str]
    changed: dict[str, Any]
    image_weights: str | None = None
    device: str = "auto"
    threads: int = 0
    init: str | None = None


def make_job(config: AnyTrainConfig, recipe: AnyTrainConfig, data: str, folder: Path, models: Path) -> Job:
    """Checks a training before anything is started: data, parents, and that a continued run is the same run.

    Args:
        config: what is trained.
        recipe: what the config was derived from.
        data: the shards.
        folder: of the run.
        models: folder with the parents' runs: ``vae/``, ``whole/``.

    Raises:
        UserError: what is missing or does not fit.
    """
    read_manifest(data)
    parents = {kind: str(find_checkpoint(models / kind).resolve()) for kind in PARENTS[config.kind]}
    settings = folder / SETTINGS
    if settings.is_file():
        before = CONFIGS[config.kind].parse(json.loads(settings.read_text())["config"], source=str(settings))
        changed = {name: pair for name, pair in before.diff(config).items() if name not in FREE}
        if changed:
            told = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in changed.items())
            raise UserError(f"the run in {folder} was started with other settings: {told}", "use its settings, or another --out")
    place = data if "://" in data else str(Path(data).resolve())
    differs = {name: [theirs, ours] for name, (ours, theirs) in config.diff(recipe).items()}
    return Job(config.kind, config.model_dump(mode="json"), place, str(folder.resolve()), parents, differs)


def run_here(job: Job, rank: int = 0, world: int = 1) -> Progress:
    """Trains in this process, as one of `world` workers."""
    config = CONFIGS[job.kind].parse(job.config)
    device = _device(job.device)
    if device.type == "cpu":
        torch.set_num_threads(job.threads or max(1, torch.multiprocessing.cpu_count() // world))
    place = Place(device, rank, world)
    parents = {kind: Path(folder) for kind, folder in job.parents.items()}
    folder = Path(job.folder)
    if rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        document = {"kind": job.kind, "data": job.data, "parents": job.parents, "init": job.init}
        document |= {"changed": job.changed, "config": job.config}
        (folder / SETTINGS).write_text(json.dumps(document, indent=2) + "\n")
    objective = make_objective(config, parents, job.image_weights, place, Path(job.init) if job.init else None)
    draw = make_draw(config, _vae_config(parents), _image_size(config, parents))
    source = BatchSource(job.data, config, draw, place)
    return fit(Run(config, objective, source, folder, place, facts(job)))


def facts(job: Job) -> dict[str, Any]:
    """Returns what the model card tells of a run's inputs: the data's digest and the parents' weights."""
    manifest = read_manifest(job.data)
    return {
        "data": manifest.content_digest,
        "data_config": manifest.config_digest,
        "lineage": {kind: weights_digest(folder) for kind, folder in job.parents.items()},
        **({"init": weights_digest(job.init)} if job.init else {}),
    }


def run_on_ray(job: Job, workers: int = 1, gpus_per_worker: float = 0.0) -> Progress:
    """Trains with Ray Train; a worker that dies is restarted and continues from the run's newest checkpoint.

    Raises:
        EnvironmentProblem: Ray is not installed.
        UserError: what a worker found wrong with the request.
    """
    try:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError:
        raise EnvironmentProblem("ray is not installed here", "train in this process: --workers 0") from None
    start_ray()
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    folder = Path(job.folder)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"job": job.__dict__},
        torch_config=TorchConfig(backend="nccl" if gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpus_per_worker > 0,
            resources_per_worker={"CPU": 1, "GPU": gpus_per_worker} if gpus_per_worker else {"CPU": 1},
        ),
        run_config=RunConfig(name="ray", storage_path=str(folder), failure_config=FailureConfig(max_failures=2)),
    )
    result = trainer.fit()
    answer: dict[str, Any] = result.return_value or {}
    if "error" in answer:
        raise UserError(answer["error"], answer["fix"])
    return Progress(**answer)


def start_ray() -> None:
    """Starts a quiet local Ray, or joins the cluster this job runs on, unless that has been done."""
    import ray

    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)


def _worker(loop_config: dict[str, Any]) -> dict[str, Any]:
    """One Ray Train worker. A mistake of the user's is an answer: raised, it would be tried again."""
    from ray import train

    context = train.get_context()
    world = context.get_world_size()
    try:
        progress = run_here(Job(**loop_config["job"]), context.get_world_rank(), world)
    except UserError as error:
        return {"error": error.message, "fix": error.fix}
    finally:
        if world > 1 and distributed.is_initialized():
            distributed.barrier()
    return progress.__dict__


def _device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _vae_config(parents: dict[str, Path]) -> GeomSegVAEConfig | None:
    if "vae" not in parents:
        return None
    config = load_config(parents["vae"], "geom_seg_vae")
    return config if isinstance(config, GeomSegVAEConfig) else None


def _image_size(config: AnyTrainConfig, parents: dict[str, Path]) -> int | None:
    if config.kind == "whole":
        return config.image_encoder.size
    if config.kind == "part":
        encoder = load_config(parents["whole"] / IMAGE_ENCODER, "image_encoder")
        return encoder.size if isinstance(encoder, ImageEncoderConfig) else None
    return None


def describe_size(config: AnyTrainConfig, samples: int) -> str:
    """Returns how long a run is in epochs, for people."""
    epochs = config.steps * config.batch_size / max(samples, 1)
    return f"{config.steps} steps of {config.batch_size} = {math.floor(epochs * 10) / 10} epochs of {samples} objects"
