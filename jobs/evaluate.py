"""``unipart evaluate``: bundles, or GLBs of another method, against the ground truth in shards (the paper's Tables 1 and 2)."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.options import Parser, apply_fields, split_config_flags
from jobs.tracking import Tracker, default_uri
from unipart.data.bundle import list_bundles, read_bundle, read_glb_folder
from unipart.data.schema import Bundle, Sample
from unipart.data.shards import ShardIndex
from unipart.data.splits import SPLITS
from unipart.errors import UserError
from unipart.geometry.mesh import Mesh, concatenate
from unipart.metrics.align import best_rotation
from unipart.metrics.parts import MaskIous, mask_ious, nearest_labels, part_metrics, pool_masks
from unipart.metrics.shape import MetricsConfig
from unipart.metrics.table import score_rows, summarise, write_scores
from unipart.rng import derive

SEGMENTATION_POINTS = 4096
POOLED = "(all objects)"
"""Name under which scores that are no mean over objects are filed."""
HEADLINE = (
    "cd_l1_sum",
    "cd_l2sq_sum",
    "f@.05",
    "f@.10",
    "iou64",
    "miou_masks",
    "miou_best",
    "part_count_error",
    "num_parts",
    "seconds",
)


@dataclass(frozen=True)
class Prediction:
    """What a method made of one object.

    Attributes:
        object_id: name, by which its ground truth is found.
        parts: meshes in one frame.
        bundle: our own bundle, which also holds a segmentation of latents; None for other methods.
    """

    object_id: str
    parts: tuple[Mesh, ...]
    bundle: Bundle | None = None


class Truth:
    """The samples of a dataset by id, in all splits or one."""

    def __init__(self, dataset: str, split: str | None = None) -> None:
        self.dataset = dataset
        self.indexes = [ShardIndex.open(dataset, name) for name in ([split] if split else SPLITS)]

    def find(self, sample_id: str) -> Sample:
        """Returns the sample with its meshes, parts and surface points.

        Raises:
            UserError: no split has it.
        """
        for index in self.indexes:
            if sample_id in index.sample_ids:
                return index.read(index.number_of(sample_id), ("mesh", "parts", "surface"))
        raise UserError(f"{self.dataset} has no object {sample_id!r} to compare with", "give the shards that the objects come from")


def read_predictions(folder: str | Path) -> list[Prediction]:
    """Reads a folder of bundles, or of another method's GLBs named by sample id.

    Raises:
        UserError: it holds neither.
    """
    if any(Path(folder).glob("*.glb")):
        return [Prediction(item.object_id, item.parts) for item in read_glb_folder(folder)]
    bundles = [read_bundle(path) for path in list_bundles(folder)]
    return [
        Prediction(bundle.info.get("sample_id", bundle.object_id), tuple(part.mesh for part in bundle.parts), bundle)
        for bundle in bundles
    ]


def evaluate(predictions: Sequence[Prediction], truth: Truth, method: str, config: MetricsConfig) -> list[dict[str, Any]]:
    """Scores predictions one by one, then what is pooled over all masks; returns rows of SCORE_COLUMNS."""
    rows: list[dict[str, Any]] = []
    masks: list[MaskIous] = []
    for number, prediction in enumerate(predictions, 1):
        sample = truth.find(prediction.object_id)
        scores = score_object(prediction, sample, config)
        if prediction.bundle is not None:
            ious = segmentation_masks(prediction.bundle, sample)
            masks.append(ious)
            scores["miou_best"] = float(ious.best.mean())
        rows += score_rows(method, prediction.object_id, scores)
        print(f"  {number}/{len(predictions)} {prediction.object_id}", file=sys.stderr)
    if masks:
        pooled = pool_masks(masks)
        rows += score_rows(method, POOLED, {"miou_masks": pooled["miou_masks"], "miou_hungarian": pooled["miou_hungarian"]})
    return rows


def score_object(prediction: Prediction, sample: Sample, config: MetricsConfig) -> dict[str, float]:
    """Returns shape scores at the best quarter turn, part scores there, and what the generation cost."""
    if sample.mesh is None:
        raise UserError(f"sample {sample.sample_id} holds no mesh", "curate it again")
    parts = [part for part in prediction.parts if len(part.faces)]
    whole = concatenate(parts) if parts else None
    rng = derive(config.seed, "evaluate", prediction.object_id)
    scores = best_rotation(whole, Mesh(sample.mesh.vertices, sample.mesh.faces), config, rng)
    scores |= part_metrics(parts, sample.parts_in_gcs(), config, rng, quarter_turns=round(scores["rotation"] / 90))
    scores["num_parts"] = float(len(parts))
    if prediction.bundle is not None:
        info = prediction.bundle.info
        scores |= {"seconds": float(sum(info["timings"].values())), "fall_backs": float(len(info["fall_backs"]))}
    return scores


def segmentation_masks(bundle: Bundle, sample: Sample) -> MaskIous:
    """Compares the latents' parts with the true ones on surface points: a point takes its nearest anchor's part."""
    if sample.surface is None:
        raise UserError(f"sample {sample.sample_id} holds no surface points", "curate it again")
    points, labels = sample.surface.points[:SEGMENTATION_POINTS], sample.surface.labels[:SEGMENTATION_POINTS]
    return mask_ious(nearest_labels(points, bundle.anchors, bundle.labels), labels)


def headline(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns one row a method with the scores that people look at first."""
    table: dict[str, dict[str, Any]] = {}
    for entry in summarise(rows):
        if entry.metric in HEADLINE:
            table.setdefault(entry.method, {"method": entry.method})[entry.metric] = entry.mean
    return [{"method": name} | {key: row[key] for key in HEADLINE if key in row} for name, row in table.items()]


