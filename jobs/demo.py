"""``unipart demo``: the whole road on one machine, offline: meshes -> shards -> four models -> objects -> scores -> report.

Every step is the function behind a command of its own, so what the demo does can be repeated step by step. A step that is done is
not done again; an interrupted one continues.
"""

import json
import logging
import os
import shlex
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import unipart
from jobs.options import Parser
from jobs.runs import KINDS
from unipart import storage
from unipart.config import digest_json
from unipart.errors import EnvironmentProblem, UserError

NUM_STEPS = 9
KINDS_OF_OBJECTS = "chair+sofa+car+rocket+mushroom+cake+house+snowman"
"""Eight kinds, so that models this small see enough of each to generate one they have not seen."""
MIN_FREE_GB = 3.0
WORKERS = 1 if Path("/dev/nvidiactl").exists() else min(2, os.cpu_count() or 1)
"""Share a training: on few cores faster than threads, which wait for each other at every turn. A GPU is not shared."""


@dataclass(frozen=True)
class Plan:
    """How large the demo is.

    Attributes:
        sources: what is curated.
        size: of models and of the curation.
        limit: most assets.
        objects: held-out objects that are generated.
        changes: {kind: fields that differ from the recipe}.
        num_points: points a mesh in the evaluation.
        held_out: shares of the assets for validation and for the test.
        split: whose images objects are generated from.
        workers: that share a training, each with its part of the cores.
    """

    sources: tuple[str, ...]
    size: str
    limit: int | None
    objects: int
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    num_points: int = 20_000
    held_out: tuple[float, float] = (0.05, 0.1)
    split: str = "test"
    workers: int = 1


def plan_demo(data: str | None, fast: bool) -> Plan:
    """Returns the demo's size: a few minutes, or with `fast` about a minute and without Ray Train, for tests."""
    count = 12 if fast else 80
    sources = (data,) if data else (f"procedural:count={count},seed=0,kinds={KINDS_OF_OBJECTS}",)
    if not fast:
        return Plan(sources, "tiny", 160 if data else None, objects=6, workers=WORKERS)
    few = {"steps": 12, "log_every": 4, "checkpoint_every": 12, "validate_every": 12}
    return Plan(sources, "ci", 12, objects=2, changes=dict.fromkeys(KINDS, few), num_points=2_000, workers=0)


