"""Several workers, and what goes wrong: workers that stop alone, damaged checkpoints, full disks, losses that are not finite."""

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.multiprocessing import ProcessRaisedException

from jobs.recipes import find_recipe
from jobs.runs import DIGESTS, best_checkpoint, checkpoint_folders, latest_checkpoint, read_history
from jobs.train import main
from jobs.training import checkpoints
from jobs.training.batches import BatchSource, make_draw
from jobs.training.launch import REFUSAL, Job, make_job, run_here, run_in_group
from jobs.training.loop import Place
from jobs.training.state import find_checkpoint, read_progress
from unipart.errors import EnvironmentProblem, UserError

QUICK = {"loader_workers": 0, "log_every": 1, "batch_size": 4, "accumulate": 2, "validate_every": 3, "optimizer__ema_decay": 0.9}


def _job(dataset: Path, folder: Path, kind: str = "vae", **changes) -> Job:
    recipe = find_recipe(kind, "ci")
    config = recipe.replace(**{**QUICK, "steps": 6, "checkpoint_every": 3, **changes})
    return replace(make_job(config, recipe, str(dataset), folder, folder.parent), threads=1, device="cpu")


def _curve(folder: Path) -> dict[str, list[float]]:
    rows = read_history(folder)
    return {name: [row[name] for row in rows if name in row] for name in ("loss", "grad_norm", "val/loss", "z_scale")}


def _same(one: Path, other: Path, tolerance: float) -> None:
    ours, theirs = _curve(one), _curve(other)
    assert [len(values) for values in ours.values()] == [len(values) for values in theirs.values()]
    for name, values in ours.items():
        assert values == pytest.approx(theirs[name], rel=tolerance), name


def _cut(folder: Path, step: int) -> None:
    """Leaves a run as if it had been killed after a checkpoint."""
    for path in checkpoint_folders(folder):
        if read_progress(path).step > step:
            for file in sorted(path.rglob("*"), reverse=True):
                file.unlink() if file.is_file() else file.rmdir()
            path.rmdir()


TWO_ROUNDS = {"accumulate": 4, "keep_checkpoints": 2}
"""For two workers: each has two micro-batches a step, and communicates after the second only."""


