"""The machine's figures beside a run's own: ``system.jsonl``, in the names of MLflow's system metrics."""

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

SYSTEM = "system.jsonl"
SECONDS = 10.0
"""Between two samples, as in MLflow."""


class SystemFigures:
    """Samples CPU, memory, disk, network and NVIDIA GPUs of this machine; a row a sample, numbered through a run's restarts.

    Args:
        run: the run's folder.
    """

    def __init__(self, run: Path) -> None:
        self.path = run / SYSTEM
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
            row |= {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.number += 1


def _monitors() -> list[Any]:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monitors: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    with suppress(ImportError, RuntimeError):  # no nvidia-ml-py, or no NVIDIA GPU
        monitors.append(GPUMonitor())
    return monitors
