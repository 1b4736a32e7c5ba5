"""The smallest config that exercises every stage."""

import pytest

from pipelines.plan import CurationConfig
from pipelines.presets import preset


@pytest.fixture(scope="session")
def small_config() -> CurationConfig:
    return preset("ci").replace(pack={"val_fraction": 0.3, "test_fraction": 0.0})
