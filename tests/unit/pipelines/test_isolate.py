import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.isolate import Isolated
from unipart.errors import EnvironmentProblem

TARGET = """
import ctypes, os, time
from unipart.errors import EnvironmentProblem, Reject

WARM = []

def warm_up():
    WARM.append(os.getpid())

def work(request, report):
    report("first")
    kind = request["kind"]
    if kind == "ok":
        print("noise on stdout")
        return {"double": 2 * request["value"], "pid": os.getpid(), "zygote": WARM[0], "parent": os.getppid()}
    report("second")
    if kind == "reject":
        raise Reject("no_faces", "the file has no faces")
    if kind == "raise":
        raise KeyError("boom")
    if kind == "unreachable":
        raise EnvironmentProblem("s3://bucket/key: no answer", "check AWS_ENDPOINT_URL")
    if kind == "segv":
        ctypes.string_at(0)
    if kind == "abort":
        os.abort()
    if kind == "hang":
        time.sleep(100)
    if kind == "memory":
        blocks = []
        while True:
            blocks.append(bytearray(1 << 24))
    if kind == "exit":
        os._exit(0)
    if kind == "kill_zygote":
        os.kill(os.getppid(), 9)
        time.sleep(100)
    if kind == "child":
        pid = os.fork()
        if pid == 0:
            time.sleep(100)
        open(request["file"], "w").write(str(pid))
        time.sleep(100)
"""


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("target")
    (folder / "isolated_target.py").write_text(TARGET)
    return folder


@pytest.fixture
def isolated(module_folder, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{module_folder}:{Path(__file__).parents[3]}")
    handle = Isolated("isolated_target:work", seconds=1.5, memory_mb=400)
    yield handle
    handle.close()


def is_alive(pid: int) -> bool:
    """A zombie counts as gone."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(pid: int) -> bool:
    end = time.monotonic() + 5
    while time.monotonic() < end and is_alive(pid):
        time.sleep(0.02)
    return not is_alive(pid)


def test_result_comes_from_a_fresh_child_of_the_warm_zygote(isolated):
    first, second = (isolated.run({"kind": "ok", "value": value}) for value in (1, 21))
    assert first.state == second.state == "done"
    assert second.result["double"] == 42
    assert first.result["pid"] != second.result["pid"]
    assert first.result["zygote"] == first.result["parent"] == isolated.zygote_pid != os.getpid()
    assert second.stage == "first"
    assert 1 < second.peak_rss_mb < 400


@pytest.mark.parametrize(
    ("kind", "state", "reason"),
    [
        ("reject", "rejected", "no_faces"),
        ("raise", "failed", "exception"),
        ("unreachable", "failed", "environment"),
        ("segv", "failed", "crash_sigsegv"),
        ("abort", "failed", "crash_sigabrt"),
        ("hang", "failed", "timeout"),
        ("memory", "failed", "out_of_memory"),
        ("exit", "failed", "no_result"),
    ],
)
def test_every_way_to_go_wrong_is_named_and_the_zygote_lives_on(isolated, kind, state, reason):
    isolated.run({"kind": "ok", "value": 1})
    before = isolated.zygote_pid
    outcome = isolated.run({"kind": kind})
    assert (outcome.state, outcome.reason, outcome.stage) == (state, reason, "second")
    assert outcome.message
    assert outcome.seconds < 3
    if kind == "raise":
        assert 'KeyError("boom")' in outcome.traceback
    assert isolated.run({"kind": "ok", "value": 3}).result["double"] == 6
    assert isolated.zygote_pid == before


def test_timeout_kills_the_whole_process_group(isolated, tmp_path):
    file = tmp_path / "pid"
    assert isolated.run({"kind": "child", "file": str(file)}).reason == "timeout"
    assert wait_until_gone(int(file.read_text()))


def test_a_dead_zygote_is_restarted(isolated):
    isolated.run({"kind": "ok", "value": 1})
    before = isolated.zygote_pid
    os.kill(before, signal.SIGKILL)
    assert wait_until_gone(before)
    assert isolated.run({"kind": "ok", "value": 4}).result["double"] == 8
    assert isolated.zygote_pid != before
    assert isolated.run({"kind": "kill_zygote"}).reason == "zygote_lost"
    assert isolated.run({"kind": "ok", "value": 5}).result["double"] == 10


def test_no_process_outlives_a_killed_owner(module_folder):
    owner = (
        "import sys, threading; from pipelines.isolate import Isolated\n"
        "handle = Isolated('isolated_target:work', 60, 0)\n"
        "result = handle.run({'kind': 'ok', 'value': 1}).result\n"
        "print(handle.zygote_pid, flush=True)\n"
        "handle.run({'kind': 'hang'})\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{module_folder}:{Path(__file__).parents[3]}"}
    process = subprocess.Popen([sys.executable, "-c", owner], stdout=subprocess.PIPE, env=environment, text=True)
    assert process.stdout is not None
    zygote = int(process.stdout.readline())
    children = Path(f"/proc/{zygote}/task/{zygote}/children")
    end = time.monotonic() + 5
    while not (child := children.read_text().split()) and time.monotonic() < end:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert wait_until_gone(zygote)
    assert wait_until_gone(int(child[0]))


def test_a_target_that_cannot_be_imported_is_an_environment_problem():
    with pytest.raises(EnvironmentProblem, match="no_such_module"):
        Isolated("no_such_module:work", 1, 0).run({})
