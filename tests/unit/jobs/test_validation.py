"""Which objects are scored, by whom, and what is left on the disk."""

import errno
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from jobs.training import validation
from jobs.training.loop import Place
from jobs.training.scorers import Scored
from jobs.training.smoke import two_balls
from jobs.training.validation import Validation
from unipart.data.codec import encode_sample
from unipart.data.schema import SCHEMA_VERSION
from unipart.data.shards import Manifest, tar_bytes, write_manifest, write_shards
from unipart.rng import derive

PICTURE = np.zeros((8, 8, 3), np.uint8)


def write(folder: Path, **splits: list[str]) -> str:
    records = []
    for split, names in splits.items():
        samples = [(name, tar_bytes(name, encode_sample(two_balls(name, derive(0, name))))) for name in names]
        records += write_shards(folder, split, samples, 10**9, 2)
    write_manifest(folder, Manifest(SCHEMA_VERSION, "config", "test", "content", {}, tuple(records)))
    return str(folder)


class Counter:
    """Scores an object by the number in its name; what is even has a figure more."""

    groups = ("surface",)

    def __call__(self, sample) -> Scored:
        number = float(sample.sample_id[-1])
        return Scored({"number": number, **({"even": number} if number % 2 == 0 else {})}, {"truth": PICTURE}, ("a note",))


def validate(data: str, run: Path, count: int = 3, place: Place | None = None) -> Validation:
    return Validation(data, count, run, Counter(), place or Place(torch.device("cpu")))  # pyright: ignore[reportArgumentType]


def test_the_first_objects_by_id_are_scored_and_means_are_over_those_that_have_a_figure(tmp_path: Path):
    data = write(tmp_path / "data", train=["t0"], val=["v4", "v2", "v1", "v3"])
    assert validate(data, tmp_path / "run")(7) == {"val/number": 2.0, "val/even": 2.0}
    folder = tmp_path / "run" / "validation" / "step_00000007"
    assert sorted(path.name for path in folder.iterdir()) == ["objects.json", "v1.truth.png", "v2.truth.png", "v3.truth.png"]
    document = json.loads((folder / "objects.json").read_text())
    assert (document["step"], document["split"]) == (7, "val")
    assert document["objects"]["v3"] == {"figures": {"number": 3.0}, "notes": ["a note"]}


def test_without_validation_objects_training_objects_are_scored_and_it_is_said(tmp_path: Path, caplog):
    data = write(tmp_path / "data", train=["t2", "t1"])
    scores = validate(data, tmp_path / "run")(1)
    assert scores["val/number"] == 1.5
    assert "no validation objects" in caplog.text
    document = json.loads((tmp_path / "run" / "validation" / "step_00000001" / "objects.json").read_text())
    assert document["split"] == "train"


def test_with_validation_objects_nothing_is_said(tmp_path: Path, caplog):
    validate(write(tmp_path / "data", train=["t2"], val=["v1"]), tmp_path / "run")(1)
    assert caplog.text == ""


@pytest.mark.parametrize("world", [2, 5])
def test_workers_share_the_objects(tmp_path: Path, monkeypatch, world: int):
    data = write(tmp_path / "data", train=["t0"], val=["v1", "v2", "v3"])
    shares = []
    for rank in range(world):
        mine: list = []
        monkeypatch.setattr(validation, "_of_all", lambda found, _, mine=mine: mine.append(found) or found)
        validate(data, tmp_path / str(rank), place=Place(torch.device("cpu"), rank, world))(1)
        shares += [*mine[0]]
    assert sorted(shares) == ["v1", "v2", "v3"]
    monkeypatch.undo()
    gather = SimpleNamespace(all_gather_object=lambda out, mine: out.__setitem__(slice(None), [mine, {"v0": 0}]))
    monkeypatch.setattr(validation, "distributed", gather)
    assert validation._of_all({"v1": 1}, 2) == {"v0": 0, "v1": 1}


def test_a_full_disk_costs_pictures_and_not_the_scores(tmp_path: Path, monkeypatch, caplog):
    def full(*_) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    data = write(tmp_path / "data", train=["t0"], val=["v1"])
    monkeypatch.setattr(validation, "write_picture", full)
    monkeypatch.setattr(validation.storage, "write_bytes", full)
    assert validate(data, tmp_path / "run")(7) == {"val/number": 1.0}
    assert "v1.truth.png cannot be written: No space left on device" in caplog.text
    assert "objects.json cannot be written" in caplog.text
