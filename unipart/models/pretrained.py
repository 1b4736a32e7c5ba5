"""A model on disk (artefact A3): ``model.safetensors``, ``config.json`` and a model card, read back strictly.

A checkpoint folder may hold further models in subfolders (``whole/image_encoder``). ``config.json`` is written last, so a folder
without it is unfinished. `from_pretrained` and `save_pretrained` also take object storage, and the first one the Hugging Face hub.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251 (what torch.load raises when a file holds more than tensors)
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unipart import storage
from unipart.config import Config
from unipart.errors import EnvironmentProblem, UserError
from unipart.models.registry import model_entry, model_name

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
IMAGE_ENCODER = "image_encoder"
"""Subfolder of a whole model's checkpoint."""
HUB_SCHEME = "hf://"
SUMMARIES = {
    "geom_seg_vae": "surface points with part labels -> a latent set that decodes to an implicit field and to part masks",
    "anchor_decoder": "a latent -> the position of the surface point it was seeded from",
    "image_encoder": "an image -> the tokens that the diffusion models are conditioned on",
    "whole_dit": "image tokens -> the latent set of the whole object, by rectified flow",
    "part_dit": "image tokens, whole latents, part latents -> the part in the object's frame and in its own, by rectified flow",
}


def save_pretrained(model: nn.Module, directory: str | Path, card: Mapping[str, Any] | None = None) -> None:
    """Writes a model into a folder, replacing what is there.

    Args:
        model: a registered model, with its config in ``model.config``.
        directory: the folder, created when missing, or an s3:// address.
        card: facts for the model card (recipe, steps, data, licence ...). Its entry "lineage", {name: weights digest} of the
            checkpoints that this model was trained against, also goes into ``config.json`` and is checked by the pipeline.
    """
    if storage.is_s3(directory):
        _upload(model, str(directory), card)
        return
    directory, card = Path(directory), dict(card or {})
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG).unlink(missing_ok=True)
    config = config_of(model)
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


def from_pretrained(source: str | Path, expect: str | Config | None = None) -> nn.Module:
    """Reads a model from wherever it is, in evaluation mode, on the CPU.

    Args:
        source: a checkpoint folder; an s3:// address of one; or ``OWNER/NAME`` (also ``hf://OWNER/NAME/FOLDER``) on the Hugging
            Face hub, when no such folder exists here and huggingface_hub is installed.
        expect: as for `load_pretrained`.

    Raises:
        UserError: as `load_pretrained`; or nothing was found there.
        EnvironmentProblem: the storage cannot be reached, or huggingface_hub is needed and missing.
    """
    with TemporaryDirectory(prefix="unipart-load-") as kept:
        return load_pretrained(fetch_pretrained(source, Path(kept)), expect)


def is_address(source: str | Path) -> bool:
    """Tells whether a checkpoint is named by an address (s3:// or hf://), not by a folder."""
    return str(source).startswith((storage.S3_SCHEME, HUB_SCHEME))


def fetch_pretrained(source: str | Path, into: Path | None = None) -> Path:
    """Returns the local folder of a checkpoint; one from elsewhere is fetched, a whole model with its image encoder.

    Args:
        source: as for `from_pretrained`.
        into: folder that keeps what is fetched, and from which it is taken the next time; by default it goes with this process.

    Raises:
        UserError: nothing was found there, or the weights are not those of the digest in ``config.json``.
        EnvironmentProblem: as for `from_pretrained`.
    """
    remote = _remote(source)
    if remote is None:
        return Path(source)
    into = Path(_until_exit().name) if into is None else into
    into.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".fetching-", dir=into) as folder:
        staged = Path(folder, "checkpoint")
        staged.mkdir()
        remote.fetch(CONFIG, staged / CONFIG)
        kept = into / _file_digest(staged / CONFIG)[:16]
        if not kept.is_dir():
            _fetch_rest(remote, "", staged)
            staged.rename(kept)
    return kept


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


