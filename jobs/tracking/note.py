"""What a run's folder knows of its MLflow run: ``mlflow.json``. A lost note costs questions to the store, never figures."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from uuid import uuid4

from jobs.runs import LINK, read_link
from unipart import storage


@dataclass
class Note:
    """Which run it is in the store, and what of it the store has acknowledged.

    Attributes:
        key: unique to this training; a tag of its run.
        uri: the store.
        experiment_id: its experiment there.
        run_id: its id there.
        shipped: {file of rows: bytes of it that are in the store}.
        files: {artefact: its version} that are in the store.
        status: how the run ended, as the store knows it.
        model: weights digest of the model that the store has registered.
    """

    key: str
    uri: str
    experiment_id: str = ""
    run_id: str = ""
    shipped: dict[str, int] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    status: str = ""
    model: str = ""

    def write(self, run: Path) -> None:
        """Replaces the note beside a run."""
        storage.write_bytes(run / LINK, (json.dumps(asdict(self)) + "\n").encode())


def read_note(run: Path, uri: str) -> Note:
    """Returns a run's note about a store; about another store than before, only the key stays."""
    document = read_link(run)
    if not document:
        return Note(uuid4().hex, uri)
    known = Note(**document)
    return known if known.uri == uri else Note(known.key, uri)
