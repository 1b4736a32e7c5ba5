"""``unipart report``: one offline HTML file about a training, its objects and their scores. Torch-free."""

import importlib.metadata
import json
import os
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.evaluate import Truth, headline
from jobs.options import Parser
from jobs.runs import RunRecord, find_runs
from jobs.tracking import Tracker
from unipart.data.bundle import list_bundles, read_bundle
from unipart.data.schema import Bundle
from unipart.errors import UserError
from unipart.metrics.table import read_scores
from unipart.report.figures import object_entry
from unipart.report.html import CurationEntry, ObjectEntry, ReportData, RunEntry, write_report
from unipart.report.viewer import bundle_parts, write_viewer

OBJECT_SCORES = ("cd_l1_sum", "f@.05", "f@.10", "iou64", "miou_best")
PACKAGES = ("numpy", "torch", "ray", "mlflow", "libigl", "trimesh", "pydantic")
MODEL_NAMES = {"vae": "Geom-Seg VAE", "anchor": "anchor decoder", "whole": "whole model", "part": "part model"}


@dataclass(frozen=True)
class Inputs:
    """What a report is made from; each may be missing.

    Attributes:
        runs: folder of training runs.
        bundles: folder of bundles.
        scores: score table.
        data: the shards: ground truth, curation figures.
        limit: most objects shown.
        commands: command lines to print, in order.
    """

    runs: Path | None = None
    bundles: Path | None = None
    scores: Path | None = None
    data: str | None = None
    limit: int = 24
    commands: tuple[str, ...] = ()


def make_report(inputs: Inputs, out: Path, title: str = "UniPart report") -> Path:
    """Writes the report, and a viewer page per object in ``viewers/`` beside it; returns the report's path.

    Raises:
        UserError: an input holds nothing of its kind.
    """
    runs = find_runs(inputs.runs) if inputs.runs else []
    if inputs.runs and not runs:
        raise UserError(f"{inputs.runs} holds no training run", "give the folder that holds the folders of `unipart train --out`")
    bundles = [read_bundle(folder) for folder in list_bundles(inputs.bundles)[: inputs.limit]] if inputs.bundles else []
    rows = read_scores(inputs.scores) if inputs.scores else []
    table = headline(rows)
    curation = curation_entry(inputs.data) if inputs.data else None
    data = ReportData(
        title=title,
        subtitle="Objects made of parts, generated from one image each.",
        summary=_summary(bundles, table, runs),
        warnings=_warnings(bundles, runs),
        objects=[_object(bundle, inputs, rows, out) for bundle in bundles],
        scores=table,
        runs=[_run(run) for run in runs],
        curation=curation,
        environment=environment(),
        commands=inputs.commands,
    )
    return write_report(out, data)


def curation_entry(dataset: str) -> CurationEntry:
    """Returns what became of a dataset's assets, from its ledger."""
    from pipelines.runner import read_status

    rows = read_status(dataset)
    states = Counter(row["state"] for row in rows)
    seconds: Counter[str] = Counter()
    for row in rows:
        for stage, spent in json.loads(row["stage_seconds"] or "{}").items():
            seconds[stage] += spent
    return CurationEntry(
        found=len(rows),
        kept=states["kept"],
        rejected=dict(Counter(row["reason"] for row in rows if row["state"] == "rejected")),
        failed=states["failed"],
        stage_seconds=dict(seconds),
    )


def environment() -> dict[str, Any]:
    """Returns versions and hardware, without importing anything heavy."""
    found: dict[str, Any] = {"python": platform.python_version(), "machine": f"{platform.machine()}, {os.cpu_count()} CPUs"}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _object(bundle: Bundle, inputs: Inputs, rows: Sequence[dict[str, Any]], out: Path) -> ObjectEntry:
    sample_id = bundle.info.get("sample_id")
    truth = Truth(inputs.data).find(sample_id) if inputs.data and sample_id else None
    wanted = {row["metric"]: row["value"] for row in rows if row["object"] == (sample_id or bundle.object_id)}
    viewer = Path("viewers") / f"{bundle.object_id}.html"
    (out.parent / viewer).parent.mkdir(parents=True, exist_ok=True)
    write_viewer(out.parent / viewer, bundle_parts(bundle), bundle.object_id, bundle.image)
    scores = {name: wanted[name] for name in OBJECT_SCORES if name in wanted}
    return object_entry(bundle, truth, scores, str(viewer))


