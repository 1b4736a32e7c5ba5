"""What a finished or running training left in its folder, read without torch: settings, history, checkpoints."""

import hashlib
import json
import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unipart.errors import UserError

HISTORY = "history.jsonl"
SETTINGS = "train.json"
WEIGHTS = "model.safetensors"
PROGRESS = "train_state/progress.json"
DIGESTS = "digests.json"
BEST = "best"

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


def read_history(run: Path) -> list[dict[str, float]]:
    """Returns the complete rows of a run's history; empty without one."""
    path = run / HISTORY
    if not path.is_file():
        return []
    text = path.read_text()
    # A row that is being written has no line end yet.
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines() if line]


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
    ranked = [(sign * scores[metric], folder) for scores, folder in scored if metric in scores]
    return min(ranked, default=(0.0, None), key=lambda pair: pair[0])[1]


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
    digests: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / DIGESTS:
            with path.open("rb") as file:
                digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


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
    link = folder / "mlflow.json"
    return RunRecord(
        folder=folder,
        kind=settings["kind"],
        config=settings["config"],
        changed=settings["changed"],
        data=settings["data"],
        rows=read_history(folder),
        digest=json.loads((newest / "config.json").read_text())["digest"] if newest else "",
        parameters=count_parameters(newest / WEIGHTS) if newest else 0,
        run_id=json.loads(link.read_text())["run_id"] if link.is_file() else "",
    )


def find_runs(folder: str | Path) -> list[RunRecord]:
    """Reads the runs in a folder (or the folder itself), in the order in which they were trained."""
    folder = Path(folder)
    if (folder / SETTINGS).is_file():
        return [read_run(folder)]
    order = {"vae": 0, "anchor": 1, "whole": 2, "part": 3}
    runs = [read_run(path.parent) for path in sorted(folder.glob(f"*/{SETTINGS}"))]
    return sorted(runs, key=lambda run: order.get(run.kind, 9))


def count_parameters(weights: Path) -> int:
    """Returns the number of values in a safetensors file, from its header."""
    with weights.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
