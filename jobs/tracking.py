"""Experiment tracking with MLflow, by explicit run id; the only module that imports mlflow.

Training never waits for a server: the loop writes ``history.jsonl`` beside the run, and `HistoryFollower` ships its rows from the
driver. A server that is down costs a warning; the rows stay in the file, and the next run of the same command ships them.
"""

import json
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jobs.runs import read_history

OFF = "off"
LINK = "mlflow.json"
EXPERIMENT = "unipart"
MAX_PARAM = 500
BATCH = 500

log = logging.getLogger(__name__)


def default_uri(runs: Path) -> str:
    """Returns the SQLite store of a folder of runs."""
    return f"sqlite:///{runs.resolve() / 'mlflow.db'}"


class Tracker:
    """One MLflow run; every method is a no-op once tracking is off or the store has failed.

    Args:
        folder: folder of the run; ``mlflow.json`` in it remembers the run id, so that the same training continued is the same run.
            None for something that is logged once; it needs a uri.
        uri: tracking URI, "off", or None for ``<folder's parent>/mlflow.db``.
        name: name of the run.
        tags: tags of the run.
        experiment: MLflow experiment.
    """

    def __init__(
        self, folder: Path | None, uri: str | None, name: str, tags: dict[str, str] | None = None, experiment: str = EXPERIMENT
    ) -> None:
        self.uri = uri or (default_uri(folder.parent) if folder else OFF)
        self.folder = folder
        self.run_id: str | None = None
        self._client: Any = None
        if self.uri != OFF:
            self._guard(lambda: self._open(name, tags or {}, experiment))

    @property
    def active(self) -> bool:
        """Whether rows still reach the store."""
        return self._client is not None and self.run_id is not None

    def params(self, values: dict[str, Any]) -> None:
        """Logs parameters once; texts are cut to MLflow's length."""
        if not self.active:
            return
        from mlflow.entities import Param

        entries = [Param(key, str(value)[:MAX_PARAM]) for key, value in values.items()]
        for start in range(0, len(entries), 100):
            chunk = entries[start : start + 100]
            self._call("log_batch", params=chunk)

    def tags(self, values: dict[str, str]) -> None:
        """Sets tags."""
        if not self.active:
            return
        from mlflow.entities import RunTag

        self._call("log_batch", tags=[RunTag(key, str(value)[:5000]) for key, value in values.items()])

    def rows(self, rows: Sequence[dict[str, float]]) -> bool:
        """Logs rows of a history (each with "step"); returns whether they arrived."""
        if not self.active:
            return False
        from time import time

        from mlflow.entities import Metric

        now = int(time() * 1000)
        metrics = [
            Metric(_metric_name(key), float(value), now, int(row.get("step", 0)))
            for row in rows
            for key, value in row.items()
            if key != "step"
        ]
        return all(self._call("log_batch", metrics=metrics[start : start + BATCH]) for start in range(0, len(metrics), BATCH))

    def artifact(self, path: Path) -> None:
        """Uploads a small file (a report, a score table)."""
        self._call("log_artifact", str(path))

    def finish(self, status: str = "FINISHED") -> None:
        """Ends the run: FINISHED, FAILED or KILLED."""
        self._call("set_terminated", status=status)

    def _open(self, name: str, tags: dict[str, str], experiment: str) -> None:
        import mlflow
        from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT

        logging.getLogger("alembic").setLevel(logging.ERROR)
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        # MLflow's own retries block a call to a dead server for four minutes.
        MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(1)
        MLFLOW_HTTP_REQUEST_TIMEOUT.set(10)
        client = mlflow.MlflowClient(tracking_uri=self.uri)
        known = self._remembered()
        if known.get("uri") == self.uri and self._alive(client, known.get("run_id")):
            self.run_id = known["run_id"]
            client.update_run(known["run_id"], status="RUNNING")
        else:
            found = client.get_experiment_by_name(experiment)
            experiment_id = found.experiment_id if found else client.create_experiment(experiment, self._artifacts())
            self.run_id = client.create_run(experiment_id, run_name=name).info.run_id
            self.remember(shipped=0)
        self._client = client
        self.tags(tags)

    def remember(self, shipped: int) -> None:
        """Notes beside the run which MLflow run it is and how many rows of its history have been logged."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / LINK).write_text(json.dumps({"uri": self.uri, "run_id": self.run_id, "shipped": shipped}) + "\n")

    def _remembered(self) -> dict[str, Any]:
        link = self.folder / LINK if self.folder else None
        return json.loads(link.read_text()) if link and link.is_file() else {}

    def _artifacts(self) -> str | None:
        """A SQLite store's artefacts lie beside it, not in whatever folder the command was started in; a server has its own."""
        database = self.uri.removeprefix("sqlite:///")
        return None if database == self.uri else (Path(database).resolve().parent / "mlartifacts").as_uri()

    @staticmethod
    def _alive(client: Any, run_id: str | None) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return run_id is not None and client.get_run(run_id).info.lifecycle_stage == "active"
        except MlflowException:
            return False

    def _call(self, method: str, *arguments: Any, **keywords: Any) -> bool:
        if not self.active:
            return False
        return self._guard(lambda: getattr(self._client, method)(self.run_id, *arguments, **keywords))

    def _guard(self, action: Callable[[], Any]) -> bool:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            action()
        except (MlflowException, SQLAlchemyError, OSError) as error:
            self._client = None
            log.warning("tracking is off for the rest of this run (%s): %s", self.uri, str(error).splitlines()[0])
            return False
        return True


class HistoryFollower:
    """Reads a growing ``history.jsonl`` in a thread: rows go to a tracker and to a callback (progress on stderr).

    Args:
        run: the run's folder; the file may not exist yet.
        tracker: where rows are logged; None for nowhere.
        on_row: called with every new row.
        seconds: how often to look.
    """

    def __init__(
        self, run: Path, tracker: Tracker | None, on_row: Callable[[dict[str, float]], None] | None = None, seconds: float = 2.0
    ) -> None:
        self.run = run
        self.tracker = tracker
        self.on_row = on_row
        self.seconds = seconds
        self._rows_shipped = self._shipped()
        self._rows_seen = len(read_history(self.run))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> "HistoryFollower":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._poll()

    def _loop(self) -> None:
        while not self._stop.wait(self.seconds):
            self._poll()

    def _poll(self) -> None:
        rows = read_history(self.run)
        for row in rows[self._rows_seen :]:
            if self.on_row is not None:
                self.on_row(row)
        self._rows_seen = len(rows)
        fresh = rows[self._rows_shipped :]
        if fresh and self.tracker is not None and self.tracker.rows(fresh):
            self._rows_shipped = len(rows)
            self.tracker.remember(len(rows))

    def _shipped(self) -> int:
        link = self.run / LINK
        return int(json.loads(link.read_text()).get("shipped", 0)) if link.is_file() else 0


def _metric_name(name: str) -> str:
    """MLflow allows letters, digits and _-./ and space."""
    return "".join(character if character.isalnum() or character in "_-./ " else "_" for character in name)
