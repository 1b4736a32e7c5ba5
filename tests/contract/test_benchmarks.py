"""The model benchmarks run where only torch is: no Ray, igl or MLflow."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALONE = """
import runpy, sys
for name in ("ray", "igl", "mlflow", "boto3", "webdataset", "trimesh", "numba"):
    sys.modules[name] = None
sys.argv = {arguments!r}
runpy.run_module({module!r}, run_name="__main__")
"""


def alone(module: str, *arguments: str) -> str:
    code = ALONE.format(module=module, arguments=[module, *arguments])
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_models_are_timed_against_a_measured_ceiling(tmp_path: Path):
    file = tmp_path / "rows.json"
    out = alone("benchmarks.models", "--tier", "ci", "--model", "anchor", "part", "--repeats", "2", "--json", str(file))
    document = json.loads(file.read_text())
    assert document["machine"]["ceiling_tflop_per_s"] > 0
    rows = {(row["model"], row["what"]): row for row in document["rows"]}
    assert set(rows) >= {("part", "forward: part model"), ("part", "training step"), ("anchor", "training step")}
    for row in rows.values():
        assert row["tflop_per_s"] == pytest.approx(row["gflop"] / row["seconds"] / 1000)
        assert row["mfu"] == pytest.approx(row["tflop_per_s"] / document["machine"]["ceiling_tflop_per_s"])
    assert "training step" in out


@pytest.mark.slow
def test_experts_are_compared_with_the_loop(tmp_path: Path):
    file = tmp_path / "rows.json"
    alone("benchmarks.moe", "--size", "ci", "--device", "cpu", "--json", str(file))
    (row,) = json.loads(file.read_text())
    assert row["largest difference"] < 1e-5
    assert row["step ratio"] > 0
