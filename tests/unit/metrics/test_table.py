"""Scores survive a round trip and are averaged per method and metric."""

import pytest

from unipart.errors import UserError
from unipart.metrics.table import Summary, read_scores, score_rows, summarise, write_scores


def rows() -> list[dict]:
    return [
        *score_rows("ours", "chair", {"cd_l1_sum": 0.1, "f@.05": 0.5}),
        *score_rows("ours", "table", {"cd_l1_sum": 0.3, "f@.05": 0.7}),
        *score_rows("theirs", "chair", {"cd_l1_sum": 0.9}),
    ]


def test_round_trip(tmp_path):
    path = tmp_path / "deep" / "scores.parquet"
    write_scores(path, rows())
    assert read_scores(path) == rows()
    again = tmp_path / "again.parquet"
    write_scores(again, rows())
    assert again.read_bytes() == path.read_bytes()
    write_scores(path, [])
    assert read_scores(path) == []


def test_summary_per_method_and_metric():
    found = summarise(rows())
    assert [(row.method, row.metric, row.count) for row in found] == [
        ("ours", "cd_l1_sum", 2),
        ("ours", "f@.05", 2),
        ("theirs", "cd_l1_sum", 1),
    ]
    assert found[0].mean == pytest.approx(0.2)
    assert found[0].std == pytest.approx(0.1 * 2**0.5)
    assert found[2] == Summary("theirs", "cd_l1_sum", 0.9, 0.0, 1)
    assert summarise([]) == []


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_scores(tmp_path / "missing.parquet")
    (tmp_path / "text.parquet").write_text("not a table")
    with pytest.raises(UserError, match="not Parquet"):
        read_scores(tmp_path / "text.parquet")
    with pytest.raises(ValueError, match="columns"):
        write_scores(tmp_path / "x.parquet", [{"method": "ours", "value": 1.0}])
