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


@pytest.fixture(scope="session")
def parents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An untrained VAE and whole model of the ci size, where finished runs leave theirs."""
    from jobs.recipes import find_recipe
    from jobs.training.smoke import write_parents

    whole = find_recipe("whole", "ci")
    folder = tmp_path_factory.mktemp("parents")
    return write_parents(folder, ("vae", "whole"), find_recipe("vae", "ci").model, whole.image_encoder, whole.model)