def find_device(name: str) -> torch.device:
    """Returns the device of a name; "auto" is a GPU where there is one.

    Raises:
        UserError: no such kind of device; or `EnvironmentProblem`: this machine has none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or not (number or "0").isdigit():
        raise UserError(f"there is no device '{name}'", "choose auto, cpu, cuda or cuda:0")
    found = torch.cuda.device_count()
    if kind == "cuda" and int(number or 0) >= found:
        raise EnvironmentProblem(f"there is no '{name}': torch can use {found} GPUs of this machine", "use --device cpu")
    return torch.device(name)


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
    weights = read_tensors(path)
    expected, found = ({name: tuple(value.shape) for name, value in side.items()} for side in (model.state_dict(), weights))
    problems = differences(expected, found)
    if problems:
        raise UserError(
            f"{path} is a checkpoint of another config: {shorten(problems)}", f"restore the {CONFIG} that belongs to these weights"
        )
    model.load_state_dict(weights)


def read_tensors(path: str | Path) -> dict[str, Any]:
    """Reads a weights file: .safetensors, or torch's zip format (.ckpt, .pt, .pth, .bin), of which only tensors are unpickled.

    Returns:
        {name: tensor}; for torch's format also {section: {name: tensor}}, as it was written.

    Raises:
        UserError: the file is missing, damaged, of another format, or holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist", "give a .safetensors or .ckpt file")
    if path.suffix not in (".safetensors", ".ckpt", ".pt", ".pth", ".bin"):
        raise UserError(f"{path} is no weights file by its name", "give a .safetensors or .ckpt file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)  # noqa: TID251 (tensors alone)
    except UnpicklingError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path} holds more than tensors and is not loaded: {reason}", "save its tensors as .safetensors") from None
    except (SafetensorError, OSError, RuntimeError) as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}", "copy the file again") from None
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} holds no tensors by name", "give a state dict")
    leaves = [leaf for value in content.values() for leaf in (value.values() if isinstance(value, dict) else [value])]
    if not all(isinstance(leaf, Tensor) for leaf in leaves):
        raise UserError(f"{path} holds more than tensors: {shorten([str(name) for name in content])}", "give a state dict")
    return content


