"""Runs a plan on Ray Data: assets that are not in the ledger go through isolated children; then the kept ones are packed.

Only small rows travel through Ray: a worker writes the artefact of an asset itself, and the rows of a block go to the ledger in one
atomic file. Artefacts are keyed by content and config, so a task that Ray repeats writes the same bytes again: at-least-once
execution gives exactly-once results, whatever was killed when.
"""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from pipelines import ledger, sink
from pipelines.isolate import shared
from pipelines.ledger import PENDING, Row
from pipelines.plan import CurationConfig, Plan, build_plan
from pipelines.process import artefact_address, warm_up
from pipelines.sources.catalog import build_catalog
from unipart import storage
from unipart.data.codec import pack_json
from unipart.data.schema import CATALOG_COLUMNS, LEDGER_COLUMNS
from unipart.data.splits import split_of
from unipart.errors import EnvironmentProblem, UserError

CATALOG, CONFIG = "catalog.parquet", "config.json"
_TARGET = "pipelines.process:process_asset"
_BLOCK_ROWS = 16
"""Most assets in a block: what is lost when a worker is killed."""
_BLOCKS_PER_CPU = 8
"""So that the workers finish at about the same time."""


@dataclass(frozen=True)
class RunOptions:
    """How to run, as opposed to what to make.

    Attributes:
        limit: at most this many assets of the sources.
        retry: do the assets of this state again.
        num_cpus: CPUs of a local Ray; None for all.
        address: ``local`` to start Ray here, ``auto`` or an address to join a cluster.
    """

    limit: int | None = None
    retry: Literal["failed", "rejected"] | None = None
    num_cpus: int | None = None
    address: str = "local"


@dataclass(frozen=True)
class Progress:
    """Where a run stands; `counts` are those of this run's assets so far."""

    done: int
    total: int
    counts: dict[str, int]
    seconds: float

    @property
    def seconds_left(self) -> float:
        """Estimate from the mean so far; infinite before the first result."""
        return self.seconds / self.done * (self.total - self.done) if self.done else float("inf")


@dataclass(frozen=True)
class RunResult:
    """What a run did.

    Attributes:
        out: dataset address.
        rows: a settled row per asset.
        counts: in, kept, rejected, failed.
        num_processed: assets that this run worked on; the others were done before.
    """

    out: str
    rows: list[Row]
    counts: dict[str, int]
    num_processed: int


