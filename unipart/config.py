"""One base class for every config: frozen, strict, hashable by content."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from unipart.errors import UserError, did_you_mean


class Config(BaseModel):
    """A frozen set of named values; a misspelt key is an error.

    A component's config lives in the component's file. The docstring under a field is its help text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def replace(self, **changes: Any) -> Self:
        """Returns a copy with changes applied and validated again; ``model__width=64`` reaches into ``model``.

        Raises:
            UserError: a key does not exist (with the closest one) or a value does not fit its field.
        """
        data = self.model_dump()
        for path, value in changes.items():
            node: Any = data
            *parents, leaf = path.split("__")
            for name in parents:
                node = _child(node, name, path)
            _child(node, leaf, path)
            node[leaf] = value.model_dump() if isinstance(value, Config) else value
        return type(self).parse(data)

    @classmethod
    def parse(cls, data: Any, source: str = "config") -> Self:
        """Validates a nested dict.

        Raises:
            UserError: names the field's path, the reason and the closest field.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            path = ".".join(str(part) for part in first["loc"])
            where, reason = f"field '{path}': " if path else "", first["msg"].removeprefix("Value error, ")
            hint = ""
            if first["type"] == "extra_forbidden":
                hint = did_you_mean(str(first["loc"][-1]), list(cls.flat_keys()))
            raise UserError(f"{source}: {where}{reason}.{hint}", "correct the field") from None

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads a JSON file written by `save`."""
        path = Path(path)
        if not path.is_file():
            raise UserError(f"config file {path} does not exist", "give the path of a JSON file")
        try:
            data = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise UserError(f"config file {path} is not JSON: {error}", "correct the file") from None
        return cls.parse(data, source=str(path))

    def save(self, path: str | Path) -> None:
        """Writes indented JSON."""
        Path(path).write_text(json.dumps(self.model_dump(mode="json"), indent=2) + "\n")

    def digest(self) -> str:
        """Returns the sha256 (hex) of the canonical JSON; it goes into every artefact."""
        return digest_json(self.model_dump(mode="json"))

    def flat(self) -> dict[str, Any]:
        """Returns ``{"model.width": 64, ...}``."""
        return _flatten(self.model_dump(mode="json"))

    def diff(self, other: "Config") -> dict[str, tuple[Any, Any]]:
        """Returns the flat keys whose values differ, as ``(self, other)``."""
        mine, theirs = self.flat(), other.flat()
        keys = [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]
        return {key: (mine.get(key), theirs.get(key)) for key in keys}

    @classmethod
    def flat_keys(cls) -> set[str]:
        """Returns every field name of this class and of the configs inside it."""
        keys: set[str] = set()
        for name, field in cls.model_fields.items():
            keys.add(name)
            if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
                keys |= field.annotation.flat_keys()
        return keys


def digest_json(value: Any) -> str:
    """Returns the sha256 (hex) of a JSON value with sorted keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _child(node: Any, name: str, path: str) -> Any:
    if not isinstance(node, dict) or name not in node:
        known = list(node) if isinstance(node, dict) else []
        raise UserError(f"config has no field '{path.replace('__', '.')}'.{did_you_mean(name, known)}")
    return node[name]


def _flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix: node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def cluster_address() -> str:
    """Returns the address of the Ray cluster that this process was started on, or an empty string; Ray tells its jobs so."""
    return os.environ.get("RAY_ADDRESS", "")  # noqa: TID251 - one of the two places


def keep_ray_apart() -> None:
    """Gives a Ray that is started here a folder of its own and spares it what has no use there, unless the user said otherwise.

    In Ray's common folder lies the address of the last `ray start`, also of a cluster that died. Helpers of Ray Train take it for
    that of their own cluster and wait for it: twelve seconds at the end of every training. Another of its processes watches for
    nodes that are taken away: here there is none but the driver's.
    """
    os.environ.setdefault("RAY_TMPDIR", f"/tmp/unipart-ray-{os.getuid()}")  # noqa: TID251, S108 - short: it holds sockets
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # noqa: TID251


def cpu_threads() -> int:
    """Returns how many threads the user grants a process, or 0."""
    return int(os.environ.get("OMP_NUM_THREADS", "0"))  # noqa: TID251 - one of the two places
