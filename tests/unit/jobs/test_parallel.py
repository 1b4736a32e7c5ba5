"""Compiled blocks; in processes of their own, since the check of shapes under pytest is nothing that torch.compile can read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from jobs.recipes import find_recipe
from jobs.training.parallel import SHARDED, compile_blocks
from jobs.training.workload import Parents, make_workload
from unipart.nn.blocks import CrossBlock

ROOT = Path(__file__).resolve().parents[3]
COMPILED = """
import functools
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
backend = sys.argv[3]
torch.nn.Module.compile = functools.partialmethod(torch.nn.Module.compile, backend=backend)
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
    graphs = sum(torch._dynamo.utils.counters["aot_autograd"].values())
    losses = [row["loss"] for row in read_history(folder) if "loss" in row]
    found[str(compiled)] = {"graphs": graphs, "losses": losses, "names": names}
print(json.dumps(found))
"""


def run(folder: Path, compiled: list[bool], backend: str, **environment: str) -> subprocess.CompletedProcess:
    everything = {**os.environ, "PYTHONPATH": str(ROOT), "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache"), **environment}
    command = [sys.executable, "-c", COMPILED, json.dumps(compiled), str(folder), backend]
    return subprocess.run(command, cwd=ROOT, env=everything, capture_output=True, text=True, timeout=280, check=False)


def test_every_kind_of_block_is_compiled_and_shards_are_whole_forwards(monkeypatch: pytest.MonkeyPatch):
    compiled: list[str] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(type(module).__name__))
    for kind in ("vae", "whole", "part"):
        parents = Parents(find_recipe("vae", "ci").model, find_recipe("whole", "ci").image_encoder)
        compile_blocks(make_workload(find_recipe(kind, "ci"), parents).trained)
    assert set(compiled) == {"SelfBlock", "CrossBlock", "TwoWayBlock", "DiTBlock"}
    assert CrossBlock not in SHARDED  # `keys_values` is called outside its forward


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_compiled_blocks_give_the_same_losses_and_the_same_names_in_checkpoints(tmp_path: Path):
    # Traced and differentiated as on a GPU, but run by torch's own kernels: a compiler for each graph would take minutes.
    done = run(tmp_path, [False, True], "aot_eager")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["True"]["losses"]) == 3
    assert found["True"]["losses"] == pytest.approx(found["False"]["losses"], rel=1e-5)
    assert found["True"]["names"] == found["False"]["names"]
    assert len(found["True"]["names"]) >= 2
    assert found["True"]["graphs"] > found["False"]["graphs"] == 0


@pytest.mark.slow
def test_without_a_compiler_it_is_said_what_is_missing(tmp_path: Path):
    done = run(tmp_path, [True], "inductor", CXX="/no/compiler/here")
    assert done.returncode == 3, done.stderr[-3000:]
    assert "No working C++ compiler" in done.stdout
    assert "torch.compile failed" in done.stdout
