"""``make overfit``: the four models learn eight objects by heart, and each bar is printed beside what was reached.

A method that cannot learn eight objects by heart is broken, whatever else it does. The road is the demo's; only the objects, the
lengths of the trainings and the checks at its end differ. It resumes where it was interrupted.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.demo import WORKERS, Demo, Plan
from jobs.options import Parser
from unipart.errors import UserError

if TYPE_CHECKING:
    from unipart.data.schema import Sample
    from unipart.models.geom_seg_vae import GeomSegVAE

PROCEDURAL = "procedural:count=4,seed=0,kinds=sofa+hammer+bookcase+table"
REAL = (
    "kenney-platformer/mushrooms.stl",
    "aws-small-house/aws_robomaker_residential_NightStand_01.glb",
    "bevy/alien.glb",
    "kaykit-furniture/table_small.gltf",
)
"""Four real objects of 3 to 6 parts, in the folder dev/ of the mesh corpus. Each part of the eight objects gets 4 or more of the 64
latents: what a single latent stands for cannot be told from what is beside it."""
MORE_PROCEDURAL = "procedural:count=4,seed=1,kinds=chair+hammer+bookcase+table"
"""Where there is no corpus."""
CHANGES: dict[str, dict[str, Any]] = {
    "vae": {
        "steps": 9000,
        "checkpoint_every": 500,
        "optimizer__lr": 8e-4,
        "optimizer__ema_decay": 0.99,
        "segmentation_weight": 0.5,
        "segmentation__num_prompts": 4,
        "segmentation__num_corrections": 0,
        "part_fraction": 0.7,
        "unlabelled_fraction": 0.0,
    },
    "anchor": {"steps": 12000, "batch_size": 8, "checkpoint_every": 2000, "model__width": 512, "model__num_layers": 4},
    "whole": {"steps": 3000, "checkpoint_every": 500, "optimizer__ema_decay": 0.99},
    "part": {"steps": 5000, "checkpoint_every": 500, "optimizer__ema_decay": 0.99},
}
GRID = 96
"""Cells along an axis at which the VAE's reconstructions are measured."""
NUM_OBJECTS = 8
NUM_DRAWS = 16
"""Batches over which D_pos' error is averaged."""
GENERATED_WELL = 6
"""Of the eight."""


@dataclass(frozen=True)
class Bar:
    """Something that must be reached.

    Attributes:
        name: what is measured.
        value: what was reached.
        bound: what must be.
        at_least: whether more is better.
    """

    name: str
    value: float
    bound: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        """Whether it was reached."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        """Returns one line of the table."""
        sign = ">=" if self.at_least else "<="
        return f"  {'met   ' if self.met else 'MISSED'}  {self.name:<58} {self.value:8.4f}  ({sign} {self.bound:g})"


class Overfit(Demo):
    """The demo's road on eight objects, then the bars."""

    title = "UniPart: eight objects by heart"

    def bars(self) -> list[Bar]:
        """Measures every bar on the finished models and the generated objects."""
        from jobs.training.state import find_checkpoint
        from unipart.models.anchor_decoder import AnchorDecoder
        from unipart.models.geom_seg_vae import GeomSegVAE
        from unipart.models.pretrained import load_pretrained

        vae, anchor = (load_pretrained(find_checkpoint(self.models / kind)).eval() for kind in ("vae", "anchor"))
        assert isinstance(vae, GeomSegVAE)
        assert isinstance(anchor, AnchorDecoder)
        scores = [measure(vae, anchor, sample) for sample in self._samples()]
        mean = {name: float(np.mean([one[name] for one in scores])) for name in scores[0]}
        return [
            Bar("VAE: IoU of the reconstruction", mean["iou64"], 0.90),
            Bar("VAE: F-score at .05 of the reconstruction", mean["f@.05"], 0.97),
            Bar("D_seg: mIoU from one click", mean["click"], 0.90),
            Bar("D_seg: mIoU without clicks", mean["automatic"], 0.90),
            Bar(f"D_pos: distance to anchors learnt (others: {mean['distance']:.3f})", self._distance(), 0.03, at_least=False),
            *self._generated(),
        ]

    def _distance(self) -> float:
        """Returns D_pos' error on the latents that it learnt by heart, with fresh noise of the posterior.

        It and the models after it learn one draw of surface points, so one latent set, an object.
        """
        import torch

        from jobs.runs import read_run
        from jobs.training.batches import BatchSource, make_draw
        from jobs.training.config import AnchorTrainConfig
        from jobs.training.frozen import FrozenEncoder
        from jobs.training.loop import Place, generator
        from jobs.training.objectives import AnchorObjective, make_objective
        from jobs.training.state import find_checkpoint

        place = Place(torch.device("cpu"))
        config = AnchorTrainConfig.parse(read_run(self.models / "anchor").config)
        parents = {"vae": find_checkpoint(self.models / "vae")}
        objective = make_objective(config, parents, None, place, find_checkpoint(self.models / "anchor"))
        assert isinstance(objective, AnchorObjective)
        assert isinstance(objective.encoder, FrozenEncoder)
        source = BatchSource(str(self.shards), config, make_draw(config, objective.encoder.vae.config, None), place)
        batches = zip(range(NUM_DRAWS), source.train(0), strict=False)
        with torch.no_grad():
            losses = [objective.losses(batch, generator(place, config.seed, "overfit", number)) for number, batch in batches]
        return float(np.mean([float(loss["distance"]) for loss in losses]))

    def _samples(self) -> "Iterator[Sample]":
        from unipart.data.shards import ShardIndex

        index = ShardIndex.open(self.shards, "train")
        return (index.read(number, ("surface", "mesh")) for number in range(len(index)))

    def _generated(self) -> list[Bar]:
        from unipart.metrics.table import read_scores

        table: dict[str, dict[str, float]] = {}
        for row in read_scores(self.scores):
            table.setdefault(row["object"], {})[row["metric"]] = row["value"]
        objects = [scores for scores in table.values() if "f@.10" in scores]
        right = [one for one in objects if one["f@.10"] >= 0.85 and one["part_count_error"] == 0]
        return [
            Bar("generated: objects with F-score at .10 >= .85 and all parts", len(right), GENERATED_WELL),
            Bar("generated: scale error of their parts", _mean(right, "part_scale_error"), 0.03, at_least=False),
            Bar("generated: F-score at .10 of all objects", _mean(objects, "f@.10"), 0.85),
        ]


