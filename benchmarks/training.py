"""What the training loop costs over a bare PyTorch loop on the same batches, and what checkpoints cost: ratios in one run.

python -m benchmarks.training [--tier tiny] [--device cpu] [--steps N] [--repeats K] [--every N] [--batch N]
                               [--log-every N] [--workers]

The two loops take turns, step by step: `fit` asks for a batch, and before it gets one a bare step (losses, backward, clip, AdamW,
zero_grad) is done on the same batch. So whatever else the machine does hits both alike. All that `fit` does between two batches
counts: clip, average, history, clock; its start and its end do not.

- loop: `fit` over bare, of all steps, and the median over the steps, which a busy machine moves less: in CPU seconds of the
  process, on a GPU in wall time, with a wait for the device after each step. Batch and rows of figures are the recipe's;
  ``--batch 2 --log-every 1`` is the worst case: short steps, and each writes a row;
- loop on Ray: the same inside one Ray Train worker (with --workers), over the bare steps in that worker;
- with / without checkpoints: `fit` over bare with a checkpoint every so many steps, over the same without, in wall time: a thread
  writes them. Blocked: the share of `fit`'s own time in which it waited for a checkpoint's copy, or for the one before.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from jobs.recipes import find_recipe
from jobs.runs import read_history
from jobs.training.config import VaeTrainConfig
from jobs.training.loop import Batch, Place, Run, fit, generator, make_optimizer, to_device
from jobs.training.objectives import make_objective
from jobs.training.smoke import MadeUpSource

WARM_UP = 3


class Turns:
    """The same batches again and again; with each goes a bare step on it, and the times of both loops' steps are kept.

    Args:
        config: the recipe.
        place: the device.
    """

    def __init__(self, config: VaeTrainConfig, place: Place) -> None:
        stream = MadeUpSource(config, None, 32).train(0)
        self.batches = [next(stream) for _ in range(4)]
        self.config, self.place, self.objective = config, place, make_objective(config, {}, None, place)
        self.optimizer = make_optimizer(self.objective.trained, config.optimizer)
        self.objective.trained.train()
        self.bare: list[tuple[float, float]] = []
        self.loop: list[tuple[float, float]] = []

    def train(self, start: int) -> Iterator[Batch]:
        """Yields without end."""
        while True:
            begin = self._now()
            self._step(to_device(self.batches[start % 4], self.place.device), start)
            middle = self._now()
            yield self.batches[start % 4]
            end = self._now()
            self.bare.append((middle[0] - begin[0], middle[1] - begin[1]))
            self.loop.append((end[0] - middle[0], end[1] - middle[1]))
            start += 1

    def validation(self) -> Iterator[Batch]:
        """Yields nothing."""
        return iter(())

    def ratios(self, kind: int) -> tuple[float, float]:
        """Returns the loop's time over that of the bare steps, of all and in the median; 0 for wall time, 1 for CPU time."""
        # A generator that is asked no more never comes back from its last yield: the end of `fit` is not counted.
        last = self.config.steps - 1
        bare, loop = ([pair[kind] for pair in pairs[WARM_UP:last]] for pairs in (self.bare, self.loop))
        return sum(loop) / sum(bare), statistics.median(ours / theirs for ours, theirs in zip(loop, bare, strict=True))

    @torch.enable_grad()
    def _step(self, batch: Batch, number: int) -> None:
        losses = self.objective.losses(batch, generator(self.place, self.config.seed, "step", number + 1, 0))
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(self.objective.trained.parameters(), self.config.optimizer.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _now(self) -> tuple[float, float]:
        """Returns wall time and CPU time, of which the second says nothing of a GPU: there it is the first again."""
        if self.place.device.type == "cpu":
            return time.perf_counter(), time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter(), time.perf_counter()


def measure(document: dict[str, Any], device: str = "cpu") -> dict[str, float]:
    """Returns the ratios of a run."""
    torch.set_num_threads(1)
    config, place = VaeTrainConfig.parse(document), Place(torch.device(device))
    turns = Turns(config, place)
    with TemporaryDirectory() as folder:
        fit(Run(config, make_objective(config, {}, None, place), turns, Path(folder), place))
        rows = [row for row in read_history(Path(folder)) if "loss" in row]
    wall, (cpu, median) = turns.ratios(0)[0], turns.ratios(1)
    lengths = [row["step"] - before["step"] for before, row in pairwise([{"step": 0}, *rows])]
    weighted = list(zip(rows, lengths, strict=True))
    blocked, steps = (sum(row[name] * length for row, length in weighted) for name in ("time/checkpoint", "time/compute"))
    bare = statistics.median(pair[0] for pair in turns.bare)
    return {"bare_ms": 1000 * bare, "wall": wall, "cpu": cpu, "median": median, "blocked": blocked / (blocked + steps)}


def measure_in_worker(document: dict[str, Any]) -> dict[str, float]:
    """Does `measure` in a Ray Train worker."""
    from ray.train import ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from pipelines.cluster import start_ray

    start_ray()
    trainer = TorchTrainer(
        measure, train_loop_config=document, torch_config=TorchConfig("gloo"), scaling_config=ScalingConfig(num_workers=1)
    )
    return trainer.fit().return_value or {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", default="tiny")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; with --workers the one in the worker is on the CPU")
    parser.add_argument("--steps", type=int, default=54)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--every", type=int, default=25, help="steps between checkpoints")
    parser.add_argument("--batch", type=int, help="objects of a step; the recipe's unless given")
    parser.add_argument("--log-every", type=int, help="steps to a row of figures; the recipe's unless given")
    parser.add_argument("--workers", action="store_true", help="measure in a Ray Train worker too")
    options = parser.parse_args()
    recipe = find_recipe("vae", options.tier)
    config = recipe.replace(
        steps=options.steps,
        batch_size=options.batch or recipe.batch_size,
        accumulate=1,
        precision="fp32",
        scale_samples=1,
        checkpoint_every=10**9,
        log_every=options.log_every or recipe.log_every,
    )
    plain, saving = (c.model_dump(mode="json") for c in (config, config.replace(checkpoint_every=options.every)))
    found: dict[str, list[float]] = {}
    for _ in range(options.repeats):
        without, with_checkpoints = measure(plain, options.device), measure(saving, options.device)
        rows = {"bare step, ms": without["bare_ms"], "loop / bare, all": without["cpu"], "loop / bare, median": without["median"]}
        rows["with / without checkpoints, wall"] = with_checkpoints["wall"] / without["wall"]
        rows["blocked by checkpoints"] = with_checkpoints["blocked"]
        if options.workers:
            inside = measure_in_worker(plain)
            rows |= {"loop on Ray / bare, all": inside["cpu"], "loop on Ray / bare, median": inside["median"]}
        for name, value in rows.items():
            found.setdefault(name, []).append(value)
        print(json.dumps(rows), flush=True)
    for name, values in found.items():
        print(f"{name:<34} {statistics.median(values):.4g}  ({', '.join(f'{value:.4g}' for value in values)})")


if __name__ == "__main__":
    main()
