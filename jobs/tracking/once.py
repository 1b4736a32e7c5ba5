"""Something that is logged once and at once: scores, a report."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from time import time
from typing import Any

from jobs.tracking.store import EXPERIMENT, MANY, OFF, Refused, Store, Unreachable, default_uri

log = logging.getLogger(__name__)


class Tracker:
    """One MLflow run, for what is there already; every method is a no-op once tracking is off or a call has failed.

    Args:
        folder: what is logged lies here; the store is then beside it, unless a uri is given.
        uri: tracking URI, "off", or None for ``<folder's parent>/mlflow.db``.
        name: name of the run.
        tags: tags of the run.
        experiment: MLflow experiment.
    """

    def __init__(
        self, folder: Path | None, uri: str | None, name: str, tags: dict[str, str] | None = None, experiment: str = EXPERIMENT
    ) -> None:
        self.uri = uri or (default_uri(folder.parent) if folder else OFF)
        self.run_id: str | None = None
        self.active = self.uri != OFF
        """Whether what is logged still reaches the store."""
        self._store = Store(self.uri)
        self._try(lambda: self._open(name, tags or {}, experiment))

    def rows(self, rows: Sequence[dict[str, float]]) -> bool:
        """Logs rows of figures (each with "step"); returns whether they arrived."""
        now = int(time() * 1000)
        values = [
            (name, float(value), now, int(row.get("step", 0))) for row in rows for name, value in row.items() if name != "step"
        ]
        starts = range(0, max(len(values), 1), MANY)
        return all(self._try(lambda at=at: self._store.log_metrics(self.run_id or "", values[at : at + MANY])) for at in starts)

    def artifact(self, path: Path) -> None:
        """Uploads a small file (a report, a score table)."""
        self._try(lambda: self._store.call("log_artifact", self.run_id, str(path)))

    def finish(self, status: str = "FINISHED") -> None:
        """Ends the run: FINISHED, FAILED or KILLED."""
        self._try(lambda: self._store.call("set_terminated", self.run_id, status=status))

    def _open(self, name: str, tags: dict[str, str], experiment: str) -> None:
        self.run_id = self._store.call("create_run", self._store.experiment(experiment), run_name=name, tags=tags).info.run_id

    def _try(self, action: Callable[[], Any]) -> bool:
        if not self.active:
            return False
        try:
            action()
        except (Unreachable, Refused) as error:
            self.active = False
            log.warning("not tracked (%s): %s", self.uri, error)
        return self.active
