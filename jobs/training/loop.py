"""The training loop: losses, backward, clip, AdamW, average, history. It knows no model and no cluster.

A step is `micro_batches` micro-batches, dealt to the workers in turn. Losses are a micro-batch's mean and random draws are keyed by
its number in the step, so the curve is the same for any number of workers that divides them (up to the order of float sums).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, distributed, nn

from jobs.runs import sound_checkpoint
from jobs.training.checkpoints import Checkpoints
from jobs.training.config import OptimizerConfig, TrainConfig
from jobs.training.history import Clock, History, machine_figures, write_nonfinite
from jobs.training.parallel import Parallel, agreed, full
from jobs.training.state import Average, Progress, load_state
from unipart.errors import UserError
from unipart.rng import derive_seed

Batch = dict[str, Any]


class Objective(Protocol):
    """What turns a batch into losses; one a model (`jobs.training.objectives`)."""

    @property
    def trained(self) -> nn.Module:
        """What is trained."""
        ...

    def losses(self, batch: Batch, draw: torch.Generator) -> dict[str, Tensor]:
        """Returns scalar losses by name; "loss" is the one to minimise."""
        ...

    def save(self, folder: Path, card: dict[str, Any]) -> None:
        """Writes the model in the form that `load_pretrained` reads."""
        ...

    def finalize(self, batches: Iterator[Batch]) -> dict[str, float]:
        """Measures what the finished model must carry; returns figures for the history."""
        ...


class Source(Protocol):
    """Where batches come from (`jobs.training.batches`)."""

    def train(self, start: int) -> Iterator[Batch]:
        """Yields this worker's micro-batches without end, the first `start` skipped."""
        ...

    def validation(self) -> Iterator[Batch]:
        """Yields the batches to validate on; may be empty."""
        ...


class Validator(Protocol):
    """Scores the model on held-out objects (`jobs.training.validation`)."""

    def __call__(self, step: int) -> dict[str, float]:
        """Returns figures named ``val/...``, on every worker the same; all workers call it at once."""
        ...


@dataclass(frozen=True)
class Place:
    """Where this worker runs."""

    device: torch.device
    rank: int = 0
    world: int = 1

    def follows(self, config: TrainConfig) -> bool:
        """Whether this worker builds no weights of its own: those of a sharded run come from rank 0 (`Parallel`)."""
        return config.parallel == "fsdp" and self.rank > 0


@dataclass(frozen=True)
class Run:
    """One training: what is learnt, from what, where.

    Attributes:
        config: the recipe.
        objective: model and losses, on the device.
        source: this worker's batches.
        folder: ``checkpoints/`` and ``history.jsonl`` go here.
        place: device and rank; with a world above 1 the process group must be up.
        facts: what the model card says besides (data digest, lineage).
        micro_batches: of a step, over all workers; 0 for the config's.
        common: batches that every worker sees alike, to validate on; None for `source`.
        validator: scores the averaged model every `config.score_every` steps and at the end; None for no scores.
        flops: of one sample in training, for MFU; 0 where not counted.
    """

    config: TrainConfig
    objective: Objective
    source: Source
    folder: Path
    place: Place
    facts: dict[str, Any] = field(default_factory=dict)
    micro_batches: int = 0
    common: Source | None = None
    validator: Validator | None = None
    flops: float = 0.0

    @property
    def rounds(self) -> int:
        """Micro-batches that this worker runs in a step."""
        rounds, rest = divmod(self.micro_batches or self.config.accumulate, self.place.world)
        assert rounds > 0
        assert rest == 0
        return rounds


@dataclass
class _Step:
    step: int
    sample_ids: list[str]
    losses: dict[str, Tensor]
    grad_norm: Tensor


@dataclass(frozen=True)
class _Learner:
    """What changes with every step, and what goes with it."""

    parallel: Parallel
    optimizer: torch.optim.AdamW
    average: Average
    history: History
    checkpoints: Checkpoints
    clock: Clock