def print_table(table: Sequence[dict[str, Any]]) -> None:
    """Prints rows as aligned text."""
    if not table:
        return
    columns = list(dict.fromkeys(name for row in table for name in row))
    cells = [columns] + [[_cell(row.get(name, "")) for name in columns] for row in table]
    widths = [max(len(line[column]) for line in cells) for column in range(len(columns))]
    for line in cells:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main(arguments: Sequence[str]) -> int:
    """Entry point of ``unipart evaluate``."""
    parser = Parser(
        "evaluate",
        "Score generated objects. Settings are flags: --num_points 204800 --iou_resolution 64 --seed 1.",
        [
            "unipart evaluate bundles --against shards",
            "unipart evaluate other_method_glbs --method PartCrafter --against shards --out partcrafter.parquet",
        ],
    )
    parser.add_argument("predictions", metavar="FOLDER", help="bundles, or GLBs named by sample id with a node per part")
    parser.add_argument("--against", metavar="SHARDS", required=True, help="the shards with the ground truth")
    parser.add_argument("--split", help="only objects of this split (default: any)")
    parser.add_argument("--method", default="UniPart", help="name in the table (default: UniPart)")
    parser.add_argument("--out", metavar="FILE", help="score table (default: FOLDER/scores.parquet)")
    parser.add_argument("--tracking", metavar="URI", help="MLflow URI or 'off' (default: sqlite beside the score table)")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    own, fields = split_config_flags(arguments, parser)
    options = parser.parse_args(own)
    config = apply_fields(MetricsConfig(), fields, parser.flags)
    folder = Path(options.predictions)
    rows = evaluate(read_predictions(folder), Truth(options.against, options.split), options.method, config)
    out = Path(options.out) if options.out else folder / "scores.parquet"
    write_scores(out, rows)
    track_scores(rows, out, options.tracking, options.method, {"unipart.dataset": options.against})
    table = headline(rows)
    if options.json:
        print(json.dumps(table, indent=2))
    else:
        print_table(table)
        print(out)
    return 0


def track_scores(rows: Sequence[dict[str, Any]], path: Path, tracking: str | None, method: str, tags: dict[str, str]) -> None:
    """Logs mean scores and the table as an MLflow run of its own."""
    tracker = Tracker(None, tracking or default_uri(path.parent), f"evaluate {method}", {"unipart.kind": "evaluation", **tags})
    tracker.rows([{"step": 0, **{entry.metric: entry.mean for entry in summarise(rows)}}])
    tracker.artifact(path)
    tracker.finish()
