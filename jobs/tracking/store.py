"""An MLflow store (SQLite, or a server) as this project uses it: by run id, with every failure one of two errors."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OFF = "off"
EXPERIMENT = "unipart"
KEY = "unipart.key"
LONGEST_PARAM, LONGEST_TAG, LONGEST_NAME = 500, 5000, 250
FEW, MANY = 100, 500
"""Parameters or tags, and metrics, in one request."""
PATIENCE = 15.0
"""Seconds after which a store that does not answer counts as gone."""
STARTING, WORKING = 60.0, 600.0
"""The same while a database is made or MLflow imported, and while a file is on its way."""

log = logging.getLogger(__name__)


class Unreachable(Exception):
    """The store gave no answer: it may come back."""


class Refused(Exception):
    """The store answered that it will not do this; it will not do it later either."""


@dataclass(frozen=True)
class OpenRun:
    """A run in the store.

    Attributes:
        experiment_id: its experiment.
        run_id: its id.
        params: parameters that it has already.
        tags: tags that it has already.
    """

    experiment_id: str
    run_id: str
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


def default_uri(runs: Path) -> str:
    """Returns the SQLite store of a folder of runs."""
    return f"sqlite:///{runs.resolve() / 'mlflow.db'}"


class Store:
    """A connection to a store; nothing is imported or opened before the first call.

    Args:
        uri: tracking URI: ``sqlite:///FILE``, ``http://HOST:PORT``, or whatever else MLflow takes.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.alive_until = 0.0
        """Until when (time.monotonic) it counts as working: a while after each answer, and while something slow is under way."""
        self._client: Any = None

    def call(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        """Calls a method of MLflow's client.

        Raises:
            Unreachable: no answer, or one that says "not now".
            Refused: the request itself is wrong.
        """
        if "artifact" in method or self._client is None or self.uri.startswith("sqlite"):
            self.alive_until = time.monotonic() + (WORKING if "artifact" in method else STARTING)
        try:
            answer = getattr(self._connected(), method)(*arguments, **keywords)
        except Exception as error:  # noqa: BLE001 - the border to MLflow, whose stores raise their drivers' own errors
            self.alive_until = 0.0
            raise _explained(error) from None
        self.alive_until = time.monotonic() + PATIENCE
        return answer

    def experiment(self, name: str = EXPERIMENT) -> str:
        """Returns the id of an experiment, which is made where there is none.

        Raises:
            Unreachable: no answer.
        """
        found = self.call("get_experiment_by_name", name)
        if found is None:
            try:
                return self.call("create_experiment", name, self._artifacts())
            except Refused:  # another run has just made it
                found = self.call("get_experiment_by_name", name)
        if found is None:
            raise Unreachable(f"experiment {name} is neither there nor can it be made")
        return found.experiment_id

    def open_run(self, key: str, run_id: str | None, name: str, tags: Mapping[str, str], experiment: str = EXPERIMENT) -> OpenRun:
        """Returns a training's run: the one of this id, else the one with this key, else a new one.

        Args:
            key: unique to the training; a tag of its run. It finds a run whose id was lost between its making and its noting.
            run_id: as noted, or None.
            name: of a new run.
            tags: of a new run.
            experiment: where it is looked for.

        Raises:
            Unreachable: no answer.
        """
        found = self.find_run(run_id) if run_id else None
        if found is None:
            experiment_id = self.experiment(experiment)
            runs = self.call("search_runs", [experiment_id], f"tags.`{KEY}` = '{key}'", max_results=1)
            start = {KEY: key, **{name: text[:LONGEST_TAG] for name, text in tags.items()}}
            found = runs[0] if runs else self.call("create_run", experiment_id, run_name=name, tags=start)
        return OpenRun(found.info.experiment_id, found.info.run_id, dict(found.data.params), dict(found.data.tags))

    def find_run(self, run_id: str) -> Any:
        """Returns MLflow's run of an id, or None where there is none or it was deleted.

        Raises:
            Unreachable: no answer.
        """
        try:
            run = self.call("get_run", run_id)
        except Refused:
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def log_params(self, run_id: str, values: Mapping[str, Any]) -> None:
        """Logs parameters; texts are cut to MLflow's length."""
        from mlflow.entities import Param

        entries = [Param(key, _param(value)) for key, value in values.items()]
        for start in range(0, len(entries), FEW):
            self.call("log_batch", run_id, params=entries[start : start + FEW])

    def log_tags(self, run_id: str, values: Mapping[str, Any]) -> None:
        """Sets tags."""
        from mlflow.entities import RunTag

        entries = [RunTag(key, str(value)[:LONGEST_TAG]) for key, value in values.items()]
        for start in range(0, len(entries), FEW):
            self.call("log_batch", run_id, tags=entries[start : start + FEW])

    def log_metrics(self, run_id: str, values: Sequence[tuple[str, float, int, int]]) -> None:
        """Logs (name, value, milliseconds, step) in one request; at most `MANY`.

        The same four again are dropped by the store: they are the key of its table.
        """
        from mlflow.entities import Metric

        if values:
            self.call(
                "log_batch",
                run_id,
                metrics=[Metric(metric_name(name), value, moment, step) for name, value, moment, step in values],
            )

    def steps(self, run_id: str, name: str) -> set[int]:
        """Returns the steps of which the store has a metric."""
        return {entry.step for entry in self.call("get_metric_history", run_id, metric_name(name))}

    def _connected(self) -> Any:
        if self._client is None:
            from mlflow import MlflowClient
            from mlflow.environment_variables import (
                MLFLOW_HTTP_REQUEST_MAX_RETRIES,
                MLFLOW_HTTP_REQUEST_TIMEOUT,
                MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT,
            )

            logging.getLogger("alembic").setLevel(logging.ERROR)
            logging.getLogger("mlflow").setLevel(logging.ERROR)
            # MLflow's own retries block a call to a dead server for four minutes.
            MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(1)
            MLFLOW_HTTP_REQUEST_TIMEOUT.set(10)
            MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.set(True)  # results go there
            self._client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        return self._client

    def _artifacts(self) -> str | None:
        """A SQLite store's artefacts lie beside it, not in whatever folder the command was started in; a server has its own."""
        database = self.uri.removeprefix("sqlite:///")
        return None if database == self.uri else (Path(database).resolve().parent / "mlartifacts").as_uri()


def same_param(logged: str, value: Any) -> bool:
    """Returns whether a parameter has this value in the store, which may have cut it."""
    return logged == _param(value)


def metric_name(name: str) -> str:
    """MLflow allows letters, digits and _-./ and space."""
    allowed = "".join(character if character.isalnum() or character in "_-./ " else "_" for character in name)
    return allowed[:LONGEST_NAME]


def _param(value: Any) -> str:
    return str(value)[:LONGEST_PARAM]


def _explained(error: Exception) -> Unreachable | Refused:
    from mlflow.exceptions import MlflowException

    lines = str(error).strip().splitlines() or [""]
    text = f"{type(error).__name__}: {lines[0][:200]}"
    if isinstance(error, MlflowException) and error.get_http_status_code() in (400, 404, 409):
        return Refused(text)
    return Unreachable(text)
