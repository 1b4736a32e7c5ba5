"""``unipart weights``: Hunyuan3D-2.1's weights as our checkpoints, back again, and a look into any weights file."""

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.options import SuggestingParser
from unipart.errors import EnvironmentProblem, UserError

_EXAMPLES = """examples:
  unipart weights inspect hunyuan3d-dit-v2-1/model.fp16.ckpt           what is in it: sections, tensors, sizes, digest
  unipart weights import hunyuan3d-dit-v2-1/model.fp16.ckpt --out models
                                                                       -> models/vae, models/whole, models/whole/image_encoder
  unipart weights import vae.safetensors --out models --kind vae       one of the three
  unipart weights export models/whole --out dit.safetensors            in Hunyuan's names and layouts, same bytes
  unipart weights export models --out model.fp16.ckpt                  all that is there, in one file
  unipart weights inspect models/vae --json
"""
_KINDS = ("vae", "whole", "image_encoder")


@dataclass(frozen=True)
class TensorInfo:
    """What a file tells of one tensor."""

    shape: tuple[int, ...]
    dtype: str


def main(arguments: Sequence[str]) -> int:
    """Entry point of ``unipart weights``."""
    options = _parser().parse_args(arguments)
    return {"import": _import, "export": _export, "inspect": _inspect}[options.command](options)


def _parser() -> SuggestingParser:
    shape: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter, "epilog": _EXAMPLES, "allow_abbrev": False}
    summary = (
        "Import Hunyuan3D-2.1's weights as checkpoints that training starts from, export such checkpoints, look into weights "
        "files. UniPart ships no weights and downloads none."
    )
    parser = SuggestingParser("unipart weights", description=summary, **shape)
    commands = parser.add_subparsers(dest="command", required=True, metavar="import | export | inspect")
    importing = commands.add_parser("import", help="Hunyuan3D-2.1 -> checkpoint folders", description=summary, **shape)
    importing.add_argument("source", metavar="SRC", type=Path, help="its .ckpt or .safetensors: the pipeline's file or one model")
    importing.add_argument("--out", required=True, metavar="DIR", type=Path, help="folder of models: gets vae/, whole/ ...")
    importing.add_argument("--kind", action="append", choices=_KINDS, help="only this model; repeat it for more (default: all)")
    importing.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="Hunyuan's config, JSON or YAML (default: read off the weights, rest as released)",
    )
    importing.add_argument("--force", action="store_true", help="replace checkpoints that are in --out already")
    exporting = commands.add_parser("export", help="checkpoint folders -> Hunyuan3D-2.1's form", description=summary, **shape)
    exporting.add_argument("source", metavar="DIR", type=Path, help="a checkpoint, or a folder with vae/ and whole/")
    exporting.add_argument("--out", required=True, metavar="FILE", type=Path, help=".safetensors, or .ckpt")
    exporting.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), help="round to it (default: as it is stored)")
    exporting.add_argument("--geometry-only", action="store_true", help="leave out what Hunyuan's VAE has no place for")
    looking = commands.add_parser("inspect", help="tensors, sizes, digest, config", description=summary, **shape)
    looking.add_argument("source", metavar="FILE|DIR", type=Path, help="a weights file, or a folder of checkpoints")
    looking.add_argument("--json", action="store_true", help="every tensor, as JSON")
    return parser


def _import(options: Any) -> int:
    from unipart.models.adapters.hunyuan21_release import LICENCE, LICENCE_NOTICE, LICENCE_URL, split_sections
    from unipart.models.pretrained import read_tensors, save_pretrained, weights_digest

    parts = split_sections(read_tensors(options.source))
    wanted = options.kind or list(parts)
    absent = [kind for kind in wanted if kind not in parts]
    if absent:
        raise UserError(f"{options.source} holds no {', '.join(absent)}", f"it has: {', '.join(parts)}")
    folders = {kind: options.out / ("whole/image_encoder" if kind == "image_encoder" else kind) for kind in wanted}
    taken = [str(folder) for folder in folders.values() if folder.is_dir() and any(path.is_file() for path in folder.iterdir())]
    if taken and not options.force:
        raise UserError(f"{', '.join(taken)} would be replaced", "give another --out, or --force")
    print(LICENCE_NOTICE, file=sys.stderr)
    configs = _read_configs(options.config)
    models = {kind: _convert(kind, configs, parts.pop(kind)) for kind in wanted}  # all of them fit before anything is written
    card = {
        "origin": f"Hunyuan3D-2.1, imported from {options.source.name}",
        "source sha256": _digest(options.source),
        "licence": f"[{LICENCE}]({LICENCE_URL}): not in the EU, the UK and South Korea; acceptable-use policy; see its text",
    }
    for kind in wanted:
        save_pretrained(models[kind], folders[kind], card)
        print(f"{folders[kind]}  {weights_digest(folders[kind])}")
    return 0


