"""Runs a training: in this process, or on Ray with one worker or several. The loop itself knows neither."""

import json
import logging
import math
import signal
import socket
import threading
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from jobs.runs import HISTORY, LINK, SETTINGS, latest_checkpoint, sound_checkpoint
from jobs.tracking.system import sampling
from jobs.training.batches import ONLINE, BatchSource, make_draw
from jobs.training.budget import sample_flops
from jobs.training.config import CONFIGS, AnyTrainConfig, Kind, VaeTrainConfig
from jobs.training.history import dispensable
from jobs.training.loop import Place, Run, fit
from jobs.training.objectives import make_objective
from jobs.training.parallel import agreed
from jobs.training.shapes import Context
from jobs.training.state import Progress, find_checkpoint, read_progress
from jobs.training.validation import make_validator
from jobs.training.workload import Parents
from pipelines.cluster import start_ray
from unipart import storage
from unipart.config import cluster_address, cpu_threads
from unipart.data.shards import read_manifest
from unipart.errors import EnvironmentProblem, UserError
from unipart.inference.checkpoints import IMAGE_ENCODER
from unipart.models.geom_seg_vae import GeomSegVAEConfig
from unipart.models.image_encoder import ImageEncoderConfig
from unipart.models.pretrained import find_device, lineage, load_config, weights_digest