def _run(run: RunRecord) -> RunEntry:
    return RunEntry(
        name=f"{run.folder.resolve().name}: {MODEL_NAMES[run.kind]} ({run.config['recipe']})",
        model=run.kind,
        run_id=run.run_id,
        parameters=run.parameters,
        seconds=run.seconds,
        config_diff={name: tuple(pair) for name, pair in run.changed.items()},
        history=run.series(),
    )


def _summary(bundles: Sequence[Bundle], table: Sequence[dict[str, Any]], runs: Sequence[RunRecord]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    if bundles:
        summary["objects"] = len(bundles)
        summary["parts per object"] = sum(len(bundle.parts) for bundle in bundles) / len(bundles)
    if table:
        shown = {"cd_l1_sum": "Chamfer distance", "f@.10": "F-score at 0.1", "miou_masks": "segmentation mIoU"}
        summary |= {text: table[0][name] for name, text in shown.items() if name in table[0]}
    if runs:
        summary["trained values"] = sum(run.parameters for run in runs)
    return summary


def _warnings(bundles: Sequence[Bundle], runs: Sequence[RunRecord]) -> list[str]:
    """What a reader must know: small encoders, small models, fall-backs, unfinished runs."""
    found = dict.fromkeys(str(text) for bundle in bundles for text in bundle.info.get("warnings", []))
    warnings = list(found)
    if any(run.config["recipe"].split()[-1] in ("ci", "tiny") for run in runs):
        warnings.append(
            "These models are tiny and were trained for minutes: they show that the road works, not how good the method is."
        )
    fallen = sum(bool(bundle.info.get("fall_backs")) for bundle in bundles)
    if fallen:
        warnings.append(f"{fallen} of {len(bundles)} objects fell back somewhere in their generation; each says where.")
    for run in runs:
        last = max((row["step"] for row in run.rows), default=0)
        if last < run.config["steps"]:
            name = run.folder.resolve().name
            warnings.append(f"{name}: this {MODEL_NAMES[run.kind]} is at step {last:.0f} of {run.config['steps']}.")
    return warnings


def main(arguments: Sequence[str]) -> int:
    """Entry point of ``unipart report``; prints the path of the report."""
    parser = Parser(
        "report",
        "Write one offline HTML file about training runs, generated objects and their scores.",
        [
            "unipart report --runs models --bundles bundles --scores bundles/scores.parquet --data shards --out report.html",
            "unipart report --runs models --out training.html",
        ],
    )
    parser.add_argument("--runs", metavar="DIR", type=Path, help="folder of training runs")
    parser.add_argument("--bundles", metavar="DIR", type=Path, help="folder of bundles")
    parser.add_argument("--scores", metavar="FILE", type=Path, help="score table of `unipart evaluate`")
    parser.add_argument("--data", metavar="DIR", help="the shards: ground truth and curation figures")
    parser.add_argument("--limit", type=int, default=24, help="most objects shown (default: 24)")
    parser.add_argument("--title", default="UniPart report")
    parser.add_argument("--out", metavar="FILE", type=Path, default=Path("report.html"), help="default: report.html")
    parser.add_argument("--tracking", metavar="URI", default="off", help="also log the report as an MLflow artefact (default: off)")
    options = parser.parse_args(arguments)
    if not (options.runs or options.bundles or options.scores):
        raise UserError("there is nothing to report on", "give --runs, --bundles or --scores")
    inputs = Inputs(options.runs, options.bundles, options.scores, options.data, options.limit)
    print(make_report(inputs, options.out, options.title))
    track_report(options.out, options.tracking)
    return 0


def track_report(path: Path, tracking: str) -> None:
    """Logs the report as an artefact of an MLflow run of its own."""
    tracker = Tracker(None, tracking, "report", {"unipart.kind": "report"})
    tracker.artifact(path)
    tracker.finish()
