"""Brings a run's files to a store from a thread of its own, however often the store goes away: rows of figures, pictures, models.

The files are the buffer and the store is the record. What was acknowledged is noted beside the run; what was under way when the
connection broke, or the process was killed, is asked for before it is sent again. So each figure arrives, and arrives once.
"""

import bisect
import json
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.runs import HISTORY, SETTINGS, VALIDATION
from jobs.tracking.note import Note, read_note
from jobs.tracking.registry import Finished, register
from jobs.tracking.store import MANY, PATIENCE, OpenRun, Refused, Store, Unreachable, same_param
from jobs.tracking.system import system_files

RESUMED = "unipart.resumed."
LONGEST_WAIT = 30.0
MOST_FAILURES = 10
"""At the end of a run, of a store that answers some calls and not others."""
CHUNK = 1 << 20

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFacts:
    """What the store is told of a training at each start.

    Attributes:
        name: of the run.
        params: the flat config.
        tags: lineage, data, code.
        finished: nothing is trained any more: only what the store lacks is sent.
    """

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    finished: bool = False


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    Attributes:
        status: FINISHED, FAILED or KILLED.
        model: what it leaves, or None.
    """

    status: str
    model: Finished | None = None


class Shipper:
    """Follows a run's folder and sends what the store lacks.

    Args:
        run: the run's folder.
        uri: the store.
        facts: what the run is.
        seconds: between two looks.
        patience: longest wait, at the end, for a store that does not answer.
    """

    def __init__(self, run: Path, uri: str, facts: RunFacts, seconds: float = 2.0, patience: float = PATIENCE) -> None:
        self.run, self.facts, self.seconds, self.patience = run, facts, seconds, patience
        self.note: Note = read_note(run, uri)
        self.store = Store(uri)
        self.opened: OpenRun | None = None
        self._doubtful: dict[str, int] = {}
        self._there: dict[str, set[int]] = {}
        self._looks: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._ending: Ending | None = None
        self._abandoned = self._complete = self._told = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    def start(self) -> None:
        """Begins; returns at once, whether or not the store answers."""
        self._thread.start()

    def close(self, ending: Ending) -> bool:
        """Sends the rest and ends the run in the store; returns whether all of it arrived.

        It waits for a store that works, and `patience` seconds for one that does not.
        """
        self._ending = ending
        self._wake.set()
        start = time.monotonic()
        while self._thread.is_alive() and time.monotonic() < max(start + self.patience, self.store.alive_until):
            self._thread.join(0.05)
        if not self._complete:
            self._abandoned = True
            self._wake.set()
            rest = sum(_read(self.run / name, self._position(name)).count(b"\n") for name in _files(self.run))
            log.warning(
                "tracking: %s does not answer; %d rows are kept in %s, and the same command sends them",
                self.note.uri,
                rest,
                self.run,
            )
        return self._complete

    def _work(self) -> None:
        wait, failures = self.seconds, 0
        while not self._abandoned and failures < MOST_FAILURES:
            ending = self._ending  # before the round: what was written before the end is in it
            self._look()
            try:
                self._round(ending)
            except (Unreachable, Refused, OSError) as error:
                self.opened, wait = None, min(2 * wait, LONGEST_WAIT if ending is None else 1.0)
                failures += ending is not None
                self._tell(f"gets no rows ({error}); the run goes on, they wait in {self.run}")
            else:
                if ending is not None:
                    self._complete = True
                    return
                wait = self.seconds
                if self._told:
                    self._tell("answers again, and has all rows")
            self._wake.wait(wait)
            self._wake.clear()

    def _tell(self, message: str) -> None:
        answers = message.startswith("answers")
        if self._told == answers:
            log.warning("tracking: %s %s", self.note.uri, message)
            self._told = not answers

    def _round(self, ending: Ending | None) -> None:
        opened = self.opened or self._connect()
        for name in _files(self.run):
            while self._ship(opened.run_id, name):
                pass
        self._upload(opened.run_id)
        if ending is not None:
            self._end(opened, ending)

    def _connect(self) -> OpenRun:
        note, facts = self.note, self.facts
        self.store = Store(note.uri)
        note.write(self.run)  # the key is kept before a run has it
        opened = self.store.open_run(note.key, note.run_id, facts.name, facts.tags)
        if opened.run_id != note.run_id:
            note.experiment_id, note.run_id = opened.experiment_id, opened.run_id
            note.shipped, note.files, note.status, note.model = {}, {}, "", ""
        if not facts.finished:
            self.store.call("update_run", opened.run_id, status="RUNNING")
            note.status = ""
        self._note()
        self._describe(opened)
        self._doubtful = {name: _size(self.run / name) for name in _files(self.run)}
        self._there = {}
        self.opened = opened
        return opened

    def _describe(self, opened: OpenRun) -> None:
        """Logs parameters and tags. A parameter never changes: what a resumed run changed is told by a tag."""
        fresh = {name: value for name, value in self.facts.params.items() if name not in opened.params}
        self.store.log_params(opened.run_id, fresh)
        tags = {name: str(text) for name, text in self.facts.tags.items()}
        for name, value in self.facts.params.items():
            before = opened.params.get(name)
            if before is not None and (not same_param(before, value) or RESUMED + name in opened.tags):
                tags[RESUMED + name] = str(value)
        self.store.log_tags(opened.run_id, {name: text for name, text in tags.items() if opened.tags.get(name) != text})

    def _look(self) -> None:
        """Notes how long the files are now: a row's time in the store is when it was first seen, for each attempt the same."""
        now = int(time.time() * 1000)
        for name in _files(self.run):
            looks, size = self._looks[name], _size(self.run / name)
            if size > self._position(name) and (not looks or looks[-1][0] < size):
                looks.append((size, now))

    def _ship(self, run_id: str, name: str) -> bool:
        """Sends rows of a file, as many as fit a request; returns whether there were any."""
        start = end = self._position(name)
        values: list[tuple[str, float, int, int]] = []
        for line in _read(self.run / name, start).splitlines(keepends=True):
            fresh = list(self._values(run_id, name, json.loads(line), end, end + len(line)))
            if values and len(values) + len(fresh) > MANY:
                break
            values += fresh
            end += len(line)
        if end == start:
            return False
        try:
            for at in range(0, len(values), MANY):
                self.store.log_metrics(run_id, values[at : at + MANY])
        except Refused as error:
            if self.store.find_run(run_id) is None:
                raise Unreachable("the run was deleted there: a new one is made") from None
            log.warning("tracking: %s refuses rows (%s); they stay in %s, bytes %d to %d", self.note.uri, error, name, start, end)
        self.note.shipped[name] = end
        self._looks[name] = [look for look in self._looks[name] if look[0] > end]
        self._note()
        return True

    def _values(self, run_id: str, name: str, row: dict[str, float], start: int, end: int) -> Iterator[tuple[str, float, int, int]]:
        """Yields (name, value, milliseconds, step) of a row, without those that the store is found to have."""
        looks, step = self._looks[name], int(row.get("step", 0))
        seen = bisect.bisect_left(looks, (end, 0))
        moment = int(row.get("time", looks[seen][1] if seen < len(looks) else time.time() * 1000))
        for key, value in row.items():
            if key in ("step", "time"):
                continue
            if start < self._doubtful.get(name, 0):
                if key not in self._there:
                    self._there[key] = self.store.steps(run_id, key)
                if step in self._there[key]:
                    continue
            yield key, float(value), moment, step

    def _upload(self, run_id: str) -> None:
        """Sends the settings as often as they change, and each file of a validation once; files appear whole, by a rename."""
        documents = [path for path in (self.run / SETTINGS, *sorted(self.run.glob("nonfinite_step_*.json"))) if path.is_file()]
        found = {path: path.stat().st_mtime_ns for path in documents}
        found |= {
            path: 0 for path in sorted((self.run / VALIDATION).rglob("*")) if path.is_file() and not path.name.startswith(".")
        }
        for path, version in found.items():
            place = path.relative_to(self.run)
            if self.note.files.get(place.as_posix()) == version:
                continue
            folder = place.parent.as_posix()
            self.store.call("log_artifact", run_id, str(path), None if folder == "." else folder)
            self.note.files[place.as_posix()] = version
            self._note()

    def _end(self, opened: OpenRun, ending: Ending) -> None:
        model = ending.model
        if model is not None and self.note.model != model.digest:
            self.store.log_tags(opened.run_id, {"unipart.checkpoint": str(model.newest), "unipart.weights": model.digest})
            for path in model.cards():
                self.store.call("log_artifact", opened.run_id, str(path), "model")
            try:
                register(self.store, opened, model)
            except Refused as error:
                log.warning("tracking: %s does not register the model: %s", self.note.uri, error)
            self.note.model = model.digest
            self._note()
        if self.note.status != ending.status:
            self.store.call("set_terminated", opened.run_id, status=ending.status)
            self.note.status = ending.status
        self._note()

    def _position(self, name: str) -> int:
        return self.note.shipped.get(name, 0)

    def _note(self) -> None:
        if not self._abandoned:
            self.note.write(self.run)


def is_complete(run: Path, uri: str, digest: str) -> bool:
    """Returns whether a finished run's store has, by the note beside it, all of its rows and its newest model."""
    note = read_note(run, uri)
    sent = all(note.shipped.get(name, 0) >= _size(run / name) for name in _files(run))
    return bool(note.run_id) and sent and note.status == "FINISHED" and note.model == digest


def _files(run: Path) -> list[str]:
    """Returns the names of the files of rows."""
    return [HISTORY, *system_files(run)]


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _read(path: Path, position: int) -> bytes:
    """Returns complete lines from a position on; a line that is being written has no end yet."""
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        file.seek(position)
        text = file.read(CHUNK)
    return text[: text.rfind(b"\n") + 1]
