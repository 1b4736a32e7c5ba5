"""Does the loader keep up? Samples a CPU second that it delivers, against what a training step of the same recipe consumes.

Run `python -m benchmarks.loader DATASET [--kinds vae] [--models DIR] [--latents DIR]`. Both sides run in this process, turn by
turn, on one thread, in CPU seconds: a ratio above 2 means that one loader process feeds two such steps. Every sample is decoded
anew; with `--cached` samples and latents are kept as the recipe says. `--models` names the runs that all but the VAE build on.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from jobs.recipes import find_recipe
from jobs.training.batches import BatchSource, make_draw
from jobs.training.loop import Place
from jobs.training.objectives import make_objective
from jobs.training.state import find_checkpoint
from unipart.models.pretrained import load_config

PARENTS = {"vae": (), "anchor": ("vae",), "whole": ("vae",), "part": ("vae", "whole")}


def measure(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """Times loading and training steps of a recipe, turn by turn; samples are decoded anew each time."""
    config = find_recipe(kind, options.size).replace(loader_workers=0)  # pyright: ignore[reportArgumentType]
    if not options.cached:
        config = config.replace(cache_samples=False)
    if kind != "vae":
        config = config.replace(latents=options.latents)
    place = Place(torch.device("cpu"))
    parents = {name: find_checkpoint(options.models / name) for name in PARENTS[kind]}
    vae = load_config(parents["vae"]) if parents else None
    image = load_config(parents["whole"] / "image_encoder").size if kind == "part" else None  # pyright: ignore
    image = config.image_encoder.size if config.kind == "whole" else image
    batches = BatchSource(options.dataset, config, make_draw(config, vae, image), place).train(0)  # pyright: ignore[reportArgumentType]
    objective = make_objective(config, parents, None, place)
    optimizer = torch.optim.AdamW(objective.trained.parameters(), fused=True)
    loading, training = [], []
    for step in range(options.warm_up + options.steps):
        start = time.process_time()
        batch = next(batches)
        loaded = time.process_time()
        objective.losses(batch, torch.Generator().manual_seed(step))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loading.append(loaded - start)
        training.append(time.process_time() - loaded)
    load, train = statistics.median(loading[options.warm_up :]), statistics.median(training[options.warm_up :])
    return {"kind": kind, "ms_load": 1000 * load, "ms_step": 1000 * train, "step/load": train / load}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--models", type=Path, default=Path())
    parser.add_argument("--kinds", nargs="+", default=["vae"], choices=list(PARENTS))
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=2, help="batches that are not counted")
    parser.add_argument("--cached", action="store_true", help="keep samples in memory as the recipe says")
    parser.add_argument("--latents", default="online")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for kind in arguments.kinds:
        row = measure(kind, arguments)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
