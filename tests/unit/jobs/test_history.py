import json
from pathlib import Path

import pytest

from jobs.training.history import peak_flops, write_nonfinite


def test_a_file_that_can_be_done_without_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "nonfinite_step_00000003.json").mkdir()
    write_nonfinite(tmp_path, {"step": 3})
    assert "nonfinite_step_00000003.json cannot be written: Is a directory" in caplog.text
    assert json.loads(write_nonfinite(tmp_path, {"step": 4}).read_text()) == {"step": 4}


@pytest.mark.parametrize(
    ("gpu", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA GB200", 2500e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA RTX A1000", 0.0),
    ],
)
def test_the_peak_of_a_gpu_is_known_by_whole_words(gpu: str, peak: float):
    assert peak_flops(gpu) == peak
