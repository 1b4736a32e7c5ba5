"""What a training notes beside itself while it runs: its rows of figures, where its time goes, and a step that was not finite."""

import json
import logging
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from jobs.runs import HISTORY, read_history
from unipart.errors import EnvironmentProblem

# From NVIDIA's data sheets, whose figures "with sparsity" are twice these; fp32 sums, where a card is faster with fp16 ones.
PEAK_FLOPS = {
    "GB200": 2500e12,
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H800": 989e12,
    "H20": 148e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A10": 125e12,
    "A30": 165e12,
    "A40": 150e12,
    "RTX 5090": 210e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "RTX 6000 Ada": 364e12,
    "RTX A6000": 155e12,
}
"""Dense bfloat16 FLOPs a second by words of the GPU's name; the first that fit."""

log = logging.getLogger(__name__)


class History:
    """A JSON line a row. It only grows: a resumed run repeats steps that are there already, and does not note them again.

    So no row is lost when a run is killed, and whoever follows the file never sees one twice.

    Args:
        run: the run's folder.
        enabled: on one worker only.
    """

    def __init__(self, run: Path, enabled: bool = True) -> None:
        self.path, self.enabled = run / HISTORY, enabled
        self.known: set[tuple[int, str]] = set()
        if not enabled:
            return
        run.mkdir(parents=True, exist_ok=True)
        rows = read_history(run)
        self.known = {(int(row["step"]), name) for row in rows for name in row}
        if self.path.is_file():  # a row that was being written when the run was killed has no line end
            text = self.path.read_bytes()
            os.truncate(self.path, text.rfind(b"\n") + 1)

    def write(self, row: dict[str, float]) -> None:
        """Appends the figures of a row that its step does not have yet.

        Raises:
            EnvironmentProblem: the disk is full.
        """
        step = int(row["step"])
        row = {name: value for name, value in row.items() if name == "step" or (step, name) not in self.known}
        if not self.enabled or len(row) == 1:
            return
        self.known |= {(step, name) for name in row}
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise EnvironmentProblem(
                f"{self.path} cannot be written: {error.strerror}", "free some space, and run again: it resumes"
            ) from None


class Clock:
    """Seconds since the last row, by what they were spent on; what is paused belongs to no row."""

    def __init__(self) -> None:
        self.spent = {"data": 0.0, "checkpoint": 0.0, "pause": 0.0}
        self.start = time.perf_counter()

    @contextmanager
    def on(self, kind: str) -> Iterator[None]:
        """Counts a block as data, checkpoint or pause."""
        begin = time.perf_counter()
        yield
        self.spent[kind] += time.perf_counter() - begin

    def row(self, steps: int, samples: int) -> dict[str, float]:
        """Returns seconds a step by kind, in all, and samples a second; begins anew."""
        seconds = time.perf_counter() - self.start - self.spent["pause"]
        data, saving = self.spent["data"], self.spent["checkpoint"]
        self.__init__()
        figures = {"time/data": data / steps, "time/checkpoint": saving / steps, "time/compute": (seconds - data - saving) / steps}
        return {"samples_per_second": steps * samples / seconds, "seconds": seconds, **figures}


def machine_figures(device: torch.device, flops_per_second: float) -> dict[str, float]:
    """Returns the peak memory so far and, where the GPU is known, the share of its peak that the model's FLOPs make (MFU).

    Args:
        device: of this worker.
        flops_per_second: of the model, on this worker; 0 where they were not counted.
    """
    if device.type != "cuda":
        return {"memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    figures = {"memory_gb": torch.cuda.max_memory_allocated(device) / 2**30}
    peak = peak_flops(torch.cuda.get_device_name(device))
    return figures | ({"mfu": flops_per_second / peak} if peak and flops_per_second else {})


def peak_flops(gpu: str) -> float:
    """Returns the peak of a GPU of this name, or 0 where it is not known."""
    words = f" {gpu.replace('-', ' ')} "
    return next((peak for name, peak in PEAK_FLOPS.items() if f" {name} " in words), 0.0)


def write_nonfinite(run: Path, document: dict[str, Any]) -> Path:
    """Writes what is needed to look at a step that was not finite; returns the file."""
    path = run / f"nonfinite_step_{document['step']:08d}.json"
    with dispensable(path):
        path.write_text(json.dumps(document, indent=2) + "\n")
    return path


@contextmanager
def dispensable(path: Path) -> Iterator[None]:
    """Around the writing of a file that a training can do without: a full disk is said, and the training goes on."""
    try:
        yield
    except OSError as error:
        log.warning("%s cannot be written: %s", path, error.strerror or error)