def fit(run: Run) -> Progress:
    """Trains to `config.steps`, from the newest sound checkpoint in the run's folder on; returns where it stands at the end.

    Raises:
        UserError: the loss is no longer finite; names the samples of the step.
        EnvironmentProblem: the history or the last checkpoint could not be written.
    """
    config, module, place = run.config, run.objective.trained, run.place
    sound = sound_checkpoint(run.folder) if place.rank == 0 else None
    found = agreed(str(sound) if sound else None, place.world)
    learner = _make_learner(run)
    start = Progress(0, 0, False, config.digest())
    if found is not None:
        start = load_state(Path(found), module, learner.optimizer, learner.average)
        if start.finished and start.step >= config.steps:
            return start
    batches = explained(run.source.train(start.cursor // place.world))
    window: list[_Step] = []
    scores: dict[str, float] = {}
    module.train()
    for step in range(start.step + 1, config.steps + 1):
        set_rate(learner.optimizer, config, step)
        window.append(_train_step(run, learner, batches, step))
        learner.average.update(step)
        last, checkpoint = step == config.steps, step % config.checkpoint_every == 0
        scores = {}
        if last or checkpoint or step % config.log_every == 0:
            scores |= _log(run, learner, window)
            window = []
        if last or step % config.validate_every == 0 or (checkpoint and config.best):
            scores |= _validate(run, learner, step)
        if run.validator is not None and (last or (config.score_every and step % config.score_every == 0)):
            scores |= _score(run, learner, run.validator, step)
        if checkpoint and not last:
            _checkpoint(run, learner, step, scores)
    return _finish(run, learner, scores)


def _make_learner(run: Run) -> _Learner:
    config, module, place = run.config, run.objective.trained, run.place
    card = {"recipe": config.recipe, "train_config_digest": config.digest(), **run.facts}
    checkpoints = Checkpoints(run.folder, config, run.objective, place.rank, place.world, card)
    parallel = Parallel(module, run.objective.losses, config, place.device, place.world)
    optimizer = make_optimizer(module, config.optimizer)
    average = Average(module, config.optimizer.ema_decay)
    return _Learner(parallel, optimizer, average, History(run.folder, place.rank == 0), checkpoints, Clock())


def make_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Groups parameters by decay (`decaying`) and by the factor on their rate."""
    matrices = decaying(module)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            factor = math.prod(value for key, value in config.lr_factors.items() if key in name)
            decay = config.weight_decay if name in matrices else 0.0
            groups.setdefault((factor, decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": members, "weight_decay": decay, "factor": factor} for (factor, decay), members in groups.items()],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def decaying(module: nn.Module) -> set[str]:
    """Returns the names of the parameters that weight decay shrinks: the weights of linear maps, convolutions and experts.

    Not biases (an expert layer's are a matrix, too), norms, and what is added to or stands among tokens: embeddings, positions.
    """
    tables = {f"{name}.weight" for name, layer in module.named_modules() if isinstance(layer, nn.Embedding)}
    named = {name for name, parameter in module.named_parameters() if name.endswith("weight") and parameter.ndim >= 2}
    return named - tables


def rate_factor(config: OptimizerConfig, step: int, steps: int) -> float:
    """Returns the factor on the learning rate at a step: linear warm-up, constant, cosine end."""
    warmup = min(config.warmup_steps, steps // 10)
    if step <= warmup:
        return step / warmup
    tail = config.decay_fraction * steps
    done = (step - (steps - tail)) / tail if tail else 0.0
    if done <= 0:
        return 1.0
    return config.final_factor + (1 - config.final_factor) * (1 + math.cos(math.pi * done)) / 2


def set_rate(optimizer: torch.optim.Optimizer, config: TrainConfig, step: int) -> None:
    """Sets every group's rate for a step."""
    rate = config.optimizer.lr * rate_factor(config.optimizer, step, config.steps)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def generator(place: Place, seed: int, *keys: str | int) -> torch.Generator:
    """Returns a generator on the device that depends on the seed and the keys alone."""
    return torch.Generator(place.device).manual_seed(derive_seed(seed, *keys))


def explained(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yields batches. A mistake of the user's that a loader process met is raised as it was there.

    Torch raises it again with the text of its traceback as the message, which ends in the message and the fix.
    """
    try:
        yield from batches
    except UserError as error:
        if not error.message.startswith("Caught "):
            raise
        message, _, fix = error.message.rpartition(f"{type(error).__name__}: ")[2].strip().partition("\n  fix: ")
        raise type(error)(message, fix) from None


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Moves the tensors of a batch."""
    return {key: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value for key, value in batch.items()}


def _train_step(run: Run, learner: _Learner, batches: Iterator[Batch], step: int) -> _Step:
    config, place, optimizer = run.config, run.place, learner.optimizer
    sample_ids: list[str] = []
    totals: dict[str, Tensor] = {}
    for turn in range(run.rounds):
        with learner.clock.on("data"):
            batch = to_device(next(batches), place.device)
        sample_ids += batch["sample_id"]
        draw = generator(place, config.seed, "step", step, turn * place.world + place.rank)
        with learner.parallel.accumulating(last=turn == run.rounds - 1):
            with _autocast(config, place):
                losses = learner.parallel.losses(batch, draw)
            (losses["loss"] / run.rounds).backward()
        for name, value in losses.items():
            totals[name] = totals.get(name, 0.0) + value.detach() / run.rounds
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = full(nn.utils.clip_grad_norm_(parameters, config.optimizer.clip))
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return _Step(step, sample_ids, totals, norm)


def _autocast(config: TrainConfig, place: Place) -> torch.autocast:
    return torch.autocast(place.device.type, torch.bfloat16, enabled=config.precision == "bf16")


def _log(run: Run, learner: _Learner, window: list[_Step]) -> dict[str, float]:
    """Writes means over the workers and the steps since the last row; the only place where figures leave the device."""
    config, place = run.config, run.place
    names = list(window[0].losses)
    means = torch.stack([torch.stack([entry.losses[name].float() for name in names]) for entry in window])
    if place.world > 1:
        distributed.all_reduce(means)
        means /= place.world
    table = torch.cat([means, torch.stack([entry.grad_norm for entry in window])[:, None]], dim=1).cpu()
    for entry, values in zip(window, table, strict=True):
        if not bool(torch.isfinite(values).all()):
            _stop(run, entry, dict(zip([*names, "grad_norm"], values.tolist(), strict=True)))
    figures = dict(zip([*names, "grad_norm"], table.mean(0).tolist(), strict=True))
    loss, norm = figures.pop("loss"), figures.pop("grad_norm")
    group = learner.optimizer.param_groups[0]
    row = {"step": window[-1].step, "loss": loss, **{f"loss/{name}": value for name, value in figures.items()}}
    row |= {"grad_norm": norm, "lr": group["lr"] / group["factor"], **learner.clock.row(len(window), config.batch_size)}
    row |= machine_figures(place.device, run.flops * row["samples_per_second"] / place.world)
    learner.history.write(row)
    return row


def _stop(run: Run, entry: _Step, values: dict[str, float]) -> None:
    """Notes the samples of a step that was not finite, those of all workers, and stops all of them alike."""
    place = run.place
    ids: list[Any] = [entry.sample_ids]
    if place.world > 1:
        ids = [None] * place.world
        distributed.all_gather_object(ids, entry.sample_ids)
    samples = [name for worker in ids for name in worker]
    document = {"step": entry.step, "seed": run.config.seed, "values": {name: str(value) for name, value in values.items()}}
    document |= {"cursor": (entry.step - 1) * run.rounds * place.world, "micro_batches": run.rounds * place.world}
    if place.rank == 0:
        write_nonfinite(run.folder, {**document, "sample_ids_by_worker": ids})
    named = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
    raise UserError(
        f"step {entry.step} is not finite ({named}); its samples: {', '.join(samples)}",
        "look at these samples (unipart view); to go on with a lower --optimizer.lr, start another --out with --init and the "
        "newest checkpoint of this one",
    )


@torch.no_grad()
def _validate(run: Run, learner: _Learner, step: int) -> dict[str, float]:
    """Writes mean losses over the validation batches as ``val/name``; the draws are the same each time.

    Every worker runs all of the batches: they are few, and the figures do not depend on the number of workers.
    """
    config, place, module = run.config, run.place, run.objective.trained
    sums: dict[str, float] = {}
    count = 0
    module.eval()
    with learner.clock.on("pause"):
        for index, batch in zip(range(config.validation_batches), (run.common or run.source).validation(), strict=False):
            with _autocast(config, place):
                draw = generator(place, config.seed, "validate", index)
                losses = learner.parallel.losses(to_device(batch, place.device), draw)
            count += 1
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value)
    module.train()
    row = {f"val/{name}": value / count for name, value in sums.items()}
    learner.history.write({"step": step, **row})
    return row


@torch.no_grad()
def _score(run: Run, learner: _Learner, validator: Validator, step: int) -> dict[str, float]:
    """Lets the validator score the averaged model."""
    module = run.objective.trained
    module.eval()
    with learner.clock.on("pause"), learner.average.swapped_in(), learner.parallel.whole(), _autocast(run.config, run.place):
        scores = validator(step)
    module.train()
    learner.history.write({"step": step, **scores})
    return scores


def _checkpoint(run: Run, learner: _Learner, step: int, scores: dict[str, float], finished: bool = False) -> Progress:
    scores = {name: value for name, value in scores.items() if name.startswith(("loss", "val/"))}
    progress = Progress(step, step * run.rounds * run.place.world, finished, run.config.digest(), scores)
    with learner.clock.on("checkpoint"):
        learner.checkpoints.save(run.objective.trained, learner.optimizer, learner.average, progress)
    return progress


def _finish(run: Run, learner: _Learner, scores: dict[str, float]) -> Progress:
    """Lets the objective measure what the model must carry, then writes the last checkpoint."""
    run.objective.trained.eval()
    with learner.average.swapped_in(), learner.parallel.whole(), torch.no_grad():
        batches = explained((run.common or run.source).train(0))
        figures = run.objective.finalize(to_device(batch, run.place.device) for batch in batches)
    learner.history.write({"step": run.config.steps, **figures})
    progress = _checkpoint(run, learner, run.config.steps, scores, finished=True)
    learner.checkpoints.close()
    return progress
