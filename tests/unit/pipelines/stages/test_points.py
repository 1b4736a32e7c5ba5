"""Amounts, formats and independence of the surface points (model.md §3.4 step 7)."""

import numpy as np
import pytest
import trimesh

from pipelines.presets import preset
from pipelines.stages.points import PointsConfig, PointsStage
from unipart.geometry.mesh import Mesh
from unipart.geometry.watertight import RemeshConfig, Remeshed, remesh

CONFIG = PointsConfig(surface=900, sharp=300, part_surface=200)


def solid_box(size: tuple[float, float, float]) -> Remeshed:
    box = trimesh.creation.box(size)
    mesh = Mesh(np.asarray(box.vertices), np.asarray(box.faces), np.zeros(12, np.int16))
    return remesh(mesh, np.zeros(12, np.int32), np.zeros(1, np.bool_), RemeshConfig(resolution=32))


@pytest.fixture(scope="module")
def row() -> dict:
    part = solid_box((1.9, 1.0, 1.0))
    return {"asset_id": "a", "whole": solid_box((1.9, 1.9, 1.0)), "part_surfaces": (part, part)}


def test_the_base_size_has_the_amounts_of_the_design():
    config = preset("base")
    assert config.points.surface == 200_000
    assert config.points.sharp > 0
    for queries in (config.field.whole, config.field.part):
        assert queries.near_sigmas == (0.005, 0.05)
        assert (queries.near, queries.sharp, queries.volume) == (queries.total / 2, queries.total / 4, queries.total / 4)
        assert queries.box == 1.05


def test_counts_and_formats(row):
    points = PointsStage(CONFIG, seed=1)(row)
    for name, count in (("surface", 900), ("sharp", 300)):
        samples = points[name]
        assert samples.points.shape == samples.normals.shape == (count, 3)
        assert (samples.points.dtype, samples.normals.dtype, samples.labels.dtype) == (np.float32, np.float32, np.int16)
        np.testing.assert_allclose(np.linalg.norm(samples.normals, axis=1), 1, atol=1e-5)
    assert [draw.points.shape for draw in points["part_draws"]] == [(200, 3)] * 2
    assert [sharp.shape for sharp in points["part_sharp"]] == [(200, 3)] * 2


def test_draws_depend_on_seed_asset_and_part_alone(row):
    first, again = PointsStage(CONFIG, seed=1)(row), PointsStage(CONFIG, seed=1)(row)
    np.testing.assert_array_equal(first["surface"].points, again["surface"].points)
    np.testing.assert_array_equal(first["sharp"].points, again["sharp"].points)
    others = [PointsStage(CONFIG, seed=2)(row), PointsStage(CONFIG, seed=1)({**row, "asset_id": "b"})]
    assert all((other["surface"].points != first["surface"].points).any() for other in others)
    one, two = first["part_draws"]
    assert (one.points != two.points).any()
    fewer = PointsStage(CONFIG, seed=1)({**row, "part_surfaces": row["part_surfaces"][:1]})
    np.testing.assert_array_equal(fewer["part_draws"][0].points, one.points)


def test_a_surface_without_creases_has_no_sharp_points(row):
    smooth = Remeshed(row["whole"].mesh, np.zeros((0, 2), np.int32), {})
    sharp = PointsStage(CONFIG)({**row, "whole": smooth})["sharp"]
    assert sharp.points.shape == (0, 3)
    assert len(sharp.labels) == 0
