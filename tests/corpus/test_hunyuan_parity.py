"""The importer against what Hunyuan3D-2.1's own code computed, with tiny random weights (``parity/`` beside the corpus)."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jobs.cli import main
from unipart.models.adapters.hunyuan21 import (
    hunyuan_moments,
    hunyuan_velocity,
    vae_from_hunyuan,
    vae_to_hunyuan,
    whole_dit_from_hunyuan,
    whole_dit_to_hunyuan,
)
from unipart.nn.fps import farthest_point_sampling

TOLERANCE = 1e-4
pytestmark = pytest.mark.corpus


@pytest.fixture(scope="module")
def parity(corpus: Path) -> Path:
    folder = corpus.parent / "parity"
    if not (folder / "io.safetensors").is_file():
        message = f"no parity vectors at {folder}"
        warnings.warn(message, stacklevel=1)
        pytest.skip(message)
    return folder


def _read(folder: Path, name: str) -> tuple[dict, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    config = json.loads((folder / "config.json").read_text())[name]
    return config, load_file(folder / f"{name}.safetensors"), load_file(folder / "io.safetensors")


def _off(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max())


@torch.no_grad()
def test_vae_parity(parity: Path):
    config, weights, io = _read(parity, "vae")
    vae = vae_from_hunyuan(config, weights)
    index = farthest_point_sampling(io["vae_surface"][..., :3], config["num_latents"])
    assert torch.equal(index, io["vae_fps_index"])
    assert torch.equal(io["vae_surface"][..., :3].gather(1, index[..., None].expand(-1, -1, 3)), io["vae_anchors"])
    mean, logvar = hunyuan_moments(vae, io["vae_surface"])
    assert _off(mean, io["vae_mean"]) < TOLERANCE
    assert _off(logvar, io["vae_logvar"]) < TOLERANCE
    features = vae.decode_latents(io["vae_z"])
    assert _off(features, io["vae_decoded"]) < TOLERANCE
    assert _off(vae.query(features, io["vae_queries"]), io["vae_field"][..., 0]) < TOLERANCE


@torch.no_grad()
def test_dit_parity(parity: Path):
    config, weights, io = _read(parity, "dit")
    dit = whole_dit_from_hunyuan(config, weights)
    x, t, context = io["dit_x"], io["dit_t"], io["dit_context"]
    assert _off(hunyuan_velocity(dit, x, t, context), io["dit_velocity"]) < TOLERANCE
    for nothing in (torch.zeros_like(context), None):
        assert _off(hunyuan_velocity(dit, x, t, nothing), io["dit_velocity_zero_context"]) < TOLERANCE


@pytest.mark.parametrize("name", ["vae", "dit"])
def test_half_precision_comes_back_byte_for_byte(parity: Path, name: str):
    config, weights, _ = _read(parity, name)
    halves = {key: value.half() for key, value in weights.items()}
    if name == "vae":
        _, exported = vae_to_hunyuan(vae_from_hunyuan(config, halves))
    else:
        _, exported = whole_dit_to_hunyuan(whole_dit_from_hunyuan(config, halves))
    assert exported.keys() == halves.keys()
    assert all(torch.equal(exported[key].view(torch.uint8), value.view(torch.uint8)) for key, value in halves.items())


@pytest.mark.parametrize("name", ["vae", "dit"])
def test_the_command_line_gives_the_file_back(parity: Path, tmp_path: Path, name: str):
    source = parity / f"{name}.safetensors"
    assert main(["weights", "import", str(source), "--out", str(tmp_path / "models"), "--config", str(parity / "config.json")]) == 0
    assert main(["weights", "export", str(tmp_path / "models"), "--out", str(tmp_path / "back.safetensors")]) == 0
    assert (tmp_path / "back.safetensors").read_bytes() == source.read_bytes()