def measure(vae: "GeomSegVAE", anchor: Callable[..., Any], sample: "Sample") -> dict[str, float]:
    """Returns how well the VAE, D_seg and D_pos know an object.

    Args:
        vae: with its segmentation decoder.
        anchor: D_pos.
        sample: with its mesh and surface points.

    Returns:
        `iou64` and `f@.05` of the decoded mesh; `click`, mean over the parts of the IoU of the mask that D_seg trusts most, after
        one click; `automatic`, mean over the parts of the IoU with the part found without clicks; `distance` of D_pos' anchors
        from the true ones.
    """
    import torch

    from jobs.training.loop import Place
    from jobs.training.segmentation_rounds import click_scores
    from jobs.training.shapes import Context, Shapes
    from unipart.metrics.parts import segmentation_iou
    from unipart.segmentation.segment import segment_latents

    assert sample.mesh is not None
    assert vae.seg_decoder is not None
    context = Context(0, GRID, Place(torch.device("cpu")))
    shapes = Shapes(vae, context)
    with torch.no_grad():
        truth = shapes.encode(sample)
        shape = shapes.compare(shapes.decode(truth.z), sample.mesh, sample)
        clicks = click_scores(vae.seg_decoder, truth.z, truth.token_labels, context.draw(sample, "clicks"))
        found = segment_latents(vae.seg_decoder, anchor, truth.z, shapes.settings.segment)
    return {
        **{name: shape[name] for name in ("iou64", "f@.05")},
        "click": clicks["seg_miou_1"],
        "automatic": segmentation_iou(found.labels.numpy(), truth.token_labels.numpy())["miou_best"],
        "distance": float((found.anchors - truth.anchors).norm(dim=-1).mean()),
    }


def _mean(rows: Sequence[dict[str, float]], name: str) -> float:
    return float(np.mean([row[name] for row in rows])) if rows else float("nan")


def plan_overfit(corpus: Path | None, fast: bool) -> Plan:
    """Returns the road's size; `fast` is for tests.

    Raises:
        UserError: the corpus lacks one of the four real objects.
    """
    real = tuple(str(corpus / "dev" / name) for name in REAL) if corpus else (MORE_PROCEDURAL,)
    for path in real if corpus else ():
        if not Path(path).is_file():
            raise UserError(f"{path} does not exist", "give the folder that holds dev/, or no --corpus for built-in objects")
    few = {"steps": 4, "log_every": 2, "checkpoint_every": 4, "validate_every": 4}
    changes = dict.fromkeys(CHANGES, few) if fast else CHANGES
    size = "ci" if fast else "tiny"
    return Plan(
        (PROCEDURAL, *real), size, None, NUM_OBJECTS, changes, held_out=(0.0, 0.0), split="train", workers=1 if fast else WORKERS
    )


def main(arguments: Sequence[str]) -> int:
    """Entry point; prints the bars and returns 1 when one is missed."""
    parser = Parser(
        "overfit",
        "Prove that the models learn: eight objects by heart, every bar printed.",
        ["make overfit                                        within an hour on two CPU cores; again: it resumes"],
    )
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("overfit"), help="folder of everything (default: overfit)")
    parser.add_argument("--corpus", metavar="DIR", type=Path, help="mesh corpus with dev/: four of the objects are real")
    parser.add_argument("--fast", action="store_true", help="a minute, with models too small to learn: for tests")
    options = parser.parse_args(arguments)
    plan = plan_overfit(options.corpus, options.fast)
    if options.corpus is None:
        print("no mesh corpus: all eight objects are built-in ones", file=sys.stderr)
    overfit = Overfit(options.out, plan)
    overfit.run()
    bars = overfit.bars()
    print(overfit.summary(), file=sys.stderr)
    print("\n".join(str(bar) for bar in bars))
    return 0 if all(bar.met for bar in bars) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
