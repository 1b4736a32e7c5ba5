"""What happened to every asset: immutable Parquet files, one per finished block of work, and the view over them.

A file appears in the ledger only when the artefacts of its rows are in place, and at once as a whole; a later attempt at an asset
supersedes an earlier one. Nothing is ever edited, so a run that is killed at any moment leaves a ledger that is true. When a run
begins or ends it puts the rows of all files into one, and only then removes them: a ledger of 302,000 assets stays one file.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.plan import CurationConfig
from unipart import storage
from unipart.data.schema import LEDGER_COLUMNS

Row = dict[str, Any]

STATES = ("kept", "rejected", "failed")
PENDING = "pending"

_READERS = 8
"""Files read at a time: in object storage each costs a round trip."""
_MERGES_DURING_A_READ = 10


def to_table(rows: Sequence[Row], columns: Mapping[str, str]) -> pa.Table:
    """Returns rows as a table with exactly these columns; what a row lacks is null."""
    arrays = [_column([row.get(name) for row in rows], pa.type_for_alias(kind)) for name, kind in columns.items()]
    return pa.table(arrays, names=list(columns))


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:  # a message quotes half a surrogate pair, as JSON may hold it: it is written as an escape
        texts = [value if value is None else value.encode("utf-8", "backslashreplace").decode() for value in values]
        return pa.array(texts, kind)


def write_table(address: str, rows: Sequence[Row], columns: Mapping[str, str]) -> None:
    """Writes a Parquet file atomically."""
    buffer = io.BytesIO()
    pq.write_table(to_table(rows, columns), buffer)
    storage.write_bytes(address, buffer.getvalue())


def read_table(address: str) -> list[Row]:
    """Reads a Parquet file as rows.

    Raises:
        FileNotFoundError: there is none.
    """
    return pq.read_table(io.BytesIO(storage.read_bytes(address))).to_pylist()


def next_attempt(out: str, digest: str) -> int:
    """Returns the number of the next attempt: one more than the last in the ledger."""
    names = storage.list_files(_folder(out, digest), ".parquet")
    return 1 + max((int(name.partition("-")[0]) for name in names), default=0)


def commit(out: str, digest: str, attempt: int, rows: Sequence[Row]) -> None:
    """Adds the rows of one block of work; done twice (Ray may repeat a task), it replaces its own file."""
    block = hashlib.sha256("".join(sorted(row["asset_id"] for row in rows)).encode()).hexdigest()[:16]
    write_table(storage.join(_folder(out, digest), f"{attempt:06d}-block-{block}.parquet"), rows, LEDGER_COLUMNS)


def read_ledger(out: str, digest: str) -> dict[str, Row]:
    """Returns the last row of every asset that was processed under a plan's digest."""
    return _read_all(_folder(out, digest))[1]


def merge(out: str, digest: str, attempt: int) -> dict[str, Row]:
    """Returns what `read_ledger` does, and puts it into one file; only the run that holds the claim may do so.

    The file sorts after every earlier attempt and before the blocks of its own (``all`` < ``block``), so it overrules no later row.
    """
    folder = _folder(out, digest)
    names, rows = _read_all(folder)
    whole = f"{attempt:06d}-all.parquet"
    if len(names) > 1:
        write_table(storage.join(folder, whole), list(rows.values()), LEDGER_COLUMNS)
        for name in names:
            if name != whole:
                storage.delete(storage.join(folder, name))
    return rows


def _read_all(folder: str) -> tuple[list[str], dict[str, Row]]:
    for _ in range(_MERGES_DURING_A_READ):
        names = storage.list_files(folder, ".parquet")
        try:
            with ThreadPoolExecutor(_READERS) as pool:
                files = list(pool.map(lambda name: read_table(storage.join(folder, name)), names))
        except FileNotFoundError:  # a run merged them in between
            continue
        return names, {row["asset_id"]: row for rows in files for row in rows}
    raise AssertionError(f"the files of {folder} vanish faster than they can be read")


def settle(catalog: Sequence[Row], config: CurationConfig, ledger: Mapping[str, Row]) -> list[Row]:
    """Returns a ledger row per asset of the catalog, in its order; `state` is pending where nothing is known yet.

    Assets that need no work are decided here: empty files, licences that are not let in, and content that came before under another
    name (so a duplicate is counted once and never packed twice).
    """
    first: dict[str, str] = {}
    rows = []
    for asset in catalog:
        verdict = _screen(asset, config, first)
        if verdict is None:
            first[asset["asset_id"]] = asset["uri"]
            done = ledger.get(asset["asset_id"], {"state": PENDING})
        else:
            done = {"state": "rejected", "stage": "catalog", "reason": verdict[0], "message": verdict[1]}
        identity = {name: asset[name] for name in ("asset_id", "source", "uri", "sha256", "licence", "split")}
        rows.append({**dict.fromkeys(LEDGER_COLUMNS), **done, **identity})
    return rows


def count_states(rows: Sequence[Row]) -> dict[str, int]:
    """Returns how many assets are in, kept, rejected, failed (and pending, if any are) and checks that none is lost."""
    counts = {"in": len(rows), **{state: sum(row["state"] == state for row in rows) for state in STATES}}
    pending = sum(row["state"] == PENDING for row in rows)
    assert counts["in"] == counts["kept"] + counts["rejected"] + counts["failed"] + pending, "an asset has an unknown state"
    return {**counts, PENDING: pending} if pending else counts


def _screen(asset: Row, config: CurationConfig, first: Mapping[str, str]) -> tuple[str, str] | None:
    if asset["bytes"] == 0:
        return "empty_file", "the file has no bytes"
    if config.licences and asset["licence"] not in config.licences:
        return "licence_not_allowed", f"licence '{asset['licence']}' is not one of {', '.join(config.licences)}"
    if asset["asset_id"] in first:
        return "duplicate_content", f"same content as {first[asset['asset_id']]}"
    return None


def _folder(out: str, digest: str) -> str:
    return storage.join(out, "ledger", digest)
