"""Artefact A5, the scores: a Parquet table in long form, one row per method, object and metric."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unipart import storage
from unipart.data.schema import SCORE_COLUMNS
from unipart.errors import UserError


@dataclass(frozen=True)
class Summary:
    """One metric of one method over all objects.

    Attributes:
        method: who generated.
        metric: what was measured.
        mean: arithmetic mean.
        std: sample standard deviation over objects; 0 for a single one.
        count: number of objects.
    """

    method: str
    metric: str
    mean: float
    std: float
    count: int


def score_rows(method: str, object_id: str, scores: Mapping[str, float]) -> list[dict[str, Any]]:
    """Returns the rows (SCORE_COLUMNS) of one object's metrics."""
    return [{"method": method, "object": object_id, "metric": name, "value": float(value)} for name, value in scores.items()]


def write_scores(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows with the columns of SCORE_COLUMNS to a Parquet file (a path or an s3:// address).

    Raises:
        ValueError: a row has other columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for row in rows:
        if set(row) != set(SCORE_COLUMNS):
            raise ValueError(f"a score row has the columns {sorted(SCORE_COLUMNS)}, got {sorted(row)}")
    schema = pa.schema([(name, getattr(pa, kind)()) for name, kind in SCORE_COLUMNS.items()])
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=schema), buffer)
    storage.write_bytes(path, buffer.getvalue())


def read_scores(path: str | Path) -> list[dict[str, Any]]:
    """Reads what `write_scores` wrote.

    Raises:
        UserError: the file does not exist or is not a table of scores.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not storage.exists(path):
        raise UserError(f"scores file {path} does not exist", "run `unipart evaluate` first")
    try:
        table = pq.read_table(io.BytesIO(storage.read_bytes(path)))
    except pa.ArrowInvalid as error:
        raise UserError(f"scores file {path} is not Parquet: {error}", "give the scores.parquet of an evaluation") from None
    if set(table.column_names) != set(SCORE_COLUMNS):
        raise UserError(
            f"{path} has the columns {table.column_names}, not {list(SCORE_COLUMNS)}", "give the scores.parquet of an evaluation"
        )
    return table.select(list(SCORE_COLUMNS)).to_pylist()


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[Summary]:
    """Averages over objects; methods and metrics keep the order in which they first appear."""
    values: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        values.setdefault((row["method"], row["metric"]), []).append(row["value"])
    methods = list(dict.fromkeys(method for method, _ in values))
    return [
        Summary(method, metric, float(np.mean(found)), float(np.std(found, ddof=1)) if len(found) > 1 else 0.0, len(found))
        for wanted in methods
        for (method, metric), found in values.items()
        if method == wanted
    ]