def _read_configs(path: Path | None) -> dict[str, Any]:
    if path is None:
        print("config: sizes are read off the weights, the rest is taken as in the released model", file=sys.stderr)
        return {}
    if not path.is_file():
        raise UserError(f"config file {path} does not exist", "give Hunyuan's config.json or config.yaml")
    if path.suffix in (".yaml", ".yml"):
        try:
            import yaml
        except ImportError:
            raise EnvironmentProblem(f"{path} is YAML, and pyyaml is not installed", "pip install pyyaml") from None
        try:
            found = yaml.safe_load(path.read_text())
        except yaml.YAMLError as error:
            raise UserError(f"config file {path} is not YAML: {error}", "correct the file") from None
    else:
        try:
            found = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise UserError(f"config file {path} is not JSON: {error}", "correct the file") from None
    if not isinstance(found, dict):
        raise UserError(f"config file {path} holds no sections", "it needs vae, and dit or model")
    return found


def _convert(kind: str, configs: Mapping[str, Any], tensors: Mapping[str, Any]) -> Any:
    """Returns our model of a section."""
    from unipart.models.adapters import hunyuan21
    from unipart.models.adapters.hunyuan21_release import config_section

    if kind == "image_encoder":
        try:
            return hunyuan21.image_encoder_from_hunyuan(tensors)
        except EnvironmentProblem as error:
            raise EnvironmentProblem(error.message, f"{error.fix}; or import the others: --kind vae --kind whole") from None
    section = config_section(configs, "vae" if kind == "vae" else "whole")
    if section is None and configs:
        raise UserError(f"the config has no section for {kind}", "add it (vae; dit or model), or leave --config out")
    convert = hunyuan21.vae_from_hunyuan if kind == "vae" else hunyuan21.whole_dit_from_hunyuan
    return convert(section or {}, tensors)


def _export(options: Any) -> int:
    if options.out.suffix not in (".safetensors", ".ckpt"):
        raise UserError(f"--out {options.out} has no known form", "name it .safetensors or .ckpt")
    parts: dict[Any, dict[str, Any]] = {}
    configs: dict[str, Any] = {}
    for folder in _checkpoints(options.source):
        kind, config, tensors = _unconvert(folder, options)
        parts[kind] = tensors
        if config:
            configs["dit" if kind == "whole" else kind] = config
    _write(options.out, parts)
    beside = options.out.with_suffix(".json")
    beside.write_text(json.dumps(configs, indent=2) + "\n")
    for kind, tensors in parts.items():
        print(f"{kind}: {len(tensors)} tensors, {sum(tensor.numel() for tensor in tensors.values()):,} values", file=sys.stderr)
    print(f"{options.out}  {_digest(options.out)}")
    print(beside)
    return 0


def _checkpoints(folder: Path) -> list[Path]:
    """Returns a checkpoint, or those in a folder of models; of a training run the newest."""
    from jobs.training.state import find_checkpoint
    from unipart.models.pretrained import CONFIG

    if (folder / CONFIG).is_file():
        return [folder]
    if (folder / "checkpoints").is_dir():
        return [find_checkpoint(folder)]
    found = [find_checkpoint(folder / kind) for kind in ("vae", "whole") if (folder / kind).is_dir()]
    found += [path / "image_encoder" for path in found if (path / "image_encoder" / CONFIG).is_file()]
    if not found:
        raise UserError(f"{folder} holds no checkpoint", "give a checkpoint, or a folder with vae/ and whole/")
    return found


def _unconvert(folder: Path, options: Any) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Returns kind, config and tensors of a checkpoint in Hunyuan's form."""
    import torch

    from unipart.models.adapters import hunyuan21
    from unipart.models.geom_seg_vae import GeomSegVAE
    from unipart.models.image_encoder import Dinov2Encoder
    from unipart.models.pretrained import WEIGHTS, load_pretrained
    from unipart.models.whole_dit import WholeDiT

    model = load_pretrained(folder)
    stored = _tensors_of(folder / WEIGHTS)
    for name, parameter in model.named_parameters():
        dtype = options.dtype or _TORCH_NAMES[stored[name].dtype]
        parameter.data = parameter.data.to(getattr(torch, dtype))
    if isinstance(model, GeomSegVAE):
        left_out = hunyuan21.beyond_hunyuan(model)
        config, tensors = hunyuan21.vae_to_hunyuan(model, options.geometry_only)
        for name in left_out:
            print(f"left out: {name}", file=sys.stderr)
        return "vae", config, tensors
    if isinstance(model, WholeDiT):
        config, tensors = hunyuan21.whole_dit_to_hunyuan(model)
        return "whole", config, tensors
    if isinstance(model, Dinov2Encoder):
        return "image_encoder", {}, hunyuan21.image_encoder_to_hunyuan(model)
    raise UserError(f"{folder} holds a {type(model).__name__}, which Hunyuan3D-2.1 does not have", "export a VAE or a whole model")


