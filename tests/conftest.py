"""Fixtures that every test may use."""

import os
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of real meshes: $UNIPART_CORPUS, else ../shared/data beside the project."""
    named = os.environ.get("UNIPART_CORPUS")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not (folder / "dev").is_dir():
        message = f"no mesh corpus at {folder}: set UNIPART_CORPUS to a folder with dev/ and bad/ to run this test"
        warnings.warn(message, stacklevel=1)
        pytest.skip(message)
    return folder