class Demo:
    """The nine steps, with progress on stderr and a stamp a step.

    Args:
        out: folder of everything.
        plan: how large.
    """

    title = "UniPart demo"
    """Of the report."""

    def __init__(self, out: Path, plan: Plan) -> None:
        self.out, self.plan = out, plan
        self.number = 0
        self.seconds: dict[str, float] = {}
        self.begin = time.monotonic()
        self.commands: list[str] = []

    @property
    def shards(self) -> Path:
        """Folder of the dataset."""
        return self.out / "shards"

    @property
    def models(self) -> Path:
        """Folder of the four runs."""
        return self.out / "models"

    @property
    def bundles(self) -> Path:
        """Folder of the generated objects."""
        return self.out / "bundles"

    @property
    def report(self) -> Path:
        """The report."""
        return self.out / "report.html"

    def run(self) -> Path:
        """Runs every step that is not done and returns the report's path; libraries are quiet, and Ray is stopped at the end."""
        logging.basicConfig(level=logging.ERROR)
        warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
        self.out.mkdir(parents=True, exist_ok=True)
        try:
            self.check_machine()
            key = self.curate()
            for kind in KINDS:
                key = self.train(kind, key)
            key = self.generate(key)
            key = self.evaluate(key)
            self.write_report(key)
        finally:
            _stop_ray()
        return self.report

    def check_machine(self) -> None:
        """Looks for what would stop the demo half way."""
        with self._step("check this machine"):
            free = shutil.disk_usage(self.out).free / 1e9
            if free < MIN_FREE_GB:
                raise EnvironmentProblem(f"{free:.1f} GB free in {self.out}", f"free {MIN_FREE_GB:g} GB or give another --out")

    def curate(self) -> str:
        """Meshes -> shards; the runner itself knows what is done. Returns the dataset's digest."""
        with self._step("curate meshes into shards"):
            from pipelines.presets import preset
            from pipelines.runner import Progress, RunOptions, run
            from unipart.data.shards import ShardIndex, read_manifest

            def tell(progress: Progress) -> None:
                _say(f"  {progress.done}/{progress.total} {progress.what}, {progress.seconds:.0f} s")

            val, test = self.plan.held_out
            config = preset("tiny").replace(pack__val_fraction=val, pack__test_fraction=test)
            limit = () if self.plan.limit is None else ("--limit", self.plan.limit)
            shares = ("--pack.val_fraction", val, "--pack.test_fraction", test)
            self._tell_command("data", "run", *self.plan.sources, "--size", "tiny", *shares, *limit, "--out", self.shards)
            result = run(self.plan.sources, self.shards, config, RunOptions(limit=self.plan.limit), tell)
            counts = result.counts
            _say(f"  in {counts['in']} = kept {counts['kept']} + rejected {counts['rejected']} + failed {counts['failed']}")
            if min(len(ShardIndex.open(self.shards, split)) for split in ("train", self.plan.split)) == 0:
                raise UserError("too few meshes were kept to train and to test", "give a folder with more meshes of several parts")
            return read_manifest(self.shards).content_digest

    def train(self, kind: Any, key: str) -> str:
        """Trains one model."""
        from jobs.recipes import find_recipe

        recipe = find_recipe(kind, self.plan.size)
        changes = self.plan.changes.get(kind, {})
        config = recipe.replace(**changes)
        folder = self.models / kind

        def work() -> None:
            from jobs.train import train
            from jobs.training.launch import make_job

            train(make_job(config, recipe, str(self.shards), folder, self.models), self.plan.workers, tracking=self._tracking)

        fields = [word for name, value in changes.items() for word in (f"--{name.replace('__', '.')}", value)]
        how = ("--workers", self.plan.workers, "--tracking", self._tracking)
        self._tell_command("train", kind, self.plan.size, "--data", self.shards, "--out", folder, *fields, *how)
        return self._stamped(f"train the {kind} model", kind, digest_json([key, config.digest()]), work, folder)

    def generate(self, key: str) -> str:
        """Images of a split -> bundles."""

        def work() -> None:
            from jobs.generate import generate, load_pipeline, requests_from_shards
            from jobs.recipes.generation import generation

            pipeline = load_pipeline(self.models)
            config = generation(self.plan.size, pipeline.models.vae.config)
            requests = list(requests_from_shards(str(self.shards), split, self.plan.objects))
            generate(pipeline, requests, config, self.bundles)

        split, settings = self.plan.split, ("--limit", self.plan.objects, "--size", self.plan.size)
        places = ("--from-shards", self.shards, "--models", self.models, "--out", self.bundles)
        self._tell_command("generate", *places, "--split", split, *settings)
        title = f"generate objects from images of the {split} split"
        return self._stamped(title, "generate", digest_json([key, split, settings]), work, self.bundles)

    def evaluate(self, key: str) -> str:
        """Bundles -> scores."""

        def work() -> None:
            from jobs.evaluate import Truth, evaluate, headline, print_table, read_predictions, track_scores
            from unipart.metrics.shape import MetricsConfig
            from unipart.metrics.table import write_scores

            config = MetricsConfig(num_points=self.plan.num_points)
            rows = evaluate(read_predictions(self.bundles), Truth(str(self.shards)), "UniPart", config)
            write_scores(self.scores, rows)
            track_scores(rows, self.scores, self._tracking, "UniPart", {"unipart.dataset": key})
            print_table(headline(rows))

        settings = ("--num_points", self.plan.num_points, "--tracking", self._tracking)
        self._tell_command("evaluate", self.bundles, "--against", self.shards, "--out", self.scores, *settings)
        return self._stamped("evaluate them", "evaluate", digest_json([key, self.plan.num_points]), work, self.scores)

    def write_report(self, key: str) -> str:
        """Everything -> report.html."""

        def work() -> None:
            from jobs.report import Inputs, make_report, track_report

            inputs = Inputs(self.models, self.bundles, self.scores, str(self.shards), commands=tuple(self.commands))
            make_report(inputs, self.report, self.title)
            track_report(self.report, self._tracking)

        places = ("--runs", self.models, "--bundles", self.bundles, "--scores", self.scores, "--data", self.shards)
        self._tell_command("report", *places, "--out", self.report, "--title", self.title, "--tracking", self._tracking)
        return self._stamped("write the report", "report", digest_json([key, "report"]), work, self.report, self.out / "viewers")

    @property
    def scores(self) -> Path:
        """Scores of the generated objects."""
        return self.out / "scores.parquet"

    @property
    def _tracking(self) -> str:
        return f"sqlite:///{(self.out / 'mlflow.db').resolve()}"

    def _tell_command(self, *words: object) -> None:
        """Notes the command that does the same as a step; the report lists them."""
        self.commands.append(shlex.join(["unipart", *map(str, words)]))

    def _stamped(self, title: str, name: str, key: str, work: Callable[[], None], *outputs: Path) -> str:
        """Runs a step unless its stamp says that it is done with these inputs, and every file that it made is there.

        What was made from other inputs is removed; what a step of the same inputs left behind is there to go on from.
        """
        key = digest_json([unipart.__version__, key])
        stamp = self.out / "stamps" / f"{name}.json"
        known = json.loads(stamp.read_text()) if stamp.is_file() else {}
        with self._step(title):
            same, made = known.get("key") == key, known.get("made")
            if same and made is not None and all((self.out / file).is_file() for file in made):
                _say("  done before")
                return key
            for output in outputs if known and not same else ():
                shutil.rmtree(output) if output.is_dir() else output.unlink(missing_ok=True)
            storage.write_bytes(stamp, json.dumps({"key": key}).encode())
            work()
            made = [path.relative_to(self.out).as_posix() for output in outputs for path in _files(output)]
            storage.write_bytes(stamp, json.dumps({"key": key, "made": made}).encode())
        return key

    @contextmanager
    def _step(self, title: str) -> Iterator[None]:
        self.number += 1
        start = time.monotonic()
        _say(f"[{self.number}/{NUM_STEPS}] {title}  ({_clock(start - self.begin)} elapsed)")
        yield
        self.seconds[title] = time.monotonic() - start

    def summary(self) -> str:
        """Returns the closing lines: time a step and where to look."""
        lines = [f"  {_clock(seconds):>6}  {title}" for title, seconds in self.seconds.items()]
        lines.append(f"  {_clock(time.monotonic() - self.begin):>6}  in all")
        return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Entry point of ``unipart demo``; prints the path of the report."""
    parser = Parser(
        "demo",
        "Run the whole road on this machine, offline: curation, four trainings, generation, evaluation, report.",
        [
            "unipart demo                       about ten minutes on two CPU cores",
            "unipart demo --data meshes/        with your own meshes in place of the built-in objects",
            "unipart demo                       again: what is done is not done again",
        ],
    )
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("demo"), help="folder of everything (default: demo)")
    parser.add_argument("--data", metavar="FOLDER", help="meshes to use (default: built-in objects)")
    parser.add_argument("--fast", action="store_true", help="a minute, with models too small to learn: for tests")
    options = parser.parse_args(arguments)
    if options.data and not Path(options.data).exists():
        raise UserError(f"{options.data} does not exist", "give a folder of meshes")
    demo = Demo(options.out, plan_demo(options.data, options.fast))
    report = demo.run()
    _say("\n" + demo.summary())
    _say("\nOpen the report in a browser:")
    print(report.resolve())
    return 0


def _stop_ray() -> None:
    if "ray" in sys.modules:
        import ray

        ray.shutdown()


def _files(output: Path) -> list[Path]:
    """Returns a file itself, or those below a folder; locks and markers, which begin with a dot, are no results."""
    return [output] if output.is_file() else sorted(path for path in output.rglob("[!.]*") if path.is_file())


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