def _write(path: Path, parts: Mapping[Any, Mapping[str, Any]]) -> None:
    """Writes one state dict as it is, several as sections."""
    import torch
    from safetensors.torch import save_file

    from unipart.models.adapters.hunyuan21_release import SECTIONS, join_sections

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".writing-{path.name}")
    alone = dict(next(iter(parts.values()))) if len(parts) == 1 else None
    if path.suffix == ".safetensors":
        save_file(alone or join_sections(parts), temporary)
    else:
        torch.save(alone or {SECTIONS[kind]: dict(part) for kind, part in parts.items()}, temporary)
    temporary.replace(path)


def _inspect(options: Any) -> int:
    if options.source.is_dir():
        files = sorted(options.source.rglob("model.safetensors"))
        if not files:
            raise UserError(f"{options.source} holds no model.safetensors", "give a weights file, or a folder of checkpoints")
    else:
        files = [options.source]
    found = [_describe(path) for path in files]
    if options.json:
        print(json.dumps(found if options.source.is_dir() else found[0], indent=2))
        return 0
    for description in found:
        _print(description)
    return 0


def _describe(path: Path) -> dict[str, Any]:
    """Returns what there is to say of a weights file."""
    tensors = _tensors_of(path)
    return {
        "file": str(path),
        "sha256": _digest(path),
        "parameters": sum(math.prod(info.shape) for info in tensors.values()),
        "models": _guess(path, tensors),
        "tensors": {name: {"shape": list(info.shape), "dtype": info.dtype} for name, info in tensors.items()},
    }


def _guess(path: Path, tensors: Mapping[str, TensorInfo]) -> dict[str, Any]:
    """Returns {kind: config}: from config.json beside the file, else from the shapes if these are Hunyuan3D-2.1's weights."""
    from unipart.models.adapters.hunyuan21_release import guess_config, split_sections

    beside = path.parent / "config.json"
    if path.name == "model.safetensors" and beside.is_file():
        document = json.loads(beside.read_text())
        if "model" in document and "config" in document:
            return {document["model"]: {"form": "UniPart", "config": document["config"]}}
    try:
        parts = split_sections({name: info.shape for name, info in tensors.items()})
        return {
            kind: {
                "form": "Hunyuan3D-2.1",
                "parameters": sum(math.prod(shape) for shape in shapes.values()),
                "config": guess_config(kind, shapes),
            }
            for kind, shapes in parts.items()
        }
    except UserError as error:
        return {"unknown": {"form": error.message, "config": {}}}


def _print(description: Mapping[str, Any]) -> None:
    print(f"{description['file']}\n  sha256      {description['sha256']}\n  parameters  {description['parameters']:,}")
    for kind, model in description["models"].items():
        size = f", {model['parameters']:,} parameters" if "parameters" in model else ""
        print(f"  {kind}  ({model['form']}{size})\n    {json.dumps(model['config'])}")
    rows: dict[tuple[str, tuple[int, ...], str], list[str]] = {}
    for name, tensor in description["tensors"].items():
        pattern = ".".join("*" if part.isdigit() else part for part in name.split("."))
        rows.setdefault((pattern, tuple(tensor["shape"]), tensor["dtype"]), []).append(name)
    for (pattern, shape, dtype), names in rows.items():
        print(f"  {len(names):>5} x {names[0] if len(names) == 1 else pattern}  {list(shape)}  {dtype}")


_TORCH_NAMES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_HEADER_NAMES = {f"torch.{name}": short for short, name in _TORCH_NAMES.items()}


def _tensors_of(path: Path) -> dict[str, TensorInfo]:
    """Reads names, shapes and types; of a .safetensors from its header alone, without torch."""
    if path.suffix != ".safetensors":
        from unipart.models.pretrained import read_tensors

        found: dict[str, TensorInfo] = {}
        for name, value in read_tensors(path).items():
            for inner, tensor in value.items() if isinstance(value, Mapping) else [("", value)]:
                full = f"{name}.{inner}" if inner else name
                found[full] = TensorInfo(tuple(tensor.shape), _HEADER_NAMES.get(str(tensor.dtype), str(tensor.dtype)))
        return found
    if not path.is_file():
        raise UserError(f"{path} does not exist", "give a weights file, or a folder of checkpoints")
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > path.stat().st_size:
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(length))
    except ValueError as error:
        raise UserError(f"{path} is no safetensors file: {error}", "copy the file again") from None
    return {name: TensorInfo(tuple(entry["shape"]), entry["dtype"]) for name, entry in header.items() if name != "__metadata__"}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
