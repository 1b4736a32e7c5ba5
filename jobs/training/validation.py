"""Validation inside a training: held-out objects are reconstructed or generated, scored and drawn.

A run's ``validation/step_N/`` holds ``<sample id>.<panel>.png`` and, written last, ``objects.json`` with every object's figures.
"""

import json
import logging
from pathlib import Path
from typing import Any

from torch import distributed

from jobs.runs import OBJECTS, VALIDATION
from jobs.training.config import AnyTrainConfig
from jobs.training.history import dispensable
from jobs.training.loop import Place
from jobs.training.objectives import AnchorObjective, Objective, VaeObjective, WholeObjective
from jobs.training.panels import write_picture
from jobs.training.scorers import AnchorScorer, PartScorer, Scorer, VaeScorer, WholeScorer, mean_figures
from jobs.training.shapes import Context
from unipart import storage
from unipart.data.shards import ShardIndex

log = logging.getLogger(__name__)


class Validation:
    """Scores a fixed choice of objects, shared by the workers; the same objects with the same draws each time.

    Args:
        data: the shards.
        num_objects: how many objects at most: the first in the order of their ids.
        run: the run's folder.
        scorer: scores one object.
        place: rank and world.
    """

    def __init__(self, data: str, num_objects: int, run: Path, scorer: Scorer, place: Place) -> None:
        self.run, self.scorer, self.place = run, scorer, place
        self.split, self.index = "val", ShardIndex.open(data, "val")
        if len(self.index) == 0:
            self.split, self.index = "train", ShardIndex.open(data, "train")
            if place.rank == 0:
                log.warning("%s holds no validation objects: the scores of this run are of objects that it trains on", data)
        self.numbers = sorted(range(len(self.index)), key=self.index.sample_id)[:num_objects]

    def __call__(self, step: int) -> dict[str, float]:
        """Scores the objects, writes pictures and figures, and returns the means over the objects as ``val/name``."""
        folder = self.run / VALIDATION / f"step_{step:08d}"
        place, mine = self.place, {}
        for number in self.numbers[place.rank :: place.world]:
            mine[self.index.sample_id(number)] = self._score(number, folder)
        objects = _of_all(mine, place.world)
        if place.rank == 0:
            document = {"step": step, "split": self.split, "objects": objects}
            with dispensable(folder / OBJECTS):
                storage.write_bytes(folder / OBJECTS, (json.dumps(document, indent=1) + "\n").encode())
        return {f"val/{name}": value for name, value in mean_figures([one["figures"] for one in objects.values()]).items()}

    def _score(self, number: int, folder: Path) -> dict[str, Any]:
        sample = self.index.read(number, self.scorer.groups, views=(0,))
        scored = self.scorer(sample)
        for panel, pixels in scored.pictures.items():
            path = folder / f"{sample.sample_id}.{panel}.png"
            with dispensable(path):
                write_picture(path, pixels)
        return {"figures": scored.figures, "notes": scored.notes}


def make_validator(config: AnyTrainConfig, objective: Objective, data: str, run: Path, context: Context) -> Validation | None:
    """Returns the validator of a training, or None where the recipe asks for no scores.

    Args:
        config: `score_objects`.
        objective: what is trained.
        data: the shards.
        run: the run's folder.
        context: seed, place and the models that the training builds on.
    """
    if config.score_objects == 0:
        return None
    if config.kind == "whole" and context.anchor is None and context.place.rank == 0:
        log.warning("there is no finished anchor decoder of this VAE beside it: the parts of generated objects are not scored")
    return Validation(data, config.score_objects, run, make_scorer(objective, context), context.place)


def make_scorer(objective: Objective, context: Context) -> Scorer:
    """Returns what scores an objective's model."""
    if isinstance(objective, VaeObjective):
        return VaeScorer(objective, context)
    if isinstance(objective, AnchorObjective):
        return AnchorScorer(objective, context)
    if isinstance(objective, WholeObjective):
        return WholeScorer(objective, context)
    return PartScorer(objective, context)


def _of_all(mine: dict[str, Any], world: int) -> dict[str, Any]:
    """Returns the objects of all workers in the order of their ids."""
    shares: list[Any] = [mine]
    if world > 1:
        shares = [None] * world
        distributed.all_gather_object(shares, mine)
    return dict(sorted((name, one) for share in shares for name, one in share.items()))
