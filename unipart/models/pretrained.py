"""A model on disk (artefact A3): ``model.safetensors``, ``config.json`` and a model card, read back strictly.

A checkpoint folder may hold further models in subfolders (``whole/image_encoder``). ``config.json`` is written last, so a folder
without it is unfinished.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unipart.config import Config
from unipart.errors import UserError
from unipart.models.registry import model_entry, model_name

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


def save_pretrained(model: nn.Module, directory: str | Path, card: Mapping[str, Any] | None = None) -> None:
    """Writes a model into a folder, replacing what is there.

    Args:
        model: a registered model, with its config in ``model.config``.
        directory: the folder; created when missing.
        card: facts for the model card (recipe, steps, data, licence ...). Its entry "lineage", {name: weights digest} of the
            checkpoints that this model was trained against, also goes into ``config.json`` and is checked by the pipeline.
    """
    directory, card = Path(directory), dict(card or {})
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG).unlink(missing_ok=True)
    config = _config_of(model)
    weights = {name: value.detach().contiguous().cpu() for name, value in model.state_dict().items()}
    save_file(weights, directory / WEIGHTS)
    document = {
        "model": model_name(config),
        "config": config.model_dump(mode="json"),
        "digest": _file_digest(directory / WEIGHTS),
        "lineage": card.get("lineage", {}),
    }
    (directory / CARD).write_text(_card_text(document, card, sum(value.numel() for value in weights.values())))
    (directory / CONFIG).write_text(json.dumps(document, indent=2) + "\n")


def load_pretrained(directory: str | Path, expect: str | Config | None = None) -> nn.Module:
    """Reads a model that `save_pretrained` wrote, in evaluation mode, on the CPU.

    Args:
        directory: its folder.
        expect: the name of the model that it must be, or the config that it must have.

    Raises:
        UserError: the folder is no checkpoint, is incomplete, or holds another model or config than expected (names the fields).
    """
    directory = Path(directory)
    document = read_document(directory)
    entry = model_entry(document["model"])
    wanted = model_name(expect) if isinstance(expect, Config) else expect
    if wanted is not None and wanted != document["model"]:
        raise UserError(f"{directory} holds a {document['model']}, where a {wanted} is needed", f"give the folder of a {wanted}")
    config = entry.config_class.parse(document["config"], source=str(directory / CONFIG))
    if isinstance(expect, Config) and config != expect:
        differing = ", ".join(f"{name} {found} / {want}" for name, (found, want) in config.diff(expect).items())
        raise UserError(
            f"{directory} is a checkpoint of another config (checkpoint / expected): {differing}", "use its config, or train anew"
        )
    model = entry.build(config)
    _load_strictly(model, directory / WEIGHTS)
    return model.eval()


def load_config(directory: str | Path, expect: str | None = None) -> Config:
    """Returns the config of a checkpoint without its weights.

    Raises:
        UserError: as `load_pretrained`.
    """
    document = read_document(directory)
    if expect is not None and document["model"] != expect:
        raise UserError(f"{directory} holds a {document['model']}, where a {expect} is needed", f"give the folder of a {expect}")
    return model_entry(document["model"]).config_class.parse(document["config"], source=f"{directory}/{CONFIG}")


def weights_digest(directory: str | Path) -> str:
    """Returns the sha256 (hex) of the weights file, as recorded when it was written."""
    return read_document(directory)["digest"]


def lineage(directory: str | Path) -> dict[str, str]:
    """Returns {name: weights digest} of the checkpoints that a model was trained against."""
    return read_document(directory)["lineage"]


def read_document(directory: str | Path) -> dict[str, Any]:
    """Returns ``config.json`` of a checkpoint: model, config, digest, lineage.

    Raises:
        UserError: the folder is no checkpoint of ours, or unfinished.
    """
    path = Path(directory) / CONFIG
    if not path.is_file() or not (path.parent / WEIGHTS).is_file():
        raise UserError(
            f"{directory} is no checkpoint: it needs {CONFIG} and {WEIGHTS}", "give a folder that `unipart train` wrote"
        )
    try:
        document = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON: {error}", "restore the file from the run that wrote it") from None
    missing = [key for key in ("model", "config", "digest", "lineage") if key not in document]
    if missing:
        raise UserError(
            f"{path} was not written by UniPart: it lacks {', '.join(missing)}", "give a folder that `unipart train` wrote"
        )
    return document


def _load_strictly(model: nn.Module, path: Path) -> None:
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}", "copy the checkpoint again") from None
    problems = _differences(model.state_dict(), weights)
    if problems:
        shown = "; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")
        raise UserError(f"{path} is a checkpoint of another config: {shown}", f"restore the {CONFIG} that belongs to these weights")
    model.load_state_dict(weights)


def _differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    missing = [f"{name} is missing" for name in expected if name not in found]
    unexpected = [f"{name} is unexpected" for name in found if name not in expected]
    shapes = [
        f"{name} is {list(found[name].shape)}, the config says {list(value.shape)}"
        for name, value in expected.items()
        if name in found and found[name].shape != value.shape
    ]
    return shapes + missing + unexpected


def _config_of(model: nn.Module) -> Config:
    config = getattr(model, "config", None)
    if not isinstance(config, Config):
        raise ValueError(f"{type(model).__name__} keeps no Config in its attribute `config`")
    return config


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _card_text(document: Mapping[str, Any], card: Mapping[str, Any], num_weights: int) -> str:
    facts = {"model": document["model"], "weights": f"{num_weights:,}", "sha256": document["digest"], **card}
    rows = [f"| {name} | {value if isinstance(value, str) else json.dumps(value)} |" for name, value in facts.items()]
    config = json.dumps(document["config"], indent=2)
    call = f'model = load_pretrained("this/folder", "{document["model"]}")'
    usage = ["```python", "from unipart.models.pretrained import load_pretrained", "", call, "```"]
    title = f"# UniPart {document['model']}"
    return "\n".join([title, "", "| | |", "|---|---|", *rows, "", *usage, "", "```json", config, "```", ""])
