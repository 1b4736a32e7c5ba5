"""Where a run comes from: the commit of the code, the MLflow runs of its parents."""

import subprocess
from pathlib import Path

from jobs.runs import read_link

CODE = Path(__file__).resolve().parent


def code_tags(folder: Path = CODE) -> dict[str, str]:
    """Returns the commit of the code and whether it was changed since, as tags; nothing outside a git checkout of it.

    Args:
        folder: of the code. Installed code may lie inside another project's checkout: git must know these very files.
    """
    if not _git(folder, "ls-files", "."):
        return {}
    commit, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"mlflow.source.git.commit": commit, "unipart.code_changed": "yes" if changes else "no"} if commit else {}


def parent_run(checkpoint: Path) -> str:
    """Returns the MLflow run id of the run that wrote a checkpoint (``RUN/checkpoints/step_N``), or an empty text."""
    return read_link(checkpoint.parent.parent).get("run_id", "")


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):  # no git on this machine, or a checkout on a storage that hangs
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
