import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unipart.config import keep_ray_apart

LOCAL = """
from pathlib import Path
import os
import ray
from pipelines.cluster import start_ray

start_ray(num_cpus=1)
print(Path(os.environ["RAY_TMPDIR"], "ray", "session_latest").resolve())
print(ray.get(ray.remote(lambda: os.getpriority(os.PRIO_PROCESS, 0)).remote()))
"""


def test_what_the_user_said_of_ray_stays(monkeypatch: pytest.MonkeyPatch):
    for name, value in (said := {"RAY_TMPDIR": "/somewhere", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1"}).items():
        monkeypatch.setenv(name, value)
    keep_ray_apart()
    assert {name: os.environ[name] for name in said} == said


@pytest.mark.slow
def test_a_ray_started_here_keeps_to_itself_and_does_not_step_back_behind_other_work():
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_TMPDIR", "RAY_ADDRESS")}
    started = time.time()
    command = [sys.executable, "-c", LOCAL]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    session, niceness = done.stdout.split()
    assert Path("/tmp/ray") not in Path(session).parents, "where the address of a cluster that died may lie"
    assert Path(session).stat().st_mtime >= started - 1
    assert int(niceness) == os.getpriority(os.PRIO_PROCESS, 0)
