import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from unipart import storage
from unipart.errors import EnvironmentProblem, UserError
from unipart.models.anchor_decoder import AnchorDecoder, AnchorDecoderConfig
from unipart.models.image_encoder import ImageEncoderConfig, SmallImageEncoder
from unipart.models.pretrained import (
    fetch_pretrained,
    find_device,
    from_pretrained,
    lineage,
    load_config,
    load_pretrained,
    read_tensors,
    save_pretrained,
    weights_digest,
)
from unipart.models.whole_dit import WholeDiT, WholeDiTConfig

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


def test_a_model_goes_to_object_storage_and_back(bucket: str, folder: Path):
    model = load_pretrained(folder)
    address = storage.join(bucket, "anchor")
    save_pretrained(model, address, {"steps": 3})
    assert storage.list_files(address) == ["README.md", "config.json", "model.safetensors"]
    back = from_pretrained(address, "anchor_decoder")
    assert all(torch.equal(value, back.state_dict()[name]) for name, value in model.state_dict().items())
    with pytest.raises(UserError, match="where a whole_dit is needed"):
        from_pretrained(address, "whole_dit")
    storage.delete(storage.join(address, "config.json"))
    with pytest.raises(UserError, match=r"it has no config\.json"):
        from_pretrained(address)


def whole_at(address: str) -> None:
    save_pretrained(WholeDiT(WholeDiTConfig(hidden=16, depth=1, num_heads=2, context_width=16, moe_layers=0)), address)
    encoder = SmallImageEncoder(ImageEncoderConfig(size=28, width=16, layers=1))
    save_pretrained(encoder, storage.join(address, "image_encoder"))


def test_a_whole_model_is_fetched_with_its_image_encoder_and_once(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    address = storage.join(bucket, "whole")
    whole_at(address)
    folder = fetch_pretrained(address, tmp_path / "kept")
    assert isinstance(load_pretrained(folder), WholeDiT)
    assert isinstance(load_pretrained(folder / "image_encoder"), SmallImageEncoder)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [folder.name]
    monkeypatch.setattr("unipart.models.pretrained._fetch_rest", None)  # a second fetch would fail
    assert fetch_pretrained(address, tmp_path / "kept") == folder


def test_fetched_weights_must_have_the_digest_of_their_config(bucket: str, folder: Path, tmp_path: Path):
    address = storage.join(bucket, "anchor")
    save_pretrained(load_pretrained(folder), address)
    other = AnchorDecoder(CONFIG)
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    storage.write_bytes(storage.join(address, "model.safetensors"), (tmp_path / "other.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"model\.safetensors of s3://bucket/anchor has the sha256"):
        fetch_pretrained(address, tmp_path / "kept")
    assert not list((tmp_path / "kept").iterdir())


def test_a_local_folder_needs_no_network(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert isinstance(from_pretrained(folder), AnchorDecoder)
    monkeypatch.chdir(folder.parents[0])
    (folder.parents[0] / "deep").mkdir()
    folder.rename(folder.parents[0] / "deep" / "anchor")
    assert isinstance(from_pretrained("deep/anchor"), AnchorDecoder)


def test_a_hub_id_is_fetched_file_by_file(folder: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def hf_hub_download(repository: str, name: str) -> str:
        asked.append((repository, name))
        if repository != "owner/model":
            raise OSError("404")
        return str(folder / Path(name).name)

    hub = SimpleNamespace(hf_hub_download=hf_hub_download, file_exists=lambda repository, name: False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert isinstance(from_pretrained("owner/model"), AnchorDecoder)
    assert isinstance(from_pretrained("hf://owner/model/anchor"), AnchorDecoder)
    assert asked == [
        ("owner/model", "config.json"),
        ("owner/model", "model.safetensors"),
        ("owner/model", "anchor/config.json"),
        ("owner/model", "anchor/model.safetensors"),
    ]
    with pytest.raises(UserError, match="no folder owner/other here, and the hub gave none: 404"):
        from_pretrained("owner/other")


def test_a_missing_folder_that_could_be_a_hub_id_names_both(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(EnvironmentProblem, match=r"no folder models/vea here, .* huggingface_hub"):
        from_pretrained("models/vea")
    with pytest.raises(UserError, match="no checkpoint"):
        from_pretrained("/nowhere/at/all")


def test_card_says_what_the_model_is(folder: Path):
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: unipart\n")
    assert "A latent -> the position" in card


def test_torch_files_give_their_tensors(tmp_path: Path):
    tensors = {"vae": {"a": torch.ones(2)}, "model": {"b": torch.zeros(3)}}
    torch.save(tensors, tmp_path / "x.ckpt")
    found = read_tensors(tmp_path / "x.ckpt")
    assert found.keys() == tensors.keys()
    assert torch.equal(found["vae"]["a"], torch.ones(2))


class Harmful:
    def __reduce__(self):
        return print, ("code was run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": Harmful()}, "holds more than tensors and is not loaded"),
        ({"state_dict": {"a": torch.ones(1)}, "epoch": 3}, "holds more than tensors: state_dict; epoch"),
        ([torch.ones(1)], "no tensors by name"),
    ],
)
def test_torch_files_with_more_than_tensors_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture, content, message: str):
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=message):
        read_tensors(tmp_path / "x.ckpt")
    assert "code was run" not in capsys.readouterr().out


def test_weights_files_that_cannot_be_read_are_named(tmp_path: Path):
    with pytest.raises(UserError, match="does not exist"):
        read_tensors(tmp_path / "none.ckpt")
    for name in ("x.ckpt", "x.safetensors"):
        (tmp_path / name).write_bytes(b"12345678901234567890")
        with pytest.raises(UserError, match="cannot be read"):
            read_tensors(tmp_path / name)
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(UserError, match="no weights file by its name"):
        read_tensors(tmp_path / "x.txt")


def test_a_device_is_found_by_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [str(find_device(name)) for name in ("auto", "cpu", "cuda", "cuda:0")] == ["cuda", "cpu", "cuda", "cuda:0"]
    with pytest.raises(EnvironmentProblem, match="no 'cuda:1'"):
        find_device("cuda:1")
    with pytest.raises(UserError, match="no device 'gpu'"):
        find_device("gpu")
