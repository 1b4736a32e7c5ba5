"""What a run must remember to continue bit for bit: weights, their average, optimiser moments, step, loader cursor.

Random draws need no saved state: each step derives its generators from (seed, step).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.tensor import DTensor, distribute_tensor

from jobs.runs import PROGRESS, WEIGHTS, latest_checkpoint
from unipart.errors import UserError
from unipart.models.pretrained import fetch_pretrained, is_address

MOMENTS = ("exp_avg", "exp_avg_sq")
STATE = "train_state/state.safetensors"
SHARDS = "train_state/shards"


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        step: optimiser steps done.
        cursor: micro-batches consumed, where the loader goes on.
        finished: the run has all its steps and its final figures (the VAE's z_scale).
        config_digest: digest of the config that trained it.
        scores: the figures measured at this step, of which one may choose the best checkpoint.
    """

    step: int
    cursor: int
    finished: bool
    config_digest: str
    scores: dict[str, float] = field(default_factory=dict)


class Average:
    """Exponential average of weights, with the usual warm-up min(decay, (1 + n) / (10 + n))."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        # Held, for looking them up by name every step costs more than the average itself.
        self._learnt = {name: p for name, p in module.named_parameters() if p.requires_grad} if decay else {}
        self.values = {name: p.detach().clone() for name, p in self._learnt.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the module's weights after `step` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        if self.values:  # all in one call: a model has hundreds of tensors, and on a GPU each call is a launch
            learnt: list[Tensor] = [self._learnt[name] for name in self.values]
            torch._foreach_lerp_(list(self.values.values()), learnt, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Gives the module the averaged weights for the length of a block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        """Exchanges in place: FSDP gathers from the storage that it knows."""
        for name, value in self.values.items():
            raw = self._learnt[name].detach().clone()
            self._learnt[name].copy_(value)
            value.copy_(raw)


def state_tensors(module: nn.Module, optimizer: torch.optim.Optimizer, average: Average) -> dict[str, Tensor]:
    """Returns what must be kept, {group/name: tensor}: views of the live values, DTensors where they are sharded."""
    tensors = {f"weights/{name}": value for name, value in module.state_dict().items()}
    tensors |= {f"average/{name}": value for name, value in average.values.items()}
    for name, parameter in module.named_parameters():
        state = optimizer.state.get(parameter, {})
        tensors |= {f"{moment}/{name}": state[moment] for moment in MOMENTS if moment in state}
    return tensors


def save_state(folder: Path, tensors: dict[str, Tensor], progress: Progress) -> None:
    """Writes ``train_state/`` into a checkpoint folder: safetensors and JSON only."""
    (folder / STATE).parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / STATE)
    (folder / PROGRESS).write_text(json.dumps(asdict(progress), indent=2) + "\n")


def load_state(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, average: Average) -> Progress:
    """Restores what was saved, by however many workers, whole or sharded.

    Raises:
        UserError: the state belongs to another model.
    """
    progress = read_progress(folder)
    saved = load_file(folder / STATE)
    if (folder / SHARDS).is_dir():
        saved |= _read_shards(folder / SHARDS, module)
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in saved.items():
        group, name = key.split("/", 1)
        groups.setdefault(group, {})[name] = value
    live = module.state_dict()
    weights = {name: _like(value, live[name]) if name in live else value for name, value in groups["weights"].items()}
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"the training state in {folder} belongs to another model: {error}", "give another --out") from None
    for name, value in groups.get("average", {}).items():
        average.values[name].copy_(_like(value, average.values[name]))
    for name, parameter in module.named_parameters():
        if name in groups.get(MOMENTS[0], {}):
            moments = {moment: _like(groups[moment][name], parameter.detach()) for moment in MOMENTS}
            optimizer.state[parameter] = {"step": torch.tensor(float(progress.step), device=parameter.device), **moments}
    return progress


def _read_shards(folder: Path, module: nn.Module) -> dict[str, Tensor]:
    """Reads what FSDP wrote: of each tensor the slice that this worker holds, or all of it."""
    reader = HuggingFaceStorageReader(str(folder))
    live = module.state_dict()
    found: dict[str, Tensor] = {}
    for key, entry in reader.read_metadata().state_dict_metadata.items():
        size = getattr(entry, "size", torch.Size())
        like = live.get(key.split("/", 1)[1])
        same = like is not None and like.shape == size
        found[key] = torch.zeros_like(like.detach()) if like is not None and same else torch.zeros(size)
    load(found, storage_reader=reader)
    return found


def _like(value: Tensor, live: Tensor) -> Tensor:
    """Returns a value on the device, and in the slices, of a live tensor."""
    if isinstance(live, DTensor) and not isinstance(value, DTensor):
        return distribute_tensor(value.to(live.device), live.device_mesh, live.placements, src_data_rank=None)
    return value.to(live.device)


def read_progress(folder: Path) -> Progress:
    """Returns where the run that wrote a checkpoint folder stood."""
    return Progress(**json.loads((folder / PROGRESS).read_text()))


def find_checkpoint(path: str | Path, finished: bool = True, into: Path | None = None) -> Path:
    """Resolves a run folder, a checkpoint folder itself, or a checkpoint's address to the local folder to load.

    Args:
        path: a folder; or s3://..., or hf://OWNER/NAME with a folder behind it or not: that checkpoint is fetched.
        finished: refuse a run that has not finished.
        into: folder that keeps what is fetched; by default it goes with this process.

    Raises:
        UserError: there is none, or the run has not finished.
    """
    if is_address(path):
        return fetch_pretrained(path, into)
    path = Path(path)
    found = path if (path / WEIGHTS).is_file() else latest_checkpoint(path)
    if found is None:
        raise UserError(f"{path} holds no checkpoint", "train it first (unipart train --help), or give an s3:// or hf:// address")
    if finished and (found / "train_state").is_dir() and not read_progress(found).finished:
        raise UserError(f"the training in {path} stopped at step {read_progress(found).step}", "run the same `unipart train` again")
    return found
