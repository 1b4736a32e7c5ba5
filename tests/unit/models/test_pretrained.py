import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from unipart.errors import UserError
from unipart.models.anchor_decoder import AnchorDecoder, AnchorDecoderConfig
from unipart.models.image_encoder import ImageEncoderConfig, SmallImageEncoder
from unipart.models.pretrained import lineage, load_config, load_pretrained, save_pretrained, weights_digest

CONFIG = AnchorDecoderConfig(latent_width=4, width=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_pretrained(AnchorDecoder(CONFIG), tmp_path / "anchor", {"steps": 3, "lineage": {"vae": "abc"}})
    return tmp_path / "anchor"


def test_what_is_saved_comes_back(folder: Path):
    torch.manual_seed(0)
    expected = AnchorDecoder(CONFIG).eval()
    model = load_pretrained(folder)
    assert isinstance(model, AnchorDecoder)
    assert not model.training
    assert model.config == CONFIG
    z = torch.randn(2, 5, 4)
    assert torch.equal(model(z), expected(z))
    assert load_config(folder) == CONFIG
    assert lineage(folder) == {"vae": "abc"}


def test_digest_names_the_weights(folder: Path, tmp_path: Path):
    torch.manual_seed(0)
    save_pretrained(AnchorDecoder(CONFIG), tmp_path / "same")
    save_pretrained(AnchorDecoder(CONFIG), tmp_path / "other")
    assert weights_digest(folder) == weights_digest(tmp_path / "same")
    assert weights_digest(folder) != weights_digest(tmp_path / "other")


def test_card_holds_the_facts(folder: Path):
    card = (folder / "README.md").read_text()
    assert "| steps | 3 |" in card
    assert weights_digest(folder) in card
    assert 'load_pretrained("this/folder", "anchor_decoder")' in card


def test_models_in_subfolders(folder: Path):
    save_pretrained(SmallImageEncoder(ImageEncoderConfig(size=28, width=16, layers=1)), folder / "image_encoder")
    assert isinstance(load_pretrained(folder / "image_encoder"), SmallImageEncoder)
    assert isinstance(load_pretrained(folder), AnchorDecoder)


def test_another_model_is_refused(folder: Path):
    with pytest.raises(UserError, match="holds a anchor_decoder, where a whole_dit is needed"):
        load_pretrained(folder, "whole_dit")


def test_another_config_names_the_differing_fields(folder: Path):
    assert isinstance(load_pretrained(folder, CONFIG), AnchorDecoder)
    with pytest.raises(UserError, match=r"another config .*: width 8 / 16"):
        load_pretrained(folder, CONFIG.replace(width=16))


def test_weights_that_do_not_fit_their_config_name_the_tensors(folder: Path):
    document = json.loads((folder / "config.json").read_text())
    document["config"]["latent_width"] = 6
    (folder / "config.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"stem.weight is \[8, 4\], the config says \[8, 6\]"):
        load_pretrained(folder)


def test_missing_and_surplus_tensors_are_refused(folder: Path):
    weights = load_file(folder / "model.safetensors")
    weights["extra"] = weights.pop("head.bias")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"head.bias is missing; extra is unexpected"):
        load_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_an_unfinished_folder_is_no_checkpoint(folder: Path, name: str):
    (folder / name).unlink()
    with pytest.raises(UserError, match="no checkpoint"):
        load_pretrained(folder)


def test_damaged_files_are_named(folder: Path):
    (folder / "model.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(UserError, match="cannot be read"):
        load_pretrained(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        load_pretrained(folder)
    (folder / "config.json").write_text('{"architectures": []}')
    with pytest.raises(UserError, match="not written by UniPart"):
        load_pretrained(folder)


def test_a_model_without_a_config_is_our_mistake(tmp_path: Path):
    with pytest.raises(ValueError, match="Config"):
        save_pretrained(torch.nn.Linear(2, 2), tmp_path)