PARENTS: dict[Kind, tuple[Kind, ...]] = {"vae": (), "anchor": ("vae",), "whole": ("vae",), "part": ("vae", "whole")}
"""The finished models that each training builds on."""
FREE = (
    *("steps", "log_every", "checkpoint_every", "keep_checkpoints", "best", "validate_every", "validation_batches"),
    *("score_every", "score_objects", "score_resolution"),
    *("loader_workers", "parallel", "compile_blocks", "recompute", "latents", "shard_cache", "shard_cache_gb"),
)
"""Fields that may change when a run is continued."""
REFUSAL = "refusal.json"
"""Why one of several workers stopped, until the driver has read it."""

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
        inputs: {"data", or a parent's kind: sha256 of the samples, or of the weights}.
        changed: {flat field: [recipe's value, this run's value]}.
        image_weights: released DINOv2 weights, or None.
        device: "cpu", "cuda", or "auto".
        threads: CPU threads a worker; 0 for OMP_NUM_THREADS, or without it the machine's cores, shared evenly.
        init: checkpoint folder whose weights the training starts from, or None.
        anchor: checkpoint of the anchor decoder, by which a whole model's validation finds parts, or None.
    """

    kind: Kind
    config: dict[str, Any]
    data: str
    folder: str
    parents: dict[str, str]
    inputs: dict[str, str]
    changed: dict[str, Any]
    image_weights: str | None = None
    device: str = "auto"
    threads: int = 0
    init: str | None = None
    anchor: str | None = None


def make_job(config: AnyTrainConfig, recipe: AnyTrainConfig, data: str, folder: Path, models: Path) -> Job:
    """Checks a training before anything is started: data, parents, and that a continued run is the same run.

    Args:
        config: what is trained.
        recipe: what the config was derived from.
        data: the shards.
        folder: of the run.
        models: folder with the parents' runs: ``vae/``, ``whole/``; for a whole model's validation also ``anchor/``.

    Raises:
        UserError: what is missing or does not fit.
    """
    manifest = read_manifest(data)
    inputs = {"data": manifest.content_digest}
    if not isinstance(config, VaeTrainConfig) and config.latents != ONLINE:
        config = config.replace(latents=storage.resolve(config.latents))
    if config.shard_cache:
        config = config.replace(shard_cache=storage.resolve(config.shard_cache))
    parents = {kind: str(find_checkpoint(models / kind).resolve()) for kind in PARENTS[config.kind]}
    inputs |= {kind: weights_digest(checkpoint) for kind, checkpoint in parents.items()}
    vae = config.model if isinstance(config, VaeTrainConfig) else _vae_config({"vae": Path(parents["vae"])})
    if vae is not None:
        _warn_of_few_points(data, manifest.config.get("points", {}), vae.num_points, parts=config.kind in ("vae", "part"))
    anchor = _anchor_beside(models, parents["vae"]) if config.kind == "whole" else None
    sound_checkpoint(folder)
    place = data if "://" in data else str(Path(data).resolve())
    _check_continued(folder, config, inputs, {"data": place, **parents})
    differs = {name: [theirs, ours] for name, (ours, theirs) in config.diff(recipe).items()}
    return Job(config.kind, config.model_dump(mode="json"), place, str(folder.resolve()), parents, inputs, differs, anchor=anchor)


def _warn_of_few_points(data: str, stored: dict[str, int], wanted: int, parts: bool) -> None:
    """Says where a dataset holds fewer surface points of a shape than the encoder takes."""
    for name in ("surface", "part_surface") if parts else ("surface",):
        if stored.get(name, wanted) < wanted:
            log.warning(
                "%s holds %d points of a %s and the encoder takes %d: they repeat; curate with --points.%s %d",
                *(data, stored[name], "part" if name == "part_surface" else "whole object", wanted, name, wanted),
            )


def _check_continued(folder: Path, config: AnyTrainConfig, inputs: dict[str, str], places: dict[str, str]) -> None:
    """Checks that a run which was started before is continued as the same run. One without a checkpoint has nothing to continue.

    Args:
        folder: of the run.
        config: what is asked for now.
        inputs: as in `Job`.
        places: where each of them is.

    Raises:
        UserError: settings, data or parents are others than before, or the run is further than it is to go.
    """
    settings, newest = folder / SETTINGS, latest_checkpoint(folder)
    if newest is None or not settings.is_file():
        return
    document = json.loads(settings.read_text())
    before = CONFIGS[config.kind].parse(document["config"], source=str(settings))
    changed = {name: pair for name, pair in before.diff(config).items() if name not in FREE}
    if changed:
        told = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in changed.items())
        raise UserError(f"the run in {folder} was started with other settings: {told}", "use its settings, or another --out")
    others = {name: old for name, old in document.get("inputs", {}).items() if old != inputs[name]}
    if others:
        told = ", ".join(f"{name} {old[:12]} -> {inputs[name][:12]} ({places[name]})" for name, old in others.items())
        fix = "restore them (--data, --models), or give another --out; to go on from its weights: --init and a checkpoint of it"
        raise UserError(f"the run in {folder} was started on other data or models, by their digests: {told}", fix)
    done = read_progress(newest).step
    if done > config.steps:
        raise UserError(
            f"the run in {folder} is at step {done}, beyond --steps {config.steps}", "raise --steps, or give another --out"
        )


def _anchor_beside(models: Path, vae: str) -> str | None:
    """Returns the finished anchor decoder of a VAE, or None."""
    try:
        found = find_checkpoint(models / "anchor")
    except UserError:
        return None
    return str(found.resolve()) if lineage(found).get("vae") == weights_digest(vae) else None


def run_here(job: Job, rank: int = 0, world: int = 1) -> Progress:
    """Trains in this process, as one of `world` workers."""
    config = CONFIGS[job.kind].parse(job.config)
    device = find_device(job.device)
    if device.type == "cpu" and job.threads:
        torch.set_num_threads(job.threads)
    place = Place(device, rank, world)
    parents = {kind: Path(folder) for kind, folder in job.parents.items()}
    folder = Path(job.folder)
    micro_batches = count_micro_batches(config, folder, world)
    if rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        document = {"kind": job.kind, "data": job.data, "parents": job.parents, "inputs": job.inputs, "init": job.init}
        document |= {"changed": job.changed, "micro_batches": micro_batches, "config": job.config}
        document["readers"] = _count_readers(config, folder, world)
        storage.write_bytes(folder / SETTINGS, (json.dumps(document, indent=2) + "\n").encode())
    objective = make_objective(config, parents, job.image_weights, place, Path(job.init) if job.init else None)
    draw = make_draw(config, _vae_config(parents), _image_size(config, parents), place.device.type)
    source = BatchSource(job.data, config.replace(accumulate=micro_batches // world), draw, place)
    common = (
        BatchSource(job.data, config.replace(accumulate=micro_batches, stream_buffer=0), draw, Place(device)) if world > 1 else None
    )
    flops = _sample_flops(config, parents) if device.type == "cuda" else 0.0
    context = Context(config.seed, config.score_resolution, place, parents, Path(job.anchor) if job.anchor else None)
    validator = make_validator(config, objective, job.data, folder, context)
    return fit(Run(config, objective, source, folder, place, facts(job), micro_batches, common, validator, flops))


def count_micro_batches(config: AnyTrainConfig, folder: Path, world: int) -> int:
    """Returns how many micro-batches a step has; a run that is continued keeps their number, with other workers too.

    Raises:
        UserError: the workers cannot share them evenly.
    """
    settings, number = folder / SETTINGS, max(config.accumulate, world)
    if latest_checkpoint(folder) is not None and settings.is_file():
        number = json.loads(settings.read_text()).get("micro_batches", number)
    if number % world or config.batch_size % number:
        raise UserError(
            f"{config.batch_size} samples a step make {number} micro-batches, which {world} workers cannot share evenly",
            "choose --workers that divide the micro-batches, and --accumulate that divides --batch_size",
        )
    return number


def _count_readers(config: AnyTrainConfig, folder: Path, world: int) -> int:
    """Returns how many processes share a stream of shards, 0 where samples are read by index; says so where a run had others."""
    number = world * max(config.loader_workers, 1) if config.stream_buffer else 0
    before = json.loads((folder / SETTINGS).read_text()).get("readers", 0) if (folder / SETTINGS).is_file() else number
    if before != number and latest_checkpoint(folder) is not None:
        log.warning(
            "%s was streamed to %d readers, now to %d: its samples come in another order from here on", folder, before, number
        )
    return number


def facts(job: Job) -> dict[str, Any]:
    """Returns what the model card tells of a run's inputs: the data's digest and the parents' weights."""
    manifest = read_manifest(job.data)
    return {
        "data": manifest.content_digest,
        "data_config": manifest.config_digest,
        "lineage": {kind: weights_digest(folder) for kind, folder in job.parents.items()},
        **({"init": weights_digest(job.init)} if job.init else {}),
    }


def drop_other_curve(job: Job, workers: int) -> None:
    """Lets a run begin anew where an earlier start, with other settings, inputs or micro-batches, came to no checkpoint.

    What that start left is another curve than the one to come: its rows go, and its MLflow run is not continued.
    """
    folder, config = Path(job.folder), CONFIGS[job.kind].parse(job.config)
    if latest_checkpoint(folder) is not None or not (folder / SETTINGS).is_file():
        return
    noted = json.loads((folder / SETTINGS).read_text())
    same = noted["micro_batches"] == count_micro_batches(config, folder, workers) and noted["inputs"] == job.inputs
    # Compared as they stand: what was noted may be what no config takes, and the reason why there is no checkpoint.
    settings = ({name: value for name, value in document.items() if name not in FREE} for document in (noted["config"], job.config))
    if not same or len({json.dumps(one, sort_keys=True) for one in settings}) > 1:
        log.warning("%s came to no checkpoint, with other settings, samples or workers: it begins anew", folder)
        for name in (HISTORY, LINK):
            (folder / name).unlink(missing_ok=True)


def run_on_ray(job: Job, workers: int = 1, gpus_per_worker: float | None = None) -> Progress:
    """Trains with Ray Train; a worker that dies is restarted and continues from the run's newest checkpoint.

    It is tried again as long as each three failures bring the run to a further checkpoint. Where nodes were lost and none came in
    their place for ten minutes, a run that has a checkpoint goes on with as many workers as there is room for.

    Args:
        job: from `make_job`.
        workers: how many.
        gpus_per_worker: GPUs that each reserves; None for one where the cluster has one for each, else none.

    Raises:
        EnvironmentProblem: Ray is not installed, there is no room for the workers, or they fail without getting further.
        UserError: what a worker found wrong with the request.
    """
    try:
        from ray.train.v2.api.exceptions import TrainingFailedError
    except ImportError:
        raise EnvironmentProblem("ray is not installed here", "train in this process: --workers 0") from None
    start_ray(cluster_address() or "local")
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    gpus = _gpus_each(job.device, workers) if gpus_per_worker is None else _promised(gpus_per_worker, workers)
    # A worker without a GPU of its own sees all of the machine's, and would share the first one with the others.
    device = "cpu" if job.device == "auto" and not gpus else job.device
    job = replace(job, threads=job.threads or cpu_threads(), device=device)
    folder = Path(job.folder)
    (folder / REFUSAL).unlink(missing_ok=True)
    micro_batches = count_micro_batches(CONFIGS[job.kind].parse(job.config), folder, workers)
    resources = {"CPU": 1.0, "GPU": gpus} if gpus else {"CPU": 1.0}
    answer: dict[str, Any] = {}
    while not answer:
        before = latest_checkpoint(folder)
        try:
            answer = _fit(_trainer(job, workers, resources))
        except TrainingFailedError as error:
            _raise_refusal(error)
            newest, room = latest_checkpoint(folder), _room(resources)
            fewer = max((n for n in range(1, workers) if n <= room and micro_batches % n == 0), default=0)
            if room < workers and fewer and newest is not None:
                log.warning("the cluster has room for %d of %d workers; the training goes on with %d", room, workers, fewer)
                workers = fewer
            elif newest == before:
                why = str(error).strip().splitlines()[-1]
                why = why if room >= workers else f"there is room for {room} of {workers} workers in the cluster"
                raise EnvironmentProblem(f"the workers failed: {why}", "remove the cause, and run again: it resumes") from None
    (folder / REFUSAL).unlink(missing_ok=True)
    if "error" in answer:
        raise (EnvironmentProblem if answer["environment"] else UserError)(answer["error"], answer["fix"])
    return Progress(**answer)


def _gpus_each(device: str, workers: int) -> float:
    """Returns how many GPUs each worker reserves where the user named no number: one, if the cluster has one for each."""
    import ray

    found = int(ray.cluster_resources().get("GPU", 0))
    if device != "cpu" and found >= workers:
        return 1.0
    told = f"the cluster has {found} GPUs for {workers} workers"
    if device not in ("auto", "cpu"):
        raise EnvironmentProblem(told, "start fewer --workers; where GPU nodes start on demand, say --gpus 1")
    if device == "auto" and found:
        log.warning("%s: they train on the CPU; with --workers %d on GPUs", told, found)
    return 0.0


def _promised(gpus: float, workers: int) -> float:
    """Returns the GPUs a worker that the user asked for; a local Ray has no nodes that could still come with them."""
    import ray

    found = ray.cluster_resources().get("GPU", 0)
    if found < gpus * workers:
        told = f"there are {found:g} GPUs for {workers} workers of {gpus:g} each"
        if not cluster_address():
            raise EnvironmentProblem(told, "start fewer --workers, or train on the CPU: --gpus 0")
        log.warning("%s: waiting for nodes that have them", told)
    return gpus


def _raise_refusal(error: Exception) -> None:
    """Raises what a worker found wrong with the request and could not note: a full disk also has no room for the reason."""
    for failure in getattr(error, "worker_failures", {}).values():
        cause = getattr(failure, "_base_exc", failure)
        if isinstance(cause, UserError):
            raise cause from None


def _fit(trainer: Any) -> dict[str, Any]:
    """Runs a Ray Train trainer to its end.

    At Ctrl-C it stops its workers and leaves the process as if all were done; and it keeps the signal for itself afterwards.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        return trainer.fit().return_value or {}
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _trainer(job: Job, workers: int, resources: dict[str, float]) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    # Each start that finds no room waits for RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S, a minute if unset: ten of them give a cluster
    # the time to replace lost nodes. Ray's default is to wait for ever.
    failures = FailureConfig(max_failures=3, controller_failure_limit=9)
    return TorchTrainer(
        _worker,
        train_loop_config={"job": job.__dict__, "driver": socket.gethostname()},
        torch_config=TorchConfig(backend="nccl" if "GPU" in resources else "gloo"),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu="GPU" in resources, resources_per_worker=resources),
        run_config=RunConfig(name="ray", storage_path=job.folder, failure_config=failures),
    )


def _room(resources: dict[str, float]) -> int:
    """Returns how many workers the nodes that are alive could hold, were they idle."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(int(min(node.get(name, 0.0) // amount for name, amount in resources.items())) for node in nodes)


def _worker(loop_config: dict[str, Any]) -> dict[str, Any]:
    """One Ray Train worker."""
    from ray import train

    context = train.get_context()
    job = Job(**loop_config["job"])
    threads = job.threads or max(1, torch.multiprocessing.cpu_count() // context.get_local_world_size())  # Ray's default is one
    apart = context.get_local_rank() == 0 and socket.gethostname() != loop_config["driver"] and (Path(job.folder) / LINK).is_file()
    with sampling(Path(job.folder), socket.gethostname()) if apart else nullcontext():  # the driver samples its own machine
        return run_in_group(replace(job, threads=threads), context.get_world_rank(), context.get_world_size())


def run_in_group(job: Job, rank: int, world: int) -> dict[str, Any]:
    """Trains as one of a group that is started again when a worker raises; a mistake of the user's is an answer in place of that.

    Where a single worker of several finds one, the others wait for it in a collective. So it notes why and raises, the group is
    torn down, and the next one finds the note and answers with it.
    """
    note = Path(job.folder) / REFUSAL
    found = agreed(note.read_text() if rank == 0 and note.is_file() else None, world)
    if found is not None:
        return json.loads(found)
    try:
        return run_here(job, rank, world).__dict__
    except UserError as error:
        answer = {"error": error.message, "fix": error.fix, "environment": isinstance(error, EnvironmentProblem)}
        if world == 1:
            return answer
        with dispensable(note):
            storage.write_bytes(note, json.dumps(answer).encode())
        raise


def _vae_config(parents: dict[str, Path]) -> GeomSegVAEConfig | None:
    if "vae" not in parents:
        return None
    config = load_config(parents["vae"], "geom_seg_vae")
    return config if isinstance(config, GeomSegVAEConfig) else None


def _sample_flops(config: AnyTrainConfig, parents: dict[str, Path]) -> float:
    vae, image = _vae_config(parents), ImageEncoderConfig()
    if config.kind == "whole":
        image = config.image_encoder
    elif config.kind == "part":
        found = load_config(parents["whole"] / IMAGE_ENCODER, "image_encoder")
        image = found if isinstance(found, ImageEncoderConfig) else image
    return sample_flops(config, Parents(vae or GeomSegVAEConfig(), image))


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
