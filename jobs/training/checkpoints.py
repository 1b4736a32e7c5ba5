"""Checkpoints written beside the training: copied to the CPU, then written, synced, named and pruned by a thread.

``step_N/`` holds the published model (always whole safetensors, with averaged weights), ``train_state/`` and the digests of all
its files. It appears by a rename, once everything in it is on the disk.
"""

import copy
import json
import logging
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.tensor import DTensor

from jobs.runs import BEST, DIGESTS, best_checkpoint, checkpoint_folders, file_digests
from jobs.training.config import TrainConfig
from jobs.training.parallel import agreed, full
from jobs.training.state import SHARDS, Average, Progress, save_state, state_tensors
from unipart.errors import EnvironmentProblem

log = logging.getLogger(__name__)


class Saved(Protocol):
    """What of an objective is published."""

    @property
    def trained(self) -> nn.Module:
        """What is trained."""
        ...

    def save(self, folder: Path, card: dict[str, Any]) -> None:
        """Writes the model in the form that `load_pretrained` reads."""
        ...


class Checkpoints:
    """Writes a run's checkpoints, one at a time; must be made before the module is sharded.

    Args:
        run: the run's folder.
        config: `keep_checkpoints`, `best`.
        objective: what is published.
        rank: of this worker.
        world: number of workers.
        card: facts for the model card.
    """

    def __init__(self, run: Path, config: TrainConfig, objective: Saved, rank: int, world: int, card: dict[str, Any]) -> None:
        self.run, self.config, self.rank, self.world, self.card = run, config, rank, world, card
        self.sharded = config.parallel == "fsdp" and world > 1
        # The copy is what the thread reads while the module learns on.
        self.twin = _twin(objective) if rank == 0 else None
        self.group: Any = distributed.new_group(backend="gloo") if self.sharded else None
        self.threads = ThreadPoolExecutor(1)
        self.pending: Future[None] | None = None

    def save(self, module: nn.Module, optimizer: torch.optim.Optimizer, average: Average, progress: Progress) -> None:
        """Copies the state and starts writing it; waits for the checkpoint before it."""
        self.wait()
        partial = self.run / "checkpoints" / f".partial_{progress.step:08d}"
        self._publish(module, average)
        tensors = state_tensors(module, optimizer, average)
        shards: Any = None
        if self.sharded:
            if self.rank == 0:
                shutil.rmtree(partial, ignore_errors=True)
            distributed.barrier()
            parts = {name: value for name, value in tensors.items() if isinstance(value, DTensor)}
            tensors = {name: value for name, value in tensors.items() if name not in parts}
            writer = HuggingFaceStorageWriter(str(partial / SHARDS), save_distributed=True)
            shards = async_save(parts, storage_writer=writer, process_group=self.group)
        if self.rank == 0:
            held = {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}
            self.pending = self.threads.submit(self._write, partial, held, progress, shards)
        elif shards is not None:
            self.pending = self.threads.submit(shards.result)

    def wait(self) -> str:
        """Waits for the checkpoint in work; returns why it failed, or an empty text. The run goes on, the next one may succeed."""
        pending, self.pending = self.pending, None
        try:
            if pending is not None:
                pending.result()
        except (OSError, SafetensorError, CheckpointException) as error:
            why = str(error).strip().splitlines()[0]
            log.warning("a checkpoint could not be written: %s; the last good one stays", why)
            return why
        return ""

    def close(self) -> None:
        """Waits for the last checkpoint, on all workers.

        Raises:
            EnvironmentProblem: it could not be written.
        """
        failed = agreed(self.wait(), self.world)
        self.threads.shutdown()
        if failed:
            raise EnvironmentProblem(f"the last checkpoint could not be written: {failed}", "free some space, and run again")

    def _publish(self, module: nn.Module, average: Average) -> None:
        """Copies the averaged weights, and the buffers, to the twin."""
        targets = self.twin.trained.state_dict() if self.twin is not None else {}
        for name, value in module.state_dict().items():
            averaged = average.values.get(name)
            whole = full(value if averaged is None else averaged)
            if self.twin is not None:
                targets[name].copy_(whole)

    def _write(self, partial: Path, tensors: dict[str, Tensor], progress: Progress, shards: Any) -> None:
        final = self.run / "checkpoints" / f"step_{progress.step:08d}"
        assert self.twin is not None
        try:
            if shards is None:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
            else:
                shards.result()
            self.twin.save(partial, {**self.card, "step": progress.step})
            save_state(partial, tensors, progress)
            seal(partial)
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            sync(final.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        prune(self.run, self.config.keep_checkpoints, self.config.best)


def seal(folder: Path) -> None:
    """Writes the digests of a folder's files, and waits until all of it is on the disk."""
    (folder / DIGESTS).write_text(json.dumps(file_digests(folder), indent=2) + "\n")
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def sync(path: Path) -> None:
    """Waits until a file or a folder's list of names is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def prune(run: Path, keep: int, best: str) -> None:
    """Drops the checkpoints beyond the newest `keep`, but never the best, to which ``checkpoints/best`` points."""
    chosen = best_checkpoint(run, best) if best else None
    if chosen is not None:
        link, fresh = run / "checkpoints" / BEST, run / "checkpoints" / f".{BEST}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(chosen.name)
        fresh.replace(link)
    for old in checkpoint_folders(run)[:-keep]:
        if old != chosen:
            shutil.rmtree(old)


def _twin(objective: Saved) -> Saved:
    """A copy of what is trained, on the CPU, in an objective that shares everything else."""
    own = {id(parameter) for parameter in objective.trained.parameters()}

    def learns(value: object) -> bool:
        return isinstance(value, nn.Module) and any(id(parameter) in own for parameter in value.parameters())

    shared: dict[int, Any] = {id(value): value for value in vars(objective).values() if not learns(value)}
    made = copy.deepcopy(objective, shared)
    made.trained.cpu().requires_grad_(False)
    return made
