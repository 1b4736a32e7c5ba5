"""The benchmarks run; those of the models where only torch is: no Ray, igl or MLflow."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import trimesh

from benchmarks.__main__ import BENCHMARKS
from benchmarks.remesh import load_all

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


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_tells_its_flags(name: str):
    command = [sys.executable, "-m", f"benchmarks.{name}", "--help"]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.startswith(f"usage: {name}.py")


def test_meshes_are_given_as_files_and_as_folders(tmp_path: Path, capsys: pytest.CaptureFixture):
    table = trimesh.creation.box()
    for name in ("a/table.obj", "a/b/chair.ply", "a/b/table.stl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        table.export(tmp_path / name)
    (tmp_path / "a" / "bad.glb").write_bytes(b"glT")
    (tmp_path / "a" / "notes.txt").touch()
    assert list(load_all([tmp_path / "a"])) == ["chair", "table", str(tmp_path / "a/table.obj")]
    assert "truncated_file" in capsys.readouterr().out
    assert list(load_all([tmp_path / "a/table.obj"])) == ["table"]
    with pytest.raises(SystemExit, match="no mesh"):
        load_all([tmp_path / "a/bad.glb"])


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
def test_the_share_of_sampling_in_an_encode_is_told(tmp_path: Path):
    file = tmp_path / "rows.json"
    out = alone("benchmarks.models", "--tier", "ci", "--model", "vae", "--repeats", "2", "--json", str(file))
    share = json.loads(file.read_text())["sampling_share"]["ci"]
    assert 0 < share < 1
    assert f"farthest point sampling is {share:.1%} of an encode at ci" in out


@pytest.mark.slow
def test_experts_are_compared_with_the_loop(tmp_path: Path):
    file = tmp_path / "rows.json"
    alone("benchmarks.moe", "--size", "ci", "--device", "cpu", "--json", str(file))
    (row,) = json.loads(file.read_text())
    assert row["largest difference"] < 1e-5
    assert row["step ratio"] > 0


@pytest.mark.slow
def test_the_training_loop_is_compared_with_a_bare_one():
    arguments = ("--tier", "ci", "--device", "cpu", "--steps", "8", "--every", "4", "--batch", "1", "--repeats", "1")
    command = [sys.executable, "-m", "benchmarks.training", *arguments]
    row = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()[0])
    assert row["loop / bare, median"] > 0.5
    assert 0 <= row["blocked by checkpoints"] < 1


@pytest.mark.slow
def test_every_hot_path_gives_its_references_answer():
    out = alone("benchmarks.hot_paths", "--device", "cpu", "--tier", "ci", "--resolution", "24")
    for path in ("conditions once", "null branch", "attention", "decode, ci", "field queries, ci"):
        assert any(line.startswith(path) and "ratio" in line for line in out.splitlines()), path


@pytest.mark.slow
def test_farthest_point_sampling_equals_its_reference():
    out = alone("benchmarks.fps", "--size", "ci")
    assert out.splitlines()[-1].endswith("True")
