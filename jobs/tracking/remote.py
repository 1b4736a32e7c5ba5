"""Runs read back from a store: a run fetched is a folder like one that was trained here, so everything that reads runs reads it."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.runs import HISTORY, KINDS, LINK, OBJECTS, SETTINGS, STATE, VALIDATION, RunRecord, read_run
from jobs.tracking.shipper import RESUMED
from jobs.tracking.store import EXPERIMENT, Refused, Store, Unreachable, metric_name
from unipart.errors import EnvironmentProblem, UserError

STATES = {"FINISHED": "finished", "KILLED": "interrupted", "FAILED": "failed"}
PAGE = 500
PARENT = "unipart.parent."


def remote_runs(uri: str, folder: Path) -> list[tuple[str, RunRecord]]:
    """Fetches name and outline of a store's trainings, newest first.

    Args:
        uri: the store.
        folder: where they are put, a subfolder each.

    Raises:
        EnvironmentProblem: the store does not answer.
    """
    store = Store(uri)
    try:
        runs = [run for run in _search(store, "") if run.data.tags.get("unipart.kind") in KINDS]
        return [(run.info.run_name, _outline(store, run, folder / run.info.run_id)) for run in runs]
    except Unreachable as error:
        raise _silent(uri, error) from None


def fetch_run(uri: str, name: str, folder: Path, pictures: bool = True) -> tuple[str, RunRecord]:
    """Fetches one training; returns its name there and the run.

    Args:
        uri: the store.
        name: the run's id, or its name where no other run has it.
        folder: where it is put, in a subfolder.
        pictures: with what its validations drew.

    Raises:
        UserError: there is no such run, or several.
        EnvironmentProblem: the store does not answer.
    """
    store = Store(uri)
    try:
        found = store.find_run(name)
        named = [found] if found else list(_search(store, "attributes.run_name = '{}'".format(name.replace("'", ""))))
        if len(named) != 1:
            ids = ", ".join(run.info.run_id for run in named)
            problem = f"{len(named)} runs are called {name!r}: {ids}" if named else f"there is no run {name!r} in {uri}"
            raise UserError(problem, "give a run's id: `unipart runs URI` lists them")
        (run,) = named
        return run.info.run_name, _fetch(store, run, folder / run.info.run_id, pictures)
    except (Unreachable, Refused) as error:
        raise _silent(uri, error) from None


def _search(store: Store, wanted: str) -> Iterator[Any]:
    experiment, token = store.call("get_experiment_by_name", EXPERIMENT), None
    while experiment is not None:
        page = store.call("search_runs", [experiment.experiment_id], wanted, max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _fetch(store: Store, run: Any, folder: Path, pictures: bool) -> RunRecord:
    """Makes a run's folder from what the store has of it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        store.call("download_artifacts", run.info.run_id, SETTINGS, str(folder))
    except (Refused, Unreachable):  # a run that was cut off before its settings were sent
        _write_settings(run, folder)
    else:
        settings = json.loads((folder / SETTINGS).read_text())
        (folder / SETTINGS).write_text(json.dumps({"inputs": _inputs(run), **settings}))
    _write_history(store, run, folder, list(run.data.metrics))
    _write_state(store, run, folder)
    if pictures:
        _fetch_pictures(store, run.info.run_id, folder)
    return read_run(folder)


def _fetch_pictures(store: Store, run_id: str, folder: Path) -> None:
    """Fetches what the last complete validation drew."""
    steps = [item.path for item in store.call("list_artifacts", run_id, VALIDATION) if item.is_dir]
    for step in sorted(steps, reverse=True):
        if any(item.path.endswith(OBJECTS) for item in store.call("list_artifacts", run_id, step)):
            (folder / VALIDATION).mkdir(exist_ok=True)
            # Where it lands depends on the kind of store: STEP or validation/STEP below the folder that was asked for.
            found = Path(store.call("download_artifacts", run_id, step, str(folder)))
            if found != folder / step:
                found.rename(folder / step)
            return


def _outline(store: Store, run: Any, folder: Path) -> RunRecord:
    """The same of what a list shows: two curves, of the other figures the last value, settings as text; no file is fetched."""
    folder.mkdir(parents=True, exist_ok=True)
    metric = (run.data.params.get("best") or "val/loss:min").rpartition(":")[0]
    _write_settings(run, folder)
    _write_history(store, run, folder, [name for name in ("loss", metric_name(metric)) if name in run.data.metrics])
    _write_state(store, run, folder)
    record = read_run(folder)
    rest = {name: value for name, value in run.data.metrics.items() if name not in record.last()}
    return replace(record, rows=[*record.rows, {"step": record.step, **rest}])


def _write_settings(run: Any, folder: Path) -> None:
    tags = run.data.tags
    resumed = {name.removeprefix(RESUMED): text for name, text in tags.items() if name.startswith(RESUMED)}
    settings = {"kind": tags["unipart.kind"], "config": {**run.data.params, **resumed}, "changed": {}}
    settings |= {"data": tags.get("unipart.dataset", ""), "inputs": _inputs(run)}
    (folder / SETTINGS).write_text(json.dumps(settings))


def _inputs(run: Any) -> dict[str, str]:
    """Returns the digests of a run's data and parents, by its tags."""
    found = {name.removeprefix(PARENT): text for name, text in run.data.tags.items() if name.startswith(PARENT)}
    return found | ({"data": run.data.tags["unipart.data"]} if "unipart.data" in run.data.tags else {})


def _write_history(store: Store, run: Any, folder: Path, metrics: list[str]) -> None:
    rows: dict[int, dict[str, float]] = {}
    for metric in metrics:
        if not metric.startswith("system/"):
            for entry in store.call("get_metric_history", run.info.run_id, metric):
                rows.setdefault(entry.step, {"step": entry.step})[metric] = entry.value
    (folder / HISTORY).write_text("".join(json.dumps(rows[step]) + "\n" for step in sorted(rows)))


def _write_state(store: Store, run: Any, folder: Path) -> None:
    link = {"uri": store.uri, "experiment_id": run.info.experiment_id, "run_id": run.info.run_id}
    link["checkpoint"] = run.data.tags.get("unipart.checkpoint", "")
    (folder / LINK).write_text(json.dumps(link))
    # How a run without an end fares is known where it runs, and not here.
    state = {"state": STATES.get(run.info.status, "running"), "started": run.info.start_time / 1000, "seen": math.inf, "reason": ""}
    (folder / STATE).write_text(json.dumps(state))


def _silent(uri: str, error: Exception) -> EnvironmentProblem:
    return EnvironmentProblem(f"{uri} does not answer: {error}", "start the server, or correct the address")
