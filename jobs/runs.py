"""What a finished or running training left in its folder, read without torch: settings, history, checkpoints."""

import hashlib
import json
import logging
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from unipart import storage
from unipart.errors import UserError, did_you_mean

Kind = Literal["vae", "anchor", "whole", "part"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""The four models, in the order in which they are trained."""

HISTORY = "history.jsonl"
SETTINGS = "train.json"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PROGRESS = "train_state/progress.json"
DIGESTS = "digests.json"
STATE = "state.json"
LINK = "mlflow.json"
BEST = "best"
VALIDATION = "validation"
OBJECTS = "objects.json"
SILENCE = 60.0
"""Seconds without a sign of life after which a run counts as interrupted; it gives one every 10."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunRecord:
    """A training run on disk.

    Attributes:
        folder: the run's folder.
        kind: vae, anchor, whole or part.
        config: its training config as JSON.
        changed: {flat field: [recipe's value, the run's value]}.
        data: address of the shards.
        inputs: {"data", or a parent's kind: digest} that it was started with; empty for a run that did not note them.
        rows: the history.
        digest: sha256 of the newest weights, or an empty string.
        parameters: number of values in them.
        run_id: MLflow run id, or an empty string.
    """

    folder: Path
    kind: str
    config: dict[str, Any]
    changed: dict[str, Any]
    data: str
    inputs: dict[str, str] = field(default_factory=dict)
    rows: list[dict[str, float]] = field(default_factory=list)
    digest: str = ""
    parameters: int = 0
    run_id: str = ""

    @property
    def seconds(self) -> float:
        """Training time without start-up and validation."""
        return sum(row.get("seconds", 0.0) for row in self.rows)

    def series(self) -> dict[str, list[tuple[float, float]]]:
        """Returns metric -> (step, value) pairs."""
        found: dict[str, list[tuple[float, float]]] = {}
        for row in self.rows:
            for name, value in row.items():
                if name not in ("step", "seconds"):
                    found.setdefault(name, []).append((row["step"], value))
        return found

    def last(self) -> dict[str, float]:
        """Returns the last value of every metric."""
        return {name: points[-1][1] for name, points in self.series().items()}

    @property
    def step(self) -> int:
        """The last step that the history tells of."""
        return int(max((row["step"] for row in self.rows), default=0))

    def best_and_last(self) -> tuple[str, float, float] | None:
        """Returns the validation figure by which the run is judged, its best and its last value; None before any.

        It is the one of the config's `best`, and without that the validation loss.
        """
        metric, _, direction = (self.config.get("best") or "val/loss:min").rpartition(":")
        values = [value for _, value in self.series().get(metric, [])]
        return (metric, (max if direction == "max" else min)(values), values[-1]) if values else None


@dataclass(frozen=True)
class RunState:
    """Where a run stands.

    Attributes:
        state: running, finished, interrupted or failed; empty where nothing was noted.
        started: seconds since 1970 of its first start, or 0.
        reason: why it failed.
    """

    state: str = ""
    started: float = 0.0
    reason: str = ""


def read_history(run: Path) -> list[dict[str, float]]:
    """Returns the complete rows of a run's history; empty without one."""
    path = run / HISTORY
    if not path.is_file():
        return []
    text = path.read_text()
    # A row that is being written has no line end yet.
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines() if line]


def write_state(run: Path, state: str, reason: str = "") -> None:
    """Notes that a run is running (a sign of life), finished, interrupted or failed."""
    now = time.time()
    document = {"state": state, "started": read_state(run).started or now, "seen": now, "reason": reason}
    try:
        storage.write_bytes(run / STATE, (json.dumps(document) + "\n").encode())
    except OSError as error:
        log.warning("%s cannot be written: %s", run / STATE, error)


def read_state(run: Path) -> RunState:
    """Returns what a run noted of itself; one that says it is running, and gives no sign of life, was interrupted."""
    path = run / STATE
    if not path.is_file():
        return RunState()
    document = json.loads(path.read_text())
    silent = document["state"] == "running" and time.time() - document["seen"] > SILENCE
    return RunState("interrupted" if silent else document["state"], document["started"], document["reason"])


def checkpoint_folders(run: Path) -> list[Path]:
    """Returns the complete checkpoints of a run, oldest first."""
    return sorted(run.glob("checkpoints/step_*"))


def latest_checkpoint(run: Path) -> Path | None:
    """Returns the newest complete checkpoint of a run, or None."""
    folders = checkpoint_folders(run)
    return folders[-1] if folders else None


def best_checkpoint(run: Path, best: str) -> Path | None:
    """Returns the checkpoint with the best figure, or None where none has it.

    Args:
        run: the run's folder.
        best: ``metric:min`` or ``metric:max``; only a figure that was measured at the checkpoint's own step counts.
    """
    metric, _, direction = best.rpartition(":")
    sign = -1.0 if direction == "max" else 1.0
    scored = [(json.loads((folder / PROGRESS).read_text()).get("scores", {}), folder) for folder in checkpoint_folders(run)]
    if scored and not any(metric in scores for scores, _ in scored):
        _tell_unmeasured(run, metric, tuple(sorted({name for scores, _ in scored for name in scores})))
    ranked = [(sign * scores[metric], folder) for scores, folder in scored if math.isfinite(scores.get(metric, math.nan))]
    return min(ranked, default=(0.0, None), key=lambda pair: pair[0])[1]


