"""What is checked before a training starts, and what its workers are given and answer."""

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs.recipes import find_recipe
from jobs.runs import HISTORY, LINK, SETTINGS
from jobs.train import train
from jobs.training import launch
from jobs.training.launch import Job, drop_other_curve, make_job, run_on_ray
from jobs.training.state import Progress
from pipelines.claim import locked
from unipart.data.schema import SCHEMA_VERSION
from unipart.data.shards import Manifest, write_manifest
from unipart.errors import EnvironmentProblem, UserError


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """The manifest of a dataset: what a training looks at before it starts."""
    folder = tmp_path / "shards"
    folder.mkdir()
    _curate(folder, "content")
    return folder


def _curate(folder: Path, digest: str) -> None:
    write_manifest(folder, Manifest(SCHEMA_VERSION, "config", "test", digest, {}, ()))


def _job(dataset: Path, folder: Path, kind: str = "vae", models: Path | None = None, **changes) -> Job:
    recipe = find_recipe(kind, "ci")
    return make_job(recipe.replace(**changes), recipe, str(dataset), folder, models or folder.parent)


def _start(job: Job, micro_batches: int = 1, step: int = 0, **document) -> None:
    """Leaves what a start of the job leaves, with a checkpoint at a step."""
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"config": job.config, "inputs": job.inputs, "micro_batches": micro_batches, **document}
    (folder / SETTINGS).write_text(json.dumps(settings))
    (folder / HISTORY).write_text('{"step": 1, "loss": 2.0}\n')
    (folder / LINK).write_text("{}")
    if step:
        state = folder / "checkpoints" / f"step_{step:08d}" / "train_state"
        state.mkdir(parents=True)
        (state / "progress.json").write_text(json.dumps(Progress(step, step, False, "digest").__dict__))


@pytest.mark.parametrize(("stored", "told"), [(64, True), (640, False)])
def test_fewer_points_than_the_encoder_takes_are_told(dataset: Path, tmp_path: Path, caplog, stored: int, told: bool):
    assert find_recipe("vae", "ci").model.num_points == 640
    points = {"surface": 640, "part_surface": stored}
    write_manifest(dataset, Manifest(SCHEMA_VERSION, "config", "test", "content", {}, (), {"points": points}))
    _job(dataset, tmp_path / "vae")
    assert ("64 points of a part and the encoder takes 640" in caplog.text) == told
    assert "whole object" not in caplog.text


def test_a_run_is_not_continued_on_other_samples_wherever_they_are(dataset: Path, tmp_path: Path):
    _start(_job(dataset, tmp_path / "vae"), step=1)
    moved = dataset.rename(tmp_path / "moved")
    assert _job(moved, tmp_path / "vae").data == str(moved)
    _curate(moved, "other samples")
    with pytest.raises(UserError, match=rf"data content -> other sample \({moved}\)") as error:
        _job(moved, tmp_path / "vae")
    assert "another --out" in error.value.fix


def test_a_run_is_not_continued_on_a_parent_that_was_trained_again(dataset: Path, tmp_path: Path, parents: dict[str, Path]):
    models = tmp_path / "models"
    models.mkdir()
    (models / "vae").symlink_to(parents["vae"])
    job = _job(dataset, tmp_path / "anchor", "anchor", models)
    _start(job, step=1, inputs={**job.inputs, "vae": "0123456789abcdef"})
    with pytest.raises(UserError, match=rf"vae 0123456789ab -> {job.inputs['vae'][:12]}"):
        _job(dataset, tmp_path / "anchor", "anchor", models)


def test_a_run_that_noted_no_inputs_is_continued(dataset: Path, tmp_path: Path):
    _start(_job(dataset, tmp_path / "vae"), step=1, inputs={})
    assert _job(dataset, tmp_path / "vae").inputs == {"data": "content"}


def test_a_run_that_is_further_than_it_is_to_go_is_refused(dataset: Path, tmp_path: Path):
    _start(_job(dataset, tmp_path / "vae", steps=8), step=6)
    _job(dataset, tmp_path / "vae", steps=6)
    with pytest.raises(UserError, match="at step 6, beyond --steps 5"):
        _job(dataset, tmp_path / "vae", steps=5)


def test_other_micro_batches_are_other_settings(dataset: Path, tmp_path: Path):
    _start(_job(dataset, tmp_path / "vae"), step=1)
    with pytest.raises(UserError, match="accumulate 1 -> 2"):
        _job(dataset, tmp_path / "vae", accumulate=2)


@pytest.mark.parametrize(("workers", "step", "kept"), [(1, 0, True), (2, 0, False), (2, 3, True)])
def test_rows_before_the_first_checkpoint_go_where_the_curve_will_be_another(
    dataset: Path, tmp_path: Path, workers: int, step: int, kept: bool, caplog
):
    job = _job(dataset, tmp_path / "vae", batch_size=4)
    _start(job, micro_batches=1 if step == 0 else 2, step=step)
    drop_other_curve(job, workers)
    for name in (HISTORY, LINK):
        assert (tmp_path / "vae" / name).exists() == kept
    assert ("it begins anew" in caplog.text) != kept


