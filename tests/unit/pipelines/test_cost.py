import json

import pytest

from pipelines.cost import Estimate, estimate_cost
from pipelines.plan import build_plan
from pipelines.process import cache_address
from unipart import storage


def row(number: int, stages: dict | None, state: str = "kept", size: int | None = 1000, seconds: float = 1.0) -> dict:
    return {
        "asset_id": f"{number:020x}",
        "sha256": f"{number:064x}",
        "state": state,
        "stage_seconds": None if stages is None else json.dumps(stages),
        "artefact_bytes": size,
        "seconds": seconds,
        "peak_rss_mb": 100.0 + number,
    }


def test_totals_are_the_mean_of_what_was_seen(tmp_path, small_config):
    plan = build_plan(small_config)
    rows = [
        row(0, {"remesh": 4.0, "render": 2.0}, size=3 * 10**9),
        row(1, {"render": 4.0}, size=10**9),  # its remesh came from the cache: counted as it costs elsewhere
        row(2, None, state="rejected", size=None, seconds=3.0),
    ]
    storage.write_bytes(cache_address(str(tmp_path), plan, rows[0]["sha256"]), b"x" * 500)
    cost = estimate_cost(str(tmp_path), plan, rows, 300)
    assert cost is not None
    assert cost.core_seconds == {"remesh": 4.0, "render": 3.0}
    assert cost.core_hours.mean == pytest.approx(100 * (6 + 8 + 3) / 3600)
    assert cost.shard_gb.mean == pytest.approx(400)
    assert cost.num_kept.mean == pytest.approx(200)
    assert cost.cache_gb.mean == pytest.approx(200 * 500 / 1e9)
    assert (cost.num_observed, cost.num_assets, cost.peak_memory_mb) == (3, 300, 102.0)
    assert json.loads(json.dumps(cost.to_dict()))["core_hours"]["mean"] == pytest.approx(0.472)


def test_the_spread_shrinks_with_the_sample_and_is_unknown_for_one(tmp_path, small_config):
    plan = build_plan(small_config)
    few, many = (
        estimate_cost(str(tmp_path), plan, [row(number, {"field": 1.0 + number % 2}) for number in range(count)], 1000)
        for count in (4, 400)
    )
    assert few is not None
    assert many is not None
    widths = [cost.core_hours.high - cost.core_hours.low for cost in (few, many)]
    assert widths[1] == pytest.approx(widths[0] / 10, rel=0.2)
    assert few.core_hours.low < few.core_hours.mean < few.core_hours.high
    single = estimate_cost(str(tmp_path), plan, [row(0, {"field": 1.0})], 10)
    assert single is not None
    assert (single.core_hours.low, single.core_hours.high) == (None, None)
    assert estimate_cost(str(tmp_path), plan, [], 10) is None


def test_totals_read_as_numbers():
    assert str(Estimate(17612.3, 13201.0, 22040.0)) == "17,600 (13,200-22,000)"
    assert str(Estimate(0.12345, None, None)) == "0.123"
