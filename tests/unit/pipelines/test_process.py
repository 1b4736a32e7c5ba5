import io
import json
from pathlib import Path

import numpy as np
import pytest

from pipelines import cache
from pipelines.plan import build_plan
from pipelines.process import artefact_address, cache_address, process_asset
from pipelines.sources.catalog import build_catalog
from unipart import storage
from unipart.data.codec import decode_sample
from unipart.data.shards import read_members
from unipart.errors import Reject


@pytest.fixture(scope="module")
def asset() -> dict:
    return build_catalog(["procedural:count=1,seed=0,kinds=table"])[0]


@pytest.fixture(scope="module")
def processed(asset, small_config, tmp_path_factory):
    """Dataset folder, what the function returned, the stages it reported, the sample."""
    out = str(tmp_path_factory.mktemp("dataset"))
    steps: list[str] = []
    result = process_asset({"row": asset, "config": small_config.model_dump(mode="json"), "out": out}, steps.append)
    return out, result, steps, read_sample(out, small_config, asset)


def read_sample(out, config, asset):
    path = Path(artefact_address(out, build_plan(config).digest, asset["asset_id"]))
    with path.open("rb") as file:
        return decode_sample(asset["asset_id"], read_members(file, 0, path.stat().st_size))


def test_every_stage_runs_and_the_artefact_is_what_the_ledger_says(processed, asset, small_config):
    out, result, steps, sample = processed
    assert steps == ["fetch", "parts", "remesh", "points", "field", "render", "encode"]
    assert list(json.loads(result["stage_seconds"])) == steps
    assert result["num_parts"] == sample.num_parts == len(sample.part_meshes) == len(sample.parts.to_ncs) >= 2
    assert (
        result["artefact_bytes"] == Path(artefact_address(out, build_plan(small_config).digest, asset["asset_id"])).stat().st_size
    )


def test_sample_is_complete_and_consistent(processed, small_config):
    sample = processed[3]
    n = sample.num_parts
    assert sample.surface.points.shape == (256, 3)
    assert sample.sharp.points.shape == (64, 3)
    assert sample.queries.shape == (256, 3)
    assert sample.parts.points.shape == (n, 128, 3)
    assert sample.parts.gcs_queries.shape == sample.parts.ncs_queries.shape == (n, 496, 3)
    assert len(sample.views) == 2
    assert sample.views[0].rgba.shape == (32, 32, 4)
    assert set(np.unique(sample.surface.labels)) <= set(range(n))
    assert set(np.unique(sample.views[0].part_ids)) <= set(range(n + 1))
    assert np.abs(sample.mesh.vertices).max() < 1.05
    assert np.abs(sample.parts.points).max() == pytest.approx(1.0, abs=0.1)
    assert sample.meta["config_digest"] == build_plan(small_config).digest
    assert [part["part_id"] for part in sample.meta["parts"]] == list(range(n))


def test_field_is_zero_on_the_surface_positive_inside_and_scales_between_the_spaces(processed):
    from unipart.geometry.field import SignedDistance

    sample = processed[3]
    assert np.abs(SignedDistance(sample.mesh)(sample.surface.points)[0]).max() < 1e-3
    for part_id, to_ncs in enumerate(sample.parts.to_ncs):
        surface = SignedDistance(sample.part_meshes[part_id])
        np.testing.assert_allclose(sample.parts.ncs_field[part_id], surface(sample.parts.ncs_queries[part_id])[0], atol=1e-6)
        in_ncs = surface(to_ncs.apply(sample.parts.gcs_queries[part_id]))[0]
        np.testing.assert_allclose(sample.parts.gcs_field[part_id] * to_ncs.scale, in_ncs, atol=1e-5)
        inside = sample.parts.ncs_field[part_id][:400] > 0
        assert 0 < inside.mean() < 1
        box_fraction = np.prod(2 * np.abs(sample.part_meshes[part_id].vertices).max(axis=0)) / 2.1**3
        assert inside.mean() < box_fraction + 0.1


def test_same_input_same_bytes_and_another_seed_other_samples_on_the_same_remesh(processed, asset, small_config, tmp_path):
    out, result, _, sample = processed
    again = process_asset({"row": asset, "config": small_config.model_dump(mode="json"), "out": str(tmp_path)}, lambda _: None)
    assert again["artefact_sha256"] == result["artefact_sha256"]
    other_seed = small_config.replace(seed=1)
    steps: list[str] = []
    other = process_asset({"row": asset, "config": other_seed.model_dump(mode="json"), "out": out}, steps.append)
    assert steps == ["fetch", "points", "field", "render", "encode"]
    assert other["artefact_sha256"] != result["artefact_sha256"]
    other_sample = read_sample(out, other_seed, asset)
    np.testing.assert_array_equal(other_sample.mesh.vertices, sample.mesh.vertices)
    assert not np.array_equal(other_sample.surface.points, sample.surface.points)


@pytest.mark.parametrize("place", ["folder", "s3"])
def test_a_result_from_the_cache_is_that_of_a_full_run(processed, asset, small_config, tmp_path, place, request):
    """What a kill between the two writes leaves: the cache is there and the artefact is not."""
    out, result, _, _ = processed
    plan = build_plan(small_config)
    left = str(tmp_path) if place == "folder" else request.getfixturevalue("bucket") + "/dataset"
    storage.write_bytes(cache_address(left, plan, asset["sha256"]), storage.read_bytes(cache_address(out, plan, asset["sha256"])))
    stages = []
    again = process_asset({"row": asset, "config": small_config.model_dump(mode="json"), "out": left}, stages.append)
    assert again["artefact_sha256"] == result["artefact_sha256"]
    assert "remesh" not in stages


def test_cache_round_trip_is_exact(processed, asset, small_config):
    plan = build_plan(small_config)
    data = Path(cache_address(processed[0], plan, asset["sha256"])).read_bytes()
    row = cache.read_cache(io.BytesIO(data))
    again = io.BytesIO()
    cache.write_cache(row, again)
    assert again.getvalue() == data
    assert row["parted"].mesh.vertices.dtype == np.float64
    assert isinstance(row["parted"].parts[0].box_low, tuple)
    assert set(row) == set(cache.CACHED_COLUMNS)


def test_content_that_changed_since_the_catalog_is_rejected(asset, small_config, tmp_path):
    changed = {**asset, "sha256": "0" * 64}
    with pytest.raises(Reject, match="content_changed"):
        process_asset({"row": changed, "config": small_config.model_dump(mode="json"), "out": str(tmp_path)}, lambda _: None)
    assert list(tmp_path.iterdir()) == []
