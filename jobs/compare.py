"""``unipart compare``: training runs or score tables side by side, as a table or as a page."""

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from jobs.evaluate import headline, print_table
from jobs.list_runs import describe_run
from jobs.options import Parser
from jobs.runs import CONFIG, OBJECTS, VALIDATION, RunRecord, find_runs, latest_checkpoint, mlflow_link
from unipart.errors import UserError
from unipart.metrics.table import read_scores
from unipart.report.comparison import ComparedRun, differing, write_comparison

FIGURES = ("loss", "samples_per_second", "z_scale", "grad_norm", "memory_gb", "mfu")
FACTS = ("kind", "recipe", "state", "step", "loss", "validation", "best", "validated", "samples_per_second", "started")
Named = tuple[str, RunRecord]


def compare_runs(runs: Sequence[Named]) -> list[dict[str, Any]]:
    """Returns a row a run: last figures and scores, then what differs of config, data and parents."""
    settings = [run_settings(run) for _, run in runs]
    names = differing(settings)
    table = []
    for (name, run), each in zip(runs, settings, strict=True):
        figures = {metric: value for metric, value in run.last().items() if metric in FIGURES or metric.startswith("val/")}
        row = {"run": name, "kind": run.kind, "step": run.step, "seconds": run.seconds, **figures}
        table.append(row | {setting: json.dumps(each.get(setting)) for setting in names})
    return table


def compare_scores(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Returns a row a method of every table; methods of one name are told apart by their file."""
    rows = []
    for path in paths:
        for row in headline(read_scores(path)):
            rows.append({"table": str(path), **row})
    return rows


def compare_page(runs: Sequence[Named], out: Path) -> Path:
    """Writes the page with settings, curves and pictures; returns its path."""
    names = short_names([name for name, _ in runs])
    compared = []
    for (_, run), name in zip(runs, names, strict=True):
        facts = describe_run(run)
        step, pictures, scores = read_pictures(run.folder)
        shown = {key: facts[key] for key in FACTS}
        link = mlflow_link(run.folder)
        compared.append(ComparedRun(name, shown, run_settings(run), run.series(), step, pictures, scores, link))
    return write_comparison(out, compared)


def run_settings(run: RunRecord) -> dict[str, Any]:
    """Returns what a run was made from: the shards and their digest, the parents' weights, and the flat config."""
    inputs = {name: digest[:12] for name, digest in _inputs(run).items()}
    parents = {f"parent {kind}": digest for kind, digest in inputs.items() if kind != "data"}
    return {"data": run.data, "data digest": inputs.get("data"), **parents, **_flat(run.config)}


def _inputs(run: RunRecord) -> dict[str, str]:
    """Returns what a run noted of its inputs at its start, or of one that did not: the parents that its checkpoint tells of."""
    newest = latest_checkpoint(run.folder)
    if run.inputs or newest is None:
        return run.inputs
    return json.loads((newest / CONFIG).read_text()).get("lineage", {})


def read_pictures(run: Path) -> tuple[int, dict[tuple[str, str], Any], dict[str, dict[str, float]]]:
    """Returns the step of a run's last complete validation, its pictures by (object, panel), and its figures by object."""
    complete = sorted(run.glob(f"{VALIDATION}/step_*/{OBJECTS}"))
    if not complete:
        return 0, {}, {}
    document, pictures = json.loads(complete[-1].read_text()), {}
    for path in sorted(complete[-1].parent.glob("*.png")):
        name, _, panel = path.stem.rpartition(".")
        with Image.open(path) as image:
            pictures[name, panel] = np.asarray(image.convert("RGB"))
    return document["step"], pictures, {name: entry["figures"] for name, entry in document["objects"].items()}


def short_names(names: Sequence[str]) -> list[str]:
    """Returns the ends of paths, as short as they are still different from one another."""
    split = [Path(name).parts for name in names]
    for count in range(1, max(map(len, split)) + 1):
        short = ["/".join(parts[-count:]) for parts in split]
        if len(set(short)) == len(short):
            return short
    return [f"{name} ({number})" for number, name in enumerate(names, 1)]


def _find(items: Sequence[str], tracking: str | None, cache: Path) -> list[Named]:
    """Returns the runs of folders, and of names in the tracking store.

    Raises:
        UserError: there are none, or a name is neither.
    """
    runs: list[Named] = []
    for item in items:
        if Path(item).is_dir():
            runs += [(str(run.folder), run) for run in find_runs(item)]
        elif tracking is None:
            raise UserError(f"{item} is no folder", "give a run's folder; for a run in MLflow also --tracking URI")
        else:
            from jobs.tracking import fetch_run

            runs.append(fetch_run(tracking, item, cache))
    if not runs:
        raise UserError(f"no training run in {', '.join(items)}", "give the --out folder of `unipart train`")
    return runs


def main(arguments: Sequence[str]) -> int:
    """Entry point of ``unipart compare``."""
    parser = Parser(
        "compare",
        "Put runs (folders, or names in MLflow) or score tables (.parquet) side by side. Only settings that differ are shown.",
        [
            "unipart compare models/part ablation/part --html compare.html",
            "unipart compare models/part 1f0c3a... --tracking http://mlflow:5000",
            "unipart compare bundles/scores.parquet partcrafter.parquet",
        ],
    )
    parser.add_argument("items", nargs="+", metavar="RUN|SCORES", help="run folders, folders of runs, MLflow runs, or score tables")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write a page with settings, curves and pictures")
    parser.add_argument("--tracking", metavar="URI", help="the MLflow store of runs that are given by id or name")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    options = parser.parse_args(arguments)
    tables = [Path(item) for item in options.items if item.endswith(".parquet")]
    if tables and len(tables) < len(options.items):
        raise UserError("runs and score tables cannot be compared with each other", "give only folders, or only .parquet files")
    if tables and options.html:
        raise UserError("--html is a page about runs, and these are score tables", "leave it out, or give folders of runs")
    with TemporaryDirectory() as cache:
        runs = [] if tables else _find(options.items, options.tracking, Path(cache))
        rows = compare_scores(tables) if tables else compare_runs(runs)
        page = compare_page(runs, options.html) if options.html else None
    if options.json:
        print(json.dumps(rows, indent=2))
    elif tables:
        print_table(rows)
    else:
        print_table(_turned(rows))
    if page is not None:
        print(page)
    return 0


def _turned(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns a row a figure and a column a run: figures are many, runs are few."""
    names = short_names([row["run"] for row in rows])
    figures = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "run"]
    return [{"": figure, **{name: row.get(figure, "") for name, row in zip(names, rows, strict=True)}} for figure in figures]


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix: node}
    return {
        key: value for name, below in node.items() for key, value in _flat(below, f"{prefix}.{name}" if prefix else name).items()
    }
