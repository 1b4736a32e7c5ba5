"""The training loop: losses, backward, clip, AdamW, average, history. It knows no model and no cluster."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, distributed, nn

from jobs.runs import HISTORY, latest_checkpoint, read_history
from jobs.training.config import OptimizerConfig, TrainConfig
from jobs.training.state import Average, Progress, load_state, save_state, write_checkpoint
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
        """Yields micro-batches without end, beginning after `start` consumed objects."""
        ...

    def validation(self) -> Iterator[Batch]:
        """Yields the batches to validate on; may be empty."""
        ...


@dataclass(frozen=True)
class Place:
    """Where this worker runs."""

    device: torch.device
    rank: int = 0
    world: int = 1


@dataclass
class _Step:
    step: int
    sample_ids: list[str]
    losses: dict[str, Tensor]
    grad_norm: Tensor


@dataclass(frozen=True)
class Run:
    """One training: what is learnt, from what, where.

    Attributes:
        config: the recipe.
        objective: model and losses, on the device.
        source: batches.
        folder: ``checkpoints/`` and ``history.jsonl`` go here.
        place: device and rank; with a world above 1 the process group must be up.
        facts: what the model card says besides (data digest, lineage).
    """

    config: TrainConfig
    objective: Objective
    source: Source
    folder: Path
    place: Place
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Learner:
    """The state that changes with every step."""

    optimizer: torch.optim.AdamW
    average: Average


def fit(run: Run) -> Progress:
    """Trains to `config.steps`, continuing from the newest checkpoint in the run's folder; returns where it stands at the end.

    Raises:
        UserError: the loss is no longer finite; names the samples of the step.
    """
    config, module = run.config, run.objective.trained
    learner = _Learner(make_optimizer(module, config.optimizer), Average(module, config.optimizer.ema_decay))
    start = Progress(0, 0, False, config.digest())
    if (folder := latest_checkpoint(run.folder)) is not None:
        start = load_state(folder, module, learner.optimizer, learner.average)
        if start.finished and start.step >= config.steps:
            return start
    history = History(run.folder, start.step, enabled=run.place.rank == 0)
    batches = run.source.train(start.cursor)
    window: list[_Step] = []
    clock = time.perf_counter()
    module.train()
    for step in range(start.step + 1, config.steps + 1):
        set_rate(learner.optimizer, config, step)
        window.append(_train_step(run, learner.optimizer, batches, step))
        learner.average.update(step)
        last, checkpoint = step == config.steps, step % config.checkpoint_every == 0
        if last or checkpoint or step % config.log_every == 0:
            history.write(_summary(window, learner.optimizer, config, time.perf_counter() - clock))
            window, clock = [], time.perf_counter()
        if last or step % config.validate_every == 0:
            history.write({"step": step, **validate(run)})
            clock = time.perf_counter() if not window else clock
        if checkpoint and not last:
            _checkpoint(run, learner, Progress(step, step * config.accumulate, False, config.digest()))
            clock = time.perf_counter()
    return _finish(run, learner, history)


def make_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Groups parameters by decay (matrices only) and by the factor on their rate."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            factor = math.prod(value for key, value in config.lr_factors.items() if key in name)
            decay = config.weight_decay if parameter.ndim >= 2 else 0.0
            groups.setdefault((factor, decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": members, "weight_decay": decay, "factor": factor} for (factor, decay), members in groups.items()],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


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


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Moves the tensors of a batch."""
    return {key: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value for key, value in batch.items()}


@torch.no_grad()
def validate(run: Run) -> dict[str, float]:
    """Returns mean losses over the validation batches as ``val/name``; the draws are the same each time."""
    config, objective, place = run.config, run.objective, run.place
    objective.trained.eval()
    sums: dict[str, float] = {}
    count = 0
    for index, batch in zip(range(config.validation_batches), run.source.validation(), strict=False):
        with _autocast(config, place):
            losses = objective.losses(to_device(batch, place.device), generator(place, config.seed, "validate", index))
        count += 1
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    objective.trained.train()
    return {f"val/{name}": value / count for name, value in sums.items()}


