"""The process that forks: ``python -m pipelines.zygote module:function``, driven by `pipelines.isolate`.

One JSON line per request on standard input, one per answer on standard output (kept away from the libraries, which like to print).
It must have a single thread whenever it forks: a lock held by another thread would stay locked in the child for ever.
"""

import ctypes
import importlib
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NoReturn

from unipart.errors import EnvironmentProblem, Reject

Target = Callable[[dict[str, Any], Callable[[str], None]], dict[str, Any]]

_PR_SET_PDEATHSIG = 1
_MAX_TEXT = 8000
"""Characters kept of a traceback or of stderr."""


def main(argv: list[str]) -> int:
    """Serves requests until standard input ends."""
    module_name, _, function_name = argv[0].partition(":")
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print goes to stderr
    module = importlib.import_module(module_name)
    target: Target = getattr(module, function_name)
    if hasattr(module, "warm_up"):
        module.warm_up()
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        sys.stderr.write(f"the zygote has {threads} threads after the warm-up and cannot fork safely\n")
        return 1
    _send(answers, {"ready": True})
    while (line := _read_line()) is not None:
        _send(answers, serve(target, json.loads(line)))
    return 0


def serve(target: Target, message: dict[str, Any]) -> dict[str, Any]:
    """Runs one request in a child and returns the fields of an `Outcome`."""
    started = time.monotonic()
    read_end, write_end = os.pipe()
    with tempfile.TemporaryFile() as errors:
        pid = os.fork()
        if pid == 0:
            os.close(read_end)
            _run_child(target, message, write_end, errors)
        os.close(write_end)
        lines, in_time = _collect(read_end, pid, started + message["seconds"])
        os.close(read_end)
        _, status, usage = os.wait4(pid, 0)
        errors.seek(0)
        text = errors.read().decode(errors="replace")[-_MAX_TEXT:]
    answer = _judge(lines, in_time, status, text, message)
    return {**answer, "seconds": time.monotonic() - started, "peak_rss_mb": usage.ru_maxrss / 1024}


def _run_child(target: Target, message: dict[str, Any], write_end: int, errors: IO[bytes]) -> NoReturn:
    """Everything that happens in the child; it never returns into the zygote's loop."""
    code = 1
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # safe here: the zygote's only thread is our parent
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(errors.fileno(), 1)
        os.dup2(errors.fileno(), 2)
        with os.fdopen(write_end, "wb", buffering=0) as pipe:
            _send(pipe, _call(target, message, lambda step: _send(pipe, {"stage": step})))
        code = 0
    finally:
        os._exit(code)


def _call(target: Target, message: dict[str, Any], report: Callable[[str], None]) -> dict[str, Any]:
    _, hard_core = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard_core))
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if message["memory_mb"]:
        resource.setrlimit(resource.RLIMIT_DATA, (message["memory_mb"] << 20, hard))
    try:
        return {"state": "done", "result": target(message["request"], report)}
    except Reject as reject:
        return {"state": "rejected", "reason": reject.reason, "message": reject.message}
    except MemoryError:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))  # or reporting it would need what is not there
        return _out_of_memory(message, traceback.format_exc())
    except Exception as error:  # noqa: BLE001 - the border of the isolation: whatever went wrong becomes a row
        reason = "environment" if isinstance(error, EnvironmentProblem) else "exception"
        text = f"{type(error).__name__}: {error}"
        return {"state": "failed", "reason": reason, "message": text[:500], "traceback": traceback.format_exc()[-_MAX_TEXT:]}


def _collect(read_end: int, pid: int, deadline: float) -> tuple[list[bytes], bool]:
    """Reads until the child closes its end or the deadline; then nothing of the child's process group is left running."""
    data = b""
    in_time = True
    while True:
        ready, _, _ = select.select([read_end, 0], [], [], max(0.0, deadline - time.monotonic()))
        if read_end in ready:
            chunk = os.read(read_end, 1 << 16)
            if not chunk:
                break
            data += chunk
        elif ready or time.monotonic() >= deadline:  # standard input speaks only when our owner is gone
            in_time = False
            _kill(pid)
            if ready:
                os._exit(0)
            break
    if in_time:
        _await_exit(pid, deadline)
    return data.splitlines(), in_time


def _await_exit(pid: int, deadline: float) -> None:
    """Waits for a child that said all it has to say, without reaping it; a late one is killed."""
    while time.monotonic() < deadline + 1.0:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.001)
    _kill(pid)


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):  # the group exists only once the child has called setsid
        try:
            kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _judge(lines: list[bytes], in_time: bool, status: int, stderr: str, message: dict[str, Any]) -> dict[str, Any]:
    """Turns what a child left behind into an answer; the deadline names the cause before anything else."""
    documents = [json.loads(line) for line in lines if line.endswith(b"}")]
    stage = next((document["stage"] for document in reversed(documents) if "stage" in document), "")
    final = next((document for document in documents if "state" in document), None)
    if final is not None:
        return {**final, "stage": stage}
    answer: dict[str, Any]
    if not in_time:
        answer = {
            "state": "failed",
            "reason": "timeout",
            "message": f"no result within {message['seconds']:g} s",
            "traceback": stderr,
        }
    elif "bad_alloc" in stderr or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
        answer = _out_of_memory(message, stderr)
    elif os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        answer = {
            "state": "failed",
            "reason": f"crash_{name.lower()}",
            "message": f"native code died of {name}",
            "traceback": stderr,
        }
    else:
        code = os.waitstatus_to_exitcode(status)
        answer = {"state": "failed", "reason": "no_result", "message": f"exit code {code} without a result", "traceback": stderr}
    return {**answer, "stage": stage}


def _out_of_memory(message: dict[str, Any], text: str) -> dict[str, Any]:
    told = f"more than {message['memory_mb']} MB needed" if message["memory_mb"] else "the machine ran out of memory"
    return {"state": "failed", "reason": "out_of_memory", "message": told, "traceback": text[-_MAX_TEXT:]}


def _read_line() -> bytes | None:
    """Reads one request from standard input, unbuffered so that `select` stays truthful."""
    line = b""
    while not line.endswith(b"\n"):
        chunk = os.read(0, 1 << 16)
        if not chunk:
            return None
        line += chunk
    return line


def _send(file: Any, document: dict[str, Any]) -> None:
    data = json.dumps(document).encode() + b"\n"
    while data:
        data = data[file.write(data) :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