@cache
def _tell_unmeasured(run: Path, metric: str, measured: tuple[str, ...]) -> None:
    """Says, once, that the figure which is to choose the best checkpoint was measured at the step of none."""
    hint = did_you_mean(metric, list(measured))
    log.warning("%s: no checkpoint has the figure %r, so none is the best.%s Measured: %s", run, metric, hint, ", ".join(measured))


def sound_checkpoint(run: Path) -> Path | None:
    """Returns the newest checkpoint whose files are as they were written; a damaged one is said, and put aside.

    It keeps its content under the name ``.damaged_step_N``.
    """
    for folder in reversed(checkpoint_folders(run)):
        problem = damage(folder)
        if not problem:
            return folder
        aside = folder.with_name(f".damaged_{folder.name}")
        number = 1
        while aside.exists():
            number += 1
            aside = folder.with_name(f".damaged_{folder.name}.{number}")
        folder.rename(aside)
        log.warning("checkpoint %s is damaged (%s): put aside as %s, the one before it is used", folder.name, problem, aside.name)
    return None


def damage(folder: Path) -> str:
    """Returns what is wrong with a checkpoint's files, or an empty text; one without digests is not checked."""
    path = folder / DIGESTS
    if not path.is_file():
        return ""
    try:
        expected = json.loads(path.read_text())
    except json.JSONDecodeError:
        return f"{DIGESTS} is no JSON"
    found = file_digests(folder)
    wrong = [name for name, digest in expected.items() if found.get(name) != digest]
    return f"{', '.join(wrong)} changed or missing" if wrong else ""


def file_digests(folder: Path) -> dict[str, str]:
    """Returns {path in the folder: sha256} of all files but the list of digests itself."""

    def digest(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / DIGESTS]
    with ThreadPoolExecutor() as threads:  # a sharded state has a file a worker, of gigabytes
        return {path.relative_to(folder).as_posix(): found for path, found in zip(files, threads.map(digest, files), strict=True)}


def read_run(folder: str | Path) -> RunRecord:
    """Reads a run.

    Raises:
        UserError: the folder is no run.
    """
    folder = Path(folder)
    if not (folder / SETTINGS).is_file():
        raise UserError(f"{folder} is no training run: it has no {SETTINGS}", "give the --out folder of `unipart train`")
    settings = json.loads((folder / SETTINGS).read_text())
    newest = latest_checkpoint(folder)
    return RunRecord(
        folder=folder,
        kind=settings["kind"],
        config=settings["config"],
        changed=settings["changed"],
        data=settings["data"],
        inputs=settings.get("inputs", {}),
        rows=read_history(folder),
        digest=json.loads((newest / CONFIG).read_text())["digest"] if newest else "",
        parameters=count_parameters(newest / WEIGHTS) if newest else 0,
        run_id=read_link(folder).get("run_id", ""),
    )


def read_link(run: Path) -> dict[str, Any]:
    """Returns what is noted of a run's MLflow run: "uri", "experiment_id", "run_id"; empty where it was not tracked."""
    path = run / LINK
    return json.loads(path.read_text()) if path.is_file() else {}


def mlflow_link(run: Path) -> str:
    """Returns the address of a run's page in MLflow, for a store without a server the command that shows it, or an empty text.

    The store that a run noted was beside it, or beside the folder of runs; one of that name that lies there now came along with it.
    """
    link = read_link(run)
    if not link.get("run_id"):
        return ""
    page = f"#/experiments/{link['experiment_id']}/runs/{link['run_id']}"
    if link["uri"].startswith("http"):
        return f"{link['uri'].rstrip('/')}/{page}"
    near = [folder / Path(link["uri"]).name for folder in run.resolve().parents[:2] if link["uri"].startswith("sqlite:")]
    uri = next((f"sqlite:///{file}" for file in near if file.is_file()), link["uri"])
    return f"mlflow ui --backend-store-uri {uri}  (then {page})"


def find_runs(folder: str | Path) -> list[RunRecord]:
    """Reads the runs in a folder (or the folder itself), in the order in which they were trained."""
    folder = Path(folder)
    if (folder / SETTINGS).is_file():
        return [read_run(folder)]
    order = {kind: place for place, kind in enumerate(KINDS)}
    runs = [read_run(path.parent) for path in sorted(folder.glob(f"*/{SETTINGS}"))]
    return sorted(runs, key=lambda run: order.get(run.kind, 9))


def count_parameters(weights: Path) -> int:
    """Returns the number of values in a safetensors file, from its header."""
    with weights.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