def differences(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Returns what is wrong with tensors, {name: shape}: a line for each that is misshapen, missing or unexpected."""
    missing = [f"{name} is missing" for name in expected if name not in found]
    unexpected = [f"{name} is unexpected" for name in found if name not in expected]
    shapes = [
        f"{name} is {list(found[name])}, the config says {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    return shapes + missing + unexpected


def shorten(problems: Sequence[str], most: int = 4) -> str:
    """Returns the first problems in one line, and how many more there are."""
    return "; ".join(problems[:most]) + (f"; and {len(problems) - most} more" if len(problems) > most else "")


def _upload(model: nn.Module, address: str, card: Mapping[str, Any] | None) -> None:
    """Writes a checkpoint to object storage; its config disappears first and comes last, as in a folder."""
    with TemporaryDirectory(prefix="unipart-save-") as folder:
        save_pretrained(model, folder, card)
        storage.delete(storage.join(address, CONFIG))
        for name in (WEIGHTS, CARD, CONFIG):
            with Path(folder, name).open("rb") as source, storage.open_writer(storage.join(address, name)) as target:
                shutil.copyfileobj(source, target)


@dataclass(frozen=True)
class _Remote:
    """A checkpoint somewhere else.

    Attributes:
        address: for messages.
        fetch: writes one of its files, by name, to a path.
        has: tells whether it has a file.
    """

    address: str
    fetch: Callable[[str, Path], None]
    has: Callable[[str], bool]


def _remote(source: str | Path) -> _Remote | None:
    """Returns where a checkpoint is to be fetched from; None for a folder."""
    if storage.is_s3(source):
        return _in_storage(str(source))
    name = str(source).removeprefix(HUB_SCHEME)
    if not Path(source).exists() and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(/[\w.-]+)*", name):
        return _on_hub(name)
    return None


def _fetch_rest(remote: _Remote, prefix: str, folder: Path) -> None:
    """Fetches the weights that belong to a fetched config, checks them, and goes on with the model in the subfolder."""
    remote.fetch(f"{prefix}{WEIGHTS}", folder / WEIGHTS)
    document, found = read_document(folder), _file_digest(folder / WEIGHTS)
    if found != document["digest"]:
        raise UserError(
            f"{prefix}{WEIGHTS} of {remote.address} has the sha256 {found[:12]}, its {CONFIG} says {document['digest'][:12]}",
            "it was damaged or replaced: copy the checkpoint there again",
        )
    if document["model"] == "whole_dit" and remote.has(f"{IMAGE_ENCODER}/{CONFIG}"):
        below = folder / IMAGE_ENCODER
        below.mkdir()
        remote.fetch(f"{IMAGE_ENCODER}/{CONFIG}", below / CONFIG)
        _fetch_rest(remote, f"{IMAGE_ENCODER}/", below)


@cache
def _until_exit() -> TemporaryDirectory[str]:
    """The folder of what was fetched without a place to keep it; removed when this process ends."""
    return TemporaryDirectory(prefix="unipart-models-")


def _in_storage(address: str) -> _Remote:
    """Returns a checkpoint in object storage."""

    def fetch(name: str, target: Path) -> None:
        try:
            with storage.open_stream(storage.join(address, name)) as file, target.open("wb") as copy:
                shutil.copyfileobj(file, copy)
        except FileNotFoundError:
            raise UserError(f"{address} is no checkpoint: it has no {name}", "give the address of a checkpoint") from None

    return _Remote(address, fetch, lambda name: storage.exists(storage.join(address, name)))


def _on_hub(name: str) -> _Remote:
    """Returns a checkpoint on the Hugging Face hub, ``OWNER/NAME`` with a folder behind it or not."""
    try:
        import huggingface_hub as hub  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise EnvironmentProblem(
            f"there is no folder {name} here, and a model on the hub needs huggingface_hub, which is not installed",
            "correct the path, or pip install huggingface_hub",
        ) from None
    owner, repository, *folders = name.split("/")
    within = "/".join([*folders, ""])

    def fetch(file: str, target: Path) -> None:
        try:
            shutil.copyfile(hub.hf_hub_download(f"{owner}/{repository}", f"{within}{file}"), target)
        except (OSError, ValueError) as error:
            raise UserError(
                f"there is no folder {name} here, and the hub gave none: {error}", "correct the path or the hub's OWNER/NAME"
            ) from None

    return _Remote(f"{HUB_SCHEME}{name}", fetch, lambda file: hub.file_exists(f"{owner}/{repository}", f"{within}{file}"))


def config_of(model: nn.Module) -> Config:
    """Returns the config of one of our models.

    Raises:
        ValueError: it keeps none.
    """
    config = getattr(model, "config", None)
    if not isinstance(config, Config):
        raise ValueError(f"{type(model).__name__} keeps no Config in its attribute `config`")
    return config


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _card_text(document: Mapping[str, Any], card: Mapping[str, Any], num_weights: int) -> str:
    name = document["model"]
    facts = {"model": name, "weights": f"{num_weights:,}", "sha256": document["digest"], **card}
    head = ["---", "library_name: unipart", "tags: [3d, part-level, image-to-3d]", "---", ""]
    rows = [f"| {name} | {value if isinstance(value, str) else json.dumps(value)} |" for name, value in facts.items()]
    config = json.dumps(document["config"], indent=2)
    call = f'model = load_pretrained("this/folder", "{name}")'
    usage = ["```python", "from unipart.models.pretrained import load_pretrained", "", call, "```"]
    title = [f"# UniPart {name}", "", f"{SUMMARIES[name][0].upper()}{SUMMARIES[name][1:]}."]
    return "\n".join([*head, *title, "", "| | |", "|---|---|", *rows, "", *usage, "", "```json", config, "```", ""])
