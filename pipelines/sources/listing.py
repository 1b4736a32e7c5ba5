"""A table of assets (Parquet or CSV) with their addresses, as Objaverse and Objaverse-XL publish them."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from pipelines.sources.base import AssetRef
from pipelines.sources.http import raw_address
from unipart import storage
from unipart.errors import UserError, did_you_mean
from unipart.geometry.formats.files import has_scheme

SUFFIXES = (".parquet", ".csv")
"""File name endings of listings."""
_COLUMNS = {"uri": ("uri", "fileIdentifier"), "sha256": ("sha256",), "licence": ("licence", "license")}
"""What is read, and the names that its column may have."""
_ROWS = 65536
"""Rows of a batch."""
_CSV_BLOCK = 1 << 22

Cells = tuple[str, str, str]
"""uri, sha256 and licence of a row; empty where absent."""


class ListingSource:
    """Assets by their addresses: https://, http://, s3://, or paths below the listing's own folder.

    Columns: ``uri`` (or ``fileIdentifier``, Objaverse-XL's name), and where they exist ``sha256`` and ``licence`` (or ``license``).
    A sha256 is the identity of the file without reading it; it is checked when the file is fetched, and covers no side files.
    A row without one is identified by fetching it.

    Args:
        spec: path or s3:// address of a .parquet or .csv file.

    Raises:
        UserError: there is no such file.
    """

    def __init__(self, spec: str) -> None:
        self.address = spec if storage.is_s3(spec) else Path(spec).resolve().as_posix()
        if not storage.exists(self.address):
            raise UserError(f"listing {spec} does not exist", "give a .parquet or .csv file with a column uri")

    def list_assets(self) -> Iterator[AssetRef]:
        """Yields the rows in their order.

        Raises:
            UserError: the file does not parse, a column is missing, there is no row, or a row has no uri, one that came before, a
                path that leaves the listing's folder, or a sha256 that is none.
        """
        name = PurePosixPath(self.address).stem
        seen: set[bytes] = set()
        number = 0
        for number, (uri, sha256, licence) in enumerate(self._rows(), start=1):
            self._check(number, uri, sha256)
            key = blake2b(uri.encode(), digest_size=12).digest()  # not the uri itself: there may be millions
            if key in seen:
                raise self._problem(number, f"uri {uri!r} came before", "list every asset once")
            seen.add(key)
            yield AssetRef(source=name, uri=uri, location=self._location(uri), licence=licence, sha256=sha256.lower())
        if number == 0:
            raise UserError(f"listing {self.address} has no rows", "give a row per asset")

    def _location(self, uri: str) -> str:
        return raw_address(uri) if has_scheme(uri) else storage.join(self.address.rpartition("/")[0], uri)

    def _check(self, number: int, uri: str, sha256: str) -> None:
        if not uri:
            raise self._problem(number, "column uri is empty", "give every row the address of its asset")
        if not has_scheme(uri) and (uri.startswith("/") or ".." in PurePosixPath(uri).parts):
            raise self._problem(number, f"uri {uri!r} leaves the listing's folder", "give paths below it, or full addresses")
        if sha256 and (len(sha256) != 64 or set(sha256.lower()) - set("0123456789abcdef")):
            raise self._problem(number, f"column sha256 holds {sha256[:80]!r}", "give 64 hexadecimal digits, or leave it empty")

    def _problem(self, number: int, what: str, fix: str) -> UserError:
        return UserError(f"listing {self.address}, row {number}: {what}", fix)

    def _rows(self) -> Iterator[Cells]:
        is_parquet = self.address.lower().endswith(".parquet")
        with _local_copy(self.address) as path:
            try:
                for batch in self._parquet(path) if is_parquet else self._csv(path):
                    yield from zip(*(_texts(batch, name) for name in _COLUMNS), strict=True)
            except (pa.ArrowException, OSError) as error:
                kind = "Parquet" if is_parquet else "CSV"
                raise UserError(f"listing {self.address} does not read as {kind}: {error}", f"write it as {kind} again") from None

    def _parquet(self, path: str) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(path) as file:
            columns = self._columns(file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=_ROWS, columns=list(columns)):
                yield batch.rename_columns([columns[name] for name in batch.schema.names])

    def _csv(self, path: str) -> Iterator[pa.RecordBatch]:
        read = pc.ReadOptions(block_size=_CSV_BLOCK)
        parse = pc.ParseOptions(newlines_in_values=True)
        with pc.open_csv(path, read_options=read, parse_options=parse) as reader:
            columns = self._columns(reader.schema.names)
        convert = pc.ConvertOptions(include_columns=list(columns), column_types=dict.fromkeys(columns, pa.string()))
        with pc.open_csv(path, read_options=read, parse_options=parse, convert_options=convert) as reader:
            for batch in reader:
                yield batch.rename_columns([columns[name] for name in batch.schema.names])

    def _columns(self, names: list[str]) -> dict[str, str]:
        """Returns which columns to read and what each is."""
        chosen: dict[str, str] = {}
        for meaning, spellings in _COLUMNS.items():
            present = [name for name in spellings if name in names]
            if len(present) > 1:
                raise UserError(f"listing {self.address} has the columns {' and '.join(present)}", "keep one of them")
            chosen |= dict.fromkeys(present, meaning)
        if "uri" not in chosen.values():
            hint = did_you_mean("uri", names)
            raise UserError(
                f"listing {self.address} has no column uri (or fileIdentifier); it has {', '.join(names)}.{hint}",
                "name the column of addresses uri",
            )
        return chosen


def _texts(batch: pa.RecordBatch, name: str) -> list[str]:
    if name not in batch.schema.names:
        return [""] * batch.num_rows
    values: list[Any] = batch.column(name).cast(pa.string()).to_pylist()
    return ["" if value is None else value.strip() for value in values]


@contextmanager
def _local_copy(address: str) -> Iterator[str]:
    """Gives a path to a file: Parquet is read from its end, which a stream cannot do."""
    if not storage.is_s3(address):
        yield address
        return
    with tempfile.NamedTemporaryFile(prefix="listing-") as copy:
        with storage.open_stream(address) as file:
            shutil.copyfileobj(file, copy)
        copy.flush()
        yield copy.name
