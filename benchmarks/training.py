"""What the training loop costs over a bare PyTorch loop on the same batches, and what checkpoints cost: ratios in one run.

python -m benchmarks.training [--steps N] [--repeats K]

- loop: `fit` (clip, average, history, clock, loader) against zero_grad, losses, backward, clip, AdamW step on the same batches;
- checkpoints: `fit` with one every 25 steps against without, in wall time, since a thread writes them.
"""

import argparse
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from jobs.recipes import find_recipe
from jobs.training.config import VaeTrainConfig
from jobs.training.loop import Place, Run, fit, generator, make_optimizer
from jobs.training.objectives import make_objective
from jobs.training.smoke import MadeUpSource

PLACE = Place(torch.device("cpu"))
EVERY = 25


class Prepared:
    """The same batches again and again, made beforehand: nothing of the loader is measured."""

    def __init__(self, config: VaeTrainConfig) -> None:
        stream = MadeUpSource(config, None, 32).train(0)
        self.batches = [next(stream) for _ in range(4)]

    def train(self, start: int):
        """Yields without end."""
        while True:
            yield self.batches[start % 4]
            start += 1

    def validation(self):
        """Yields nothing."""
        return iter(())


def bare(config: VaeTrainConfig, source: Prepared) -> None:
    objective = make_objective(config, {}, None, PLACE)
    optimizer = make_optimizer(objective.trained, config.optimizer)
    objective.trained.train()
    for step, batch in zip(range(1, config.steps + 1), source.train(0), strict=False):
        losses = objective.losses(batch, generator(PLACE, config.seed, "step", step, 0))
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(objective.trained.parameters(), config.optimizer.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def ours(config: VaeTrainConfig, source: Prepared) -> None:
    with TemporaryDirectory() as folder:
        fit(Run(config, make_objective(config, {}, None, PLACE), source, Path(folder), PLACE))


def timed(action, *arguments) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    action(*arguments)
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", default="tiny")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = find_recipe("vae", options.tier)
    assert isinstance(recipe, VaeTrainConfig)
    config = recipe.replace(
        steps=options.steps, batch_size=2, accumulate=1, precision="fp32", scale_samples=1, checkpoint_every=10**9, log_every=10
    )
    saving = config.replace(checkpoint_every=EVERY)
    source = Prepared(config)
    ways = {"bare": (bare, config), "loop": (ours, config), "saving": (ours, saving)}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(options.repeats + 1):
        for name, (action, settings) in ways.items():
            spent = timed(action, settings, source)
            if number:  # the first round warms up
                found[name].append(spent)
    for what, way, against, kind in (
        ("loop / bare, CPU", "loop", "bare", 1),
        ("with / without checkpoints, wall", "saving", "loop", 0),
    ):
        ratios = [a[kind] / b[kind] for a, b in zip(found[way], found[against], strict=True)]
        print(f"{what:<34} {statistics.median(ratios):.3f}  (each pair: {', '.join(f'{value:.3f}' for value in ratios)})")


if __name__ == "__main__":
    main()
