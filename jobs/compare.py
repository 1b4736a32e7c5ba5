"""``unipart compare``: training runs or score tables side by side."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.evaluate import headline, print_table
from jobs.options import Parser
from jobs.runs import RunRecord, find_runs
from unipart.errors import UserError
from unipart.metrics.table import read_scores


def compare_runs(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Returns a row a run: last figures, then the settings in which the runs differ."""
    settings = [_flat(run.config) for run in runs]
    names = list(dict.fromkeys(name for each in settings for name in each))
    differing = [name for name in names if len({json.dumps(each.get(name)) for each in settings}) > 1]
    table = []
    for run, each in zip(runs, settings, strict=True):
        last = run.last()
        figures = {name: last[name] for name in ("loss", "val/loss", "samples_per_second", "z_scale") if name in last}
        step = max((row["step"] for row in run.rows), default=0)
        row = {"run": str(run.folder), "kind": run.kind, "step": int(step), "seconds": run.seconds, **figures}
        table.append(row | {name: json.dumps(each.get(name)) for name in differing})
    return table


def compare_scores(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Returns a row a method of every table; methods of one name are told apart by their file."""
    rows = []
    for path in paths:
        for row in headline(read_scores(path)):
            rows.append({"table": str(path), **row})
    return rows


def main(arguments: Sequence[str]) -> int:
    """Entry point of ``unipart compare``."""
    parser = Parser(
        "compare",
        "Put runs (folders) or score tables (.parquet) side by side. Only settings that differ are shown.",
        ["unipart compare models/part ablation/part", "unipart compare bundles/scores.parquet partcrafter.parquet"],
    )
    parser.add_argument("items", nargs="+", metavar="RUN|SCORES", help="run folders, folders of runs, or score tables")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    options = parser.parse_args(arguments)
    paths = [Path(item) for item in options.items]
    tables = [path for path in paths if path.suffix == ".parquet"]
    if tables and len(tables) < len(paths):
        raise UserError("runs and score tables cannot be compared with each other", "give only folders, or only .parquet files")
    runs = [run for path in paths for run in find_runs(path)] if not tables else []
    if not tables and not runs:
        raise UserError(f"no training run in {', '.join(map(str, paths))}", "give the --out folder of `unipart train`")
    table = compare_scores(tables) if tables else compare_runs(runs)
    if options.json:
        print(json.dumps(table, indent=2))
    else:
        print_table(table)
    return 0


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix: node}
    return {
        key: value for name, below in node.items() for key, value in _flat(below, f"{prefix}.{name}" if prefix else name).items()
    }
