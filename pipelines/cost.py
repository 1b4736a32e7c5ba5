"""What a curation costs, extrapolated from assets that went through it: core-hours, wall time, gigabytes, each with its spread."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.ledger import Row
from pipelines.plan import Plan
from pipelines.process import cache_address
from unipart import storage

_MOST_CACHES = 100
"""Cached files whose size is looked up: in object storage each is a request."""
_QUANTILE = 1.645
"""Standard errors on each side of the mean that hold it with 90 %."""


@dataclass(frozen=True)
class Estimate:
    """A total for all assets; low and high hold it with 90 % if the observed assets are a fair sample (None for a single one)."""

    mean: float
    low: float | None
    high: float | None

    def to_dict(self) -> dict[str, float | None]:
        """Returns three significant digits of each."""
        return {name: None if value is None else float(f"{value:.3g}") for name, value in vars(self).items()}

    def __str__(self) -> str:
        mean, low, high = (None if value is None else f"{value:,.10g}" for value in self.to_dict().values())
        return f"{mean}" if low is None else f"{mean} ({low}-{high})"


@dataclass(frozen=True)
class Cost:
    """What it takes to curate a number of assets.

    Attributes:
        num_observed: assets that the estimate rests on; rejected and failed ones cost time too and are among them.
        num_assets: assets that it is for.
        num_kept: how many of them are likely to be kept.
        core_hours: of all stages on machines like this one.
        shard_gb: 10⁹ bytes of shards; until `unipart data clean` the artefacts take as much again.
        cache_gb: 10⁹ bytes of the stage cache, kept until `unipart data clean`.
        peak_memory_mb: largest memory of a child among the observed.
        core_seconds: mean per stage over the assets that went through it.
    """

    num_observed: int
    num_assets: int
    num_kept: Estimate
    core_hours: Estimate
    shard_gb: Estimate
    cache_gb: Estimate
    peak_memory_mb: float
    core_seconds: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON."""
        return {name: value.to_dict() if isinstance(value, Estimate) else value for name, value in vars(self).items()}


def estimate_cost(out: str, plan: Plan, rows: Sequence[Row], num_assets: int) -> Cost | None:
    """Extrapolates from ledger rows; None when there are none.

    Args:
        out: dataset address, for the sizes of the cached files.
        plan: how the rows were made.
        rows: ledger rows of processed assets.
        num_assets: how many assets the estimate is for.
    """
    if not rows:
        return None
    per_stage: dict[str, list[float]] = {}
    for row in rows:
        for stage, seconds in json.loads(row["stage_seconds"] or "{}").items():
            per_stage.setdefault(stage, []).append(seconds)
    means = {stage: sum(values) / len(values) for stage, values in per_stage.items()}
    caches = []
    for row in (row for row in rows if row["state"] == "kept"):
        address = cache_address(out, plan, row["sha256"])
        if len(caches) < _MOST_CACHES and storage.exists(address):
            caches.append(storage.size(address))
    kept = [float(row["state"] == "kept") for row in rows]
    cached = _total(caches, 1).mean if caches else 0.0
    return Cost(
        num_observed=len(rows),
        num_assets=num_assets,
        num_kept=_total(kept, num_assets),
        core_hours=_total([_core_seconds(row, means) / 3600 for row in rows], num_assets),
        shard_gb=_total([(row["artefact_bytes"] or 0) / 1e9 for row in rows], num_assets),
        cache_gb=_total([share * cached / 1e9 for share in kept], num_assets),
        peak_memory_mb=max(row["peak_rss_mb"] or 0.0 for row in rows),
        core_seconds={stage: round(mean, 3) for stage, mean in means.items()},
    )


def _core_seconds(row: Row, means: Mapping[str, float]) -> float:
    """CPU seconds of an asset; stages that were read from the cache count as they did elsewhere.

    Of assets that are not kept only the wall time is known; their child has one thread, so it is an upper bound.
    """
    if row["stage_seconds"] is None:
        return row["seconds"] or 0.0
    return sum({**means, **json.loads(row["stage_seconds"])}.values())


def _total(values: Sequence[float], count: int) -> Estimate:
    mean = sum(values) / len(values)
    if len(values) == 1:
        return Estimate(mean * count, None, None)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    error = _QUANTILE * math.sqrt(variance / len(values))
    return Estimate(mean * count, max(0.0, mean - error) * count, (mean + error) * count)
