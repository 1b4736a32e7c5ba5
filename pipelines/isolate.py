"""Runs a function on untrusted data in a process of its own: a crash, a hang or too much memory becomes an answer, not an accident.

`Isolated` starts a zygote (`pipelines.zygote`): a small process with one thread that has imported everything and forks a child per
request. A fork costs milliseconds where a fresh interpreter costs a second, and the caller (a Ray worker with many threads, which
must never fork) stays out of it. The zygote lives until its standard input ends, so it never outlives its owner, however that one
dies. A death signal would not do: it follows the thread that started the process, and Ray's threads come and go.
"""

import json
import select
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from unipart.errors import EnvironmentProblem

_GRACE_SECONDS = 30.0
"""How long after the deadline of a request the zygote itself may take to answer."""
_START_SECONDS = 600.0
"""How long the zygote may take to import and compile."""
_MAX_TEXT = 2000
"""Characters shown of what a zygote said that did not start."""
_ONE_THREAD = ("OMP_NUM_THREADS", "IGL_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_KEEP_FREED_MEMORY = ("MALLOC_MMAP_THRESHOLD_=33554432", "MALLOC_TRIM_THRESHOLD_=134217728")
"""A child is new, so glibc has not learned yet to keep freed arrays: without this a tenth of the time goes into page faults."""


@dataclass(frozen=True)
class Outcome:
    """How one request went.

    Attributes:
        state: ``done``, ``rejected`` (the function raised `Reject`) or ``failed``.
        result: what the function returned, when done.
        reason: reason code of the `Reject`; else ``crash_<signal>``, ``timeout``, ``out_of_memory``, ``environment`` (the storage
            could not be reached, say), ``exception``, ``no_result`` or ``zygote_lost``.
        message: one sentence.
        traceback: Python traceback or the end of what the process wrote to stderr.
        stage: the last step that the function reported.
        seconds: wall time.
        peak_rss_mb: largest resident size of the child.
    """

    state: str
    result: dict[str, Any] | None = None
    reason: str = ""
    message: str = ""
    traceback: str = ""
    stage: str = ""
    seconds: float = 0.0
    peak_rss_mb: float = 0.0


class Isolated:
    """A function that runs in forked children of a zygote.

    Args:
        target: ``module:function``, called as ``function(request, report)`` in the child; `request` is a JSON object, the return
            value too, ``report(step)`` names the current step. A function ``warm_up()`` of the module is called once in the zygote.
        seconds: deadline of one request.
        memory_mb: limit of the child's private memory; 0 for none.
    """

    def __init__(self, target: str, seconds: float, memory_mb: int) -> None:
        self.target, self.seconds, self.memory_mb = target, seconds, memory_mb
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, request: dict[str, Any]) -> Outcome:
        """Runs one request; a dead zygote is restarted once.

        Raises:
            EnvironmentProblem: the zygote cannot start (an import fails).
        """
        line = json.dumps({"request": request, "seconds": self.seconds, "memory_mb": self.memory_mb}).encode() + b"\n"
        with self._lock:
            for _ in range(2):
                answer = self._ask(line)
                if answer is not None:
                    return Outcome(**answer)
                self._stop()
        return Outcome("failed", reason="zygote_lost", message="the process that forks the workers died twice on this request")

    def close(self) -> None:
        """Ends the zygote."""
        with self._lock:
            self._stop()

    @property
    def zygote_pid(self) -> int | None:
        """Process id of the zygote, when it runs."""
        return None if self._process is None else self._process.pid

    def _ask(self, line: bytes) -> dict[str, Any] | None:
        process = self._process
        if process is None or process.poll() is not None:
            self._stop()
            process = self._process = self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except BrokenPipeError:
            return None
        return _read_answer(process, self.seconds + _GRACE_SECONDS)

    def _start(self) -> subprocess.Popen[bytes]:
        settings = [*(f"{name}=1" for name in _ONE_THREAD), *_KEEP_FREED_MEMORY]
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                ["env", *settings, sys.executable, "-m", "pipelines.zygote", self.target],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # Ctrl-C is for the run, which then ends in order; it must not look like an asset's crash
            )
            if _read_answer(process, _START_SECONDS) is None:
                process.kill()
                process.wait()
                errors.seek(0)
                told = errors.read().decode(errors="replace").strip()[-_MAX_TEXT:]
                raise EnvironmentProblem(f"the isolated process for {self.target} did not start: {told}", "run `unipart doctor`")
        return process

    def _stop(self) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.stdout.close()
        with suppress(BrokenPipeError):  # an unsent request dies with the process
            self._process.stdin.close()
        self._process.wait()
        self._process = None


@lru_cache(maxsize=1)
def shared(target: str, seconds: float, memory_mb: int) -> Isolated:
    """Returns this process's zygote for a target; a Ray worker keeps it between tasks."""
    return Isolated(target, seconds, memory_mb)


def _read_answer(process: subprocess.Popen[bytes], timeout: float) -> dict[str, Any] | None:
    """Reads one JSON line; None when the process died or hung."""
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    end = time.monotonic() + timeout
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([descriptor], [], [], max(0.0, end - time.monotonic()))
        chunk = process.stdout.read1(1 << 16) if ready else b""  # type: ignore[union-attr]
        if not chunk:
            return None
        line += chunk
    return json.loads(line)