@pytest.fixture(scope="module")
def in_twos(dataset: Path, run_together: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training by two workers, four times: a folder each."""
    folder = tmp_path_factory.mktemp("in_twos")
    names = {"ddp": "ddp", "fsdp": "fsdp", "cut_ddp": "ddp", "cut_fsdp": "fsdp"}
    jobs = [_job(dataset, folder / name / "vae", parallel=parallel, **TWO_ROUNDS) for name, parallel in names.items()]
    run_together(jobs, folder / "store")
    return folder


def test_two_workers_give_the_curve_of_one_and_resume_in_any_number(
    dataset: Path, in_twos: Path, run_together: Callable[..., None]
):
    tmp_path, one = in_twos, in_twos / "one" / "vae"
    run_here(_job(dataset, one, **TWO_ROUNDS))
    ways = {"cut_ddp": "ddp", "cut_fsdp": "fsdp"}
    jobs = [_job(dataset, tmp_path / name / "vae", parallel=parallel, **TWO_ROUNDS) for name, parallel in ways.items()]
    for name in ("cut_ddp", "cut_fsdp"):
        _cut(tmp_path / name / "vae", 3)
        os.truncate(tmp_path / name / "vae" / "history.jsonl", 0)
    # With the same workers, with the other way of sharing, and with one worker again.
    across = tmp_path / "across" / "vae"
    across.parent.mkdir()
    _copy(tmp_path / "cut_fsdp" / "vae", across)
    alone = tmp_path / "alone" / "vae"
    alone.parent.mkdir()
    _copy(tmp_path / "cut_fsdp" / "vae", alone)
    run_together([*jobs, _job(dataset, across, parallel="ddp", **TWO_ROUNDS)], tmp_path / "store again")
    run_here(_job(dataset, alone, parallel="fsdp", **TWO_ROUNDS))

    _same(tmp_path / "ddp" / "vae", one, 1e-5)
    _same(tmp_path / "fsdp" / "vae", tmp_path / "ddp" / "vae", 1e-5)
    assert _curve(tmp_path / "ddp" / "vae")["loss"] == pytest.approx(_curve(one)["loss"], rel=1e-6)
    for name in ("ddp", "fsdp"):
        straight, again = (find_checkpoint(tmp_path / folder / "vae") for folder in (name, f"cut_{name}"))
        for file in sorted(straight.rglob("*.safetensors")):
            ours, theirs = load_file(file), load_file(again / file.relative_to(straight))
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], theirs[key]) for key in ours), file
    whole = _curve(tmp_path / "fsdp" / "vae")["loss"][3:]
    assert _curve(across)["loss"] == pytest.approx(whole, rel=1e-5)
    assert _curve(alone)["loss"] == pytest.approx(whole, rel=1e-5)
    assert (find_checkpoint(tmp_path / "fsdp" / "vae") / "train_state" / "shards").is_dir()


def test_a_damaged_shard_of_the_state_puts_its_checkpoint_aside(dataset: Path, in_twos: Path, tmp_path: Path, caplog):
    folder = tmp_path / "vae"
    _copy(in_twos / "fsdp" / "vae", folder)
    before = _curve(folder)
    shard = sorted((find_checkpoint(folder) / "train_state" / "shards").glob("*.safetensors"))[-1]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    os.truncate(folder / "history.jsonl", 0)
    run_here(_job(dataset, folder, parallel="fsdp", **TWO_ROUNDS))
    assert f"{shard.name} changed or missing" in caplog.text
    assert (folder / "checkpoints" / ".damaged_step_00000006").is_dir()
    assert _curve(folder)["loss"] == pytest.approx(before["loss"][3:], rel=1e-5)


def test_the_part_model_shards_too_with_its_blocks_recomputed(dataset: Path, tmp_path: Path, run_together: Callable[..., None]):
    for kind in ("vae", "whole"):
        run_here(_job(dataset, tmp_path / kind, kind, steps=2))
    names = {"ddp": "ddp", "fsdp": "fsdp"}
    jobs = [_job(dataset, tmp_path / name, "part", parallel=way, recompute=True, steps=4) for name, way in names.items()]
    run_together(jobs, tmp_path / "store")
    run_here(_job(dataset, tmp_path / "one", "part", steps=4))
    _same(tmp_path / "ddp", tmp_path / "one", 1e-5)
    _same(tmp_path / "fsdp", tmp_path / "ddp", 1e-5)


def _copy(source: Path, target: Path) -> None:
    import shutil

    shutil.copytree(source, target, symlinks=True)


def test_workers_that_cannot_share_a_step_are_refused(dataset: Path, tmp_path: Path):
    with pytest.raises(UserError, match="4 workers cannot share"):
        run_here(_job(dataset, tmp_path / "vae", batch_size=6), rank=0, world=4)


@pytest.mark.parametrize("how", ["truncated", "changed", "unlisted"])
def test_a_damaged_checkpoint_is_said_and_the_one_before_is_used(dataset: Path, tmp_path: Path, how: str, caplog):
    folder = tmp_path / "vae"
    run_here(_job(dataset, folder, keep_checkpoints=3, checkpoint_every=2))
    before = _curve(folder)
    newest = find_checkpoint(folder)
    state = newest / "train_state" / "state.safetensors"
    if how == "truncated":
        os.truncate(state, state.stat().st_size // 2)
    elif how == "changed":
        content = bytearray(state.read_bytes())
        content[-1] ^= 1
        state.write_bytes(content)
    else:
        (newest / DIGESTS).write_text("{")
    progress = run_here(_job(dataset, folder, keep_checkpoints=3, checkpoint_every=2))
    assert "is damaged" in caplog.text
    assert progress.step == 6
    assert (folder / "checkpoints" / ".damaged_step_00000006").is_dir()
    assert find_checkpoint(folder) == newest
    assert _curve(folder) == before


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(dataset: Path, tmp_path: Path, monkeypatch, caplog):
    folder, real = tmp_path / "vae", checkpoints.seal

    def full_at(steps: tuple[int, ...]):
        def seal(partial: Path) -> None:
            if int(partial.name[-8:]) in steps:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(partial)

        return seal

    monkeypatch.setattr(checkpoints, "seal", full_at((4,)))
    run_here(_job(dataset, folder, checkpoint_every=2))
    assert "No space left" in caplog.text
    assert [read_progress(path).step for path in checkpoint_folders(folder)] == [2, 6]
    monkeypatch.setattr(checkpoints, "seal", full_at((9,)))
    with pytest.raises(EnvironmentProblem, match="No space left"):
        run_here(_job(dataset, folder, steps=9, checkpoint_every=9))
    assert read_progress(checkpoint_folders(folder)[-1]).step == 6
    assert not list((folder / "checkpoints").glob(".partial*"))


def test_a_loss_that_is_not_finite_leaves_its_samples_and_no_bad_checkpoint(dataset: Path, tmp_path: Path):
    folder = tmp_path / "vae"
    job = _job(dataset, folder, steps=20, log_every=7, checkpoint_every=20, optimizer__lr=1e30, optimizer__clip=1e30)
    with pytest.raises(UserError, match="another --out with --init"):
        run_here(job)
    (path,) = folder.glob("nonfinite_step_*.json")
    document = json.loads(path.read_text())
    (ids,) = document["sample_ids_by_worker"]
    config = find_recipe("vae", "ci").replace(**{**job.config, "accumulate": document["micro_batches"]})
    batches = BatchSource(str(dataset), config, make_draw(config, None, None), Place(torch.device("cpu"))).train(document["cursor"])
    assert [name for _ in range(document["micro_batches"]) for name in next(batches)["sample_id"]] == ids
    assert latest_checkpoint(folder) is None


def test_the_best_checkpoint_is_kept_by_its_direction(dataset: Path, tmp_path: Path):
    folder = tmp_path / "vae"
    run_here(_job(dataset, folder, checkpoint_every=1, keep_checkpoints=1, best="val/loss:max", validate_every=100))
    values = {row["step"]: row["val/loss"] for row in read_history(folder) if "val/loss" in row}
    best = max(values, key=lambda step: values[step])
    assert len(values) == 6
    assert (folder / "checkpoints" / "best").resolve().name == f"step_{best:08d}"
    assert best_checkpoint(folder, "val/loss:max") == folder / "checkpoints" / f"step_{best:08d}"
    assert len(checkpoint_folders(folder)) == len({best, 6})


def test_rows_tell_where_the_time_goes(dataset: Path, tmp_path: Path):
    run_here(_job(dataset, tmp_path / "vae", checkpoint_every=2))
    rows = [row for row in read_history(tmp_path / "vae") if "loss" in row]
    for row in rows:
        assert row["time/compute"] > 0
        assert row["time/data"] > 0
        assert row["seconds"] == pytest.approx(row["time/compute"] + row["time/data"] + row["time/checkpoint"])
        assert row["memory_gb"] > 0.1
    assert rows[2]["time/checkpoint"] > 0
    assert rows[1]["time/checkpoint"] == 0


def _note_answer(job: Job, rank: int, world: int) -> None:
    """What Ray starts; its answer goes to a file."""
    answer = run_in_group(job, rank, world)
    (Path(job.folder) / f"answer_{rank}.json").write_text(json.dumps(answer))


def test_what_stops_workers_ends_them_all_and_is_the_answer_of_the_next_start(
    dataset: Path, tmp_path: Path, run_together: Callable[..., None]
):
    """One alone: only the first writes the history, and the other waits for it in a collective. Both: a loss that is not finite."""
    alone, both = (tmp_path / name / "vae" for name in ("alone", "both"))
    jobs = [_job(dataset, alone), _job(dataset, both, log_every=3, optimizer__lr=1e30, optimizer__clip=1e30)]
    (alone / "history.jsonl").mkdir(parents=True)
    for start, error in enumerate(("history.jsonl cannot be written: Is a directory", r"step \d is not finite")):
        with pytest.raises(ProcessRaisedException, match=error):
            run_together(jobs, tmp_path / f"store {start}", _note_answer)
    answers = [json.loads((alone / f"answer_{rank}.json").read_text()) for rank in range(2)]
    assert "Is a directory" in answers[0]["error"]
    assert answers[0]["environment"]
    assert answers[0] == answers[1]
    assert not json.loads((both / REFUSAL).read_text())["environment"]
    (path,) = both.glob("nonfinite_step_*.json")
    assert [len(ids) for ids in json.loads(path.read_text())["sample_ids_by_worker"]] == [2, 2]
    assert latest_checkpoint(both) is None


def test_a_run_that_is_not_finished_can_start_another_with_a_lower_rate(dataset: Path, tmp_path: Path):
    """What is advised after a loss that is not finite."""
    broken, fresh = tmp_path / "broken", tmp_path / "fresh"
    run_here(_job(dataset, broken))
    _cut(broken, 3)
    common = ["--data", str(dataset), "--init", str(broken), "--optimizer.lr", "1e-5", "--workers", "0", "--tracking", "off"]
    assert main(["vae", "ci", "--out", str(fresh), "--steps", "1", *common]) == 0
    with pytest.raises(UserError, match=r"started with other settings: .*optimizer\.lr"):
        main(["vae", "ci", "--out", str(broken), "--steps", "9", *common])
