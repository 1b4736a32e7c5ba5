"""The smallest config that exercises every stage."""

import pytest

from pipelines.plan import CurationConfig
from pipelines.presets import preset


@pytest.fixture(scope="session")
def small_config() -> CurationConfig:
    return preset("tiny").replace(
        remesh__whole__resolution=48,
        remesh__part__resolution=32,
        points={"surface": 256, "sharp": 64, "part_surface": 128},
        field__whole={"volume": 64, "near": 128, "sharp": 64},
        field__part={"volume": 400, "near": 64, "sharp": 32},
        render__size=32,
        render__supersample=1,
        render__cameras__views=2,
        pack__val_fraction=0.3,
        pack__test_fraction=0.0,
    )
