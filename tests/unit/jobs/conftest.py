"""Fixtures of the commands' tests."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def fresh_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database; making one takes seconds, copying it nothing."""
    import mlflow

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(fresh_store: Path, tmp_path: Path) -> str:
    """The URI of an MLflow store of the test's own."""
    return f"sqlite:///{shutil.copy(fresh_store, tmp_path / 'mlflow.db')}"
