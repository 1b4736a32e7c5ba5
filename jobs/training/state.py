"""What a run must remember to continue bit for bit: weights, their average, optimiser moments, step, loader cursor.

Random draws need no saved state: each step derives its generators from (seed, step).
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from jobs.runs import WEIGHTS, checkpoint_folders, latest_checkpoint
from unipart.errors import UserError

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        step: optimiser steps done.
        cursor: micro-batches consumed, where the loader goes on.
        finished: the run has all its steps and its final figures (the VAE's z_scale).
        config_digest: digest of the config that trained it.
    """

    step: int
    cursor: int
    finished: bool
    config_digest: str


class Average:
    """Exponential average of weights, with the usual warm-up min(decay, (1 + n) / (10 + n))."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = module
        self.values = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad} if decay else {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the module's weights after `step` steps."""
        if not self.values:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        parameters = dict(self.module.named_parameters())
        for name, value in self.values.items():
            value.lerp_(parameters[name], 1 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Gives the module the averaged weights for the length of a block."""
        if not self.values:
            yield
            return
        parameters = dict(self.module.named_parameters())
        raw = {name: parameters[name].data for name in self.values}
        for name, value in self.values.items():
            parameters[name].data = value
        try:
            yield
        finally:
            for name, value in raw.items():
                parameters[name].data = value


def save_state(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, average: Average, progress: Progress) -> None:
    """Writes ``train_state/`` into a checkpoint folder: safetensors and JSON only."""
    folder = folder / "train_state"
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"weights/{name}": value for name, value in module.state_dict().items()}
    tensors |= {f"average/{name}": value for name, value in average.values.items()}
    for name, parameter in module.named_parameters():
        state = optimizer.state.get(parameter, {})
        tensors |= {f"{moment}/{name}": state[moment] for moment in MOMENTS if moment in state}
    save_file({name: value.detach().contiguous().cpu() for name, value in tensors.items()}, folder / "state.safetensors")
    (folder / "progress.json").write_text(json.dumps(asdict(progress), indent=2) + "\n")


def load_state(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, average: Average) -> Progress:
    """Restores what `save_state` wrote.

    Raises:
        UserError: the state belongs to another model.
    """
    progress = read_progress(folder)
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in load_file(folder / "train_state" / "state.safetensors").items():
        group, name = key.split("/", 1)
        groups.setdefault(group, {})[name] = value
    try:
        module.load_state_dict(groups["weights"])
    except RuntimeError as error:
        raise UserError(f"the training state in {folder} belongs to another model: {error}", "give another --out") from None
    for name, value in groups.get("average", {}).items():
        average.values[name].copy_(value)
    for name, parameter in module.named_parameters():
        if name in groups.get(MOMENTS[0], {}):
            moments = {moment: groups[moment][name].to(parameter.device) for moment in MOMENTS}
            optimizer.state[parameter] = {"step": torch.tensor(float(progress.step), device=parameter.device), **moments}
    return progress


def read_progress(folder: Path) -> Progress:
    """Returns where the run that wrote a checkpoint folder stood."""
    return Progress(**json.loads((folder / "train_state" / "progress.json").read_text()))


def find_checkpoint(path: str | Path, finished: bool = True) -> Path:
    """Resolves a run folder, or a checkpoint folder itself, to the checkpoint to load.

    Raises:
        UserError: there is none, or the run has not finished.
    """
    path = Path(path)
    found = path if (path / WEIGHTS).is_file() else latest_checkpoint(path)
    if found is None:
        raise UserError(f"{path} holds no checkpoint", "train it first: unipart train --help")
    if finished and (found / "train_state").is_dir() and not read_progress(found).finished:
        raise UserError(f"the training in {path} stopped at step {read_progress(found).step}", "run the same `unipart train` again")
    return found


def write_checkpoint(run: Path, step: int, write: Callable[[Path], Any], keep: int) -> Path:
    """Writes a checkpoint folder under a temporary name, renames it, and drops the oldest beyond `keep`."""
    final = run / "checkpoints" / f"step_{step:08d}"
    temporary = run / "checkpoints" / f".partial_{step:08d}"
    for stale in (temporary, final):
        shutil.rmtree(stale, ignore_errors=True)
    temporary.mkdir(parents=True)
    write(temporary)
    temporary.rename(final)
    for old in checkpoint_folders(run)[:-keep]:
        shutil.rmtree(old)
    return final
