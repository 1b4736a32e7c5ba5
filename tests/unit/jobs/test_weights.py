import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from jobs.cli import main
from unipart.models.adapters.hunyuan21 import vae_to_hunyuan, whole_dit_to_hunyuan
from unipart.models.geom_seg_vae import GeomSegVAE, GeomSegVAEConfig
from unipart.models.pretrained import load_pretrained, save_pretrained
from unipart.models.seg_decoder import SegDecoderConfig
from unipart.models.whole_dit import WholeDiT, WholeDiTConfig

SIZES = {"num_latents": 8, "latent_width": 4, "width": 32, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1}
VAE = GeomSegVAEConfig(**SIZES, num_freqs=2, label_encoding="none", seg=None)
DIT = WholeDiTConfig(
    latent_width=4, hidden=32, depth=3, num_heads=2, context_width=8, moe_layers=1, num_experts=3, reversed_time=True
)
Dicts = dict[str, dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file like Hunyuan3D-2.1's, in half precision, with its config beside it."""
    folder = tmp_path_factory.mktemp("released")
    torch.manual_seed(0)
    vae_config, vae = vae_to_hunyuan(GeomSegVAE(VAE).half())
    dit_config, dit = whole_dit_to_hunyuan(WholeDiT(DIT).half())
    torch.save({"model": dit, "vae": vae}, folder / "model.fp16.ckpt")
    save_file({f"model.{name}": value for name, value in dit.items()} | {f"vae.{name}": value for name, value in vae.items()},
              folder / "model.fp16.safetensors")  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"vae": vae_config, "model": {"params": dit_config}}))
    (folder / "config.yaml").write_text((folder / "config.json").read_text())
    return folder


def _import(released: Path, out: Path, *more: str) -> int:
    config = ["--config", str(released / "config.json")]
    return main(["weights", "import", str(released / "model.fp16.ckpt"), "--out", str(out), *config, *more])


def _equal(first: Dicts, second: Dicts) -> bool:
    assert first.keys() == second.keys()
    return all(
        first[part].keys() == second[part].keys() and all(torch.equal(value, second[part][name]) for name, value in tensors.items())
        for part, tensors in first.items()
    )