class History:
    """A JSON line a row beside the run; rows after the resumed step are dropped."""

    def __init__(self, run: Path, step: int, enabled: bool = True) -> None:
        self.path = run / HISTORY
        self.enabled = enabled
        if enabled:
            run.mkdir(parents=True, exist_ok=True)
            kept = [row for row in read_history(run) if row["step"] <= step]
            self.path.write_text("".join(json.dumps(row) + "\n" for row in kept))

    def write(self, row: dict[str, float]) -> None:
        """Appends a row."""
        if self.enabled and len(row) > 1:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")


def _train_step(run: Run, optimizer: torch.optim.Optimizer, batches: Iterator[Batch], step: int) -> _Step:
    config, place = run.config, run.place
    sample_ids: list[str] = []
    totals: dict[str, Tensor] = {}
    for micro in range(config.accumulate):
        batch = to_device(next(batches), place.device)
        sample_ids += batch["sample_id"]
        with _autocast(config, place):
            losses = run.objective.losses(batch, generator(place, config.seed, "step", step, micro, place.rank))
        (losses["loss"] / config.accumulate).backward()
        for name, value in losses.items():
            totals[name] = totals.get(name, 0.0) + value.detach() / config.accumulate
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if place.world > 1:
        _average_gradients([p for group in optimizer.param_groups for p in group["params"]], place.world)
    norm = nn.utils.clip_grad_norm_(parameters, config.optimizer.clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return _Step(step, sample_ids, totals, norm)


def _average_gradients(parameters: list[nn.Parameter], world: int) -> None:
    """All-reduces every gradient, in one buffer; a parameter unused on this rank counts as zero."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    distributed.all_reduce(flat)
    flat /= world
    for parameter, piece in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        assert parameter.grad is not None
        parameter.grad.copy_(piece.view_as(parameter))


def _autocast(config: TrainConfig, place: Place) -> torch.autocast:
    return torch.autocast(place.device.type, torch.bfloat16, enabled=config.precision == "bf16")


def _summary(window: list[_Step], optimizer: torch.optim.Optimizer, config: TrainConfig, seconds: float) -> dict[str, float]:
    """Means of the steps since the last row; the only place where figures leave the device."""
    names = list(window[0].losses)
    table = torch.stack([torch.stack([entry.losses[name].float() for name in names] + [entry.grad_norm]) for entry in window]).cpu()
    for entry, values in zip(window, table, strict=True):
        if not bool(torch.isfinite(values).all()):
            named = ", ".join(f"{name} {value:.3g}" for name, value in zip([*names, "grad_norm"], values.tolist(), strict=True))
            raise UserError(
                f"step {entry.step} is not finite ({named}); its samples: {', '.join(entry.sample_ids)}",
                "look at these samples (unipart view), lower --optimizer.lr, and run again: it resumes from the last checkpoint",
            )
    means = dict(zip(names, table.mean(0).tolist(), strict=False))
    loss = means.pop("loss")
    row = {"step": window[-1].step, "loss": loss, **{f"loss/{name}": value for name, value in means.items()}}
    row |= {"grad_norm": float(table[:, -1].mean()), "lr": optimizer.param_groups[0]["lr"] / optimizer.param_groups[0]["factor"]}
    return row | {"samples_per_second": len(window) * config.batch_size / seconds, "seconds": seconds}


def _checkpoint(run: Run, learner: _Learner, progress: Progress) -> None:
    if run.place.rank != 0:
        return
    config = run.config
    card = {"recipe": config.recipe, "step": progress.step, "train_config_digest": config.digest(), **run.facts}

    def write(folder: Path) -> None:
        with learner.average.swapped_in():
            run.objective.save(folder, card)
        save_state(folder, run.objective.trained, learner.optimizer, learner.average, progress)

    write_checkpoint(run.folder, progress.step, write, config.keep_checkpoints)


def _finish(run: Run, learner: _Learner, history: History) -> Progress:
    """Lets the objective measure what the model must carry, then writes the last checkpoint."""
    config, place = run.config, run.place
    progress = Progress(config.steps, config.steps * config.accumulate, True, config.digest())
    if place.rank == 0:
        run.objective.trained.eval()
        with learner.average.swapped_in(), torch.no_grad():
            figures = run.objective.finalize(to_device(batch, place.device) for batch in run.source.train(0))
        history.write({"step": config.steps, **figures})
        _checkpoint(run, learner, progress)
    if place.world > 1:
        distributed.barrier()
    return progress
