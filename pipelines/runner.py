"""Runs a plan on Ray Data: assets that are not in the ledger go through isolated children; then the kept ones are packed.

Only small rows travel through Ray: a worker writes the artefact of an asset itself, and the rows of a block go to the ledger in one
atomic file. Artefacts are keyed by content and config, so a task that Ray repeats writes the same bytes again: at-least-once
execution gives exactly-once results, whatever was killed when. Ray repeats a task whose worker or node died, but not for ever.
"""

import hashlib
import json
import re
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from pipelines import ledger, sink
from pipelines.claim import Claim, claim_dataset
from pipelines.cluster import MAX_RETRIES, start_ray, start_ray_data
from pipelines.encoding import ENCODING, read_encoding
from pipelines.isolate import shared
from pipelines.ledger import PENDING, Row
from pipelines.plan import CurationConfig, Plan, build_plan
from pipelines.process import artefact_address, warm_up
from pipelines.sources.catalog import build_catalog
from unipart import storage
from unipart.data.codec import pack_json
from unipart.data.schema import CATALOG_COLUMNS, LEDGER_COLUMNS
from unipart.data.shards import ShardRecord
from unipart.data.splits import split_of
from unipart.errors import EnvironmentProblem, UserError

CATALOG, CONFIG = "catalog.parquet", "config.json"
_TARGET = "pipelines.process:process_asset"
_BLOCK_ROWS = 16
"""Most assets in a block: what is lost when a worker is killed."""
_BLOCKS_PER_CPU = 8
"""So that the workers finish at about the same time."""
_TELL_SECONDS = 5.0
"""Between two lines of progress while the catalog is built."""
_CAUSE = re.compile(r"^[\w.]+(?:Error|Problem|Exception): (?:.*\n)+?(?=\n|$)", re.MULTILINE)


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
    """Where a run stands; `counts` are those of this run's assets so far, none while sources are read and shards are packed."""

    done: int
    total: int
    counts: dict[str, int]
    seconds: float
    what: str = "assets"

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
    plan, progress = build_plan(config), progress or (lambda _: None)
    catalog = list_assets(sources, config, options.limit, out, progress)
    with claim_dataset(out, plan.digest) as mine:
        ledger.write_table(storage.join(out, CATALOG), catalog, CATALOG_COLUMNS)
        storage.write_bytes(storage.join(out, CONFIG), pack_json(config.model_dump(mode="json")))
        ledger.merge(out, plan.digest, mine.attempt)
        pending = find_pending(out, plan, catalog, options.retry)
        if pending:
            process(mine, plan, pending, options, progress)
        rows = ledger.settle(catalog, config, ledger.merge(out, plan.digest, mine.attempt))
        counts = ledger.count_states(rows)
        assert PENDING not in counts, "every asset that was worked on has a row in the ledger"
        mine.check()
        sink.write_dataset(out, plan, rows, packing_on_ray(mine, options, progress))
    return RunResult(out, rows, counts, len(pending))


