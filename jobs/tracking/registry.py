"""The model that a run leaves, in MLflow's registry: files, signature, version, and the aliases ``newest`` and ``best``."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.runs import CONFIG, PROGRESS, WEIGHTS, best_checkpoint
from jobs.tracking.store import OpenRun, Refused, Store

LARGEST = 2 * 10**9
"""Bytes of model files that are uploaded; of larger models the registry tells address and digest."""
NEWEST, BEST = "newest", "best"
WEIGHTS_TAG, PLACE_TAG, RULE_TAG, VALUE_TAG, DATA_TAG = (
    f"unipart.{name}" for name in ("weights", "checkpoint", "best.rule", "best.value", "data")
)


@dataclass(frozen=True)
class Finished:
    """What a finished run leaves.

    Attributes:
        run: its folder.
        kind: vae, anchor, whole or part.
        newest: its last checkpoint.
        rule: ``metric:min`` or ``metric:max`` by which the best one is chosen, or an empty text.
        data: content digest of the shards.
    """

    run: Path
    kind: str
    newest: Path
    rule: str = ""
    data: str = ""

    @property
    def digest(self) -> str:
        """The weights' sha256."""
        return _document(self.newest)["digest"]

    def cards(self) -> list[Path]:
        """Returns the model card and the config of the last checkpoint."""
        return [path for path in (self.newest / "README.md", self.newest / CONFIG) if path.is_file()]


def register(store: Store, opened: OpenRun, model: Finished) -> None:
    """Registers a run's last checkpoint and, where a rule chooses it, its best one. Weights that are registered stay one version.

    ``best`` moves only to a better figure than its holder's by the same rule on the same data, or where there is none to compare.

    Raises:
        Unreachable, Refused: as of any call.
    """
    name = f"unipart-{model.kind}"
    with suppress(Refused):  # it is there
        store.call("create_registered_model", name)
    store.call("set_registered_model_alias", name, NEWEST, _version(store, opened, model, model.newest))
    best = best_checkpoint(model.run, model.rule) if model.rule else None
    if best is None:
        return
    version = _version(store, opened, model, best)
    figure = str(json.loads((best / PROGRESS).read_text())["scores"][model.rule.rpartition(":")[0]])
    for key, value in ((RULE_TAG, model.rule), (VALUE_TAG, figure)):
        store.call("set_model_version_tag", name, version, key, value)
    if not _holder_is_better(store, name, model, float(figure)):
        store.call("set_registered_model_alias", name, BEST, version)


def signature(checkpoint: Path) -> Any:
    """Returns MLflow's signature of a checkpoint's model: names, types and shapes, -1 where a length is free."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Schema, TensorSpec

    document = _document(checkpoint)
    inputs, outputs = _shapes(document["model"], document["config"], checkpoint)

    def schema(shapes: dict[str, tuple[str, tuple[int, ...]]]) -> Schema:
        return Schema([TensorSpec(np.dtype(kind), shape, name) for name, (kind, shape) in shapes.items()])

    return ModelSignature(schema(inputs), schema(outputs))


def _shapes(model: str, config: dict[str, Any], checkpoint: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and outputs of each model's forward pass: {name: (type, shape)}."""
    latents = ("float32", (-1, -1, config["latent_width"]))
    points = ("float32", (-1, -1, 3))
    encoder = checkpoint / "image_encoder"
    tokens = ("float32", (-1, -1, _document(encoder)["config"].get("width", -1) if encoder.is_dir() else -1))
    times = ("float32", (-1,))
    if model == "geom_seg_vae":
        return {"points": points, "normals": points, "labels": ("int64", (-1, -1))}, {"z": latents}
    if model == "anchor_decoder":
        return {"z": latents}, {"anchors": points}
    if model == "whole_dit":
        return {"z_t": latents, "t": times, "image_tokens": tokens}, {"velocity": latents}
    spaces = config["spaces"]
    dual = {f"z_t.{space}": latents for space in spaces}
    conditions = {"image_tokens": tokens, "z_0": latents, "x_i": latents, "valid": ("bool", (-1, -1))}
    return {**dual, "t": times, **conditions}, {f"velocity.{space}": latents for space in spaces}


def _version(store: Store, opened: OpenRun, model: Finished, checkpoint: Path) -> str:
    """Returns the registered version of a checkpoint's weights, made where there is none."""
    name, digest = f"unipart-{model.kind}", _document(checkpoint)["digest"]
    for known in store.call("search_model_versions", f"name = '{name}'"):
        if known.tags.get(WEIGHTS_TAG) == digest:
            return str(known.version)
    tags = {WEIGHTS_TAG: digest, PLACE_TAG: str(checkpoint), DATA_TAG: model.data}
    logged = _logged_model(store, opened, name, checkpoint, tags)
    # A store without a server would look for models:/ID in the folder where the command was started.
    source = f"models:/{logged.model_id}" if store.uri.startswith("http") else logged.artifact_location
    made = store.call(
        "create_model_version", name, source, run_id=opened.run_id, tags=tags, model_id=logged.model_id, await_creation_for=0
    )
    return str(made.version)


def _logged_model(store: Store, opened: OpenRun, name: str, checkpoint: Path, tags: dict[str, str]) -> Any:
    """Uploads a checkpoint's model files, unless that was done before the connection broke."""
    wanted = f"tags.`{WEIGHTS_TAG}` = '{tags[WEIGHTS_TAG]}'"
    found = [entry for entry in store.call("search_logged_models", [opened.experiment_id], wanted) if entry.name == name]
    logged = found[0] if found else None
    if logged is None:
        logged = store.call(
            "create_logged_model", opened.experiment_id, name, source_run_id=opened.run_id, tags=tags, model_type="unipart"
        )
    if str(logged.status) != "READY":
        _write_mlmodel(store, opened.run_id, logged.model_id, checkpoint)
        files = list(_model_files(checkpoint))
        if sum(path.stat().st_size for path in files) > LARGEST:
            files = [path for path in files if path.name != WEIGHTS]
        for path in files:
            folder = path.parent.relative_to(checkpoint).as_posix()
            store.call("log_model_artifact", logged.model_id, str(path), None if folder == "." else folder)
        store.call("finalize_logged_model", logged.model_id, "READY")
    return logged


def _write_mlmodel(store: Store, run_id: str, model_id: str, checkpoint: Path) -> None:
    from mlflow.models import Model

    document = _document(checkpoint)
    flavor = {"model": document["model"], "weights_sha256": document["digest"], "checkpoint": str(checkpoint)}
    card = Model(run_id=run_id, model_id=model_id, signature=signature(checkpoint), flavors={"unipart": flavor})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "MLmodel"
        card.save(str(path))
        store.call("log_model_artifact", model_id, str(path))


def _model_files(checkpoint: Path) -> Iterator[Path]:
    """Yields the published files: weights, config, card, also of models inside; not the training's state."""
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and path.relative_to(checkpoint).parts[0] != "train_state":
            yield path


def _holder_is_better(store: Store, name: str, model: Finished, figure: float) -> bool:
    try:
        tags = store.call("get_model_version_by_alias", name, BEST).tags
    except Refused:  # nobody holds it
        return False
    if tags.get(RULE_TAG) != model.rule or tags.get(DATA_TAG) != model.data:
        return False
    sign = -1.0 if model.rule.endswith(":max") else 1.0
    return sign * float(tags[VALUE_TAG]) < sign * figure


def _document(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / CONFIG).read_text())