@pytest.mark.parametrize(("changes", "kept"), [({}, True), ({"log_every": 7}, True), ({"model__width": 32}, False)])
def test_a_start_that_came_to_no_checkpoint_leaves_a_folder_to_begin_anew_in(
    dataset: Path, tmp_path: Path, changes: dict, kept: bool, caplog
):
    _start(_job(dataset, tmp_path / "vae"))
    drop_other_curve(_job(dataset, tmp_path / "vae", **changes), 1)
    assert (tmp_path / "vae" / HISTORY).exists() == kept
    assert ("it begins anew" in caplog.text) != kept


def test_a_second_training_in_a_folder_is_refused(dataset: Path, tmp_path: Path):
    job = _job(dataset, tmp_path / "vae")
    with locked(job.folder), pytest.raises(UserError, match="another run is at work"):
        train(job, workers=0, tracking="off")


class _Trainer:
    """Stands for Ray's: gives what a group of workers gave, or raises."""

    def __init__(self, outcome: dict | BaseException) -> None:
        self.outcome = outcome

    def fit(self) -> SimpleNamespace:
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return SimpleNamespace(return_value=self.outcome)


@pytest.fixture
def no_ray(monkeypatch) -> Callable[..., list]:
    """Function that sets what a cluster of so many GPUs gives; returns the jobs and resources that are started."""

    def set_up(outcome: dict | BaseException, gpus: int = 0) -> list:
        started: list = []
        monkeypatch.setattr(launch, "start_ray", lambda *_: None)
        monkeypatch.setattr(launch, "cluster_address", lambda: "somewhere:6379")
        monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 8.0, "GPU": float(gpus)})
        monkeypatch.setattr(launch, "_trainer", lambda job, _, resources: started.append((job, resources)) or _Trainer(outcome))
        return started

    return set_up


@pytest.mark.parametrize("kind", [UserError, EnvironmentProblem])
def test_a_workers_answer_is_raised_as_what_it_was(dataset: Path, tmp_path: Path, no_ray, kind: type[UserError]):
    from ray.train.v2.api.exceptions import WorkerGroupError

    job = _job(dataset, tmp_path / "vae")
    answer = {"error": "no", "fix": "do", "environment": kind is EnvironmentProblem}
    failures: dict = {0: RuntimeError("connection closed by peer"), 1: SimpleNamespace(_base_exc=kind("no", "do"))}
    full_disk = WorkerGroupError("told", failures)
    for outcome in (answer, full_disk):
        no_ray(outcome)
        (tmp_path / "vae").mkdir(exist_ok=True)
        (tmp_path / "vae" / launch.REFUSAL).write_text("of a driver that was killed")
        with pytest.raises(UserError) as error:
            run_on_ray(job, workers=2)
        assert (type(error.value), error.value.message, error.value.fix) == (kind, "no", "do")
        assert not (tmp_path / "vae" / launch.REFUSAL).exists()


@pytest.mark.parametrize(
    ("device", "gpus", "there", "wanted"),
    [
        ("auto", None, 0, ("cpu", 0)),
        ("auto", None, 1, ("cpu", 0)),
        ("auto", None, 2, ("auto", 1)),
        ("cpu", None, 2, ("cpu", 0)),
        ("auto", 0.0, 2, ("cpu", 0)),
        ("auto", 1.0, 0, ("auto", 1)),
        ("cuda", None, 1, None),
    ],
)
def test_workers_have_a_gpu_each_or_none(dataset: Path, tmp_path: Path, no_ray, caplog, device, gpus, there, wanted):
    started = no_ray(Progress(6, 12, True, "digest").__dict__, there)
    job = replace(_job(dataset, tmp_path / "vae"), device=device)
    if wanted is None:
        with pytest.raises(EnvironmentProblem, match="1 GPUs for 2 workers"):
            run_on_ray(job, 2, gpus)
        return
    assert run_on_ray(job, 2, gpus).step == 6
    ((given, resources),) = started
    assert (given.device, resources.get("GPU", 0)) == wanted
    assert ("they train on the CPU" in caplog.text) == (there == 1)
    assert ("waiting for nodes" in caplog.text) == (gpus == 1 and there == 0)


def test_gpus_that_a_local_ray_can_never_have_are_refused(dataset: Path, tmp_path: Path, no_ray, monkeypatch):
    started = no_ray(Progress(6, 12, True, "digest").__dict__)
    monkeypatch.setattr(launch, "cluster_address", lambda: "")
    with pytest.raises(EnvironmentProblem, match="0 GPUs for 2 workers of 1 each"):
        run_on_ray(_job(dataset, tmp_path / "vae"), 2, 1.0)
    assert not started


def test_a_trainer_that_leaves_the_process_was_interrupted(dataset: Path, tmp_path: Path, no_ray):
    no_ray(SystemExit(1))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_on_ray(_job(dataset, tmp_path / "vae"), 1)
    assert signal.getsignal(signal.SIGINT) is before
