"""Fixtures that every test may use."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from unipart import storage

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first: a file that begins last, on one process, would be waited for by the others."""
    items.sort(key=lambda item: "integration" not in item.path.parts)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty bucket in an object storage that lives in this process."""
    moto = pytest.importorskip("moto")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    storage.forget_client()
    with moto.mock_aws():
        storage._client().create_bucket(Bucket="bucket")
        yield "s3://bucket"
    storage.forget_client()


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
