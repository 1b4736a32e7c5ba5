"""What watches a training from the process that started it: progress, the run's state, the machine's figures, the store."""

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from jobs.runs import HISTORY, latest_checkpoint, write_state
from jobs.tracking.registry import Finished
from jobs.tracking.shipper import Ending, Shipper
from jobs.tracking.system import SECONDS, SystemFigures

BEAT = 10.0
"""Seconds between two signs of life in the run's folder."""

log = logging.getLogger(__name__)


class RunFollower:
    """Follows a growing ``history.jsonl`` in a thread, beside the shipper's: a store that hangs delays no line of progress.

    Args:
        run: the run's folder; the file may not exist yet.
        shipper: what sends it to a store; None for nowhere.
        on_row: called with every new row.
        finished: makes what is registered at the end from the newest checkpoint.
        seconds: how often to look.
    """

    def __init__(
        self,
        run: Path,
        shipper: Shipper | None,
        on_row: Callable[[dict[str, float]], None] | None = None,
        finished: Callable[[Path], Finished] | None = None,
        seconds: float = 2.0,
    ) -> None:
        self.run, self.shipper, self.on_row, self.finished, self.seconds = run, shipper, on_row, finished, seconds
        text = (run / HISTORY).read_bytes() if (run / HISTORY).is_file() else b""
        self._position = text.rfind(b"\n") + 1
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="follower", daemon=True)

    def __enter__(self) -> "RunFollower":
        write_state(self.run, "running")
        if self.shipper is not None:
            self.shipper.start()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._poll()
        stopped = kind is not None and issubclass(kind, KeyboardInterrupt)
        state, status = ("finished", "FINISHED") if kind is None else ("interrupted", "KILLED") if stopped else ("failed", "FAILED")
        write_state(self.run, state, str(error) if state == "failed" else "")
        newest = latest_checkpoint(self.run)
        model = self.finished(newest) if status == "FINISHED" and newest is not None and self.finished is not None else None
        if self.shipper is not None:
            self.shipper.close(Ending(status, model))

    def _work(self) -> None:
        figures = SystemFigures(self.run) if self.shipper is not None else None
        beat = sampled = time.monotonic()
        while not self._stop.wait(self.seconds):
            self._poll()
            now = time.monotonic()
            if now - beat >= BEAT:
                write_state(self.run, "running")
                beat = now
            if figures is not None and now - sampled >= SECONDS:
                sampled = now
                try:
                    figures.sample()
                except OSError as error:
                    log.warning("no figures of the machine any more: %s", error)
                    figures = None

    def _poll(self) -> None:
        """Hands on complete rows that are new since the last look."""
        path = self.run / HISTORY
        if not path.is_file() or path.stat().st_size <= self._position:
            return
        with path.open("rb") as file:
            file.seek(self._position)
            text = file.read()
        text = text[: text.rfind(b"\n") + 1]
        self._position += len(text)
        for line in text.splitlines():
            if self.on_row is not None:
                self.on_row(json.loads(line))
