"""Small made-up samples for the tests of the data package."""

from collections.abc import Callable

import numpy as np
import pytest

from unipart.data.schema import PartSamples, Sample, SurfaceSamples, View
from unipart.geometry.mesh import Mesh, Similarity
from unipart.rng import derive

TETRAHEDRON = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32)


@pytest.fixture(scope="session")
def make_sample() -> Callable[..., Sample]:
    """Function from id, seed and number of views to a complete small sample."""
    return _make_sample


def _make_sample(sample_id: str, seed: int = 0, views: int = 2, points: int = 32) -> Sample:
    rng = derive(seed, sample_id)

    def floats(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    def mesh(labels: bool) -> Mesh:
        return Mesh(floats(4, 3), TETRAHEDRON, np.array([0, 0, 1, 1], np.int16) if labels else None)

    def surface(count: int) -> SurfaceSamples:
        return SurfaceSamples(floats(count, 3), floats(count, 3), rng.integers(0, 2, count).astype(np.int16))

    def pixels(*shape: int) -> np.ndarray:
        return rng.integers(0, 255, shape).astype(np.uint8)

    return Sample(
        sample_id=sample_id,
        meta={"num_parts": 2, "sha256": sample_id * 3, "part_names": ["seat", "leg"]},
        surface=surface(points),
        sharp=surface(5),
        queries=floats(points, 3),
        field=floats(points),
        query_kind=rng.integers(0, 3, points).astype(np.uint8),
        parts=PartSamples(
            to_ncs=(Similarity(2.0, (0.1, 0.2, 0.3)), Similarity(1 / 3, (0.0, -1.0, 1e-9))),
            points=floats(2, 8, 3),
            normals=floats(2, 8, 3),
            gcs_queries=floats(2, 6, 3),
            gcs_field=floats(2, 6),
            ncs_queries=floats(2, 6, 3),
            ncs_field=floats(2, 6),
        ),
        mesh=mesh(labels=True),
        part_meshes=(mesh(labels=False), mesh(labels=False)),
        views=tuple(View(pixels(6, 7, 4), pixels(6, 7), pixels(6, 7, 3), {"eye": [0.5, number, 2.0]}) for number in range(views)),
    )
