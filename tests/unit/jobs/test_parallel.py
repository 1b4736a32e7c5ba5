"""Compiled blocks; in processes of their own, since the check of shapes under pytest is nothing that torch.compile can read."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
COMPILED = """
import json
import sys
from pathlib import Path

import torch
from jobs.recipes import find_recipe
from jobs.runs import read_history
from jobs.training.loop import Place, Run, fit
from jobs.training.objectives import make_objective
from jobs.training.smoke import MadeUpSource
from jobs.training.state import find_checkpoint
from safetensors.torch import load_file
from unipart.errors import EnvironmentProblem

torch.set_num_threads(1)
found = {}
for compiled in json.loads(sys.argv[1]):
    changes = {"steps": 3, "batch_size": 2, "accumulate": 1, "log_every": 1, "precision": "fp32", "scale_samples": 2}
    config = find_recipe("vae", "ci").replace(**changes, compile_blocks=compiled)
    place, folder = Place(torch.device("cpu")), Path(sys.argv[2]) / str(compiled)
    try:
        fit(Run(config, make_objective(config, {}, None, place), MadeUpSource(config, None, 0), folder, place))
    except EnvironmentProblem as error:
        print(json.dumps(str(error)))
        sys.exit(3)
    files = sorted(find_checkpoint(folder).rglob("*.safetensors"))
    names = {str(file.relative_to(folder)): sorted(load_file(file)) for file in files}
    found[str(compiled)] = {"losses": [row["loss"] for row in read_history(folder) if "loss" in row], "names": names}
print(json.dumps(found))
"""


def run(folder: Path, compiled: list[bool], **environment: str) -> subprocess.CompletedProcess:
    everything = {**os.environ, "PYTHONPATH": str(ROOT), "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache"), **environment}
    command = [sys.executable, "-c", COMPILED, json.dumps(compiled), str(folder)]
    return subprocess.run(command, cwd=ROOT, env=everything, capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_compiled_blocks_give_the_same_losses_and_the_same_names_in_checkpoints(tmp_path: Path):
    if not shutil.which(os.environ.get("CXX", "g++")):
        message = "no C++ compiler: install g++ to run the test of compiled blocks"
        warnings.warn(message, stacklevel=1)
        pytest.skip(message)
    done = run(tmp_path, [False, True])
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["True"]["losses"]) == 3
    assert found["True"]["losses"] == pytest.approx(found["False"]["losses"], rel=1e-5)
    assert found["True"]["names"] == found["False"]["names"]
    assert len(found["True"]["names"]) >= 2


@pytest.mark.slow
def test_without_a_compiler_it_is_said_what_is_missing(tmp_path: Path):
    done = run(tmp_path, [True], CXX="/no/compiler/here")
    assert done.returncode == 3, done.stderr[-3000:]
    assert "No working C++ compiler" in done.stdout
    assert "torch.compile failed" in done.stdout
