from pathlib import Path

import pytest

from jobs.report import Inputs, make_report
from unipart.errors import UserError


def test_a_folder_without_runs_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=f"{tmp_path} holds no training run"):
        make_report(Inputs(runs=tmp_path), tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
