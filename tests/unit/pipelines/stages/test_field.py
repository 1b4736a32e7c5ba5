"""Queries and distances of the whole and of the parts in both spaces (model.md §3.4 step 7)."""

from types import SimpleNamespace

import numpy as np
import pytest
import trimesh

from pipelines.stages.field import FieldConfig, FieldStage
from pipelines.stages.points import PointsConfig, PointsStage
from unipart.geometry.field import QueryConfig, signed_distance_reference
from unipart.geometry.mesh import Mesh, Similarity
from unipart.geometry.watertight import RemeshConfig, Remeshed, remesh

CONFIG = FieldConfig(whole=QueryConfig(volume=30, near=60, sharp=30), part=QueryConfig(volume=20, near=40, sharp=20))


@pytest.fixture(scope="module")
def rows() -> tuple[dict, dict]:
    box = trimesh.creation.box((1.9, 1.9, 1.0))
    mesh = Mesh(np.asarray(box.vertices), np.asarray(box.faces), np.zeros(12, np.int16))
    surface: Remeshed = remesh(mesh, np.zeros(12, np.int32), np.zeros(1, np.bool_), RemeshConfig(resolution=24))
    to_ncs = (Similarity.of(2.5, (0.1, -0.2, 0.0)), Similarity.of(4.0, (0.5, 0.0, 0.3)))
    parted = SimpleNamespace(mesh=mesh, open_component=np.zeros(1, np.bool_), component_of_face=np.zeros(12, np.int32))
    row = {"asset_id": "a", "parted": parted, "whole": surface, "part_surfaces": (surface, surface), "to_ncs": to_ncs}
    row |= PointsStage(PointsConfig(surface=400, sharp=200, part_surface=100))(row)
    return row, FieldStage(CONFIG)(row)


def test_distances_are_those_of_the_plain_reference_in_every_frame(rows):
    row, out = rows
    mesh, parts = row["whole"].mesh, out["parts"]
    np.testing.assert_allclose(out["field"], signed_distance_reference(mesh, out["queries"]), atol=1e-5)
    for i, to_ncs in enumerate(row["to_ncs"]):
        np.testing.assert_allclose(parts.ncs_field[i], signed_distance_reference(mesh, parts.ncs_queries[i]), atol=1e-5)
        in_gcs = mesh.transformed(to_ncs.invert())
        np.testing.assert_allclose(parts.gcs_field[i], signed_distance_reference(in_gcs, parts.gcs_queries[i]), atol=1e-5)


def test_counts_and_formats(rows):
    _, out = rows
    assert np.bincount(out["query_kind"]).tolist() == [30, 60, 30]
    assert out["query_kind"].dtype == np.uint8
    parts = out["parts"]
    assert parts.gcs_queries.shape == parts.ncs_queries.shape == (2, 80, 3)
    arrays = (out["queries"], out["field"], parts.gcs_queries, parts.gcs_field, parts.ncs_queries, parts.ncs_field, parts.points)
    assert {array.dtype for array in arrays} == {np.dtype(np.float32)}, "no half precision: it flips signs near the surface"


def test_draws_depend_on_seed_and_asset(rows):
    row, out = rows
    np.testing.assert_array_equal(FieldStage(CONFIG)(row)["field"], out["field"])
    assert (FieldStage(CONFIG, seed=1)(row)["queries"] != out["queries"]).any()
    assert (out["parts"].gcs_queries[0] != out["parts"].gcs_queries[1]).any()


def test_the_quality_of_the_surface_is_told(rows):
    _, out = rows
    assert 0 < out["quality"]["to_original_mean"] < 0.5
    assert out["quality"]["hidden_share"] == 0
