"""The machines' figures beside a run's own, in the names of MLflow's system metrics.

``system.jsonl`` is of the driver's machine, ``system_NODE.jsonl`` of each other one.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

SYSTEM = "system.jsonl"
SECONDS = 10.0
"""Between two samples, as in MLflow."""

log = logging.getLogger(__name__)


class SystemFigures:
    """Samples CPU, memory, disk, network and NVIDIA GPUs of this machine; a row a sample, numbered through a run's restarts.

    Args:
        run: the run's folder.
        node: name of this machine, where it is not the driver's; MLflow has it in the names of the figures, too.
    """

    def __init__(self, run: Path, node: str = "") -> None:
        self.path, self.prefix = (run / f"system_{node}.jsonl", f"system/{node}") if node else (run / SYSTEM, "system")
        self.monitors = _monitors()
        for monitor in self.monitors:  # a rate needs a moment to count from
            monitor.collect_metrics()
            monitor.clear_metrics()
        text = self.path.read_bytes() if self.path.is_file() else b""
        self.number = text.count(b"\n")
        if not text.endswith(b"\n") and text:  # a row that was being written when the run was killed
            os.truncate(self.path, text.rfind(b"\n") + 1)

    def sample(self) -> None:
        """Appends a row: {"step": number of the sample, "time": milliseconds, "system/...": value}."""
        row: dict[str, float] = {"step": self.number, "time": int(time.time() * 1000)}
        for monitor in self.monitors:
            monitor.collect_metrics()
            row |= {f"{self.prefix}/{name}": value for name, value in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.number += 1


def system_files(run: Path) -> list[str]:
    """Returns the names of the files with the machines' figures."""
    return [SYSTEM, *sorted(path.name for path in run.glob("system_*.jsonl"))]


@contextmanager
def sampling(run: Path, node: str, seconds: float = SECONDS) -> Iterator[None]:
    """Samples a machine that is not the driver's for the length of a block, from a thread."""
    stop = threading.Event()

    def work() -> None:
        try:
            figures = SystemFigures(run, node)
            while not stop.wait(seconds):
                figures.sample()
        except (OSError, ImportError) as error:  # a full disk, or no MLflow on this machine
            log.warning("no figures of the machine %s: %s", node, error)

    thread = threading.Thread(target=work, name="system", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(seconds)


def _monitors() -> list[Any]:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monitors: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    with suppress(ImportError, RuntimeError):  # no nvidia-ml-py, or no NVIDIA GPU
        monitors.append(GPUMonitor())
    return monitors
