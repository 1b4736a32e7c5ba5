"""``unipart runs``: the trainings in a folder, or in a tracking store, and how they fare."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jobs.evaluate import print_table
from jobs.options import Parser
from jobs.runs import SETTINGS, RunRecord, latest_checkpoint, mlflow_link, read_link, read_run, read_state
from unipart.errors import UserError

SHOWN = ("run", "kind", "recipe", "state", "step", "loss", "validation", "best", "samples/s", "started", "checkpoint")


def describe_run(run: RunRecord, name: str = "") -> dict[str, Any]:
    """Returns what the list tells of a run.

    Args:
        run: the run.
        name: what it is called; its folder, where nothing is given.
    """
    noted, steps, last = read_state(run.folder), int(run.config["steps"]), run.last()
    judged, checkpoint = run.best_and_last(), latest_checkpoint(run.folder)
    metric, best, newest = judged or ("", None, None)
    return {
        "run": name or str(run.folder),
        "kind": run.kind,
        "recipe": run.config["recipe"],
        "state": noted.state or ("finished" if run.step >= steps else "interrupted"),
        "reason": noted.reason,
        "step": run.step,
        "steps": steps,
        "loss": last.get("loss"),
        "validated": metric,
        "validation": newest,
        "best": best,
        "samples_per_second": last.get("samples_per_second"),
        "started": time.strftime("%Y-%m-%d %H:%M", time.localtime(noted.started)) if noted.started else "",
        "checkpoint": str(checkpoint) if checkpoint else read_link(run.folder).get("checkpoint", ""),
        "run_id": run.run_id,
        "mlflow": mlflow_link(run.folder),
    }


def list_folder(folder: Path) -> list[dict[str, Any]]:
    """Describes the runs in a folder: itself, its subfolders, and theirs; the one started last comes first.

    Raises:
        UserError: there is none.
    """
    found = [path.parent for pattern in ("", "*/", "*/*/") for path in sorted(folder.glob(f"{pattern}{SETTINGS}"))]
    if not found:
        raise UserError(f"no training run in {folder}", "give the folder above the --out folders of `unipart train`")
    return [describe_run(read_run(path)) for path in sorted(found, key=lambda path: read_state(path).started, reverse=True)]


def list_store(uri: str) -> list[dict[str, Any]]:
    """Describes the runs in a tracking store.

    Raises:
        EnvironmentProblem: it does not answer.
    """
    from jobs.tracking import remote_runs

    with TemporaryDirectory() as folder:
        return [describe_run(run, name) for name, run in remote_runs(uri, Path(folder))]


def main(arguments: Sequence[str]) -> int:
    """Entry point of ``unipart runs``."""
    parser = Parser(
        "runs",
        "List training runs: of a folder (of runs, or of folders of runs), or of a tracking store.",
        ["unipart runs models", "unipart runs http://mlflow:5000 --json", "unipart runs sqlite:///models/mlflow.db"],
    )
    parser.add_argument("place", nargs="?", default="runs", metavar="FOLDER|URI", help="where to look (default: runs)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options = parser.parse_args(arguments)
    rows = list_store(options.place) if "://" in options.place else list_folder(Path(options.place))
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    print_table([_line(row, options.place) for row in rows])
    for row in rows:
        if row["reason"]:
            print(f"{row['run']} failed: {row['reason'].splitlines()[0]}")
    for store in dict.fromkeys(row["mlflow"].split("  (")[0].split("/#/")[0] for row in rows if row["mlflow"]):
        print(f"MLflow: {store}", file=sys.stderr)
    return 0


def _line(row: dict[str, Any], place: str) -> dict[str, Any]:
    """What of a run fits a line."""
    values = {
        **row,
        "run": row["run"].removeprefix(f"{place.rstrip('/')}/"),
        "step": f"{row['step']}/{row['steps']}",
        "validation": f"{row['validation']:.4g} {row['validated']}" if row["validated"] else "",
        "best": row["best"],
        "samples/s": row["samples_per_second"],
        "checkpoint": Path(row["checkpoint"]).name,
    }
    return {name: "" if values[name] is None else values[name] for name in SHOWN}