def test_the_pipelines_file_becomes_a_folder_of_models_and_comes_back(
    released: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    assert _import(released, tmp_path / "models") == 0
    output = capsys.readouterr()
    assert [line.split()[0] for line in output.out.splitlines()] == [str(tmp_path / "models" / kind) for kind in ("vae", "whole")]
    assert all(
        word in output.err for word in ("Tencent", "European Union", "United Kingdom", "South Korea", "one million", "LICENSE")
    )
    assert load_pretrained(tmp_path / "models/vae").config == VAE  # pyright: ignore
    assert load_pretrained(tmp_path / "models/whole").config == DIT  # pyright: ignore
    card = (tmp_path / "models/vae/README.md").read_text()
    assert "Tencent" in card
    assert "model.fp16.ckpt" in card
    assert main(["weights", "export", str(tmp_path / "models"), "--out", str(tmp_path / "back.ckpt")]) == 0
    original = torch.load(released / "model.fp16.ckpt", weights_only=True)
    back = torch.load(tmp_path / "back.ckpt", weights_only=True)
    assert _equal(original, back)
    assert {value.dtype for part in back.values() for value in part.values()} == {torch.float16}
    assert main(["weights", "export", str(tmp_path / "models"), "--out", str(tmp_path / "back.safetensors")]) == 0
    assert (tmp_path / "back.safetensors").read_bytes() == (released / "model.fp16.safetensors").read_bytes()
    # What was exported says enough to be imported again.
    arguments = ["--out", str(tmp_path / "again"), "--config", str(tmp_path / "back.json")]
    assert main(["weights", "import", str(tmp_path / "back.safetensors"), *arguments]) == 0
    assert (tmp_path / "again/vae/model.safetensors").read_bytes() == (tmp_path / "models/vae/model.safetensors").read_bytes()


def test_one_model_alone_in_another_precision(released: Path, tmp_path: Path):
    source = ["weights", "import", str(released / "model.fp16.safetensors"), "--config", str(released / "config.yaml")]
    assert main([*source, "--out", str(tmp_path / "models"), "--kind", "whole"]) == 0
    assert not (tmp_path / "models/vae").exists()
    assert (
        main(["weights", "export", str(tmp_path / "models/whole"), "--out", str(tmp_path / "a.safetensors"), "--dtype", "float32"])
        == 0
    )
    found = load_file(tmp_path / "a.safetensors")
    assert found["x_embedder.weight"].dtype == torch.float32
    assert torch.equal(found["x_embedder.weight"].half(), load_file(released / "model.fp16.safetensors")["model.x_embedder.weight"])


def test_a_geom_seg_vae_is_exported_only_when_asked_to_leave_its_segmentation_out(tmp_path: Path, capsys: pytest.CaptureFixture):
    seg = SegDecoderConfig(width=32, num_heads=2, trunk_layers=1, two_way_layers=1, mlp_width=32)
    save_pretrained(GeomSegVAE(GeomSegVAEConfig(**SIZES, seg=seg)), tmp_path / "vae")
    command = ["weights", "export", str(tmp_path / "vae"), "--out", str(tmp_path / "x.safetensors")]
    assert main(command) == 2
    assert "--geometry-only" in capsys.readouterr().err
    assert not (tmp_path / "x.safetensors").exists()
    assert main([*command, "--geometry-only"]) == 0
    assert "left out: seg_decoder.stem.weight" in capsys.readouterr().err
    assert load_file(tmp_path / "x.safetensors")["pre_kl.weight"].shape == (8, 32)


def test_inspect_tells_sizes_digest_and_config(released: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["weights", "inspect", str(released / "model.fp16.ckpt"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["sha256"]) == 64
    assert found["models"]["whole"]["config"]["num_experts"] == 3
    assert found["models"]["vae"]["config"]["width"] == 32
    assert found["tensors"]["model.x_embedder.weight"] == {"shape": [32, 4], "dtype": "F16"}
    assert found["parameters"] == sum(model["parameters"] for model in found["models"].values())
    assert _import(released, tmp_path) == 0
    capsys.readouterr()
    assert main(["weights", "inspect", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "whole_dit  (UniPart)" in text
    assert "3 x stack.blocks.*.attn1.qkv.weight  [96, 32]  F16" in text


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["import", "none.ckpt", "--out", "x"], "none.ckpt does not exist"),
        (["import", "SRC", "--out", "x", "--kind", "image_encoder"], "holds no image_encoder"),
        (["import", "SRC", "--out", "x", "--kind", "vea"], "Did you mean 'vae'?"),
        (["import", "SRC", "--out", "x", "--config", "none.json"], "none.json does not exist"),
        (["export", "none", "--out", "x.safetensors"], "none holds no checkpoint"),
        (["export", "none", "--out", "x.bin"], "name it .safetensors or .ckpt"),
        (["inspect", "none.safetensors"], "none.safetensors does not exist"),
        (["imprt"], "Did you mean 'import'?"),
    ],
)
def test_mistakes_are_named_with_the_fix(released: Path, tmp_path: Path, monkeypatch, capsys, arguments: list[str], hint: str):
    monkeypatch.chdir(tmp_path)
    named = [str(released / "model.fp16.ckpt") if word == "SRC" else word for word in arguments]
    assert main(["weights", *named]) == 2
    error = capsys.readouterr().err
    assert hint in error
    assert "fix:" in error
    assert not (tmp_path / "x").exists()


def test_nothing_is_replaced_unasked(released: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert _import(released, tmp_path, "--kind", "vae") == 0
    assert _import(released, tmp_path) == 2
    assert f"{tmp_path / 'vae'} would be replaced" in capsys.readouterr().err
    assert not (tmp_path / "whole").exists()
    assert _import(released, tmp_path, "--force") == 0


def test_help_and_a_look_at_safetensors_need_no_torch(released: Path):
    for arguments in (["--help"], ["inspect", str(released / "model.fp16.safetensors")]):
        call = f"import sys, jobs.cli\ntry: jobs.cli.main(['weights', *{arguments!r}])\nexcept SystemExit: pass\n"
        code = call + "print('MODULES', *sys.modules)"
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        loaded = {name.split(".")[0] for name in answer.stdout.rpartition("MODULES")[2].split()}
        assert "jobs" in loaded
        assert "torch" not in loaded