def run(
    sources: Sequence[str],
    out: str | Path,
    config: CurationConfig,
    options: RunOptions | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> RunResult:
    """Curates sources into a dataset, continuing whatever an earlier run left.

    Args:
        sources: see `pipelines.sources.catalog`.
        out: folder or s3:// address of the dataset.
        config: what to make.
        options: how to run.
        progress: is told after every block.

    Raises:
        UserError: a source is missing or empty.
        EnvironmentProblem: the cluster can never run an asset.
    """
    options = options or RunOptions()
    out = storage.resolve(out)
    plan = build_plan(config)
    catalog = [
        {**asset, "split": split_of(asset["asset_id"], config.pack.val_fraction, config.pack.test_fraction)}
        for asset in build_catalog(sources, options.limit)
    ]
    ledger.write_table(storage.join(out, CATALOG), catalog, CATALOG_COLUMNS)
    storage.write_bytes(storage.join(out, CONFIG), pack_json(config.model_dump(mode="json")))
    pending = find_pending(out, plan, catalog, options.retry)
    if pending:
        _process(out, plan, pending, options, progress or (lambda _: None))
    rows = ledger.settle(catalog, config, ledger.read_ledger(out, plan.digest))
    counts = ledger.count_states(rows)
    assert PENDING not in counts, "every asset that was worked on has a row in the ledger"
    sink.write_dataset(out, plan, rows)
    return RunResult(out, rows, counts, len(pending))


def find_pending(out: str, plan: Plan, catalog: Sequence[Row], retry: str | None = None) -> list[Row]:
    """Returns the assets of a catalog that still need work: not in the ledger, to be retried, or kept without their artefact."""
    known = ledger.read_ledger(out, plan.digest)
    present = set(storage.list_files(artefact_address(out, plan.digest, "00").rpartition("/00/")[0]))
    pending = []
    for asset, row in zip(catalog, ledger.settle(catalog, plan.config, known), strict=True):
        lost = row["state"] == "kept" and f"{asset['asset_id'][:2]}/{asset['asset_id']}.tar" not in present
        again = row["state"] == retry and row["stage"] != "catalog"
        if row["state"] == PENDING or lost or again:
            pending.append(asset)
    return pending


def read_status(out: str | Path) -> list[Row]:
    """Returns a settled row per asset of a dataset, finished or not.

    Raises:
        UserError: nothing was ever curated there.
    """
    out = storage.resolve(out)
    try:
        catalog = ledger.read_table(storage.join(out, CATALOG))
        config = CurationConfig.parse(json.loads(storage.read_bytes(storage.join(out, CONFIG))), storage.join(out, CONFIG))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{out} holds no curation run", "give the --out folder of `unipart data run`") from None
    return ledger.settle(catalog, config, ledger.read_ledger(out, build_plan(config).digest))


def _process(out: str, plan: Plan, pending: Sequence[Row], options: RunOptions, progress: Callable[[Progress], None]) -> None:
    import ray
    import ray.data

    warm_up()  # compiles the kernels once, before every worker would
    if not ray.is_initialized():
        _start_ray(options)
    _check_layout(plan, ray.nodes())
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    num_cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
    rows_per_block = max(1, min(_BLOCK_ROWS, len(pending) // (num_cpus * _BLOCKS_PER_CPU)))
    settings = {"out": out, "config": plan.config.model_dump(mode="json"), "attempt": ledger.next_attempt(out, plan.digest)}
    started = time.monotonic()
    results = ray.data.from_items(list(pending), override_num_blocks=-(-len(pending) // rows_per_block)).map_batches(
        process_block,  # pyright: ignore[reportArgumentType] - its further arguments come through fn_kwargs
        batch_size=None,
        batch_format="pyarrow",
        fn_kwargs=settings,
        num_cpus=plan.resources.cpus,
        memory=plan.config.limits.memory_mb << 20,
    )
    counts: dict[str, int] = dict.fromkeys(ledger.STATES, 0)
    for table in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for state in pa.table(table)["state"].to_pylist():
            counts[state] += 1
        progress(Progress(sum(counts.values()), len(pending), dict(counts), time.monotonic() - started))


def process_block(table: pa.Table, out: str, config: dict[str, Any], attempt: int) -> pa.Table:
    """Curates the assets of one block (a Ray task) and commits their rows to the ledger.

    Args:
        table: catalog rows.
        out: dataset address.
        config: JSON of `CurationConfig`.
        attempt: number of this run in the ledger.

    Returns:
        The ledger rows.
    """
    parsed = CurationConfig.parse(config)
    isolated = shared(_TARGET, parsed.limits.seconds, parsed.limits.memory_mb)
    rows = []
    for asset in table.to_pylist():
        outcome = isolated.run({"row": asset, "config": config, "out": out})
        state = "kept" if outcome.state == "done" else outcome.state
        facts = {name: getattr(outcome, name) for name in ("stage", "reason", "message", "traceback", "seconds", "peak_rss_mb")}
        rows.append({**asset, **facts, "state": state, **(outcome.result or {})})
    ledger.commit(out, build_plan(parsed).digest, attempt, rows)
    return ledger.to_table(rows, LEDGER_COLUMNS)


def _start_ray(options: RunOptions) -> None:
    import ray

    if options.address == "local":
        ray.init("local", num_cpus=options.num_cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        return
    try:
        ray.init(options.address, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise EnvironmentProblem(
            f"no Ray cluster at {options.address}: {error}", "check --address, or leave it out to run here"
        ) from None


def _check_layout(plan: Plan, nodes: Sequence[dict[str, Any]]) -> None:
    """Refuses a plan that no node can ever run; Ray would wait for ever without a word."""
    cpus, memory = plan.resources.cpus, plan.config.limits.memory_mb << 20
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    if not any(node.get("CPU", 0) >= cpus and node.get("memory", 0) >= memory for node in alive):
        largest = max((node.get("memory", 0) for node in alive), default=0)
        raise EnvironmentProblem(
            f"an asset may take {cpus:g} CPU and {memory >> 20} MB; no node offers that (the largest has {int(largest) >> 20} MB)",
            "lower --limits.memory_mb, or use larger nodes",
        )