def list_assets(
    sources: Sequence[str],
    config: CurationConfig,
    limit: int | None = None,
    out: str | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> list[Row]:
    """Returns the catalog of the sources, each asset with its split; what the catalog of `out` has unchanged is not read again.

    Args:
        sources: see `pipelines.sources.catalog`.
        config: limits of a file, and the shares of the splits.
        limit: at most this many assets.
        out: dataset address.
        progress: is told every few seconds, since every file is read for its content hash.
    """
    known = storage.join(out, CATALOG) if out else ""
    started = told = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal told
        if (now := time.monotonic()) - told >= _TELL_SECONDS:
            told = now
            progress(Progress(done, total, {}, now - started, "assets read for the catalog"))

    before = ledger.read_table(known) if out and storage.exists(known) else ()
    rows = build_catalog(sources, limit, config.fetch.max_bytes, before, tell)
    return [{**row, "split": split_of(row["asset_id"], config.pack.val_fraction, config.pack.test_fraction)} for row in rows]


def find_pending(out: str, plan: Plan, catalog: Sequence[Row], retry: str | None = None) -> list[Row]:
    """Returns the assets of a catalog that still need work, in its order.

    These are the ones that are not in the ledger, those to be retried, and the kept ones whose artefact is gone: unless nothing
    else is to be done and the shards hold them all.
    """
    rows = ledger.settle(catalog, plan.config, ledger.read_ledger(out, plan.digest))
    todo = {row["asset_id"] for row in rows if row["state"] == PENDING or (row["state"] == retry and row["stage"] != "catalog")}
    kept = [row["asset_id"] for row in rows if row["state"] == "kept"]
    if todo or not sink.is_packed(out, plan, rows):
        present = set(storage.list_files(artefact_address(out, plan.digest, "00").rpartition("/00/")[0]))
        todo |= {asset_id for asset_id in kept if f"{asset_id[:2]}/{asset_id}.tar" not in present}
    firsts = {}  # an asset that lies under several names is worked on once
    for asset, row in zip(catalog, rows, strict=True):
        if row["asset_id"] in todo and row["stage"] != "catalog":
            firsts.setdefault(row["asset_id"], asset)
    return list(firsts.values())


def try_sample(out: str, plan: Plan, catalog: Sequence[Row], count: int, options: RunOptions) -> list[Row]:
    """Curates a few assets, picked by a hash, and returns their ledger rows; a later run does not do them again.

    Args:
        out: dataset address; nothing is packed there.
        plan: the stages.
        catalog: rows of `list_assets`.
        count: how many assets, of those that need work at all.
        options: how to run.
    """
    rows = ledger.settle(catalog, plan.config, {})
    candidates = [asset for asset, row in zip(catalog, rows, strict=True) if row["state"] == PENDING]
    chosen = sorted(candidates, key=lambda asset: hashlib.sha256(f"sample:{asset['asset_id']}".encode()).digest())[:count]
    with claim_dataset(out, plan.digest) as mine:
        pending = find_pending(out, plan, chosen)
        if pending:
            process(mine, plan, pending, options)
        known = ledger.merge(out, plan.digest, mine.attempt)
    return [known[asset["asset_id"]] for asset in chosen]


def read_status(out: str | Path) -> list[Row]:
    """Returns a settled row per asset of a dataset, or per sample of latent shards, finished or not.

    Raises:
        UserError: nothing was ever curated or encoded there.
    """
    return read_run(out)[1]


def read_run(out: str | Path) -> tuple[sink.Packed, list[Row]]:
    """Returns what the last run packs, and a settled row per asset or sample of it.

    Raises:
        UserError: nothing was ever curated or encoded there.
    """
    out = storage.resolve(out)
    try:
        if storage.exists(storage.join(out, ENCODING)):
            return read_encoding(out)
        catalog = ledger.read_table(storage.join(out, CATALOG))
        config = CurationConfig.parse(json.loads(storage.read_bytes(storage.join(out, CONFIG))), storage.join(out, CONFIG))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{out} holds no curation run", "give the --out folder of `unipart data run` or `unipart data encode`"
        ) from None
    plan = build_plan(config)
    return plan, ledger.settle(catalog, config, ledger.read_ledger(out, plan.digest))


def process(
    mine: Claim, plan: Plan, pending: Sequence[Row], options: RunOptions, progress: Callable[[Progress], None] = lambda _: None
) -> None:
    """Puts assets through the stages on Ray; what becomes of them is in the ledger.

    Args:
        mine: the claim on the dataset.
        plan: the stages.
        pending: catalog rows.
        options: how to run.
        progress: is told after every block.

    Raises:
        EnvironmentProblem: the cluster can never run an asset, or its workers die again and again.
        UserError: another run took over.
    """
    import ray
    import ray.data

    warm_up()  # compiles the kernels once, before every worker would
    start_ray_data(options.address, options.num_cpus)
    _check_layout(plan, ray.nodes(), options.address == "local")
    num_cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
    rows_per_block = max(1, min(_BLOCK_ROWS, len(pending) // (num_cpus * _BLOCKS_PER_CPU)))
    blocks = ray.data.from_items(list(pending), override_num_blocks=-(-len(pending) // rows_per_block))
    with warnings.catch_warnings():  # max_retries is to become an argument of its own after Ray 2.60
        warnings.simplefilter("ignore")
        results = blocks.map_batches(
            process_block,  # pyright: ignore[reportArgumentType] - its further arguments come through fn_kwargs
            batch_size=None,
            batch_format="pyarrow",
            fn_kwargs={"claim": mine, "config": plan.config.model_dump(mode="json"), "digest": plan.digest},
            num_cpus=plan.resources.cpus,
            memory=plan.config.limits.memory_mb << 20,
            max_retries=MAX_RETRIES,
        )
    follow(results, len(pending), mine, progress)


def follow(results: Any, total: int, mine: Claim, progress: Callable[[Progress], None]) -> None:
    """Runs a Ray dataset whose blocks are ledger rows, and tells how far it is after each of them.

    Args:
        results: a Ray dataset.
        total: rows that it will have.
        mine: the claim on the dataset.
        progress: is told after every block.

    Raises:
        EnvironmentProblem: the workers die again and again.
        UserError: another run took over.
    """
    from ray.exceptions import RayError

    started = time.monotonic()
    counts: dict[str, int] = dict.fromkeys(ledger.STATES, 0)
    try:
        for table in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for state in pa.table(table)["state"].to_pylist():
                counts[state] += 1
            progress(Progress(sum(counts.values()), total, dict(counts), time.monotonic() - started))
            mine.check()
    except RayError as error:
        raise _explained(error) from error


def packing_on_ray(mine: Claim, options: RunOptions, progress: Callable[[Progress], None]) -> sink.Spread:
    """Returns what packs the shards side by side on Ray; a single one is packed here."""

    def spread(shards: Sequence[sink.PlannedShard]) -> Iterable[ShardRecord]:
        if len(shards) < 2:
            return sink.pack_here(shards)
        import ray
        from ray.exceptions import RayError, RayTaskError

        start_ray(options.address, options.num_cpus)
        started = time.monotonic()
        task = ray.remote(num_cpus=1, max_retries=MAX_RETRIES)(sink.pack_shard)
        records = []
        try:
            for reference in [task.remote(shard) for shard in shards]:
                records.append(ray.get(reference))
                mine.check()
                progress(Progress(len(records), len(shards), {}, time.monotonic() - started, "shards"))
        except RayTaskError as error:
            raise error.cause if isinstance(error.cause, UserError) else _explained(error) from error
        except RayError as error:
            raise _explained(error) from error
        return records

    return spread


def process_block(table: pa.Table, claim: Claim, config: dict[str, Any], digest: str) -> pa.Table:
    """Curates the assets of one block (a Ray task) and commits their rows to the ledger.

    Args:
        table: catalog rows.
        claim: of the run on the dataset.
        config: JSON of `CurationConfig`.
        digest: of the plan, as the driver has it.

    Returns:
        The ledger rows.

    Raises:
        EnvironmentProblem: this machine has another version of the code.
    """
    parsed = CurationConfig.parse(config)
    if build_plan(parsed).digest != digest:
        raise EnvironmentProblem(
            "a worker has another version of the stages than the driver", "install the same version on all nodes"
        )
    isolated = shared(_TARGET, parsed.limits.seconds, parsed.limits.memory_mb)
    rows = []
    for asset in table.to_pylist():
        outcome = isolated.run({"row": asset, "config": config, "out": claim.out})
        state = "kept" if outcome.state == "done" else outcome.state
        facts = {name: getattr(outcome, name) for name in ("stage", "reason", "message", "traceback", "seconds", "peak_rss_mb")}
        rows.append({**asset, **facts, "state": state, **(outcome.result or {})})
    ledger.commit(claim.out, digest, claim.attempt, rows)
    return ledger.to_table(rows, LEDGER_COLUMNS)


def check_here(plan: Plan, num_cpus: int) -> None:
    """Refuses a plan that this machine can never run, without starting Ray, which offers its tasks no more than all memory.

    Raises:
        EnvironmentProblem: names what an asset takes, what there is, and the fix.
    """
    import psutil

    here = {"Alive": True, "Resources": {"CPU": num_cpus, "memory": psutil.virtual_memory().total}}
    _check_layout(plan, [here], local=True)


def _check_layout(plan: Plan, nodes: Sequence[dict[str, Any]], local: bool) -> None:
    """Refuses a plan that no node can ever run; Ray would wait for ever without a word."""
    cpus, memory = plan.resources.cpus, plan.config.limits.memory_mb << 20
    workers = [node["Resources"] for node in nodes if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    if not workers and not local:
        return  # a cluster whose workers come with the work
    if any(node.get("CPU", 0) >= cpus and node.get("memory", 0) >= memory for node in workers):
        return
    largest = max((node.get("memory", 0) for node in workers), default=0)
    most = max((node.get("CPU", 0) for node in workers), default=0)
    raise EnvironmentProblem(
        f"an asset takes {cpus:g} CPU and up to {memory >> 20} MB; no node offers that (the largest has {most:g} CPUs and "
        f"{int(largest) >> 20} MB for tasks)",
        f"set --limits.memory_mb to {int(largest) >> 20} or less, or use larger nodes"
        if most >= cpus
        else "use nodes with more CPUs",
    )


def _explained(error: Exception) -> EnvironmentProblem:
    """Returns what to tell the user about an error of Ray: its text ends with a chain of tracebacks, the first names the cause."""
    text = str(error)
    cause = _CAUSE.search(text)
    told = cause[0].strip() if cause else next((line for line in text.splitlines() if line.strip()), type(error).__name__)
    return EnvironmentProblem(
        f"Ray gave up on a block of assets: {told[:500]}",
        f"where workers were killed (it tries {MAX_RETRIES + 1} times): find out by what; "
        "then run again: what is finished is in the ledger",
    )
